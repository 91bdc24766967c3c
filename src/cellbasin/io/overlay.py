"""Pictures for people: an image with a coloured outline around every object, and a flow as colours."""

from __future__ import annotations

import numpy as np

from cellbasin.image import Image, as_image

_SAMPLE = 400_000  # pixels that decide about brightness
_CYTOPLASM = np.array([0.10, 1.00, 0.10], np.float32)
_NUCLEUS = np.array([0.30, 0.40, 1.00], np.float32)
_GOLDEN = 0.6180339887498949


def overlay(image: np.ndarray | Image, labels: np.ndarray, channels: tuple[int, ...] | None = None) -> np.ndarray:
    """Draw the outlines of objects into an image, each object in its own colour.

    Parameters
    ----------
    image : two-dimensional, any number type; see `display` for its colours. Not modified.
    labels : integer (Y, X), 0 is background. Not modified.
    channels : numbers of the primary and, if there is one, the nuclear channel; None shows the image as it is
        stored.

    Returns
    -------
    uint8 (Y, X, 3). Outlines lie inside the objects and are one pixel thick, more in images above
    1500 pixels with objects large enough to bear it.

    Raises
    ------
    ValueError when the image is not two-dimensional or its size is not that of the labels.

    >>> labels = np.zeros((40, 50), np.int32)
    >>> labels[10:20, 10:30] = 1
    >>> picture = overlay(np.zeros((40, 50)), labels)
    >>> picture.shape, bool(picture[10, 15].any()), bool(picture[15, 15].any())
    ((40, 50, 3), True, False)
    """
    picture = display(image, channels)
    if labels.shape != picture.shape[:2]:
        raise ValueError(f"found labels of shape {labels.shape}; expected {picture.shape[:2]}, that of the image")
    edge = _edges(labels, _thickness(labels))
    picture[edge] = _palette(bright_ground=np.median(picture[::4, ::4]) > 150)[labels[edge] % 256]
    return picture


def display(image: np.ndarray | Image, channels: tuple[int, ...] | None = None) -> np.ndarray:
    """Bring an image to 8 bits for the screen, dark and bright ends cut off at its percentiles.

    Parameters
    ----------
    image : two-dimensional with any number of channels. Not modified.
    channels : (primary,) is shown in gray, (primary, nuclear) in green and blue. None: one channel is gray,
        two are green and blue, three are red, green and blue, of more the first is gray. Colour photos keep
        their hue; on a dark ground (fluorescence) every colour is stretched for itself.

    Returns
    -------
    uint8 (Y, X, 3), a new array.

    Raises
    ------
    ValueError when the image has planes, or not all channels that are asked for.

    >>> display(np.arange(12, dtype=np.uint16).reshape(3, 4))[2, 3]
    array([255, 255, 255], dtype=uint8)
    """
    image = as_image(image)
    if image.spatial_axes != "YX":
        raise ValueError(f"found an image with axes {image.axes}; expected a two-dimensional one: take one plane of it")
    planes = image.channels_first
    if channels is not None:
        if not 1 <= len(channels) <= 2 or not all(0 <= channel < len(planes) for channel in channels):
            raise ValueError(
                f"found channels {channels} for an image with {len(planes)}; expected one or two below that"
            )
        planes = planes[list(channels)]
    if len(planes) == 2:
        colour = _stretch(planes[0])[..., None] * _CYTOPLASM + _stretch(planes[1])[..., None] * _NUCLEUS
    elif len(planes) == 3:
        colour = _stretch_rgb(np.moveaxis(planes, 0, -1))
    else:
        colour = np.repeat(_stretch(planes[0])[..., None], 3, axis=-1)
    return np.rint(255 * np.clip(colour, 0, 1)).astype(np.uint8)


def flow_colours(flow: np.ndarray) -> np.ndarray:
    """Show a two-dimensional flow: its direction as hue, its length (up to 1) as brightness.

    Parameters
    ----------
    flow : float (2, ..., Y, X), y before x. Not modified.

    Returns
    -------
    uint8 (..., Y, X, 3).

    >>> flow_colours(np.zeros((2, 4, 5), np.float32)).max()
    np.uint8(0)
    """
    angle = np.arctan2(flow[0], flow[1])
    length = np.minimum(np.hypot(flow[0], flow[1]), 1.0)
    thirds = np.arange(3, dtype=np.float32) * (2 * np.pi / 3)
    colour = (1 + np.cos(angle[..., None] - thirds)) / 2
    return np.rint(255 * length[..., None] * colour).astype(np.uint8)


def _sample(values: np.ndarray) -> np.ndarray:
    """Some of the finite values, evenly spread over the image."""
    step = max(1, int(np.sqrt(values.shape[0] * values.shape[1] / _SAMPLE)))
    some = values[::step, ::step].astype(_exact(values.dtype))
    return some[np.isfinite(some)]


def _exact(dtype: np.dtype) -> np.dtype:
    """The float that holds numbers of a dtype: float32 rounds those of 32 bits, and ends at 3e38."""
    return np.result_type(dtype, np.float32)


def _limits(values: np.ndarray) -> tuple[float, float]:
    some = _sample(values)
    if not some.size:
        return 0.0, 0.0
    low, high = np.percentile(some, (1, 99.7))
    if high <= low:  # a few bright pixels in an empty field
        low, high = float(some.min()), float(some.max())
    return float(low), float(high)


def _stretch(values: np.ndarray, limits: tuple[float, float] | None = None) -> np.ndarray:
    """Values between the limits to 0..1; without contrast all is 0."""
    low, high = limits or _limits(values)
    if high <= low:
        return np.zeros(values.shape, np.float32)
    scaled = (np.nan_to_num(values.astype(_exact(values.dtype)), nan=low) - low) / (high - low)
    return np.clip(scaled, 0, 1)


def _stretch_rgb(rgb: np.ndarray) -> np.ndarray:
    joint = _limits(rgb)
    some = _sample(rgb)
    dark = some.size > 0 and np.median(some) < joint[0] + 0.25 * (joint[1] - joint[0])
    if not dark:
        return _stretch(rgb, joint)
    faint = 0.05 * (joint[1] - joint[0])
    each = [_limits(rgb[..., channel]) for channel in range(3)]
    parts = [_stretch(rgb[..., i], limits if limits[1] - limits[0] > faint else joint) for i, limits in enumerate(each)]
    return np.stack(parts, axis=-1)


def _palette(*, bright_ground: bool) -> np.ndarray:
    """256 strong colours uint8 (256, 3), neighbours far apart in hue, all to be seen on their ground."""
    hue = np.arange(256) * _GOLDEN % 1.0
    thirds = np.array([0, 4, 2])
    rgb = np.clip(np.abs((hue[:, None] * 6 + thirds) % 6 - 3) - 1, 0, 1)
    luminance = rgb @ np.array([0.30, 0.59, 0.11])
    if bright_ground:  # yellow and cyan are hard to see on white
        rgb = rgb * np.minimum(1.0, 0.45 / luminance)[:, None]
    else:  # blue and red on black
        rgb = np.minimum(1.0, rgb + np.maximum(0.0, 0.45 - luminance)[:, None])
    return np.rint(255 * rgb).astype(np.uint8)


def _thickness(labels: np.ndarray) -> int:
    wanted = round(float(np.sqrt(labels.size)) / 1000)
    areas = np.bincount(labels.ravel())[1:]
    areas = areas[areas > 0]
    bearable = 0.05 * np.sqrt(np.median(areas)) if areas.size else 1
    return max(1, min(wanted, int(bearable)))


def _edges(labels: np.ndarray, thickness: int) -> np.ndarray:
    """bool (Y, X): object pixels at most `thickness` steps from another label; the image's end is none."""
    edge = np.zeros(labels.shape, bool)
    for step in range(1, thickness + 1):
        for axis in (0, 1):
            if labels.shape[axis] <= step:
                continue
            near = [slice(None), slice(None)]
            far = [slice(None), slice(None)]
            near[axis], far[axis] = slice(step, None), slice(None, -step)
            differs = labels[tuple(near)] != labels[tuple(far)]
            edge[tuple(near)] |= differs
            edge[tuple(far)] |= differs
    return edge & (labels > 0)
