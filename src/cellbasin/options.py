"""The options of a segmentation: their one definition, from which every user interface is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from math import inf
from typing import Any, Literal

FLOW_THRESHOLD = 0.4  # paper, Methods, "Mask quality threshold"
TILE = 224  # pixels; paper, "Tiling and test augmentations"
OVERLAP = 0.1
NOT_ANNOTATED = 65535  # label of pixels that nobody annotated, unless the user names another


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
    probability_threshold: float = option(0.5, "Pixels more probable than this are inside a cell.", low=0.0, high=1.0)
    min_confidence: float = option(
        0.4,
        "Objects less likely than this to be right are dropped; 0 keeps all. Of images and of planes that are "
        "stitched, and by models that were calibrated for it.",
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
    min_size: int = option(15, "Smaller objects are dropped.", unit="px", low=0, high=10**9)
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
        "Volumes: memory to use; what needs more is kept on disk while working. 60 % of the computer's when not given.",
        unit="GB",
        low=0.0,
        high=1e6,
    )

    def __post_init__(self) -> None:
        for item in fields(self):
            value, low, high = getattr(self, item.name), item.metadata["low"], item.metadata["high"]
            if low is not None and value is not None and not (isinstance(value, int | float) and low <= value <= high):
                raise ValueError(f"{item.name} is {value!r}, expected a number from {low} to {high}")
        if self.tile % 16:
            raise ValueError(f"tile is {self.tile}, expected a multiple of 16")
        if self.channels is not None and not (
            1 <= len(self.channels) <= 2 and all(isinstance(c, int) and c >= 0 for c in self.channels)
        ):
            raise ValueError(f"channels is {self.channels!r}, expected PRIMARY or PRIMARY,NUCLEAR: numbers from 0")

        if self.volume_mode not in ("flows", "stitch"):
            raise ValueError(f"volume_mode is {self.volume_mode!r}, expected flows or stitch")
        _check_weights(self.direction_weights)

    def largest_flow_error(self, default: float = FLOW_THRESHOLD) -> float:
        """The limit that `flow_threshold` means, or the default where it is not given; infinite where all are kept.

        >>> Options(flow_threshold=0).largest_flow_error()
        inf
        """
        return (default if self.flow_threshold is None else self.flow_threshold) or inf

    def as_dict(self) -> Mapping[str, Any]:
        """The options by name, as stored with every result."""
        return {item.name: getattr(self, item.name) for item in fields(self)}


def _check_weights(weights: tuple[float, ...]) -> None:
    right = len(weights) == 3 and all(isinstance(w, int | float) and 0 <= w < 1e6 for w in weights)
    if not right or not any(weights):
        raise ValueError(f"direction_weights is {weights!r}, expected three numbers from 0 on: XY,XZ,YZ, not all 0")
