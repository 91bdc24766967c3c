"""All methods side by side, from docs/results/ alone: writes docs/comparison.md.

    python benchmarks/compare.py

Average precision on the same test images, by method and source, with 95 % bootstrap intervals over images; differences
of `general` from the others by pairs of the same images; seconds per image and hours of training.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from report import command_line, markdown, say
from results import RESULTS, MethodResult, load_all

from cellbasin.evaluation import SHOWN
from cellbasin.metrics import bootstrap_interval

TABLE = Path(__file__).parent.parent / "docs" / "comparison.md"
NUCLEI = ("dsb2018", "isbi2009")
HEAD = """# Methods on the same test images

Written by `python benchmarks/compare.py` from [results/](results/), where every image's counts are; how each method
was trained and run is in `benchmarks/rivals/` and benchmarks/README.md. Average precision TP / (TP + FP + FN) as mean
over images (the last line: over sources with at least five test images), with 95 % bootstrap intervals over images.
No method is told the objects' size unless its name says so. Seconds are of that day's machine, which other work may
have shared; hours of training count those of the networks that a network was trained from: rivals' are processor time
of two cores, ours are of the clock, a quarter of them on one core. Last rise: of a rival's validation AP@0.5 over the
last quarter of its training ([curves](figures/rivals.png)); from 0.005 on it would get better with more.
"""


def main() -> int:
    parser = command_line(__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=TABLE)
    arguments = parser.parse_args()
    results = load_all(arguments.results)
    if not results:
        say(f"{arguments.results}: found no result of a method; expected METHOD.json: run accuracy.py first")
        return 2
    check_images(results)
    parts = [HEAD, cost_table(results), *(score_table(results, threshold) for threshold in SHOWN)]
    if len(results) > 1:
        parts.append(difference_table(results))
    arguments.out.write_text("\n".join(parts))
    say(f"written to {arguments.out}")
    return 0


def check_images(results: Sequence[MethodResult]) -> None:
    """Refuse results of different images; raises ValueError."""
    first = _names(results[0])
    for other in results[1:]:
        if _names(other) != first:
            lacking = len(set(first) ^ set(_names(other)))
            raise ValueError(
                f"{other.method} and {results[0].method} differ in {lacking} images; expected the "
                "same for every method: score both again"
            )


def cost_table(results: Sequence[MethodResult]) -> str:
    """What each method took."""
    rows = [
        [
            result.title,
            "-" if math.isnan(result.training_hours) else f"{result.training_hours:.2f}",
            _rise(result),
            _median_seconds(result),
            result.processor,
            result.date,
        ]
        for result in results
    ]
    header = ["method", "training hours", "last rise", "seconds per image (median)", "processor", "date"]
    return f"## Methods\n\n{markdown(header, rows)}\n"


def _rise(result: MethodResult) -> str:
    rise = result.settings.get("rose_in_last_quarter")
    return "-" if rise is None else f"{rise:.3f}"


def _median_seconds(result: MethodResult) -> str:
    known = [image.seconds for image in result.evaluation.images if math.isfinite(image.seconds)]
    return f"{np.median(known):.2f}" if known else "-"


def score_table(results: Sequence[MethodResult], threshold: float) -> str:
    """AP at one threshold by source and method."""
    first = results[0].evaluation
    place = first.thresholds.index(threshold)
    rows = []
    for source in first.sources:
        parts = [result.evaluation.of(source).images for result in results]
        values = [[image.average_precision[place] for image in part] for part in parts]
        rows.append([f"{source} ({len(parts[0])})", *map(_interval, values)])
    over = [result.evaluation.at(threshold) for result in results]
    rows.append([f"**all images** ({len(first.images)})", *(str(images) for images, _ in over)])
    rows.append(["**mean over sources**", *(str(sources) for _, sources in over)])
    header = ["source (images)", *(result.title for result in results)]
    return f"## AP@{threshold}\n\n{markdown(header, rows)}\n"


def _interval(values: Sequence[float]) -> str:
    return str(bootstrap_interval(values)) if len(values) > 1 else f"{values[0]:.3f}"


def difference_table(results: Sequence[MethodResult]) -> str:
    """How far `general`, or the best method where that is not there, is ahead of each other one, image by image."""
    first = next((result for result in results if result.method == "general"), results[0])
    rows = []
    for other in results:
        if other is first:
            continue
        for name, nuclei in (("nuclei", True), ("all other images", False)):
            chosen = [k for k, image in enumerate(_sorted(first)) if (image.source in NUCLEI) == nuclei]
            ahead = [str(bootstrap_interval(_ahead(first, other, threshold)[chosen])) for threshold in SHOWN]
            rows.append([other.title, f"{name} ({len(chosen)})", *ahead])
    header = ["against", "images", *(f"AP@{threshold}" for threshold in SHOWN)]
    text = f"Nuclei are {' and '.join(NUCLEI)}. Mean of the differences on the same images, with 95 % intervals."
    return f"## {first.title} is ahead by\n\n{text}\n\n{markdown(header, rows)}\n"


def _ahead(first: MethodResult, other: MethodResult, threshold: float) -> np.ndarray:
    place = first.evaluation.thresholds.index(threshold)
    mine, theirs = (np.array([i.average_precision[place] for i in _sorted(result)]) for result in (first, other))
    return mine - theirs


def _sorted(result: MethodResult) -> list:
    return sorted(result.evaluation.images, key=lambda image: (image.source, image.name))


def _names(result: MethodResult) -> list[tuple[str, str]]:
    return [(image.source, image.name) for image in _sorted(result)]


if __name__ == "__main__":
    sys.exit(main())
