"""How far to believe in an object: the probability that it is right, from what the network said about its pixels.

An object counts as right when a true object exists with which its IoU is at least 0.5. The regression is fitted on
validation images (`training/confidence_fit.py`) and stored in the weights file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellbasin.labels import areas, boundaries, touches_border
from cellbasin.network_outputs import logit_of, sigmoid
from cellbasin.weights import understood

FEATURES = (
    "surely inside",  # log-odds of the mean probability
    "rim",  # mean probability at the object's edge: high where another object begins, or the edge is sharp
    "flow error",  # root of the mean squared difference from the flow of the object's shape
    "flow length",  # shorter than 1 where the network, or the views of it that are averaged, contradict themselves
    "size",  # log(diameter / the image's diameter)
    "odd size",  # its square
    "at the border",
    "image flow error",  # the same of all objects of the image, weighted by area: images unlike those learned from
    "image flow length",
)
_MOST_SURE = 6.0  # log-odds
_STEPS = 50


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Logistic regression from features (N, F) to the probability of being right."""

    coefficients: NDArray[np.float64]
    intercept: float

    @classmethod
    def from_card(cls, stored: Mapping[str, Any]) -> Calibration | None:
        """The calibration of a weights header, or None where none was fitted, or one of other features.

        Raises WeightsError for what is no such.
        """
        with understood("confidence"):
            if tuple(stored.get("features", ())) != FEATURES:
                return None
            coefficients = np.asarray(stored["coefficients"], np.float64)
            if coefficients.shape != (len(FEATURES),):
                raise ValueError(f"coefficients of shape {coefficients.shape}")
            return cls(coefficients, float(stored["intercept"]))

    def as_card(self) -> dict[str, Any]:
        """Plain types for a weights header; the inverse of `from_card`."""
        return {
            "features": list(FEATURES),
            "coefficients": self.coefficients.round(5).tolist(),
            "intercept": round(self.intercept, 5),
        }

    def confidence(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probability (N,) that an object is right, of features (N, F).

        >>> Calibration(np.array([1.0]), 0.0).confidence(np.array([[0.0], [100.0]])).round(6).tolist()
        [0.5, 1.0]
        """
        return sigmoid(features @ self.coefficients + self.intercept)


def object_features(
    labels: NDArray[np.int32],
    flow: NDArray[np.float32],
    probability: NDArray[np.float32],
    flow_error: NDArray[np.float64],
    diameter: float,
) -> NDArray[np.float64]:
    """Features (N, F) of all objects found in an image, before any was dropped for its quality; see `FEATURES`.

    labels: (Y, X), numbered 1..N; flow: (2, Y, X); probability: (Y, X); flow_error: (N,), of `dynamics.flow_errors`;
    diameter: pixels, the one the image was segmented with.
    """
    count = len(flow_error)
    area = np.maximum(areas(labels), 1).astype(np.float64)
    mean = np.bincount(labels.ravel(), probability.ravel(), minlength=count + 1)[1:] / area
    rim = np.where(boundaries(labels), labels, 0)
    rim_pixels = np.bincount(rim.ravel(), minlength=count + 1)[1:]
    rim_sum = np.bincount(rim.ravel(), probability.ravel(), minlength=count + 1)[1:]
    length = np.bincount(labels.ravel(), np.sqrt((flow**2).sum(axis=0)).ravel(), minlength=count + 1)[1:] / area
    error = np.sqrt(np.maximum(flow_error, 0))
    size = np.log(np.sqrt(4 / np.pi * area) / diameter)
    return np.column_stack(
        [
            np.clip(logit_of(mean), -_MOST_SURE, _MOST_SURE),
            rim_sum / np.maximum(rim_pixels, 1),
            error,
            length,
            size,
            size**2,
            touches_border(labels, range(2)).astype(np.float64),
            np.full(count, np.average(error, weights=area) if count else 0.0),
            np.full(count, np.average(length, weights=area) if count else 0.0),
        ]
    )


def fit(
    features: NDArray[np.float64], right: NDArray[np.bool_], weights: NDArray[np.float64], penalty: float = 1e-3
) -> Calibration:
    """Logistic regression by Newton's method; features (N, F), right (N,), weights (N,) of the objects.

    penalty: on the squares of the coefficients of standardised features, relative to the mean loss.

    >>> features = np.array([[0.0], [1.0], [2.0], [3.0]])
    >>> found = fit(features, np.array([False, True, False, True]), np.ones(4))
    >>> bool(np.isclose(found.confidence(features).mean(), 0.5))
    True
    """
    weights = weights / weights.sum()
    centre = weights @ features
    spread = np.sqrt(weights @ (features - centre) ** 2) + 1e-9
    design = np.column_stack([(features - centre) / spread, np.ones(len(features))])
    ridge = np.diag([penalty] * features.shape[1] + [1e-9])
    beta = np.zeros(design.shape[1])
    for _ in range(_STEPS):
        probability = sigmoid(design @ beta)
        gradient = design.T @ (weights * (probability - right)) + ridge @ beta
        curvature = (design * (weights * probability * (1 - probability))[:, None]).T @ design + ridge
        step = np.linalg.solve(curvature, gradient)
        beta -= step * min(1.0, 4.0 / (np.abs(step).max() + 1e-12))  # far steps may overshoot
    coefficients = beta[:-1] / spread
    return Calibration(coefficients, float(beta[-1] - centre @ coefficients))


def calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_], bins: int = 10) -> float:
    """Expected calibration error: |mean confidence - part right| in bins of equal width, weighted by their objects.

    >>> calibration_error(np.array([0.75, 0.75, 0.75, 0.75]), np.array([True, True, True, False]))
    0.0
    """
    if not len(confidence):
        return 0.0
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    total = np.bincount(which, minlength=bins)
    sums = np.bincount(which, confidence, minlength=bins) - np.bincount(which, right, minlength=bins)
    return float(np.abs(sums).sum() / max(total.sum(), 1))
