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
from cellbasin.plane import Found, segment_plane
from cellbasin.prediction import Cancelled, Maps, Predictor, Progress
from cellbasin.results import Segmentation, object_table
from cellbasin.version import VERSION
from cellbasin.volume import anisotropy_of, segment_volume

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
        started, spacing = time.perf_counter(), dict[str, Any]()
        if named.spatial_axes == "YX":
            found = segment_plane(self, select_channels(named, options.channels), options, progress)
        else:
            anisotropy, source = anisotropy_of(named, options)
            spacing = {"anisotropy": anisotropy, "anisotropy_source": source}
            found = segment_volume(self, select_channels(named, options.channels), anisotropy, options, progress)
        record = self._provenance(options, named, found, time.perf_counter() - started) | spacing
        objects, maps = found.objects, found.maps
        table = object_table(objects.labels, maps.probability, objects.flow_errors)
        if found.confidence is not None:
            table["confidence"] = found.confidence
        return Segmentation(objects.labels, maps.flow, maps.probability, maps.style, found.diameter, table, record)

    def _provenance(self, options: Options, image: Image, found: Found, seconds: float) -> dict[str, Any]:
        engine = self.engines[0]
        record = {
            "program": "cellbasin",
            "version": VERSION,
            "models": [
                {"name": weights.card.name, "sha256": weights.sha256, "precision": one.precision}
                for weights, one in zip(self.weights, self.engines, strict=True)
            ],
            "engine": engine.name,
            "precision": ", ".join(dict.fromkeys(one.precision for one in self.engines)),
            "engine_reason": engine.reason,
            "options": dict(options.as_dict()),
            "diameter": round(float(found.diameter), 3),
            "diameter_source": "given" if options.diameter else "estimated",
            "image": {"name": image.name, "shape": list(image.array.shape), "axes": image.axes},
            "seconds": round(seconds, 3),
        }
        known = Novelty.from_card(self.card.novelty, self.card.architecture.channels[-1])
        if known is not None and found.objects.labels.shape[:-2] in ((), (1,)):  # an image, or a volume of one plane
            distance = known.distance(found.maps.style)
            record["novelty"] = {"distance": round(distance, 4), "limit": known.limit, "unlike": distance > known.limit}
        return record
