"""Images unlike the training data: the distance of styles, how it is stored, what a user is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import Run, run
from hypothesis import given
from hypothesis import strategies as st

from cellbasin.generator import generate
from cellbasin.io import Record
from cellbasin.model import Model
from cellbasin.novelty import Novelty, choose_prototypes
from cellbasin.training.novelty_fit import fit_novelty
from cellbasin.training.prepared import Annotated
from cellbasin.weights import WeightsError, load_weights, save_weights

__all__ = ["run"]  # a fixture


def directions(seed: int, count: int, length: int = 16) -> np.ndarray:
    """Random styles of length 1, all components positive as those of a network."""
    styles = np.abs(np.random.default_rng(seed).normal(size=(count, length))).astype(np.float32)
    return styles / np.linalg.norm(styles, axis=1, keepdims=True)


@given(st.integers(0, 99), st.floats(0.1, 10))
def test_distance_is_of_directions_and_the_least(seed: int, scale: float) -> None:
    prototypes, style = directions(seed, 5), directions(seed + 100, 1)[0]
    known = Novelty(prototypes, 0.1)
    slow = min(1 - float(p @ style) for p in prototypes)
    assert known.distance(scale * style) == pytest.approx(slow, abs=1e-5)
    assert known.distance(prototypes[3]) == pytest.approx(0, abs=1e-6)


def test_the_card_keeps_styles_to_a_hundredth_of_a_degree_or_so() -> None:
    known = Novelty(directions(0, 128, 256), 0.04)
    card = json.loads(json.dumps(known.as_card()))
    again = Novelty.from_card(card, 256)
    assert again is not None and again.limit == 0.04 and len(json.dumps(card)) < 50_000
    assert (again.prototypes * known.prototypes).sum(axis=1).min() > 0.9999
    assert Novelty.from_card({}, 256) is None


SENSELESS = (
    {"styles": "?", "count": 1, "limit": 0},
    {"count": 1},
    {"styles": "AAAA", "count": 2, "limit": 0},
    {"styles": "AAAAAAAA", "count": 1, "limit": 0},  # one of six numbers, where the network has three
)


@pytest.mark.parametrize("stored", SENSELESS)
def test_a_card_that_makes_no_sense_is_refused(stored: dict) -> None:
    with pytest.raises(WeightsError, match="styles cannot be understood"):
        Novelty.from_card(stored, 3)


def test_prototypes_are_never_far_from_any_style() -> None:
    centres = directions(1, 10)
    styles = np.repeat(centres, 20, axis=0) + np.random.default_rng(2).normal(0, 0.01, (200, 16)).astype(np.float32)
    known = Novelty(choose_prototypes(styles, 10), 0.0)
    assert max(known.distance(style) for style in styles) < 0.01, "every group has one of its own"
    assert len(choose_prototypes(styles[:3], 10)) == 3


@pytest.fixture(scope="module")
def cautious(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped network, told of generated nuclei alone."""
    samples = [generate("nuclei", (160, 160), seed=seed) for seed in range(48)]
    readers = [lambda one=one: Annotated(one.image, one.labels, "", "nuclei") for one in samples[::2]]
    folder = tmp_path_factory.mktemp("nuclei")
    records = []
    for number, sample in enumerate(samples[1::2]):
        paths = folder / f"{number}.npy", folder / f"{number}_masks.npy"
        np.save(paths[0], sample.image[0])
        np.save(paths[1], sample.labels)
        records.append(Record("nuclei", "train", str(number), *paths, layout="gray"))
    weights = load_weights("general")
    bare = replace(weights, card=replace(weights.card, novelty={}))
    assert fit_novelty(bare, readers, records[:5], 65535).card.novelty == {}, "too few images to settle a limit"
    fitted = fit_novelty(bare, readers, records, 65535)
    save_weights(folder / "cautious.safetensors", fitted.card, fitted.tensors)
    return folder / "cautious.safetensors"


def test_other_looks_are_pointed_out(cautious: Path, run: Run, tmp_path: Path) -> None:
    model = Model([load_weights(cautious)])

    def unlike(kind: str) -> list[bool]:
        images = [generate(kind, (160, 160), seed=seed) for seed in range(100, 106)]
        found = [model.segment(one.image, axes="CYX", channels=(0,)) for one in images]
        return [one.provenance["novelty"]["unlike"] for one in found]

    assert sum(unlike("nuclei")) <= 2
    assert sum(unlike("phase")) >= 4
    np.save(tmp_path / "phase.npy", generate("phase", (160, 160), seed=100).image[0])
    outcome = run("segment", tmp_path / "phase.npy", "--model", cautious)
    assert outcome.code == 0 and "unlike the images the model learned from" in outcome.out
