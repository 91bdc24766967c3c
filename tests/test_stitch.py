"""Linking the objects of planes through z."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellbasin.generator import generate_volume
from cellbasin.labels import keep_largest_piece, relabel, remove_small
from cellbasin.metrics import average_precision
from cellbasin.stitch import stitch_planes


def disk(centre, radius, shape=(30, 40)):
    y, x = np.mgrid[: shape[0], : shape[1]]
    return ((y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2).astype(np.int32)


EMPTY = np.zeros((30, 40), np.int32)


def test_an_object_missing_in_one_plane_is_interpolated_there():
    below, above = disk((15, 15), 5), 7 * disk((15, 18), 9)
    found = stitch_planes([below, EMPTY, above])
    assert np.unique(found).tolist() == [0, 1]
    area = [(plane > 0).sum() for plane in found]
    assert area[0] < area[1] < area[2]
    assert found[1, 15, 16] == 1 and not (found[1][(below | above) == 0]).any()


def test_what_is_there_already_is_not_overdrawn():
    other = 3 * disk((15, 22), 4)
    found = stitch_planes([disk((15, 12), 8), other, disk((15, 12), 8)])
    assert (found[1][other > 0] == found[1, 15, 24]).all()
    assert found[1, 15, 24] != found[0, 15, 12] == found[1, 15, 8] == found[2, 15, 12]


def test_an_object_is_bridged_only_where_there_is_room():
    """Two cells that the network joins in one plane stay whole above it, as two."""
    two = disk((15, 10), 5) + 2 * disk((15, 21), 5)
    joint = (disk((15, 10), 6) + disk((15, 21), 6) > 0).astype(np.int32)
    joint[13:18, 10:21] = 1
    found = stitch_planes([two, two, joint, two, two])
    whole = keep_largest_piece(found)
    assert np.array_equal(found, whole)  # no label has two pieces
    assert all(len(np.unique(plane[plane > 0])) == 2 for plane in (*whole[:2], *whole[3:]))


def test_unrelated_objects_never_share_a_label():
    one = disk((15, 15), 6)
    assert stitch_planes([one, EMPTY, EMPTY, one])[[0, 3], 15, 15].tolist() == [1, 2]
    apart = stitch_planes([one, EMPTY, disk((15, 34), 4), EMPTY, one])
    assert len(np.unique(apart)) == 4
    assert stitch_planes([EMPTY, EMPTY, one, one]).max() == 1


def test_objects_are_matched_one_to_one():
    two = disk((15, 10), 5) + 2 * disk((15, 21), 5)
    joint = ((disk((15, 10), 5) + disk((15, 21), 5)) > 0).astype(np.int32)
    joint[13:18, 10:21] = 1
    found = stitch_planes([two, joint])
    assert found.max() == 2 and len(np.unique(found[1])) == 2


def test_one_object_is_not_given_to_two_that_end():
    """An object of the last plane is first linked to the plane before; only what is left may reach over it."""
    found = stitch_planes([disk((15, 15), 6), disk((15, 22), 6), disk((15, 19), 7)], threshold=0.15)
    assert found[2, 15, 19] == found[1, 15, 19] == found[0, 15, 15] == 1
    assert found.max() == 1


@given(st.integers(0, 2**32 - 1), st.permutations(range(1, 13)))
@settings(max_examples=8, deadline=None)
def test_numbers_within_planes_do_not_matter(seed, order):
    sample = generate_volume((6, 40, 40), diameter=12, count=8, seed=seed % 50).labels
    numbers = np.concatenate([[0], order])
    shuffled = [numbers[plane] if z % 2 else plane for z, plane in enumerate(sample)]
    pairs = np.stack([stitch_planes(shuffled).ravel(), stitch_planes(list(sample)).ravel()])
    assert [len(np.unique(side)) for side in pairs] == 2 * [len(np.unique(pairs, axis=1).T)]


def test_planes_of_drawn_objects_are_put_together_again():
    sample = generate_volume((24, 90, 90), diameter=22, density=0.08, seed=7).labels
    planes = [relabel(plane) for plane in sample]
    found = remove_small(stitch_planes(planes, 0.1), 100)  # tips may stay alone
    assert average_precision(sample, found, (0.9,))[0] == 1


@pytest.mark.parametrize(
    ("planes", "threshold", "words"),
    [
        ([], 0.5, "at least one"),
        ([EMPTY, EMPTY[1:]], 0.5, "one shape"),
        ([EMPTY], 0, "threshold"),
        ([EMPTY - 1], 0.5, "int32 from -1"),
    ],
)
def test_bad_input(planes, threshold, words):
    with pytest.raises(ValueError, match=words):
        stitch_planes(planes, threshold)
