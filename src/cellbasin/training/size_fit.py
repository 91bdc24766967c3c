"""Fits the size model (paper, "Test time resizing"): styles of training images, seen in many sizes → diameter."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cellbasin import size
from cellbasin.image import Image
from cellbasin.intensity import select_channels
from cellbasin.labels import median_diameter
from cellbasin.model import Model
from cellbasin.training.dataset import Annotated
from cellbasin.weights import Weights

_PER_SOURCE = 60  # images; enough for a regression on 256 numbers
_LOOKS = 5
_REACH = 1.6  # natural logarithm: images are looked at with objects of 0.2 to 5 times the model's diameter
_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
_FOLDS = 5


def fit_size_model(
    weights: Weights, images: Sequence[Callable[[], Annotated]], ignore: int = 65535, seed: int = 0
) -> Weights:
    """The weights with a size model in their card, fitted on annotated training images (read when needed)."""
    rng = np.random.default_rng(seed)
    model = Model([weights])
    styles, ratios, owner = [], [], []
    taken: dict[str, int] = defaultdict(int)
    for index in rng.permutation(len(images)):
        annotated = images[index]()
        diameter = median_diameter(np.where(annotated.labels == ignore, 0, annotated.labels))
        if taken[annotated.source] >= _PER_SOURCE or not np.isfinite(diameter):
            continue
        taken[annotated.source] += 1
        pixels = normalised(annotated)
        for ratio in rng.uniform(-_REACH, _REACH, _LOOKS):
            styles.append(model.style(pixels, diameter / np.exp(ratio)))
            ratios.append(ratio)
            owner.append(index)
    fitted, record = _best_fit(np.array(styles), np.array(ratios), np.array(owner))
    card = replace(
        weights.card,
        size_model={
            "coefficients": fitted.coefficients.round(6).tolist(),
            "intercept": fitted.intercept,
            **record,
        },
    )
    return replace(weights, card=card)


def normalised(annotated: Annotated) -> np.ndarray:
    """The two channels (2, Y, X) that the network sees of an annotated image."""
    channels: tuple[int, ...] | None = (0, 1) if len(annotated.image) > 1 else (0,)
    if annotated.layout != "gray":
        channels = (1, 0) if annotated.layout == "nucleus-cytoplasm" else None
    axes = "SYX" if annotated.layout == "rgb" else "CYX"
    return select_channels(Image(annotated.image, axes), channels)


def _best_fit(styles: np.ndarray, ratios: np.ndarray, owner: np.ndarray) -> tuple[size.SizeModel, dict[str, Any]]:
    """The penalty with the smallest error on images left out of the fit."""
    fold = owner % _FOLDS
    errors = {}
    for penalty in _PENALTIES:
        wrong = []
        for k in range(_FOLDS):
            inside = fold != k
            if inside.any() and not inside.all():
                model = size.fit(styles[inside], ratios[inside], penalty)
                wrong.append(np.abs(styles[~inside] @ model.coefficients + model.intercept - ratios[~inside]))
        errors[penalty] = float(np.median(np.concatenate(wrong))) if wrong else np.inf
    best = min(errors, key=lambda penalty: errors[penalty])
    record = {"penalty": best, "median_log2_error": round(errors[best] / np.log(2), 4), "looks": len(ratios)}
    return size.fit(styles, ratios, best), record
