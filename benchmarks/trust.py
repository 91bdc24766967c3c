"""What a model says of its own results, and whether it is true: confidence of objects, novelty of images, by source.

Kept with the scores in docs/results/, so that tables and figures of any part of the images need no program.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from report import markdown, say

from cellbasin.datasets import read_pair
from cellbasin.evaluation import Evaluation, are_right, evaluate
from cellbasin.io import Record
from cellbasin.model import Model
from cellbasin.results import Segmentation

BINS = 100  # of confidence: fine enough to tell the part of objects above any value
COVERAGE = (0.5, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True)
class Reliability:
    """Counts (BINS,) of objects by confidence, sums of their confidences, and how many of them are right."""

    objects: np.ndarray
    told: np.ndarray
    right: np.ndarray

    def bins(self, count: int = 10) -> list[tuple[int, float, float]]:
        """Objects, mean confidence and part that is right, of those of `count` equal bins that are not empty."""
        parts = zip(*(values.reshape(count, -1).sum(axis=1) for values in self._all), strict=True)
        return [(int(n), float(told / n), float(right / n)) for n, told, right in parts if n]

    @property
    def calibration_error(self) -> float:
        """Expected calibration error over ten bins; NaN without objects."""
        total = self.objects.sum()
        return float(sum(n * abs(told - right) for n, told, right in self.bins()) / total) if total else math.nan

    def coverage(self) -> list[tuple[float, float, float]]:
        """Part of all objects, the confidence they have at least, and the part of them that is right."""
        objects, right = (np.cumsum(values[::-1]) for values in (self.objects, self.right))
        places = [int(np.searchsorted(objects, part * objects[-1])) for part in COVERAGE]
        return [(objects[k] / objects[-1], 1 - (k + 1) / BINS, right[k] / objects[k]) for k in places]

    @property
    def _all(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.objects, self.told, self.right


@dataclass
class Trust:
    """objects: by source, (3, BINS) as in `Reliability`; distances: by source, of the images' styles from those that
    the model has learned from; limit: the distance above which it calls them unlike."""

    objects: dict[str, np.ndarray] = field(default_factory=dict)
    distances: dict[str, list[float]] = field(default_factory=dict)
    limit: float = math.nan

    def add(self, record: Record, found: Segmentation) -> None:
        """Take in what was found in an annotated image."""
        if (novelty := found.provenance.get("novelty")) is not None:
            self.limit = novelty["limit"]
            self.distances.setdefault(record.source, []).append(novelty["distance"])
        if "confidence" in found.objects:
            counted, right = are_right(read_pair(record)[1], found.labels)
            told = np.asarray(found.objects["confidence"])[counted - 1]
            place = np.minimum((told * BINS).astype(int), BINS - 1)
            sums = [np.bincount(place, weights, BINS) for weights in (None, told, right)]
            self.objects[record.source] = self.objects.get(record.source, np.zeros((3, BINS))) + sums

    def of(self, sources: Collection[str] | None = None) -> Reliability:
        """The objects of some sources, or of all."""
        chosen = [counts for source, counts in self.objects.items() if sources is None or source in sources]
        return Reliability(*np.sum(chosen, axis=0)) if chosen else Reliability(*np.zeros((3, BINS)))

    def novelty_curve(self, unlike: Collection[str], known: Collection[str]) -> tuple[np.ndarray, np.ndarray]:
        """ROC of the distance: part of the images of the known sources, and of those that are unlike them, that are as
        far or farther, from (0, 0) to (1, 1); empty where there are none of either.

        >>> Trust(distances={"a": [0.1, 0.2], "b": [0.15, 0.9]}).novelty_curve(["b"], ["a"])[1].tolist()
        [0.0, 0.5, 0.5, 1.0, 1.0]
        """
        far, near = (np.array([d for s in sources for d in self.distances.get(s, [])]) for sources in (unlike, known))
        if not len(far) or not len(near):
            return np.zeros(0), np.zeros(0)
        limits = np.array([np.inf, *np.unique([*far, *near])[::-1]])[:, None]
        return (near >= limits).mean(axis=1), (far >= limits).mean(axis=1)

    def novelty_area(self, unlike: Collection[str], known: Collection[str]) -> float:
        """Area under `novelty_curve`; NaN where that is empty.

        >>> Trust(distances={"a": [0.1, 0.2], "b": [0.15, 0.9]}).novelty_area(["b"], ["a"])
        0.75
        """
        wrong, right = self.novelty_curve(unlike, known)
        return float((np.diff(wrong) * (right[1:] + right[:-1]) / 2).sum()) if len(wrong) else math.nan

    def as_json(self) -> dict[str, Any]:
        """Plain types; the inverse of `from_json`."""
        rows = {
            source: [
                [k, int(n), round(told, 3), int(right)] for k, (n, told, right) in enumerate(counts.T.tolist()) if n
            ]
            for source, counts in self.objects.items()
        }
        limit = self.limit if math.isfinite(self.limit) else None
        return {"limit": limit, "distances": self.distances, "objects": rows}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Trust:
        """What `as_json` made."""
        found = cls(distances=dict(stored["distances"]))
        found.limit = math.nan if stored["limit"] is None else stored["limit"]
        for source, rows in stored["objects"].items():
            found.objects[source] = np.zeros((3, BINS))
            for place, *counts in rows:
                found.objects[source][:, place] = counts
        return found


def evaluate_with_trust(
    model: Model, records: Sequence[Record], diameter: str = "auto"
) -> tuple[Evaluation, Trust, list[np.ndarray]]:
    """Scores, what the model said of its results, and the images' styles; see `cellbasin.evaluation.evaluate`."""
    trust, styles, started = Trust(), list[np.ndarray](), time.perf_counter()

    def report(record: Record, found: Segmentation) -> None:
        trust.add(record, found)
        styles.append(found.style)
        if len(styles) % 20 == 0:
            say(f"{len(styles)} of {len(records)} images, {time.perf_counter() - started:.0f} s")

    return evaluate(model, records, diameter=diameter, report=report), trust, styles


def table(name: str, reliability: Reliability) -> str:
    """Reliability, and precision against coverage."""
    total = int(reliability.objects.sum())
    if not total:
        return f"## Confidence, {name}\n\nNo object has one.\n"
    rows = [[str(n), f"{told:.3f}", f"{true:.3f}"] for n, told, true in reliability.bins()]
    kept = [[f"{part:.0%}", f"{least:.2f}", f"{right:.3f}"] for part, least, right in reliability.coverage()]
    return (
        f"## Confidence, {name}: {total} objects, expected calibration error {reliability.calibration_error:.3f}\n\n"
        f"{markdown(['objects', 'mean confidence', 'right (IoU at least 0.5)'], rows)}\n\n"
        f"{markdown(['objects kept', 'confidence at least', 'right'], kept)}\n"
    )
