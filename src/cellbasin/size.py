"""How large the objects of an image are (paper, "Test time resizing"): from the style, then from the objects."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cellbasin.weights import understood

SMALLEST, LARGEST = 4.0, 600.0  # pixels; estimates are kept within
_DOUBTFUL = 1.0  # natural logarithm: objects that differ this much from the estimate are not believed either
_AGREES = 0.4  # natural logarithm of found / tried: beyond this a size that was tried has found something else
FEW = 4  # objects; one or two large ones may be the whole image
CONVINCING = 0.003  # least score of a size that was tried: less is what fields without cells reach
CANDIDATES = (10.0, 17.0, 30.0, 52.0, 90.0)  # pixels, tried in case of doubt
_FIRST = 30.0  # pixels
_LOOKS = 4  # at most
_TRUSTED = 0.4  # natural logarithm: how far from its liking the network still tells sizes well
_GOOD = 0.15  # natural logarithm of a ratio of diameters: nearer than this is near enough


@dataclass(frozen=True, slots=True, eq=False)
class SizeModel:
    """Regression from the style to log(diameter that the network sees / model's diameter).

    coefficients (S,), intercept: the paper's linear regression. hidden (H, S + 2): for each of H units the weights of
    the style, an offset and the weight of its answer, a tanh, which is added; H is 0 where that does not help.
    """

    coefficients: np.ndarray
    intercept: float
    hidden: np.ndarray

    @classmethod
    def from_card(cls, stored: Mapping[str, Any], length: int) -> SizeModel | None:
        """The size model of a weights header, or None where none was fitted.

        length: of the network's style. Raises WeightsError for what is no size model of such styles.
        """
        if not stored:
            return None
        with understood("size model"):
            coefficients = np.asarray(stored["coefficients"], np.float32)
            if coefficients.shape != (length,):
                raise ValueError(f"coefficients of shape {coefficients.shape} for styles of {length} numbers")
            values = np.frombuffer(base64.b64decode(stored.get("hidden", ""), validate=True), "<f4")
            return cls(coefficients, float(stored["intercept"]), values.reshape(-1, length + 2))

    def as_card(self) -> dict[str, Any]:
        """Plain types for a weights header; the inverse of `from_card` up to rounding."""
        hidden = base64.b64encode(self.hidden.astype("<f4").tobytes()).decode("ascii")
        return {"coefficients": self.coefficients.round(6).tolist(), "intercept": self.intercept, "hidden": hidden}

    def log_ratio(self, style: np.ndarray) -> np.ndarray:
        """Estimated log(diameter seen / model's diameter) for styles (..., S).

        >>> bent = SizeModel(np.array([0.5]), 1.0, np.array([[1.0, 0.0, 2.0]]))
        >>> bent.log_ratio(np.array([[0.0], [100.0]])).tolist()
        [1.0, 53.0]
        """
        units = np.tanh(style @ self.hidden[:, :-2].T + self.hidden[:, -2])
        return np.asarray(style @ self.coefficients + self.intercept + units @ self.hidden[:, -1])


def diameter_from_style(model: SizeModel, style_at: Callable[[float], np.ndarray]) -> float:
    """Estimate the diameter in image pixels; `style_at(diameter)` is the style of the image resized for that diameter.

    The image is looked at again at the size that was found, until a look finds the objects as large as the network
    likes them. Each look gives an estimate, and those count most that were nearest to that.
    """
    looks: list[tuple[float, float]] = []

    def look(diameter: float) -> float:
        looks.append((diameter, float(model.log_ratio(style_at(diameter)))))
        ratios = np.array([ratio for _, ratio in looks])
        weights = np.exp(-0.5 * (ratios / _TRUSTED) ** 2) + 1e-6
        estimates = np.log([diameter for diameter, _ in looks]) + ratios
        return bounded(np.exp(np.average(estimates, weights=weights)))

    tried, estimate = _FIRST, look(_FIRST)
    while len(looks) < _LOOKS and not _near(tried, estimate):
        tried, estimate = estimate, look(estimate)
    return estimate


def bounded(diameter: float) -> float:
    """A diameter, kept within what is plausible for any image."""
    return float(np.clip(diameter, SMALLEST, LARGEST))


def fits(estimated: float, found: float) -> bool:
    """Whether a segmentation made with one diameter stands although its objects turned out to have another."""
    return _near(estimated, found)


def _near(one: float, other: float) -> bool:
    return abs(np.log(other / one)) < _GOOD


def plausible(estimated: float, found: float) -> bool:
    """Whether objects of the diameter found may be those that the estimate meant."""
    return abs(np.log(found / estimated)) < _DOUBTFUL


def trust(tried: float, found: float, count: int) -> float:
    """0..1: how far to believe in a diameter that was tried: are there objects, and of that diameter?"""
    agreement = np.exp(-0.5 * (np.log(found / tried) / _AGREES) ** 2)
    return float(agreement * (1 - np.exp(-count / FEW)))


def common_diameter(found: Sequence[tuple[int, float]]) -> float:
    """One diameter for all images of a folder, of (number of objects, diameter) of each: the median.

    Images without objects do not count, unless that is all of them. Raises ValueError when there is none.

    >>> common_diameter([(12, 20.0), (0, 90.0), (3, 30.0)])
    25.0
    """
    if not found:
        raise ValueError("found no image, expected at least one to estimate the diameter from")
    telling = [diameter for count, diameter in found if count] or [diameter for _, diameter in found]
    return float(np.median(telling))
