"""Fits the confidence of objects on validation images: what the network says about an object → is it right?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellbasin import confidence
from cellbasin.evaluation import are_right, evaluate, read_pair
from cellbasin.io import Record
from cellbasin.model import Model
from cellbasin.options import Options
from cellbasin.results import Segmentation
from cellbasin.weights import Weights

_ALL = Options(min_confidence=0, flow_threshold=0)  # no object is dropped for its quality
_ENOUGH = 200  # objects; fewer cannot settle the regression
_FOLDS = 5


def fit_confidence(weights: Weights, records: Sequence[Record]) -> Weights:
    """The weights with calibrations in their card: one for plain segmentation, one for averaging over flipped views.

    records: annotated images that the network has not learned from, segmented with automatic diameter.
    """
    model = Model([weights], engine="openvino")
    fitted: dict[str, Any] = {}
    for name, options in (("plain", _ALL), ("augment", replace(_ALL, augment=True))):
        table = Objects()
        evaluate(model, records, options=options, report=table.add)
        if len(table) >= _ENOUGH:
            fitted[name] = table.fitted().as_card() | {"objects": len(table), "error": round(table.left_out_error(), 4)}
    return replace(weights, card=replace(weights.card, confidence=fitted))


class Objects:
    """Features of the objects found in annotated images, and whether each of them is right."""

    def __init__(self) -> None:
        self._features: list[NDArray[np.float64]] = []
        self._right: list[NDArray[np.bool_]] = []

    def __len__(self) -> int:
        return sum(len(right) for right in self._right)

    def add(self, record: Record, found: Segmentation) -> None:
        """Add the objects found in one image; those mostly in regions without annotation do not count."""
        features = confidence.object_features(
            found.labels, found.flow, found.probability, found.objects["flow_error"], found.diameter
        )
        counted, right = are_right(read_pair(record)[1], found.labels)
        self._features.append(features[counted - 1])
        self._right.append(right)

    def fitted(self, without: int | None = None) -> confidence.Calibration:
        """The calibration of all images, or of those whose number modulo the folds is not `without`."""
        chosen = [i for i, right in enumerate(self._right) if len(right) and i % _FOLDS != without]
        features = np.concatenate([self._features[i] for i in chosen])
        right = np.concatenate([self._right[i] for i in chosen])
        # An image of a thousand objects must not outvote those of ten; nor does one object say as much as hundreds.
        weights = np.concatenate([np.full(len(self._right[i]), len(self._right[i]) ** -0.5) for i in chosen])
        return confidence.fit(features, right, weights)

    def left_out_error(self) -> float:
        """Expected calibration error of images that were left out of the fit."""
        told, right = [], []
        for fold in range(_FOLDS):
            members = [i for i in range(len(self._right)) if i % _FOLDS == fold and len(self._right[i])]
            if members:
                calibration = self.fitted(without=fold)
                told += [calibration.confidence(self._features[i]) for i in members]
                right += [self._right[i] for i in members]
        return confidence.calibration_error(np.concatenate(told), np.concatenate(right))
