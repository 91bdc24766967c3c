"""Networks of Cellpose 1 to 3 (its class CPnet): the paper's network under other names.

Cellpose's files say nothing about their architecture, it is told from names and shapes of their tensors. The networks'
size models are separate files, `NAME_size.npy` or `size_NAME.npy`, which hold a pickled dictionary.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cellbasin.tensor_shapes import tensor_shapes
from cellbasin.weights import Architecture, Card, Weights, WeightsError

LICENCE = "not stated in the file (Cellpose's own models are for non-commercial use)"
NOTE = "this model began as a file of Cellpose's, which does not state its terms"
_DIAMETER, _NUCLEI = 30.0, 17.0  # pixels; of files that do not say theirs
_NUCLEI_FILES = ("nuclei", *(f"nucleitorch_{n}" for n in range(4)))
_DIAMETERS = ("diam_mean", "diam_labels")

Shapes = Mapping[str, tuple[int, ...]]


def tensor_names(architecture: Architecture) -> dict[str, str]:
    """Our tensor names → Cellpose's, for networks of the paper's kind.

    >>> from cellbasin.weights import PAPER
    >>> tensor_names(PAPER)["up.0.style.0.weight"]
    'upsample.up.res_up_0.conv.conv_1.full.weight'
    """
    names = {}
    for ours, pattern in _places(len(architecture.channels)).items():
        for part in ("weight", "bias", "running_mean", "running_var"):
            names[f"{ours}.norm.{part}"] = f"{pattern.format(0)}.{part}"
        last = 1 if ours.endswith("project") else 2  # no ReLU between norm and projection
        for part in ("weight", "bias"):
            names[f"{ours}.conv.{part}"] = f"{pattern.format(last)}.{part}"
    for n in range(len(architecture.channels)):
        for k in range(3):
            for part in ("weight", "bias"):
                names[f"up.{n}.style.{k}.{part}"] = f"upsample.up.res_up_{n}.conv.conv_{k + 1}.full.{part}"
    return names


def _places(scales: int) -> dict[str, str]:
    """Our blocks of norm and convolution → Cellpose's, with a place for the number of the layer in it."""
    places = {"output": "output.{}"}
    for n in range(scales):
        for side, theirs in (("down", f"downsample.down.res_down_{n}"), ("up", f"upsample.up.res_up_{n}")):
            places[f"{side}.{n}.project"] = theirs + ".proj.{}"
            for k in range(4):
                inner = ".conv" if side == "up" and k else ""
                places[f"{side}.{n}.conv.{k}"] = f"{theirs}.conv.conv_{k}{inner}" + ".{}"
    return places


def architecture_of(shapes: Shapes) -> Architecture:
    """The architecture that tensors of these names and shapes make up; raises WeightsError for any other network."""
    _refuse_others(shapes)
    channels: list[int] = []
    while (last := f"downsample.down.res_down_{len(channels)}.conv.conv_3.2.weight") in shapes:
        channels.append(shapes[last][0])
    first = shapes.get("downsample.down.res_down_0.conv.conv_0.2.weight", ())
    if len(first) != 4 or not channels:
        raise WeightsError("its tensors are not those of Cellpose 1 to 3's residual U-Net, expected such a file")
    if first[1] != 2:
        raise WeightsError(f"its network sees {first[1]} channels, expected 2 (cells, nuclei)")
    architecture = Architecture(tuple(channels), stem=1, refine=0)
    wanted = set(tensor_names(architecture).values())
    found = {name for name in shapes if not name.endswith("num_batches_tracked")}.difference(_DIAMETERS)
    for name in sorted(wanted ^ found):
        word = "lacks" if name in wanted else "has an unknown"
        raise WeightsError(f"it {word} tensor {name!r}, expected those of Cellpose 1 to 3's residual U-Net")
    own = tensor_shapes(architecture)
    for ours, theirs in tensor_names(architecture).items():
        if tuple(shapes[theirs]) != own[ours]:
            raise WeightsError(f"its tensor {theirs!r} has shape {tuple(shapes[theirs])}, expected {own[ours]}")
    return architecture


def _refuse_others(shapes: Shapes) -> None:
    if "W2" in shapes or any(name.startswith("encoder.") for name in shapes):
        raise WeightsError(
            "it is a Cellpose-SAM (Cellpose 4) or transformer network, expected the residual U-Net of Cellpose 1 to 3: "
            "this architecture cannot be run here; train the same images with 'cellbasin train' instead"
        )
    outputs = shapes.get("output.2.weight", (3,))[0]
    if outputs != 3:
        raise WeightsError(f"its network gives {outputs} maps (restores images?), expected 3: it does not segment")
    style = shapes.get("upsample.up.res_up_0.conv.conv_1.full.weight", (0, 0))
    width = shapes.get("upsample.up.res_up_0.conv.conv_1.conv.0.weight", (0,))
    if style[:1] == (2 * width[0],) and width[0]:
        raise WeightsError("its network was trained with --concatenation 1, expected 0, Cellpose's default")


def card_and_tensors(state: Mapping[str, np.ndarray], name: str) -> tuple[Card, dict[str, np.ndarray]]:
    """A card and tensors under our names, from those of a Cellpose file called `name`.

    Raises WeightsError when they are of another network or hold values that are not finite.
    """
    if "style_off" in name or "residual_off" in name:
        raise WeightsError("its network was trained without style or residual, expected Cellpose's default network")
    architecture = architecture_of({key: value.shape for key, value in state.items()})
    tensors = {ours: state[theirs].astype(np.float32) for ours, theirs in tensor_names(architecture).items()}
    for key, value in tensors.items():
        if not np.isfinite(value).all():
            raise WeightsError(f"tensor {key!r} holds NaN or infinite values; the training that wrote it has failed")
    diameter = _number(state, "diam_mean", _NUCLEI if name in _NUCLEI_FILES else _DIAMETER)
    card = Card(
        name,
        architecture,
        diameter=diameter,
        typical_diameter=_number(state, "diam_labels", diameter),
        conventions="cellpose",
        licence=LICENCE,
        note=NOTE,
    )
    return card, tensors


def _number(state: Mapping[str, np.ndarray], key: str, otherwise: float) -> float:
    if key not in state:
        return otherwise
    value = float(state[key].reshape(-1)[0]) if state[key].size else 0.0
    if not 1 <= value <= 10000:
        raise WeightsError(f"its {key} is {value:g}, expected a diameter in pixels")
    return value


def size_model_files(path: Path) -> list[Path]:
    """Where a network's size model may be: Cellpose's two namings."""
    return [path.with_name(f"{path.name}_size.npy"), path.with_name(f"size_{path.name}.npy")]


def size_model(content: Any, styles: int, diameter: float) -> dict[str, Any]:
    """`Card.size_model` from what a size model file holds, for a network of that diameter.

    Cellpose: diameter = exp(A · (style - smean) + ymean) · diam_mean. Raises WeightsError for anything else.
    """
    try:
        factors, mean = (np.asarray(content[key], np.float64).reshape(-1) for key in ("A", "smean"))
        own, offset = float(content["diam_mean"]), float(np.asarray(content["ymean"]).reshape(()))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise WeightsError(f"no size model of Cellpose ({error!r}): expected A, smean, diam_mean and ymean") from error
    intercept = offset - float(factors @ mean) + np.log(own / diameter) if len(factors) == len(mean) else np.nan
    if len(factors) != styles or not np.isfinite([*factors, intercept]).all():
        raise WeightsError(f"the size model has {len(factors)} coefficients, expected {styles} finite ones")
    return {"coefficients": factors.tolist(), "intercept": float(intercept)}


def state_of(weights: Weights) -> dict[str, np.ndarray]:
    """The tensors of a file with which Cellpose 1 to 3 computes what our network computes, in float32.

    Raises WeightsError for architectures that Cellpose does not know.
    """
    card = weights.card
    if (card.architecture.stem, card.architecture.refine) != (1, 0):
        raise WeightsError(
            f"model {card.name!r} works at half resolution, which Cellpose cannot: expected a model trained with "
            "'cellbasin train --network paper'"
        )
    state: dict[str, np.ndarray] = {
        "diam_mean": np.array([card.diameter], np.float32),
        "diam_labels": np.array([card.typical_diameter or card.diameter], np.float32),
    }
    for ours, theirs in tensor_names(card.architecture).items():
        state[theirs] = weights.tensors[ours].astype(np.float32)
        if theirs.endswith("running_var"):
            state[theirs.replace("running_var", "num_batches_tracked")] = np.array(0, np.int64)
    return state


def size_model_content(card: Card) -> dict[str, Any]:
    """What Cellpose's size model file of this model holds; empty where the model has none."""
    if not card.size_model:
        return {}
    factors = np.asarray(card.size_model["coefficients"], np.float32)
    return {
        "A": factors,
        "smean": np.zeros_like(factors),
        "diam_mean": float(card.diameter),
        "ymean": float(card.size_model["intercept"]),
    }
