"""Read one image or label image from a file, whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from cellbasin.image import Image, as_image

from .errors import ReadError
from .pictures import read_picture
from .raw import Raw, check_decoded_size
from .tiff import read_tiff

SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp", ".npy")
"""Endings of files that `read_image` reads, in any case; the first bytes, not the ending, tell the format."""

_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"BM", "BMP"),
    (b"\x93NUMPY", "NPY"),
    *((magic, "TIFF") for magic in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
)


def read_image(path: str | os.PathLike[str], axes: str | None = None) -> Image:
    """Read an image: TIFF (ImageJ, OME, BigTIFF, compressed), PNG, JPEG, BMP or NPY.

    Parameters
    ----------
    path : the file. Of a TIFF file with several series the first is read.
    axes : a letter per axis (T, C, S, Z, Y, X), instead of what the file says or its shape suggests.

    Returns
    -------
    Image : values as stored (8, 16 or 32 bits, float), axes of length 1 left out, voxel size in µm where the
        file states it, named by the file's stem. Palette pictures become RGB; alpha is dropped; a camera's
        note to turn the picture is not followed.

    Raises
    ------
    ReadError for a file that is missing, damaged, cut short, of another format, without pixels, whose axes
    cannot be told, or
        that unpacks to more than 2 GiB and 100 times its size.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(folder + "/cells.npy", np.zeros((64, 80), np.uint16))
    ...     image = read_image(folder + "/cells.npy")
    >>> image.name, image.axes, image.array.dtype.name
    ('cells', 'YX', 'uint16')
    """
    path = Path(path)
    raw = _decode(path, indices=False)
    array = raw.array
    known = axes.upper() if axes is not None else raw.axes
    array, known = _squeeze(array, known)
    try:
        image = as_image(array, known)
        return Image(array, image.axes, _voxel_size(raw, image.spatial_axes), path.stem)
    except (ValueError, TypeError) as error:
        raise ReadError(f"{path}: {error}") from error


def read_labels(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a label image: PNG, TIFF or NPY; palette pictures give their indices.

    Parameters
    ----------
    path : the file.

    Returns
    -------
    int32 (Y, X) or (Z, Y, X), values as stored (also 65535, by which some data sets say "not annotated").

    Raises
    ------
    ReadError as `read_image`, and for colour pictures, negative or fractional values.
    """
    path = Path(path)
    raw = _decode(path, indices=True)
    array, axes = _squeeze(raw.array, raw.axes)
    if array.ndim not in (2, 3) or (axes or "YX")[-2:] != "YX":
        raise ReadError(
            f"{path}: found an array of shape {array.shape}{f' and axes {axes}' if axes else ''}; "
            "expected labels (Y, X) or (Z, Y, X): one whole number for each object, not colours"
        )
    if array.dtype.kind not in "buif":
        raise ReadError(f"{path}: found values of dtype {array.dtype}; expected whole numbers")
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= np.iinfo(np.int32).max):
        raise ReadError(
            f"{path}: found label values from {low} to {high}; expected whole numbers from 0 (background) on"
        )
    labels = array.astype(np.int32)
    if array.dtype.kind == "f" and not np.array_equal(labels, array):
        raise ReadError(f"{path}: found fractional values; expected whole numbers: is this the image, not its labels?")
    return labels


def _decode(path: Path, *, indices: bool) -> Raw:
    """Read a file with the reader for its first bytes; everything that goes wrong becomes a ReadError."""
    try:
        kind = _kind(path)
        if kind == "TIFF":
            return _native(read_tiff(path))
        if kind == "NPY":
            return _native(_read_npy(path))
        return read_picture(path, kind, indices=indices)
    except ReadError:
        raise
    except MemoryError as error:
        raise ReadError(
            f"{path}: found an image larger than the free memory; expected less: cut or shrink it"
        ) from error
    except Exception as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise ReadError(
            f"{path}: cannot be read ({reason}); expected a whole image file: copy or export it again"
        ) from error


def _kind(path: Path) -> str:
    """Format of a file by its first bytes, after asking the plain questions."""
    if path.is_dir():
        raise ReadError(f"{path}: found a folder; expected an image file")
    if not path.exists():
        raise ReadError(f"{path}: no such file; expected an image: check the name")
    if path.suffix.lower() not in SUFFIXES:
        raise ReadError(
            f"{path}: found a file ending in {path.suffix!r}; expected one of {' '.join(SUFFIXES)}: save it as TIFF"
        )
    with path.open("rb") as file:
        start = file.read(8)
    if not start:
        raise ReadError(f"{path}: found an empty file; expected an image: copy it again")
    for magic, kind in _MAGIC:
        if start.startswith(magic):
            return kind
    raise ReadError(
        f"{path}: found a file that begins with {start!r}, which no image does; "
        "expected TIFF, PNG, JPEG, BMP or NPY inside"
    )


def _read_npy(path: Path) -> Raw:
    mapped = np.load(
        path, mmap_mode="r", allow_pickle=False
    )  # mapping fails when the file is shorter than its header says
    check_decoded_size(path, mapped.shape, mapped.dtype.itemsize)
    return Raw(np.array(mapped))


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
    known = [sizes[axis] for axis in spatial_axes if axis in sizes]
    return tuple(known) if len(known) == len(spatial_axes) else None
