"""Speed and memory of cellbasin against cellpose 3.1.1.3, measured in one run, in turn.

    python benchmarks/speed.py                      everything (about 8 minutes)
    python benchmarks/speed.py --quick              small sizes (about 2 minutes)
    python benchmarks/speed.py --only network,conversions
    python benchmarks/speed.py --paper-weights FILE    trained weights of the paper's network, for both programs

docs/benchmarks.md explains the figures.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fresh
import sections
from bench import Bench, Row, row_table
from report import command_line, say
from upstream import DEFAULT_ENVIRONMENT, set_up
from workers import Worker

OUTPUT = Path(__file__).parent.parent / "output" / "benchmarks"


@dataclass(frozen=True)
class Section:
    """title · run: measures · table: makes Markdown of what was measured."""

    title: str
    run: Callable[[Bench], list[Any]]
    table: Callable[[list[Any]], str] = row_table


SECTIONS = {
    "network": Section("Network", sections.network),
    "conversions": Section("Labels and flows", sections.conversions),
    "pipeline": Section("Whole pipeline", sections.pipeline),
    "memory": Section("Peak memory", fresh.memory, fresh.memory_table),
    "startup": Section("Start-up", fresh.startup),
    "scaling": Section("Growth with the image", fresh.scaling, fresh.scaling_table),
}


def main() -> int:
    arguments = _arguments()
    wanted = arguments.only or list(SECTIONS)
    started = time.perf_counter()
    rival = None if arguments.no_rival else set_up(arguments.rival_env)
    with tempfile.TemporaryDirectory(prefix="cellbasin-speed-") as folder:
        bench = Bench(Path(folder), rival, arguments.quick, arguments.model, arguments.paper_weights)
        try:
            about = {"cellbasin": _about(bench.ours), "cellpose": _about(bench.theirs)}
            report = [_heading(about, arguments.quick)]
            results: dict[str, Any] = {"about": about, "quick": arguments.quick, "sections": {}}
            for name in wanted:
                say(f"{SECTIONS[name].title} ({time.perf_counter() - started:.0f} s)")
                found = SECTIONS[name].run(bench)
                results["sections"][name] = [row.as_dict() if isinstance(row, Row) else row for row in found]
                report.append(f"## {SECTIONS[name].title}\n\n{SECTIONS[name].table(found)}\n")
                _write(arguments.out, results, report)
        finally:
            bench.close()
    print("\n".join(report))
    say(f"written to {arguments.out} after {time.perf_counter() - started:.0f} s")
    return 0


def _arguments() -> argparse.Namespace:
    parser = command_line(__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes and few repeats")
    parser.add_argument("--only", type=_section_names, help=f"of {','.join(SECTIONS)}")
    parser.add_argument("--model", default="general", help="our default: a shipped model or a weights file")
    parser.add_argument("--paper-weights", type=Path, help="weights file of the paper's network, used on both sides")
    parser.add_argument("--rival-env", type=Path, default=DEFAULT_ENVIRONMENT, help="its virtual environment")
    parser.add_argument("--no-rival", action="store_true", help="measure cellbasin alone")
    parser.add_argument("--out", type=Path, default=OUTPUT, help="folder for speed.json and speed.md")
    return parser.parse_args()


def _section_names(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in SECTIONS:
            raise argparse.ArgumentTypeError(f"{name!r}: expected some of {','.join(SECTIONS)}")
    return names


def _about(worker: Worker | None) -> dict[str, str]:
    if worker is None:
        return {}
    return {key: str(value) for key, value in worker.call("about", keep=True).arrays.items()}


def _heading(about: dict[str, dict[str, str]], quick: bool) -> str:
    ours, theirs = dict(about["cellbasin"]), about["cellpose"]
    processor, features = ours.pop("processor"), ours.pop("features")
    sides = (", ".join(f"{key} {value}" for key, value in side.items()) for side in (ours, theirs) if side)
    mode = "quick" if quick else "full"
    return f"Processor: {processor} ({features}), {mode} run. {' · '.join(sides)}.\n"


def _write(folder: Path, results: dict[str, Any], report: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "speed.json").write_text(json.dumps(results, indent=1))
    (folder / "speed.md").write_text("\n".join(report))


if __name__ == "__main__":
    sys.exit(main())
