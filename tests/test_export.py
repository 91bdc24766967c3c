"""Exported networks in the hands of other programs: ONNX Runtime and the model zoo's own check."""

from __future__ import annotations

import builtins
import io
import json
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from bioimageio.core import test_model as check_model
from cli_helpers import Run, run
from PIL import Image as Pillow

import cellbasin
from cellbasin.export import ExportError, write_onnx, write_package
from cellbasin.generator import generate
from cellbasin.io import read_labels
from cellbasin.metrics import average_precision
from cellbasin.network import Network, build
from cellbasin.weights import HALF, PAPER, Architecture, Card, Weights, load_weights

__all__ = ["run"]  # a fixture
ROOT = Path(__file__).parent.parent


def untrained(architecture: Architecture) -> Weights:
    """Random weights whose batch-norm statistics are not those of a fresh network."""
    torch.manual_seed(0)
    network = Network(architecture)
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2)
        elif name.endswith(("running_mean", "norm.bias")):
            value.normal_()
    return Weights(Card("random", architecture, licence="BSD-3-Clause"), network.tensors(), "0" * 64)


@pytest.mark.parametrize("architecture", [HALF, PAPER, Architecture((8, 16), refine=0), Architecture((8, 16), 4, 3)])
def test_onnx_runtime_computes_what_torch_does(architecture: Architecture, tmp_path: Path) -> None:
    weights = untrained(architecture)
    write_onnx(tmp_path / "a.onnx", weights)
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx")
    image = np.random.default_rng(1).random((2, architecture.inputs, 64, 96), np.float32)
    maps, style = session.run(["maps", "style"], {"image": image})
    network = build(weights)
    with torch.no_grad():
        true_maps, true_style = (tensor.numpy() for tensor in network(torch.from_numpy(image)))
    assert np.abs(maps - true_maps).max() < 1e-4 * true_maps.std()
    assert np.abs(style - true_style).max() < 1e-5
    facts = json.loads(session.get_modelmeta().custom_metadata_map["cellbasin"])
    assert facts == {"name": "random", "diameter": 30.0, "licence": "BSD-3-Clause", "sha256": "0" * 64}


@pytest.mark.parametrize("licence", ["", "BSD-3-Clause", "not stated in the file"])
def test_packages_of_every_network_and_licence_pass_the_model_zoos_own_check(tmp_path: Path, licence: str) -> None:
    weights = untrained(Architecture((8, 16), stem=1, refine=0))
    package = tmp_path / "small.zip"
    write_package(package, replace(weights, card=replace(weights.card, licence=licence)))
    summary = check_model(package)
    assert summary.status == "passed", summary.format()


def test_the_package_of_the_shipped_model_passes_and_shows_what_it_finds(tmp_path: Path) -> None:
    package = tmp_path / "general.zip"
    write_package(package, load_weights("general"))
    summary = check_model(package)
    assert summary.status == "passed", summary.format()
    with zipfile.ZipFile(package) as archive:
        (tmp_path / "cover.png").write_bytes(archive.read("cover.png"))
        maps = np.load(io.BytesIO(archive.read("test_maps.npy")))[0]
        page = archive.read("README.md").decode()
    assert "| numbers | AP@0.5 | AP@0.75 | AP@0.9 |\n| --- | --- | --- | --- |\n| bf16 | 0.808 | " in page
    call = re.search(r"`(cellbasin\.[^`]+)`", page)
    with Pillow.open(tmp_path / "cover.png") as cover:
        assert cover.size == (512, 256)
    assert call and eval(call[1], {"cellbasin": cellbasin, "np": np, "maps": maps}).max() > 20


def test_the_example_finds_objects_without_this_program(run: Run, tmp_path: Path) -> None:
    sample = generate("nuclei", (200, 250), diameter=20, seed=5)
    scaled = 200 * sample.image[0] / sample.image[0].max()
    Pillow.fromarray(scaled.astype(np.uint8)).save(tmp_path / "image.png")
    assert run("models", "export", "general", tmp_path / "general.onnx").code == 0
    command = [sys.executable, ROOT / "examples" / "run_onnx.py", "general.onnx", "image.png", "20", "labels.png"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=120)
    found = read_labels(tmp_path / "labels.png")
    assert average_precision(sample.labels, found, (0.5,))[0] > 0.8
    source = (ROOT / "examples" / "run_onnx.py").read_text()
    assert "import cellbasin" not in source and "from cellbasin" not in source


def test_nothing_is_overwritten_and_missing_packages_are_named(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there.onnx").write_bytes(b"mine")
    outcome = run("models", "export", "general", tmp_path / "there.onnx")
    assert outcome.code == 2 and "there.onnx: found a file there" in outcome.err
    assert (tmp_path / "there.onnx").read_bytes() == b"mine"
    there = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "onnx" and not options.get("level"):
            raise ImportError(name)
        return there(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ExportError, match=r"pip install 'cellbasin\[export\]'"):
        write_package(tmp_path / "new.zip", load_weights("general"))
    assert [path.name for path in tmp_path.iterdir()] == ["there.onnx"]
