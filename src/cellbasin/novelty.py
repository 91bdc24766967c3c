"""Whether an image is unlike those that a network has learned from, by its style.

Images of one kind have styles that point in nearly the same direction. The farther an image's style is from all those
of the training images, the less the network's answers, and its confidence in them, mean.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellbasin.weights import understood

UNLIKE = "unlike the images the model learned from: look at the result"  # what users are told
_LEVELS = 127  # styles are stored in 8 bits


@dataclass(frozen=True, slots=True, eq=False)
class Novelty:
    """Typical styles (K, S) of training images, of length 1, and the distance above which a style is unlike them."""

    prototypes: NDArray[np.float32]
    limit: float

    @classmethod
    def from_card(cls, stored: Mapping[str, Any], length: int) -> Novelty | None:
        """What a weights header holds, or None where nothing was fitted.

        length: of the network's style. Raises WeightsError for what is no table of such styles.
        """
        if not stored:
            return None
        with understood("styles"):
            levels = np.frombuffer(base64.b64decode(stored["styles"], validate=True), np.int8)
            return cls(_unit(levels.reshape(int(stored["count"]), length).astype(np.float32)), float(stored["limit"]))

    def as_card(self) -> dict[str, Any]:
        """Plain types for a weights header; the inverse of `from_card` up to rounding to 8 bits."""
        highest = np.abs(self.prototypes).max(axis=1, keepdims=True)
        levels = np.round(self.prototypes / highest * _LEVELS).astype(np.int8)
        styles = base64.b64encode(levels.tobytes()).decode("ascii")
        return {"styles": styles, "count": len(levels), "limit": round(self.limit, 5)}

    def distance(self, style: NDArray[np.float32]) -> float:
        """1 - the cosine of the angle to the nearest prototype, of a style (S,): 0 is the same, 1 nothing in common.

        >>> Novelty(np.eye(2, dtype=np.float32), 0.1).distance(np.array([0.0, 2.0], np.float32))
        0.0
        """
        return float(1 - (self.prototypes @ _unit(style[None])[0]).max())


def choose_prototypes(styles: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """At most `count` of the styles (N, S) that are never far from any: each the farthest from those before it.

    >>> choose_prototypes(np.array([[1, 0], [0.9, 0.1], [0, 1]], np.float32), 2).round(1)
    array([[1. , 0.1],
           [0. , 1. ]], dtype=float32)
    """
    styles = _unit(np.unique(styles, axis=0))
    chosen = [int((styles @ styles.mean(axis=0)).argmax())]
    nearest = styles @ styles[chosen[0]]
    while len(chosen) < min(count, len(styles)):
        chosen.append(int(nearest.argmin()))
        nearest = np.maximum(nearest, styles @ styles[chosen[-1]])
    return styles[chosen]


def _unit(styles: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(styles / np.maximum(np.linalg.norm(styles, axis=1, keepdims=True), 1e-12), np.float32)
