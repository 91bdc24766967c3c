"""Weights files: what is written is read, and every kind of bad file is refused with a reason."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from cellbasin import weights as module
from cellbasin.engines import choose_engine
from cellbasin.tensor_shapes import tensor_shapes
from cellbasin.weights import (
    HEADER_KEY,
    Architecture,
    Card,
    Weights,
    WeightsError,
    known_models,
    load_weights,
    save_weights,
)

SMALL = Architecture(channels=(4, 8), refine=0)
CARD = Card(
    "small",
    SMALL,
    diameter=25.5,
    licence="CC-BY-4.0",
    sources=("a", "b"),
    recipe={"minutes": 3},
    scores={"ap": [0.5, 0.25]},
    size_model={"mean": 1.5},
    ranges={"down.0.conv.1": 4.5},
    note="for tests",
)


def tensors(architecture: Architecture = SMALL) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = tensor_shapes(architecture)
    return {name: rng.random(shape, np.float32) + np.float32(0.1) for name, shape in shapes.items()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "small.safetensors"
    save_weights(file, CARD, tensors(), np.float32)
    return file


def write(path: Path, header: object) -> Path:
    text = header if isinstance(header, str) else json.dumps(header)
    save_file(tensors(), path, metadata={HEADER_KEY: text})
    return path


def header(**changes: object) -> dict[str, object]:
    return {"format": 1, "name": "x", "architecture": {"channels": [4, 8], "refine": 0}, **changes}


def test_round_trip_is_exact(path: Path) -> None:
    loaded = load_weights(path)
    assert loaded.card == CARD
    assert loaded.tensors.keys() == tensors().keys()
    for name, tensor in tensors().items():
        assert loaded.tensors[name].dtype == np.float32
        np.testing.assert_array_equal(loaded.tensors[name], tensor)


def test_half_precision_on_disk(tmp_path: Path, path: Path) -> None:
    half = tmp_path / "half.safetensors"
    save_weights(half, CARD, tensors())
    assert half.stat().st_size < 0.75 * path.stat().st_size
    for name, tensor in load_weights(half).tensors.items():
        assert tensor.dtype == np.float32
        np.testing.assert_allclose(tensor, tensors()[name], rtol=1e-3)


def test_the_hash_tells_files_apart(tmp_path: Path, path: Path) -> None:
    same, other = tmp_path / "same.safetensors", tmp_path / "other.safetensors"
    save_weights(same, CARD, tensors(), np.float32)
    save_weights(other, replace(CARD, note="another"), tensors(), np.float32)
    assert load_weights(same).sha256 == load_weights(path).sha256 != load_weights(other).sha256


def test_saving_does_not_touch_its_input(tmp_path: Path) -> None:
    given = tensors()
    save_weights(tmp_path / "x.safetensors", CARD, given)
    assert all(np.array_equal(given[name], tensor) for name, tensor in tensors().items())


def test_a_full_disk_leaves_the_old_file_and_no_partial_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        save_weights(path, replace(CARD, note="new"), tensors())
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["no-such-model", "folder/missing.safetensors", "", "."])
def test_unknown_names(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match="found no model and no file"):
        load_weights(name)


def test_shipped_models_are_found_by_name(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHIPPED", path.parent)
    monkeypatch.setenv("CELLBASIN_MODELS", str(path.parent / "added"))
    assert known_models() == {"small": path}
    assert load_weights("small").card == CARD
    with pytest.raises(WeightsError, match="these models: small"):
        load_weights("smal")


@pytest.mark.parametrize("content", [b"", b"not weights at all", b"\x00" * 64, b"PK\x03\x04 pickled"], ids=len)
def test_files_of_another_kind(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "other.safetensors"
    file.write_bytes(content)
    with pytest.raises(WeightsError, match="not a readable weights file"):
        load_weights(file)


@pytest.mark.parametrize("part", [0.01, 0.5, 0.99])
def test_truncated_files(path: Path, part: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(WeightsError, match="not a readable weights file"):
        load_weights(path)


def test_safetensors_of_somebody_else(tmp_path: Path) -> None:
    file = tmp_path / "foreign.safetensors"
    save_file(tensors(), file)
    with pytest.raises(WeightsError, match="no cellbasin header"):
        load_weights(file)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{broken", "cannot be understood"),
        ("null", "cannot be understood"),
        ("[1, 2]", "cannot be understood"),
        ({"name": "x"}, "cannot be understood"),
        (header(format=2), "format 2"),
        ("[" * 200_000, "cannot be understood"),
        (header(surprise=1), "cannot be understood"),
        (header(architecture={"depth": 3}), "cannot be understood"),
        (header(architecture={"channels": []}), "not one this version can build"),
        (header(architecture={"channels": [4, 8], "stem": 3}), "not one this version can build"),
        (header(architecture={"channels": [4, -8]}), "not one this version can build"),
        (header(architecture={"channels": [4, 10**6]}), "not one this version can build"),
    ],
    ids=str,
)
def test_bad_headers(tmp_path: Path, text: object, word: str) -> None:
    with pytest.raises(WeightsError, match=word):
        load_weights(write(tmp_path / "bad.safetensors", text))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none(tmp_path: Path, value: float) -> None:
    broken = tensors()
    broken["down.0.conv.1.conv.bias"][2] = value
    file = tmp_path / "nan.safetensors"
    save_file(broken, file, metadata={HEADER_KEY: json.dumps(header())})
    with pytest.raises(WeightsError, match=r"down\.0\.conv\.1\.conv\.bias.*NaN"):
        load_weights(file)


class TestTensorsThatDoNotFit:
    """Refused when an engine is built, by each engine, with the tensor's name."""

    name = "down.1.conv.2.conv.weight"

    def refuse(self, changed: dict[str, np.ndarray], word: str) -> None:
        for engine in ("openvino", "torch"):
            with pytest.raises(ValueError, match=word):
                choose_engine(Weights(CARD, changed, ""), engine, "float32")

    def test_missing(self) -> None:
        self.refuse({k: v for k, v in tensors().items() if k != self.name}, f"lacks .*{self.name}")

    def test_unknown(self) -> None:
        self.refuse(tensors() | {"extra.weight": np.zeros(3, np.float32)}, r"unknown .*extra\.weight")

    def test_shape(self) -> None:
        self.refuse(tensors() | {self.name: np.zeros((8, 8, 1, 1), np.float32)}, r"shape \(8, 8, 1, 1\)")

    def test_another_architecture(self) -> None:
        self.refuse(tensors(Architecture(channels=(4, 16), refine=0)), "shape")


@pytest.mark.parametrize("ranges", [{"down.9.conv.1": 1.0}, {"down.0.conv.1": 0.0}, {"down.0.conv.1": float("nan")}])
def test_ranges_that_do_not_fit(ranges: dict[str, float]) -> None:
    from cellbasin.engines.graph import build_graph

    with pytest.raises(WeightsError, match="int8 range"):
        build_graph(Weights(CARD, tensors(), ""), ranges)


@pytest.mark.parametrize("field", [{"diameter": "abc"}, {"diameter": float("nan")}, {"diameter": 0}, {"ranges": [1]}])
def test_headers_with_nonsense(tmp_path: Path, field: dict) -> None:
    save_weights(tmp_path / "odd.safetensors", replace(CARD, **field), tensors())
    with pytest.raises(WeightsError, match="cannot be understood"):
        load_weights(tmp_path / "odd.safetensors")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e5])
def test_values_that_the_file_cannot_hold(tmp_path: Path, value: float) -> None:
    bad = tensors()
    first = next(iter(bad))
    bad[first] = np.full_like(bad[first], value)
    with pytest.raises(WeightsError, match="not written"):
        save_weights(tmp_path / "bad.safetensors", CARD, bad)
    assert not list(tmp_path.iterdir())


def test_the_page_of_a_model_names_its_file_and_its_licence() -> None:
    root = Path(__file__).parent.parent
    paths = [path for folder in (module.SHIPPED, root / "models") for path in folder.glob(f"*{module.SUFFIX}")]
    assert {path.stem for path in paths} == {"general", "research"}
    for path in paths:
        weights, page = load_weights(path), (root / "docs" / "models" / f"{path.stem}.md").read_text()
        assert weights.card.name == path.stem
        assert weights.sha256 in page and f"| licence | {weights.card.licence}" in page
