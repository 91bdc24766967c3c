"""What in the training recipe helps: short runs from nothing that differ from a baseline in one setting.

    python benchmarks/recipes.py run --minutes 140         what is not done yet, in order, one run per core
    python benchmarks/recipes.py run --only contacts-4     one of them
    python benchmarks/recipes.py run --equal hours         those whose crops take longer or shorter than the baseline's
    python benchmarks/recipes.py table                     all that were run, against the spread of the baseline

Every run sees the same number of crops (of 160² and 224², cooled down over half of them) and is scored on the
validation images with the true diameter. Where a change makes crops cheaper or dearer, a second run takes as many as
fit into the baseline's hours of processor time. The baseline is run with three seeds: a change counts where it differs
from their mean by more than twice their standard deviation, both ways. Lines go to docs/results/recipes.jsonl.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from inputs import data_root
from report import command_line, markdown
from results import RESULTS
from short_runs import add_line, read_lines, run_apart

from cellbasin.datasets import select_records
from cellbasin.evaluation import SHOWN, evaluate
from cellbasin.generator import KINDS
from cellbasin.model import load_model
from cellbasin.training.folder import read_folder
from cellbasin.training.generated import COUNT, TURNS, generated_images
from cellbasin.training.loop import train
from cellbasin.training.prepared import prepare_all
from cellbasin.training.recipe import RECIPES, Recipe
from cellbasin.weights import HALF, PAPER, Architecture

LINES = RESULTS / "recipes.jsonl"
CROPS = 10_000
WARMUP = 100  # steps
LEAST = 30.0  # minutes of a session that are worth beginning a run, where no run has told how long one takes
ALIKE = 0.1  # a run whose crops cost this much more or less than the baseline's is not repeated at equal hours
TRANSMITTED = ("brightfield", "culture", "dic", "phase")


@dataclass(frozen=True)
class Change:
    """Settings of the recipe that differ from the baseline's; architecture: another network; without: kinds of
    generated images that are left out."""

    settings: dict[str, Any] = field(default_factory=dict)
    architecture: Architecture = HALF
    without: tuple[str, ...] = ()


CHANGES = {
    **{f"baseline-{seed}": Change({"seed": seed}) for seed in range(3)},
    "contacts-4": Change({"contacts": 4.0}),
    "generated-0": Change({"generated": 0.0}),
    "generated-10": Change({"generated": 0.1}),
    "generated-40": Change({"generated": 0.4}),
    "generated-to-the-end": Change({"generated_until": 1.0}),
    "generated-no-transmitted": Change(without=TRANSMITTED),
    "generated-transmitted-alone": Change(without=tuple(sorted(set(KINDS) - set(TRANSMITTED)))),
    "sources-alike": Change({"balance": 0.0}),
    "images-alike": Change({"balance": 1.0}),
    "anywhere": Change({"on_object": 0.0}),
    "scales-narrow": Change({"wide": 0.0}),
    "scales-wide": Change({"wide": 0.6}),
    "gray-levels-plain": Change({"gamma": 0.0, "contrast": 0.0}),
    "invert-0": Change({"invert": 0.0}),
    "blur-0": Change({"blur": 0.0, "coarse": 0.0}),
    "noise-0": Change({"noise": 0.0}),
    "planes-0": Change({"planes": 0.0}),
    "channels-plain": Change({"mix_rgb": 0.0, "drop_nucleus": 0.0}),
    "average-none": Change({"average": 0.0}),
    "crops-224": Change({"schedule": ((0.0, 224, 8),)}),
    "cooldown-20": Change({"cooldown": 0.2}),
    "rate-half": Change({"learning_rate": 1e-3}),
    "decay-100": Change({"weight_decay": 1.0}),
    "width-half-again": Change(architecture=replace(HALF, channels=(48, 96, 192, 384))),
    "width-three-quarters": Change(architecture=replace(HALF, channels=(24, 48, 96, 192))),
    "refine-0": Change(architecture=Architecture(refine=0)),
    "stem-1": Change(architecture=PAPER),
}


def main() -> int:
    arguments = _arguments()
    if arguments.what == "table":
        print(table(read_lines(LINES)))
    elif arguments.what == "one":
        run_one(arguments.only[0], arguments.crops, arguments.equal)
    else:
        run_all(arguments.only or list(CHANGES), arguments)
    return 0


def run_all(names: Sequence[str], arguments: argparse.Namespace) -> None:
    """Each run in a process of its own, `jobs` at a time; one that fails does not stop the others."""
    end = time.monotonic() + 60 * arguments.minutes
    lines = [line for line in read_lines(LINES) if line["budget"] == arguments.crops]
    done = {line["name"] for line in lines if line["equal"] == arguments.equal}
    least = max((line["minutes"] for line in lines), default=LEAST)

    def run(name: str) -> None:
        if name in done or (end - time.monotonic()) / 60 < least:
            return
        if arguments.equal == "hours" and not _differs(cost(name, lines)):
            return
        words = ["one", "--only", name, "--crops", str(arguments.crops), "--equal", arguments.equal]
        run_apart(__file__, words, arguments.jobs)

    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(run, names))


def cost(name: str, lines: Sequence[dict[str, Any]]) -> float:
    """Processor time of a crop in parts of the baseline's, of runs at equal crops; NaN where one was not made."""
    at_crops = [line for line in lines if line["equal"] == "crops"]
    own = [line["core_hours"] / line["crops"] for line in at_crops if line["name"] == name]
    base = [line["core_hours"] / line["crops"] for line in at_crops if line["name"].startswith("baseline")]
    return own[-1] / float(np.mean(base)) if own and base else math.nan


def _differs(ratio: float) -> bool:
    return abs(ratio - 1) > ALIKE


def run_one(name: str, budget: int, equal: str) -> None:
    """Train, score, and add a line to the file. budget: crops of the baseline."""
    change = CHANGES[name]
    ratio = cost(name, [line for line in read_lines(LINES) if line["budget"] == budget]) if equal == "hours" else 1.0
    if math.isnan(ratio):
        raise SystemExit(f"{name}: found no run of it and of the baseline at equal crops; expected these first")
    recipe = replace(RECIPES["general"], name=name, minutes=0, warmup=WARMUP, **change.settings)
    readers = read_folder(data_root(), "train", recipe.exclude)
    drawn = generated_images(COUNT, kinds=[kind for kind in TURNS if kind not in change.without])
    images = prepare_all(readers + (drawn if recipe.generated else []))
    recipe = replace(recipe, epochs=passes(recipe, len(readers), budget / ratio))
    records = select_records(data_root(), "validation", recipe.exclude)
    started, used = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory(prefix="cellbasin-recipes-") as folder:
        out = train(images, change.architecture, recipe, Path(folder) / f"{name}.safetensors")
        hours = (time.process_time() - used) / 3600
        model = load_model(out)
        found = evaluate(model, records, diameter="true")
    line = {
        "name": name,
        "equal": equal,
        "budget": budget,
        "steps": model.card.recipe["steps"],
        "crops": model.card.recipe["crops"],
        "core_hours": round(hours, 4),
        **{f"ap{round(100 * t)}": [round(interval.mean, 4) for interval in found.at(t)] for t in SHOWN},
        "minutes": round((time.perf_counter() - started) / 60, 1),
    }
    add_line(LINES, line)


def passes(recipe: Recipe, images: int, crops: float) -> float:
    """What `Recipe.epochs` must be for a run of so many crops: the loop counts passes in batches of the last stage."""
    begins = [*(begin for begin, _, _ in recipe.schedule), 1.0]
    parts = zip(begins, begins[1:], recipe.schedule, strict=False)
    a_step = sum((end - begin) * count for begin, end, (_, _, count) in parts)
    return round(crops / a_step) / max(1, images // recipe.schedule[-1][2])


def table(lines: Sequence[dict[str, Any]]) -> str:
    """Every run beside the baseline's mean; bold where the difference is more than twice its standard deviation."""
    rows = []
    for budget in sorted({line["budget"] for line in lines}):
        same = [line for line in lines if line["budget"] == budget]
        base = [_scores(line) for line in same if line["name"].startswith("baseline")]
        mean = np.mean(base, axis=0) if base else np.full(2 * len(SHOWN), np.nan)
        spread = np.std(base, axis=0, ddof=1) if len(base) > 1 else np.full(2 * len(SHOWN), np.inf)
        shown = [f"{m:.3f} ± {s:.3f}" for m, s in zip(mean, spread, strict=True)]
        rows.append([f"**baseline ({len(base)} runs, mean ± SD)**", "", str(budget), "", *shown])
        for line in sorted(same, key=lambda line: line["equal"]):
            marks = ["**" if abs(v - m) > 2 * s else "" for v, m, s in zip(_scores(line), mean, spread, strict=True)]
            shown = [f"{mark}{value:.3f}{mark}" for value, mark in zip(_scores(line), marks, strict=True)]
            rows.append([line["name"], line["equal"], str(line["crops"]), f"{line['core_hours']:.2f}", *shown])
    header = ["run", "equal", "crops", "core hours"]
    header += [f"AP@{t} over {what}" for t in SHOWN for what in ("images", "sources")]
    return markdown(header, rows)


def _scores(line: dict[str, Any]) -> list[float]:
    return [value for t in SHOWN for value in line[f"ap{round(100 * t)}"]]


def _arguments() -> argparse.Namespace:
    parser = command_line(__doc__)
    parser.add_argument("what", choices=("run", "one", "table"))
    parser.add_argument("--only", nargs="+", default=[], choices=CHANGES, metavar="NAME", help="these runs")
    parser.add_argument("--crops", type=int, default=CROPS, help="that the baseline sees")
    parser.add_argument("--equal", choices=("crops", "hours"), default="crops", help="what all runs have in common")
    parser.add_argument("--minutes", type=float, default=140, help="length of this session")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
