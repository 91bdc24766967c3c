"""The rival: its own environment, and our weights under its names.

`python benchmarks/upstream.py` sets the environment up and checks that both programs' networks give the same numbers.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from workers import Worker, stage

from cellbasin.foreign import exported, open_weights

HERE = Path(__file__).parent
ROOT = HERE.parent
DEFAULT_ENVIRONMENT = ROOT / ".venv-cellpose"
# numpy: the newest that cellpose 3.1.1.3 allows; torch: the same version as our training uses.
PACKAGES = ("torch==2.13.0", "cellpose==3.1.1.3", "numpy==2.0.2")
TOLERANCE = 1e-4


def set_up(folder: Path = DEFAULT_ENVIRONMENT, packages: Sequence[str] = PACKAGES) -> Path:
    """Make a rival's environment where it is not there yet and return its Python.

    Raises subprocess.CalledProcessError when pip cannot install it.
    """
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    done = folder / "installed"
    if done.exists() and done.read_text() == "\n".join(packages):
        return python
    print(f"setting up {', '.join(packages)} in {folder} ...", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    done.write_text("\n".join(packages))
    return python


def start_theirs(python: Path, folder: Path) -> Worker:
    """A process of the rival."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return Worker([python, HERE / "theirs.py"], folder, environment)


def start_ours(folder: Path, **environment: str) -> Worker:
    """A process of this package."""
    return Worker([sys.executable, HERE / "ours.py"], folder, {**os.environ, **environment})


def export(weights_file: str | Path, target: Path) -> None:
    """Write one of our weights files as upstream's TARGET.pth and TARGET.pth_size.npy."""
    for name, data in exported(open_weights(weights_file), f"{target.name}.pth").items():
        target.with_name(name).write_bytes(data)


def largest_difference(ours: Worker, theirs: Worker, weights_file: Path, seed: int = 0) -> float:
    """Largest difference of the two float32 networks' outputs, relative to the outputs' spread."""
    target = theirs.folder / "verify"
    export(weights_file, target)
    theirs.call("load", name="verify", model=str(target))
    ours.call("load", name="verify", model=str(weights_file), precision="float32")
    tiles = np.random.default_rng(seed).random((2, 2, 96, 128), np.float32)
    path = stage(ours.folder, "verify-tiles", tiles=tiles)
    mine = ours.call("network", path, keep=True, name="verify").arrays
    differences = []
    for op in ("raw", "network"):
        other = theirs.call(op, path, keep=True, name="verify").arrays
        differences += [np.abs(mine[key] - other[key]).max() / other[key].std() for key in ("maps", "style")]
    return float(max(differences))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rival-env", type=Path, default=DEFAULT_ENVIRONMENT)
    parser.add_argument("--weights", type=Path, help="one of our paper-architecture files; default: random weights")
    arguments = parser.parse_args()
    python = set_up(arguments.rival_env)
    with tempfile.TemporaryDirectory() as folder, start_ours(Path(folder)) as ours:
        file = arguments.weights or Path(folder) / "random.safetensors"
        if not arguments.weights:
            ours.call("random_weights", path=str(file), network="paper", seed=1)
        with start_theirs(python, Path(folder)) as theirs:
            found = largest_difference(ours, theirs, file)
    print(f"largest difference {found:.1e} of the outputs' spread (allowed: {TOLERANCE:.0e})")
    return 0 if found <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
