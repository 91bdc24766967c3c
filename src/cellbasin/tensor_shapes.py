"""Which tensors, of which shapes, the network of an architecture has: checked before it is built."""

from __future__ import annotations

from cellbasin.weights import Architecture, Weights, WeightsError

Shapes = dict[str, tuple[int, ...]]


def tensor_shapes(architecture: Architecture) -> Shapes:
    """Shape of every tensor of a weights file by name; the names are those of `cellbasin.network.Network`.

    >>> tensor_shapes(Architecture())["up.0.conv.0.conv.weight"]
    (32, 64, 3, 3)
    """
    a, widths = architecture, architecture.channels
    shapes: Shapes = {}
    below = (a.inputs * a.stem**2, *widths[:-1])
    above = (*widths[1:], widths[-1])
    for n, width in enumerate(widths):
        for part, inputs in (("down", below[n]), ("up", above[n])):
            block = f"{part}.{n}"
            shapes |= _norm_and_convolution(f"{block}.project", inputs, width, 1)
            shapes |= _norm_and_convolution(f"{block}.conv.0", inputs, width, 3)
            for k in (1, 2, 3):
                shapes |= _norm_and_convolution(f"{block}.conv.{k}", width, width, 3)
        for k in range(3):
            shapes |= {f"up.{n}.style.{k}.weight": (width, widths[-1]), f"up.{n}.style.{k}.bias": (width,)}
    per_pixel = a.refine_inputs if a.refine else a.outputs
    shapes |= _norm_and_convolution("output", widths[0], per_pixel * a.stem**2, 1)
    if a.refine:
        shapes |= {"refine.0.weight": (a.refine, per_pixel + a.inputs, 3, 3), "refine.0.bias": (a.refine,)}
        shapes |= {"refine.2.weight": (a.outputs, a.refine, 1, 1), "refine.2.bias": (a.outputs,)}
    return shapes


def check_tensors(weights: Weights) -> None:
    """Raise WeightsError naming the first tensor that is missing, unknown or of another shape."""
    card, expected = weights.card, tensor_shapes(weights.card.architecture)
    for name in sorted(expected.keys() | weights.tensors.keys()):
        if name not in weights.tensors or name not in expected:
            word = "lacks the" if name not in weights.tensors else "has an unknown"
            raise WeightsError(f"model {card.name!r} {word} tensor {name!r}: expected those of {card.architecture}")
        found = weights.tensors[name].shape
        if found != expected[name]:
            raise WeightsError(
                f"model {card.name!r}: tensor {name!r} has shape {found}, its architecture needs {expected[name]}"
            )


def _norm_and_convolution(name: str, inputs: int, outputs: int, kernel: int) -> Shapes:
    norm = {f"{name}.norm.{part}": (inputs,) for part in ("weight", "bias", "running_mean", "running_var")}
    return norm | {
        f"{name}.conv.weight": (outputs, inputs, kernel, kernel),
        f"{name}.conv.bias": (outputs,),
    }
