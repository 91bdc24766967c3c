"""Fixtures that several test files share: the model, and the annotated images beside the project, where they are."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest

if TYPE_CHECKING:
    from cellbasin.model import Model

REPOSITORY = Path(__file__).resolve().parents[1]


class Pair(NamedTuple):
    """One annotated image (Y, X[, 3]) and its labels (Y, X) uint16, in which 65535 means not annotated."""

    name: str
    image: np.ndarray
    labels: np.ndarray


@pytest.fixture(scope="session")
def model() -> Model:
    """The shipped model in float32, whose results are the same on every processor."""
    from cellbasin.model import load_model

    return load_model(precision="float32")


def _folder(variable: str, name: str) -> Path:
    folder = Path(os.environ.get(variable, REPOSITORY.parent / "shared" / name)).expanduser()
    if not folder.is_dir():
        pytest.skip(f"needs the annotated images: no folder {folder} (set {variable} to where they are)")
    return folder


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of the annotated images, or skip: environment variable CELLBASIN_DATA, else ../shared/data."""
    return _folder("CELLBASIN_DATA", "data")


@pytest.fixture(scope="session")
def data3d_root() -> Path:
    """Folder of the annotated volumes, or skip: CELLBASIN_DATA3D, else ../shared/data3d."""
    return _folder("CELLBASIN_DATA3D", "data3d")


@pytest.fixture(scope="session")
def load_pair(data_root: Path) -> Callable[[str, str, int], Pair]:
    """`load_pair(source, split, index)` reads the index-th image (by name) of a source with its labels."""
    from PIL import Image

    def load(source: str, split: str = "test", index: int = 0) -> Pair:
        masks = sorted((data_root / source / split).glob("*_masks.png"))
        if index >= len(masks):
            pytest.skip(f"needs image {index} of {source}/{split}, found {len(masks)} images")
        stem = masks[index].name.removesuffix("_masks.png")
        path = next(p for s in (".png", ".jpg") if (p := masks[index].with_name(stem + s)).exists())
        with Image.open(path) as image, Image.open(masks[index]) as labels:
            return Pair(stem, np.asarray(image), np.asarray(labels).astype(np.uint16))

    return load
