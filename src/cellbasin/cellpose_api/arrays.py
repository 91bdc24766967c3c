"""What Cellpose's calls take and give: axes by the guesses of its `convert_image`, channels, masks."""

from __future__ import annotations

from typing import Any

import numpy as np

_CHANNELS = 5  # an axis up to this long can be channels where nothing else is said


def arranged(x: np.ndarray, channel_axis: int | None, z_axis: int | None, *, volume: bool) -> tuple[np.ndarray, str]:
    """An array as (C, Y, X) or (C, Z, Y, X), and "CYX" or "CZYX".

    Axes of length 1 are left out. Of three axes one is the channels if it is named, or if it is the shortest, at most 5
    long, and no volume was asked for; else planes. Raises ValueError for arrays that cannot be read so.

    >>> arranged(np.zeros((224, 3, 224)), 1, None, volume=False)[1]
    'CYX'
    >>> arranged(np.zeros((5, 64, 64)), None, None, volume=True)[0].shape
    (1, 5, 64, 64)
    """
    x = np.asarray(x)
    letters = [""] * x.ndim
    for number, letter in ((channel_axis, "C"), (z_axis, "Z")):
        if number is not None:
            if not -x.ndim <= number < x.ndim or letters[number]:
                raise ValueError(f"found axis {number} for {letter} of an array of shape {x.shape}, expected another")
            letters[number] = letter
    keep = _kept(x.shape, letters)
    x, letters = x.reshape([x.shape[i] for i in keep]), [letters[i] for i in keep]
    if x.ndim not in (2, 3, 4):
        raise ValueError(f"found an array of shape {x.shape}, expected two to four axes longer than 1")
    _name_channels(x.shape, letters, volume=volume)
    _name_planes(x.shape, letters)
    left = iter("YX")
    named = [letter or next(left, "?") for letter in letters]
    if sorted(named) not in (sorted("YX"), sorted("CYX"), sorted("ZYX"), sorted("CZYX")):
        raise ValueError(f"found an array of shape {x.shape}; say what its axes are: channel_axis, z_axis")
    if volume and "Z" not in named:
        raise ValueError(f"found an array of shape {x.shape}, expected a volume of three axes or more")
    if "C" not in named:
        x, named = x[None], ["C", *named]
    axes = "CZYX" if "Z" in named else "CYX"
    return x.transpose([named.index(axis) for axis in axes]), axes


def has_planes(x: np.ndarray, channel_axis: int | None, z_axis: int | None) -> bool:
    """Whether an array has an axis of planes: three axes or more that are longer than 1, beside that of channels.

    >>> has_planes(np.zeros((5, 64, 64)), None, None), has_planes(np.zeros((5, 64, 64)), 0, None)
    (True, False)
    """
    long = [length > 1 for length in np.shape(x)]
    if channel_axis is not None and -len(long) <= channel_axis < len(long):
        del long[channel_axis]
    return z_axis is not None or sum(long) > 2


def _kept(shape: tuple[int, ...], letters: list[str]) -> list[int]:
    """Axes that are left when those of length 1 are left out, but never more than down to two."""
    keep = list(range(len(shape)))
    for i in [i for i in keep if shape[i] == 1 and letters[i] != "Z"]:
        if len(keep) > 2:
            keep.remove(i)
    return keep


def _name_channels(shape: tuple[int, ...], letters: list[str], *, volume: bool) -> None:
    unnamed = [i for i, letter in enumerate(letters) if not letter]
    planes = "Z" in letters or volume
    if "C" in letters or len(unnamed) <= 2 or (len(unnamed) == 3 and planes and "Z" not in letters):
        return
    shortest = min(unnamed, key=lambda i: shape[i])
    if shape[shortest] <= _CHANNELS:
        letters[shortest] = "C"


def _name_planes(shape: tuple[int, ...], letters: list[str]) -> None:
    unnamed = [i for i, letter in enumerate(letters) if not letter]
    if "Z" not in letters and len(unnamed) == 3:
        letters[min(unnamed, key=lambda i: shape[i])] = "Z"


def picked(planes: np.ndarray, channels: object) -> np.ndarray:
    """The network's one or two channels out of (C, ...).

    channels: Cellpose's two numbers: 0 gray (mean) or none, 1 red, 2 green, 3 blue; None takes the first two as they
    are. Raises ValueError for numbers that are not there.
    """
    if channels is None:
        return planes[:2]
    first, second = channel_pair(channels)
    if max(first, second if first else 0) > max(len(planes), 1):
        raise ValueError(f"found channels {channels} for an image of {len(planes)}, expected numbers that it has")
    if first == 0:
        return planes if len(planes) == 1 else planes.mean(axis=0, dtype=np.float32)[None]
    return planes[[first - 1, second - 1]] if second else planes[[first - 1]]


def channel_pair(channels: object, number: int = 0, count: int = 1) -> tuple[int, int]:
    """Cellpose's two numbers, 0 to 3, for one of so many images: the same for all, or a pair for each.

    >>> channel_pair([2, 1], 4, 5), channel_pair([[0, 0], [2, 3]], 1, 2)
    ((2, 1), (2, 3))
    """
    pairs = np.atleast_2d(np.asarray(channels, int))
    if pairs.shape not in ((1, 2), (count, 2)) or pairs.min() < 0 or pairs.max() > 3:
        raise ValueError(
            f"found channels {channels}, expected two numbers from 0 to 3 such as [2, 1], or a pair for each image"
        )
    first, second = pairs[number % len(pairs)].tolist()
    return first, second


def own_value(value: Any, number: int, count: int) -> Any:
    """The value for one of so many images, where it is given for each."""
    return value[number] if np.ndim(value) and len(value) == count else value


def as_masks(labels: np.ndarray) -> np.ndarray:
    """Labels in Cellpose's type: uint16, or uint32 where there are too many."""
    return labels.astype(np.uint16 if labels.max(initial=0) < 65535 else np.uint32)
