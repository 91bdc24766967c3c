"""What the tests of written files share: labels with every difficulty, a result, an image."""

from __future__ import annotations

import numpy as np
import pytest

from cellbasin.image import Image
from cellbasin.results import Segmentation, object_table

SHAPE = (60, 80)


def drawn() -> np.ndarray:
    """A ring around an object, a diagonal chain, one pixel, touching blocks, objects at the border."""
    labels = np.zeros(SHAPE, np.int32)
    labels[5:25, 5:25] = 1
    labels[10:20, 10:20] = 0
    labels[13:16, 13:17] = 2
    for step in range(6):
        labels[30 + step, 10 + step] = 3
    labels[40, 40] = 4
    labels[30:40, 50:60] = 5
    labels[30:40, 60:70] = 6
    labels[55:, 70:] = 7
    labels[0, 0] = 8
    labels[45:50, 5:30] = 9
    labels[47, 7:29:2] = 0
    return labels


@pytest.fixture
def result() -> Segmentation:
    labels = drawn()
    rng = np.random.default_rng(1)
    flow = rng.normal(0, 0.4, (2, *SHAPE)).astype(np.float32) * (labels > 0)
    probability = np.clip(0.2 + 0.6 * (labels > 0) + rng.normal(0, 0.05, SHAPE), 0, 1).astype(np.float32)
    table = object_table(labels, probability, np.linspace(0, 0.3, 9))
    provenance = {
        "program": "cellbasin",
        "model": "gen\\u00e9ral",
        "options": {"channels": None, "path": "C:\\u"},
    }
    return Segmentation(labels, flow, probability, np.zeros(256, np.float32), 17.5, table, provenance)


@pytest.fixture
def image() -> Image:
    rng = np.random.default_rng(2)
    return Image(rng.integers(0, 4000, SHAPE).astype(np.uint16), "YX", (0.5, 0.25), "cells")
