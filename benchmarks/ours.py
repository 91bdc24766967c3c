"""This package's side of the comparison; run as a worker (see workers.py)."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from typing import Any

import numpy as np
from workers import serve

MODELS: dict[str, Any] = {}


def about() -> Mapping[str, Any]:
    """Versions, threads and the processor."""
    from cellbasin.engines import find_hardware
    from cellbasin.version import VERSION

    hardware = find_hardware()
    versions = {name: importlib.metadata.version(name) for name in ("openvino", "numba", "numpy")}
    return {
        "cellbasin": VERSION,
        **versions,
        "threads": str(hardware.threads),
        "processor": hardware.processor,
        "features": ", ".join(hardware.features) or "none of AVX2, AVX512, VNNI, AVX512-BF16, AMX",
    }


def load(name: str, model: str, precision: str = "auto") -> Mapping[str, Any]:
    """Load a model under a name for the other operations; tells engine and precision."""
    from cellbasin.model import load_model

    loaded = load_model(model, precision=precision, engine="auto" if precision == "auto" else "openvino")
    MODELS[name] = loaded
    return {"precision": loaded.engines[0].precision, "reason": loaded.engines[0].reason}


def network(tiles: np.ndarray, name: str) -> Mapping[str, Any]:
    """The network alone."""
    maps, style = MODELS[name].engines[0].run(tiles)
    return {"maps": maps, "style": style}


def flows_to_labels(flow: np.ndarray, probability: np.ndarray) -> Mapping[str, Any]:
    """Dynamics with quality control."""
    from cellbasin.dynamics import flows_to_labels as run

    return {"labels": run(flow, probability)}


def labels_to_flows(labels: np.ndarray) -> Mapping[str, Any]:
    """Flows of labels."""
    from cellbasin.flows import labels_to_flows as run

    return {"flow": run(labels)}


def labels_to_outlines(labels: np.ndarray) -> Mapping[str, Any]:
    """Outlines of labels; says only how many."""
    from cellbasin.outlines import trace_outlines

    return {"count": len(trace_outlines(labels))}


def segment(image: np.ndarray, name: str, diameter: float | None) -> Mapping[str, Any]:
    """The whole pipeline; the image is (C, Y, X)."""
    result = MODELS[name].segment(image, axes="CYX", channels=_channels(image), diameter=diameter)
    return {"labels": result.labels, "diameter": result.diameter}


def segment_volume(volume: np.ndarray, name: str, diameter: float, memory: float | None = None) -> Mapping[str, Any]:
    """The whole pipeline on a volume (Z, Y, X) of cubes; memory: GB it may use."""
    from cellbasin.options import Options

    options = Options(diameter=diameter, memory=memory, anisotropy=1.0)
    return {"labels": MODELS[name].segment(volume, axes="ZYX", options=options).labels}


def stand_in(
    image: np.ndarray, flow: np.ndarray, probability: np.ndarray, name: str, diameter: float
) -> Mapping[str, Any]:
    """The whole pipeline, but labels are made from the given maps: for networks that are not trained."""
    from cellbasin.dynamics import segment_flows
    from cellbasin.image import as_image
    from cellbasin.intensity import select_channels

    model = MODELS[name]
    pixels = select_channels(as_image(image, "CYX"), _channels(image))
    model.predict(pixels, diameter)
    return {"labels": segment_flows(flow, probability, step=model.step_length(diameter)).labels}


def random_weights(path: str, network: str, seed: int) -> None:
    """Write a network that is not trained, with int8 ranges: enough to measure its time."""
    import torch

    from cellbasin.network import Network
    from cellbasin.weights import HALF, PAPER, Card, Weights, save_weights

    torch.manual_seed(seed)
    architecture = {"paper": PAPER, "half": HALF}[network]
    tensors = {key: _plausible(key, value, seed) for key, value in Network(architecture).tensors().items()}
    scores = {"precisions": ["float32", "bf16", "int8"]}
    card = Card(f"random {network}", architecture, scores=scores)
    ranges = dict.fromkeys(_points(Weights(card, tensors, "")), 4.0)
    card = Card(f"random {network}", architecture, scores=scores, ranges=ranges)
    save_weights(path, card, tensors, np.float32)


def _points(weights: Any) -> list[str]:
    """Convolutions that int8 may quantise; not the first, which reads the image."""
    from cellbasin.engines.graph import probe_graph

    return [name for name in probe_graph(weights)[1] if not name.startswith("down.0.conv.0")]


def _plausible(key: str, value: np.ndarray, seed: int) -> np.ndarray:
    """Batch norms as after some training, so that every term matters."""
    rng = np.random.default_rng([seed, len(key), *key.encode()])
    if key.endswith("running_var"):
        return rng.uniform(0.5, 2.0, value.shape).astype(np.float32)
    if key.endswith(("running_mean", "norm.bias")):
        return rng.normal(0, 0.2, value.shape).astype(np.float32)
    if key.endswith("norm.weight"):
        return rng.uniform(0.5, 1.5, value.shape).astype(np.float32)
    return value


def _channels(image: np.ndarray) -> tuple[int, ...]:
    return tuple(range(min(2, len(image))))


if __name__ == "__main__":
    serve(
        {
            function.__name__: function
            for function in (
                *(about, load, network, flows_to_labels, labels_to_flows, labels_to_outlines),
                *(segment, segment_volume, stand_in, random_weights),
            )
        }
    )
