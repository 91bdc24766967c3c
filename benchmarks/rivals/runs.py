"""A rival's training run on disk: log, time spent over all sessions, learning rate, and whether it has converged.

OUT/log.jsonl has one line a validation: {"step", "seconds", "loss", "ap50", ...}; seconds are of training alone, summed
over sessions. A rival counts when its validation score rose by less than 0.005 over the last quarter of its training.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CONVERGED = 0.005
COOLDOWN = 0.2  # last part of the time in which the learning rate falls to nothing
WARMUP = 500  # steps


def options() -> argparse.ArgumentParser:
    """What `run.py` and every learned rival's script take."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--out", type=Path, help="folder of the run, gone on with; default: output/rivals/RIVAL")
    parser.add_argument("--minutes", type=float, default=180, help="of training, over all sessions together")
    parser.add_argument("--only", nargs="*", default=[], help="these sources alone")
    parser.add_argument("--bright", action="store_true", help="only images with objects brighter than what is around")
    parser.add_argument("--limit", type=int, help="at most so many images of each source: to try the script out")
    parser.add_argument("--diameter", choices=("auto", "true"), default="auto", help="predict with the true diameter?")
    parser.add_argument("--every", type=float, default=10, help="minutes of training from validation to validation")
    return parser


def arguments(description: str | None) -> argparse.Namespace:
    """Of a rival's script."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[options()]
    )
    parser.add_argument("stage", choices=("train", "predict"))
    return parser.parse_args()


def handed_on(wanted: argparse.Namespace) -> list[str]:
    """The words that make a rival's script see the same options."""
    words = [f"--{name}={getattr(wanted, name)}" for name in ("out", "minutes", "every", "diameter")]
    words += [f"--limit={wanted.limit}"] if wanted.limit is not None else []
    words += ["--bright"] if wanted.bright else []
    return [*words, *(["--only", *wanted.only] if wanted.only else [])]


def append(folder: Path, line: Mapping[str, Any]) -> None:
    """Add a line to the log and show it."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({k: round(v, 5) if isinstance(v, float) else v for k, v in line.items()})
    with (folder / "log.jsonl").open("a") as file:
        file.write(text + "\n")
    print(text, file=sys.stderr, flush=True)


def read_log(path: Path) -> list[dict[str, Any]]:
    """All lines of a log."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def rate(step: int, seconds: float, budget: float, peak: float) -> float:
    """Learning rate: a linear warm-up, `peak`, and a linear fall over the last fifth of the time."""
    left = max(0.0, 1 - seconds / budget)
    return peak * min(1.0, (step + 1) / WARMUP) * min(1.0, left / COOLDOWN)


def last_rise(log: Sequence[Mapping[str, Any]], score: str = "ap50") -> float:
    """How much the best validation score rose over the last quarter of the training time.

    >>> last_rise([{"seconds": 10 * n, "ap50": s} for n, s in enumerate([0, 0.5, 0.6, 0.7, 0.72])])
    0.02
    """
    points = [(line["seconds"], line[score]) for line in log if score in line]
    if len(points) < 2:
        return float("inf")
    end = points[-1][0]
    before = [value for seconds, value in points if seconds <= 0.75 * end]
    return round(max(value for _, value in points) - max(before), 6) if before else float("inf")


def verdict(log: Sequence[Mapping[str, Any]], score: str = "ap50") -> str:
    """The validation curve, and whether the rival counts."""
    points = [line for line in log if score in line]
    lines = [f"{line['seconds'] / 3600:6.2f} h  step {line['step']:7d}  {score} {line[score]:.4f}" for line in points]
    rise = last_rise(log, score)
    counts = "it has converged and counts" if rise < CONVERGED else "not converged: give it more --minutes"
    return "\n".join([*lines, f"rose by {rise:.4f} over the last quarter of training: {counts}"])
