import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cellbasin.tiling import Blender, cut, flip_tiles, plan_flipped_tiles, plan_tiles, unflip_maps

shapes = st.tuples(st.integers(1, 700), st.integers(1, 900))
few = settings(max_examples=25, deadline=None)


def plans(shape):
    return [
        plan_tiles(shape),
        plan_tiles(shape, divisor=32),
        plan_tiles(shape, 64, 0.5),
        plan_tiles(shape, 96, 0.0),
        plan_flipped_tiles(shape),
    ]


def noise(shape, seed=0):
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def blended(network, image, tiling, batch=8):
    blender = None
    for first in range(0, len(tiling), batch):
        indices = range(first, min(first + batch, len(tiling)))
        maps = network(cut(image, tiling, indices))
        blender = blender or Blender(tiling, maps.shape[1])
        blender.add(maps, indices)
    return blender.result()


def as_logits(network):
    """A network whose flow maps are zero, so that flipping changes no sign."""
    return lambda tiles: np.pad(network(tiles), ((0, 0), (2, 0), (0, 0), (0, 0)))


@given(shapes)
@example((1, 1))
@example((224, 225))
@settings(max_examples=150, deadline=None)
def test_tiles_cover_the_image_and_stay_inside(shape):
    for tiling in plans(shape):
        divisor = 32 if tiling == plan_tiles(shape, divisor=32) else 16
        for starts, tile, length in zip((tiling.rows, tiling.columns), tiling.tile, shape, strict=True):
            assert tile % divisor == 0
            if tile > length:
                assert tile - length < divisor
                assert set(starts) == {-((tile - length) // 2)}
            else:
                assert starts[0] == 0
                assert starts[-1] == length - tile
                steps = np.diff(starts)
                assert (steps <= tile).all()
                assert not len(steps) or np.ptp(steps) <= 1


@given(st.integers(225, 3000), st.floats(0, 0.6))
@settings(max_examples=100, deadline=None)
def test_neighbours_overlap_enough_and_tiles_are_as_few_as_can_be(length, overlap):
    starts = plan_tiles((length, 20), 224, overlap).rows
    step = int(224 * (1 - overlap))
    assert np.diff(starts).max() <= step
    assert (len(starts) - 2) * step < length - 224


@given(shapes, st.integers(1, 9))
@few
def test_the_identity_gives_the_image_back(shape, batch):
    image = noise((2, *shape))
    for tiling in plans(shape):
        result = blended(as_logits(lambda tiles: tiles), image, tiling, batch)
        np.testing.assert_allclose(result[2:], image, atol=1e-6)


@given(shapes)
@few
def test_a_constant_stays_a_constant(shape):
    image = np.zeros((1, *shape), np.float32)
    for tiling in plans(shape):
        ones = blended(as_logits(lambda tiles: np.ones((len(tiles), 1, *tiles.shape[2:]))), image, tiling)[2]
        np.testing.assert_allclose(ones, 1, atol=1e-6)


@given(shapes)
@few
def test_coordinates_are_reproduced(shape):
    coordinates = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")).astype(np.float32)
    for tiling in plans(shape):
        result = blended(as_logits(lambda tiles: tiles), coordinates, tiling)[2:]
        np.testing.assert_allclose(result, coordinates, atol=1e-6 * max(shape) + 1e-6)


@given(shapes)
@few
def test_a_pointwise_network_does_not_notice_the_tiles(shape):
    def network(tiles):
        return np.stack([np.tanh(tiles[:, 0] * tiles[:, 1]), tiles[:, 0] ** 2 - tiles[:, 1]], axis=1)

    image = noise((2, *shape))
    for tiling in plans(shape):
        result = blended(as_logits(network), image, tiling)[2:]
        np.testing.assert_allclose(result, network(image[None])[0], atol=1e-5)


def test_a_directed_network_does_not_notice_the_flips():
    """The gradient of a plane: flow components must come back with the right sign from flipped tiles."""
    y, x = np.mgrid[:500, :700].astype(np.float32)
    image = (3 * y - 2 * x)[None] / 100

    def network(tiles):
        return np.stack([*np.gradient(tiles[:, 0], axis=(1, 2)), tiles[:, 0]], axis=1)

    result = blended(network, image, plan_flipped_tiles((500, 700)))
    np.testing.assert_allclose(result[0], 0.03, atol=1e-5)
    np.testing.assert_allclose(result[1], -0.02, atol=1e-5)
    np.testing.assert_allclose(result[2], image[0], atol=1e-5)


def test_blending_equals_the_plain_formula():
    """Sum of tile times taper over sum of tapers, written down without any of the tricks."""
    shape = (300, 130)
    tiling = plan_tiles(shape, 96, 0.1)
    maps = noise((len(tiling), 3, *tiling.tile))
    taper = 1 / (1 + np.exp((np.abs(np.arange(96) - 47.5) - 28) / 7.5))
    total, weight = np.zeros((3, *shape)), np.zeros(shape)
    for index, tile in enumerate(maps):
        y, x = tiling.origin(index)
        total[:, y : y + 96, x : x + 96] += tile * np.outer(taper, taper)
        weight[y : y + 96, x : x + 96] += np.outer(taper, taper)
    blender = Blender(tiling, 3)
    blender.add(maps, range(len(tiling)))
    np.testing.assert_allclose(blender.result(), total / weight, atol=1e-5)


def reflected(length, before, after):
    return np.pad(np.arange(length), (before, after), mode="reflect")


@given(st.integers(1, 40), st.integers(1, 40))
@few
def test_padding_equals_numpys_reflection(height, width):
    image = noise((1, height, width))
    tiling = plan_tiles((height, width), 64, divisor=32)
    (top, left), (tall, wide) = tiling.origin(0), tiling.tile
    rows = reflected(height, -top, tall - height + top)
    columns = reflected(width, -left, wide - width + left)
    np.testing.assert_array_equal(cut(image, tiling, [0])[0], image[:, rows][:, :, columns])


def test_flips_alternate_as_in_the_paper():
    tiling = plan_flipped_tiles((448, 448))
    assert (tiling.rows, tiling.columns) == ((0, 112, 224), (0, 112, 224))
    assert [tiling.flip(i) for i in range(6)] == [
        *[(False, False), (True, False), (False, False)],
        *[(False, True), (True, True), (False, True)],
    ]
    assert not any(any(plan_tiles((448, 448)).flip(i)) for i in range(9))


@given(shapes)
@few
def test_every_pixel_of_a_flipped_plan_inside_the_margins_is_seen_four_times(shape):
    tiling = plan_flipped_tiles(shape)
    seen = np.zeros(shape, int)
    for index in range(len(tiling)):
        y, x = tiling.origin(index)
        seen[max(y, 0) : y + tiling.tile[0], max(x, 0) : x + tiling.tile[1]] += 1
    margins = tuple(slice(112, -112) if length > 224 else slice(None) for length in shape)
    assert seen.min() >= 1
    assert seen[margins].size == 0 or seen[margins].min() >= 4


flips = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=5)


@given(flips)
@few
def test_flips_applied_twice_change_nothing(flips):
    maps = noise((len(flips), 3, 6, 7))
    kept = maps.copy()
    np.testing.assert_array_equal(flip_tiles(flip_tiles(maps, flips), flips), kept)
    np.testing.assert_array_equal(unflip_maps(unflip_maps(maps, flips), flips), kept)
    np.testing.assert_array_equal(maps, kept)


@pytest.mark.parametrize(
    ("flip", "signs"), [((True, False), (-1, 1, 1)), ((False, True), (1, -1, 1)), ((True, True), (-1, -1, 1))]
)
def test_the_component_along_the_flipped_axis_changes_sign(flip, signs):
    maps = noise((1, 3, 4, 5))
    expected = flip_tiles(maps, [flip]) * np.array(signs)[:, None, None]
    np.testing.assert_array_equal(unflip_maps(maps, [flip]), expected)


def test_inputs_are_not_modified_and_any_view_works():
    volume = noise((2, 30, 40, 50)).astype(np.float64)
    kept = volume.copy()
    plane = volume[:, :, 7].transpose(0, 2, 1)
    tiling = plan_flipped_tiles(plane.shape[1:])
    tiles = cut(plane, tiling, [0, 1, 2, 3])
    assert tiles.dtype == np.float32
    before = tiles.copy()
    Blender(tiling, 2).add(tiles, [0, 1, 2, 3])
    np.testing.assert_array_equal(tiles, before)
    np.testing.assert_array_equal(volume, kept)


def test_the_number_of_threads_does_not_matter(monkeypatch):
    image = noise((3, 500, 600))
    threaded = blended(lambda tiles: tiles, image, plan_tiles((500, 600)))
    monkeypatch.setenv("CELLBASIN_THREADS", "1")
    np.testing.assert_array_equal(blended(lambda tiles: tiles, image, plan_tiles((500, 600))), threaded)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (((0, 5),), "positive whole"),
        (((5,),), "positive whole"),
        (((5, 5), 100), "multiple of 16"),
        (((5, 5), 0), "multiple of 16"),
        (((5, 5), 224, 1.0), "0 ≤ overlap < 1"),
        (((5, 5), 224, -0.1), "0 ≤ overlap < 1"),
    ],
)
def test_wrong_plans(arguments, words):
    with pytest.raises(ValueError, match=words):
        plan_tiles(*arguments)


def test_wrong_shapes_and_tiles():
    tiling = plan_tiles((300, 300))
    with pytest.raises(ValueError, match="expected"):
        cut(noise((2, 300, 301)), tiling, [0])
    blender = Blender(tiling, 3)
    tile = np.zeros((1, 3, 224, 224), np.float32)
    with pytest.raises(ValueError, match="found maps of shape"):
        blender.add(tile[:, :2], [0])
    with pytest.raises(ValueError, match="4 of 4 tiles are missing"):
        blender.result()
    blender.add(tile, [0])
    for wrong in (0, 4, -1):
        with pytest.raises(ValueError, match="each of the 4 tiles once"):
            blender.add(tile, [wrong])


@pytest.mark.parametrize("shape", [(30, 20000), (20000, 30)])
@pytest.mark.parametrize("plan", [plan_tiles, plan_flipped_tiles])
def test_a_tile_of_a_long_strip_takes_no_copy_of_the_strip(shape, plan):
    image = np.zeros((2, *shape), np.float32)
    tiling = plan(shape)
    tracemalloc.start()
    try:
        tile = cut(image, tiling, [1])
        assert tracemalloc.get_traced_memory()[1] < 5 * tile.nbytes
    finally:
        tracemalloc.stop()
