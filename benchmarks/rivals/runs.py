"""A rival's training run on disk: log, time spent over all sessions, learning rate, and whether it has converged.

OUT/log.jsonl has one line a validation: {"step", "seconds", "loss", "ap50", ...}; seconds are of training alone, summed
over sessions: processor time divided by the machine's cores, so that what others use of the machine does not count.
A rival counts when its validation score rose by less than 0.005 over the last quarter of its training.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cellbasin.metrics import THRESHOLDS, average_precision
from cellbasin.options import NOT_ANNOTATED

CONVERGED = 0.005
VALIDATED = 6  # images of each source that are looked at in training
FEWEST = 4  # validations that a verdict needs
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
    parser.add_argument(
        "--precision", choices=("bf16", "float32"), help="of training; default: bf16 where the processor can"
    )
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
    words += [f"--{name}={value}" for name in ("limit", "precision") if (value := getattr(wanted, name)) is not None]
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


def train(
    wanted: argparse.Namespace,
    learn: Callable[[int, float], float],
    keep: Callable[[], None],
    validate: Callable[[], Mapping[str, float]],
) -> None:
    """Train until the time is spent, and print the validation curve.

    learn: takes the number of the step and the part of the time that is spent, 0..1; returns the loss. keep: writes
    what is needed to go on. validate: returns scores, "ap50" among them. Both are called every few minutes.
    """
    spent, log = wanted.out / "spent.json", wanted.out / "log.jsonl"
    step, seconds = json.loads(spent.read_text()) if spent.exists() else (0, 0.0)
    budget, losses = 60 * wanted.minutes, []
    due = seconds + 60 * wanted.every
    while seconds < budget:
        started = time.process_time()
        losses.append(learn(step, seconds / budget))
        step, seconds = step + 1, seconds + (time.process_time() - started) / (os.cpu_count() or 1)
        if seconds >= min(due, budget):
            keep()
            spent.write_text(json.dumps([step, seconds]))
            mean = sum(losses) / len(losses)
            append(wanted.out, {"step": step, "seconds": seconds, "loss": mean, **validate()})
            losses, due = [], seconds + 60 * wanted.every
    if not any(line["step"] == step for line in read_log(log)):  # stopped between the last step and its score
        append(wanted.out, {"step": step, "seconds": seconds, **validate()})
    print(verdict(read_log(log)))


def rate(step: int, progress: float, peak: float) -> float:
    """Learning rate: a linear warm-up, `peak`, and a linear fall over the last fifth of the time (progress 0..1).

    >>> rate(0, 0, 1.0), rate(10_000, 0.5, 1.0), round(rate(10_000, 0.9, 1.0), 3)
    (0.002, 1.0, 0.5)
    """
    return peak * min(1.0, (step + 1) / WARMUP) * min(1.0, max(0.0, 1 - progress) / COOLDOWN)


def last_rise(log: Sequence[Mapping[str, Any]], score: str = "ap50") -> float:
    """How much the best validation score rose over the last quarter of the training time; inf for too few to tell.

    >>> last_rise([{"seconds": 10 * n, "ap50": s} for n, s in enumerate([0, 0.5, 0.6, 0.7, 0.72])])
    0.02
    """
    points = [(line["seconds"], line[score]) for line in log if score in line]
    if len(points) < FEWEST:
        return math.inf
    end = points[-1][0]
    before = [value for seconds, value in points if seconds <= 0.75 * end]
    return round(max(value for _, value in points) - max(before), 6) if before else math.inf


def mean_precision(truths: Iterable[np.ndarray], found: Iterable[np.ndarray]) -> dict[str, float]:
    """Mean average precision of labels: "ap50", "ap75", "ap90"."""
    pairs = zip(truths, found, strict=True)
    means = np.mean([average_precision(truth, labels, THRESHOLDS, NOT_ANNOTATED) for truth, labels in pairs], axis=0)
    return {f"ap{round(100 * t)}": float(mean) for t, mean in zip(THRESHOLDS, means, strict=True)}


def predictions(wanted: argparse.Namespace) -> Path:
    """Where predicted labels go."""
    return wanted.out / ("predictions-true-diameter" if wanted.diameter == "true" else "predictions")


def tell_about(wanted: argparse.Namespace, title: str, settings: Mapping[str, Any]) -> None:
    """Write what `score.py` keeps beside the scores."""
    log = read_log(wanted.out / "log.jsonl")
    title += ", true diameter" if wanted.diameter == "true" else ""
    rise = last_rise(log)
    run = {"steps": log[-1]["step"], "rose_in_last_quarter": rise if math.isfinite(rise) else None}
    about = {"title": title, "training_hours": log[-1]["seconds"] / 3600, "settings": {**run, **settings}}
    (predictions(wanted) / "about.json").write_text(json.dumps(about, indent=1))


def verdict(log: Sequence[Mapping[str, Any]], score: str = "ap50") -> str:
    """The validation curve, and whether the rival counts."""
    points = [line for line in log if score in line]
    lines = [f"{line['seconds'] / 3600:6.2f} h  step {line['step']:7d}  {score} {line[score]:.4f}" for line in points]
    rise = last_rise(log, score)
    counts = "it has converged and counts" if rise < CONVERGED else "not converged: give it more --minutes"
    return "\n".join([*lines, f"rose by {rise:.4f} over the last quarter of training: {counts}"])
