"""Pictures of volumes."""

import numpy as np
import pytest
from PIL import Image as Pillow

from cellbasin.image import Image
from cellbasin.io.montage import montage, sweep, write_volume_overlay


@pytest.fixture
def volume():
    """A bright box in each of two channels, with its labels."""
    voxels = np.full((2, 12, 40, 60), 10, np.uint16)
    labels = np.zeros((12, 40, 60), np.int32)
    labels[4:9, 10:30, 20:45] = 3
    voxels[:, labels > 0] = 1000
    return Image(voxels, "CZYX", name="box"), labels


def outlined(picture):
    """Pixels with a colour that gray has not."""
    return np.ptp(picture.astype(int), axis=-1) > 60


def test_montage_shows_the_object_in_all_directions(volume):
    image, labels = volume
    picture = montage(image, labels, 2.0, (0,))
    upper, lower = picture[16:336], picture[352:]
    assert not outlined(upper[:, :480]).any()  # z = 3
    assert outlined(upper[:, 496:976]).any()  # z = 6
    assert outlined(lower[:, :480]).any() and outlined(lower[:, 496:816]).any()
    rows = np.flatnonzero(outlined(lower[:, :480]).any(1))
    assert rows[-1] - rows[0] + 1 == pytest.approx(5 * 2.0 * 8, abs=2)  # five planes, twice as far apart


def test_sweep_has_a_frame_for_every_plane(volume):
    frames = sweep(*volume)
    assert len(frames) == 12 and len({frame.shape for frame in frames}) == 1
    assert [outlined(frame[16:]).sum() > 200 for frame in frames] == [4 <= z < 9 for z in range(12)]
    many = np.zeros((200, 8, 8), np.int32)
    assert len(sweep(Image(many.astype(np.uint8), "ZYX"), many)) == 48


def test_files(volume, tmp_path):
    image, labels = volume
    before = image.array.copy()
    write_volume_overlay(tmp_path / "box_overlay.png", image, labels)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["box_overlay.gif", "box_overlay.png"]
    with Pillow.open(tmp_path / "box_overlay.gif") as animation:
        assert animation.n_frames >= 3 and animation.info["loop"] == 0
    assert np.array_equal(image.array, before)


def test_labels_of_another_size_are_refused(volume):
    with pytest.raises(ValueError, match="of its size"):
        montage(volume[0], volume[1][1:])


def test_tall_volumes_give_no_endless_picture():
    image = Image(np.zeros((300, 24, 24), np.uint8), "ZYX")
    assert max(montage(image, np.zeros((300, 24, 24), np.int32), 5.0).shape) < 4000


def test_planes_thinner_than_a_pixel_of_the_sweep_are_seen():
    voxels = np.tile(np.array([0, 200], np.uint8).repeat(500), (3, 1, 1))
    frames = sweep(Image(voxels, "ZYX"), np.zeros(voxels.shape, np.int32))
    assert all(frame[-1, 300].min() > 200 and frame[-1, 20].max() < 50 for frame in frames)
