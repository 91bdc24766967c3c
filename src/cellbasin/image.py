"""An image in memory: an array, the meaning of its axes, the size of its voxels. Knows nothing of files."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

AXES = {"T": "time", "C": "channel", "S": "RGB(A) sample", "Z": "plane", "Y": "row", "X": "column"}
MICROMETRES = {
    **dict.fromkeys(("µm", "μm", "\\u00B5m", "um", "micron", "microns", "micrometer", "micrometre"), 1.0),
    **dict.fromkeys(("nm", "nanometer"), 1e-3),
    **dict.fromkeys(("mm", "millimeter"), 1e3),
    **dict.fromkeys(("cm", "centimeter"), 1e4),
    **dict.fromkeys(("m", "meter"), 1e6),
    **dict.fromkeys(("Å", "angstrom"), 1e-4),
    "pm": 1e-6,
}
"""Units of length as files and programs spell them, in µm; "\\u00B5m" is ImageJ's."""


@dataclass(frozen=True, eq=False)
class Image:
    """An array with named axes; checked when it is made, so that later code can trust it.

    Attributes
    ----------
    array : any integer or float dtype, not modified.
    axes : one letter per axis of the array, in any order: Y and X always; Z planes, C channels or S colour samples
        (RGB, RGBA, or gray with alpha: the alpha sample is not looked at), T time points.
    voxel_size : µm along the spatial axes, (y, x) or (z, y, x), or None when unknown.
    name : for messages and results, typically the file's name.

    Raises
    ------
    ValueError when axes do not fit the array, the array has an axis of length zero or the voxel size is not positive.
    TypeError when the dtype is boolean, complex or not a number.

    >>> Image(np.zeros((5, 64, 80, 2)), "ZYXC").channels_first.shape
    (2, 5, 64, 80)
    """

    array: np.ndarray
    axes: str
    voxel_size: tuple[float, ...] | None = None
    name: str = ""

    def __post_init__(self) -> None:
        _check_array(self.array)
        _check_axes(self.axes, self.array.shape)
        if self.voxel_size is not None:
            _check_voxel_size(self.voxel_size, self.spatial_axes)

    @property
    def spatial_axes(self) -> str:
        """Either "YX" or "ZYX", the order of axes in labels, flows and voxel sizes."""
        return "ZYX" if "Z" in self.axes else "YX"

    @property
    def spatial_shape(self) -> tuple[int, ...]:
        """Lengths along `spatial_axes` in pixels."""
        return tuple(self.array.shape[self.axes.index(axis)] for axis in self.spatial_axes)

    @property
    def channels_first(self) -> np.ndarray:
        """A view (C, [Z,] Y, X) of the array; an image without channels has C = 1, alpha is left out.

        Raises
        ------
        ValueError when there is a time axis of more than one time point.
        """
        array, axes = self.array, self.axes
        if "T" in axes:
            if array.shape[axes.index("T")] > 1:
                raise ValueError(
                    f"the image {self._described()} is a time series; segment each time point by itself, "
                    f"or pass axes with Z or C in the place of T if that axis is not time"
                )
            array, axes = array.squeeze(axes.index("T")), axes.replace("T", "")
        channel = "S" if "S" in axes else "C"
        if channel not in axes:
            array, axes = array[None], channel + axes
        array = array.transpose([axes.index(axis) for axis in channel + self.spatial_axes])
        return array[:-1] if channel == "S" and len(array) in (2, 4) else array

    def _described(self) -> str:
        return f"{self.name!r} of shape {self.array.shape} and axes {self.axes}".removeprefix("'' ")


class AmbiguousAxesError(ValueError):
    """The axes of an array cannot be told from its shape."""


def as_image(image: np.ndarray | Image, axes: str | None = None) -> Image:
    """Take an `Image` as it is, or give an array its axes.

    Without `axes` these shapes are understood, everything else is refused with a message that lists the
    readings:

    - two axes: YX;
    - three axes, the last of length 3, or of length 4 and uint8, and the others longer than 4: YXS, an RGB(A)
      picture;
    - three axes with a first or last axis of length 1 and the others longer than 4: CYX or YXC, one channel.

    Parameters
    ----------
    image : an `Image`, or an array (or what numpy can make one of) of any integer or float dtype. Not
        modified, not copied.
    axes : a letter per axis out of T, C, S, Z, Y, X, in any case: "YX", "CYX", "YXC", "YXS", "ZYX", "ZCYX",
        ...
        Overrides those of an `Image`, whose voxel size stays where it tells the sizes along the new ones.

    Returns
    -------
    Image; without voxel size and name if an array was given.

    Raises
    ------
    ValueError when the axes are ambiguous or do not fit, or an axis has length zero. TypeError when the dtype is
    boolean, complex or not a number.

    >>> as_image(np.zeros((64, 80, 3), np.uint8)).axes
    'YXS'
    >>> as_image(np.zeros((3, 64, 80)))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    cellbasin.image.AmbiguousAxesError: the axes of an array of shape (3, 64, 80) are ambiguous: it can be ...
    """
    if isinstance(image, Image):
        return image if axes is None else _with_axes(image, axes.upper())
    array = image if isinstance(image, np.ma.MaskedArray) else np.asarray(image)  # asarray drops the mask
    _check_array(array)
    return Image(array, _inferred_axes(array) if axes is None else axes.upper())


def _with_axes(image: Image, axes: str) -> Image:
    """The image with other axes, and the voxel size where it is known along all of these."""
    known = dict(zip(image.spatial_axes, image.voxel_size or (), strict=False))
    spatial = [axis for axis in "ZYX" if axis in axes]
    voxel_size = tuple(known[axis] for axis in spatial) if set(spatial) <= known.keys() else None
    return Image(image.array, axes, voxel_size, image.name)


def _inferred_axes(array: np.ndarray) -> str:
    shape = array.shape
    if array.ndim == 2:
        return "YX"
    if array.ndim == 3 and min(shape[:2]) > 4 and (shape[2] == 3 or (shape[2] == 4 and array.dtype == np.uint8)):
        return "YXS"
    if array.ndim == 3 and shape[0] == 1 and min(shape[1:]) > 4:
        return "CYX"
    if array.ndim == 3 and shape[2] == 1 and min(shape[:2]) > 4:
        return "YXC"
    if array.ndim not in (3, 4, 5):
        raise ValueError(
            f"found an array of shape {shape}; expected an image of two to five axes, such as YX, CYX, ZYX or CZYX"
        )
    *others, last = [described_reading(shape, axes) for axes in readings(shape)]
    example = last.split()[0] if not others else others[0].split()[0]
    listed = f"{', '.join(others)} or {last}" if others else last
    raise AmbiguousAxesError(
        f"the axes of an array of shape {shape} are ambiguous: it can be {listed}; "
        f'say which with axes="{example}" (on the command line --axes {example})'
    )


def readings(shape: tuple[int, ...]) -> list[str]:
    """The plausible axes of an array of two to five axes; a short last axis can only be channels.

    >>> readings((3, 64, 80)), readings((64, 80, 3))
    (['CYX', 'ZYX', 'TYX'], ['YXC'])
    """
    candidates = {
        2: ["YX"],
        3: ["YXC", "CYX", "ZYX", "TYX"],
        4: ["ZYXC", "ZYXS", "TYXS", "CZYX", "ZCYX", "TCYX", "TZYX"],
        5: ["TZYXC", "TCZYX", "TZCYX", "CTZYX"],
    }[len(shape)]
    channels_last = len(shape) > 2 and shape[-1] <= 4 < shape[-2]
    fitting = [axes for axes in candidates if (axes[-1] in "CS") == channels_last]
    return [axes for axes in fitting if axes[-1] != "S" or shape[-1] in (3, 4)]


def described_reading(shape: tuple[int, ...], axes: str) -> str:
    """What an array of a shape is with these axes.

    >>> described_reading((3, 64, 80), "ZYX")
    'ZYX (3 planes)'
    """
    words = {"C": "channels", "S": "colours", "Z": "planes", "T": "time points"}
    counts = ", ".join(f"{n} {words[a]}" for n, a in zip(shape, axes, strict=True) if a in words)
    return f"{axes} ({counts})" if counts else axes


def _check_array(array: np.ndarray) -> None:
    if not isinstance(array, np.ndarray):
        raise TypeError(f"found an image of type {type(array).__name__}; expected a numpy array")
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError("found a masked array; expected a plain one: fill it first, for example image.filled(0)")
    if array.dtype.kind not in "uif":
        hints = {
            "b": "a mask is not an image: convert it with .astype('uint8') if it is meant",
            "c": "take its np.abs or .real",
            "U": "if it is a file's name, read it with cellbasin.read_image",
        }
        hint = hints.get(array.dtype.kind, "convert it first")
        raise TypeError(f"found an image of dtype {array.dtype}; expected integers or floats: {hint}")
    if array.size == 0:
        raise ValueError(f"found an image of shape {array.shape}; expected no axis of length 0")


def _check_axes(axes: str, shape: tuple[int, ...]) -> None:
    legend = ", ".join(f"{letter} {word}" for letter, word in AXES.items())
    if set(axes) - set(AXES) or len(set(axes)) != len(axes):
        raise ValueError(f"found axes {axes!r}; expected each letter once out of {legend}")
    if len(axes) != len(shape):
        raise ValueError(
            f"found axes {axes!r} for an array of shape {shape}; expected {len(shape)} letters, one for each axis"
        )
    if not {"Y", "X"} <= set(axes):
        raise ValueError(f"found axes {axes!r}; expected Y and X among them ({legend})")
    if {"C", "S"} <= set(axes):
        raise ValueError(
            f"found axes {axes!r}; expected channels (C) or colour samples (S), not both: take one of either first"
        )
    if "S" in axes and shape[axes.index("S")] > 4:
        raise ValueError(
            f"found axes {axes!r} for an array of shape {shape}; expected at most 4 colour "
            f"samples (S, red green blue alpha): "
            f"name that axis C"
        )


def _check_voxel_size(voxel_size: tuple[float, ...], spatial_axes: str) -> None:
    right = len(voxel_size) == len(spatial_axes)
    if not right or not all(math.isfinite(size) and size > 0 for size in voxel_size):
        order = ", ".join(spatial_axes.lower())
        raise ValueError(
            f"found voxel size {voxel_size}; expected {len(spatial_axes)} positive numbers ({order}) in µm, or None"
        )
