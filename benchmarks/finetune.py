"""What a few annotated images of a kind that `general` has never seen teach it, and what it forgets meanwhile.

    python benchmarks/finetune.py run --minutes 60                 what is not done yet, one run per core
    python benchmarks/finetune.py run --images 10 --rates 0.0002   one of the runs
    python benchmarks/finetune.py table                            all that were made

Runs go on from `general` with the first training images of one source, each at its highest rate of learning, all for
the same number of crops; the rest of the recipe is that of `cellbasin train --from general`. Every network is scored,
with the true diameter, on the validation images of that source and on some of the sources that `general` knows; so is
the mean of its weights and those it began with. Lines go to docs/results/finetune.jsonl.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from inputs import data_root
from recipes import passes
from report import command_line, markdown
from results import RESULTS
from short_runs import add_line, read_lines, run_apart

from cellbasin.datasets import limit_per_source, select_records
from cellbasin.evaluation import SHOWN, evaluate
from cellbasin.io import Record
from cellbasin.model import Model
from cellbasin.options import FLOW_THRESHOLD, Options
from cellbasin.training.folder import read_annotated
from cellbasin.training.generated import count_for, generated_images
from cellbasin.training.loop import train
from cellbasin.training.prepared import prepare_all
from cellbasin.training.recipe import RECIPES
from cellbasin.weights import Weights, load_weights

LINES = RESULTS / "finetune.jsonl"
SOURCE = "sartorius"  # the only one that `general` has not learned from
CROPS = 1_000
IMAGES = (1, 3, 10)
RATES = (2e-3, 5e-4, 2e-4, 5e-5)
BY_FLOW = Options(min_confidence=0, flow_threshold=FLOW_THRESHOLD)  # a tuned network has no confidence yet
KNOWN = 3  # validation images of each source that the network knows


def main() -> int:
    arguments = _arguments()
    if arguments.what == "table":
        print(table(read_lines(LINES)))
    elif arguments.what == "one":
        run_one(arguments.images[0], arguments.rates[0], arguments.crops, arguments.keep_norms)
    else:
        run_all(arguments)
    return 0


def run_all(arguments: argparse.Namespace) -> None:
    """Each run in a process of its own, `jobs` at a time; one that fails does not stop the others."""
    end = time.monotonic() + 60 * arguments.minutes
    done = {(line["images"], line["rate"], line["budget"], line["keep_norms"]) for line in read_lines(LINES)}

    def run(images: int, rate: float) -> None:
        if (images, rate, arguments.crops, arguments.keep_norms) in done or time.monotonic() > end:
            return
        words = ["one", "--images", str(images), "--rates", str(rate), "--crops", str(arguments.crops)]
        words += ["--keep-norms"] * arguments.keep_norms
        run_apart(__file__, words, arguments.jobs)

    pairs = [(images, rate) for images in arguments.images for rate in arguments.rates]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(run, *zip(*pairs, strict=True)))


def run_one(images: int, rate: float, budget: int, keep_norms: bool) -> None:
    """Train, score, and add a line to the file. rate 0: `general` as it is."""
    start = load_weights("general")
    started = time.perf_counter()
    crops, weights = (0, start) if rate == 0 else tuned(start, images, rate, budget, keep_norms)
    own = select_records(data_root(), "validation", sources=(SOURCE,))
    known = limit_per_source(select_records(data_root(), "validation", (SOURCE,)), KNOWN)
    line: dict[str, Any] = {"images": images, "rate": rate, "budget": budget, "crops": crops, "keep_norms": keep_norms}
    for name, network in {"tuned": weights, "mean": between(start, weights)}.items():
        line[name] = {"own": scores(network, own), "known": scores(network, known)}
    add_line(LINES, line | {"minutes": round((time.perf_counter() - started) / 60, 1)})


def tuned(start: Weights, images: int, rate: float, budget: int, keep_norms: bool) -> tuple[int, Weights]:
    """Crops that were seen and the network that was learned."""
    recipe = replace(RECIPES["tune"], minutes=0, learning_rate=rate, keep_norms=keep_norms, seed=1)
    records = select_records(data_root(), "train", sources=(SOURCE,))
    readers = [partial(read_annotated, record) for record in records[:images]]
    prepared = prepare_all(readers + generated_images(count_for(1)))
    recipe = replace(recipe, epochs=passes(recipe, images, budget))
    with tempfile.TemporaryDirectory(prefix="cellbasin-finetune-") as folder:
        out = train(prepared, start.card.architecture, recipe, Path(folder) / "tuned.safetensors", start=start)
        weights = load_weights(out)
    return weights.card.recipe["crops"], weights


def between(one: Weights, other: Weights) -> Weights:
    """The network half-way between two."""
    tensors = {name: (tensor + other.tensors[name]) / 2 for name, tensor in one.tensors.items()}
    return replace(other, tensors=tensors)


def scores(weights: Weights, records: list[Record]) -> list[float]:
    """AP over images at each threshold that is shown."""
    model = Model([weights], precision="float32")
    found = evaluate(model, records, diameter="true", options=BY_FLOW)
    return [round(found.at(t)[0].mean, 4) for t in SHOWN]


def table(lines: list[dict[str, Any]]) -> str:
    """Every run: what it finds of the new kind and of those it knew, after tuning and with the mean of both weights."""
    rows = []
    for line in sorted(lines, key=lambda line: (line["budget"], line["images"], -line["rate"], line["keep_norms"])):
        pairs = [line[which][what] for which in ("tuned", "mean") for what in ("own", "known")]
        shown = [" / ".join(f"{value:.3f}" for value in pair) for pair in pairs]
        norms = "kept" if line["keep_norms"] else "own"
        rows.append([str(line["images"]), f"{line['rate']:g}", norms, str(line["crops"]), *shown])
    settings = ["images", "rate", "statistics of norms", "crops"]
    return markdown([*settings, "new kind", "known", "mean of weights: new kind", "known"], rows)


def _arguments() -> argparse.Namespace:
    parser = command_line(__doc__)
    parser.add_argument("what", choices=("run", "one", "table"))
    parser.add_argument("--images", type=int, nargs="+", default=IMAGES, help="numbers of images to learn from")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="highest rates of learning")
    parser.add_argument("--crops", type=int, default=CROPS, help="that every run sees")
    parser.add_argument("--keep-norms", action="store_true", help="batch-norm statistics stay those of `general`")
    parser.add_argument("--minutes", type=float, default=140, help="after which no run is begun")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
