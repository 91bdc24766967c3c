"""The method: one way from an image to its labels, the same for every program that calls it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cellbasin import size
from cellbasin.confidence import Calibration, object_features
from cellbasin.dynamics import FlowSegmentation, segment_flows
from cellbasin.engines import Engine, choose_engine
from cellbasin.image import Image, as_image
from cellbasin.intensity import select_channels
from cellbasin.labels import diameters
from cellbasin.options import Options
from cellbasin.resize import resize
from cellbasin.results import Segmentation, object_table
from cellbasin.tiling import Blender, Tiling, cut, plan_flipped_tiles, plan_tiles
from cellbasin.version import VERSION
from cellbasin.weights import Weights, WeightsError, load_weights

FLOW_SCALE = 5.0  # the network's maps are 5 x flow (paper, "Deep neural network")
DEFAULT_MODEL = "general"
_FEW_TILES = 9  # enough for the style of a large image
_LARGE = 1 << 21  # pixels after resizing; of a larger image a window is enough to measure objects in

Progress = Callable[[str, float], bool | None]


class Cancelled(Exception):
    """Raised out of `segment` when the progress callback returned False."""


@dataclass(frozen=True, slots=True, eq=False)
class Maps:
    """What the network says about an image: flow (2, Y, X), probability (Y, X), style (S,), at the image's size."""

    flow: np.ndarray
    probability: np.ndarray
    style: np.ndarray


def load_model(
    name_or_path: str | Path | Sequence[str | Path] = DEFAULT_MODEL,
    *,
    engine: str = "auto",
    precision: str = "auto",
) -> Model:
    """Load a shipped model by name or a weights file; several of one object diameter make an ensemble.

    engine: "auto", "openvino" or "torch"; precision: "auto", "float32", "bf16" or "int8" (`cellbasin doctor` tells
    what "auto" chooses and why). Raises WeightsError for names and files that cannot be used, ValueError for an
    engine or precision that is not to be had here.

    >>> model = load_model()
    >>> model.card.name
    'general'
    """
    names = [name_or_path] if isinstance(name_or_path, (str, Path)) else name_or_path
    return Model([load_weights(name) for name in names], engine=engine, precision=precision)


class Model:
    """One network, or an ensemble whose maps are averaged, ready to segment."""

    def __init__(self, weights: Sequence[Weights], *, engine: str = "auto", precision: str = "auto") -> None:
        if not weights:
            raise WeightsError("no weights given: pass at least one model name or file")
        first = weights[0].card
        for other in weights[1:]:
            if other.card.diameter != first.diameter:
                raise WeightsError(
                    f"models for diameters of {first.diameter:g} and {other.card.diameter:g} px cannot be averaged"
                )
        self.weights = tuple(weights)
        self.card = first
        self.engines: tuple[Engine, ...] = tuple(choose_engine(w, engine, precision) for w in weights)

    def segment(
        self,
        image: np.ndarray | Image,
        axes: str | None = None,
        channels: tuple[int, ...] | None = None,
        diameter: float | None = None,
        *,
        options: Options | None = None,
        progress: Progress | None = None,
    ) -> Segmentation:
        """Segment one 2D image.

        image: any integer or float dtype, with axes as `as_image` understands them (or an `Image`). axes, channels and
        diameter (pixels; estimated when None) override those of `options`. progress(stage, part 0..1) is called often;
        when it returns False, `Cancelled` is raised. The image is not modified. Raises ValueError or TypeError for
        images, axes and channels that cannot be used.

        >>> from cellbasin.generator import generate
        >>> sample = generate("nuclei", (96, 96), seed=1)
        >>> segmentation = load_model().segment(sample.image, axes="CYX", channels=(0,), diameter=30)
        >>> segmentation.labels.shape
        (96, 96)
        """
        options = options or Options()
        options = replace(
            options,
            axes=options.axes if axes is None else axes,
            channels=options.channels if channels is None else channels,
            diameter=options.diameter if diameter is None else diameter,
        )
        named = as_image(image, options.axes)
        if "Z" in named.axes:
            raise ValueError(f"found a volume (axes {named.axes}), expected a 2D image: pass one plane at a time")
        pixels = select_channels(named, options.channels)
        started = time.perf_counter()
        run = _Run(self, pixels, options, progress)
        result = run.with_given_diameter(options.diameter) if options.diameter else run.with_estimated_diameter()
        record = self._provenance(options, named, run.diameter, time.perf_counter() - started)
        table = object_table(result.labels, run.maps.probability, result.flow_errors)
        table |= self._confidence(table, result.labels, run, options)
        return Segmentation(
            result.labels, run.maps.flow, run.maps.probability, run.maps.style, run.diameter, table, record
        )

    def segment_many(
        self,
        images: Iterable[np.ndarray | Image],
        *,
        options: Options | None = None,
        progress: Progress | None = None,
    ) -> Iterator[Segmentation]:
        """Segment images one by one, each when its result is asked for; see `segment`."""
        for image in images:
            yield self.segment(image, options=options, progress=progress)

    def predict(
        self,
        pixels: np.ndarray,
        diameter: float,
        options: Options | None = None,
        progress: Progress | None = None,
    ) -> Maps:
        """The network's maps of normalised pixels (2, Y, X) float32 whose objects have this diameter (pixels)."""
        options = options or Options()
        _, tiling = self._tiling(pixels, diameter, options)
        scaled = resize(pixels, tiling.shape)
        maps, style = self._run_tiles(scaled, tiling, options.batch, _part(progress, "network"))
        maps = resize(maps, pixels.shape[1:])
        flow = maps[:2]
        flow *= np.float32(1 / FLOW_SCALE)
        return Maps(flow, _sigmoid(maps[2]), style)

    def style(self, pixels: np.ndarray, diameter: float, options: Options | None = None) -> np.ndarray:
        """The mean style (S,) over at most nine tiles of pixels (2, Y, X) resized for a diameter."""
        options = replace(options or Options(), augment=False)
        divisor, tiling = self._tiling(pixels, diameter, options)
        if len(tiling) <= _FEW_TILES:
            return self._styles(cut(resize(pixels, tiling.shape), tiling, range(len(tiling))), options.batch)
        # Of a large image only the windows that are looked at are resized.
        window = max(1, round(options.tile * diameter / self.card.diameter))
        windows = plan_tiles((pixels.shape[1], pixels.shape[2]), window, 0.0, 1)
        chosen = np.unique(np.linspace(0, len(windows) - 1, _FEW_TILES).round().astype(int))
        side = [max(divisor, round(length * options.tile / window / divisor) * divisor) for length in windows.tile]
        return self._styles(resize(cut(pixels, windows, chosen.tolist()), (side[0], side[1])), options.batch)

    def _tiling(self, pixels: np.ndarray, diameter: float, options: Options) -> tuple[int, Tiling]:
        """The divisor of tile sides, and the tiles of the image resized for a diameter."""
        scale = self.card.diameter / diameter
        shape = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[2] * scale)))
        divisor = max(weights.card.architecture.divisor for weights in self.weights)
        if options.augment:
            return divisor, plan_flipped_tiles(shape, options.tile, divisor)
        return divisor, plan_tiles(shape, options.tile, options.overlap, divisor)

    def _run_tiles(
        self, scaled: np.ndarray, tiling: Tiling, batch: int, tell: Callable[[float], None]
    ) -> tuple[np.ndarray, np.ndarray]:
        blender = Blender(tiling, maps=self.card.architecture.outputs)
        style = np.zeros(self.card.architecture.channels[-1], np.float64)
        for chosen in tiling.batches(batch):
            tell(chosen.start / len(tiling))
            tiles = cut(scaled, tiling, chosen)
            outputs = [engine.run(tiles) for engine in self.engines]
            blender.add(_mean([maps for maps, _ in outputs]), chosen)
            style += outputs[0][1].sum(axis=0)
        return blender.result(), (style / len(tiling)).astype(np.float32)

    def _styles(self, tiles: np.ndarray, batch: int) -> np.ndarray:
        styles = [self.engines[0].run(tiles[start : start + batch])[1] for start in range(0, len(tiles), batch)]
        return np.concatenate(styles).mean(axis=0)

    def _confidence(
        self, objects: Mapping[str, np.ndarray], labels: np.ndarray, run: _Run, options: Options
    ) -> dict[str, np.ndarray]:
        """The column "confidence" of the table of objects, where the model was calibrated for this."""
        calibration = Calibration.from_card(self.card.confidence.get("augment" if options.augment else "plain", {}))
        if calibration is None:
            return {}
        features = object_features(labels, run.maps.flow, run.maps.probability, objects, run.diameter)
        return {"confidence": calibration.confidence(features)}

    def _provenance(self, options: Options, image: Image, diameter: float, seconds: float) -> dict[str, Any]:
        engine = self.engines[0]
        return {
            "program": "cellbasin",
            "version": VERSION,
            "models": [{"name": w.card.name, "sha256": w.sha256} for w in self.weights],
            "engine": engine.name,
            "precision": engine.precision,
            "engine_reason": engine.reason,
            "options": dict(options.as_dict()),
            "diameter": round(float(diameter), 3),
            "diameter_source": "given" if options.diameter else "estimated",
            "image": {"name": image.name, "shape": list(image.array.shape), "axes": image.axes},
            "seconds": round(seconds, 3),
        }


class _Run:
    """One image on its way: keeps the maps of the last pass, so that a pass is not done twice."""

    def __init__(self, model: Model, pixels: np.ndarray, options: Options, progress: Progress | None) -> None:
        self.model, self.pixels, self.options, self.progress = model, pixels, options, progress
        self.diameter = 0.0
        self.maps: Maps

    def with_given_diameter(self, diameter: float) -> FlowSegmentation:
        self.diameter = diameter
        self.maps = self.model.predict(self.pixels, diameter, self.options, self.progress)
        _tell(self.progress, "labels", 0.0)
        return self._labels(self.maps, diameter)

    def with_estimated_diameter(self) -> FlowSegmentation:
        """Paper, "Test time resizing": from the style, then from the objects found at that size."""
        _tell(self.progress, "diameter", 0.0)
        estimate = self._from_style()
        window = self._window(estimate, _LARGE)
        if window is self.pixels:
            found = self.with_given_diameter(estimate)
        else:
            found = self._labels(self.model.predict(window, estimate, self.options), estimate)
        count, measured = len(found.flow_errors), _measured(found.labels)
        if measured is None or count < size.FEW or not size.plausible(estimate, measured):
            measured = self._best_candidate(estimate)
        if window is self.pixels and size.fits(self.diameter, measured):
            return found
        return self.with_given_diameter(measured)

    def _best_candidate(self, estimate: float) -> float:
        """Where the style has misled: the diameter at which the objects found are best and have that diameter."""
        best, best_score = estimate, size.CONVINCING
        for diameter in sorted({*size.CANDIDATES, estimate}):
            _tell(self.progress, "diameter", 0.5)
            window = self._window(diameter, _LARGE // 4)
            maps = self.model.predict(window, diameter, self.options)
            found = self._labels(maps, diameter)
            measured = _measured(found.labels)
            if measured is None:
                continue
            score = size.trust(diameter, measured, len(found.flow_errors)) * _quality(found, maps, self.options)
            if score > best_score:
                best, best_score = measured, score
        return best

    def _from_style(self) -> float:
        model = self.model
        regression = size.SizeModel.from_card(model.card.size_model)
        if regression is None:
            return model.card.diameter
        return size.diameter_from_style(regression, lambda diameter: model.style(self.pixels, diameter, self.options))

    def _window(self, diameter: float, largest: int) -> np.ndarray:
        """The image, or the middle of one that would have many more than `largest` pixels when resized."""
        scale = self.model.card.diameter / diameter
        height, width = self.pixels.shape[1:]
        part = np.sqrt(largest / (height * width * scale**2))
        if part >= 0.75:
            return self.pixels
        wanted = (max(1, int(height * part)), max(1, int(width * part)))
        top, left = (height - wanted[0]) // 2, (width - wanted[1]) // 2
        return self.pixels[:, top : top + wanted[0], left : left + wanted[1]]

    def _labels(self, maps: Maps, diameter: float) -> FlowSegmentation:
        return segment_flows(
            maps.flow,
            maps.probability,
            probability_threshold=self.options.probability_threshold,
            flow_threshold=self.options.flow_threshold or None,
            min_size=self.options.min_size,
            step=max(1.0, diameter / self.model.card.diameter),
        )


def _mean(maps: list[np.ndarray]) -> np.ndarray:
    """Mean of the maps of an ensemble."""
    return maps[0] if len(maps) == 1 else np.asarray(np.mean(maps, axis=0, dtype=np.float32))


def _quality(found: FlowSegmentation, maps: Maps, options: Options) -> float:
    """Part of the pixels that are surely inside objects whose flows fit."""
    fit = 1 - found.flow_errors / (options.flow_threshold or 1.0)
    weight = np.concatenate([[0.0], np.clip(fit, 0, 1)]).astype(np.float32)
    return float((weight[found.labels] * (2 * maps.probability - 1)).mean())


def _measured(labels: np.ndarray) -> float | None:
    """Median diameter of the objects, where there are any."""
    found = diameters(labels)
    return float(np.clip(np.median(found), size.SMALLEST, size.LARGEST)) if found.size else None


def _sigmoid(logit: np.ndarray) -> np.ndarray:
    """In place, without overflow."""
    np.clip(logit, -30, 30, out=logit)
    np.negative(logit, out=logit)
    np.exp(logit, out=logit)
    logit += 1
    return np.reciprocal(logit, out=logit)


def _tell(progress: Progress | None, stage: str, part: float) -> None:
    if progress is not None and progress(stage, part) is False:
        raise Cancelled(f"cancelled during {stage}")


def _part(progress: Progress | None, stage: str) -> Callable[[float], None]:
    return lambda part: _tell(progress, stage, part)
