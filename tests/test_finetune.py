"""benchmarks/finetune.py: a network half-way between two, and the table of all runs."""

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import finetune
import numpy as np

from cellbasin.weights import load_weights


def test_half_way_between_a_network_and_its_negative_is_nothing() -> None:
    weights = load_weights("general")
    negative = replace(weights, tensors={name: -tensor for name, tensor in weights.tensors.items()})
    middle = finetune.between(weights, negative)
    assert middle.tensors.keys() == weights.tensors.keys()
    assert not any(np.any(tensor) for tensor in middle.tensors.values())
    same = finetune.between(weights, weights)
    assert all(np.array_equal(same.tensors[name], tensor) for name, tensor in weights.tensors.items())


def test_table_goes_from_few_images_and_high_rates_on() -> None:
    def line(images: int, rate: float, kept: bool = False) -> dict:
        scored = {"own": [0.5, 0.25, 0.125], "known": [0.75, 0.5, 0.25]}
        of = {"images": images, "rate": rate, "budget": 100, "crops": 96, "keep_norms": kept}
        return {**of, "tuned": scored, "mean": scored}

    rows = finetune.table([line(3, 5e-4), line(1, 5e-5), line(1, 2e-3, kept=True), line(1, 2e-3)]).splitlines()[2:]
    settings = [row.removeprefix("| ").split(" | ")[:3] for row in rows]
    assert settings == [["1", "0.002", "own"], ["1", "0.002", "kept"], ["1", "5e-05", "own"], ["3", "0.0005", "own"]]
    assert "0.500 / 0.250 / 0.125 | 0.750 / 0.500 / 0.250" in rows[0]
