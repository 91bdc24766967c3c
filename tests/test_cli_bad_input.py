"""Everything that users get wrong is one line that helps, and an exit code; nothing else is harmed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from cli_helpers import Run, assert_one_line, image, leftovers, run, save_image, small_model
from PIL import Image as Pillow
from safetensors import safe_open
from safetensors.numpy import save_file

from cellbasin.io import read_labels
from cellbasin.weights import Card, load_weights, save_weights

__all__ = ["image", "run", "small_model"]  # fixtures


def cut(path: Path, part: float = 0.5) -> Path:
    """Cut a file short."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    return path


def scrambled(path: Path) -> Path:
    """Damage the middle of a file."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 40] = bytes(40)
    path.write_bytes(bytes(content))
    return path


def png(path: Path) -> Path:
    Pillow.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)).save(path)
    return path


def tiff(path: Path) -> Path:
    array = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    tifffile.imwrite(path, array, compression="zlib")
    return path


def npy(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def holed(value: float) -> np.ndarray:
    array = np.random.default_rng(0).random((64, 64)).astype(np.float32)
    array[3, 4] = value
    return array


BAD_IMAGES = {
    "missing": (lambda d: d / "nothing.tif", "no such file"),
    "missing folder": (lambda d: d / "nowhere" / "cells.tif", "no such file"),
    "truncated TIFF": (lambda d: cut(tiff(d / "cells.tif")), "cells.tif"),
    "corrupt TIFF": (lambda d: scrambled(tiff(d / "cells.tif")), "cells.tif"),
    "truncated PNG": (lambda d: cut(png(d / "cells.png")), "cells.png"),
    "corrupt PNG": (lambda d: scrambled(png(d / "cells.png")), "cells.png"),
    "no content": (lambda d: cut(png(d / "cells.png"), 0), "empty file"),
    "not an image": (lambda d: cut(npy(d / "cells.npy", np.zeros((9, 9))), 0.05), "cells.npy"),
    "zero size": (lambda d: npy(d / "cells.npy", np.zeros((0, 64))), "cells.npy"),
    "NaN": (lambda d: npy(d / "cells.npy", holed(np.nan)), "NaN"),
    "infinite": (lambda d: npy(d / "cells.npy", holed(np.inf)), "inf"),
    "five axes": (lambda d: npy(d / "cells.npy", np.ones((2, 3, 4, 32, 32), np.uint8)), "--axes"),
    "complex": (lambda d: npy(d / "cells.npy", np.ones((32, 32), np.complex64)), "complex64"),
    "boolean": (lambda d: npy(d / "cells.npy", np.ones((32, 32), bool)), "bool"),
    "text": (lambda d: npy(d / "cells.npy", np.full((32, 32), "a")), "cells.npy"),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_bad_image(run: Run, small_model: Path, tmp_path: Path, case: str) -> None:
    make, word = BAD_IMAGES[case]
    path = make(tmp_path)
    outcome = run("segment", path, "--model", small_model)
    assert_one_line(outcome, word)
    assert str(path.name) in outcome.err
    assert outcome.out == ""
    assert not list(tmp_path.rglob("*_masks*")) and not leftovers(tmp_path)


def test_warnings_of_libraries_are_not_for_users(
    run: Run, small_model: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    pytest.importorskip("czifile")
    (tmp_path / "a.czi").write_bytes(b"ZISRAWFILE" + bytes(600))
    assert_one_line(run("segment", tmp_path / "a.czi", "--model", small_model), "a.czi")
    assert not recwarn.list


def test_folder_without_images(run: Run, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here")
    assert_one_line(run("segment", tmp_path), "found no image", str(tmp_path))


def test_nothing_given(run: Run) -> None:
    assert_one_line(run("segment"), "INPUT")


def test_constant_image(run: Run, small_model: Path, tmp_path: Path) -> None:
    path = npy(tmp_path / "flat.npy", np.full((64, 64), 7, np.uint16))
    assert run("segment", path, "--model", small_model).code == 0
    assert read_labels(tmp_path / "flat_masks.tif").shape == (64, 64)


@pytest.mark.parametrize("channels", ["5", "0,7"])
def test_wrong_channel(run: Run, small_model: Path, image: Path, channels: str) -> None:
    assert_one_line(run("segment", image, "--channels", channels, "--model", small_model), "channel")


def test_channels_unclear(run: Run, small_model: Path, tmp_path: Path) -> None:
    path = npy(tmp_path / "two.npy", np.random.default_rng(0).random((2, 64, 64)).astype(np.float32))
    outcome = run("segment", path, "--axes", "CYX", "--model", small_model)
    assert_one_line(outcome, "2 channels", "--channels")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--diamter", "30"], ["--diamter", "--diameter", "segment --help"]),
        (["--diameter", "large"], ["large", "auto", "once"]),
        (["--diameter", "0.1"], ["diameter", "0.1"]),
        (["--diameter", "nan"], ["diameter", "nan"]),
        (["--channels", "red"], ["red", "PRIMARY"]),
        (["--channels", "0,1,2"], ["PRIMARY"]),
        (["--min-size", "1.5"], ["1.5", "whole number"]),
        (["--min-size"], ["--min-size"]),
        (["--tile", "100"], ["tile", "16"]),
        (["--engine", "abacus"], ["abacus", "openvino"]),
        (["--precision", "float8"], ["float8", "bf16"]),
        (["--save", "paintings"], ["paintings", "overlay"]),
        (["--save", ","], ["','", "WHAT"]),
        (["--model", ","], ["','", "NAME"]),
        (["--axes", "QX"], ["QX"]),
        (["--model", "nonesuch"], ["nonesuch", "model"]),
    ],
)
def test_bad_option(run: Run, image: Path, small_model: Path, arguments: list[str], words: list[str]) -> None:
    model = [] if "--model" in arguments else ["--model", small_model]
    assert_one_line(run("segment", image, *arguments, *model), *words)
    assert not list(image.parent.glob("*_masks*"))


def test_unknown_command(run: Run) -> None:
    assert_one_line(run("segmnt"), "segmnt", "segment")


def _not_weights(path: Path, small: Path) -> None:
    path.write_bytes(b"not weights at all" * 10)


def _no_header(path: Path, small: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(3, np.float32)}, path)


def _wrong_shape(path: Path, small: Path) -> None:
    weights = load_weights(small)
    name = next(key for key, tensor in weights.tensors.items() if tensor.ndim == 4)
    save_weights(path, weights.card, {**weights.tensors, name: weights.tensors[name][:, :-1]})


def _missing_tensor(path: Path, small: Path) -> None:
    weights = load_weights(small)
    _, *others = weights.tensors
    save_weights(path, weights.card, {key: weights.tensors[key] for key in others})


def _not_finite(path: Path, small: Path) -> None:
    with safe_open(small, framework="numpy") as file:
        header, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
    name = next(iter(tensors))
    save_file({**tensors, name: tensors[name] * np.float16("nan")}, path, metadata=header)


def _cut_short(path: Path, small: Path) -> None:
    path.write_bytes(small.read_bytes()[:-100])


@pytest.mark.parametrize("damage", [_not_weights, _no_header, _wrong_shape, _missing_tensor, _not_finite, _cut_short])
def test_bad_weights(run: Run, image: Path, small_model: Path, tmp_path: Path, damage: Any) -> None:
    path = tmp_path / "bad.safetensors"
    damage(path, small_model)
    assert_one_line(run("segment", image, "--model", path), "bad.safetensors")
    assert_one_line(run("models", "add", path), "bad.safetensors")


def test_models_that_cannot_be_averaged(run: Run, image: Path, small_model: Path, tmp_path: Path) -> None:
    weights = load_weights(small_model)
    save_weights(tmp_path / "b.safetensors", Card("b", weights.card.architecture, 17.0), weights.tensors)
    both = f"{small_model},{tmp_path / 'b.safetensors'}"
    assert_one_line(run("segment", image, "--model", both), "17")


@pytest.mark.parametrize("arguments", [[""], ["cells.npy", "--out", ""], ["cells.npy", "--out="]])
def test_an_empty_argument_is_not_this_folder(
    run: Run, image: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    """As an unset variable of the shell leaves it."""
    monkeypatch.chdir(image.parent)
    assert_one_line(run("segment", *arguments, "--model", small_model), "empty")
    assert list(image.parent.iterdir()) == [image]


def test_one_bad_image_among_many(run: Run, small_model: Path, tmp_path: Path) -> None:
    good = [save_image(tmp_path / f"{name}.npy", seed) for seed, name in enumerate("ace")]
    cut(npy(tmp_path / "b.npy", np.ones((64, 64))))
    npy(tmp_path / "d.npy", holed(np.nan))
    outcome = run("segment", tmp_path, tmp_path / "gone.tif", "--model", small_model, "--json", tmp_path / "r.json")
    assert outcome.code == 1
    assert outcome.err.count("cellbasin: error: ") == outcome.err.count("\n") == 3
    assert all(path.with_name(f"{path.stem}_masks.tif").is_file() for path in good)
    assert len(outcome.out.splitlines()) == 3
    records = json.loads((tmp_path / "r.json").read_text())
    assert sorted(record["status"] for record in records) == ["done"] * 3 + ["failed"] * 3


def test_out_of_memory(run: Run, small_model: Path, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("cellbasin.model.Model.segment", fail)
    assert_one_line(run("segment", image, "--model", small_model), "memory", image.name)


def test_a_reader_that_has_enough(image: Path) -> None:
    """`cellbasin --help | head -1` is no error."""
    command = f"'{sys.executable}' -m cellbasin segment --help | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""


def test_bugs_keep_their_traceback(run: Run, image: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELLBASIN_DEBUG", "1")
    with pytest.raises(ValueError, match="channel"):
        run("segment", image, "--channels", "9", "--model", small_model)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["evaluate", "{none}"], ["none", "no such folder"]),
        (["evaluate", "{data}", "--split", "nose"], ["nose", "validation"]),
        (["evaluate", "{data}", "--diameter", "big"], ["big", "true"]),
        (["evaluate", "{data}", "--limit", "0"], ["--limit"]),
        (["evaluate", "{data}", "--source", "moon"], ["moon"]),
        (["evaluate", "{data}", "--source", " , "], ["--source", "NAME"]),
        (["evaluate", "{data}", "--channels", "1"], ["cells.npy", "1 channel"]),
        (["score", "{none}", "{none}"], ["none", "no such file"]),
        (["train", "{data}", "--out", "{none}/a.safetensors"], ["none", "folder"]),
        (["train", "{data}", "--out", "{data}/a.safetensors", "--recipe", "soup"], ["soup", "general"]),
        (["train", "{data}", "--out", "{data}/a.safetensors", "--minutes", "0"], ["--minutes"]),
        (["train", "{data}", "--out", "{data}/a.safetensors", "--learning-rate", "0"], ["--learning-rate is 0"]),
        (["train", "{data}", "--out", "{data}/a.safetensors", "--exclude", "soup"], ["soup", "leave out"]),
        (["train", "{data}", "--out", "{data}/a.safetensors", "--network", "vast"], ["vast", "paper"]),
        (["train", "{data}", "--out", "{data}/a.safetensors", "--channels", "-1"], ["channels", "-1"]),
        (["train", "{data}", "--out", "{data}/a.safetensors", "--channels", "0,1,2"], ["channels", "PRIMARY"]),
        (["train", "{data}", "--out", "{model}", "--from", "{model}"], ["small.safetensors", "another file"]),
        (["train", "{data}", "--out", "{data}/cells.npy"], ["cells.npy", ".safetensors"]),
        (["train", "{data}", "--out", "{data}/a.safetensors", "--session-minutes", "0"], ["--session-minutes"]),
        (["train", "{data}", "--out", "{data}/a.safetensors", "--validate-every", "nan"], ["--validate-every"]),
        (["train", "{empty}", "--out", "{empty}/a.safetensors", "--recipe", "paper"], ["empty", "no object"]),
        (["train", "{holed}", "--out", "{holed}/a.safetensors"], ["cells.npy", "NaN"]),
        (["train", "{data}"], ["--out"]),
        (["models", "info", "nonesuch"], ["nonesuch"]),
        (["models", "add", "{none}"], ["none"]),
        (["models", "export", "nonesuch", "{none}"], ["nonesuch"]),
        (["models", "export", "general", "{none}.onx"], [".onx", ".onnx"]),
    ],
)
def test_bad_arguments_elsewhere(
    run: Run,
    tmp_path: Path,
    small_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: list[str],
) -> None:
    monkeypatch.setenv("CELLBASIN_CACHE", str(tmp_path / "cache"))
    places = {name: tmp_path / name for name in ("data", "empty", "holed", "none")}
    for name in ("data", "empty", "holed"):
        path = save_image(places[name] / "cells.npy")
        np.save(path.with_name("cells_masks.npy"), np.eye(96, dtype=np.int32) * (name != "empty"))
    np.save(places["holed"] / "cells_masks.npy", np.eye(64, dtype=np.int32))
    np.save(places["holed"] / "cells.npy", holed(np.nan))
    places["model"] = small_model
    model = ["--model", small_model] if arguments[0] == "evaluate" else []
    outcome = run(*(argument.format(**places) for argument in arguments), *model)
    assert_one_line(outcome, *words)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that takes no files from root either")
def test_a_folder_that_takes_no_files_is_told_before_any_work(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    outcome = run("train", tmp_path / "nonesuch", "--out", "/proc/self/a.safetensors")
    assert_one_line(outcome, "/proc", "cannot write there", "--out")


def test_an_interruption_is_told(run: Run, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cellbasin.datasets.read_numbered", interrupted)
    outcome = run("score", image, image)
    assert (outcome.code, outcome.err) == (130, "cellbasin: interrupted\n")


def test_training_without_torch(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cellbasin.cli.console.importlib.util.find_spec", lambda name: None)
    outcome = run("train", tmp_path, "--out", tmp_path / "a.safetensors")
    assert_one_line(outcome, "pip install 'cellbasin[train]'")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--axes", "ZYX", "--anisotropy", "0"], "anisotropy is 0"),
        (["--axes", "ZYX", "--anisotropy", "-2"], "anisotropy is -2"),
        (["--axes", "ZYX", "--direction-weights", "1,x"], "XY,XZ,YZ"),
        (["--axes", "ZYX", "--save", "rois"], "found a volume"),
        ([], "ambiguous"),
        (["--axes", "YXZ"], "colour picture"),
    ],
)
def test_volumes_that_cannot_be(run: Run, small_model: Path, tmp_path: Path, arguments: list[str], words: str) -> None:
    path = tmp_path / "volume.npy"
    np.save(path, np.zeros((8, 40, 3) if "YXZ" in arguments else (8, 40, 50), np.uint8))
    arguments = [word.replace("YXZ", "ZYX") for word in arguments]
    assert_one_line(run("segment", path, "--model", small_model, *arguments), words)
    assert [item.name for item in tmp_path.iterdir()] == ["volume.npy"]
