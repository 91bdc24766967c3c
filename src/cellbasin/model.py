"""The method: one way from an image to its labels, the same for every program that calls it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cellbasin.foreign import open_weights
from cellbasin.image import Image, as_image
from cellbasin.intensity import select_channels
from cellbasin.novelty import Novelty
from cellbasin.options import Options
from cellbasin.plane import PlaneRun
from cellbasin.prediction import Cancelled, Maps, Predictor, Progress
from cellbasin.results import Segmentation, object_table
from cellbasin.version import VERSION
from cellbasin.volume import VolumeRun, anisotropy_of

__all__ = ["Cancelled", "Maps", "Model", "Progress", "load_model"]

DEFAULT_MODEL = "general"


def load_model(
    name_or_path: str | Path | Sequence[str | Path] = DEFAULT_MODEL,
    *,
    engine: str = "auto",
    precision: str = "auto",
) -> Model:
    """Load a shipped model by name or a weights file (ours, or of Cellpose 1 to 3); several of one object diameter
    make an ensemble.

    engine: "auto", "openvino" or "torch"; precision: "auto", "float32", "bf16" or "int8" (`cellbasin doctor` tells
    what "auto" chooses and why). Raises WeightsError for names and files that cannot be used, engines.EngineError for
    an engine or precision that is not to be had here.

    >>> model = load_model()
    >>> model.card.name
    'general'
    """
    names = [name_or_path] if isinstance(name_or_path, (str, Path)) else name_or_path
    return Model([open_weights(name) for name in names], engine=engine, precision=precision)


class Model(Predictor):
    """One network, or an ensemble whose maps are averaged, ready to segment.

    >>> from cellbasin import generate, load_model
    >>> sample = generate("nuclei", (96, 96), seed=1)
    >>> found = load_model().segment(sample.image[0])
    >>> bool(abs(found.labels.max() - sample.labels.max()) <= 2)
    True
    """

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
        """Segment one image or volume.

        image: any integer or float dtype, with axes as `as_image` understands them (or an `Image`); with an axis Z it
        is a volume, whose planes are `options.anisotropy` pixels apart. axes, channels and diameter (pixels of y and x;
        estimated when None) override those of `options`. progress(stage, part 0..1) is called often;
        when it returns False, `Cancelled` is raised. The image is not modified. Raises ValueError or TypeError for
        images, axes and channels that cannot be used.

        >>> from cellbasin.generator import generate
        >>> sample = generate("nuclei", (96, 96), seed=1)
        >>> segmentation = load_model().segment(sample.image, axes="CYX", channels=(0,), diameter=30)
        >>> segmentation.labels.shape
        (96, 96)
        """
        options = Options() if options is None else options
        if not isinstance(options, Options):
            raise TypeError(f"found options of type {type(options).__name__}; expected cellbasin.Options(...)")
        options = replace(
            options,
            axes=options.axes if axes is None else axes,
            channels=options.channels if channels is None else channels,
            diameter=options.diameter if diameter is None else diameter,
        )
        named = as_image(image, options.axes)
        started = time.perf_counter()
        run = self._make_run(named, options, progress)
        result = run.segment()
        record = self._provenance(options, named, run, time.perf_counter() - started)
        table = object_table(result.labels, run.maps.probability, result.flow_errors)
        if run.confidence is not None:
            table["confidence"] = run.confidence
        return Segmentation(
            result.labels, run.maps.flow, run.maps.probability, run.maps.style, run.diameter, table, record
        )

    def _make_run(self, image: Image, options: Options, progress: Progress | None) -> PlaneRun | VolumeRun:
        if image.spatial_axes == "YX":
            return PlaneRun(self, select_channels(image, options.channels), options, progress)
        anisotropy, _ = anisotropy_of(image, options)
        return VolumeRun(self, select_channels(image, options.channels), anisotropy, options, progress)

    def _provenance(self, options: Options, image: Image, run: PlaneRun | VolumeRun, seconds: float) -> dict[str, Any]:
        engine = self.engines[0]
        record = {
            "program": "cellbasin",
            "version": VERSION,
            "models": [{"name": w.card.name, "sha256": w.sha256} for w in self.weights],
            "engine": engine.name,
            "precision": engine.precision,
            "engine_reason": engine.reason,
            "options": dict(options.as_dict()),
            "diameter": round(float(run.diameter), 3),
            "diameter_source": "given" if options.diameter else "estimated",
            "image": {"name": image.name, "shape": list(image.array.shape), "axes": image.axes},
            "seconds": round(seconds, 3),
        }
        known = Novelty.from_card(self.card.novelty, self.card.architecture.channels[-1])
        if known is not None and run.pixels.shape[1:-2] in ((), (1,)):  # an image, or a volume of one plane
            distance = known.distance(run.maps.style)
            record["novelty"] = {"distance": round(distance, 4), "limit": known.limit, "unlike": distance > known.limit}
        if isinstance(run, VolumeRun):
            record["anisotropy"], record["anisotropy_source"] = anisotropy_of(image, options)
        return record
