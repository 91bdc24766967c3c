"""`cellpose.transforms`: the most used of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cellbasin.cellpose_api.arrays import arranged, picked
from cellbasin.resize import resize_labels, sample
from cellbasin.tiling import Blender, Tiling, cut, unflip_maps


def normalize99(
    Y: np.ndarray, lower: float = 1, upper: float = 99, copy: bool = True, downsample: bool = False
) -> np.ndarray:
    """Percentiles become 0 and 1; a new array."""
    from cellbasin.intensity import normalise

    return normalise(np.asarray(Y), low=float(lower), high=float(upper))


def normalize_img(
    img: np.ndarray,
    normalize: bool = True,
    norm3D: bool = True,
    invert: bool = False,
    lowhigh: Any = None,
    percentile: Any = (1.0, 99.0),
    sharpen_radius: float = 0,
    smooth_radius: float = 0,
    tile_norm_blocksize: float = 0,
    tile_norm_smooth3D: float = 1,
    axis: int = -1,
) -> np.ndarray:
    """Normalise every channel of an image ([Z,] Y, X, C): by percentiles, or `lowhigh`; a new array.

    norm3D False: every plane by itself. Raises ValueError for images without channels, for numbers out of order, and
    for sharpening, smoothing and normalisation by tiles, which are not done here.
    """
    if sharpen_radius or smooth_radius or tile_norm_blocksize:
        raise ValueError("found a radius or tile_norm_blocksize, expected 0: images are normalised as a whole here")
    img = np.asarray(img)
    if img.ndim < 3:
        raise ValueError(f"found an image of shape {img.shape}, expected at least three axes, one of them channels")
    moved = np.moveaxis(img, axis, -1).astype(np.float32)
    low, high = (1.0, 99.0) if percentile is None else (float(percentile[0]), float(percentile[1]))
    if not 0 <= low < high <= 100:
        raise ValueError(f"found percentiles {percentile}, expected two from 0 to 100 in order")
    if invert and not normalize and lowhigh is None:
        raise ValueError("found invert without normalize, expected both")
    if lowhigh is not None:
        moved = _between(moved, np.asarray(lowhigh, np.float32))
    elif normalize:
        planes = moved[None] if moved.ndim == 3 or norm3D else moved
        parts = [
            np.stack([normalize99(plane[..., c], low, high) for c in range(moved.shape[-1])], axis=-1)
            for plane in planes
        ]
        moved = np.stack(parts).reshape(moved.shape)
    return np.moveaxis(1 - moved if invert else moved, -1, axis)


def _between(img: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    if bounds.shape not in ((2,), (img.shape[-1], 2)) or not (bounds[..., 0] < bounds[..., 1]).all():
        raise ValueError(f"found lowhigh {bounds.tolist()}, expected two numbers in order, or so for every channel")
    return (img - bounds[..., 0]) / (bounds[..., 1] - bounds[..., 0])


def convert_image(
    x: np.ndarray,
    channels: Any,
    channel_axis: int | None = None,
    z_axis: int | None = None,
    do_3D: bool = False,
    nchan: int = 2,
) -> np.ndarray:
    """The network's channels of an image, float32 ([Z,] Y, X, 2): planes first, channels last, zeros for none."""
    planes, _ = arranged(x, channel_axis, z_axis, volume=do_3D)
    chosen = picked(planes, channels).astype(np.float32)
    result = np.zeros((nchan, *chosen.shape[1:]), np.float32)
    result[: len(chosen)] = chosen[:nchan]
    return np.moveaxis(result, 0, -1)


def resize_image(
    img0: np.ndarray,
    Ly: int | None = None,
    Lx: int | None = None,
    rsz: Any = None,
    interpolation: int = 1,
    no_channels: bool = False,
) -> np.ndarray:
    """Resize ([Z,] Y, X[, C]) bilinearly, or to the nearest pixel for interpolation=0; the dtype stays."""
    img0 = np.asarray(img0)
    if Ly is None and rsz is None:
        raise ValueError("found neither Ly and Lx nor rsz, expected one of them")
    channels = img0.ndim > 2 and not no_channels
    first = np.moveaxis(img0, -1, 0) if channels else img0
    height, width = first.shape[-2:]
    scale = np.broadcast_to(np.asarray(1.0 if rsz is None else rsz, float), (2,))
    shape = (int(Ly), int(Lx or 0)) if Ly is not None else (int(height * scale[0]), int(width * scale[1]))
    found = resize_labels(first, shape) if interpolation == 0 else sample(first, shape)
    found = np.rint(found).astype(img0.dtype) if img0.dtype.kind in "ui" else found.astype(img0.dtype)
    return np.moveaxis(found, 0, -1) if channels else found


def random_rotate_and_resize(
    X: list[np.ndarray],
    Y: list[np.ndarray] | None = None,
    scale_range: float = 1.0,
    xy: tuple[int, int] = (224, 224),
    do_flip: bool = True,
    rotate: bool = True,
    rescale: Any = None,
) -> tuple[np.ndarray, np.ndarray | list[Any], np.ndarray]:
    """Crops (N, C, *xy) of images ([C,] Y, X) and labels, turned, mirrored and resized at random, and the scales (N,).

    Of labels the first channel is taken by the nearest pixel; of three channels the last two are a flow (y, x), which
    is turned with the image. Randomness is numpy's global one.
    """
    images = [np.asarray(image, np.float32).reshape(-1, *image.shape[-2:]) for image in X]
    labels = [np.asarray(label, np.float32).reshape(-1, *label.shape[-2:]) for label in Y] if Y is not None else []
    crops = np.zeros((len(images), len(images[0]), *xy), np.float32)
    cut = np.zeros((len(labels), len(labels[0]) if labels else 0, *xy), np.float32)
    scales = np.ones(len(images), np.float32)
    for n, image in enumerate(images):
        angle, flip = np.random.rand() * 2 * np.pi * rotate, bool(do_flip and np.random.rand() > 0.5)
        scales[n] = (1 - scale_range / 2 + scale_range * np.random.rand()) / (1.0 if rescale is None else rescale[n])
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        if flip:
            turn = turn @ np.diag([1.0, -1.0])
        room = np.maximum(0, np.array(image.shape[1:]) * scales[n] - xy)
        middle = np.array(image.shape[1:]) / 2 + (np.random.rand(2) - 0.5) * room / scales[n]
        crops[n] = _turned(image, turn / scales[n], middle, xy, (1,) * len(image))
        if labels:
            cut[n] = _turned(labels[n], turn / scales[n], middle, xy, (0,) + (1,) * (len(labels[n]) - 1))
            if len(labels[n]) == 3:
                cut[n, 1:] = np.tensordot(turn.T, cut[n, 1:], axes=1)
    return crops, cut if labels else [], scales


def _turned(
    planes: np.ndarray, matrix: np.ndarray, middle: np.ndarray, shape: tuple[int, int], orders: tuple[int, ...]
) -> np.ndarray:
    from scipy.ndimage import affine_transform

    offset = middle - matrix @ (np.array(shape) / 2)
    return np.stack(
        [
            affine_transform(plane, matrix, offset, output_shape=shape, order=order)
            for plane, order in zip(planes, orders, strict=True)
        ]
    )


def make_tiles(
    imgi: np.ndarray, bsize: int = 224, augment: bool = False, tile_overlap: float = 0.1
) -> tuple[np.ndarray, list[list[int]], list[list[int]], int, int]:
    """Tiles (rows, columns, C, height, width) of an image (C, Y, X), their first and last pixels, and its size.

    augment: they overlap by half and are flipped in turn; an image smaller than a tile gets zeros.
    """
    imgi = np.asarray(imgi, np.float32)
    if augment:
        imgi = np.pad(imgi, [(0, 0), *((0, max(0, bsize - length)) for length in imgi.shape[1:])])
    shape = (imgi.shape[1], imgi.shape[2])
    tile = (min(bsize, shape[0]), min(bsize, shape[1]))
    part = 2.0 if augment else 1 + 2 * min(0.5, max(0.05, tile_overlap))
    counts = [max(1 + augment, math.ceil(part * n / bsize)) if n > bsize or augment else 1 for n in shape]
    starts = [
        tuple(np.linspace(0, n - side, count).astype(int).tolist())
        for n, side, count in zip(shape, tile, counts, strict=True)
    ]
    tiling = Tiling(shape, tile, starts[0], starts[1], alternating=augment)
    origins = [tiling.origin(n) for n in range(len(tiling))]
    tiles = cut(imgi, tiling, range(len(tiling))).reshape(*counts, len(imgi), *tile)
    return tiles, [[y, y + tile[0]] for y, _ in origins], [[x, x + tile[1]] for _, x in origins], *shape


def unaugment_tiles(y: np.ndarray) -> np.ndarray:
    """Flip maps (rows, columns, K, height, width) of flipped tiles back, and the flows in them; a new array."""
    y = np.asarray(y)
    flips = [(column % 2 == 1, row % 2 == 1) for row in range(y.shape[0]) for column in range(y.shape[1])]
    return unflip_maps(y.reshape(-1, *y.shape[2:]).copy(), flips).reshape(y.shape)


def average_tiles(y: np.ndarray, ysub: Any, xsub: Any, Ly: int, Lx: int) -> np.ndarray:
    """Maps (K, Ly, Lx) of those of tiles (N, K, height, width), weighted by a taper; ysub, xsub: of `make_tiles`."""
    rows, columns = (tuple(dict.fromkeys(int(span[0]) for span in spans)) for spans in (ysub, xsub))
    if len(rows) * len(columns) < len(y):  # small images: tiles at the same place
        rows, columns = rows * 2 if len(rows) == 1 else rows, columns * 2 if len(columns) == 1 else columns
    blender = Blender(Tiling((Ly, Lx), (y.shape[-2], y.shape[-1]), rows, columns), maps=y.shape[1])
    blender.add(np.asarray(y), range(len(y)))
    return blender.result()
