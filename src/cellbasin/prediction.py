"""From pixels to the network's maps: resized, cut into tiles, run, blended, resized back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from cellbasin.conventions import CONVENTIONS
from cellbasin.engines import Engine, choose_engine
from cellbasin.network_outputs import FLOW_SCALE, sigmoid
from cellbasin.options import Options
from cellbasin.parallel import Tell
from cellbasin.resize import resize
from cellbasin.scratch import memory
from cellbasin.tiling import Blender, Tiling, cut, plan_tiles
from cellbasin.weights import Weights, WeightsError

_FEW_TILES = 9  # enough for the style of a large image

Progress = Callable[[str, float], bool | None]


class Cancelled(Exception):
    """Raised out of `Model.segment` when the progress callback returned False."""


@dataclass(frozen=True, slots=True, eq=False)
class Maps:
    """What the network says about an image: flow (D, [Z,] Y, X), probability ([Z,] Y, X), style (S,) of length 1."""

    flow: np.ndarray
    probability: np.ndarray
    style: np.ndarray


class Predictor:
    """One network, or an ensemble whose maps are averaged, with the engines that run it."""

    def __init__(self, weights: Sequence[Weights], *, engine: str = "auto", precision: str = "auto") -> None:
        if not weights:
            raise WeightsError("no weights given: pass at least one model name or file")
        first = weights[0].card
        for other in weights[1:]:
            if other.card.diameter != first.diameter:
                raise WeightsError(
                    f"models for diameters of {first.diameter:g} and {other.card.diameter:g} px cannot be averaged"
                )
            maps = first.architecture.outputs, other.card.architecture.outputs
            if maps[0] != maps[1]:
                raise WeightsError(f"models of {maps[0]} and {maps[1]} maps cannot be averaged")
            if other.card.conventions != first.conventions:
                raise WeightsError(
                    f"models with conventions of {first.conventions} and {other.card.conventions} cannot be averaged"
                )
        self.weights = tuple(weights)
        self.conventions = CONVENTIONS[first.conventions]
        self.card = first
        self._asked = (engine, precision)
        self.engines: tuple[Engine, ...] = tuple(choose_engine(w, engine, precision) for w in weights)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copied or sent to another process it builds its networks anew, with the engine that is chosen there."""
        engine, precision = self._asked
        return partial(type(self), engine=engine, precision=precision), (self.weights,)

    def predict(
        self,
        pixels: np.ndarray,
        diameter: float,
        options: Options | None = None,
        progress: Progress | None = None,
    ) -> Maps:
        """The network's maps of normalised pixels (2, Y, X) float32 whose objects have this diameter (pixels)."""
        options = options or Options()
        shape = pixels.shape[1], pixels.shape[2]
        tiling = self.tiling(shape, diameter, options)
        self._check_memory(shape, tiling.shape, diameter)
        scaled = self.conventions.resize(pixels, tiling.shape)
        stack, style = self.run_stack(scaled[None], tiling, options.batch, part_of(progress, "network"))
        maps = self.conventions.resize(stack[0], shape)
        flow = maps[:2]
        flow *= np.float32(1 / FLOW_SCALE)
        return Maps(flow, sigmoid(maps[2]), unit_length(style))

    def style(self, pixels: np.ndarray, diameter: float, options: Options | None = None) -> np.ndarray:
        """The mean style (S,), of length 1, over at most nine tiles of pixels (2, Y, X) resized for a diameter."""
        options = replace(options or Options(), augment=False)
        shape, divisor = (pixels.shape[1], pixels.shape[2]), self.divisor
        tiling = self.tiling(shape, diameter, options)
        if len(tiling) <= _FEW_TILES:
            scaled = self.conventions.resize(pixels, tiling.shape)
            return self._styles(cut(scaled, tiling, range(len(tiling))), options.batch)
        # Of a large image only the windows that are looked at are resized.
        window = max(1, round(options.tile * diameter / self.card.diameter))
        windows = plan_tiles(shape, window, 0.0, 1)
        chosen = np.unique(np.linspace(0, len(windows) - 1, _FEW_TILES).round().astype(int))
        side = [max(divisor, round(length * options.tile / window / divisor) * divisor) for length in windows.tile]
        return self._styles(resize(cut(pixels, windows, chosen.tolist()), (side[0], side[1])), options.batch)

    @property
    def divisor(self) -> int:
        """Height and width of tiles are multiples of this."""
        return max(weights.card.architecture.divisor for weights in self.weights)

    def step_length(self, diameter: float) -> float:
        """Pixels of a step along flows, for objects of this diameter: 1 where they are as large as the network's."""
        return max(1.0, diameter / self.card.diameter)

    def tiling(self, shape: tuple[int, int], diameter: float, options: Options, longest: int = 0) -> Tiling:
        """The tiles of an image (Y, X) that is resized for a diameter.

        longest: pixels; without flips, an image that is not longer after resizing is one tile.
        """
        scale = self.card.diameter / diameter
        rows, columns = (max(1, self.conventions.length(length * scale)) for length in shape)
        if options.augment:
            return self.conventions.plan_flipped((rows, columns), options.tile, self.divisor)
        whole = -(-max(rows, columns) // self.divisor) * self.divisor
        tile = max(options.tile, whole) if whole <= longest else options.tile
        return self.conventions.plan((rows, columns), tile, options.overlap, self.divisor)

    def _check_memory(self, shape: tuple[int, int], resized: tuple[int, int], diameter: float) -> None:
        """Raise ValueError where the resized image and its maps, which are copied once, do not fit into memory."""
        needed = 4 * math.prod(resized) * (2 + 2 * self.card.architecture.outputs)
        if needed > memory():
            raise ValueError(
                f"found an image of {shape[0]} x {shape[1]} px with a diameter of {diameter:g} px, which the network "
                f"sees as {resized[0]} x {resized[1]} px, in {needed / 1e9:.3g} GB; expected at most the "
                f"{memory() / 1e9:.3g} GB of memory here: check the diameter, or cut the image"
            )

    def run_stack(self, scaled: np.ndarray, tiling: Tiling, batch: int, tell: Tell) -> tuple[np.ndarray, np.ndarray]:
        """The network's own maps (N, K, Y, X) of images (N, 2, Y, X) as large as the tiling's, and the mean style."""
        blenders = [Blender(tiling, maps=self.card.architecture.outputs) for _ in scaled]
        style = np.zeros(self.card.architecture.channels[-1], np.float64)
        work = [(image, tile) for image in range(len(scaled)) for tile in range(len(tiling))]
        for start in range(0, len(work), batch):
            tell(start / len(work))
            chosen = work[start : start + batch]
            tiles = np.concatenate([cut(scaled[image], tiling, [tile]) for image, tile in chosen])
            outputs = [engine.run(tiles) for engine in self.engines]
            for (image, tile), maps in zip(chosen, _mean([maps for maps, _ in outputs]), strict=True):
                blenders[image].add(maps[None], [tile])
            style += outputs[0][1].sum(axis=0)
        return np.stack([blender.result() for blender in blenders]), (style / len(work)).astype(np.float32)

    def _styles(self, tiles: np.ndarray, batch: int) -> np.ndarray:
        styles = [self.engines[0].styles(tiles[start : start + batch]) for start in range(0, len(tiles), batch)]
        return unit_length(np.concatenate(styles).mean(axis=0))


def _mean(maps: list[np.ndarray]) -> np.ndarray:
    """Mean of the maps of an ensemble."""
    return maps[0] if len(maps) == 1 else np.asarray(np.mean(maps, axis=0, dtype=np.float32))


def unit_length(style: np.ndarray) -> np.ndarray:
    """A mean of styles as long as each of them is (paper: "a norm of 1 for every image")."""
    return np.asarray(style / max(float(np.linalg.norm(style)), 1e-12), np.float32)


def tell(progress: Progress | None, stage: str, part: float) -> None:
    """Report progress; raises Cancelled where the answer is False, Python's or numpy's."""
    answer = None if progress is None else progress(stage, part)
    if isinstance(answer, (bool, np.bool_)) and not answer:
        raise Cancelled(f"cancelled during {stage}")


def part_of(progress: Progress | None, stage: str) -> Tell:
    """`tell` for one stage."""
    return lambda part: tell(progress, stage, part)


def as_stage(progress: Progress | None, stage: str) -> Progress:
    """Tells of a run within a stage of a larger one."""
    return lambda _, part: tell(progress, stage, part)
