"""What the tests of the command line share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from cellbasin.cli import main
from cellbasin.generator import generate
from cellbasin.weights import Architecture, Card, save_weights

SMALL = Architecture(channels=(8, 16), stem=2, refine=0)


class Outcome(NamedTuple):
    """Exit code and what was printed."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """`run("segment", path, ...)` calls the program in this process."""

    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Outcome(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file of a tiny network that has learnt nothing: quick, and good for all but the masks."""
    torch = pytest.importorskip("torch")
    from cellbasin.network import Network

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("models") / "small.safetensors"
    save_weights(path, Card("small", SMALL, licence="CC0-1.0"), Network(SMALL).tensors())
    return path


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A generated image of nuclei, 96 x 96, in a folder of its own."""
    return save_image(tmp_path / "images" / "cells.npy")


def save_image(path: Path, seed: int = 1, size: int = 96) -> Path:
    """Write a generated image of nuclei as NPY and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, generate("nuclei", (size, size), diameter=20, seed=seed).image[0])
    return path


def assert_one_line(outcome: Outcome, *words: str, code: int = 2) -> None:
    """Exactly one line of error, which holds these words."""
    assert outcome.code == code, outcome
    assert outcome.err.startswith("cellbasin: error: "), outcome.err
    assert outcome.err.count("\n") == 1, outcome.err
    assert "Traceback" not in outcome.err
    for word in words:
        assert word in outcome.err, (word, outcome.err)


def leftovers(folder: Path) -> list[str]:
    """Names of temporary files that should not be there."""
    zarr = (".zgroup", ".zattrs", ".zarray")
    names = [path.name for path in folder.rglob("*") if path.name not in zarr]
    return [name for name in names if name.startswith(".") or ".tmp" in name]
