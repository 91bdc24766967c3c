"""The written rule by which engine and precision are chosen.

1. A graphics processor that torch can use (CUDA, then MPS) wins: torch, in bf16 on CUDA, else float32.
2. Else OpenVINO on the processor: bf16 with AMX, else int8 with VNNI, else bf16 with AVX512-BF16, else
   int8 with AVX2, else float32.
3. A precision is a default only if it was checked for these weights: `scores["precisions"]` in their card
   lists the accepted ones (without the list: float32 and bf16); int8 also needs the ranges in the card.
4. What the caller asks for is done or refused, never replaced.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from cellbasin.engines.hardware import Hardware
from cellbasin.engines.protocol import EngineError
from cellbasin.options import EngineName, PrecisionName
from cellbasin.weights import Card

ENGINES: tuple[str, ...] = get_args(EngineName)
PRECISIONS: tuple[str, ...] = get_args(PrecisionName)


@dataclass(frozen=True, slots=True)
class Choice:
    """engine, precision, device as in `Engine`, and the reason in one sentence."""

    engine: str
    precision: str
    device: str
    reason: str


def choose(card: Card, hardware: Hardware, engine: str = "auto", precision: str = "auto") -> Choice:
    """Apply the rule. Raises EngineError for an unknown name or what this machine or these weights cannot do.

    >>> from cellbasin.weights import HALF
    >>> choose(Card("mine", HALF), Hardware("a laptop", ("AVX2",))).precision
    'float32'
    """
    for word, value, known in (("engine", engine, ENGINES), ("precision", precision, PRECISIONS)):
        if value not in known:
            raise EngineError(f"unknown {word} {value!r}: expected one of {', '.join(known)}")
    use_torch = engine == "torch" or (engine == "auto" and hardware.gpu and precision != "int8")
    wanted = "torch" if use_torch else "openvino"
    installed = hardware.engines.get(wanted, "")
    if installed.startswith("not installed"):
        raise EngineError(f"the {wanted} engine is {installed}")
    return _on_torch(hardware, engine, precision) if use_torch else _on_processor(card, hardware, precision)


def _on_torch(hardware: Hardware, engine: str, precision: str) -> Choice:
    device = hardware.gpu or "cpu"
    why = f"{device.upper()} device found" if engine == "auto" else "torch was asked for"
    if precision == "int8":
        raise EngineError("torch has no int8 here: use engine openvino, or precision float32 or bf16")
    if precision == "auto":
        precision = "bf16" if device == "cuda" else "float32"
        return Choice("torch", precision, device, f"{why}; {precision} is the default on {device}")
    return Choice("torch", precision, device, f"{why}; {precision} was asked for")


def _on_processor(card: Card, hardware: Hardware, precision: str) -> Choice:
    if precision == "int8" and not card.ranges:
        raise EngineError(f"model {card.name!r} has no int8 ranges: use float32 or bf16, or calibrate it")
    if precision == "bf16" and not hardware.has_bf16:
        raise EngineError(f"bf16 needs AMX or AVX512-BF16, {hardware.processor} has neither: use float32 or int8")
    if precision == "int8" and not {"VNNI", "AVX2"}.intersection(hardware.features):
        raise EngineError(f"int8 needs VNNI or at least AVX2, {hardware.processor} has neither: use float32")
    if precision != "auto":
        return Choice("openvino", precision, "cpu", f"{precision} was asked for")
    accepted = card.scores.get("precisions", ["float32", "bf16"])
    refused = []
    for feature, candidate in (("AMX", "bf16"), ("VNNI", "int8"), ("AVX512-BF16", "bf16"), ("AVX2", "int8")):
        if feature not in hardware.features:
            continue
        if candidate not in accepted or (candidate == "int8" and not card.ranges):
            refused.append(f"{candidate} is not accepted for this model")
            continue
        return Choice("openvino", candidate, "cpu", "; ".join([*refused, f"the processor has {feature}"]))
    lacking = refused or ["the processor has none of AMX, VNNI, AVX512-BF16 and AVX2"]
    return Choice("openvino", "float32", "cpu", "; ".join(dict.fromkeys(lacking)))
