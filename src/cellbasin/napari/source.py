"""A layer of napari as images to segment: its axes, the frames in it, and where it lies in the world."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isclose, sqrt
from typing import Any

import numpy as np

from cellbasin.image import MICROMETRES, Image, readings

_LETTERS = {"t": "T", "time": "T", "c": "C", "channel": "C", "channels": "C", "z": "Z", "y": "Y", "x": "X"}


def unwrapped(viewer: Any) -> Any:
    """The viewer inside what napari gives to plugins, whose layers are other objects each time they are asked for."""
    return getattr(viewer, "__wrapped__", viewer)


def layer_readings(layer: Any) -> list[str]:
    """What the axes of an image layer can mean: one text where its axis labels or its shape tell, else several.

    Raises ValueError for layers without pixels, or of fewer than two or more than five axes.
    """
    shape = tuple(largest(layer).shape)
    colour = "S" if layer.rgb else ""
    shape = shape[:-1] if colour else shape
    if 0 in shape or not 2 <= len(shape) <= 5:
        raise ValueError(f"the layer {layer.name!r} has the shape {shape}; expected pixels along two to five axes")
    named = axes_named(layer.axis_labels)
    if named and not (colour and "C" in named):
        return [named + colour]
    return [axes + colour for axes in readings(shape) if "S" not in axes and not (colour and "C" in axes)]


def axes_named(axis_labels: Sequence[str]) -> str:
    """A letter out of TCZYX for each axis, or an empty text where the labels do not tell.

    >>> axes_named(("time", "y", "x")), axes_named(("axis 0", "axis 1"))
    ('TYX', '')
    """
    named = "".join(_LETTERS.get(label.lower(), "?") for label in axis_labels)
    return named if len(set(named)) == len(named) and {"Y", "X"} <= set(named) <= set("TCZYX") else ""


def channel_names(layer: Any, axes: str) -> list[str]:
    """Names of the channels that a layer has, read with these axes; empty where it has one only."""
    if axes.endswith("S"):
        return ["red", "green", "blue"]
    return [f"channel {number}" for number in range(largest(layer).shape[axes.index("C")])] if "C" in axes else []


@dataclass(frozen=True, eq=False)
class Source:
    """An image layer, its pixels not yet read where they come from a file; made with `source_of`.

    array: numpy's or one like it, with `axes`, a letter out of TCSZYX for each; nuclei: array and axes of a layer whose
    first channel shows the nuclei, or None; geometry: what napari is told about where layers made of this one lie, for
    `spatial_axes` (those of `axes` without channels, in the same order); voxel_size: µm (z) y x where units are known;
    anisotropy: the distance of planes in pixels of y and x, where the layer's scale tells one; at: the place on each of
    the axes T and Z where only that plane is meant, else empty: layers made of it have a length of 1 there.
    """

    name: str
    array: Any
    axes: str
    geometry: dict[str, Any]
    voxel_size: tuple[float, ...] | None = None
    anisotropy: float | None = None
    nuclei: tuple[Any, str] | None = None
    at: Mapping[str, int] = field(default_factory=dict)

    @property
    def spatial_axes(self) -> str:
        """Axes of the layers that are made of this one."""
        return "".join(axis for axis in self.axes if axis not in "CS")

    def __len__(self) -> int:
        """Number of images: time points, 1 where one plane is meant."""
        return int(self.array.shape[self.axes.index("T")]) if "T" in self.axes and not self.at else 1

    def frames(self, primary: int | None = None) -> Iterator[Image]:
        """Every image; with nuclei from another layer of two channels, of which the first is `primary`.

        Raises ValueError or TypeError when a frame is no image.
        """
        for moment in range(len(self)):
            image = self._frame(self.array, self.axes, moment)
            if self.nuclei is not None:
                planes = np.stack([_channel(image, primary), _channel(self._frame(*self.nuclei, moment), 0)])
                image = Image(planes, "C" + image.spatial_axes, image.voxel_size, self.name)
            yield image

    def _frame(self, array: Any, axes: str, moment: int) -> Image:
        places = {"T": moment, **self.at}
        index = tuple(places.get(axis, slice(None)) for axis in axes)
        left = "".join(axis for axis in axes if axis not in places)
        voxel_size = self.voxel_size if self.voxel_size is None or "Z" in left else self.voxel_size[-2:]
        return Image(np.asarray(array[index]), left, voxel_size, self.name)

    def as_in_layer(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        """Arrays ([Z,] Y, X[, ...]), one for each frame, as one whose first axes are `spatial_axes`."""
        first = "".join(axis for axis in "TZ" if axis in self.axes)
        axes = first + "YX"
        if self.at:
            stack = np.expand_dims(frames[0], tuple(range(len(first))))
        else:
            stack = np.stack(frames) if "T" in first else frames[0]
        order = [axes.index(axis) for axis in self.spatial_axes]
        return stack.transpose([*order, *range(len(order), stack.ndim)])


def source_of(layer: Any, axes: str, nuclei: Any = None, at: Mapping[str, int] | None = None) -> Source:
    """An image layer with axes out of `layer_readings`, and another whose first channel shows the nuclei.

    at: the place on its axes T and Z of the only plane that is meant, as of `plane_in_sight`; None: all of it.
    Raises ValueError where the two do not fit together.
    """
    keep = [k for k, axis in enumerate(axes.removesuffix("S")) if axis != "C"]
    places = {axis: k for k, axis in enumerate(axes)}
    order = [places[axis] for axis in "ZYX" if axis in places]
    scale = [abs(float(layer.scale[k])) for k in order]
    voxel_size = voxel_size_of(scale, [layer.units[k] for k in order])
    ratio = round(scale[0] / sqrt(scale[1] * scale[2]), 6) if len(scale) == 3 else 1.0
    return Source(
        f"{layer.name} plane" if at else layer.name,
        largest(layer),
        axes,
        _geometry(layer, keep, {places[axis]: place for axis, place in (at or {}).items()}),
        voxel_size,
        None if voxel_size is not None or isclose(ratio, 1.0) else ratio,
        None if nuclei is None else _fitting(layer, axes, nuclei),
        at or {},
    )


def plane_in_sight(layer: Any, axes: str, dims: Any) -> dict[str, int]:
    """The place on a layer's axes T and Z of the plane that a viewer with these dims shows.

    Raises ValueError where it shows something else than a plane (y, x) of the layer.
    """
    before = dims.ndim - layer.ndim
    shown = "".join(axes[k - before] if k >= before else "?" for k in sorted(dims.displayed))
    if shown != "YX":
        raise ValueError(f"the window shows the axes {shown} of the layer {layer.name!r}; expected YX: one plane")
    point = np.rint(layer.world_to_data(dims.point)).astype(int).tolist()
    found = {axis: point[axes.index(axis)] for axis in "TZ" if axis in axes}
    for axis, place in found.items():
        count = largest(layer).shape[axes.index(axis)]
        if not 0 <= place < count:
            raise ValueError(
                f"the window shows the place {place} on the axis {axis} of the layer {layer.name!r}; "
                f"expected one from 0 to {count - 1}: move the slider"
            )
    return found


def voxel_size_of(scale: Sequence[float], units: Sequence[Any]) -> tuple[float, ...] | None:
    """µm along spatial axes of a layer with this scale and units (names, or pint's); None where they are no lengths."""
    factors = [MICROMETRES.get(str(unit)) for unit in units]
    sizes = [abs(float(s)) * f for s, f in zip(scale, factors, strict=True) if f is not None]
    return tuple(sizes) if len(sizes) == len(factors) else None


def _fitting(layer: Any, axes: str, nuclei: Any) -> tuple[Any, str]:
    """Pixels and axes of the nuclei's layer, whose axes are those of the other, with or without its channels."""
    lengths = dict(zip(axes, largest(layer).shape, strict=True))
    array = largest(nuclei)
    for tried in (axes, "".join(axis for axis in axes if axis not in "CS")):
        if len(tried) == array.ndim and all(
            lengths[a] == n for a, n in zip(tried, array.shape, strict=True) if a != "C"
        ):
            return array, tried
    raise ValueError(
        f"the layer {nuclei.name!r} of shape {tuple(array.shape)} does not fit {layer.name!r} of shape "
        f"{tuple(largest(layer).shape)}; expected nuclei of the same size"
    )


def _channel(image: Image, channel: int | None) -> np.ndarray:
    planes = image.channels_first
    if channel is None and len(planes) > 1:
        raise ValueError(
            f"the image has {len(planes)} channels; expected one to be chosen beside the nuclei of another layer"
        )
    return planes[channel or 0]


def largest(layer: Any) -> Any:
    """The pixels of a layer, of a pyramid those of its largest level."""
    return layer.data[0] if layer.multiscale else layer.data


def _geometry(layer: Any, keep: list[int], at: Mapping[int, int]) -> dict[str, Any]:
    """Where a layer lies, of the axes that are kept; at: where on an axis it begins, if not at 0."""
    square = np.ix_(keep, keep)
    affine = np.ix_([*keep, layer.ndim], [*keep, layer.ndim])
    shear = np.asarray(layer.shear)
    if shear.ndim == 1:  # napari tells what is above the diagonal
        full = np.eye(layer.ndim)
        full[np.triu_indices(layer.ndim, 1)] = shear
        shear = full
    start = np.array([at.get(k, 0) for k in range(layer.ndim)])
    translate = np.asarray(layer.translate) + np.asarray(layer.rotate) @ shear @ (np.asarray(layer.scale) * start)
    return {
        "scale": tuple(float(layer.scale[k]) for k in keep),
        "translate": tuple(float(translate[k]) for k in keep),
        "rotate": np.asarray(layer.rotate)[square],
        "shear": shear[square],
        "affine": np.asarray(layer.affine.affine_matrix)[affine],
        "units": tuple(layer.units[k] for k in keep),
        "axis_labels": tuple(layer.axis_labels[k] for k in keep),
    }
