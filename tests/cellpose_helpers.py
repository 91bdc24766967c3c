"""Cellpose's command line in this process, and pictures of nuclei."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from cellbasin.cellpose import console_main
from cellbasin.generator import generate


class Answer(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def cellpose(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
):  # type: ignore[no-untyped-def]
    """The command in this process, with no networks of Cellpose or the user in reach."""
    monkeypatch.setenv("CELLPOSE_LOCAL_MODELS_PATH", str(tmp_path_factory.mktemp("cellpose")))
    monkeypatch.setenv("CELLBASIN_MODELS", str(tmp_path_factory.mktemp("models")))

    def call(*arguments: object) -> Answer:
        capsys.readouterr()
        code = console_main([str(argument) for argument in arguments])
        return Answer(code, *capsys.readouterr())

    return call


def picture(seed: int = 1, size: int = 96) -> np.ndarray:
    return generate("nuclei", (size, size), diameter=20, seed=seed).image[0]
