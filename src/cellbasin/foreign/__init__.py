"""Weights of other programs: read into ours, and ours written for them."""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from pathlib import Path

import numpy as np

from cellbasin.foreign import cellpose
from cellbasin.foreign.torch_files import TorchFileError, read_torch, torch_bytes
from cellbasin.pickles import PickleError, load_npy
from cellbasin.tensor_shapes import check_tensors
from cellbasin.weights import Weights, WeightsError, find_model, load_weights

__all__ = ["exported", "is_foreign", "open_weights"]

_MXNET = (0x112).to_bytes(8, "little")  # how its lists of arrays begin


def open_weights(name_or_path: str | Path) -> Weights:
    """Weights by name or file (see `load_weights`), also files of Cellpose 1 to 3, with or without an ending.

    Nothing in a file is executed. Cellpose's size model is read where it lies beside the file (`NAME_size.npy` or
    `size_NAME.npy`). Raises WeightsError for names and files that cannot be used.
    """
    path = find_model(name_or_path)
    if _start(path)[:8] == _MXNET:
        raise WeightsError(f"{path}: it is a network of MXNet, from before Cellpose 0.6, expected one of torch")
    if not is_foreign(path):
        return _own(path)
    try:
        state = read_torch(path, check=cellpose.architecture_of)
        card, tensors = cellpose.card_and_tensors(state, path.name.removesuffix(".pth").removesuffix(".pt"))
    except (TorchFileError, WeightsError) as error:
        raise WeightsError(f"{path}: {error}") from error
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error}); expected a weights file") from error
    for file in cellpose.size_model_files(path):
        if file.is_file():
            card = replace(card, size_model=_size_model(file, card.architecture.channels[-1], card.diameter))
            break
    return Weights(card, tensors, hashlib.sha256(path.read_bytes()).hexdigest())


def _own(path: Path) -> Weights:
    weights = load_weights(path)
    try:
        check_tensors(weights)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    return weights


def is_foreign(path: Path) -> bool:
    """Whether a file begins as files of torch do, not as safetensors (8 bytes of length, then a brace)."""
    start = _start(path)
    return start[8:9] != b"{" and (start[:4] == b"PK\x03\x04" or start[:1] == b"\x80")


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(16)
    except OSError:
        return b""


def exported(weights: Weights, name: str) -> dict[str, bytes]:
    """Files that Cellpose 1 to 3 loads: {name: network, name + "_size.npy": size model where there is one}.

    Raises WeightsError for architectures that Cellpose does not have.
    """
    files = {name: torch_bytes(cellpose.state_of(weights))}
    content = cellpose.size_model_content(weights.card)
    if content:
        target = io.BytesIO()
        np.save(target, np.array(content, dtype=object), allow_pickle=True)
        files[f"{name}_size.npy"] = target.getvalue()
    return files


def _size_model(path: Path, styles: int, diameter: float) -> dict[str, object]:
    try:
        return cellpose.size_model(load_npy(path), styles, diameter)
    except (PickleError, WeightsError, OSError) as error:
        raise WeightsError(f"{path}: {error}; remove it to do without a size model") from error
