"""Confidence of objects: the regression, its features, and what ends up in the result."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from cellbasin.confidence import FEATURES, Calibration, calibration_error, fit, object_features
from cellbasin.evaluation import are_right
from cellbasin.flows import labels_to_flows
from cellbasin.generator import generate
from cellbasin.io import Record
from cellbasin.metrics import match
from cellbasin.model import Model
from cellbasin.options import NOT_ANNOTATED, Options
from cellbasin.results import Segmentation
from cellbasin.training import confidence_fit
from cellbasin.training.confidence_fit import fit_confidence
from cellbasin.weights import SHIPPED, WeightsError, load_weights


def _sample(seed: int, count: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    features = rng.normal(2, 3, (count, 3)) * (1, 10, 0.1)
    chance = 1 / (1 + np.exp(-(features @ (0.5, -0.1, 4.0))))
    return features, rng.random(count) < chance, rng.uniform(0.5, 2, count)


@pytest.mark.parametrize("seed", range(3))
def test_fit_is_the_optimum_that_scipy_finds(seed: int) -> None:
    features, right, weights = _sample(seed)
    found = fit(features, right, weights, penalty=1e-12)
    sign = np.where(right, -1.0, 1.0)

    def loss(beta: np.ndarray) -> float:
        return float(weights @ np.logaddexp(0, sign * (features @ beta[:3] + beta[3])) / weights.sum())

    other = minimize(loss, np.zeros(4), method="BFGS", options={"gtol": 1e-9})
    mine = np.append(found.coefficients, found.intercept)
    assert loss(mine) <= other.fun + 1e-7
    np.testing.assert_allclose(mine, other.x, rtol=0.02, atol=0.02)


def test_fitted_confidence_is_calibrated_on_new_objects() -> None:
    features, right, weights = _sample(1, 4000)
    found = fit(features, right, weights)
    new, truth, _ = _sample(2, 4000)
    assert calibration_error(found.confidence(new), truth) < 0.03


def test_objects_that_separate_completely_do_not_blow_up() -> None:
    features = np.linspace(-1, 1, 50)[:, None]
    confidence = fit(features, features[:, 0] > 0, np.ones(50)).confidence(features)
    assert np.isfinite(confidence).all()
    assert confidence[-1] > 0.9 > 0.1 > confidence[0]


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
@settings(max_examples=50, deadline=None)
def test_calibration_error_against_a_slow_twin(pairs: list[tuple[float, bool]]) -> None:
    confidence = np.array([c for c, _ in pairs])
    right = np.array([r for _, r in pairs])
    expected = 0.0
    for k in range(10):
        members = [i for i, c in enumerate(confidence) if min(int(c * 10), 9) == k]
        if members:
            expected += len(members) / len(pairs) * abs(confidence[members].mean() - right[members].mean())
    assert calibration_error(confidence, right) == pytest.approx(expected, abs=1e-9)


def test_card_round_trip_and_other_features_are_refused() -> None:
    rng = np.random.default_rng(0)
    calibration = Calibration(rng.normal(size=len(FEATURES)).round(5), 0.25)
    back = Calibration.from_card(calibration.as_card())
    assert back is not None
    np.testing.assert_array_equal(back.coefficients, calibration.coefficients)
    assert back.intercept == calibration.intercept
    assert Calibration.from_card({}) is None
    assert Calibration.from_card({**calibration.as_card(), "features": ["another"]}) is None


def _features(labels: np.ndarray, flow: np.ndarray, probability: np.ndarray) -> np.ndarray:
    return object_features(labels, flow, probability, np.linspace(0, 0.4, labels.max(initial=0)), 20.0)


def test_features_do_not_depend_on_flips_or_on_the_order_of_axes() -> None:
    labels = generate("nuclei", (96, 128), diameter=20, seed=3).labels
    flow = labels_to_flows(labels)
    probability = np.random.default_rng(0).uniform(0.3, 1, labels.shape).astype(np.float32)
    plain = _features(labels, flow, probability)
    assert plain.shape == (labels.max(), len(FEATURES))
    assert np.isfinite(plain).all()
    flipped = _features(*(np.ascontiguousarray(a[..., ::-1]) for a in (labels, flow, probability)))
    turned = _features(*(np.ascontiguousarray(a.swapaxes(-1, -2)) for a in (labels, flow, probability)))
    np.testing.assert_allclose(flipped, plain, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(turned, plain, rtol=1e-5, atol=1e-6)


def test_no_objects_have_no_features() -> None:
    empty = np.zeros((8, 9), np.int32)
    assert _features(empty, np.zeros((2, 8, 9), np.float32), np.zeros((8, 9), np.float32)).shape == (0, len(FEATURES))


def test_right_objects_are_those_that_the_metric_matches() -> None:
    rng = np.random.default_rng(5)
    for seed in range(5):
        truth = generate("nuclei", (96, 96), diameter=16, seed=seed).labels
        found = np.roll(truth, rng.integers(0, 7, 2), (0, 1))
        truth = truth.astype(np.int64)
        truth[:20] = NOT_ANNOTATED
        counted, right = are_right(truth, found)
        matched = match(truth, found, 0.5, NOT_ANNOTATED)
        assert right.sum() == matched.tp
        assert len(counted) == matched.tp + matched.fp
        assert set(counted[right]) == {predicted for _, predicted in matched.pairs}


def test_segment_gives_confidence_where_the_card_has_a_calibration() -> None:
    weights = load_weights(SHIPPED / "general.safetensors")
    stored = Calibration(np.zeros(len(FEATURES)), np.log(3)).as_card()
    sample = generate("nuclei", (96, 96), seed=1)
    calibrated = Model([replace(weights, card=replace(weights.card, confidence={"plain": stored}))])
    result = calibrated.segment(sample.image, axes="CYX", channels=(0,), diameter=30)
    assert len(result) > 0
    np.testing.assert_allclose(result.objects["confidence"], 0.75, atol=1e-4)
    flipped = calibrated.segment(sample.image, axes="CYX", channels=(0,), diameter=30, options=Options(augment=True))
    assert "confidence" not in flipped.objects


def test_all_networks_of_an_ensemble_say_how_far_to_believe_in_an_object_whatever_their_order() -> None:
    weights = load_weights(SHIPPED / "general.safetensors")
    pixels = generate("nuclei", (96, 96), seed=1).image[0]
    low, high = (Calibration(np.zeros(len(FEATURES)), np.log(odds)).as_card() for odds in (1 / 3, 3))
    low, high, none = (
        replace(weights, card=replace(weights.card, confidence=c)) for c in ({"plain": low}, {"plain": high}, {})
    )
    for pair in ([low, high], [high, low]):
        found = Model(pair).segment(pixels, diameter=30).objects
        np.testing.assert_allclose(found["confidence"], 0.5, atol=1e-4)
    for pair in ([none, high], [high, none]):
        assert "confidence" not in Model(pair).segment(pixels, diameter=30).objects


EVERYTHING = Options(min_confidence=0, flow_threshold=0)


def _general(confidence: dict[str, Any] | None = None) -> Model:
    """The shipped model, or with another calibration."""
    weights = load_weights(SHIPPED / "general.safetensors")
    if confidence is not None:
        weights = replace(weights, card=replace(weights.card, confidence=confidence))
    return Model([weights])


@pytest.fixture(scope="module")
def doubtful() -> np.ndarray:
    """Nuclei so faint and noisy that the network is not sure of all."""
    sample = generate("nuclei", (256, 256), diameter=24, seed=4)
    pixels = sample.image[0] / sample.image[0].max() + np.random.default_rng(1).normal(0, 0.35, (256, 256))
    return pixels.astype(np.float32)


def _segment(model: Model, pixels: np.ndarray, **options: Any) -> Segmentation:
    return model.segment(pixels, axes="YX", diameter=24, options=replace(EVERYTHING, **options))


def _same_objects(found: Segmentation, everything: Segmentation, wanted: np.ndarray) -> None:
    """What was found are the wanted ones of all objects, pixel for pixel, with their rows of the table."""
    assert len(found) == wanted.sum()
    numbers = np.concatenate([[0], np.where(wanted, np.cumsum(wanted), 0)])
    np.testing.assert_array_equal(found.labels, numbers[everything.labels])
    for name in ("confidence", "flow_error", "area", "centre_y"):
        np.testing.assert_allclose(found.objects[name], everything.objects[name][wanted])


def test_objects_below_the_least_confidence_are_dropped_and_nothing_else_changes(doubtful: np.ndarray) -> None:
    model = _general()
    everything = _segment(model, doubtful)
    told = everything.objects["confidence"]
    assert len(told) > 20
    assert told.min() < 0.4 < told.max()
    for least in (0.0, *np.quantile(told, [0.1, 0.5, 0.9]), 1.0):
        _same_objects(_segment(model, doubtful, min_confidence=float(least)), everything, told >= least)
    default = model.segment(doubtful, axes="YX", diameter=24)
    _same_objects(default, everything, told >= 0.4)


def test_a_flow_threshold_beside_the_confidence_drops_more(doubtful: np.ndarray) -> None:
    model = _general()
    everything = _segment(model, doubtful)
    errors, border = everything.objects["flow_error"], everything.objects["touches_border"]
    limit = float(np.median(errors))
    wanted = (errors <= np.where(border, 2 * limit, limit)) & (everything.objects["confidence"] >= 0.5)
    _same_objects(_segment(model, doubtful, flow_threshold=limit, min_confidence=0.5), everything, wanted)


def test_without_a_calibration_objects_are_judged_by_their_flows(doubtful: np.ndarray) -> None:
    model = _general(confidence={})
    papers = _segment(model, doubtful, flow_threshold=0.4)
    for options in (Options(), Options(min_confidence=1.0)):
        found = model.segment(doubtful, axes="YX", diameter=24, options=options)
        np.testing.assert_array_equal(found.labels, papers.labels)
        assert "confidence" not in found.objects
    assert len(_segment(model, doubtful)) > len(papers) > 0


def test_the_size_that_is_measured_does_not_depend_on_how_objects_are_judged(doubtful: np.ndarray) -> None:
    model = _general()
    ways = [EVERYTHING, Options(), Options(min_confidence=0.95), Options(flow_threshold=0.1)]
    assert len({model.segment(doubtful, axes="YX", options=options).diameter for options in ways}) == 1


def test_the_error_that_is_told_is_of_groups_left_out_and_one_group_tells_none(monkeypatch: pytest.MonkeyPatch) -> None:
    features, right, _ = _sample(3, 250)
    monkeypatch.setattr(confidence_fit, "read_pair", lambda record: (None, None))
    monkeypatch.setattr(confidence_fit, "are_right", lambda truth, labels, ignore: (np.arange(1, 251), right))
    monkeypatch.setattr(confidence_fit.confidence, "object_features", lambda *_: features)
    found: Any = SimpleNamespace(labels=None, flow=None, probability=None, objects={"flow_error": None}, diameter=30.0)

    def table(groups: str) -> confidence_fit.Objects:
        objects = confidence_fit.Objects()
        for number, group in enumerate(groups):
            objects.add(Record("drawn", "train", str(number), Path(), Path(), group=group), found)
        return objects

    alone = table("aaa")
    assert len(alone) == 750 and alone.fitted() is not None
    assert alone.left_out_error() is None
    error = table("abcdefab").left_out_error()
    assert error is not None and error < 0.1
    seen: list[int | None] = []
    together = table("abcab")
    fitted = together.fitted
    monkeypatch.setattr(together, "fitted", lambda without: seen.append(without) or fitted(without))
    together.left_out_error()
    assert seen == [0, 1, 2], "images of one group are left out together"


def test_a_new_fit_does_not_depend_on_the_calibration_it_replaces(tmp_path: Path) -> None:
    """Objects that the old calibration would have dropped are learned from, too."""
    records = []
    for seed in range(6):
        sample = generate("nuclei", (192, 192), diameter=16, seed=seed)
        image, masks = tmp_path / f"{seed}.tif", tmp_path / f"{seed}_masks.tif"
        tifffile.imwrite(image, sample.image[0])
        tifffile.imwrite(masks, sample.labels.astype(np.uint16))
        records.append(Record("drawn", "train", str(seed), image, masks, group=str(seed)))
    sure_of_nothing = Calibration(np.zeros(len(FEATURES)), -3.0).as_card()
    cards = [{}, {"plain": sure_of_nothing, "augment": sure_of_nothing}]
    first, second = (fit_confidence(_general(card).weights[0], records).card.confidence for card in cards)
    assert first["plain"]["objects"] > 200
    assert first == second


@pytest.mark.parametrize(
    "change", [{"coefficients": [1.0]}, {"coefficients": "many"}, {"intercept": None}, {"features": 3}, None]
)
def test_a_calibration_that_cannot_be_understood_is_refused(change: dict[str, Any] | None) -> None:
    good = Calibration(np.arange(len(FEATURES), dtype=float), 0.5)
    assert np.array_equal(Calibration.from_card(good.as_card()).coefficients, good.coefficients)
    with pytest.raises(WeightsError, match="confidence"):
        Calibration.from_card(["a list"] if change is None else good.as_card() | change)
