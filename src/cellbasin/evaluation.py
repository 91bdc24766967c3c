"""Segment and score annotated images: what `cellbasin evaluate` prints and training validates with."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from cellbasin import metrics
from cellbasin.datasets import channels_of, read_pair
from cellbasin.io import ReadError, Record
from cellbasin.labels import median_diameter
from cellbasin.metrics import Interval, Scores, match, overlap, summarise
from cellbasin.model import Model, Progress
from cellbasin.options import NOT_ANNOTATED, Options
from cellbasin.results import Segmentation
from cellbasin.weights import Card, Weights

THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
SHOWN = metrics.THRESHOLDS  # of these, those that are told to people


@dataclass(frozen=True, slots=True)
class ImageScore:
    """Scores of one image.

    average_precision, tp, fp, fn: at each of the evaluation's thresholds. true_diameter, diameter: median of
    the annotated objects (NaN without any) and the one used or, of `score_labels`, of the predicted objects;
    pixels. seconds: of the segmentation alone, NaN where none was made.
    """

    source: str
    name: str
    average_precision: tuple[float, ...]
    tp: tuple[int, ...]
    fp: tuple[int, ...]
    fn: tuple[int, ...]
    true_diameter: float
    diameter: float
    seconds: float = math.nan

    @property
    def log2_ratio(self) -> float:
        """log2(diameter / true diameter), NaN where one of them is unknown."""
        known = self.true_diameter > 0 and self.diameter > 0
        return math.log2(self.diameter / self.true_diameter) if known else math.nan


@dataclass(frozen=True)
class Evaluation:
    """Scores of many images, with their means."""

    images: tuple[ImageScore, ...]
    thresholds: tuple[float, ...] = THRESHOLDS

    @cached_property
    def scores(self) -> Scores:
        """Means over images and over sources with at least five images, with 95 % bootstrap intervals."""
        values = [image.average_precision for image in self.images]
        return summarise(np.array(values), [image.source for image in self.images], self.thresholds)

    def at(self, threshold: float) -> tuple[Interval, Interval]:
        """Average precision over images and over sources at one of the thresholds."""
        place = self.thresholds.index(threshold)
        return self.scores.over_images[place], self.scores.over_sources[place]

    def of(self, source: str) -> Evaluation:
        """The images of one source."""
        return replace(self, images=tuple(image for image in self.images if image.source == source))

    @property
    def sources(self) -> list[str]:
        """Names in alphabetical order."""
        return sorted({image.source for image in self.images})

    def summary(self) -> dict[str, Any]:
        """Counts at every threshold, mean precision, diameters and time of all images together."""
        table = np.array([image.average_precision for image in self.images])
        ratios = np.array([image.log2_ratio for image in self.images])
        ratios = np.abs(ratios[np.isfinite(ratios)])
        seconds = np.array([image.seconds for image in self.images])
        return {
            "images": len(self.images),
            "average_precision": table.mean(axis=0).tolist(),
            **{name: self._sum(name) for name in ("tp", "fp", "fn")},
            "median_abs_log2_diameter": float(np.median(ratios)) if ratios.size else math.nan,
            "diameter_within_1.35": float((ratios <= math.log2(1.35)).mean()) if ratios.size else math.nan,
            "seconds_per_image": float(np.median(seconds)),
        }

    def _sum(self, name: str) -> list[int]:
        return np.array([getattr(image, name) for image in self.images]).sum(axis=0).tolist()

    def as_dict(self) -> dict[str, Any]:
        """Everything, of plain types: for JSON."""
        return {
            "thresholds": list(self.thresholds),
            "over_images": [asdict(interval) for interval in self.scores.over_images],
            "over_sources": [asdict(interval) for interval in self.scores.over_sources],
            "all": self.summary(),
            "by_source": {source: self.of(source).summary() for source in self.sources},
            "images": [asdict(image) for image in self.images],
        }


def evaluate(
    model: Model,
    records: Sequence[Record],
    *,
    diameter: float | str = "auto",
    options: Options | None = None,
    ignore: int | None = NOT_ANNOTATED,
    progress: Progress | None = None,
    report: Callable[[Record, Segmentation], None] | None = None,
) -> Evaluation:
    """Segment and score annotated images.

    diameter: pixels, "auto" to estimate it for each image, or "true" for the median of the annotated objects
    (the model's own where there are none). options: everything else; its channels hold for images whose
    layout the record does not tell, and the axes are the record's. ignore: label of pixels not annotated. report is
    called with every result. Raises ReadError for files that cannot be used, ValueError for another word as diameter.
    """
    if isinstance(diameter, str) and diameter not in ("auto", "true"):
        raise ValueError(f"diameter is {diameter!r}, expected a number of pixels, auto or true")
    options = options or Options()
    images = []
    for record in records:
        image, labels = read_pair(record)
        true = median_diameter(labels, ignore)
        wanted = {"auto": None, "true": true if true > 0 else model.card.diameter}
        used = wanted[diameter] if isinstance(diameter, str) else diameter
        channels = channels_of(record, image, options.channels)
        chosen = replace(options, diameter=used, channels=channels, axes=None)
        started = time.perf_counter()
        try:
            result = model.segment(image, options=chosen, progress=progress)
        except ValueError as error:
            raise ReadError(f"{record.image}: {error}") from error
        seconds = time.perf_counter() - started
        if report:
            report(record, result)
        scored = score_labels(labels, result.labels, record.source, record.name, ignore)
        images.append(replace(scored, true_diameter=true, diameter=result.diameter, seconds=seconds))
    return Evaluation(tuple(images))


def score_labels(
    truth: np.ndarray, predicted: np.ndarray, source: str = "all", name: str = "", ignore: int | None = NOT_ANNOTATED
) -> ImageScore:
    """Score predicted against true labels: integers of one shape, label numbers and gaps do not matter.

    Raises ValueError when the shapes differ.

    >>> score_labels(np.array([[1, 1, 0, 5]]), np.array([[7, 7, 0, 0]])).average_precision[0]
    0.5
    """
    matches = match(truth, predicted, THRESHOLDS, ignore)
    return ImageScore(
        source,
        name,
        tuple(one.average_precision for one in matches),
        tuple(one.tp for one in matches),
        tuple(one.fp for one in matches),
        tuple(one.fn for one in matches),
        median_diameter(truth, ignore),
        median_diameter(predicted),
    )


def are_right(
    truth: np.ndarray, labels: np.ndarray, ignore: int | None = NOT_ANNOTATED
) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N,) int64 of the found objects that count; whether a true object has an IoU of at least 0.5, (N,) bool.

    >>> are_right(np.array([[1, 1, 0, 0]]), np.array([[1, 1, 0, 2]]))
    (array([1, 2]), array([ True, False]))
    """
    shared = overlap(truth, labels, ignore)
    right = np.zeros(len(shared.predicted_labels), bool)
    right[shared.predicted_index[shared.iou >= 0.5]] = True
    return shared.predicted_labels, right


def validator(
    records: Sequence[Record],
    *,
    engine: str = "auto",
    precision: str = "auto",
    diameter: float = 30.0,
    options: Options | None = None,
) -> Callable[[Any], Mapping[str, float]]:
    """A function that scores a `cellbasin.network.Network` in training, with true diameters.

    diameter: the one that the network is trained for; options as in `evaluate`. Returned:
    {"score": AP at 0.5, "ap50", "ap75", "ap90"}, means over images.
    """

    def validate(network: Any) -> Mapping[str, float]:
        card = Card(name="in training", architecture=network.architecture, diameter=diameter)
        model = Model([Weights(card, network.tensors(), "")], engine=engine, precision=precision)
        found = evaluate(model, records, diameter="true", options=options)
        values = {f"ap{round(100 * t)}": found.at(t)[0].mean for t in SHOWN}
        return {"score": values["ap50"], **values}

    return validate
