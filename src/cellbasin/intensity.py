"""Brightness: choosing the network's two channels and scaling them, percentile 1 to 0 and percentile 99 to 1.

Percentiles are exact for every dtype and size: integers up to 16 bits and float32 are counted in histograms (float32 in
two steps, the upper and the lower half of its bits), in linear time, on all threads and without a copy of the image.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from cellbasin.image import Image
from cellbasin.parallel import parallel_map, thread_count

LOW, HIGH = 1.0, 99.0
_NARROW = 1e-5
_BOUND = 1e6
_TINY = float(np.finfo(np.float64).tiny)  # a smaller difference has no finite reciprocal


def normalise(channel: np.ndarray, *, low: float = LOW, high: float = HIGH) -> np.ndarray:
    """Scale one channel so that percentiles `low` and `high` become 0 and 1. Values beyond are not clipped.

    Parameters
    ----------
    channel : (...) any integer or float dtype, finite.
    low, high : percentiles, 0 ≤ low < high ≤ 100.

    Returns
    -------
    (...) float32, a new array; zeros when the channel is constant (see `normalisation_range`).

    Raises
    ------
    ValueError, TypeError as `normalisation_range`.

    Paper: "Deep neural network".

    >>> normalise(np.arange(101, dtype=np.uint8))[[0, 1, 50, 99]].tolist()
    [-0.010204081423580647, 0.0, 0.5, 1.0]
    """
    return apply_range(channel, normalisation_range(channel, low=low, high=high))


def normalisation_range(channel: np.ndarray, *, low: float = LOW, high: float = HIGH) -> tuple[float, float]:
    """The two intensities that `normalise` maps to 0 and 1, so that blocks of one image can share them.

    They are the percentiles (linearly interpolated, as `np.percentile`). Where these are (nearly) the same, as in a
    field with few cells on an exactly uniform background, they are the smallest and largest value. Where those are
    nearly the same too the channel is constant and both numbers are equal. "Nearly" is a difference of less than 1e-5
    of the larger magnitude: what rounding leaves of a constant in float32, and less than a gray level of a 16-bit
    image.

    Parameters
    ----------
    channel : (...) any integer or float dtype, finite. Not modified.
    low, high : percentiles, 0 ≤ low < high ≤ 100.

    Returns
    -------
    (intensity that becomes 0, intensity that becomes 1).

    Raises
    ------
    ValueError when the channel is empty, holds NaN, infinity or numbers whose difference is infinite, or the
    percentiles are out of order.
    TypeError when the dtype is boolean, complex or not a number.

    >>> normalisation_range(np.arange(101, dtype=np.uint16))
    (1.0, 99.0)
    >>> normalisation_range(np.full((8, 8), 7))
    (7.0, 7.0)
    """
    if not 0 <= low < high <= 100:
        raise ValueError(f"found percentiles {low} and {high}; expected 0 ≤ low < high ≤ 100")
    values = _checked(channel)
    with np.errstate(over="ignore", invalid="ignore"):
        bottom, lower, upper, top = _percentiles(values, (0.0, low, high, 100.0))
    if not math.isfinite(top - bottom):
        raise ValueError(
            f"found intensities from {values.min():g} to {values.max():g}, whose difference no float holds; "
            "expected a narrower range: divide them first"
        )
    if differ(lower, upper):
        return lower, upper
    return (bottom, top) if differ(bottom, top) else (bottom, bottom)


def apply_range(channel: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Scale intensities linearly, `limits[0]` to 0 and `limits[1]` to 1.

    Parameters
    ----------
    channel : (...) any integer or float dtype, finite. Not modified.
    limits : from `normalisation_range`; equal limits stand for a constant channel.

    Returns
    -------
    (...) float32, a new array; zeros for equal limits. Values beyond ±1e6 become ±1e6, lest they overflow in
    the network.

    Raises
    ------
    ValueError when the channel is empty. TypeError when its dtype is boolean, complex or not a number.

    >>> apply_range(np.array([10, 20, 40]), (10, 20)).tolist()
    [0.0, 1.0, 3.0]
    """
    values = _checked(channel)
    zero, one = float(limits[0]), float(limits[1])
    result = np.zeros(values.shape, np.float32)
    if one > zero:
        target = result.reshape(-1)
        source = values.reshape(-1)
        parallel_map(lambda part: _scale(source[part], zero, 1.0 / (one - zero), target[part]), _parts(values.size))
    return result


def select_channels(image: Image, channels: tuple[int, ...] | None = None) -> np.ndarray:
    """The network's two input channels, each normalised by itself: primary (cytoplasm, ...) and nuclear.

    Parameters
    ----------
    image : an `Image` (see `as_image`) with axes (C or S), [Z,] Y, X in any order. Not modified.
    channels : (primary,) or (primary, nuclear), numbers from 0. None: the only channel, or the mean of red,
        green and blue.

    Returns
    -------
    (2, [Z,] Y, X) float32: primary and nuclear; the nuclear channel is zero where there is none.

    Raises
    ------
    ValueError when a channel does not exist, or the image has several and none was chosen, or it holds NaN or
    infinity.

    Paper: "Deep neural network".

    >>> select_channels(Image(np.zeros((3, 64, 80)), "CYX"), (1, 0)).shape
    (2, 64, 80)
    """
    planes = image.channels_first
    result = np.zeros((2, *planes.shape[1:]), np.float32)
    if channels is not None:
        for place, channel in enumerate(_checked_channels(channels, len(planes))):
            result[place] = normalise(planes[channel])
    elif len(planes) == 1:
        result[0] = normalise(planes[0])
    elif "S" in image.axes:
        result[0] = normalise(_sum(planes))
    else:
        raise ValueError(
            f"the image has {len(planes)} channels (0..{len(planes) - 1}); say which one "
            f"shows the cells and, if there is one, "
            f"which the nuclei: channels=(PRIMARY,) or (PRIMARY, NUCLEAR), on the command "
            f"line --channels PRIMARY[,NUCLEAR], "
            f"numbers from 0"
        )
    return result


def _checked_channels(channels: tuple[int, ...], count: int) -> tuple[int, ...]:
    if len(channels) not in (1, 2):
        raise ValueError(
            f"found {len(channels)} channel numbers {tuple(channels)}; expected PRIMARY or PRIMARY,NUCLEAR"
        )
    found = "1 channel (0)" if count == 1 else f"{count} channels (0..{count - 1})"
    for channel in channels:
        if int(channel) != channel or not 0 <= channel < count:
            raise ValueError(f"the option channels asks for channel {channel}, but the image has {found}")
    return tuple(int(channel) for channel in channels)


def _sum(planes: np.ndarray) -> np.ndarray:
    """Sum over channels: normalised it equals the mean, and for 8-bit pictures it is exact in 16 bits."""
    dtype = {"uint8": np.dtype(np.uint16), "float64": planes.dtype}.get(planes.dtype.name, np.dtype(np.float32))
    total = planes[0].astype(dtype)
    for plane in planes[1:]:
        total += plane.astype(dtype, copy=False)
    return total


def _checked(channel: np.ndarray) -> np.ndarray:
    """A contiguous array of a dtype that the kernels know; the same memory whenever possible."""
    if channel.dtype.kind not in "uif":
        raise TypeError(f"found intensities of dtype {channel.dtype}; expected integers or floats")
    if channel.size == 0:
        raise ValueError(f"found a channel of shape {channel.shape}; expected no axis of length 0")
    known: dict[int, np.dtype] = (
        {2: np.dtype(np.float32), 16: np.dtype(np.float64)} if channel.dtype.kind == "f" else {}
    )
    dtype = known.get(channel.dtype.itemsize, channel.dtype.newbyteorder("="))
    return np.ascontiguousarray(channel, dtype)


def differ(lower: float, upper: float) -> bool:
    """Whether two percentiles are far enough apart for what lies between to be more than rounding."""
    return upper - lower > max(_NARROW * max(abs(lower), abs(upper)), _TINY)


def _parts(size: int) -> list[slice]:
    length = max(65536, -(-size // thread_count()))
    return [slice(first, first + length) for first in range(0, size, length)]


def _percentiles(values: np.ndarray, percentiles: tuple[float, ...]) -> list[float]:
    """Percentiles with linear interpolation between the two nearest values in order of size."""
    if values.dtype.kind == "f":
        _check_finite(values)
    if values.dtype.itemsize > 2 and values.dtype != np.float32:
        # As floats: numpy takes differences of integers in their own dtype, where those of far ones do not fit.
        return [float(value) for value in np.percentile(values.astype(np.float64, copy=False), percentiles)]
    places = [(values.size - 1) * percentile / 100 for percentile in percentiles]
    ranks = sorted({rank for place in places for rank in (math.floor(place), math.ceil(place))})
    ordered = dict(zip(ranks, _ranked(values.reshape(-1), ranks), strict=True))
    below_above = [(ordered[math.floor(place)], ordered[math.ceil(place)]) for place in places]
    return [below + (above - below) * (place % 1) for (below, above), place in zip(below_above, places, strict=True)]


def _ranked(values: np.ndarray, ranks: list[int]) -> list[float]:
    """The values that stand at the given ranks when all are sorted."""
    if values.dtype == np.float32:
        bits = values.view(np.uint32)
        upper, left = _locate(_counted(bits, _count_upper, 0), ranks)
        lower = {key: _counted(bits, _count_lower, key) for key in set(upper)}
        keys = [(key << 16) + _locate(lower[key], [rank])[0][0] for key, rank in zip(upper, left, strict=True)]
        return [float(value) for value in _float_of_key(np.array(keys, np.uint32))]
    shift = 2 ** (8 * values.dtype.itemsize - 1) if values.dtype.kind == "i" else 0
    return [key - shift for key in _locate(_counted(values, _count_small, shift), ranks)[0]]


def _counted(values: np.ndarray, kernel, argument: int) -> np.ndarray:  # type: ignore[no-untyped-def]
    return np.sum(parallel_map(lambda part: kernel(values[part], argument), _parts(values.size)), axis=0)


def _locate(counts: np.ndarray, ranks: list[int]) -> tuple[list[int], list[int]]:
    """For every rank the bin of a histogram that it falls into, and its rank inside that bin."""
    ends = np.cumsum(counts)
    bins = np.searchsorted(ends, ranks, side="right")
    return bins.tolist(), (np.asarray(ranks) - (ends - counts)[bins]).tolist()


def _check_finite(values: np.ndarray) -> None:
    flat = values.reshape(-1)
    if all(parallel_map(lambda part: _is_finite(flat[part]), _parts(flat.size))):
        return
    nan, infinite = np.count_nonzero(np.isnan(values)), np.count_nonzero(np.isinf(values))
    raise ValueError(
        f"found {nan} NaN and {infinite} infinite values among the {values.size} pixels; "
        f"expected finite intensities: "
        f"replace them first, for example with numpy.nan_to_num(image, posinf=0, neginf=0)"
    )


def _float_of_key(keys: np.ndarray) -> np.ndarray:
    """Inverse of `_key_of_bits`."""
    return np.where(keys >> 31, keys ^ np.uint32(0x80000000), ~keys).astype(np.uint32).view(np.float32)


@njit(nogil=True, cache=True, inline="always")
def _key_of_bits(bits: np.uint32) -> np.uint32:
    """Bits of a float32 as a number that sorts as the float does."""
    return np.uint32(~bits) if bits >> np.uint32(31) else np.uint32(bits ^ np.uint32(0x80000000))


@njit(nogil=True, cache=True)
def _count_upper(bits: np.ndarray, _: int) -> np.ndarray:
    counts = np.zeros(65536, np.int64)
    for value in bits:
        counts[_key_of_bits(value) >> np.uint32(16)] += 1
    return counts


@njit(nogil=True, cache=True)
def _count_lower(bits: np.ndarray, upper: int) -> np.ndarray:
    counts = np.zeros(65536, np.int64)
    wanted = np.uint32(upper)
    for value in bits:
        key = _key_of_bits(value)
        if key >> np.uint32(16) == wanted:
            counts[key & np.uint32(0xFFFF)] += 1
    return counts


@njit(nogil=True, cache=True)
def _count_small(values: np.ndarray, shift: int) -> np.ndarray:
    counts = np.zeros(65536, np.int64)
    for value in values:
        counts[np.int64(value) + shift] += 1
    return counts


@njit(nogil=True, cache=True)
def _is_finite(values: np.ndarray) -> bool:
    wrong = 0
    for value in values:
        wrong += not np.isfinite(value)
    return wrong == 0


@njit(nogil=True, cache=True)
def _scale(values: np.ndarray, zero: float, factor: float, result: np.ndarray) -> None:
    for i in range(values.size):
        result[i] = min(max((np.float64(values[i]) - zero) * factor, -_BOUND), _BOUND)
