"""The network as an ONNX graph, built from the tensors of a weights file without torch; needs the package onnx.

The graph is the network as it was trained, step by step (`cellbasin.network.Network`); programs that run ONNX fold and
fuse it themselves.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import numpy as np

from cellbasin.atomic import atomic
from cellbasin.tensor_shapes import check_tensors
from cellbasin.version import VERSION
from cellbasin.weights import NORM_EPSILON, Weights

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 17


class ExportError(RuntimeError):
    """A model that cannot be exported: what was found, what was expected, what to do."""


def write_onnx(path: str | os.PathLike[str], weights: Weights) -> None:
    """Write the network as an ONNX file.

    Input "image": float32 (N, inputs, Y, X), normalised, Y and X multiples of the architecture's divisor (16 of the
    shipped model); outputs "maps" (N, 3, Y, X): 5 x flow y and x, logit of being inside, and "style" (N, 256). The
    file's metadata hold the model's name, object diameter and SHA-256. Raises ExportError where the package onnx is not
    installed, WeightsError for weights that do not fit their own architecture, WriteError when the file cannot be
    written.
    """
    data = build_onnx(weights).SerializeToString()
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def build_onnx(weights: Weights) -> ModelProto:
    """The model that `write_onnx` writes."""
    try:
        import onnx
    except ImportError as error:
        raise ExportError(
            "ONNX files need the package onnx, which is not installed: pip install 'cellbasin[export]'"
        ) from error
    check_tensors(weights)
    graph = _Graph(weights)
    graph.network()
    architecture = weights.card.architecture
    sides: list[str | int] = ["batch", architecture.inputs, "y", "x"]
    value = onnx.helper.make_tensor_value_info
    kind = onnx.TensorProto.FLOAT
    proto = onnx.helper.make_graph(
        graph.nodes,
        weights.card.name,
        [value("image", kind, sides)],
        [
            value("maps", kind, ["batch", architecture.outputs, "y", "x"]),
            value("style", kind, ["batch", architecture.channels[-1]]),
        ],
        graph.constants,
    )
    model = onnx.helper.make_model(proto, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=8)
    model.producer_name, model.producer_version = "cellbasin", VERSION
    card = weights.card
    facts = {"name": card.name, "diameter": card.diameter, "licence": card.licence, "sha256": weights.sha256}
    onnx.helper.set_model_props(model, {"cellbasin": json.dumps(facts)})
    onnx.checker.check_model(model)
    return model


class _Graph:
    """Nodes and constants in the making; every method appends and returns the name of its result."""

    def __init__(self, weights: Weights) -> None:
        from onnx import helper, numpy_helper

        self.architecture, self.tensors = weights.card.architecture, weights.tensors
        self.nodes: list = []
        self.constants: list = []
        self._known: set[str] = set()
        self._helper, self._numpy = helper, numpy_helper

    def network(self) -> None:
        """As `Network.forward`."""
        stem, last = self.architecture.stem, len(self.architecture.channels) - 1
        x = self.unshuffled("image", stem) if stem > 1 else "image"
        skips = []
        for n in range(last + 1):
            if n:
                x = self.add_node("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2])
            x = self.down(x, n)
            skips.append(x)
        mean = self.add_node("ReduceMean", [x], axes=[2, 3], keepdims=0)
        length = self.add_node("ReduceL2", [mean], axes=[1], keepdims=1)
        least = self.constant("epsilon", np.float32(1e-12))
        style = self.add_node("Div", [mean, self.add_node("Max", [length, least])], "style")
        for n in range(last, -1, -1):
            if n < last:
                scales = self.constant("twice", np.array([1, 1, 2, 2], np.float32))
                x = self.add_node(
                    "Resize",
                    [x, "", scales],
                    mode="nearest",
                    coordinate_transformation_mode="asymmetric",
                    nearest_mode="floor",
                )
            x = self.up(x, skips[n], style, n)
        self.output(x, stem)

    def unshuffled(self, image: str, stem: int) -> str:
        """Pixels of a block become channels, by a convolution that copies (ONNX's operator orders them otherwise)."""
        channels = self.architecture.inputs
        kernel = np.zeros((channels * stem**2, channels, stem, stem), np.float32)
        for k in range(len(kernel)):
            channel, place = divmod(k, stem**2)
            kernel[k, channel, place // stem, place % stem] = 1
        return self.add_node("Conv", [image, self.constant("unshuffle", kernel)], strides=[stem, stem])

    def down(self, x: str, n: int) -> str:
        name = f"down.{n}"
        raw = n == 0 and self.architecture.stem > 1
        h = self.step(self.step(x, f"{name}.conv.0", relu=not raw), f"{name}.conv.1")
        x = self.add(self.step(x, f"{name}.project", relu=False), h)
        return self.add(x, self.step(self.step(x, f"{name}.conv.2"), f"{name}.conv.3"))

    def up(self, x: str, skip: str, style: str, n: int) -> str:
        name = f"up.{n}"
        first, second, third = (self.linear(style, f"{name}.style.{k}") for k in range(3))
        h = self.add(self.add(self.step(x, f"{name}.conv.0"), skip), first)
        x = self.add(self.step(x, f"{name}.project", relu=False), self.step(h, f"{name}.conv.1"))
        h = self.add(self.step(self.add(x, second), f"{name}.conv.2"), third)
        return self.add(x, self.step(h, f"{name}.conv.3"))

    def output(self, x: str, stem: int) -> None:
        refine = self.architecture.refine > 0
        x = self.step(x, "output", result="maps" if stem == 1 and not refine else "")
        if stem > 1:
            x = self.add_node("DepthToSpace", [x], "" if refine else "maps", blocksize=stem, mode="CRD")
        if refine:
            x = self.add_node("Concat", [x, "image"], axis=1)
            x = self.add_node("Relu", [self.convolve(x, "refine.0")])
            self.convolve(x, "refine.2", "maps")

    def step(self, x: str, name: str, *, relu: bool = True, result: str = "") -> str:
        """Batch norm, ReLU, convolution."""
        parts = [self.tensor(f"{name}.norm.{part}") for part in ("weight", "bias", "running_mean", "running_var")]
        x = self.add_node("BatchNormalization", [x, *parts], epsilon=NORM_EPSILON)
        return self.convolve(self.add_node("Relu", [x]) if relu else x, f"{name}.conv", result)

    def convolve(self, x: str, name: str, result: str = "") -> str:
        pad = self.tensors[f"{name}.weight"].shape[-1] // 2
        parts = [self.tensor(f"{name}.weight"), self.tensor(f"{name}.bias")]
        return self.add_node("Conv", [x, *parts], result, pads=[pad] * 4)

    def linear(self, style: str, name: str) -> str:
        parts = [self.tensor(f"{name}.weight"), self.tensor(f"{name}.bias")]
        x = self.add_node("Gemm", [style, *parts], transB=1)
        return self.add_node("Unsqueeze", [x, self.constant("pixels", np.array([2, 3], np.int64))])

    def add(self, a: str, b: str) -> str:
        return self.add_node("Add", [a, b])

    def add_node(self, operator: str, inputs: list[str], result: str = "", **attributes: object) -> str:
        result = result or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(self._helper.make_node(operator, inputs, [result], **attributes))
        return result

    def tensor(self, name: str) -> str:
        return self.constant(name, self.tensors[name])

    def constant(self, name: str, value: np.ndarray | np.float32) -> str:
        if name not in self._known:
            self._known.add(name)
            self.constants.append(self._numpy.from_array(np.ascontiguousarray(value).reshape(np.shape(value)), name))
        return name
