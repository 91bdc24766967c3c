"""The options of a segmentation: their one definition, from which every user interface is made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import Field, dataclass, field, fields
from math import inf
from numbers import Integral, Real
from typing import Any, Literal

PROBABILITY_THRESHOLD = 0.5
FLOW_THRESHOLD = 0.4  # paper, Methods, "Mask quality threshold"
MIN_SIZE = 15  # pixels
TILE = 224  # pixels; paper, "Tiling and test augmentations"
OVERLAP = 0.1
VALIDATION = 0.12  # part of the training images, by whole groups, that is validated on
NOT_ANNOTATED = 65535  # label of pixels that nobody annotated, unless the user names another

EngineName = Literal["auto", "openvino", "torch"]
PrecisionName = Literal["auto", "float32", "bf16", "int8"]


def option(default: Any, help: str, *, unit: str = "", low: float | None = None, high: float | None = None) -> Any:
    """A dataclass field with what a user interface needs: one line of help, unit, allowed range."""
    return field(default=default, metadata={"help": help, "unit": unit, "low": low, "high": high})


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How an image is segmented; checked when made (ValueError names the option, what was found and what is allowed).

    >>> Options(diameter=25).min_confidence
    0.4
    >>> Options(overlap=2)
    Traceback (most recent call last):
    ValueError: overlap is 2, expected a number from 0.0 to 0.9
    """

    diameter: float | None = option(
        None,
        "Typical object diameter; estimated for each image when not given.",
        unit="px",
        low=1.0,
        high=10000.0,
    )
    channels: tuple[int, ...] | None = option(
        None,
        "Channel to segment and, after a comma, the nuclear channel; numbers from 0. RGB is read as gray by default.",
    )
    axes: str | None = option(None, "Meaning of the axes, such as YX, CYX or YXC; read from the file when not given.")
    augment: bool = option(False, "Average over four flipped views of overlapping tiles: slower, slightly better.")
    probability_threshold: float = option(
        PROBABILITY_THRESHOLD, "Pixels more probable than this are inside a cell.", low=0.0, high=1.0
    )
    min_confidence: float = option(
        0.4,
        "Objects less likely than this to be right are dropped; 0 keeps all. For images and for planes that "
        "are stitched, with models whose confidence is calibrated.",
        low=0.0,
        high=1.0,
    )
    flow_threshold: float | None = option(
        None,
        "Objects whose flows differ more than this (at the image's border twice this) from the predicted ones are "
        f"dropped; 0 keeps all. When not given, {FLOW_THRESHOLD} where there is no confidence to judge by.",
        low=0.0,
        high=100.0,
    )
    min_size: int = option(MIN_SIZE, "Smaller objects are dropped.", unit="px", low=0, high=10**9)
    overlap: float = option(OVERLAP, "Overlap of neighbouring tiles.", low=0.0, high=0.9)
    tile: int = option(TILE, "Side of a tile, after resizing.", unit="px", low=64, high=4096)
    batch: int = option(8, "Tiles the network sees at once.", low=1, high=1024)

    volume_mode: Literal["flows", "stitch"] = option(
        "flows",
        "Volumes: flows of XY, XZ and YZ slices together, or each plane alone and its objects linked through z.",
    )
    stitch_threshold: float = option(
        0.25,
        "Volumes: least overlap (IoU) of objects in neighbouring planes that are the same, for the mode stitch.",
        low=0.01,
        high=1.0,
    )
    anisotropy: float | None = option(
        None,
        "Volumes: distance of two planes in pixels; from the file's voxel size when not given, else 1.",
        low=0.01,
        high=100.0,
    )
    direction_weights: tuple[float, ...] = option(
        (1.0, 1.0, 1.0), "Volumes: how much XY, XZ and YZ slices count in flows and probability."
    )
    smoothing: float | None = option(
        None,
        "Volumes: sigma by which flows and probability are blurred; a thirtieth of the diameter when not given.",
        unit="px",
        low=0.0,
        high=100.0,
    )
    surface_level: float = option(
        0.7,
        "Volumes: an object ends where the probability falls below this part of what it is inside; 0 trims nothing.",
        low=0.0,
        high=1.0,
    )
    min_volume: float = option(
        0.1, "Volumes: objects smaller than this part of the median volume are dropped.", low=0.0, high=1.0
    )

    memory: float | None = option(
        None,
        "Volumes: memory to use; what needs more is kept on disk while working. 60 % of what there is if not given.",
        unit="GB",
        low=0.0,
        high=1e6,
    )

    def __post_init__(self) -> None:
        for item in fields(self):
            if item.metadata["low"] is not None:
                object.__setattr__(self, item.name, _number(item, getattr(self, item.name)))
        if self.tile % 16:
            raise ValueError(f"tile is {self.tile}, expected a multiple of 16")
        if self.channels is not None:
            object.__setattr__(self, "channels", _channels(self.channels))
        object.__setattr__(self, "direction_weights", _weights(self.direction_weights))
        if not isinstance(self.axes, str | None):
            raise ValueError(f"axes is {self.axes!r}, expected a text such as YX, CYX or ZYX")
        if self.augment not in (True, False):
            raise ValueError(f"augment is {self.augment!r}, expected True or False")
        if self.volume_mode not in ("flows", "stitch"):
            raise ValueError(f"volume_mode is {self.volume_mode!r}, expected flows or stitch")

    def largest_flow_error(self, default: float = FLOW_THRESHOLD) -> float:
        """The limit that `flow_threshold` means, or the default where it is not given; infinite where all are kept.

        >>> Options(flow_threshold=0).largest_flow_error()
        inf
        """
        return (default if self.flow_threshold is None else self.flow_threshold) or inf

    def as_dict(self) -> Mapping[str, Any]:
        """The options by name, as stored with every result."""
        return {item.name: getattr(self, item.name) for item in fields(self)}


VOLUME_OPTIONS = tuple(item.name for item in fields(Options) if item.metadata["help"].startswith("Volumes:"))
"""Options that change nothing in images."""


def _number(item: Field[Any], value: Any) -> float | int | None:
    """The number, of numpy or Python, that an option has: whole where its default is."""
    if value is None and item.default is None:
        return None
    whole, low, high = isinstance(item.default, int), item.metadata["low"], item.metadata["high"]
    right = isinstance(value, Real) and not isinstance(value, bool) and low <= value <= high
    if not right or (whole and value != int(value)):
        raise ValueError(f"{item.name} is {value!r}, expected a {'whole ' * whole}number from {low} to {high}")
    return int(value) if whole else float(value)


def _channels(value: Any) -> tuple[int, ...]:
    found = tuple(value) if isinstance(value, Iterable) else ()
    right = all(isinstance(c, Integral) and not isinstance(c, bool) and int(c) >= 0 for c in found)
    if len(found) not in (1, 2) or not right:
        raise ValueError(f"channels is {value!r}, expected PRIMARY or PRIMARY,NUCLEAR: numbers from 0")
    return tuple(int(channel) for channel in found)


def _weights(value: Any) -> tuple[float, ...]:
    found = tuple(value) if isinstance(value, Iterable) else ()
    if len(found) != 3 or not all(isinstance(w, Real) and 0 <= float(w) < 1e6 for w in found) or not any(found):
        raise ValueError(f"direction_weights is {value!r}, expected three numbers from 0 on: XY,XZ,YZ, not all 0")
    return tuple(float(weight) for weight in found)
