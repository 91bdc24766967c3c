"""What every engine offers."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cellbasin.weights import Architecture


class EngineError(RuntimeError):
    """An engine or precision that cannot be had here: what was asked, what is missing, what to do."""


class Engine(Protocol):
    """Runs the network on tiles. `run` may be called from several threads at once.

    name: "openvino" or "torch"; precision: "float32", "bf16" or "int8"; device: "cpu", "cuda" or "mps";
    reason: one sentence on why these were chosen.
    """

    name: str
    precision: str
    device: str
    reason: str

    def run(self, tiles: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Tiles (N, inputs, Y, X) → maps (N, outputs, Y, X) and style (N, S), all float32.

        The maps are 5 x flow (y, x) and the logit of being inside; rows of style have length 1. Y and X are
        multiples of `architecture.divisor`. Raises ValueError for tiles of another shape or dtype.
        """
        ...

    def styles(self, tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        """The style (N, S) that `run` gives beside the maps, for two fifths of the time."""
        ...


def check_tiles(tiles: NDArray[np.float32], architecture: Architecture) -> None:
    """Raise ValueError if an engine cannot take these tiles."""
    d, inputs = architecture.divisor, architecture.inputs
    fits = tiles.ndim == 4 and tiles.shape[1] == inputs and min(tiles.shape[2:]) > 0
    if not fits or tiles.shape[2] % d or tiles.shape[3] % d or tiles.dtype != np.float32:
        raise ValueError(
            f"tiles are {tiles.dtype} of shape {tiles.shape}: "
            f"expected float32 (N, {inputs}, Y, X) with Y and X multiples of {d}"
        )
