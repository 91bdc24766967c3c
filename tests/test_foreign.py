"""Networks of Cellpose 1 to 3: read, run on every engine, written; made here with random weights, without Cellpose."""

from __future__ import annotations

import io
import os
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_helpers import Run, assert_one_line, image, run

from cellbasin.engines import choose_engine
from cellbasin.foreign import exported, is_foreign, open_weights
from cellbasin.foreign.cellpose import architecture_of, tensor_names
from cellbasin.foreign.torch_files import TorchFileError, read_torch, torch_bytes
from cellbasin.tensor_shapes import tensor_shapes
from cellbasin.weights import PAPER, Architecture, Card, WeightsError, load_weights, save_weights

__all__ = ["image", "run"]  # fixtures
torch = pytest.importorskip("torch")
functional = torch.nn.functional

NARROW = (4, 8, 12, 16)
"""Channels of most networks here: as deep as Cellpose's, but quick."""

State = dict[str, Any]


def convolution(
    state: State, name: str, inputs: int, outputs: int, kernel: int, last: int, rng: np.random.Generator
) -> None:
    """One of upstream's blocks: batch norm with statistics as after a training, then a convolution."""
    for part, low, high in (
        ("weight", 0.5, 1.5),
        ("bias", -0.3, 0.3),
        ("running_mean", -0.5, 0.5),
        ("running_var", 0.2, 3),
    ):
        state[f"{name}.0.{part}"] = torch.from_numpy(rng.uniform(low, high, inputs).astype(np.float32))
    state[f"{name}.0.num_batches_tracked"] = torch.tensor(1234)
    scale = 1.5 / np.sqrt(inputs * kernel**2)
    weight = rng.normal(0, scale, (outputs, inputs, kernel, kernel)).astype(np.float32)
    state[f"{name}.{last}.weight"] = torch.from_numpy(weight)
    state[f"{name}.{last}.bias"] = torch.from_numpy(rng.normal(0, 0.1, outputs).astype(np.float32))


def cpnet(widths: tuple[int, ...] = NARROW, seed: int = 0, diameters: tuple[float, ...] = (30.0, 24.0)) -> State:
    """A state dict laid out as upstream's CPnet, by the list of names and shapes of its files."""
    rng = np.random.default_rng(seed)
    state: State = OrderedDict(
        (k, torch.tensor([d])) for k, d in zip(("diam_mean", "diam_labels"), diameters, strict=False)
    )
    below, above = (2, *widths[:-1]), (*widths[1:], widths[-1])
    for n, width in enumerate(widths):
        for k in range(4):
            convolution(
                state, f"downsample.down.res_down_{n}.conv.conv_{k}", width if k else below[n], width, 3, 2, rng
            )
        convolution(state, f"downsample.down.res_down_{n}.proj", below[n], width, 1, 1, rng)
        up = f"upsample.up.res_up_{n}"
        for k in range(4):
            inner = f"{up}.conv.conv_{k}.conv" if k else f"{up}.conv.conv_0"
            convolution(state, inner, width if k else above[n], width, 3, 2, rng)
            if k:
                full = rng.normal(0, 0.2, (width, widths[-1])).astype(np.float32)
                state[f"{up}.conv.conv_{k}.full.weight"] = torch.from_numpy(full)
                state[f"{up}.conv.conv_{k}.full.bias"] = torch.from_numpy(rng.normal(0, 0.1, width).astype(np.float32))
        convolution(state, f"{up}.proj", above[n], width, 1, 1, rng)
    convolution(state, "output", widths[0], 3, 1, 2, rng)
    return state


def reference(state: State, x: Any) -> tuple[Any, Any]:
    """What upstream's CPnet computes, written out from the paper and the names of the tensors alone."""

    def block(x: Any, name: str, last: int = 2) -> Any:
        mean, var, scale, shift = (state[f"{name}.0.{p}"] for p in ("running_mean", "running_var", "weight", "bias"))
        x = functional.batch_norm(x, mean, var, scale, shift, eps=1e-5)
        weight = state[f"{name}.{last}.weight"]
        return functional.conv2d(
            functional.relu(x) if last == 2 else x, weight, state[f"{name}.{last}.bias"], padding=weight.shape[-1] // 2
        )

    def styled(x: Any, name: str) -> Any:
        feature = functional.linear(style, state[f"{name}.full.weight"], state[f"{name}.full.bias"])
        return block(x + feature[:, :, None, None], f"{name}.conv")

    maps = []
    scales = sum(k.startswith("downsample") and k.endswith("conv_3.2.weight") for k in state)
    for n in range(scales):
        x = functional.max_pool2d(x, 2) if n else x
        name = f"downsample.down.res_down_{n}"
        c = f"{name}.conv.conv_"
        x = block(x, f"{name}.proj", 1) + block(block(x, f"{c}0"), f"{c}1")
        x = x + block(block(x, f"{c}2"), f"{c}3")
        maps.append(x)
    style = x.mean(dim=(2, 3))
    style = style / (style**2).sum(dim=1, keepdim=True) ** 0.5
    for n in reversed(range(scales)):
        x = functional.interpolate(x, scale_factor=2, mode="nearest") if n < scales - 1 else x
        name = f"upsample.up.res_up_{n}"
        c = f"{name}.conv.conv_"
        x = block(x, f"{name}.proj", 1) + styled(block(x, f"{c}0") + maps[n], f"{c}1")
        x = x + styled(styled(x, f"{c}2"), f"{c}3")
    return block(x, "output"), style


def save(state: State, path: Path, *, old: bool = False) -> Path:
    torch.save(state, path, _use_new_zipfile_serialization=not old)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return save(cpnet(), tmp_path / "mine")


def test_full_size_file_has_the_listed_entries(tmp_path: Path) -> None:
    state = cpnet((32, 64, 128, 256))
    assert len(state) == 313
    trained = sum(v.numel() for k, v in state.items() if not re.search("running|num_batches|diam", k))
    assert trained == 6_600_843
    weights = open_weights(save(state, tmp_path / "cyto3"))
    assert weights.card.architecture == PAPER and weights.card.name == "cyto3"
    assert weights.card.conventions == "cellpose"


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_raw_outputs_are_those_of_the_reference(tmp_path: Path, engine: str, old: bool) -> None:
    state = cpnet(seed=3)
    weights = open_weights(save(state, tmp_path / "mine", old=old))
    tiles = np.random.default_rng(1).random((2, 2, 96, 64), np.float32)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small maps: several threads would mostly wait for each other
    maps, style = choose_engine(weights, engine, "float32").run(tiles)
    with torch.no_grad():
        expected_maps, expected_style = (found.numpy() for found in reference(state, torch.from_numpy(tiles)))
    torch.set_num_threads(threads)
    assert expected_maps.std() > 0.1
    np.testing.assert_allclose(maps, expected_maps, atol=1e-4 * max(1.0, expected_maps.std()))
    np.testing.assert_allclose(style, expected_style, atol=1e-5)


def test_diameters(tmp_path: Path) -> None:
    card = open_weights(save(cpnet(diameters=(30.0, 24.5)), tmp_path / "a")).card
    assert (card.diameter, card.typical_diameter) == (30.0, 24.5)
    card = open_weights(save(cpnet(diameters=()), tmp_path / "first-version")).card
    assert (card.diameter, card.typical_diameter) == (30.0, 30.0)
    for name in ("nuclei", "nucleitorch_0"):
        assert open_weights(save(cpnet(diameters=()), tmp_path / name)).card.diameter == 17.0
    card = open_weights(save(cpnet(diameters=(30.0, 24.5)), tmp_path / "nuclei")).card
    assert (card.diameter, card.typical_diameter) == (30.0, 24.5)  # one that a user has trained and named so
    with pytest.raises(WeightsError, match="diam_mean"):
        open_weights(save(cpnet(diameters=(0.0, 1.0)), tmp_path / "b"))


@pytest.mark.parametrize("name", ["mine_size.npy", "size_mine.npy"])
def test_size_model(file: Path, name: str) -> None:
    rng = np.random.default_rng(0)
    content = {"A": rng.normal(size=16), "smean": rng.random(16), "diam_mean": 17.0, "ymean": 0.25}
    np.save(file.with_name(name), np.array(content, dtype=object), allow_pickle=True)
    found = open_weights(file).card
    style = rng.random(16)
    theirs = np.exp(content["A"] @ (style - content["smean"]) + np.log(17.0) + 0.25)
    ours = found.diameter * np.exp(np.dot(found.size_model["coefficients"], style) + found.size_model["intercept"])
    assert ours == pytest.approx(theirs)


@pytest.mark.parametrize(
    "content", [{"A": np.ones(3), "smean": np.ones(3), "diam_mean": 30.0, "ymean": 0.0}, {"A": 1}, [1, 2], {}]
)
def test_size_models_that_do_not_fit_are_refused(file: Path, content: Any) -> None:
    np.save(file.with_name("mine_size.npy"), np.array(content, dtype=object), allow_pickle=True)
    with pytest.raises(WeightsError, match=r"A, smean|coefficients"):
        open_weights(file)


def without(key: str) -> Callable[[State], None]:
    return lambda state: state.pop(key)


def put(key: str, *shape: int) -> Callable[[State], None]:
    return lambda state: state.update({key: torch.ones(shape)})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put("W2", 3, 3), "Cellpose-SAM"),
        (put("encoder.pos_embed", 3), "Cellpose-SAM"),
        (put("output.2.weight", 1, 4, 1, 1), "restores"),
        (put("downsample.down.res_down_0.conv.conv_0.2.weight", 4, 1, 3, 3), "channels"),
        (put("upsample.up.res_up_0.conv.conv_1.full.weight", 8, 16), "concatenation"),
        (put("extra.weight", 3), "extra.weight"),
        (without("output.0.running_var"), "output.0.running_var"),
        (without("downsample.down.res_down_0.conv.conv_3.2.weight"), "residual U-Net"),
        (lambda state: state["output.2.bias"].fill_(float("nan")), "NaN"),
        (lambda state: state.update({"epoch": 3}), "epoch"),
        (lambda state: state.clear(), "expected a dictionary"),
    ],
)
def test_other_networks_are_refused_with_a_reason(tmp_path: Path, change: Any, words: str) -> None:
    state = cpnet()
    change(state)
    with pytest.raises(WeightsError, match=words) as caught:
        open_weights(save(state, tmp_path / "other"))
    assert str(caught.value).startswith(str(tmp_path / "other")) and "\n" not in str(caught.value)


class Villain:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("old", [False, True])
def test_malicious_checkpoint_runs_nothing(tmp_path: Path, old: bool) -> None:
    mark = tmp_path / "was-here"
    path = save({**cpnet(), "diam_mean": Villain(mark)}, tmp_path / "evil.pth", old=old)
    with pytest.raises(WeightsError, match="nothing was run"):
        open_weights(path)
    assert not mark.exists()


@pytest.mark.parametrize("old", [False, True])
def test_damaged_checkpoints(tmp_path: Path, old: bool) -> None:
    whole = save(cpnet((2, 3)), tmp_path / "whole", old=old).read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "damaged"
    for n in range(60):
        data = bytearray(whole)
        if n % 2:
            del data[int(rng.integers(len(data))) :]
        else:
            for place in rng.integers(0, len(data), 20):
                data[place] = rng.integers(256)
        path.write_bytes(data)
        try:
            open_weights(path)
        except WeightsError as error:
            assert "\n" not in str(error) and str(path) in str(error)


def test_a_checkpoint_does_not_change_what_reads_it(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x", "w") as archive:
        archive.writestr("x/data.pkl", b"c\nstorage\nN}X\x0c\x00\x00\x00__defaults__K\x01\x85s\x86b.")
    with pytest.raises(TorchFileError, match="changes the functions"):
        read_torch(tmp_path / "x")


def test_tensors_do_not_reach_beyond_their_numbers(tmp_path: Path) -> None:
    data = torch_bytes({"a": np.arange(6, dtype=np.float32)})
    for old, new in ((b"J\x06\x00\x00\x00t", b"J\x07\x00\x00\x00t"), (b"QJ\x00\x00\x00\x00", b"QJ\x01\x00\x00\x00")):
        with zipfile.ZipFile(io.BytesIO(data)) as source:
            entries = {name: source.read(name) for name in source.namelist()}
        assert old in entries["archive/data.pkl"]
        entries["archive/data.pkl"] = entries["archive/data.pkl"].replace(old, new)
        with zipfile.ZipFile(tmp_path / "x", "w") as target:
            for name, content in entries.items():
                target.writestr(name, content)
        with pytest.raises(TorchFileError, match="found"):
            read_torch(tmp_path / "x")


def test_compressed_archives_are_refused(file: Path, tmp_path: Path) -> None:
    """Few bytes of one unpack to many, whatever length it tells; torch compresses nothing."""
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(tmp_path / "x", "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(TorchFileError, match="compressed"):
        read_torch(tmp_path / "x")


def test_what_torch_writes_is_read_and_what_is_written_torch_reads(tmp_path: Path) -> None:
    tensors = {
        "float": torch.arange(12.0).reshape(3, 4).t(),
        "half": torch.tensor([1.5, -2]).half(),
        "bf16": torch.tensor([1.5, -2]).bfloat16(),
        "whole": torch.tensor(7),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "shared": torch.arange(10)[2:9:3],
    }
    for old in (False, True):
        read = read_torch(save(dict(tensors), tmp_path / "t", old=old))
        for name, tensor in tensors.items():
            assert np.array_equal(read[name], tensor.detach().float().numpy()), name
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(3, np.int64)}
    (tmp_path / "ours").write_bytes(torch_bytes(arrays))
    loaded = torch.load(tmp_path / "ours", weights_only=True)
    assert list(loaded) == list(arrays)
    assert all(np.array_equal(loaded[name].numpy(), array) for name, array in arrays.items())


def test_export_and_back_is_the_same_network(file: Path, tmp_path: Path) -> None:
    np.save(
        file.with_name("mine_size.npy"),
        np.array({"A": np.ones(16), "smean": np.ones(16), "diam_mean": 30.0, "ymean": 0.1}, dtype=object),
        allow_pickle=True,
    )
    weights = open_weights(file)
    for name, data in exported(weights, "back.pth").items():
        (tmp_path / name).write_bytes(data)
    again = open_weights(tmp_path / "back.pth")
    assert again.card.size_model["intercept"] == pytest.approx(weights.card.size_model["intercept"])
    assert again.card.typical_diameter == 24.0
    assert all(np.array_equal(again.tensors[name], tensor) for name, tensor in weights.tensors.items())
    original, loaded = cpnet(), torch.load(tmp_path / "back.pth", weights_only=True)
    assert set(loaded) == set(original)
    assert all(loaded[key].shape == original[key].shape for key in original)


def test_names_are_a_bijection() -> None:
    names = tensor_names(PAPER)
    assert len(set(names.values())) == len(names)
    shapes = {key: tuple(value.shape) for key, value in cpnet((32, 64, 128, 256)).items()}
    assert architecture_of(shapes) == PAPER


def test_command_line(run: Run, file: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELLBASIN_MODELS", str(tmp_path / "models"))
    assert run("segment", image, "--model", file, "--diameter", 20).code == 0
    direct = (image.parent / "cells_masks.tif").read_bytes()
    assert run("models", "add", file).code == 0
    added = load_weights("mine")
    assert added.card.conventions == "cellpose" and added.card.recipe["sha256"] == open_weights(file).sha256
    assert all(np.array_equal(added.tensors[k], v) for k, v in open_weights(file).tensors.items())
    assert run("segment", image, "--model", "mine", "--diameter", 20, "--out", tmp_path).code == 0
    assert len(direct) > 100
    assert "cellpose" in run("models", "info", file).out
    assert run("models", "export", file, tmp_path / "ours.safetensors").code == 0
    assert load_weights(tmp_path / "ours.safetensors").card.recipe["sha256"] == open_weights(file).sha256
    assert run("models", "export", "mine", tmp_path / "out.pth").code == 0
    assert (tmp_path / "out.pth").is_file()
    assert_one_line(run("models", "export", "mine", tmp_path / "out.pth"), "out.pth")
    assert_one_line(run("models", "export", "general", tmp_path / "general.pth"), "half resolution")
    assert not (tmp_path / "general.pth").exists()
    save(cpnet() | {"W2": torch.ones(2)}, tmp_path / "cpsam")
    assert_one_line(run("models", "add", tmp_path / "cpsam"), "Cellpose-SAM")
    assert_one_line(run("segment", image, "--model", tmp_path / "cpsam"), "Cellpose-SAM")


def test_ours_is_not_taken_for_foreign(tmp_path: Path) -> None:
    architecture = Architecture(channels=(4, 8), stem=1, refine=0)
    card = Card("x", architecture)
    path = tmp_path / "weights-without-ending"
    save_weights(path, card, {k: np.ones(s, np.float32) for k, s in tensor_shapes(architecture).items()})
    assert not is_foreign(path) and open_weights(path).card.architecture == architecture
    (tmp_path / "pickle").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(WeightsError, match="no file of torch"):
        open_weights(tmp_path / "pickle")


def test_files_of_mxnet_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "cyto").write_bytes((0x112).to_bytes(8, "little") + bytes(100))
    with pytest.raises(WeightsError, match="MXNet"):
        open_weights(tmp_path / "cyto")


@pytest.mark.parametrize("old", [False, True])
def test_tensors_that_share_numbers_or_have_odd_shapes_are_refused(tmp_path: Path, old: bool) -> None:
    """Else a few bytes could stand for gigabytes."""
    state = cpnet((2, 3))
    one = torch.zeros(1)
    shared = {
        name: one.expand(tensor.shape) if tensor.is_floating_point() else tensor for name, tensor in state.items()
    }
    with pytest.raises(WeightsError, match="share"):
        open_weights(save(shared, tmp_path / "shared", old=old))
    state["downsample.down.res_down_0.conv.conv_1.2.weight"] = torch.zeros(2, 2, 3, 5)
    with pytest.raises(WeightsError, match="has shape"):
        open_weights(save(state, tmp_path / "odd", old=old))
