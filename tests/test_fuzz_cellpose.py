"""Damaged files of Cellpose's kinds, as in test_io_fuzz.py: an error in one line or an answer, never a crash or a hang.

CI runs a tenth: 30 cases of each format. All of it: make fuzz
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cellpose_helpers import write_network
from test_io_fuzz import CASES, refused_cases, strike

from cellbasin.foreign import open_weights
from cellbasin.io import read_outlines_text, read_rois, read_seg, write_outlines_text, write_rois, write_seg
from cellbasin.tensor_shapes import tensor_shapes
from cellbasin.weights import Architecture, Card, Weights, save_weights

LABELS = np.zeros((40, 50), np.int32)
LABELS[3:12, 4:20], LABELS[20:35, 25:45], LABELS[25:28, 30:33] = 1, 2, 0


def _seg(path: Path) -> None:
    rng = np.random.default_rng(0)
    flow, probability = rng.normal(size=(2, *LABELS.shape)), rng.random(LABELS.shape)
    write_seg(path, LABELS, flow.astype(np.float32), probability.astype(np.float32), 20.0, "a.tif")


def _network(path: Path) -> None:
    write_network(path, (2, 3))


def _old_network(path: Path) -> None:
    torch = pytest.importorskip("torch")
    _network(path)
    torch.save(torch.load(path, weights_only=True), path, _use_new_zipfile_serialization=False)


def _size_model(path: Path) -> None:
    _network(path.with_name("network"))
    content = {"A": np.ones(3), "smean": np.ones(3), "diam_mean": 30.0, "ymean": 0.1}
    np.save(path, np.array(content, dtype=object), allow_pickle=True)


def _own_network(path: Path) -> None:
    small = Architecture(channels=(2, 3))
    tensors = {key: np.full(shape, 0.5, np.float32) for key, shape in tensor_shapes(small).items()}
    save_weights(path, Card("x", small), tensors)


def _labels_fit(labels: np.ndarray) -> bool:
    return labels.shape == LABELS.shape


def _network_fits(weights: Weights) -> bool:
    expected = tensor_shapes(weights.card.architecture)
    return {name: tensor.shape for name, tensor in weights.tensors.items()} == expected


FORMATS: dict[str, tuple[Callable[[Path], Any], Callable[[Path], Any], Callable[[Any], bool]]] = {
    "a_seg.npy": (_seg, read_seg, lambda seg: _labels_fit(seg.labels)),
    "rois.zip": (lambda path: write_rois(path, LABELS), lambda path: read_rois(path, LABELS.shape), _labels_fit),
    "a_cp_outlines.txt": (
        lambda path: write_outlines_text(path, LABELS, points="centres"),
        lambda path: read_outlines_text(path, LABELS.shape),
        _labels_fit,
    ),
    "network.pth": (_network, open_weights, _network_fits),
    "old.pth": (_old_network, open_weights, _network_fits),
    "network_size.npy": (_size_model, lambda path: open_weights(path.with_name("network")), _network_fits),
    "own.safetensors": (_own_network, open_weights, _network_fits),
}


def strike_file(original: Path, folder: Path) -> None:
    """Files of `FORMATS`."""
    _, read, fits = FORMATS[original.name]
    strike(original, folder, read, lambda path, found: fits(found), ValueError)  # ReadError, WeightsError


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_are_refused_or_read(name: str, tmp_path: Path) -> None:
    FORMATS[name][0](tmp_path / name)
    assert refused_cases("test_fuzz_cellpose", tmp_path / name) >= CASES // 10, "damage goes unnoticed"
