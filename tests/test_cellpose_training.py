"""Training by Cellpose's command line, and the lines by which QuPath follows it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
from cellpose_helpers import cellpose, short_training, write_network
from cli_helpers import small_model

from cellbasin.cellpose import _log
from cellbasin.cellpose.training import _Lines
from cellbasin.foreign import open_weights
from cellbasin.generator import generate
from cellbasin.training.recipe import RECIPES

__all__ = ["cellpose", "short_training", "small_model"]  # fixtures

QUPATH_3 = re.compile(
    r".* (?P<epoch>\d+), train_loss=(\d+\.\d+), test_loss=(\d+\.\d+), LR=(\d+\.\d+), time (\d+\.\d+)s.*"
)


def test_qupath_follows_a_training(capsys: pytest.CaptureFixture[str]) -> None:
    lines = _Lines(_log, images=16, recipe=RECIPES["default"])
    lines({"step": 50, "validation_score": -1.0, "validation_loss": 0.75})
    lines({"step": 50, "flow": 0.5, "inside": 0.25, "rate": 0.002, "seconds": 12.5})
    found = QUPATH_3.fullmatch(capsys.readouterr().out.strip())
    assert found and found.groups() == ("25", "0.7500", "0.7500", "0.002000", "12.50")


def annotated_folder(folder: Path, mask_filter: str) -> Path:
    folder.mkdir()
    for number in range(2):
        sample = generate("nuclei", (80, 80), diameter=20, seed=number)
        tifffile.imwrite(folder / f"{number}.tif", sample.image[0])
        if mask_filter == "_seg.npy":
            masks = {"masks": sample.labels.astype(np.uint16), "outlines": sample.labels, "filename": "x"}
            np.save(folder / f"{number}_seg.npy", np.array(masks, dtype=object), allow_pickle=True)
        else:
            tifffile.imwrite(folder / f"{number}{mask_filter}.tif", sample.labels.astype(np.uint16))
    return folder


@pytest.mark.usefixtures("short_training")
@pytest.mark.parametrize("mask_filter", ["_masks", "_seg.npy"])
def test_qupath_training(cellpose, small_model: Path, tmp_path: Path, mask_filter: str) -> None:  # type: ignore[no-untyped-def]
    start = write_network(tmp_path / "theirs") if mask_filter == "_masks" else small_model
    folder = annotated_folder(tmp_path / "train", mask_filter)
    test = annotated_folder(tmp_path / "test", mask_filter)
    sent = f"--train --dir {folder} --test_dir {test} --pretrained_model {start} --n_epochs 2 --min_train_masks 1"
    rest = f"--mask_filter {mask_filter} --learning_rate 0.1 --use_gpu --verbose"
    answer = cellpose(*sent.split(), *rest.split())
    assert answer.code == 0, answer.err
    assert "model trained and saved to" in answer.out and "--learning_rate has no effect" in answer.err
    (model,) = (folder / "models").iterdir()
    assert re.fullmatch(r"cellpose_\d+\.\d+", model.name)
    card = open_weights(model).card
    assert card.conventions == ("cellpose" if mask_filter == "_masks" else "cellbasin")
    assert 10 < card.typical_diameter < 40
    assert ("Cellpose" in open_weights(start).card.note) == (mask_filter == "_masks"), "training on keeps its terms"
    sent = f"--dir {test} --pretrained_model {model} --diameter 0 --save_tif --no_npy"
    assert cellpose(*sent.split()).code == 0
    sent = f"--train --dir {folder} --min_train_masks 1000 --pretrained_model {start} --mask_filter {mask_filter}"
    answer = cellpose(*sent.split())
    assert answer.code == 2 and "1000 objects" in answer.err


@pytest.mark.usefixtures("short_training")
def test_training_is_told_which_axis_is_channels(cellpose, small_model: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for number in range(2):
        sample = generate("nuclei", (80, 80), diameter=20, seed=number)
        tifffile.imwrite(tmp_path / f"{number}.tif", np.stack([sample.image[0]] * 2))
        tifffile.imwrite(tmp_path / f"{number}_masks.tif", sample.labels.astype(np.uint16))
    sent = (
        f"--train --dir {tmp_path} --pretrained_model {small_model} --n_epochs 1 --chan 1 --chan2 2 --min_train_masks 1"
    )
    answer = cellpose(*sent.split())
    assert answer.code == 2 and "--channel_axis" in answer.err and "--axes" not in answer.err
    answer = cellpose(*sent.split(), "--channel_axis", 0)
    assert answer.code == 0, answer.err
