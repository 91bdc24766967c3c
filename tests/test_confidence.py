"""Confidence of objects: the regression, its features, and what ends up in the result."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from cellbasin.confidence import FEATURES, Calibration, calibration_error, fit, object_features
from cellbasin.evaluation import IGNORE, are_right
from cellbasin.flows import labels_to_flows
from cellbasin.generator import generate
from cellbasin.metrics import match
from cellbasin.model import Model
from cellbasin.options import Options
from cellbasin.results import object_table
from cellbasin.weights import SHIPPED, load_weights


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
    count = labels.max(initial=0)
    table = object_table(labels, probability, np.linspace(0, 0.4, count))
    return object_features(labels, flow, probability, table, 20.0)


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
        truth[:20] = IGNORE
        counted, right = are_right(truth, found)
        matched = match(truth, found, 0.5, IGNORE)
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
