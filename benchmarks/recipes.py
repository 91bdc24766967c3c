"""What in the training recipe helps: short runs from nothing that differ from a baseline in one setting.

    python benchmarks/recipes.py run --minutes 140         what is not done yet, in order, one run per core
    python benchmarks/recipes.py run --only contacts-4     one of them
    python benchmarks/recipes.py table                     all that were run, against the spread of the baseline

Every run makes the same number of steps (crops of 160² and 224², cooled down over half of them) and is scored on the
validation images with the true diameter. The baseline is run with three seeds: a change counts where it differs from
their mean by more than twice their standard deviation. Lines go to docs/results/recipes.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from inputs import data_root
from report import command_line, markdown, say
from results import RESULTS

from cellbasin.engines.hardware import find_hardware
from cellbasin.evaluation import SHOWN, evaluate
from cellbasin.model import load_model
from cellbasin.training.dataset import prepare_all
from cellbasin.training.folder import read_folder, select_records
from cellbasin.training.generated import COUNT, generated_images
from cellbasin.training.loop import train
from cellbasin.training.recipe import RECIPES, Recipe
from cellbasin.weights import HALF, Architecture

LINES = RESULTS / "recipes.jsonl"
STEPS = 800
LEAST = 30.0  # minutes of a session that are worth beginning a run


@dataclass(frozen=True)
class Change:
    """Settings of the recipe that differ from the baseline's; architecture: another network."""

    settings: dict[str, Any] = field(default_factory=dict)
    architecture: Architecture = HALF


CHANGES = {
    **{f"baseline-{seed}": Change({"seed": seed}) for seed in range(3)},
    "contacts-4": Change({"contacts": 4.0}),
    "generated-0": Change({"generated": 0.0}),
    "generated-30": Change({"generated": 0.3}),
    "anywhere": Change({"on_object": 0.0}),
    "scales-narrow": Change({"wide": 0.0}),
    "scales-wide": Change({"wide": 0.6}),
    "gray-levels-plain": Change({"gamma": 0.0, "contrast": 0.0, "invert": 0.0}),
    "blur-noise-none": Change({"blur": 0.0, "noise": 0.0, "coarse": 0.0}),
    "planes-0": Change({"planes": 0.0}),
    "channels-plain": Change({"mix_rgb": 0.0, "drop_nucleus": 0.0}),
    "average-none": Change({"average": 0.0}),
    "crops-224": Change({"schedule": ((0.0, 224, 8),)}),
    "cooldown-20": Change({"cooldown": 0.2}),
    "rate-half": Change({"learning_rate": 1e-3}),
    "decay-100": Change({"weight_decay": 1.0}),
    "width-half-again": Change(architecture=replace(HALF, channels=(48, 96, 192, 384))),
    "width-three-quarters": Change(architecture=replace(HALF, channels=(24, 48, 96, 192))),
    "stem-1": Change(architecture=Architecture(stem=1, refine=0)),
}


def main() -> int:
    arguments = _arguments()
    if arguments.what == "table":
        print(table(read_lines()))
    elif arguments.what == "one":
        run_one(arguments.only[0], arguments.steps)
    else:
        run_all(arguments.only or list(CHANGES), arguments)
    return 0


def run_all(names: Sequence[str], arguments: argparse.Namespace) -> None:
    """Each run in a process of its own, `jobs` at a time."""
    end = time.monotonic() + 60 * arguments.minutes
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // arguments.jobs))}
    done = {line["name"] for line in read_lines() if line["steps"] == arguments.steps}

    def run(name: str) -> None:
        if name in done or (end - time.monotonic()) / 60 < LEAST:
            return
        words = ["one", "--only", name, "--steps", str(arguments.steps)]
        subprocess.run([sys.executable, __file__, *words], env=environment, check=True)

    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(run, names))


def run_one(name: str, steps: int) -> None:
    """Train, score, and add a line to the file."""
    change = CHANGES[name]
    recipe = replace(RECIPES["general"], name=name, minutes=0, epochs=1, **change.settings)
    readers = read_folder(data_root(), "train", recipe.exclude)
    readers += generated_images(COUNT) if recipe.generated else []
    images = prepare_all(readers)
    records = select_records(data_root(), "validation", recipe.exclude)
    started, used = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory(prefix="cellbasin-recipes-") as folder:
        out = Path(folder) / f"{name}.safetensors"
        _train(images, change.architecture, recipe, steps, out)
        hours = (time.process_time() - used) / 3600
        model = load_model(out)
        found = evaluate(model, records, diameter="true")
    line = {
        "name": name,
        "steps": steps,
        "crops": model.card.recipe["crops"],
        "core_hours": round(hours, 3),
        **{f"ap{round(100 * t)}": [round(interval.mean, 4) for interval in found.at(t)] for t in SHOWN},
        "date": datetime.now(UTC).date().isoformat(),
        "processor": find_hardware().processor,
        "minutes": round((time.perf_counter() - started) / 60, 1),
    }
    with LINES.open("a") as file:
        file.write(json.dumps(line) + "\n")
    say(json.dumps(line))


def _train(images: Sequence[Any], architecture: Architecture, recipe: Recipe, steps: int, out: Path) -> None:
    """A run of so many steps: its length is given in passes over the images, as many as come nearest."""
    each = max(1, len(images) // recipe.schedule[-1][2])
    whole = replace(recipe, epochs=max(1, round(steps / each)), warmup=100)
    train(images, architecture, whole, out)


def read_lines() -> list[dict[str, Any]]:
    """All that was run."""
    return [json.loads(line) for line in LINES.read_text().splitlines()] if LINES.exists() else []


def table(lines: Sequence[dict[str, Any]]) -> str:
    """Every run beside the baseline's mean; bold where the difference is more than twice its standard deviation."""
    rows = []
    for steps in sorted({line["steps"] for line in lines}):
        same = [line for line in lines if line["steps"] == steps]
        base = [_scores(line) for line in same if line["name"].startswith("baseline")]
        mean = np.mean(base, axis=0) if base else np.full(2 * len(SHOWN), np.nan)
        spread = np.std(base, axis=0, ddof=1) if len(base) > 1 else np.full(2 * len(SHOWN), np.inf)
        shown = [f"{m:.3f} ± {s:.3f}" for m, s in zip(mean, spread, strict=True)]
        rows.append([f"**baseline ({len(base)} runs, mean ± SD)**", str(steps), "", "", *shown])
        for line in same:
            marks = ["**" if abs(v - m) > 2 * s else "" for v, m, s in zip(_scores(line), mean, spread, strict=True)]
            shown = [f"{mark}{value:.3f}{mark}" for value, mark in zip(_scores(line), marks, strict=True)]
            rows.append([line["name"], str(steps), str(line["crops"]), f"{line['core_hours']:.2f}", *shown])
    header = ["run", "steps", "crops", "core hours"]
    header += [f"AP@{t} over {what}" for t in SHOWN for what in ("images", "sources")]
    return markdown(header, rows)


def _scores(line: dict[str, Any]) -> list[float]:
    return [value for t in SHOWN for value in line[f"ap{round(100 * t)}"]]


def _arguments() -> argparse.Namespace:
    parser = command_line(__doc__)
    parser.add_argument("what", choices=("run", "one", "table"))
    parser.add_argument("--only", nargs="+", default=[], choices=CHANGES, metavar="NAME", help="these runs")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--minutes", type=float, default=140, help="length of this session")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
