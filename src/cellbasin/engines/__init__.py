"""Engines run the network: OpenVINO on processors, torch on graphics processors, to the same results.

Nothing heavy is imported until an engine is chosen.
"""

from __future__ import annotations

from cellbasin.engines.choice import ENGINES, PRECISIONS, Choice, choose
from cellbasin.engines.hardware import Hardware, find_hardware
from cellbasin.engines.protocol import Engine, EngineError, check_tiles
from cellbasin.weights import Card, Weights

__all__ = [
    "ENGINES",
    "PRECISIONS",
    "Choice",
    "Engine",
    "EngineError",
    "Hardware",
    "check_tiles",
    "choose",
    "choose_engine",
    "describe_choice",
    "find_hardware",
]


def choose_engine(weights: Weights, engine: str = "auto", precision: str = "auto") -> Engine:
    """The engine that the rule of `cellbasin.engines.choice` gives for these weights here, ready to run.

    engine: "auto", "openvino" or "torch"; precision: "auto", "float32", "bf16" or "int8".
    Raises EngineError for a name that is unknown and for what this machine or these weights cannot do.
    """
    choice = describe_choice(weights.card, engine, precision)
    if choice.engine == "torch":
        from cellbasin.engines.torch import TorchEngine

        return TorchEngine(weights, choice.device, choice.precision, choice.reason)
    from cellbasin.engines.openvino import OpenVINOEngine

    return OpenVINOEngine(weights, choice.precision, choice.reason)


def describe_choice(card: Card, engine: str = "auto", precision: str = "auto") -> Choice:
    """What `choose_engine` would choose and why, without building anything."""
    return choose(card, find_hardware(), engine, precision)
