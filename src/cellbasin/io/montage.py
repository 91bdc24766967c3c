"""Pictures of volumes for people: planes of all three directions side by side, and a sweep through z."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw

from cellbasin.atomic import atomic
from cellbasin.image import Image

from .overlay import overlay
from .write import write_picture

_SIDE, _SWEEP_SIDE = 480, 320  # pixels that the longer side of a plane gets, about
_GAP = 16  # pixels between planes, room for a line of text
_DEEPEST = 2000  # pixels of the lower row
_FRAMES = 48
_MILLISECONDS = 90  # a frame
_CUTS = (0.25, 0.5, 0.75)  # where the planes of the upper row lie


def montage(
    image: Image, labels: np.ndarray, anisotropy: float = 1.0, channels: tuple[int, ...] | None = None
) -> np.ndarray:
    """Three XY planes above an XZ and a YZ plane through the middle, with the outlines of objects.

    image: a volume; labels: integer (Z, Y, X), neither modified. anisotropy: distance of planes in pixels, by which XZ
    and YZ planes are drawn apart; channels: as in `overlay`. Returns uint8 (height, width, 3), one brightness for all
    planes. Raises ValueError when image and labels do not fit.

    >>> montage(Image(np.zeros((4, 20, 30)), "ZYX"), np.zeros((4, 20, 30), int)).shape
    (432, 1488, 3)
    """
    _check(image, labels)
    depth, height, width = labels.shape
    cuts = [int(depth * cut) for cut in _CUTS]
    zoom = min(_SIDE / max(height, width), _DEEPEST / (depth * anisotropy))
    flat, deep = (max(1, round(height * zoom)), max(1, round(width * zoom))), max(1, round(depth * anisotropy * zoom))
    sheet = _Sheet(image, labels, (flat[0] + deep + 3 * _GAP, max(3 * (flat[1] + _GAP), sum(flat) + 2 * _GAP)))
    for n, z in enumerate(cuts):
        sheet.put(0, z, flat, (_GAP, n * (flat[1] + _GAP)))
    sheet.put(1, height // 2, (deep, flat[1]), (flat[0] + 2 * _GAP, 0))
    sheet.put(2, width // 2, (deep, flat[0]), (flat[0] + 2 * _GAP, flat[1] + _GAP))
    return sheet.drawn(channels)


def sweep(image: Image, labels: np.ndarray, channels: tuple[int, ...] | None = None) -> list[np.ndarray]:
    """At most 48 XY planes from the first to the last, with outlines, uint8 (height, width, 3) each, for an animation.

    Arguments and errors as of `montage`.
    """
    _check(image, labels)
    depth, height, width = labels.shape
    zoom = _SWEEP_SIDE / max(height, width)
    size = (max(1, round(height * zoom)), max(1, round(width * zoom)))
    chosen = np.unique(np.linspace(0, depth - 1, min(depth, _FRAMES)).round().astype(int))
    sheet = _Sheet(image, labels, (len(chosen) * (size[0] + _GAP), size[1]))
    for n, z in enumerate(chosen):
        sheet.put(0, int(z), size, (n * (size[0] + _GAP) + _GAP, 0))
    return np.split(sheet.drawn(channels), len(chosen))


def write_volume_overlay(
    path: str | os.PathLike[str],
    image: Image,
    labels: np.ndarray,
    anisotropy: float = 1.0,
    channels: tuple[int, ...] | None = None,
) -> None:
    """Write `montage` as PNG and, under the same name ending in .gif, `sweep` as an animation that plays for ever.

    Raises WriteError when a file cannot be written; ValueError when image and labels do not fit.
    """
    write_picture(path, montage(image, labels, anisotropy, channels))
    frames = [Pillow.fromarray(frame).quantize(64) for frame in sweep(image, labels, channels)]
    with atomic(Path(path).with_suffix(".gif")) as temporary:
        frames[0].save(temporary, format="GIF", save_all=True, append_images=frames[1:], duration=_MILLISECONDS, loop=0)


class _Sheet:
    """Planes of a volume pasted onto one image and one label image, drawn together so that brightness is shared."""

    def __init__(self, image: Image, labels: np.ndarray, shape: tuple[int, int]) -> None:
        self._voxels, self._labels = image.channels_first, labels
        lowest = self._voxels.min(axis=(1, 2, 3))
        self._picture = np.broadcast_to(lowest[:, None, None], (len(lowest), *shape)).copy()
        self._outlined = np.zeros(shape, labels.dtype)
        self._texts: list[tuple[tuple[int, int], str]] = []

    def put(self, axis: int, number: int, size: tuple[int, int], corner: tuple[int, int]) -> None:
        """Paste the plane across an axis (z, y, x), drawn `size` large, with its first pixel at `corner`."""
        window = tuple(slice(start, start + length) for start, length in zip(corner, size, strict=True))
        plane = self._voxels.take(number, 1 + axis)
        rows, columns = (np.arange(n) * old // n for n, old in zip(size, plane.shape[1:], strict=True))
        self._picture[(slice(None), *window)] = plane[:, rows][:, :, columns]
        self._outlined[window] = self._labels.take(number, axis)[rows][:, columns]
        name = ("XY, z", "XZ, y", "YZ, x")[axis]
        self._texts.append(((corner[1] + 2, corner[0] - _GAP + 2), f"{name} = {number}"))

    def drawn(self, channels: tuple[int, ...] | None) -> np.ndarray:
        picture = Pillow.fromarray(overlay(Image(self._picture, "CYX"), self._outlined, channels))
        pen = ImageDraw.Draw(picture)
        for place, text in self._texts:
            pen.text(place, text, fill=(255, 255, 255), stroke_width=1, stroke_fill=(0, 0, 0))
        return np.asarray(picture)


def _check(image: Image, labels: np.ndarray) -> None:
    if image.spatial_axes != "ZYX" or image.spatial_shape != labels.shape:
        raise ValueError(
            f"found an image of axes {image.axes} and shape {image.array.shape} with labels of shape {labels.shape}; "
            "expected a volume and labels (Z, Y, X) of its size"
        )
