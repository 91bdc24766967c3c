"""Damaged files of Cellpose's kinds, as in test_io_fuzz.py: an error in one line or an answer, never a crash or a hang.

CI runs a tenth: 30 cases of each format. All of it: make fuzz
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_io_fuzz import CASES, DAMAGE, SECONDS

from cellbasin.foreign import exported, open_weights
from cellbasin.io import read_outlines_text, read_rois, read_seg, write_outlines_text, write_rois, write_seg
from cellbasin.tensor_shapes import tensor_shapes
from cellbasin.weights import Architecture, Card, Weights

LABELS = np.zeros((40, 50), np.int32)
LABELS[3:12, 4:20], LABELS[20:35, 25:45], LABELS[25:28, 30:33] = 1, 2, 0


def _seg(path: Path) -> None:
    rng = np.random.default_rng(0)
    flow, probability = rng.normal(size=(2, *LABELS.shape)), rng.random(LABELS.shape)
    write_seg(path, LABELS, flow.astype(np.float32), probability.astype(np.float32), 20.0, "a.tif")


def _network(path: Path) -> None:
    small = Architecture(channels=(2, 3), stem=1, refine=0)
    tensors = {key: np.full(shape, 0.5, np.float32) for key, shape in tensor_shapes(small).items()}
    path.write_bytes(exported(Weights(Card("x", small), tensors, ""), "x")["x"])


def _old_network(path: Path) -> None:
    torch = pytest.importorskip("torch")
    _network(path)
    torch.save(torch.load(path, weights_only=True), path, _use_new_zipfile_serialization=False)


def _size_model(path: Path) -> None:
    _network(path.with_name("network"))
    content = {"A": np.ones(3), "smean": np.ones(3), "diam_mean": 30.0, "ymean": 0.1}
    np.save(path, np.array(content, dtype=object), allow_pickle=True)


FORMATS: dict[str, tuple[Callable[[Path], Any], Callable[[Path], Any]]] = {
    "a_seg.npy": (_seg, read_seg),
    "rois.zip": (lambda path: write_rois(path, LABELS), lambda path: read_rois(path, LABELS.shape)),
    "a_cp_outlines.txt": (
        lambda path: write_outlines_text(path, LABELS, points="centres"),
        lambda path: read_outlines_text(path, LABELS.shape),
    ),
    "network.pth": (_network, open_weights),
    "old.pth": (_old_network, open_weights),
    "network_size.npy": (_size_model, lambda path: open_weights(path.with_name("network"))),
}


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_are_refused_or_read(name: str, tmp_path: Path) -> None:
    write, read = FORMATS[name]
    path = tmp_path / name
    write(path)
    whole = path.read_bytes()
    read(path)
    refused = 0
    before = signal.signal(signal.SIGALRM, _too_long)
    try:
        for seed in range(CASES):
            data = bytearray(whole)
            DAMAGE[seed % len(DAMAGE)](data, np.random.default_rng(seed))
            path.write_bytes(data)
            signal.alarm(SECONDS)
            try:
                found = read(path)
                assert not isinstance(found, np.ndarray) or found.shape == LABELS.shape
            except ValueError as error:  # ReadError and WeightsError are such
                refused += 1
                assert str(path) in str(error) and "\n" not in str(error), (seed, error)
            signal.alarm(0)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert refused >= CASES // 10, "damage goes unnoticed"


def _too_long(*_: object) -> None:
    raise AssertionError(f"took longer than {SECONDS} s")
