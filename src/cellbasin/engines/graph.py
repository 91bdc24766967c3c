"""The network as an OpenVINO graph, built from the tensors of a weights file without torch.

It computes what `cellbasin.network.Network` computes, rearranged where that is exact and saves work:

- a batch norm that follows a convolution directly is folded into that convolution's weights, as is the norm
  of a 1x1 projection; only the two norms of a block that read a residual sum remain, in one pass with ReLU;
- norm, ReLU and 1x1 projection commute with nearest-neighbour upsampling, so they run before it, on a quarter
  of the pixels; upsampling followed by a 3x3 convolution is a 4x4 transposed convolution of stride 2 (16
  products for four pixels instead of 36).

For int8, fake-quantise nodes are put at the inputs of the 3x3 convolutions named in `ranges`; these inputs
follow a ReLU, hence are quantised without sign from 0 to the range.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import Node
from openvino import opset13 as ops

from cellbasin.tensor_shapes import check_tensors
from cellbasin.weights import NORM_EPSILON, Architecture, Weights, WeightsError

Array = NDArray[np.float32]


def build_graph(weights: Weights, ranges: Mapping[str, float] | None = None) -> ov.Model:
    """A model: image (N, inputs, Y, X) float32 → maps (N, outputs, Y, X) and style (N, channels[-1]).

    N, Y and X are free. ranges: upper ends of the int8 ranges by convolution, e.g. {"down.0.conv.1": 4.5};
    None builds the float graph. Raises WeightsError for tensors that do not fit the architecture, and for ranges
    of convolutions that it does not have or that are not positive numbers.
    """
    graph = _Graph(weights, ranges or {})
    model = graph.model()
    for name, high in graph.ranges.items():
        if name not in graph.points or not isinstance(high, float) or not 0 < high < np.inf:
            raise WeightsError(f"model {weights.card.name!r}: {high!r} is not an int8 range of a convolution {name!r}")
    return model


def style_graph(weights: Weights, ranges: Mapping[str, float] | None = None) -> ov.Model:
    """The part of `build_graph` that the style comes from, two fifths of the work: image → style alone."""
    whole = build_graph(weights, ranges)
    return ov.Model([ops.result(whole.output(1).node.input_value(0))], whole.get_parameters(), "style")


def probe_graph(weights: Weights) -> tuple[ov.Model, list[str]]:
    """The float model with the inputs of the 3x3 convolutions as further outputs, and their names."""
    graph = _Graph(weights, {})
    model = graph.model()
    model.add_outputs([node.output(0) for node in graph.points.values()])
    return model, list(graph.points)


class _Graph:
    def __init__(self, weights: Weights, ranges: Mapping[str, float]) -> None:
        check_tensors(weights)
        self.architecture: Architecture = weights.card.architecture
        self.tensors = weights.tensors
        self.ranges = ranges
        self.points: dict[str, Node] = {}

    def model(self) -> ov.Model:
        """Put the parts together, as `Network.forward` does."""
        stem, last = self.architecture.stem, len(self.architecture.channels) - 1
        image = ops.parameter([-1, self.architecture.inputs, -1, -1], np.float32, name="image")
        x = ops.space_to_depth(image, "depth_first", stem) if stem > 1 else image
        skips: list[Node] = []
        for n in range(last + 1):
            if n:
                x = ops.max_pool(x, [2, 2], [1, 1], [0, 0], [0, 0], [2, 2]).output(0)
            x = self.down(x, n)
            skips.append(x)
        style = _unit(ops.reduce_mean(x, _integers(2, 3)))
        for n in range(last, -1, -1):
            x = self.up(x, skips[n], style, n)
        x = self.output(x, image)
        return ov.Model([ops.result(x), ops.result(style)], [image], "cellbasin")

    def down(self, x: Node, n: int) -> Node:
        """Two residual blocks (paper, "Deep neural network"); the first changes the number of channels."""
        name = f"down.{n}"
        raw = n == 0 and self.architecture.stem > 1
        first = self.affine(x, *self.norm(f"{name}.conv.0"))
        h = self.convolve(
            first if raw else ops.relu(first), *self.folded(name, 0), name="" if raw else f"{name}.conv.0"
        )
        h = self.convolve(ops.relu(h), *self.plain(f"{name}.conv.1"), name=f"{name}.conv.1")
        x = ops.add(h, self.project(x, name))
        h = ops.relu(self.affine(x, *self.norm(f"{name}.conv.2")))
        h = ops.relu(self.convolve(h, *self.folded(name, 2), name=f"{name}.conv.2"))
        return ops.add(self.convolve(h, *self.plain(f"{name}.conv.3"), name=f"{name}.conv.3"), x)

    def up(self, x: Node, skip: Node, style: Node, n: int) -> Node:
        """As `down`; the skip is added before the second convolution, the style before the last three."""
        name = f"up.{n}"
        above = n < len(self.architecture.channels) - 1
        projected = self.project(x, name)
        h = ops.relu(self.affine(x, *self.norm(f"{name}.conv.0")))
        weight, bias = self.folded(name, 0)
        if above:
            projected = _doubled(projected)
            h = self.convolve_doubled(h, weight, f"{name}.conv.0")
        else:
            h = self.convolve(h, weight, None, f"{name}.conv.0")
        scale, _ = self.norm(f"{name}.conv.1")
        h = ops.add(
            ops.add(h, ops.multiply(skip, _per_channel(scale))),
            self.style(style, f"{name}.style.0", scale, bias),
        )
        x = ops.add(self.convolve(ops.relu(h), *self.plain(f"{name}.conv.1"), name=f"{name}.conv.1"), projected)
        scale, shift = self.norm(f"{name}.conv.2")
        h = ops.add(ops.multiply(x, _per_channel(scale)), self.style(style, f"{name}.style.1", scale, shift))
        weight, bias = self.folded(name, 2)
        h = self.convolve(ops.relu(h), weight, None, f"{name}.conv.2")
        h = ops.add(h, self.style(style, f"{name}.style.2", self.norm(f"{name}.conv.3")[0], bias))
        return ops.add(self.convolve(ops.relu(h), *self.plain(f"{name}.conv.3"), name=f"{name}.conv.3"), x)

    def output(self, x: Node, image: Node) -> Node:
        """Maps at full resolution, refined beside the image where the architecture says so."""
        x = self.convolve(ops.relu(self.affine(x, *self.norm("output"))), *self.plain("output"))
        if self.architecture.stem > 1:
            x = ops.depth_to_space(x, "depth_first", self.architecture.stem)
        if self.architecture.refine:
            x = ops.concat([x, image], 1)
            x = ops.relu(self.convolve(x, self.tensors["refine.0.weight"], self.tensors["refine.0.bias"]))
            x = self.convolve(x, self.tensors["refine.2.weight"], self.tensors["refine.2.bias"])
        return x

    def norm(self, name: str) -> tuple[Array, Array]:
        """Scale and shift per channel of a batch norm with its running statistics."""
        weight, shift, mean, variance = (
            self.tensors[f"{name}.norm.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = (weight / np.sqrt(variance + NORM_EPSILON)).astype(np.float32)
        return scale, shift - scale * mean

    def plain(self, name: str) -> tuple[Array, Array]:
        """Weight and bias of a convolution."""
        return self.tensors[f"{name}.conv.weight"], self.tensors[f"{name}.conv.bias"]

    def folded(self, block: str, k: int) -> tuple[Array, Array]:
        """Weight and bias of a block's k-th convolution with the norm of the next one folded in."""
        weight, bias = self.plain(f"{block}.conv.{k}")
        scale, shift = self.norm(f"{block}.conv.{k + 1}")
        return weight * scale[:, None, None, None], bias * scale + shift

    def project(self, x: Node, block: str) -> Node:
        """Norm and 1x1 convolution in one."""
        weight, bias = self.plain(f"{block}.project")
        scale, shift = self.norm(f"{block}.project")
        return self.convolve(x, weight * scale[:, None, None], bias + weight[:, :, 0, 0] @ shift)

    def style(self, style: Node, name: str, scale: Array, shift: Array) -> Node:
        """scale * linear(style) + shift as (N, C, 1, 1)."""
        weight, bias = self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]
        x = ops.matmul(style, _constant(weight * scale[:, None]), False, True)
        x = ops.add(x, _constant((bias * scale + shift)[None]))
        return ops.unsqueeze(x, _integers(2, 3))

    def affine(self, x: Node, scale: Array, shift: Array) -> Node:
        return ops.add(ops.multiply(x, _per_channel(scale)), _per_channel(shift))

    def convolve(self, x: Node, weight: Array, bias: Array | None, name: str = "") -> Node:
        """Convolution of the same size; `name` makes its input a place that int8 may quantise."""
        x, kernel = self.quantised(x, weight, name, axis=0)
        pad = [weight.shape[-1] // 2] * 2
        x = ops.convolution(x, kernel, [1, 1], pad, pad, [1, 1])
        return x if bias is None else ops.add(x, _per_channel(bias))

    def convolve_doubled(self, x: Node, weight: Array, name: str) -> Node:
        """3x3 convolution of `x` after nearest-neighbour upsampling, as a transposed one of stride 2."""
        outputs, inputs = weight.shape[:2]
        kernel = np.zeros((inputs, outputs, 4, 4), np.float32)
        flipped = weight.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1]
        for i in (0, 1):
            for j in (0, 1):
                kernel[:, :, i : i + 3, j : j + 3] += flipped
        x, filters = self.quantised(x, kernel, name, axis=1)
        return ops.convolution_backprop_data(x, filters, [2, 2], pads_begin=[1, 1], pads_end=[1, 1], dilations=[1, 1])

    def quantised(self, x: Node, weight: Array, name: str, axis: int) -> tuple[Node, Node]:
        """Input and weight of a convolution, with fake-quantise nodes where `ranges` has its name."""
        kernel = _constant(weight)
        if name:
            self.points[name] = x
        if name not in self.ranges:
            return x, kernel
        low, high = _constant(0.0), _constant(self.ranges[name])
        others = tuple(n for n in range(4) if n != axis)
        peak = np.maximum(np.abs(weight).max(axis=others, keepdims=True), 1e-12)
        down, up = _constant(-peak), _constant(peak)
        return (
            ops.fake_quantize(x, low, high, low, high, 256),
            ops.fake_quantize(kernel, down, up, down, up, 255),
        )


def _constant(value: Array | float) -> Node:
    return ops.constant(np.ascontiguousarray(value, np.float32))


def _integers(*values: int) -> Node:
    return ops.constant(np.array(values, np.int64))


def _per_channel(value: Array) -> Node:
    return _constant(value[None, :, None, None])


def _unit(x: Node) -> Node:
    """Rows of length 1, as torch's `normalize` with its epsilon of 1e-12."""
    squares = ops.reduce_sum(ops.multiply(x, x), _integers(1), keep_dims=True)
    return ops.divide(x, ops.maximum(ops.sqrt(squares), _constant(1e-12)))


def _doubled(x: Node) -> Node:
    two = ops.constant(np.array([2, 2], np.float32))
    return ops.interpolate(
        x,
        two,
        "nearest",
        "scales",
        axes=_integers(2, 3),
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
