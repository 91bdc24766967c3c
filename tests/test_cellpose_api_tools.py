"""The smaller modules of Cellpose's Python calls: metrics, utils, dynamics, transforms and plot."""

from __future__ import annotations

import numpy as np
import pytest
from cellpose_helpers import labels, picture
from scipy import ndimage

from cellbasin.cellpose_api import dynamics, metrics, plot, transforms, utils


def test_metrics() -> None:
    truth = labels()
    gaps = np.where(truth == truth.max(), truth.max() + 7, truth)
    ap, tp, fp, fn = metrics.average_precision(truth, gaps)
    assert ap.tolist() == [1, 1, 1] and tp[0] == truth.max() and not fp.any() and not fn.any()
    ap, *_ = metrics.average_precision([truth, 0 * truth], [0 * truth, 0 * truth], threshold=[0.5])
    assert ap.tolist() == [[0], [1]]
    iou, partner = metrics.mask_ious(truth, gaps)
    assert (iou == 1).all() and partner[-1] == gaps.max()
    assert metrics.aggregated_jaccard_index([truth], [gaps]).tolist() == [1.0]
    assert [score[0, 0] for score in metrics.boundary_scores([truth], [truth], [0.1])] == [1, 1, 1]
    bent = np.zeros((90, 90), int)
    bent[5:85, 5:20] = bent[70:85, 5:85] = 1
    network = 5 * dynamics.masks_to_flows(bent)
    error, own = metrics.flow_error(bent, network)
    assert error == pytest.approx([((own - network / 5)[:, bent > 0] ** 2).sum(0).mean()])
    logit = np.where(bent > 0, 9.0, -9.0)
    for limit, count in ((0.9 * error[0], 0), (1.1 * error[0], 1)):
        assert dynamics.compute_masks(network, logit, flow_threshold=limit).max() == count


def test_utils() -> None:
    truth = labels()
    middle, each = utils.diameters(truth)
    assert each.shape == (truth.max(),) and middle == np.median(each) and utils.diameters(0 * truth)[0] == 0
    outlines = utils.masks_to_outlines(truth)
    assert outlines.dtype == bool and (truth[outlines] > 0).all()
    for label, ring in enumerate(utils.outlines_list(truth), 1):
        assert (truth[ring[:, 1], ring[:, 0]] == label).all()
        inner = ring[(ring > 0).all(axis=1) & (ring < 95).all(axis=1)]
        assert outlines[inner[:, 1], inner[:, 0]].all()
    kept = utils.remove_edge_masks(truth)
    assert not kept[0].any() and not kept[:, -1].any() and kept.max() < truth.max()
    holes = np.zeros((40, 40), int)
    holes[5:25, 5:25] = 3
    holes[10:14, 10:14] = 0
    holes[30:32, 30:32] = 9
    filled = utils.fill_holes_and_remove_small_masks(holes, min_size=15)
    assert filled.max() == 1 and (filled == 1).sum() == 400 and holes.max() == 9
    nested = np.ones((20, 20), int)
    nested[5:15, 5:15] = 2
    assert utils.fill_holes_and_remove_small_masks(nested).max() == 2
    assert utils.stitch3D([truth, truth]).max() == truth.max()


def test_dynamics() -> None:
    truth = labels()
    flows = dynamics.labels_to_flows([truth])[0]
    assert flows.shape == (4, 96, 96) and np.array_equal(flows[0], truth)
    logit = np.where(truth > 0, 5.0, -5.0)
    assert metrics.average_precision(truth, dynamics.compute_masks(5 * flows[2:], logit))[0].tolist() == [1, 1, 1]
    assert dynamics.resize_and_compute_masks(5 * flows[2:], logit, resize=[48, 48]).shape == (48, 48)


@pytest.mark.parametrize("shape", [(300, 500), (100, 400), (90, 80)])
@pytest.mark.parametrize("augment", [False, True])
def test_tiles_and_back(shape: tuple[int, int], augment: bool) -> None:
    image = np.random.default_rng(0).random((3, *shape)).astype(np.float32)
    tiles, ysub, xsub, height, width = transforms.make_tiles(image, augment=augment)
    rows, columns = tiles.shape[:2]
    assert len(ysub) == len(xsub) == rows * columns and tiles.shape[2] == 3
    if augment:
        assert (rows, columns) == tuple(max(2, -(-2 * max(n, 224) // 224)) for n in shape)
        assert np.array_equal(tiles[0, 1, :, ::-1], image_part(image, ysub[1], xsub[1]))
        tiles = transforms.unaugment_tiles(tiles)
        tiles[0, 1::2, 0] *= -1  # what it has turned as the flow across
        tiles[1::2, 0, 1] *= -1
        tiles[1::2, 1::2, :2] *= -1
        tiles[2::2, 1::2, 0] *= -1
        tiles[1::2, 2::2, 1] *= -1
    found = transforms.average_tiles(tiles.reshape(-1, *tiles.shape[2:]), ysub, xsub, height, width)
    np.testing.assert_allclose(found[:, : shape[0], : shape[1]], image, atol=1e-5)


def image_part(image: np.ndarray, rows: list[int], columns: list[int]) -> np.ndarray:
    padded = np.pad(image, [(0, 0), (0, 224), (0, 224)])
    return padded[:, rows[0] : rows[1], columns[0] : columns[1]]


def test_transforms() -> None:
    image = np.random.default_rng(0).random((5, 40, 50, 2)).astype(np.float32)
    for settings in ({}, {"norm3D": False}, {"invert": True}):
        assert transforms.normalize_img(image, **settings).shape == image.shape
    bounded = transforms.normalize_img(image, lowhigh=(image.min(), image.max()))
    assert bounded.min() == 0 and bounded.max() == 1
    for arguments, settings in (
        ((image[0, ..., 0],), {}),
        ((image,), {"lowhigh": (0, 1, 2)}),
        ((image,), {"lowhigh": (1, 1)}),
        ((image,), {"percentile": (1, 101)}),
        ((image,), {"normalize": False, "invert": True}),
    ):
        with pytest.raises(ValueError, match="found"):
            transforms.normalize_img(*arguments, **settings)
    for dtype in (np.uint8, np.uint16, np.uint32):
        resized = transforms.resize_image(np.full((20, 30, 3), 7, dtype), 40, 45)
        assert resized.shape == (40, 45, 3) and resized.dtype == dtype and (resized == 7).all()
    assert transforms.convert_image(np.zeros((224, 3, 200)), [2, 1], channel_axis=1).shape == (224, 200, 2)


@pytest.mark.parametrize("flip", [True, False])
def test_flows_turn_with_the_image(flip: bool) -> None:
    """As training by Cellpose's calls needs it: the flow of the turned labels is the turned flow."""
    truth = labels()
    maps = np.concatenate([truth[None], dynamics.masks_to_flows(truth)]).astype(np.float32)
    np.random.seed(3)
    crops, cut, scales = transforms.random_rotate_and_resize(
        [picture(), picture()], [maps, maps], scale_range=0.5, xy=(160, 144), do_flip=flip, rescale=[0.5, 0.5]
    )
    assert crops.shape == (2, 1, 160, 144) and cut.shape == (2, 3, 160, 144)
    assert ((scales >= 1.5) & (scales <= 2.5)).all() and scales[0] != scales[1]
    for masks, *flow in cut:
        turned = np.rint(masks).astype(int)
        assert set(np.unique(turned)) <= set(np.unique(truth))
        whole = utils.remove_edge_masks(turned) > 0
        inside = whole & (ndimage.minimum_filter(turned, 5) == ndimage.maximum_filter(turned, 5))
        likeness = (np.stack(flow) * dynamics.masks_to_flows(turned)).sum(0)[inside]
        assert inside.sum() > 500 and np.median(likeness) > 0.9


def test_crops_without_labels_and_without_chance() -> None:
    image = picture().astype(np.float32)
    crops, nothing, scales = transforms.random_rotate_and_resize(
        [image], scale_range=0.0, xy=image.shape, do_flip=False, rotate=False
    )
    np.testing.assert_allclose(crops[0, 0], image, atol=1e-3)
    assert nothing == [] and scales == [1]


def test_round_objects_are_compact() -> None:
    y, x = np.mgrid[:80, :160]
    masks = ((y - 40) ** 2 + (x - 40) ** 2 < 30**2).astype(int)
    masks[38:42, 85:155] = 2
    disc, bar = utils.get_mask_compactness(masks)
    assert 0.9 < disc < 1.15 and bar < 0.4


def test_colours_of_flows_tell_directions() -> None:
    flow = np.zeros((2, 4, 4), np.float32)
    assert not plot.dx_to_circ(flow).any()
    flow[0, :2], flow[0, 2:] = 5, -5
    colours = plot.dx_to_circ(flow)
    assert colours.shape == (4, 4, 3) and colours.dtype == np.uint8
    assert (colours[0] == colours[1]).all() and (colours[0] != colours[3]).any()


def test_nothing_is_downloaded_unasked() -> None:
    with pytest.raises(RuntimeError, match="cellbasin models add"):
        utils.download_url_to_file("https://example.org/cyto3", "cyto3")


@pytest.mark.parametrize("shape", [(96, 96), (2, 96, 96), (96, 96, 2), (96, 96, 3), (3, 96, 96), (96, 96, 5)])
def test_pictures_of_images_with_any_channels(shape: tuple[int, ...]) -> None:
    from matplotlib.figure import Figure

    image = np.random.default_rng(0).random(shape)
    figure = Figure()
    plot.show_segmentation(figure, image, labels(), np.zeros((96, 96, 3), np.uint8), channels=[0, 0])
    assert len(figure.axes) == 4
    assert plot.image_to_rgb(image).shape == plot.mask_overlay(image, labels()).shape == (96, 96, 3)
