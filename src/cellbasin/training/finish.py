"""What a trained network needs before it ships: size model, int8 ranges, proven precisions, confidence, novelty."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from cellbasin.engines import EngineError
from cellbasin.engines.calibration import calibrate
from cellbasin.evaluation import SHOWN, Evaluation, evaluate
from cellbasin.io import Record
from cellbasin.metrics import average_precision
from cellbasin.model import Model
from cellbasin.options import Options
from cellbasin.training.confidence_fit import ENOUGH, fit_confidence
from cellbasin.training.novelty_fit import FEWEST, fit_novelty
from cellbasin.training.prepared import Annotated, TrainingImage
from cellbasin.training.recipe import Recipe
from cellbasin.training.sampling import CALIBRATION_BATCH, Sampler, Stage
from cellbasin.training.size_fit import fit_size_model
from cellbasin.weights import Weights

_CROPS = 240
_CROP = 224
# A precision is a default only if average precision changes by less than this from float32's (at IoU 0.5 and 0.9).
_ALLOWED = {0.5: 0.003, 0.9: 0.01}
_TRIED = 10  # training images, about
_AGREEMENT = 0.98  # wanted of bf16 labels against float32's, average precision at IoU 0.9
Log = Callable[[str], None]
Score = Callable[[Weights, Sequence[Record], str], tuple[Evaluation, list[np.ndarray]]]


def finish(
    weights: Weights,
    images: Sequence[TrainingImage],
    readers: Sequence[Callable[[], Annotated]],
    records: Sequence[Record],
    own: Sequence[Record],
    recipe: Recipe,
    log: Log = lambda line: None,
    channels: tuple[int, ...] | None = None,
) -> Weights:
    """The weights with all that their card can hold.

    images, readers: the training images, prepared and as readers; records: validation images; own: records of training
    images, in which a precision is tried where there are none to validate on; channels: of records whose layout no
    index tells, as `read_folder` took them.
    """
    log("size model")
    weights = fit_size_model(weights, readers, recipe.ignore_label, recipe.seed)
    log("int8 ranges")
    card = replace(weights.card, ranges=calibrate(weights, _calibration_crops(images, recipe)))
    weights = replace(weights, card=card)
    log("precisions")
    tried = records or own[:: max(1, len(own) // _TRIED)]
    weights = _with_precisions(weights, tried, partial(_score, ignore=recipe.ignore_label, channels=channels), log)
    if records:
        log("confidence")
        weights = fit_confidence(weights, records, recipe.ignore_label, channels)
        log("novelty")
        weights = fit_novelty(weights, readers, records, recipe.ignore_label, recipe.seed, channels)
    if not weights.card.confidence:
        log(f"no confidence, for which {ENOUGH} objects in validation images are needed: objects are judged by flows")
    if not weights.card.novelty:
        log(f"images unlike those of the training cannot be flagged, for which {FEWEST} validation images are needed")
    return weights


def _calibration_crops(images: Sequence[TrainingImage], recipe: Recipe) -> np.ndarray:
    """Crops as in training."""
    return Sampler(images, recipe).draw(Stage(_CROP, _CROPS), CALIBRATION_BATCH)[0]


def _with_precisions(weights: Weights, records: Sequence[Record], score: Score, log: Log) -> Weights:
    """Accept the precisions that change nothing that matters in annotated images, and write down the proof."""
    accepted, proof = ["float32"], dict[str, Any]()
    if records:
        exact, exact_labels = score(weights, records, "float32")
        proof["float32"] = _summary(exact)
        for precision in ("bf16", "int8"):
            try:
                found, labels = score(weights, records, precision)
            except EngineError as error:
                log(f"{precision}: not checked ({error})")
                continue
            agreement = float(
                np.mean([average_precision(a, b, (0.9,))[0] for a, b in zip(exact_labels, labels, strict=True)])
            )
            proof[precision] = _summary(found) | {"agreement_at_0.9": round(agreement, 4)}
            near = all(abs(found.at(t)[0].mean - exact.at(t)[0].mean) < allowed for t, allowed in _ALLOWED.items())
            if near and (precision == "int8" or agreement >= _AGREEMENT):
                accepted.append(precision)
            log(f"{precision}: {'accepted' if precision in accepted else 'not accepted'}, {proof[precision]}")
    scores = weights.card.scores | {"precisions": accepted, "validation": proof}
    return replace(weights, card=replace(weights.card, scores=scores))


def _score(
    weights: Weights, records: Sequence[Record], precision: str, *, ignore: int, channels: tuple[int, ...] | None
) -> tuple[Evaluation, list[np.ndarray]]:
    labels: list[np.ndarray] = []
    evaluation = evaluate(
        Model([weights], engine="openvino", precision=precision),
        records,
        diameter="true",
        options=Options(channels=channels),
        ignore=ignore,
        report=lambda record, found: labels.append(found.labels),
    )
    return evaluation, labels


def _summary(evaluation: Evaluation) -> dict[str, float]:
    return {f"ap_at_{t}": round(evaluation.at(t)[0].mean, 4) for t in SHOWN}
