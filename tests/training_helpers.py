"""What the tests of training share: annotated images, and a cache of their own."""

import numpy as np
import pytest

from cellbasin.generator import generate
from cellbasin.training.prepared import Annotated


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("CELLBASIN_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def annotated(seed=0, kind="nuclei", side=160, diameter=24):
    sample = generate(kind, (side, side), diameter=diameter, seed=seed)
    return Annotated(np.asarray(sample.image), sample.labels, f"{kind}{seed}", "made", "gray", f"{seed}")
