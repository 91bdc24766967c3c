"""Outlines of the test images that `general` did worst on: what is there and what was found, without a pixel of theirs.

    python benchmarks/failures.py               writes docs/results/failures.npz; then: figures.py --only failures

Which images these are is read from docs/results/general.json, which `accuracy.py` writes; they are segmented again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
from inputs import data_root
from report import command_line, say
from results import RESULTS, load

from cellbasin.atomic import atomic
from cellbasin.datasets import channels_of, read_pair
from cellbasin.evaluation import ImageScore
from cellbasin.io import Record, read_index
from cellbasin.labels import boundaries
from cellbasin.model import Model, load_model
from cellbasin.options import NOT_ANNOTATED

OUT = RESULTS / "failures.npz"
COUNT = 10


def main() -> int:
    command_line(__doc__).parse_args()
    result = load(RESULTS / "general.json")
    model = load_model("general")
    if model.weights[0].sha256 != result.settings["weights"]:
        say(f"{RESULTS / 'general.json'}: found scores of other weights than those that ship; run accuracy.py first")
        return 2
    place = result.evaluation.thresholds.index(0.5)
    worst = sorted(result.evaluation.images, key=lambda image: image.average_precision[place])[:COUNT]
    records = {(record.source, record.name): record for record in read_index(data_root(), "test")}
    write(worst, [outlines(model, records[image.source, image.name]) for image in worst], place)
    say(f"written to {OUT}")
    return 0


def outlines(model: Model, record: Record) -> tuple[np.ndarray, np.ndarray]:
    """Pixels on the edges of true and of found objects, bool (Y, X) each."""
    image, truth = read_pair(record)
    found = model.segment(image, channels=channels_of(record, image)).labels
    return boundaries(np.where(truth == NOT_ANNOTATED, 0, truth)), boundaries(found)


def write(worst: Sequence[ImageScore], drawn: Sequence[tuple[np.ndarray, np.ndarray]], place: int) -> None:
    """Keep outlines with a line about each image."""
    titles = [
        f"{image.source}/{image.name[:16]}\nAP@0.5 {image.average_precision[place]:.2f}, "
        f"{image.tp[place] + image.fn[place]} true, {image.tp[place] + image.fp[place]} found"
        for image in worst
    ]
    pairs = {}
    for number, (true, found) in enumerate(drawn):
        pairs |= {f"true{number}": true, f"found{number}": found}
    with atomic(OUT) as temporary:
        np.savez_compressed(temporary, titles=np.array(titles), **pairs)


if __name__ == "__main__":
    sys.exit(main())
