"""Cellpose 1 to 3's Python calls over cellbasin: `from cellbasin.cellpose_api import models, io, utils, metrics`.

Thin wrappers, for scripts that exist; the real calls are shorter (docs/programs/python.md). What a wrapper cannot do is
an error. Differences on purpose: inputs are never modified, every object is one connected piece, gaps between labels do
not change scores, nothing is downloaded.
"""

from __future__ import annotations

from cellbasin.cellpose_api import core, dynamics, io, metrics, models, plot, train, transforms, utils
from cellbasin.version import VERSION as version

__all__ = ["core", "dynamics", "io", "metrics", "models", "plot", "train", "transforms", "utils", "version"]
