"""Score the labels that a method wrote, and keep the result in docs/results/.

    python benchmarks/rivals/score.py classical
    python benchmarks/rivals/score.py stardist --predictions output/rivals/stardist/predictions

Beside the predictions about.json tells the title, training hours and settings.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from images import FOLDER, ROOT, examples
from report import command_line
from results import RESULTS, MethodResult

from cellbasin.evaluation import SHOWN, Evaluation, ImageScore, score_labels


def score(predictions: Path, *, everything: bool = True, data: Path = FOLDER) -> Evaluation:
    """Score a folder's predictions against the test images.

    Raises FileNotFoundError when one is missing, unless `everything` is off: a mean over some images is no result.
    """
    images: list[ImageScore] = []
    for example in examples("test", folder=data):
        path = predictions / f"{example.source}__{example.name}.npz"
        if not path.exists() and not everything:
            continue
        if not path.exists():
            raise FileNotFoundError(f"{path}: found no prediction; expected one for every image of {data / 'test'}")
        with np.load(path) as found:
            scored = score_labels(example.labels, found["labels"], example.source, example.name)
            used, seconds = float(found["diameter"]), float(found["seconds"])
        images.append(replace(scored, diameter=used, seconds=seconds))
    return Evaluation(tuple(images))


def keep(method: str, predictions: Path, results: Path = RESULTS, *, everything: bool = True) -> MethodResult:
    """Score a method's predictions on the test images and write RESULTS/METHOD.json; see `score`."""
    about: Mapping[str, Any] = json.loads((predictions / "about.json").read_text())
    hours = about.get("training_hours")
    found = score(predictions, everything=everything)
    result = MethodResult(method, about["title"], found, math.nan if hours is None else hours, about["settings"])
    result.save(results)
    return result


def print_means(result: MethodResult) -> None:
    """Average precision over images and over sources."""
    for threshold in SHOWN:
        images, sources = result.evaluation.at(threshold)
        print(f"AP@{threshold}: {images} over images, {sources} over sources")


def main() -> int:
    parser = command_line(__doc__)
    parser.add_argument("method", help="its name: classical, stardist, ...")
    parser.add_argument("--predictions", type=Path, help="default: output/rivals/METHOD/predictions")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    folder = arguments.predictions or ROOT / "output" / "rivals" / arguments.method / "predictions"
    result = keep(arguments.method, folder, arguments.out)
    print_means(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
