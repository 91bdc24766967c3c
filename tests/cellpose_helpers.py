"""Cellpose's command line in this process, pictures of nuclei, and small networks of Cellpose's kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import Outcome

from cellbasin.cellpose import console_main
from cellbasin.foreign import exported
from cellbasin.generator import generate
from cellbasin.tensor_shapes import tensor_shapes
from cellbasin.weights import Architecture, Card, Weights


@pytest.fixture
def cellpose(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
):  # type: ignore[no-untyped-def]
    """The command in this process, with no networks of Cellpose or the user in reach."""
    monkeypatch.setenv("CELLPOSE_LOCAL_MODELS_PATH", str(tmp_path_factory.mktemp("cellpose")))
    monkeypatch.setenv("CELLBASIN_MODELS", str(tmp_path_factory.mktemp("models")))

    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = console_main([str(argument) for argument in arguments])
        return Outcome(code, *capsys.readouterr())

    return call


def picture(seed: int = 1, size: int = 96) -> np.ndarray:
    return generate("nuclei", (size, size), diameter=20, seed=seed).image[0]


def write_network(path: Path, channels: tuple[int, ...] = (4, 8)) -> Path:
    """A file of Cellpose's of a tiny network whose numbers are all the same."""
    architecture = Architecture(channels, stem=1, refine=0)
    tensors = {key: np.full(shape, 0.1, np.float32) for key, shape in tensor_shapes(architecture).items()}
    path.write_bytes(exported(Weights(Card("x", architecture), tensors, ""), "x")["x"])
    return path


@pytest.fixture
def short_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Few passes for the batch norms, on one thread, and a cache that nobody else uses."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr("cellbasin.training.loop._NORM_BATCHES", 1)
    monkeypatch.setenv("CELLBASIN_CACHE", str(tmp_path / "cache"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def labels(seed: int = 1) -> np.ndarray:
    return generate("nuclei", (96, 96), diameter=20, seed=seed).labels
