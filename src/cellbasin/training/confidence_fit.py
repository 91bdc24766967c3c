"""Fits the confidence of objects on validation images: what the network says about an object → is it right?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellbasin import confidence
from cellbasin.datasets import read_pair
from cellbasin.evaluation import are_right, evaluate
from cellbasin.io import Record
from cellbasin.model import Model
from cellbasin.options import NOT_ANNOTATED, Options
from cellbasin.results import Segmentation
from cellbasin.weights import Weights

_ALL = Options(min_confidence=0, flow_threshold=0)  # no object is dropped for its quality
ENOUGH = 200  # objects; fewer cannot settle the regression
_FOLDS = 5


def fit_confidence(
    weights: Weights,
    records: Sequence[Record],
    ignore: int = NOT_ANNOTATED,
    channels: tuple[int, ...] | None = None,
) -> Weights:
    """The weights with calibrations in their card: one for plain segmentation, one for averaging over flipped views.

    records: annotated images that the network has not learned from, segmented with automatic diameter; left unfitted
    where fewer than 200 objects are found in them. channels: of images whose layout no index tells.
    """
    model = Model([weights], engine="openvino")
    everything = replace(_ALL, channels=channels)
    fitted: dict[str, Any] = {}
    for name, options in (("plain", everything), ("augment", replace(everything, augment=True))):
        table = Objects(ignore)
        evaluate(model, records, options=options, ignore=ignore, report=table.add)
        if len(table) >= ENOUGH:
            fitted[name] = table.fitted().as_card() | {"objects": len(table), "error": table.left_out_error()}
    return replace(weights, card=replace(weights.card, confidence=fitted))


class Objects:
    """Features of the objects found in annotated images, and whether each of them is right."""

    def __init__(self, ignore: int = NOT_ANNOTATED) -> None:
        self._ignore = ignore
        self._features: list[NDArray[np.float64]] = []
        self._right: list[NDArray[np.bool_]] = []
        self._folds: list[int] = []
        self._groups: dict[tuple[str, str], int] = {}

    def __len__(self) -> int:
        return sum(len(right) for right in self._right)

    def add(self, record: Record, found: Segmentation) -> None:
        """Add the objects found in one image; those mostly in regions without annotation do not count."""
        features = confidence.object_features(
            found.labels, found.flow, found.probability, found.objects["flow_error"], found.diameter
        )
        counted, right = are_right(read_pair(record)[1], found.labels, self._ignore)
        if not len(right):
            return
        self._features.append(features[counted - 1])
        self._right.append(right)
        # Images of one group look alike: were they in several folds, the error told would be too small.
        group = (record.source, record.group or record.name)
        self._folds.append(self._groups.setdefault(group, len(self._groups)) % _FOLDS)

    def fitted(self, without: int | None = None) -> confidence.Calibration:
        """The calibration of all images, or of those that are not in the fold `without`."""
        chosen = [i for i, fold in enumerate(self._folds) if fold != without]
        features = np.concatenate([self._features[i] for i in chosen])
        right = np.concatenate([self._right[i] for i in chosen])
        # An image of a thousand objects must not outvote those of ten; nor does one object say as much as hundreds.
        weights = np.concatenate([np.full(len(self._right[i]), len(self._right[i]) ** -0.5) for i in chosen])
        return confidence.fit(features, right, weights)

    def left_out_error(self) -> float | None:
        """Expected calibration error of images that were left out of the fit; None where all are of one group."""
        if len(self._groups) < 2:
            return None
        told, right = [], []
        for fold in sorted(set(self._folds)):
            calibration = self.fitted(without=fold)
            members = [i for i, own in enumerate(self._folds) if own == fold]
            told += [calibration.confidence(self._features[i]) for i in members]
            right += [self._right[i] for i in members]
        return round(confidence.calibration_error(np.concatenate(told), np.concatenate(right)), 4)
