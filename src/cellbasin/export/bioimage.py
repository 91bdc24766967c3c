"""The network as a package of the BioImage Model Zoo (bioimage.io, model description 0.5): a ZIP file."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import zipfile
from datetime import UTC, datetime
from typing import Any

import numpy as np
from PIL import Image as Pillow

from cellbasin.atomic import atomic
from cellbasin.export.onnx import OPSET, build_onnx
from cellbasin.generator import generate
from cellbasin.image import Image
from cellbasin.intensity import select_channels
from cellbasin.io.overlay import overlay
from cellbasin.model import Model
from cellbasin.version import VERSION
from cellbasin.weights import Weights

_SIDE = 256  # of the test image
_PAPER = {
    "text": "Stringer, C., Wang, T., Michaelos, M. & Pachitariu, M. Cellpose: a generalist algorithm for cellular "
    "segmentation (2020)",
    "doi": "10.1101/2020.02.02.931238",
}
_EPSILON = 1e-6
_HALO = 16  # pixels; the least side must be longer than two of them


def write_package(path: str | os.PathLike[str], weights: Weights) -> None:
    """Write rdf.yaml, the ONNX weights, test tensors, a cover picture and a page about the model into a ZIP file.

    The test image is drawn by the generator; the test output is computed by this program's float32 engine, so that the
    model zoo's own check compares two programs. Raises ExportError where the package onnx is not installed,
    WeightsError for weights that do not fit their architecture, WriteError when the file cannot be written.
    """
    sample = generate("nuclei", (_SIDE, _SIDE), diameter=weights.card.diameter, seed=7)
    image = Image(sample.image, "CYX")
    model = Model([weights], engine="openvino", precision="float32")
    raw = np.zeros((1, weights.card.architecture.inputs, _SIDE, _SIDE), np.float32)
    raw[0, 0] = sample.image[0]
    maps, style = model.engines[0].run(_scaled(raw))
    files = {
        "weights.onnx": build_onnx(weights).SerializeToString(),
        "test_image.npy": _npy(raw),
        "test_maps.npy": _npy(maps),
        "test_style.npy": _npy(style),
        "cover.png": _cover(model, image),
        "README.md": _readme(weights).encode(),
    }
    files["rdf.yaml"] = json.dumps(_described(weights, files), indent=1).encode()  # JSON is YAML
    with atomic(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)


def _described(weights: Weights, files: dict[str, bytes]) -> dict[str, Any]:
    """The content of rdf.yaml; `files` are those that it names, for their checksums."""
    card, architecture = weights.card, weights.card.architecture

    def stored(name: str) -> dict[str, str]:
        return {"source": name, "sha256": hashlib.sha256(files[name]).hexdigest()}

    return {
        "type": "model",
        "format_version": "0.5.4",
        "name": f"cellbasin {re.sub(r'[^A-Za-z0-9_+ ()-]', ' ', card.name)}",
        "description": f"Flows and probability of cells in microscopy images, objects of {card.diameter:g} px.",
        "version": VERSION,
        "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
        "authors": [{"name": "The cellbasin developers"}],
        "cite": [_PAPER],
        "license": card.licence if card.licence == "BSD-3-Clause" else stored("README.md"),  # an SPDX name or a file
        "tags": ["segmentation", "cells", "nuclei", "2d", "cellbasin", "onnx"],
        "documentation": stored("README.md"),
        "covers": ["cover.png"],
        "inputs": [_image(architecture.divisor, stored("test_image.npy"))],
        "outputs": [
            _maps(stored("test_maps.npy")),
            _style(architecture.channels[-1], stored("test_style.npy")),
        ],
        "weights": {"onnx": {**stored("weights.onnx"), "opset_version": OPSET}},
        "config": {"cellbasin": {"model": card.name, "diameter": card.diameter, "sha256": weights.sha256}},
    }


def _image(divisor: int, tensor: dict[str, str]) -> dict[str, Any]:
    size = {"min": max(4 * divisor, 4 * _HALO), "step": divisor}
    ranges = {"axes": ["y", "x"], "min_percentile": 1.0, "max_percentile": 99.0, "eps": _EPSILON}
    return {
        **_tensor(
            "image",
            "primary and nuclear channel (zeros where there is none), objects of the model's diameter",
            ["primary", "nucleus"],
            [{"type": "space", "id": side, "size": size} for side in "yx"],
            tensor,
        ),
        "preprocessing": [{"id": "scale_range", "kwargs": ranges}],
    }


def _maps(tensor: dict[str, str]) -> dict[str, Any]:
    sides = [
        {"type": "space", "id": side, "size": {"tensor_id": "image", "axis_id": side}, "halo": _HALO} for side in "yx"
    ]
    description = "5 x flow (y, x), and the logit of being inside an object"
    return _tensor("maps", description, ["flow_y", "flow_x", "logit"], sides, tensor)


def _style(length: int, tensor: dict[str, str]) -> dict[str, Any]:
    return _tensor("style", "style vector of length 1", [f"s{k}" for k in range(length)], [], tensor)


def _tensor(
    name: str, description: str, channels: list[str], sides: list[dict[str, Any]], tensor: dict[str, str]
) -> dict[str, Any]:
    """An input or output; sides: its axes beside batch and channels; tensor: the file of the test."""
    return {
        "id": name,
        "description": description,
        "axes": [{"type": "batch"}, {"type": "channel", "channel_names": channels}, *sides],
        "data": {"type": "float32"},
        "test_tensor": tensor,
    }


def _scaled(raw: np.ndarray) -> np.ndarray:
    """What the zoo's scale_range makes of an image: percentiles 1..99 → 0..1 in every channel."""
    low, high = np.percentile(raw, (1, 99), axis=(2, 3), keepdims=True)
    return ((raw - low) / (high - low + _EPSILON)).astype(np.float32)


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _cover(model: Model, image: Image) -> bytes:
    """The test image beside itself with what is found in it."""
    found = model.segment(image, channels=(0,), diameter=model.card.diameter)
    channel = select_channels(image, (0,))[0]
    plain = np.repeat((np.clip(channel, 0, 1) * 255).astype(np.uint8)[..., None], 3, axis=2)
    picture = np.concatenate([plain, overlay(image, found.labels, (0,))[..., :3]], axis=1)
    buffer = io.BytesIO()
    Pillow.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()


def _readme(weights: Weights) -> str:
    card = weights.card
    return f"""# cellbasin {card.name}

A network that predicts, for every pixel, a flow that leads to the centre of its cell, and whether it is inside one.
Objects should be {card.diameter:g} px large: resize images to that. Pixels that follow the flow to the same place are
one cell; `cellbasin.flows_to_labels(maps[:2] / 5, 1 / (1 + np.exp(-maps[2])))` finds them.

Licence: {card.licence or "not stated"}. {card.note}

Trained on: {", ".join(card.sources) or "not stated"}.

# Validation

{_scores(card.scores.get("validation"))}

Exported from the weights file with SHA-256 {weights.sha256}.
"""


def _scores(found: dict[str, dict[str, float]] | None) -> str:
    """A table of average precision, a line for each precision of the numbers."""
    if not found:
        return "Not measured."
    columns = [key for key in next(iter(found.values())) if key.startswith("ap_at_")]
    head = ["numbers", *(key.replace("ap_at_", "AP@") for key in columns)]
    rows = [
        head,
        ["---"] * len(head),
        *([name, *(f"{row[key]:.3f}" for key in columns)] for name, row in found.items()),
    ]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(["Average precision on images that were kept from training:", "", *lines])
