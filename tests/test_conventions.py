"""Images are prepared for Cellpose's networks as Cellpose does it, step by step as written out here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellbasin.conventions import CONVENTIONS, plan_flipped_padded_tiles, plan_padded_tiles
from cellbasin.dynamics import flow_errors, judge, segment_flows
from cellbasin.flows import centroid_flows, labels_to_flows
from cellbasin.model import Model
from cellbasin.network_outputs import FLOW_SCALE
from cellbasin.options import Options
from cellbasin.resize import sample
from cellbasin.tiling import Blender, cut
from cellbasin.weights import CONVENTIONS as NAMES
from cellbasin.weights import Architecture, Card, Weights, WeightsError

torch = pytest.importorskip("torch")
functional = torch.nn.functional
Network = Callable[[np.ndarray], np.ndarray]

SMALL = Architecture(channels=(3, 4), stem=1, refine=0)


def weights(**changes: object) -> Weights:
    from cellbasin import network

    torch.manual_seed(1)
    card = Card("small", SMALL, conventions="cellpose", scores={"precisions": ["float32"]})
    return Weights(replace(card, **changes), network.Network(SMALL).tensors(), "")  # type: ignore[arg-type]


def bilinear(maps: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    found = functional.interpolate(torch.from_numpy(maps)[None], size=shape, mode="bilinear", align_corners=False)
    return found[0].numpy()


def taper(length: int) -> np.ndarray:
    place = np.abs(np.arange(224) - 111.5)
    mask = 1 / (1 + np.exp((place - (112 - 20)) / 7.5))
    return mask[112 - length // 2 : 112 + length // 2 + length % 2]


def upstream_maps(network: Network, pixels: np.ndarray, scale: float, *, flips: bool) -> np.ndarray:
    """Resize, pad to a multiple of 16 and 8 more on either side, cut, run, blend, crop, resize back."""
    original = pixels.shape[1:]
    scaled = bilinear(pixels, tuple(int(length * scale) for length in original)) if scale != 1 else pixels
    pads = []
    for length in scaled.shape[1:]:
        missing = int(16 * np.ceil(length / 16) - length)
        pads.append((8 + missing // 2, 8 + missing - missing // 2))
    padded = np.pad(scaled, [(0, 0), *pads])
    canvas = padded
    if flips:
        canvas = np.pad(padded, [(0, 0), *((0, max(0, 224 - length)) for length in padded.shape[1:])])
    starts, sides = [], []
    for length in canvas.shape[1:]:
        side = min(224, length)
        count = max(2, int(np.ceil(2 * length / 224))) if flips else int(np.ceil(1.2 * length / 224))
        starts.append(np.linspace(0, length - side, count if flips or length > 224 else 1).astype(int))
        sides.append(side)
    total, weight = np.zeros((3, *canvas.shape[1:])), np.zeros(canvas.shape[1:])
    mask = taper(sides[0])[:, None] * taper(sides[1])
    for j, y in enumerate(starts[0]):
        for i, x in enumerate(starts[1]):
            turn = (
                slice(None),
                slice(None, None, -1 if flips and i % 2 else 1),
                slice(None, None, -1 if flips and j % 2 else 1),
            )
            maps = network(canvas[:, y : y + sides[0], x : x + sides[1]][turn])[turn].copy()
            maps[0] *= -1 if flips and i % 2 else 1
            maps[1] *= -1 if flips and j % 2 else 1
            total[:, y : y + sides[0], x : x + sides[1]] += maps * mask
            weight[y : y + sides[0], x : x + sides[1]] += mask
    blended = (total / weight)[:, pads[0][0] : pads[0][0] + scaled.shape[1], pads[1][0] : pads[1][0] + scaled.shape[2]]
    return bilinear(blended.astype(np.float32), original) if scale != 1 else blended


@pytest.mark.parametrize("flips", [False, True])
@pytest.mark.parametrize(("shape", "diameter"), [((150, 97), 30), ((130, 301), 20), ((350, 250), 47.0)])
def test_maps_are_those_of_the_steps_written_out(shape: tuple[int, int], diameter: float, flips: bool) -> None:
    model = Model([weights()], engine="openvino", precision="float32")
    pixels = np.random.default_rng(0).random((2, *shape), np.float32)
    run = model.engines[0].run
    expected = upstream_maps(
        lambda tile: run(np.ascontiguousarray(tile[None]))[0][0], pixels, 30 / diameter, flips=flips
    )
    found = model.predict(pixels, diameter, Options(augment=flips))
    np.testing.assert_allclose(FLOW_SCALE * found.flow, expected[:2], atol=2e-5)
    np.testing.assert_allclose(found.probability, 1 / (1 + np.exp(-expected[2])), atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700), st.sampled_from([64, 224, 256]), st.booleans())
def test_tiles_cover_the_image_and_blend_to_it(height: int, width: int, tile: int, flipped: bool) -> None:
    shape = (height, width)
    plan = plan_flipped_padded_tiles(shape, tile, 8) if flipped else plan_padded_tiles(shape, tile, 0.1, 8)
    assert plan.tile[0] % 16 == 0 and plan.tile[1] % 16 == 0 and max(plan.tile) <= tile
    if flipped:
        plan = replace(plan, alternating=False)  # the image is no flow whose sign turns
    image = np.random.default_rng(0).random((1, *shape), np.float32)
    blender = Blender(plan, maps=1)
    for number in range(len(plan)):
        blender.add(cut(image, plan, [number]), [number])
    np.testing.assert_allclose(blender.result(), image, atol=1e-5)


def test_beyond_the_image_are_zeros() -> None:
    plan = plan_padded_tiles((20, 30))
    (tile,) = cut(np.ones((1, 20, 30)), plan, [0])
    assert tile.shape == (1, 48, 48) and tile.sum() == 600
    assert tile[0, 14:34, 9:39].all()


@pytest.mark.parametrize("shape", [((50, 60), (25, 20)), ((33, 47), (71, 100)), ((9, 9), (9, 4))])
def test_sample_is_plain_bilinear(shape: tuple[tuple[int, int], tuple[int, int]]) -> None:
    image = np.random.default_rng(0).random((2, *shape[0]), np.float32)
    np.testing.assert_allclose(sample(image, shape[1]), bilinear(image, shape[1]), atol=1e-5)


def test_border_objects_are_judged_like_others() -> None:
    labels = np.zeros((40, 40), np.int32)
    labels[0:14, 5:25], labels[20:34, 5:25] = 1, 2
    noisy = labels_to_flows(labels) + np.float32(0.55)
    inside = (labels > 0).astype(np.float32)
    found = segment_flows(noisy, inside, flow_threshold=None)
    assert len(judge(found, 0.4, border_leniency=1.0).flow_errors) == 0
    assert len(segment_flows(noisy, inside).flow_errors) == 1
    assert CONVENTIONS["cellpose"].border_leniency == 1.0 and set(CONVENTIONS) == set(NAMES)


def test_objects_are_judged_by_cellposes_own_flows_of_them() -> None:
    image = np.random.default_rng(0).random((64, 64), np.float32)
    options = Options(flow_threshold=0, min_size=3, probability_threshold=0.0)
    for conventions, own_flows in (("cellpose", centroid_flows), ("cellbasin", labels_to_flows)):
        model = Model([weights(conventions=conventions)], engine="openvino", precision="float32")
        found = model.segment(image, diameter=30, options=options)
        assert len(found)
        expected = flow_errors(found.labels, found.flow, own_flows(found.labels))
        np.testing.assert_allclose(found.objects["flow_error"], expected)


def test_first_guess_without_a_size_model_is_the_training_diameter() -> None:
    model = Model([weights(typical_diameter=52.0)], engine="openvino", precision="float32")
    image = np.zeros((64, 64), np.uint8)
    assert model.segment(image).diameter == 52.0


def test_networks_of_two_conventions_are_no_ensemble() -> None:
    with pytest.raises(WeightsError, match="conventions"):
        Model([weights(), weights(conventions="cellbasin")], precision="float32")


def test_networks_of_different_maps_are_no_ensemble() -> None:
    three = weights()
    four = replace(three, card=replace(three.card, architecture=replace(three.card.architecture, outputs=4)))
    with pytest.raises(WeightsError, match="3 and 4 maps"):
        Model([three, four], precision="float32")
