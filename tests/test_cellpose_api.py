"""Cellpose's Python calls: scripts that use them run, and get what the real calls give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from cellpose_helpers import labels, picture, short_training, write_network

import cellbasin
from cellbasin.cellpose_api import core, dynamics, io, models, plot, train, utils
from cellbasin.cellpose_api.arrays import arranged, picked
from cellbasin.io import ReadError, read_seg
from cellbasin.weights import PAPER

__all__ = ["short_training"]  # a fixture


@pytest.fixture(autouse=True)
def no_networks_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELLPOSE_LOCAL_MODELS_PATH", str(tmp_path / "cellpose"))
    monkeypatch.setenv("CELLBASIN_MODELS", str(tmp_path / "models"))


# upstream's tests of shapes (tests/test_shape.py), with cellbasin's network


@pytest.mark.parametrize(
    ("shape", "settings", "expected"),
    [
        ((224, 1, 224), {"channels": [0, 0], "channel_axis": 1}, (224, 224)),
        ((224, 224, 1, 5, 1), {"channels": [0, 0], "channel_axis": None, "z_axis": 3}, (5, 224, 224)),
        ((5, 224, 224), {"channels": [0, 0], "stitch_threshold": 0.9}, (5, 224, 224)),
        ((224, 3, 224), {"channels": [2, 1], "channel_axis": 1}, (224, 224)),
    ],
)
def test_shapes(shape: tuple[int, ...], settings: dict, expected: tuple[int, ...]) -> None:
    masks, flows, _, diameter = models.Cellpose(model_type="cyto3").eval(np.zeros(shape), diameter=30, **settings)
    assert masks.shape == expected and diameter == 30
    assert flows[1].shape == (flows[1].shape[0], *expected)


def test_eval_is_segment() -> None:
    image = picture()
    segmentation = cellbasin.load_model().segment(image, diameter=20)
    model = models.CellposeModel(gpu=core.use_gpu(), pretrained_model="general")
    masks, flows, style = model.eval(image, channels=[0, 0], diameter=20)
    assert masks.dtype == np.uint16 and np.array_equal(masks, segmentation.labels) and masks.max() > 3
    assert flows[0].shape == (96, 96, 3) and flows[0].dtype == np.uint8
    np.testing.assert_allclose(flows[1], 5 * segmentation.flow, rtol=1e-6)
    np.testing.assert_allclose(1 / (1 + np.exp(-flows[2])), segmentation.probability, atol=1e-5)
    assert np.array_equal(style, segmentation.style)
    inverted = model.eval(image.max() - image, channels=[0, 0], diameter=20, invert=True)[0]
    assert np.array_equal(inverted, masks)
    assert model.eval(image, diameter=20, compute_masks=False)[0].size == 0


def test_planes_that_are_stitched_may_be_normalised_one_by_one() -> None:
    model = models.CellposeModel(pretrained_model="general")
    fading = np.stack([picture()] * 2) * np.array([1.0, 0.02])[:, None, None]
    settings = {"channels": [0, 0], "diameter": 20, "stitch_threshold": 0.3}
    together, alone = (model.eval(fading, normalize={"norm3D": one}, **settings)[0] for one in (True, False))
    assert not np.array_equal(together[0], together[1]) and alone[0].max() > 3
    assert np.array_equal(alone[0], alone[1])


def test_what_cellprofiler_sends_for_images_and_volumes() -> None:
    image, volume = picture(), np.stack([picture()[:48, :48]] * 4)
    model = models.CellposeModel(pretrained_model="general")
    plain = model.eval(image, channels=[0, 0], diameter=20)[0]
    sent = model.eval(image, channels=[0, 0], diameter=20, do_3D=False, anisotropy=0.0, stitch_threshold=0.3)[0]
    assert np.array_equal(sent, plain)
    in_3d = model.eval(volume, channels=[0, 0], diameter=20, do_3D=True, anisotropy=2.0)[0]
    sent = model.eval(volume, channels=[0, 0], diameter=20, do_3D=True, anisotropy=2.0, stitch_threshold=0.3)[0]
    assert np.array_equal(sent, in_3d)


def test_calls_by_position_mean_what_they_mean_in_cellpose() -> None:
    image = picture()
    colour = np.stack([image, 0 * image, 0 * image], -1)
    model = models.Cellpose(model_type="cyto3")
    expected = model.eval(image, channels=[0, 0], diameter=20)
    for found in (model.eval(image, 8, [0, 0], diameter=20), model.eval(colour, diameter=20)):
        assert np.array_equal(found[0], expected[0])  # channels are gray by default, the mean of all
    own = models.CellposeModel(False, "general", None, net_avg=False, residual_on=True, style_on=True)
    assert np.array_equal(own.eval(image, 4, channels=[0, 0], diameter=20)[0], expected[0])
    assert model.sz.eval(image, [0, 0], batch_size=4)[0] == model.eval(image, diameter=0, rescale=0)[3]
    with pytest.raises(ValueError, match="concatenation"):
        models.CellposeModel(concatenation=True)
    with pytest.raises(ValueError, match="pretrained_size"):
        models.SizeModel(own, pretrained_size="size_mine.npy")


def test_large_objects_are_dropped_if_that_is_asked_for() -> None:
    image = picture()
    model = models.CellposeModel(pretrained_model="general")
    everything = model.eval(image, diameter=20)[0]
    sizes = np.bincount(everything.ravel())[1:]
    limit = np.sort(sizes)[len(sizes) // 2]
    some = model.eval(image, diameter=20, max_size_fraction=limit / image.size)[0]
    assert np.array_equal(some > 0, np.isin(everything, 1 + np.flatnonzero(sizes <= limit)))
    assert 0 < some.max() == (sizes <= limit).sum() < len(sizes)
    one = np.zeros((60, 60), int)
    one[5:55, 5:55] = 1  # 70 % of the image: stays at Cellpose's default
    flow, logit = dynamics.masks_to_flows(one), np.where(one > 0, 5.0, -5.0)
    assert dynamics.compute_masks(5 * flow, logit).max() == 1
    assert dynamics.compute_masks(5 * flow, logit, max_size_fraction=0.6).max() == 0


def test_lists_channels_and_estimated_diameters() -> None:
    images = [np.stack([picture(seed), picture(seed + 5)], -1) for seed in (1, 2)]
    model = models.Cellpose(model_type="nuclei")
    masks, flows, styles, diameters = model.eval(images, channels=[[1, 0], [2, 1]], diameter=[20, 20])
    assert len(masks) == len(flows) == len(styles) == len(diameters) == 2
    own = cellbasin.load_model().segment(images[1], axes="YXC", channels=(1, 0), diameter=20)
    assert np.array_equal(masks[1], own.labels)
    with pytest.raises(ValueError, match="or a pair for each image"):
        model.eval([*images, images[0]], channels=[[1, 0], [2, 1]])
    estimated = model.sz.eval(images[0], channels=[1, 0], channel_axis=-1)[0]
    assert 10 < estimated < 40
    assert model.eval(images[0], channels=[1, 0], diameter=None)[3] == estimated


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"normalize": False}, "normalize"),
        ({"normalize": {"percentile": (3, 97)}}, "percentile"),
        ({"normalize": {"tile_norm_blocksize": 100}}, "tile_norm"),
        ({"normalize": {"lowhigh": [0, 5]}}, "lowhigh"),
        ({"normalize": {"colour": 1}}, "colour"),
        ({"normalize": {"percentile": 3.0}}, "percentile=3.0"),
        ({"normalize": 0.5}, "normalize=0.5"),
        ({"channels": [0]}, "channels"),
        ({"channels": [[0, 0], [2, 1]]}, "channels"),
        ({"diameter": [20]}, r"diameter is \[20\]"),
        ({"channels": [1, 2]}, "channels"),
        ({"channels": [4, 0]}, "0 to 3"),
        ({"do_3D": True}, "volume"),
        ({"channel_axis": 5}, "axis 5"),
    ],
)
def test_settings_that_cannot_be_followed(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        models.CellposeModel().eval(np.zeros((40, 50)), **{"diameter": 20, **settings})


def test_unknown_settings_and_networks() -> None:
    with pytest.warns(UserWarning, match="'cyto3' of Cellpose is not here, cellbasin's model 'general' is used"):
        model = models.CellposeModel()
    with pytest.raises(TypeError, match=r"np\.abs"):
        model.eval(np.zeros((40, 50), complex))
    assert model.eval(np.zeros((40, 50), bool), diameter=20)[0].max() == 0
    with pytest.raises(TypeError, match="colour"):
        model.eval(np.zeros((40, 50)), colour=1)
    for settings in ({"pretrained_model": "no-such-network"}, {"backbone": "transformer"}, {"nchan": 3}):
        with pytest.raises(ValueError, match="found"):
            models.CellposeModel(**settings)


@pytest.mark.parametrize(
    ("shape", "channel_axis", "z_axis", "volume", "expected"),
    [
        ((64, 80), None, None, False, (1, 64, 80)),
        ((64, 80, 3), None, None, False, (3, 64, 80)),
        ((2, 64, 80), None, None, False, (2, 64, 80)),
        ((64, 80, 1), None, None, False, (1, 64, 80)),
        ((12, 64, 80), None, None, False, (1, 12, 64, 80)),
        ((5, 64, 80), None, None, True, (1, 5, 64, 80)),
        ((12, 64, 80, 2), None, None, True, (2, 12, 64, 80)),
        ((12, 2, 64, 80), 1, 0, True, (2, 12, 64, 80)),
        ((64, 80, 12), None, 2, True, (1, 12, 64, 80)),
    ],
)
def test_axes(shape, channel_axis, z_axis, volume: bool, expected: tuple[int, ...]) -> None:  # type: ignore[no-untyped-def]
    assert arranged(np.zeros(shape), channel_axis, z_axis, volume=volume)[0].shape == expected


def test_axes_that_cannot_be_told() -> None:
    for shape in ((3,), (2, 3, 4, 5, 6)):
        with pytest.raises(ValueError, match="found"):
            arranged(np.zeros(shape), None, None, volume=False)
    three = np.arange(36.0).reshape(3, 3, 4)
    assert np.array_equal(picked(three, [0, 0])[0], three.mean(axis=0)) and len(picked(three, None)) == 2
    assert np.array_equal(picked(three, [3, 1]), three[[2, 0]])


def test_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tifffile.imwrite(tmp_path / "a.tif", picture())
    tifffile.imwrite(tmp_path / "a_masks.tif", labels().astype(np.uint16))
    image, name = io.imread(tmp_path / "a.tif"), str(tmp_path / "a.tif")
    masks, flows, _ = models.CellposeModel().eval(image, channels=[0, 0], diameter=20)
    io.masks_flows_to_seg(image, masks, flows, name, diams=19.0, channels=[0, 0])
    assert read_seg(tmp_path / "a_seg.npy").diameter == 19
    io.masks_flows_to_seg([image], [masks], [flows], [name], diams=20.0, channels=[0, 0])
    assert read_seg(tmp_path / "a_seg.npy").diameter == 20
    io.masks_flows_to_seg([image], [masks], [flows], [21.0], [name], [0, 0])  # Cellpose 2's order
    assert read_seg(tmp_path / "a_seg.npy").diameter == 21
    io.masks_flows_to_seg([image] * 2, [masks] * 2, [flows] * 2, [name] * 2, channels=[[2, 3], [1, 0]])
    assert read_seg(tmp_path / "a_seg.npy").channels == (1, 0)
    with pytest.raises(ValueError, match="channels"):
        io.masks_flows_to_seg(image, masks, flows, name, channels=[0])
    io.masks_flows_to_seg(image, masks, flows, 20.0, name)
    seg = read_seg(tmp_path / "a_seg.npy")
    assert np.array_equal(seg.labels, masks) and seg.diameter == 20 and seg.flow is not None
    np.testing.assert_allclose(5 * seg.flow, flows[1], atol=1e-5)
    io.save_masks(
        [image], [masks], [flows], [name], png=True, tif=True, save_txt=True, save_flows=True, save_outlines=True
    )
    io.save_masks(image, masks, None, name)  # flows are needed only where they are to be saved
    io.save_rois(masks, name)
    io.outlines_to_text(tmp_path / "b", utils.outlines_list(masks))
    assert (tmp_path / "b_cp_outlines.txt").read_text() == (tmp_path / "a_cp_outlines.txt").read_text()
    for end in ("_cp_masks.png", "_cp_masks.tif", "_rois.zip", "_outlines_cp_masks.png", "_dP_cp_masks.tif"):
        assert (tmp_path / f"a{end}").is_file()
    assert np.array_equal(io.imread(tmp_path / "a_cp_masks.png"), masks)
    images, true, names, *rest = io.load_train_test_data(str(tmp_path), mask_filter="_masks")
    assert names == [name] and np.array_equal(true[0], labels()) and len(images) == 1 and rest == [None] * 3
    io.imsave(tmp_path / "c.png", plot.mask_overlay(image, masks))
    assert io.imread(tmp_path / "c.png").shape == (96, 96, 3)
    with pytest.raises(ReadError):
        io.imread(tmp_path / "missing.tif")
    with pytest.raises(ValueError, match="expected a weights file"):
        io.add_model(tmp_path / "missing")
    with pytest.raises(ReadError, match="found no labels"):
        io.load_train_test_data(str(tmp_path), mask_filter="_cyto_masks")


@pytest.mark.usefixtures("short_training")
def test_training(tmp_path: Path) -> None:
    start = write_network(tmp_path / "theirs")
    model = models.CellposeModel(pretrained_model=str(start))
    before = model.net.weights[0].sha256
    images = [np.stack([picture(seed), picture(seed)], -1) for seed in (1, 2)]
    path, losses, watched = train.train_seg(
        model.net, images, [labels(1), labels(2)], test_data=images[:1], test_labels=[labels(1)],
        channels=[1, 2], n_epochs=1, save_path=str(tmp_path), model_name="mine", learning_rate=0.1,
    )  # fmt: skip
    assert path == tmp_path / "models" / "mine" and losses.ndim == 1 and len(watched) == 1
    again = models.CellposeModel(pretrained_model=str(path))
    assert model.net.weights[0].sha256 != before  # the network that was trained is the trained one
    assert np.array_equal(model.eval(picture(), diameter=20)[1][2], again.eval(picture(), diameter=20)[1][2])
    assert again.diam_mean == 30 and 10 < again.diam_labels < 40 and not again.estimates
    io.add_model(path)
    assert models.CellposeModel(model_type="mine").diam_labels == again.diam_labels
    io.remove_model(path, delete=True)
    assert not path.exists()
    data = images, [labels(1), labels(2)]
    scratch = models.CellposeModel(pretrained_model=False, diam_mean=17)
    assert scratch.pretrained_model is False and scratch.diam_mean == 17
    path, _, _ = train.train_seg(scratch.net, *data, channels=[1, 2], n_epochs=1, save_path=str(tmp_path))
    assert models.CellposeModel(pretrained_model=str(path)).diam_mean == 17
    assert scratch.net.weights[0].card.architecture == PAPER and scratch.net.weights[0].sha256
    with pytest.raises(ValueError, match="10000 objects"):
        train.train_seg(model.net, *data, min_train_masks=10000)
    with pytest.raises(ValueError, match="n_epochs"):
        train.train_seg(model.net, *data, n_epochs=0)
    with pytest.raises(TypeError, match="n_epoch"):
        model.train(*data, n_epoch=1)
    with pytest.raises(ValueError, match="rgb=True"):
        train.train_seg(model.net, *data, rgb=True)


@pytest.mark.usefixtures("short_training")
def test_training_on_images_without_objects_and_refusals(tmp_path: Path) -> None:
    model = models.CellposeModel(pretrained_model=str(write_network(tmp_path / "theirs")))
    images = [np.stack([picture(seed), picture(seed)], -1) for seed in (1, 2)]
    data = images, [labels(1), labels(2)]
    with pytest.raises(ValueError, match="found train_probs="):
        train.train_seg(model.net, *data, train_probs=np.ones(2))
    with pytest.raises(ValueError, match="image 0: found NaN"):
        train.train_seg(model.net, [images[0] * np.nan, images[1]], data[1], channels=[1, 2], n_epochs=1)
    nothing = np.zeros((96, 96), int)
    with pytest.raises(ValueError, match="no object in the labels of 2 images"):
        train.train_seg(model.net, images, [nothing, nothing], channels=[1, 2], min_train_masks=0)
    settings = {"channels": [1, 2], "n_epochs": 1, "min_train_masks": 0, "save_path": str(tmp_path)}
    path, _, _ = train.train_seg(model.net, images, [2**40 * labels(1).astype(int), nothing], **settings)
    assert 10 < models.CellposeModel(pretrained_model=str(path)).diam_labels < 40


def test_stacks_whose_axes_no_file_names_are_read_as_they_are(tmp_path: Path) -> None:
    for number, array in enumerate((np.zeros((7, 64, 60), np.uint16), np.ones((2, 64, 60), np.uint8), labels() > 0)):
        io.imsave(tmp_path / f"{number}.tif", array)
        found = io.imread(tmp_path / f"{number}.tif")
        assert found.shape == array.shape and found.dtype == array.dtype and (found == array).all()


def test_planes_that_were_segmented_each_by_itself_can_be_saved(tmp_path: Path) -> None:
    stack = np.stack([picture(), picture(2)])
    masks, flows, _ = models.CellposeModel().eval(stack, channels=[0, 0], z_axis=0, diameter=20)
    assert flows[1].shape == (2, *stack.shape)
    io.masks_flows_to_seg(stack, masks, flows, str(tmp_path / "v.tif"), 20.0, [0, 0])
    seg = read_seg(tmp_path / "v_seg.npy")
    assert np.array_equal(seg.labels, masks) and seg.flow is not None and not seg.flow[0].any()
    np.testing.assert_allclose(5 * seg.flow[1:], flows[1], atol=1e-5)
