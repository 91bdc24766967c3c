"""How images are prepared for a network: as in the training that the network has had, ours or Cellpose's.

Cellpose 1 to 3 resizes with plain bilinear interpolation, puts zeros around the image (at least 8 pixels, to a multiple
of 16), lays its tiles over image and zeros, judges objects at the border like all others, and by flows of its own. Its
networks are run in the same way here, so that they find what they find there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cellbasin.dynamics import BORDER_LENIENCY
from cellbasin.flows import centroid_flows, quick_flows
from cellbasin.options import OVERLAP, TILE
from cellbasin.parallel import Tell
from cellbasin.resize import resize, sample
from cellbasin.tiling import Tiling, plan_flipped_tiles, plan_tiles

_UNIT = 16  # pixels: Cellpose pads to a multiple of this


@dataclass(frozen=True, slots=True)
class Conventions:
    """What differs between programs.

    length: pixels of a resized axis, from their exact number; resize: (C, Y, X) to (Y', X'); plan, plan_flipped: as
    `plan_tiles` and `plan_flipped_tiles`; border_leniency: factor on the flow threshold of objects at the border;
    own_flows: of the shapes of labels (Y, X), with which a network's are compared.
    """

    length: Callable[[float], int]
    resize: Callable[[np.ndarray, tuple[int, int]], np.ndarray]
    plan: Callable[[tuple[int, int], int, float, int], Tiling]
    plan_flipped: Callable[[tuple[int, int], int, int], Tiling]
    border_leniency: float
    own_flows: Callable[[np.ndarray, Tell], np.ndarray]


def plan_padded_tiles(
    shape: tuple[int, int], tile: int = TILE, overlap: float = OVERLAP, divisor: int = _UNIT
) -> Tiling:
    """Tiles over an image with zeros around it, as Cellpose lays them.

    shape: (Y, X) in pixels; tile: length of a tile; overlap: fraction, kept within 0.05..0.5; divisor: what the network
    needs, at most the tile's. An image that fits into one tile with its zeros is one tile of that size.

    >>> plan = plan_padded_tiles((100, 500))
    >>> plan.tile, plan.rows, plan.columns, plan.beyond
    ((128, 224), (-14,), (-14, 138, 290), 'zeros')
    """
    unit, overlap = math.lcm(_UNIT, divisor), min(max(overlap, 0.05), 0.5)
    (height, rows), (width, columns) = (_padded_axis(length, tile, overlap, unit) for length in shape)
    return Tiling(shape, (height, width), rows, columns, beyond="zeros")


def plan_flipped_padded_tiles(shape: tuple[int, int], tile: int = TILE, divisor: int = _UNIT) -> Tiling:
    """Tiles that overlap by half, flipped in turn, over an image with zeros around it, as Cellpose lays them.

    >>> plan_flipped_padded_tiles((100, 300)).columns
    (-10, 38, 86)
    """
    starts = [_half_overlapping(length, tile, math.lcm(_UNIT, divisor)) for length in shape]
    return Tiling(shape, (tile, tile), starts[0], starts[1], alternating=True, beyond="zeros")


def _padded(length: int, unit: int) -> tuple[int, int]:
    """Length of an axis with its zeros, and how many of them come first."""
    whole = -(-length // unit) * unit
    return whole + unit, unit // 2 + (whole - length) // 2


def _padded_axis(length: int, tile: int, overlap: float, unit: int) -> tuple[int, tuple[int, ...]]:
    padded, before = _padded(length, unit)
    if padded <= tile:
        return padded, (-before,)
    return tile, _spread(padded - tile, math.ceil((1 + 2 * overlap) * padded / tile), before)


def _half_overlapping(length: int, tile: int, unit: int) -> tuple[int, ...]:
    padded, before = _padded(length, unit)
    padded = max(padded, tile)
    return _spread(padded - tile, max(2, math.ceil(2 * padded / tile)), before)


def _spread(last: int, count: int, before: int) -> tuple[int, ...]:
    return tuple(int(start) - before for start in np.linspace(0, last, count).astype(int))


CONVENTIONS = {
    "cellbasin": Conventions(round, resize, plan_tiles, plan_flipped_tiles, BORDER_LENIENCY, quick_flows),
    "cellpose": Conventions(int, sample, plan_padded_tiles, plan_flipped_padded_tiles, 1.0, centroid_flows),
}
"""By the names in `weights.Card.conventions`."""
