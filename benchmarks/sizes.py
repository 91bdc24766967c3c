"""How well diameters are found, by the size model alone and refined by what is found, and what they are worth.

    python benchmarks/sizes.py                         the shipped model on the test split
    python benchmarks/sizes.py --split validation      images split off the training images

Writes output/sizes.md and, for `benchmarks/figures.py`, sizes-NAME.json: of the test split to docs/results/.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from inputs import data_root
from looks import log_look
from report import BOTH_MEANS, OUTPUT, both_means, command_line, markdown, publish, say
from results import RESULTS

from cellbasin import size
from cellbasin.datasets import channels_of, read_pair, select_records
from cellbasin.evaluation import Evaluation, ImageScore, evaluate
from cellbasin.intensity import select_channels
from cellbasin.io import Record
from cellbasin.model import Model, load_model

NEAR = 1.35
FIXED = 30.0


def main() -> int:
    arguments = _arguments()
    model = load_model(arguments.model)
    records = select_records(data_root(), arguments.split)
    say(f"{len(records)} images of {arguments.split}")
    counts: list[int] = []
    automatic = evaluate(model, records, report=lambda record, found: counts.append(len(found)))
    single = [from_style(model, record) for record in records]
    ways = {
        "automatic": automatic,
        "automatic, the second pass always": always_twice(model, records),
        "once per source": once(model, records, automatic, counts),
        "true": evaluate(model, records, diameter="true"),
        f"{FIXED:g} px": evaluate(model, records, diameter=FIXED),
    }
    if arguments.split == "test":
        for name, found in ways.items():
            log_look(model, found, name)
    text = "\n\n".join([size_table(automatic.images, single), diameter_table(ways)]) + "\n"
    publish(arguments.out / "sizes.md", text)
    name = f"sizes-{model.card.name}.json"
    points = RESULTS / name if arguments.split == "test" else arguments.out / name
    points.write_text(json.dumps(as_points(automatic.images, single)))
    return 0


def from_style(model: Model, record: Record) -> float:
    """The size model's estimate alone (paper: the first step), pixels."""
    image, _ = read_pair(record)
    pixels = select_channels(image, channels_of(record, image))
    regression = size.SizeModel.from_card(model.card.size_model, model.card.architecture.channels[-1])
    if regression is None:
        raise SystemExit(f"{model.card.name} has no size model")
    return size.diameter_from_style(regression, lambda diameter: model.style(pixels, diameter))


def always_twice(model: Model, records: Sequence[Record]) -> Evaluation:
    """Never content with the first segmentation, even where its diameter turned out to fit."""
    content = size.fits
    size.fits = lambda estimated, found: False
    try:
        return evaluate(model, records)
    finally:
        size.fits = content


def once(model: Model, records: Sequence[Record], automatic: Evaluation, counts: Sequence[int]) -> Evaluation:
    """One diameter for all images of a source, as `--diameter once` takes it for a folder."""
    images: list[ImageScore] = []
    for source in automatic.sources:
        members = [k for k, image in enumerate(automatic.images) if image.source == source]
        diameter = size.common_diameter([(counts[k], automatic.images[k].diameter) for k in members])
        images += evaluate(model, [records[k] for k in members], diameter=diameter).images
    return Evaluation(tuple(images))


def size_table(images: Sequence[ImageScore], single: Sequence[float]) -> str:
    """Correlation, median error and part that is near, by source and together; single step / refined."""
    sources = sorted({image.source for image in images})
    rows = []
    for name in [*sources, "all"]:
        chosen = [k for k, image in enumerate(images) if name in (image.source, "all") and image.true_diameter > 0]
        true = np.array([images[k].true_diameter for k in chosen])
        steps = (np.array([single[k] for k in chosen]), np.array([images[k].diameter for k in chosen]))
        pairs = zip(*(_row(true, estimated) for estimated in steps), strict=True)
        rows.append([name, str(len(chosen)), *(" / ".join(pair) for pair in pairs)])
    header = ["source", "images", "correlation", "median |log2(estimated / true)|", f"within a factor of {NEAR}"]
    return f"## Diameters: from the style alone / refined\n\n{markdown(header, rows)}"


def _row(true: np.ndarray, estimated: np.ndarray) -> tuple[str, str, str]:
    error = np.abs(np.log2(estimated / true))
    correlation = np.corrcoef(true, estimated)[0, 1] if len(true) > 2 else math.nan
    return (
        f"{correlation:.2f}" if math.isfinite(correlation) else "-",
        f"{np.median(error):.2f}",
        f"{(error <= math.log2(NEAR)).mean():.0%}",
    )


def diameter_table(ways: dict[str, Evaluation]) -> str:
    """AP and seconds by where the diameter comes from."""
    rows = []
    for name, found in ways.items():
        rows.append(
            [name, *both_means(found), f"{sum(image.seconds for image in found.images) / len(found.images):.3f}"]
        )
    header = ["diameter", *BOTH_MEANS, "seconds per image"]
    return f"## What the diameter is worth\n\n{markdown(header, rows)}"


def as_points(images: Sequence[ImageScore], single: Sequence[float]) -> list[dict[str, float | str]]:
    """One entry an image, for the scatter plot."""
    return [
        {"source": image.source, "true": image.true_diameter, "single": estimate, "refined": image.diameter}
        for image, estimate in zip(images, single, strict=True)
        if image.true_diameter > 0
    ]


def _arguments() -> argparse.Namespace:
    parser = command_line(__doc__)
    parser.add_argument("--model", default="general", help="a shipped model or a weights file")
    parser.add_argument("--split", default="test", choices=("test", "validation"))
    parser.add_argument("--out", type=Path, default=OUTPUT)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
