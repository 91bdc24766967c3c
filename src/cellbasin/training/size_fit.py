"""Fits the size model (paper, "Test time resizing"): styles of training images, seen in many sizes → diameter.

The paper's regression is linear; what that leaves is learned by a few hidden units (docs/experiments.md, "Diameter").
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from scipy.optimize import minimize

from cellbasin import size
from cellbasin.image import Image
from cellbasin.intensity import select_channels
from cellbasin.labels import median_diameter
from cellbasin.model import Model
from cellbasin.options import NOT_ANNOTATED
from cellbasin.training.prepared import Annotated
from cellbasin.weights import Weights

PER_SOURCE = 120  # images
_LOOKS = 6
_REACH = 1.6  # natural logarithm: images are looked at with objects of 0.2 to 5 times the model's diameter
_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
_FOLDS = 5
_UNITS = 32
_DECAY = 5e-4
_STEPS = 300
_LEAST_SPREAD = 1e-3  # of a number of the style; one that hardly varies must not count for much


def fit_size_model(
    weights: Weights, images: Sequence[Callable[[], Annotated]], ignore: int = NOT_ANNOTATED, seed: int = 0
) -> Weights:
    """The weights with a size model in their card, fitted on annotated training images (read when needed).

    Without any annotated object there is none.
    """
    rng = np.random.default_rng(seed)
    model = Model([weights])
    styles, ratios, owner = [], [], []
    taken: dict[str, int] = defaultdict(int)
    groups: dict[tuple[str, str], int] = {}  # images of one group look alike and stay in one fold
    for index in rng.permutation(len(images)):
        annotated = images[index]()
        diameter = median_diameter(annotated.labels, ignore)
        if taken[annotated.source] >= PER_SOURCE or not np.isfinite(diameter):
            continue
        taken[annotated.source] += 1
        pixels = normalised(annotated)
        group = groups.setdefault((annotated.source, annotated.group or annotated.name), len(groups))
        for ratio in rng.uniform(-_REACH, _REACH, _LOOKS):
            styles.append(model.style(pixels, diameter / np.exp(ratio)))
            ratios.append(ratio)
            owner.append(group)
    if not styles:
        return weights
    fitted, record = _best_fit(np.array(styles), np.array(ratios), np.array(owner))
    return replace(weights, card=replace(weights.card, size_model=fitted.as_card() | record))


def normalised(annotated: Annotated) -> np.ndarray:
    """The two channels (2, Y, X) that the network sees of an annotated image."""
    channels: tuple[int, ...] | None = (0, 1) if len(annotated.image) > 1 else (0,)
    if annotated.layout != "gray":
        channels = (1, 0) if annotated.layout == "nucleus-cytoplasm" else None
    axes = "SYX" if annotated.layout == "rgb" else "CYX"
    return select_channels(Image(annotated.image, axes), channels)


def _best_fit(styles: np.ndarray, ratios: np.ndarray, owner: np.ndarray) -> tuple[size.SizeModel, dict[str, Any]]:
    """The regression that is best on images left out of the fit, and its error there beside the linear one's."""
    fold = owner % _FOLDS
    errors = {p: _left_out(partial(fit_linear, penalty=p), styles, ratios, fold) for p in _PENALTIES}
    penalty = min(errors, key=lambda penalty: errors[penalty])
    bent = partial(_fit_bent, penalty=penalty)
    error = _left_out(bent, styles, ratios, fold)
    better = bent if error < errors[penalty] else partial(fit_linear, penalty=penalty)
    record: dict[str, Any] = {
        "penalty": penalty,
        "looks": len(ratios),
    }
    if np.isfinite(errors[penalty]):  # else all images are of one group
        record["median_log2_error"] = round(float(min(error, errors[penalty]) / np.log(2)), 4)
        record["median_log2_error_linear"] = round(float(errors[penalty] / np.log(2)), 4)
    return better(styles, ratios), record


def _fit_bent(styles: np.ndarray, ratios: np.ndarray, penalty: float) -> size.SizeModel:
    linear = fit_linear(styles, ratios, penalty)
    return replace(linear, hidden=fit_hidden(styles, ratios - linear.log_ratio(styles)))


def _left_out(
    fit: Callable[[np.ndarray, np.ndarray], size.SizeModel], styles: np.ndarray, ratios: np.ndarray, fold: np.ndarray
) -> float:
    """Median error on images left out of a fit."""
    wrong = []
    for k in range(_FOLDS):
        inside = fold != k
        if inside.any() and not inside.all():
            wrong.append(np.abs(fit(styles[inside], ratios[inside]).log_ratio(styles[~inside]) - ratios[~inside]))
    return float(np.median(np.concatenate(wrong))) if wrong else np.inf


def fit_linear(styles: np.ndarray, ratios: np.ndarray, penalty: float = 1e-3) -> size.SizeModel:
    """Ridge regression; styles (N, S), ratios (N,): log(diameter seen / model's diameter).

    >>> styles = np.eye(3, dtype=np.float32)
    >>> round(float(fit_linear(styles, np.array([0.0, 1.0, 2.0])).log_ratio(styles[2])), 2)
    2.0
    """
    mean_style, mean_ratio = styles.mean(axis=0), ratios.mean()
    centred = (styles - mean_style).astype(np.float64)
    gram = centred.T @ centred / len(centred)
    right = centred.T @ (ratios - mean_ratio) / len(centred)
    scale = max(float(np.trace(gram)) / len(gram), 1e-12)
    coefficients = np.linalg.solve(gram + penalty * scale * np.eye(len(gram)), right)
    intercept = float(mean_ratio - mean_style @ coefficients)
    return size.SizeModel(coefficients.astype(np.float32), intercept, np.zeros((0, len(coefficients) + 2)))


def fit_hidden(styles: np.ndarray, wanted: np.ndarray, units: int = _UNITS, decay: float = _DECAY) -> np.ndarray:
    """Hidden units (H, S + 2), as in `size.SizeModel`, whose sum comes near wanted (N,) for styles (N, S).

    Least squares with a penalty of `decay` on squared weights of standardised styles, by L-BFGS from fixed random ones.

    >>> styles = np.linspace(-1, 1, 50)[:, None]
    >>> bent = size.SizeModel(np.zeros(1), 0.0, fit_hidden(styles, np.abs(styles[:, 0]), units=4, decay=1e-6))
    >>> bool(np.abs(bent.log_ratio(styles) - np.abs(styles[:, 0])).max() < 0.1)
    True
    """
    count, length = styles.shape
    mean, spread = styles.mean(axis=0), np.maximum(styles.std(axis=0), _LEAST_SPREAD)
    inputs = np.column_stack([(styles - mean) / spread, np.ones(count)])
    rng = np.random.default_rng(0)
    first = np.column_stack([rng.normal(0, length**-0.5, (units, length)), np.zeros(units)])
    begin = np.concatenate([first.ravel(), rng.normal(0, 0.5 * units**-0.5, units)])
    penalised = np.concatenate([np.tile([*[1.0] * length, 0.0], units), np.ones(units)])  # all but the offsets

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        weights, output = values[:-units].reshape(units, -1), values[-units:]
        answer = np.tanh(inputs @ weights.T)
        wrong = (answer @ output - wanted) / count
        back = np.outer(wrong, output) * (1 - answer**2)
        gradient = np.concatenate([(back.T @ inputs).ravel(), answer.T @ wrong])
        cost = 0.5 * count * wrong @ wrong + 0.5 * decay * penalised @ values**2
        return float(cost), gradient + decay * penalised * values

    found = minimize(loss, begin, jac=True, method="L-BFGS-B", options={"maxiter": _STEPS}).x
    weights, output = found[:-units].reshape(units, -1), found[-units:]
    scaled = weights[:, :-1] / spread
    return np.column_stack([scaled, weights[:, -1] - scaled @ mean, output])
