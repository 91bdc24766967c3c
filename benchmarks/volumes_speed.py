"""Time and peak memory of volumes against cellpose 3.1.1.3 `do_3D`, each in a fresh process, on the same voxels.

    python benchmarks/volumes_speed.py                           64³ and 128³ in both, 256³ and 512x512x256 in ours
    python benchmarks/volumes_speed.py --sizes 64,128 --rival-sizes 64
    python benchmarks/volumes_speed.py --paper-weights FILE      a trained network of the paper's kind, for both

The rival runs our weights of its own architecture (random ones where none are given), we the same and our default.
Volumes are generated, of nuclei 30 px wide, and the diameter is given, so neither program resizes. Each program first
segments a small volume, which loads and compiles what it needs. With --memory GB ours is run once more so limited.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from report import command_line, markdown, say
from upstream import DEFAULT_ENVIRONMENT, export, set_up, start_ours, start_theirs
from workers import Worker, stage

from cellbasin.generator import generate_volume

OUTPUT = Path(__file__).parent.parent / "output" / "benchmarks"
DIAMETER = 30.0
BLOCK = 64  # the volume is made of such blocks, generated once
_COMPARED = ("seconds", "processor_seconds", "peak_mib")
DEPTHS = {512: 256}  # planes, where not as many as rows


@dataclass(frozen=True)
class Run:
    """One program on one volume; processor_seconds: of all threads, the better measure where others use the machine."""

    shape: tuple[int, int, int]
    program: str
    seconds: float
    processor_seconds: float
    peak_mib: float
    objects: int


def volume_of(shape: tuple[int, int, int]) -> np.ndarray:
    """Nuclei in a volume of any size, uint16."""
    block = generate_volume((BLOCK,) * 3, diameter=DIAMETER, density=0.2, seed=1).image[0]
    return np.ascontiguousarray(np.tile(block, [-(-n // BLOCK) for n in shape])[tuple(slice(n) for n in shape)])


def measure(
    start: Callable[[], Worker], folder: Path, shape: tuple[int, int, int], program: str, **arguments: float
) -> Run:
    """A small volume, then the one of this shape."""
    small, large = (stage(folder, f"volume-{n}", volume=volume_of(s)) for n, s in enumerate(((16,) * 3, shape)))
    with closing(start()) as worker:
        worker.call("segment_volume", small, name="net", diameter=DIAMETER, **arguments)
        before = float(worker.call("processor_time", keep=True).arrays["seconds"])
        answer = worker.call("segment_volume", large, keep=True, name="net", diameter=DIAMETER, **arguments)
        used = float(worker.call("processor_time", keep=True).arrays["seconds"]) - before
        peak = int(worker.call("peak", keep=True).arrays["bytes"]) / 2**20
    objects = int(answer.arrays["labels"].max())
    run = Run(shape, program, round(answer.seconds, 2), round(used, 2), round(peak), objects)
    say(f"{run}")
    return run


def starters(folder: Path, arguments: argparse.Namespace) -> dict[str, Callable[[], Worker]]:
    """How to start each program with its network loaded."""
    paper = arguments.paper_weights or folder / "random.safetensors"
    if not arguments.paper_weights:
        with closing(start_ours(folder)) as worker:
            worker.call("random_weights", path=str(paper), network="paper", seed=1)

    def ours(model: str) -> Worker:
        worker = start_ours(folder)
        worker.call("load", name="net", model=model)
        return worker

    def theirs() -> Worker:
        worker = start_theirs(set_up(arguments.rival_env), folder)
        worker.call("load", name="net", model=str(folder / "paper"))
        return worker

    found = {"cellbasin": lambda: ours(arguments.model), "cellbasin, the paper's network": lambda: ours(str(paper))}
    if arguments.rival_sizes:
        export(paper, folder / "paper")
        found["cellpose"] = theirs
    return found


def table(runs: list[Run]) -> str:
    """Markdown, with ratios to the rival on the same volume."""
    rivals = {run.shape: run for run in runs if run.program == "cellpose"}
    lines = []
    for run in runs:
        rival = rivals.get(run.shape)
        ratios = [f"{getattr(rival, part) / getattr(run, part):.1f}×" if rival else "" for part in _COMPARED]
        shape = " x ".join(map(str, run.shape))
        times = [f"{run.seconds:.4g} s", f"{run.processor_seconds:.4g} s", f"{run.peak_mib:.0f} MiB"]
        lines.append([shape, run.program, *times, *ratios, str(run.objects)])
    ratio_names = ["rival / this: time", "processor time", "memory"]
    return markdown(["volume", "program", "time", "processor time", "peak memory", *ratio_names, "objects"], lines)


def _numbers(text: str) -> list[int]:
    return [int(n) for n in text.split(",") if n]


def main() -> int:
    parser = command_line(__doc__)
    parser.add_argument("--sizes", type=_numbers, default=[64, 128, 256, 512], help="ours")
    parser.add_argument("--rival-sizes", type=_numbers, default=[64, 128], help="those also run in the rival")
    parser.add_argument("--memory", type=float, help="GB: ours once more with this limit")
    parser.add_argument("--model", default="general", help="our default: a shipped model or a weights file")
    parser.add_argument("--paper-weights", type=Path, help="weights file of the paper's network, used on both sides")
    parser.add_argument("--rival-env", type=Path, default=DEFAULT_ENVIRONMENT, help="its virtual environment")
    parser.add_argument("--out", type=Path, default=OUTPUT, help="folder for volumes-speed.json and .md")
    arguments = parser.parse_args()
    runs: list[Run] = []
    with tempfile.TemporaryDirectory(prefix="cellbasin-volumes-") as name:
        folder = Path(name)
        programs = starters(folder, arguments)
        for size in arguments.sizes:
            shape = (DEPTHS.get(size, size), size, size)
            for program, start in programs.items():
                both = size in arguments.rival_sizes
                if both or program == "cellbasin":
                    runs.append(measure(start, folder, shape, program))
            if arguments.memory:
                label = f"cellbasin, --memory {arguments.memory:g}"
                runs.append(measure(programs["cellbasin"], folder, shape, label, memory=arguments.memory))
            arguments.out.mkdir(parents=True, exist_ok=True)
            (arguments.out / "volumes-speed.json").write_text(json.dumps([asdict(run) for run in runs], indent=1))
            (arguments.out / "volumes-speed.md").write_text(table(runs) + "\n")
    print(table(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
