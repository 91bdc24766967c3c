"""Images as Cellpose's numbers of channels and axes mean them: 0 gray, 1 red, 2 green, 3 blue."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np

from cellbasin.image import AmbiguousAxesError, Image
from cellbasin.io import LABEL_SUFFIXES, ReadError, natural_key, read_image

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".npy", ".nd2", ".czi", ".lif")
_RESULTS = ("_cp_output", "_flows", "_flows_0", "_flows_1", "_flows_2", "_cellprob", "_masks", "_seg")
_ARRAYS = ("_size", "_predicted_diams", "_train_losses", "_test_losses")  # of training, ending in .npy


def list_images(folder: str, img_filter: str, mask_filter: str, *, one_level_down: bool) -> list[Path]:
    """Images that Cellpose would take of a folder: no results, names that end with `img_filter`, in natural order.

    Raises ReadError when there is no such folder or nothing in it.
    """
    top = Path(folder)
    if not top.is_dir():
        raise ReadError(f"{folder}: found no such folder, expected one of images")
    folders = [top, *(path for path in top.iterdir() if path.is_dir())] if one_level_down else [top]
    results = (*_RESULTS, mask_filter.removesuffix(".npy"))
    images = [
        path
        for place in folders
        for path in place.iterdir()
        if path.suffix.lower() in SUFFIXES
        and not path.name.startswith(".")
        and path.stem.endswith(img_filter)
        and not path.stem.endswith(results)
        and not (path.suffix.lower() == ".npy" and path.stem.endswith(_ARRAYS))
        and path.is_file()
    ]
    if not images:
        wanted = f" whose names end with {img_filter}" if img_filter else ""
        raise ReadError(f"{folder}: found no image{wanted}, expected files ending in {' '.join(SUFFIXES)}")
    return sorted(images, key=natural_key)


def read(path: Path, channel_axis: int | None, z_axis: int | None, *, volume: bool = False) -> Image:
    """Read an image; the numbers of axes are used where they are given, counted from the array as stored.

    volume: three axes that the file does not name are planes, rows and columns.
    """
    if channel_axis is None and z_axis is None:
        try:
            return read_image(path)
        except ReadError as error:
            if not isinstance(error.__cause__, AmbiguousAxesError):
                raise
            if volume and _count_axes(path) == 3:
                return read_image(path, axes="ZYX")
            raise ReadError(
                f"{path}: found {_count_axes(path)} axes, which the file does not name; "
                "expected --channel_axis or --z_axis to say which are channels and planes, numbers from 0"
            ) from error
    return read_image(path, axes=_axes(_count_axes(path), channel_axis, z_axis))


def _count_axes(path: Path) -> int:
    """Number of axes that a file stores."""
    import tifffile

    if path.suffix.lower() in (".tif", ".tiff"):
        with tifffile.TiffFile(path) as file:
            return len(file.series[0].shape)
    if path.suffix.lower() == ".npy":
        with contextlib.suppress(ValueError, OSError):  # reading it says what is wrong
            return np.load(path, mmap_mode="r", allow_pickle=False).ndim
    return read_image(path).array.ndim


def _axes(count: int, channel_axis: int | None, z_axis: int | None) -> str:
    letters = [""] * count
    for number, letter in ((channel_axis, "C"), (z_axis, "Z")):
        if number is None:
            continue
        if not -count <= number < count or letters[number]:
            raise ReadError(f"found --channel_axis {channel_axis} and --z_axis {z_axis} of an image with {count} axes")
        letters[number] = letter
    left = iter("YX")
    named = [letter or next(left, "?") for letter in letters]
    if "?" in named or "X" not in named:
        raise ReadError(
            f"found an image with {count} axes, expected two beside those that --channel_axis and --z_axis name"
        )
    return "".join(named)


def chosen(image: Image, chan: int, chan2: int, *, invert: bool) -> tuple[Image, tuple[int, ...] | None]:
    """The image and the channels of it that `Model.segment` takes for Cellpose's numbers.

    With `chan` 0 an image of several channels becomes their mean, and there is no nuclear channel. Raises ValueError
    for channels that the image does not have.
    """
    planes = image.channels_first
    count = len(planes)
    for flag, number in (("--chan", chan), ("--chan2", chan2 if chan else 0)):
        if number > count:
            raise ValueError(
                f"found {count} channel{'s' * (count > 1)}, expected at least {number} for {flag} {number}"
            )
    if not chan and not invert and (count == 1 or "S" in image.axes):
        return image, None  # exactly as 'cellbasin segment' reads it
    channels = own_channels(chan, chan2)
    if channels is None:
        planes = planes.mean(axis=0, dtype=np.float32)[None] if count > 1 else planes
        channels = (0,)
    elif not invert:
        return image, channels
    axes = "C" + image.spatial_axes
    return Image(inverted(planes) if invert else planes, axes, image.voxel_size, image.name), channels


def own_channels(chan: int, chan2: int) -> tuple[int, ...] | None:
    """Numbers from 0 of the primary and the nuclear channel, for Cellpose's numbers of them; None for gray."""
    if not chan:
        return None
    return (chan - 1, chan2 - 1) if chan2 else (chan - 1,)


def masks_of(image: Path, img_filter: str, mask_filter: str) -> Path:
    """The label file beside an image; raises ReadError where there is none."""
    stem = image.stem.removesuffix(img_filter)
    suffixes = ("",) if mask_filter.endswith(".npy") else LABEL_SUFFIXES
    for suffix in suffixes:
        path = image.with_name(f"{stem}{mask_filter}{suffix}")
        if path.is_file():
            return path
    raise ReadError(f"{image}: found no labels {stem}{mask_filter}, expected them beside the image")


def inverted(planes: np.ndarray) -> np.ndarray:
    """Bright for dark, in every channel of (C, ...); normalised it is 1 minus what it was."""
    values = planes if planes.dtype.kind in "uf" else planes.astype(np.float64)  # differences of signed ones overflow
    return values.max(axis=tuple(range(1, values.ndim)), keepdims=True) - values
