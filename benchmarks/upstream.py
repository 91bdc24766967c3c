"""The rival: its own environment, and our weights under its names; `parity.py` checks that both compute the same."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from workers import Worker

from cellbasin.foreign import exported, open_weights

HERE = Path(__file__).parent
ROOT = HERE.parent
DEFAULT_ENVIRONMENT = ROOT / ".venv-cellpose"
# numpy: the newest that cellpose 3.1.1.3 allows; torch: the same version as our training uses.
PACKAGES = ("torch==2.13.0", "cellpose==3.1.1.3", "numpy==2.0.2")


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
