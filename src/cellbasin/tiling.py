"""Cutting an image into overlapping tiles and blending what the network makes of them, tile by tile.

Paper: "Tiling and test augmentations". The tiles lie on a grid of rows and columns, so the weights of the blend are
products of one weight along Y and one along X, and each of them can be normalised beforehand: tiles are added to the
result as they come, nothing else is kept, and there is no division at the end.

>>> image = np.random.default_rng(0).random((2, 300, 500), dtype=np.float32)
>>> tiling = plan_tiles(image.shape[1:])
>>> blender = Blender(tiling, maps=2)
>>> for n in range(len(tiling)):
...     blender.add(cut(image, tiling, [n]), [n])  # the network would stand here
>>> bool(np.allclose(blender.result(), image, atol=1e-6))
True
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit

from cellbasin.options import OVERLAP, TILE
from cellbasin.parallel import parallel_map

TAPER = 7.5
_SHOULDER = 20.0


@dataclass(frozen=True)
class Tiling:
    """Where the tiles of an image lie; made by `plan_tiles` or `plan_flipped_tiles`. Tiles are numbered row
    by row.

    Attributes
    ----------
    shape : (Y, X) of the image in pixels.
    tile : (height, width) of every tile in pixels.
    rows, columns : first pixel of the tiles along Y and X, ascending; negative where a tile is larger than
        the image.
    alternating : whether tiles are flipped: along Y in every second column, along X in every second row.
    beyond : what is beyond the image: "mirror", its reflection, or "zeros".
    """

    shape: tuple[int, int]
    tile: tuple[int, int]
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    alternating: bool = False
    beyond: str = "mirror"

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def origin(self, index: int) -> tuple[int, int]:
        """The image pixel (y, x) at which a tile begins."""
        row, column = divmod(index, len(self.columns))
        return self.rows[row], self.columns[column]

    def flip(self, index: int) -> tuple[bool, bool]:
        """Whether a tile is flipped along (y, x)."""
        row, column = divmod(index, len(self.columns))
        return self.alternating and column % 2 == 1, self.alternating and row % 2 == 1


def plan_tiles(
    shape: tuple[int, int],
    tile: int = TILE,
    overlap: float = OVERLAP,
    divisor: int = 16,
) -> Tiling:
    """Lay tiles over an image: as few as overlap by at least a fraction of their length, evenly spaced.

    Along an axis on which the image is not longer than a tile there is one tile, of the image's length rounded up to a
    multiple of `divisor` (the missing pixels are reflections, half on either side); else tiles stay inside the image.

    Parameters
    ----------
    shape : (Y, X) of the image in pixels.
    tile : length of a tile in pixels, a multiple of `divisor`.
    overlap : least overlap of neighbouring tiles as a fraction of their length, 0 ≤ overlap < 1.
    divisor : what the length of a tile must be divisible by for the network (`Architecture.divisor`): 8 for the
        paper's, 16 with the half-resolution stem.

    Returns
    -------
    Tiling, at least one tile.

    Raises
    ------
    ValueError when the shape is not positive, `tile` is not a multiple of `divisor` or the overlap is not in
    0..1.

    >>> plan_tiles((100, 500))
    Tiling(shape=(100, 500), tile=(112, 224), rows=(-6,), columns=(0, 138, 276), alternating=False, beyond='mirror')
    """
    _check_plan(shape, tile, overlap, divisor)
    (height, rows), (width, columns) = (_plan_axis(int(length), tile, overlap, divisor) for length in shape)
    return Tiling((int(shape[0]), int(shape[1])), (height, width), rows, columns)


def plan_flipped_tiles(shape: tuple[int, int], tile: int = TILE, divisor: int = 16) -> Tiling:
    """Lay tiles that overlap by half over an image, flipped in turn, for averaging over four views of almost
    every pixel.

    Tiles of odd rows are flipped along X, those of odd columns along Y. There are at least two rows and columns, in a
    small image at the same place.

    Parameters
    ----------
    shape, tile, divisor : as for `plan_tiles`.

    Returns
    -------
    Tiling with `alternating` flips.

    Raises
    ------
    ValueError as `plan_tiles`.

    Paper: "Tiling and test augmentations".

    >>> plan_flipped_tiles((100, 448))
    Tiling(shape=(100, 448), tile=(112, 224), rows=(-6, -6), columns=(0, 112, 224), alternating=True, beyond='mirror')
    """
    plain = plan_tiles(shape, tile, 0.5, divisor)
    rows, columns = (starts * 2 if len(starts) == 1 else starts for starts in (plain.rows, plain.columns))
    return Tiling(plain.shape, plain.tile, rows, columns, alternating=True)


def cut(image: np.ndarray, tiling: Tiling, indices: Sequence[int]) -> np.ndarray:
    """Copy tiles out of an image, flipped and with what is beyond the image as the tiling says.

    Parameters
    ----------
    image : (C, Y, X) any real dtype. Not modified.
    tiling : for an image of this (Y, X).
    indices : numbers of tiles.

    Returns
    -------
    (len(indices), C, height, width) float32, a new array.

    Raises
    ------
    ValueError when the image has not the shape that was planned for.

    >>> cut(np.arange(4)[None, None], plan_tiles((1, 4), 8, divisor=8), [0])[0, 0, 3].tolist()
    [2.0, 1.0, 0.0, 1.0, 2.0, 3.0, 2.0, 1.0]
    """
    if image.ndim != 3 or image.shape[1:] != tiling.shape:
        raise ValueError(f"found an image of shape {image.shape}; expected (C, Y, X) with (Y, X) = {tiling.shape}")
    tiles = np.empty((len(indices), len(image), *tiling.tile), np.float32)
    for tile, index in zip(tiles, indices, strict=True):
        places = list(zip(tiling.origin(index), tiling.tile, tiling.shape, strict=True))
        if tiling.beyond == "zeros":
            (y, to_y), (x, to_x) = (_overlap(*place) for place in places)
            tile[:] = 0
            tile[:, to_y, to_x] = image[:, y, x]
            continue
        rows, columns = (_inside(*place) for place in places)
        # Slices first: they are views, and of a long strip only a tile's part is copied.
        tile[:] = image[:, :, columns][:, rows] if isinstance(columns, slice) else image[:, rows][:, :, columns]
    return flip_tiles(tiles, [tiling.flip(index) for index in indices])


def flip_tiles(tiles: np.ndarray, flips: Sequence[tuple[bool, bool]]) -> np.ndarray:
    """Flip each tile along (y, x) or not. Applied twice it changes nothing.

    Parameters
    ----------
    tiles : (N, C, height, width). Not modified.
    flips : for each tile whether to flip along (y, x), as `Tiling.flip` gives.

    Returns
    -------
    (N, C, height, width), the dtype of the input; the same array if there is nothing to flip.

    >>> flip_tiles(np.arange(4).reshape(1, 1, 2, 2), [(False, True)]).tolist()
    [[[[1, 0], [3, 2]]]]
    """
    if not any(map(any, flips)):
        return tiles
    flipped = np.empty_like(tiles)
    for target, tile, (along_y, along_x) in zip(flipped, tiles, flips, strict=True):
        target[:] = tile[:, :: -1 if along_y else 1, :: -1 if along_x else 1]
    return flipped


def unflip_maps(maps: np.ndarray, flips: Sequence[tuple[bool, bool]]) -> np.ndarray:
    """Flip the network's maps back; the component of the flow along a flipped axis changes its sign.

    Parameters
    ----------
    maps : (N, K, height, width): flow along y, flow along x, then any others such as the logit. Not modified.
    flips : for each tile whether it was flipped along (y, x).

    Returns
    -------
    (N, K, height, width), the dtype of the input; the same array if there is nothing to flip.

    Paper: "Tiling and test augmentations".

    >>> unflip_maps(np.ones((1, 3, 1, 1)), [(True, False)]).ravel().tolist()
    [-1.0, 1.0, 1.0]
    """
    restored = flip_tiles(maps, flips)
    for tile, flip in zip(restored, flips, strict=True):
        for component, along in enumerate(flip):
            if along:
                np.negative(tile[component], out=tile[component])
    return restored


class Blender:
    """Builds the maps of an image from the maps of its tiles, weighted by a sigmoid taper of bandwidth 7.5
    pixels.

    Holds the result only: memory is 4 · K bytes per image pixel. Add all tiles once, in the same order if results must
    be the same to the last bit, and from one thread at a time.

    Paper: "Tiling and test augmentations".

    >>> blender = Blender(plan_tiles((50, 60)), maps=3)
    >>> blender.add(np.ones((1, 3, 64, 64), np.float32), [0])
    >>> blender.result().shape
    (3, 50, 60)
    """

    def __init__(self, tiling: Tiling, maps: int) -> None:
        self._tiling = tiling
        self._total = np.zeros((maps, *tiling.shape), np.float32)
        self._missing = set(range(len(tiling)))
        self._row_weights = _weights(tiling.rows, tiling.tile[0], tiling.shape[0])
        self._column_weights = _weights(tiling.columns, tiling.tile[1], tiling.shape[1])

    def add(self, maps: np.ndarray, indices: Sequence[int]) -> None:
        """Add the maps of some tiles, flipping back those that `cut` flipped.

        Parameters
        ----------
        maps : (len(indices), K, height, width) any float dtype: flow along y, flow along x, then others. Not
            modified.
        indices : numbers of the tiles, as given to `cut`.

        Raises
        ------
        ValueError when the shape is not that, or a tile was added before.
        """
        tiling = self._tiling
        expected = (len(indices), len(self._total), *tiling.tile)
        if maps.shape != expected:
            raise ValueError(f"found maps of shape {maps.shape}; expected {expected}")
        if len(set(indices)) != len(indices) or not self._missing.issuperset(indices):
            raise ValueError(f"found tiles {list(indices)}; expected each of the {len(tiling)} tiles once")
        restored = np.ascontiguousarray(unflip_maps(maps, [tiling.flip(index) for index in indices]), np.float32)

        def add_map(k: int) -> None:
            for tile, index in zip(restored, indices, strict=True):
                row, column = divmod(index, len(tiling.columns))
                weights = self._row_weights[row], self._column_weights[column]
                _add_weighted(tile[k], *weights, *tiling.origin(index), self._total[k])

        parallel_map(add_map, range(len(self._total)))
        self._missing.difference_update(indices)

    def result(self) -> np.ndarray:
        """The blended maps (K, Y, X) float32; not a copy.

        Raises
        ------
        ValueError when tiles are missing.
        """
        if self._missing:
            missing = f"{len(self._missing)} of {len(self._tiling)} tiles are missing"
            raise ValueError(f"{missing}; add each tile once before asking for the result")
        return self._total


def _check_plan(shape: tuple[int, int], tile: int, overlap: float, divisor: int) -> None:
    if len(shape) != 2 or any(int(n) != n or n < 1 for n in shape):
        raise ValueError(f"found image shape {shape}; expected two positive whole numbers (Y, X)")
    if divisor < 1 or tile < divisor or tile % divisor:
        raise ValueError(f"found tiles of {tile} pixels; expected a positive multiple of {divisor}")
    if not 0 <= overlap < 1:
        raise ValueError(f"found an overlap of {overlap}; expected a fraction of the tile, 0 ≤ overlap < 1")


def _plan_axis(length: int, tile: int, overlap: float, divisor: int) -> tuple[int, tuple[int, ...]]:
    """Length of the tiles and where they start."""
    if length <= tile:
        tile = -(-length // divisor) * divisor
        return tile, (-((tile - length) // 2),)
    return tile, _starts(length - tile, max(1, int(tile * (1 - overlap))))


def _starts(last: int, longest_step: int) -> tuple[int, ...]:
    """Evenly spaced whole numbers from 0 to `last`."""
    steps = max(1, -(-last // longest_step))
    return tuple(i * last // steps for i in range(steps + 1))


def _inside(start: int, tile: int, length: int) -> slice | np.ndarray:
    """What to take along an axis: a slice, or numbers of pixels that are reflected at the first and last
    one."""
    if start >= 0 and start + tile <= length:
        return slice(start, start + tile)
    period = max(2 * (length - 1), 1)
    position = np.arange(start, start + tile) % period
    return np.minimum(position, period - position) if length > 1 else np.zeros(tile, np.intp)


def _overlap(start: int, tile: int, length: int) -> tuple[slice, slice]:
    """The part of an axis that a tile covers, in the image and in the tile."""
    first, end = max(start, 0), min(start + tile, length)
    return slice(first, end), slice(first - start, end - start)


def _weights(starts: tuple[int, ...], tile: int, length: int) -> np.ndarray:
    """Weights of the tiles along one axis (tiles, tile) float32; at every pixel of the image they sum to
    1."""
    distance = np.abs(np.arange(tile) - (tile - 1) / 2)
    taper = 1 / (1 + np.exp((distance - (tile / 2 - _SHOULDER)) / TAPER))
    total = np.zeros(length)
    spans = [(max(start, 0), min(start + tile, length)) for start in starts]
    for start, (first, end) in zip(starts, spans, strict=True):
        total[first:end] += taper[first - start : end - start]
    weights = np.zeros((len(starts), tile), np.float32)
    for weight, start, (first, end) in zip(weights, starts, spans, strict=True):
        part = slice(first - start, end - start)
        weight[part] = taper[part] / total[first:end]
    return weights


@njit(nogil=True, cache=True)
def _add_weighted(
    tile: np.ndarray, row_weight: np.ndarray, column_weight: np.ndarray, y: int, x: int, total: np.ndarray
) -> None:
    """Add a tile that begins at (y, x), times its weights, to what of it lies inside the image."""
    first, end = max(0, -x), min(tile.shape[1], total.shape[1] - x)
    columns = column_weight[first:end]
    for i in range(max(0, -y), min(tile.shape[0], total.shape[0] - y)):
        target, source, weight = total[y + i, x + first : x + end], tile[i, first:end], row_weight[i]
        for j in range(end - first):
            target[j] += weight * columns[j] * source[j]
