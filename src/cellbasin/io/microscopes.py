"""Files of microscope makers: Nikon's ND2, Zeiss' CZI, Leica's LIF; readers of the extra "formats".

Each format has a function that counts the images in a file (positions, scenes) and one that reads one of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import imagecodecs
import numpy as np

from .errors import ReadError
from .raw import Raw, check_decoded_size

_ZSTD, _ZSTD_WITH_HEADER = 5, 6  # how tiles of CZI are packed


@dataclass(frozen=True)
class Format:
    """How one format is read: count(path) images, read(path, number) one of them."""

    count: Callable[[Path], int]
    read: Callable[[Path, int], Raw]


def _count_nd2(path: Path) -> int:
    with _package(path, "nd2").ND2File(path) as file:
        return int(file.sizes.get("P", 1))


def _read_nd2(path: Path, number: int) -> Raw:
    with _package(path, "nd2").ND2File(path) as file:
        sizes = dict(file.sizes)
        several = sizes.pop("P", 1) > 1
        check_decoded_size(path, tuple(sizes.values()), file.dtype.itemsize)
        array = file.asarray(position=number if several else None)
        steps = _nd2_sizes(file)
    return _raw(path, array, "".join(sizes), steps)


def _nd2_sizes(file: Any) -> dict[str, float]:
    """µm by axis letter, of the axes that are calibrated."""
    channels = getattr(file.metadata, "channels", None)
    if not channels:
        return {}
    volume = channels[0].volume
    triples = zip("XYZ", volume.axesCalibration, volume.axesCalibrated, strict=True)
    return {axis: size for axis, size, calibrated in triples if calibrated}


def _count_lif(path: Path) -> int:
    with _package(path, "liffile").LifFile(path) as file:
        return len(_lif_images(path, file))


def _read_lif(path: Path, number: int) -> Raw:
    with _package(path, "liffile").LifFile(path) as file:
        image = _lif_images(path, file)[number]
        check_decoded_size(path, image.shape, image.itemsize)
        steps = {axis: 1e6 * _step(image.coords.get(axis)) for axis in "ZYX"}
        return _raw(path, image.asarray(), "".join(image.dims), steps)


def _lif_images(path: Path, file: Any) -> list[Any]:
    images = [image for image in file.images if {"Y", "X"} <= set(image.dims) and not image.is_flim]
    if not images:
        raise ReadError(f"{path}: found no image with rows and columns in this LIF file; expected at least one")
    return images


def _step(places: np.ndarray | None) -> float:
    """Distance of neighbouring places along an axis."""
    return float(abs(places[-1] - places[0])) / (len(places) - 1) if places is not None and len(places) > 1 else 0.0


def _count_czi(path: Path) -> int:
    with _package(path, "czifile").CziFile(path) as file:
        return len(_scenes(file))


def _read_czi(path: Path, number: int) -> Raw:
    """One scene of a CZI file, its tiles put together; each has a canvas of its own."""
    with _package(path, "czifile").CziFile(path) as file:
        entries = _scenes(file)[number]
        axes = file.axes
        starts = np.array([entry.start for entry in entries])
        start, end = starts.min(axis=0), (starts + [entry.shape for entry in entries]).max(axis=0)
        dtype = np.dtype(file.dtype)
        check_decoded_size(path, tuple(end - start), dtype.itemsize)
        array = np.zeros(end - start, dtype)
        for entry in entries:
            tile = _czi_tile(entry)
            begin = np.array(entry.start) - start
            array[tuple(slice(b, b + n) for b, n in zip(begin, tile.shape, strict=True))] = tile
        sizes = _czi_sizes(file.metadata())
    array, axes = _without(array, axes)
    return _raw(path, array, axes.replace("0", "S"), sizes)


def _czi_tile(entry: Any) -> np.ndarray:
    """Pixels of a tile, of the entry's shape; czifile does not know Zstandard, which ZEN packs with by default."""
    segment = entry.data_segment()
    if entry.compression not in (_ZSTD, _ZSTD_WITH_HEADER):
        return np.asarray(segment.data(resize=True, order=0))
    dtype, packed = np.dtype(entry.dtype).base, segment.data(raw=True)
    skipped = packed[0] if entry.compression == _ZSTD_WITH_HEADER else 0
    unpacked = imagecodecs.zstd_decode(packed[skipped:], out=math.prod(entry.stored_shape) * dtype.itemsize)
    if skipped == 3 and packed[2] & 1:  # all low bytes come before all high ones
        unpacked = np.frombuffer(unpacked, np.uint8).reshape(2, -1).T.tobytes()
    tile = np.frombuffer(unpacked, dtype).reshape(entry.stored_shape)
    return tile[..., [2, 1, 0, 3][: tile.shape[-1]]] if tile.shape[-1] > 1 else tile  # blue is stored first


def _scenes(file: Any) -> list[list[Any]]:
    """The full-resolution tiles of every scene."""
    tiles = [one for one in file.filtered_subblock_directory if one.stored_shape == one.shape]
    if not tiles:
        raise ValueError("there is no tile of full resolution")
    if "S" not in file.axes:
        return [tiles]
    place = file.axes.index("S")
    found: dict[int, list[Any]] = {}
    for entry in tiles:
        found.setdefault(int(entry.start[place]), []).append(entry)
    return [found[key] for key in sorted(found)]


def _czi_sizes(xml: str) -> dict[str, float]:
    """µm by axis letter; CZI states metres."""
    sizes = {}
    for distance in ElementTree.fromstring(xml).iterfind(".//Scaling/Items/Distance"):
        value = distance.findtext("Value")
        if distance.get("Id") in ("X", "Y", "Z") and value:
            sizes[distance.get("Id", "")] = 1e6 * float(value)
    return sizes


def _without(array: np.ndarray, axes: str) -> tuple[np.ndarray, str]:
    """Leave out axes of length 1 that are none of ours; longer ones stay and are refused later."""
    out = tuple(k for k, axis in enumerate(axes) if array.shape[k] == 1 and axis not in "TCZYX")
    return array.squeeze(out), "".join(axis for k, axis in enumerate(axes) if k not in out)


def _raw(path: Path, array: np.ndarray, axes: str, sizes: dict[str, float]) -> Raw:
    foreign = set(axes) - set("TCSZYX")
    if foreign:
        listed = ", ".join(f"{axis} of {array.shape[axes.index(axis)]}" for axis in sorted(foreign))
        raise ReadError(
            f"{path}: found axes {axes} ({listed}); expected T, C, Z, Y and X only: export one part as TIFF"
        )
    known = {axis: float(size) for axis, size in sizes.items() if size and math.isfinite(size) and size > 0}
    return Raw(np.asarray(array), axes, known)


def _package(path: Path, name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ReadError(
            f"{path}: {path.suffix[1:].upper()} files need the package {name}, which is not installed: "
            f"pip install 'cellbasin[formats]', or export the image as TIFF"
        ) from error


MICROSCOPES: dict[str, Format] = {
    "ND2": Format(_count_nd2, _read_nd2),
    "CZI": Format(_count_czi, _read_czi),
    "LIF": Format(_count_lif, _read_lif),
}
"""Formats by name; the file's first bytes tell which it is."""
