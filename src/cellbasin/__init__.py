"""cellbasin: segment cells in microscopy images.

>>> import cellbasin
>>> model = cellbasin.load_model()
>>> sample = cellbasin.generate("nuclei", (128, 128), seed=3)
>>> segmentation = model.segment(sample.image, axes="CYX", channels=(0,))
>>> segmentation.labels.dtype
dtype('int32')

Names are loaded when first used: `import cellbasin` itself takes a few milliseconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cellbasin.dynamics import flows_to_labels
    from cellbasin.flows import labels_to_flows
    from cellbasin.generator import generate
    from cellbasin.image import Image
    from cellbasin.io import read_image, read_labels, save
    from cellbasin.metrics import average_precision, match
    from cellbasin.model import Cancelled, Model, load_model
    from cellbasin.options import Options
    from cellbasin.results import Segmentation
    from cellbasin.version import VERSION as __version__

_HOMES = {
    "Cancelled": "model",
    "Image": "image",
    "Model": "model",
    "Options": "options",
    "Segmentation": "results",
    "average_precision": "metrics",
    "flows_to_labels": "dynamics",
    "generate": "generator",
    "labels_to_flows": "flows",
    "load_model": "model",
    "match": "metrics",
    "read_image": "io",
    "read_labels": "io",
    "save": "io",
}

__all__ = [*sorted(_HOMES), "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("cellbasin.version").VERSION
    if name in _HOMES:
        return getattr(import_module(f"cellbasin.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'cellbasin' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
