"""The size model: from styles to diameters, its fit, and how it is stored."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import approx_fprime

from cellbasin.size import LARGEST, SMALLEST, SizeModel, common_diameter, diameter_from_style
from cellbasin.training.size_fit import _best_fit, fit_hidden, fit_linear
from cellbasin.weights import WeightsError


def _styles(count: int, seed: int = 0, length: int = 12) -> np.ndarray:
    styles = np.abs(np.random.default_rng(seed).normal(size=(count, length)))
    return (styles / np.linalg.norm(styles, axis=1, keepdims=True)).astype(np.float32)


def _bent(styles: np.ndarray) -> np.ndarray:
    """Something that no linear map can say of styles."""
    return np.sin(9 * styles[:, 0]) + styles[:, 1] * styles[:, 2]


def test_a_linear_model_is_the_papers_regression() -> None:
    styles, wanted = _styles(400), np.linspace(-1, 1, 12)
    found = fit_linear(styles, styles @ wanted + 0.3, penalty=1e-9)
    np.testing.assert_allclose(found.log_ratio(styles), styles @ wanted + 0.3, atol=1e-4)
    solution = np.linalg.lstsq(np.column_stack([styles, np.ones(400)]), _bent(styles), rcond=None)[0]
    found = fit_linear(styles, _bent(styles), penalty=1e-12)
    np.testing.assert_allclose(found.log_ratio(styles), styles @ solution[:-1] + solution[-1], atol=1e-3)


def test_hidden_units_say_what_a_linear_map_cannot_also_of_styles_not_seen() -> None:
    styles, new = _styles(1500), _styles(500, seed=1)
    linear = fit_linear(styles, _bent(styles))
    bent = SizeModel(
        linear.coefficients, linear.intercept, fit_hidden(styles, _bent(styles) - linear.log_ratio(styles))
    )
    wrong = [np.abs(model.log_ratio(new) - _bent(new)).mean() for model in (linear, bent)]
    assert wrong[1] < wrong[0] / 4


def test_the_fit_has_come_to_rest() -> None:
    """No small change of any weight makes the penalised error smaller: its gradient, taken by differences, is 0."""
    styles, decay, units = _styles(60, length=3), 1e-2, 2
    wanted = _bent(styles)
    hidden = fit_hidden(styles, wanted, units=units, decay=decay)
    spread = styles.std(axis=0)

    def cost(values: np.ndarray) -> float:
        rows = values.reshape(units, 5)
        wrong = SizeModel(np.zeros(3), 0.0, rows).log_ratio(styles) - wanted
        squares = ((rows[:, :3] * spread) ** 2).sum() + (rows[:, 4] ** 2).sum()
        return float(0.5 * np.mean(wrong**2) + 0.5 * decay * squares)

    assert np.abs(approx_fprime(hidden.ravel(), cost, 1e-6)).max() < 1e-3


def test_numbers_of_a_style_that_never_vary_do_no_harm() -> None:
    styles = _styles(100)
    styles[:, 5] = 0.25
    hidden = fit_hidden(styles, _bent(styles))
    assert np.isfinite(hidden).all()
    styles[:, 5] += 1e-4
    moved = SizeModel(np.zeros(12), 0.0, hidden)
    assert np.abs(moved.log_ratio(styles) - _bent(styles)).mean() < 0.5


@pytest.mark.parametrize("images", [3, 40, 300])
def test_hidden_units_are_kept_only_where_they_help_images_left_out(images: int) -> None:
    owner = np.repeat(np.arange(images), 5)
    styles = _styles(5 * images)
    noise = np.random.default_rng(0).normal(0, 0.3, 5 * images)
    for truth in (_bent(styles), 2 * styles[:, 0]):
        model, record = _best_fit(styles, truth + noise, owner)
        assert record["median_log2_error"] <= record["median_log2_error_linear"]
        assert bool(len(model.hidden)) == (record["median_log2_error"] < record["median_log2_error_linear"])


def test_images_of_one_group_tell_no_error() -> None:
    """JSON, which the card is, knows no infinity."""
    _, record = _best_fit(_styles(6), np.zeros(6), np.zeros(6, int))
    assert set(record) == {"penalty", "looks"}


def test_round_trip_through_a_card() -> None:
    styles = _styles(200)
    linear = fit_linear(styles, _bent(styles))
    for hidden in (linear.hidden, fit_hidden(styles, _bent(styles), units=3)):
        model = SizeModel(linear.coefficients, linear.intercept, hidden)
        again = SizeModel.from_card(model.as_card(), styles.shape[1])
        assert again is not None
        np.testing.assert_allclose(again.log_ratio(styles), model.log_ratio(styles), atol=1e-4)
    # Cellpose's size models, and ours before there were hidden units
    plain = SizeModel.from_card({"coefficients": [1.0, 2.0], "intercept": 0.5}, 2)
    assert plain is not None and plain.log_ratio(np.array([1.0, 1.0])) == 3.5
    assert SizeModel.from_card({}, 2) is None


@pytest.mark.parametrize(
    "stored",
    [
        {"intercept": 1.0},
        {"coefficients": ["a"], "intercept": 1.0},
        {"coefficients": [1.0, 2.0], "intercept": 1.0},
        {"coefficients": [1.0], "intercept": None},
        {"coefficients": [1.0], "intercept": 1.0, "hidden": "###"},
        {"coefficients": [1.0], "intercept": 1.0, "hidden": "AAAAAAAA"},
        {"coefficients": [1.0], "intercept": 1.0, "hidden": "AAAAAA=="},
    ],
)
def test_a_card_that_makes_no_sense_is_an_error(stored: dict[str, object]) -> None:
    with pytest.raises(WeightsError, match="size model"):
        SizeModel.from_card(stored, 1)


@settings(deadline=None, max_examples=40)
@given(true=st.floats(6, 300), reach=st.floats(1.0, 3.0))
def test_the_estimate_comes_home_from_every_look(true: float, reach: float) -> None:
    """A network that tells a ratio of sizes well near its liking, and only in which direction far away."""

    def style_at(diameter: float) -> np.ndarray:
        return np.array([reach * np.tanh(np.log(true / diameter) / reach)])

    found = diameter_from_style(SizeModel(np.ones(1), 0.0, np.zeros((0, 3))), style_at)
    assert SMALLEST <= found <= LARGEST
    if 12 < true < 96:
        assert abs(np.log(found / true)) < 0.15


def test_the_common_diameter_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no image"):
        common_diameter([])
