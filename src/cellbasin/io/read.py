"""Read images and label images from files, whole or not at all."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from cellbasin.image import Image, as_image
from cellbasin.messages import one_line

from .errors import ReadError
from .microscopes import MICROSCOPES
from .pictures import read_picture
from .raw import Raw, check_decoded_size
from .tiff import read_tiff, tiff_positions

SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp", ".npy", ".npz", ".zarr", ".nd2", ".czi", ".lif")
"""Endings of files (.zarr: folders) that are read, in any case; the first bytes, not the ending, tell the format."""

_SMALLEST, _LARGEST = 1e-6, 1e6  # µm; sizes of pixels beyond are mistakes, and no TIFF file holds them

_ZARR_MARKERS = (".zgroup", ".zarray", ".zattrs", "zarr.json")

_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"BM", "BMP"),
    (b"\x93NUMPY", "NPY"),
    (b"PK\x03\x04", "NPZ"),
    (b"\xda\xce\xbe\x0a", "ND2"),
    (b"\x00\x00\x00\x0cjP  ", "ND2"),
    (b"ZISRAWFILE", "CZI"),
    (b"\x70\x00\x00\x00", "LIF"),
    *((magic, "TIFF") for magic in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
)


def read_image(path: str | os.PathLike[str], axes: str | None = None, position: int | None = None) -> Image:
    """Read one image: TIFF (ImageJ, OME, BigTIFF, compressed), PNG, JPEG, BMP, NPY, NPZ, OME-Zarr, ND2, CZI or LIF.

    Parameters
    ----------
    path : the file, or the folder of an OME-Zarr image. Of a pyramid the largest level is read.
    axes : a letter per axis (T, C, S, Z, Y, X), instead of what the file says or its shape suggests.
    position : number of the image, from 0, in a file that holds several (positions, scenes).

    Returns
    -------
    Image : values as stored (8, 16 or 32 bits, float), axes of length 1 left out, voxel size in µm where the
        file states it, named as the file. Palette pictures become RGB, but not in TIFF files, whose palettes
        are mostly look-up tables for gray images; alpha is dropped; a camera's note to turn the picture is not
        followed.

    Raises
    ------
    ReadError for a file that is missing, damaged, cut short, of another format, without pixels, whose axes
    cannot be told, that holds several images and no position is given, or that unpacks to more than 2 GiB and
    100 times its size.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(folder + "/cells.npy", np.zeros((64, 80), np.uint16))
    ...     image = read_image(folder + "/cells.npy")
    >>> image.name, image.axes, image.array.dtype.name
    ('cells.npy', 'YX', 'uint16')
    """
    path = Path(path)
    return _image(path, _decode(path, _checked_position(path, position), indices=False), axes)


def read_pixels(path: str | os.PathLike[str]) -> np.ndarray:
    """Read the pixels of a file of one image, of any dtype and number of axes, whose meaning need not be known.

    Returns
    -------
    The array as stored, without axes of length 1.

    Raises
    ------
    ReadError as `read_image`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(folder + "/stack.npy", np.zeros((3, 64, 80), bool))
    ...     read_pixels(folder + "/stack.npy").shape
    (3, 64, 80)
    """
    path = Path(path)
    raw = _decode(path, _checked_position(path, None), indices=False)
    return _squeeze(raw.array, raw.axes)[0]


def _checked_position(path: Path, position: int | None) -> int:
    count = count_positions(path)
    if position is None and count > 1:
        raise ReadError(
            f"{path}: found {count} images in one file; expected one: say which with position=0..{count - 1}"
        )
    if position is not None and not 0 <= position < count:
        raise ReadError(f"{path}: found {count} images, expected one of number {position}: count from 0")
    return position or 0


def read_frames(path: str | os.PathLike[str], axes: str | None = None) -> Iterator[tuple[str, Image]]:
    """Read every image of a file, one after the other: positions, and the time points of each.

    Parameters
    ----------
    path, axes : as in `read_image`.

    Yields
    ------
    (name, Image) : name is "" where the file holds one image, else what tells them apart, such as "_p2", "_t05"
        or "_p2_t05", numbered from 1; Image as of `read_image`, without the axis T.

    Raises
    ------
    ReadError as `read_image`, when a frame's turn comes.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(folder + "/film.npy", np.zeros((2, 64, 80), np.uint16))
    ...     [(name, image.axes) for name, image in read_frames(folder + "/film.npy", axes="TYX")]
    [('_t1', 'YX'), ('_t2', 'YX')]
    """
    path = Path(path)
    count = count_positions(path)
    for position in range(count):
        image = _image(path, _decode(path, position, indices=False), axes)
        named = f"_p{position + 1:0{len(str(count))}}" if count > 1 else ""
        for moment, frame in _time_points(image):
            yield named + moment, frame


def count_positions(path: str | os.PathLike[str]) -> int:
    """Number of images (positions, scenes) in a file; time points are not counted.

    Raises
    ------
    ReadError as `read_image`.

    >>> import tempfile, tifffile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tifffile.imwrite(folder + "/cells.tif", np.zeros((5, 8, 9), np.uint8))
    ...     count_positions(folder + "/cells.tif")
    1
    """
    path = Path(path)
    with _read_errors(path):
        kind = _format_of(path)
        if kind == "TIFF":
            return tiff_positions(path)
        if kind == "ZARR":
            from .ome_zarr import zarr_positions

            return len(zarr_positions(path))
        return MICROSCOPES[kind].count(path) if kind in MICROSCOPES else 1


def is_zarr(path: Path) -> bool:
    """Whether a folder is a Zarr group or array.

    >>> is_zarr(Path("."))
    False
    """
    return path.is_dir() and any((path / marker).is_file() for marker in _ZARR_MARKERS)


def _image(path: Path, raw: Raw, axes: str | None) -> Image:
    array, known = _squeeze(raw.array, axes.upper() if axes is not None else raw.axes)
    try:
        image = as_image(array, known)
        return Image(array, image.axes, _voxel_size(raw, image.spatial_axes), path.name)
    except (ValueError, TypeError) as error:
        raise ReadError(f"{path}: {error}") from error


def _time_points(image: Image) -> Iterator[tuple[str, Image]]:
    """The time points of an image."""
    if "T" not in image.axes:
        yield "", image
        return
    place = image.axes.index("T")
    count, axes = image.array.shape[place], image.axes.replace("T", "")
    for moment in range(count):
        array = image.array.take(moment, axis=place)
        yield f"_t{moment + 1:0{len(str(count))}}", Image(array, axes, image.voxel_size, image.name)


def read_labels(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a label image: PNG, TIFF, NPY or the masks in Cellpose's `_seg.npy`; palette pictures give their indices.

    Parameters
    ----------
    path : the file.

    Returns
    -------
    int32 (Y, X), (Z, Y, X), (T, Y, X) or, where the file names these axes, (T, Z, Y, X); values as stored (also
    65535, by which some data sets say "not annotated").

    Raises
    ------
    ReadError as `read_image`, and for colour pictures, negative or fractional values.

    >>> import tempfile, tifffile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tifffile.imwrite(folder + "/cells_masks.tif", np.eye(5, dtype=np.uint16))
    ...     read_labels(folder + "/cells_masks.tif").max()
    np.int32(1)
    """
    path = Path(path)
    if path.name.endswith("_seg.npy") and path.is_file():
        from .seg import read_seg

        return read_seg(path).labels
    count = count_positions(path)
    if count > 1:
        raise ReadError(f"{path}: found {count} label images in one file; expected one: save each by itself")
    raw = _decode(path, indices=True)
    array, axes = _squeeze(raw.array, raw.axes)
    flat = array.ndim in (2, 3) and (axes or "YX").endswith("YX") and "S" not in (axes or "")
    if not (axes == "TZYX" or flat):
        raise ReadError(
            f"{path}: found an array of shape {array.shape}{f' and axes {axes}' if axes else ''}; "
            "expected labels (Y, X) or (Z, Y, X): one whole number for each object, not colours"
        )
    if array.dtype.kind not in "buif":
        raise ReadError(f"{path}: found values of dtype {array.dtype}; expected whole numbers")
    low, high = array.min().item(), array.max().item()  # numpy's float16 does not hold the number that follows
    if not (low >= 0 and high <= np.iinfo(np.int32).max):
        raise ReadError(
            f"{path}: found label values from {low} to {high}; expected whole numbers from 0 (background) on"
        )
    labels = array.astype(np.int32)
    if array.dtype.kind == "f" and not np.array_equal(labels, array):
        raise ReadError(f"{path}: found fractional values; expected whole numbers: is this the image, not its labels?")
    return labels


def _decode(path: Path, position: int = 0, *, indices: bool) -> Raw:
    """Read an image of a file with the reader for its first bytes."""
    with _read_errors(path):
        kind = _format_of(path)
        if kind == "TIFF":
            return _native(read_tiff(path, position))
        if kind == "NPY":
            return _native(_read_npy(path))
        if kind == "NPZ":
            return _native(_read_npz(path))
        if kind == "ZARR":
            from .ome_zarr import read_zarr, zarr_positions

            return _native(read_zarr(path, zarr_positions(path)[position]))
        if kind in MICROSCOPES:
            return _native(MICROSCOPES[kind].read(path, position))
        return read_picture(path, kind, indices=indices)


@contextmanager
def _read_errors(path: Path) -> Iterator[None]:
    """Everything that goes wrong with a file becomes a ReadError."""
    try:
        yield
    except ReadError:
        raise
    except MemoryError as error:
        raise ReadError(
            f"{path}: found an image larger than the free memory; expected less: cut or shrink it"
        ) from error
    except Exception as error:
        reason = one_line(error, longest=160)
        raise ReadError(
            f"{path}: cannot be read ({reason}); expected a whole image file: copy or export it again"
        ) from error


def _format_of(path: Path) -> str:
    """Format of a file by its first bytes, after asking the plain questions."""
    if path.is_dir():
        if is_zarr(path):
            return "ZARR"
        raise ReadError(f"{path}: found a folder; expected an image file")
    if not path.exists():
        raise ReadError(f"{path}: no such file; expected an image: check the name")
    if path.suffix.lower() not in SUFFIXES:
        raise ReadError(
            f"{path}: found a file ending in {path.suffix!r}; expected one of {' '.join(SUFFIXES)}: save it as TIFF"
        )
    with path.open("rb") as file:
        start = file.read(16)
    if not start:
        raise ReadError(f"{path}: found an empty file; expected an image: copy it again")
    for magic, kind in _MAGIC:
        if start.startswith(magic):
            return kind
    raise ReadError(
        f"{path}: found a file that begins with {start!r}, which no image does; "
        "expected TIFF, PNG, JPEG, BMP, NPY, NPZ, ND2, CZI or LIF inside"
    )


def _read_npy(path: Path) -> Raw:
    mapped = np.load(
        path, mmap_mode="r", allow_pickle=False
    )  # mapping fails when the file is shorter than its header says
    check_decoded_size(path, mapped.shape, mapped.dtype.itemsize)
    return Raw(np.array(mapped))


def _read_npz(path: Path) -> Raw:
    with zipfile.ZipFile(path) as archive:
        names = [entry.filename for entry in archive.infolist()]
        if len(names) != 1:
            listed = ", ".join(name.removesuffix(".npy") for name in names[:5]) or "nothing"
            raise ReadError(f"{path}: found {len(names)} arrays ({listed}); expected one: save the image by itself")
        check_decoded_size(path, (archive.infolist()[0].file_size,), 1)
    with np.load(path, allow_pickle=False) as arrays:
        (array,) = arrays.values()
    check_decoded_size(path, array.shape, array.dtype.itemsize)
    return Raw(array)


def _native(raw: Raw) -> Raw:
    array = raw.array
    return Raw(array.astype(array.dtype.newbyteorder("="), copy=False), raw.axes, raw.voxel_sizes)


def _squeeze(array: np.ndarray, axes: str | None) -> tuple[np.ndarray, str | None]:
    """Leave out axes of length 1, but never a row or column of the image itself."""
    if axes is None:
        while array.ndim > 2 and array.shape[0] == 1:
            array = array[0]
        return array, None
    if len(axes) != array.ndim:
        return array, axes
    drop = tuple(i for i, axis in enumerate(axes) if array.shape[i] == 1 and axis not in "YX")
    return array.squeeze(drop), "".join(axis for i, axis in enumerate(axes) if i not in drop)


def _voxel_size(raw: Raw, spatial_axes: str) -> tuple[float, ...] | None:
    sizes = raw.voxel_sizes or {}
    known = [sizes[axis] for axis in spatial_axes if axis in sizes and _SMALLEST <= sizes[axis] <= _LARGEST]
    return tuple(known) if len(known) == len(spatial_axes) else None
