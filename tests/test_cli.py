"""The commands do what their help says: files, lines, JSON, exit codes."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from cli_helpers import Run, assert_one_line, image, leftovers, run, save_image, small_model

from cellbasin.cli import segment, train
from cellbasin.cli.flags import EvaluateFlags, SegmentFlags, options_from
from cellbasin.generator import generate, generate_volume
from cellbasin.io import read_labels
from cellbasin.io.outputs import OUTPUTS
from cellbasin.labels import split_pieces
from cellbasin.metrics import average_precision
from cellbasin.options import Options
from cellbasin.weights import load_weights

__all__ = ["image", "run", "small_model"]  # fixtures


# segment


def test_segment_writes_labels_beside_the_image(run: Run, small_model: Path, image: Path) -> None:
    before = image.read_bytes()
    outcome = run("segment", image, "--model", small_model)
    assert (outcome.code, outcome.err) == (0, "")
    labels = read_labels(image.with_name("cells_masks.tif"))
    assert labels.shape == (96, 96)
    (line,) = outcome.out.splitlines()
    assert f"{labels.max()} objects" in line and "(estimated)" in line and "cells_masks.tif" in line
    assert image.read_bytes() == before
    assert sorted(path.name for path in image.parent.iterdir()) == ["cells.npy", "cells_masks.tif"]


def test_segment_writes_all_that_is_asked_for(run: Run, small_model: Path, image: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    outcome = run("segment", image, "--out", out, "--save", ",".join(OUTPUTS), "--model", small_model)
    assert outcome.code == 0
    assert {path.name for path in out.iterdir()} == {f"cells{one.suffix}" for one in OUTPUTS.values()}
    assert not leftovers(tmp_path)


def test_segment_again_replaces_results(run: Run, small_model: Path, image: Path) -> None:
    for diameter in ("15", "30"):
        assert run("segment", image.parent, "--diameter", diameter, "--model", small_model).code == 0
    assert len(list(image.parent.iterdir())) == 2
    with tifffile.TiffFile(image.with_name("cells_masks.tif")) as file:
        assert "30" in str(file.imagej_metadata)


@pytest.mark.parametrize(("enough", "estimates"), [(24, 3), (1, 1)])
def test_one_diameter_for_all_images(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, enough: int, estimates: int
) -> None:
    """Sizes are estimated first; a file that is no image is passed over then, and told of when its turn comes."""
    monkeypatch.setattr(segment, "_ENOUGH", enough)
    for seed in range(3):
        np.save(tmp_path / f"good{seed}.npy", generate("nuclei", (128, 128), diameter=22, seed=seed).image[0])
    (tmp_path / "bad.npy").write_bytes(b"no image")
    outcome = run("segment", tmp_path, "--diameter", "once", "--json", tmp_path / "all.json")
    assert outcome.code == 1
    records = json.loads((tmp_path / "all.json").read_text())
    used = {record["diameter"] for record in records if record["status"] == "done"}
    assert len(used) == 1 and 15 < used.pop() < 30
    assert f"the median of {estimates} estimates" in outcome.out.splitlines()[0]
    assert outcome.err.count("bad.npy") == 1


def test_json_holds_the_objects_and_how_they_were_made(run: Run, small_model: Path, image: Path) -> None:
    outcome = run("segment", image, "--diameter", "20", "--json", "-", "--model", small_model, "--tile", "128")
    assert outcome.code == 0
    (record,) = json.loads(outcome.out)
    assert outcome.err.count("\n") == 1, "the line for people goes to stderr"
    assert record["status"] == "done" and record["image"] == str(image)
    assert record["count"] == len(record["objects"]["label"]) == len(record["objects"]["area"])
    provenance = record["provenance"]
    assert provenance["options"]["tile"] == 128 and provenance["diameter_source"] == "given"
    assert provenance["models"][0]["sha256"] == load_weights(small_model).sha256
    assert set(provenance) >= {"program", "version", "engine", "precision", "engine_reason", "seconds"}


def test_quiet_is_quiet(run: Run, small_model: Path, image: Path, tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    outcome = run("segment", image, "--quiet", "--json", target, "--model", small_model)
    assert outcome == (0, "", "")
    assert json.loads(target.read_text())[0]["status"] == "done"


def test_several_models_are_averaged(run: Run, small_model: Path, image: Path) -> None:
    outcome = run("segment", image, "-m", small_model, "--model", small_model, "--json", "-")
    assert outcome.code == 0
    assert len(json.loads(outcome.out)[0]["provenance"]["models"]) == 2


def test_an_ensemble_is_a_model_and_those_numbered_after_it(
    run: Run, small_model: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELLBASIN_MODELS", str(tmp_path / "mine"))
    for name in ("tiny", "tiny-3"):
        assert run("models", "add", small_model, "--name", name).code == 0
    assert_one_line(run("segment", image, "-m", "tiny", "--ensemble"), "found no model tiny-2", "models add")
    assert run("models", "add", small_model, "--name", "tiny-2").code == 0
    outcome = run("segment", image, "-m", "tiny", "--ensemble", "--json", "-")
    assert len(json.loads(outcome.out)[0]["provenance"]["models"]) == 3


def test_options_reach_the_method(run: Run, small_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "cells.tif"
    tifffile.imwrite(path, generate("cytoplasm", (96, 96), seed=1).image, photometric="minisblack")
    arguments = ["--axes", "CYX", "--channels", "1,0", "--augment", "--min-size", "3", "--flow-threshold", "0"]
    outcome = run("segment", path, *arguments, "--json", "-", "--model", small_model)
    assert outcome.code == 0, outcome.err
    options = json.loads(outcome.out)[0]["provenance"]["options"]
    assert options["channels"] == [1, 0] and options["augment"] is True
    assert (options["min_size"], options["flow_threshold"], options["axes"]) == (3, 0.0, "CYX")


def test_every_option_of_the_library_is_a_flag(run: Run) -> None:
    """One definition: what `Options` has, the commands have, with the same defaults."""
    told = run("segment", "--help").out
    for name in Options().as_dict():
        assert f"--{name.replace('_', '-')}" in told
    assert options_from(None) == Options()
    for flags in (SegmentFlags, EvaluateFlags):
        made = next(part for part in flags.__origin__.__args__ if part is not type(None))
        assert options_from(made()) == Options()


def test_volumes(run: Run, small_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "volume.npy"
    np.save(path, generate_volume((6, 40, 50), diameter=12, anisotropy=2.0, seed=1).image[0])
    outcome = run(
        *("segment", path, "--model", small_model, "--axes", "ZYX", "--anisotropy", 2, "--diameter", 12),
        *("--direction-weights", "1,0.5,0.5", "--save", "labels,overlay,flows,table"),
        *("--json", tmp_path / "all.json"),
    )
    assert outcome.code == 0, outcome
    assert read_labels(tmp_path / "volume_masks.tif").shape == (6, 40, 50)
    record = json.loads((tmp_path / "all.json").read_text())[0]
    assert record["provenance"]["anisotropy"] == 2 and record["provenance"]["options"]["volume_mode"] == "flows"
    names = {"labels": "masks.tif", "overlay": "overlay.png", "sweep": "overlay.gif", "flows": "flows.tif"}
    names["table"] = "objects.csv"
    assert record["files"] == {key: str(tmp_path / f"volume_{name}") for key, name in names.items()}
    assert all(Path(path).is_file() for path in record["files"].values()) and "and 4 more" in outcome.out
    assert (tmp_path / "volume_objects.csv").read_text().startswith("label,area,centre_z,centre_y,centre_x,box_z0")


def test_folders_patterns_and_files_mix(run: Run, small_model: Path, tmp_path: Path) -> None:
    for name in ("a/1.npy", "a/2.npy", "b/3.npy", "b/4.npy"):
        save_image(tmp_path / name, size=64)
    outcome = run("segment", tmp_path / "a", tmp_path / "b" / "3*", tmp_path / "b" / "3.npy", "-m", small_model)
    assert outcome.code == 0
    assert [line.split(":")[0][-5:] for line in outcome.out.splitlines()] == ["1.npy", "2.npy", "3.npy"]


def test_the_shipped_model_finds_nuclei(run: Run, tmp_path: Path) -> None:
    sample = generate("nuclei", (256, 256), diameter=30, seed=4)
    np.save(tmp_path / "nuclei.npy", sample.image[0])
    assert run("segment", tmp_path / "nuclei.npy").code == 0
    assert average_precision(sample.labels, read_labels(tmp_path / "nuclei_masks.tif"))[0] > 0.6


def test_the_shipped_model_finds_nothing_in_nothing(run: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "flat.npy", np.full((256, 256), 100, np.uint8))
    assert run("segment", tmp_path / "flat.npy").code == 0
    assert read_labels(tmp_path / "flat_masks.tif").max() == 0


# evaluate, score, train


@pytest.fixture
def data_set(tmp_path: Path) -> Path:
    """Two sources with an index, eight training and five test images each."""
    folder = tmp_path / "data"
    lines = ["source,split,name,layout,group"]
    for source, kind in (("round", "nuclei"), ("two", "cytoplasm")):
        for number in range(13):
            split = "train" if number < 8 else "test"
            sample = generate(kind, (96, 96), diameter=20, seed=number)
            path = folder / source / split
            path.mkdir(parents=True, exist_ok=True)
            planes = sample.image if len(sample.image) == 1 else sample.image[[1, 0, 0]] // 256
            array = planes[0] if len(planes) == 1 else np.moveaxis(planes, 0, -1).astype(np.uint8)
            tifffile.imwrite(path / f"{number}.tif", array)
            labels = sample.labels.astype(np.uint16)
            labels[:4] = 65535
            tifffile.imwrite(path / f"{number}_masks.tif", labels)
            layout = "gray" if kind == "nuclei" else "nucleus-cytoplasm"
            lines.append(f"{source},{split},{number},{layout},group{number // 2}")
    (folder / "index.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_evaluate_prints_and_keeps_scores(run: Run, small_model: Path, data_set: Path, tmp_path: Path) -> None:
    files = ["--json", tmp_path / "scores.json", "--save", tmp_path / "found", "--log", tmp_path / "log.jsonl"]
    outcome = run("evaluate", data_set, "--model", small_model, *files)
    assert outcome.code == 0, outcome.err
    assert [line.split()[0] for line in outcome.out.splitlines()[:4]] == ["source", "round", "two", "all"]
    assert "mean over images" in outcome.out and "mean over sources" in outcome.out
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert len(scores["images"]) == 10 and set(scores["by_source"]) == {"round", "two"}
    assert scores["over_sources"][0]["low"] <= scores["over_sources"][0]["mean"]
    assert len(list((tmp_path / "found").rglob("*_masks.tif"))) == 10
    entry = json.loads((tmp_path / "log.jsonl").read_text())
    assert entry["models"][0]["sha256"] == load_weights(small_model).sha256
    assert entry["split"] == "test" and entry["date"].startswith("20") and len(entry["ap_over_images"]) == 3
    again = run("score", data_set, tmp_path / "found", "--json", "-")
    assert_one_line(again, "found no labels for 16 of 26")
    again = run("score", data_set / "round" / "test", tmp_path / "found" / "round" / "test", "--json", "-")
    assert again.code == 0, again.err
    mean = json.loads(again.out)["all"]["average_precision"]
    assert mean == pytest.approx(scores["by_source"]["round"]["average_precision"])


def test_evaluate_part_of_the_data(run: Run, small_model: Path, data_set: Path) -> None:
    def count(*arguments: str) -> int:
        outcome = run("evaluate", data_set, "--model", small_model, "--json", "-", "--diameter", "true", *arguments)
        assert outcome.code == 0, outcome.err
        return len(json.loads(outcome.out)["images"])

    assert count("--split", "test", "--source", "two") == 5
    assert count("--split", "all", "--limit", "3") == 6
    validation = count("--split", "validation", "--source", "round")
    assert 0 < validation < 4
    assert count("--split", "train", "--source", "round") == 8 - validation


def test_score_two_files(run: Run, tmp_path: Path) -> None:
    truth = np.zeros((20, 20), np.uint16)
    truth[2:8, 2:8], truth[10:18, 10:18], truth[0] = 7, 900, 65535
    found = np.where(truth == 7, 3, 0).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", truth)
    tifffile.imwrite(tmp_path / "b.tif", found)
    outcome = run("score", tmp_path / "a.tif", tmp_path / "b.tif", "--json", tmp_path / "s.json")
    assert outcome.code == 0 and "0.500" in outcome.out and outcome.out.count("\nall ") == 1
    summary = json.loads((tmp_path / "s.json").read_text())["all"]
    assert (summary["tp"][0], summary["fp"][0], summary["fn"][0]) == (1, 0, 1)
    plain = json.loads(
        run("score", tmp_path / "a.tif", tmp_path / "b.tif", "--json", "-", "--ignore-label", "none").out
    )
    assert plain["all"]["fn"][0] == 2


def test_score_of_a_yes_no_mask(run: Run, tmp_path: Path) -> None:
    mask = np.zeros((40, 40), np.uint8)
    mask[::10, ::10] = 255
    tifffile.imwrite(tmp_path / "labels.tif", split_pieces(mask).astype(np.uint8))
    tifffile.imwrite(tmp_path / "mask.tif", mask)
    for names in (["labels.tif", "mask.tif"], ["mask.tif", "labels.tif"]):
        assert_one_line(run("score", *(tmp_path / name for name in names)), "mask.tif", "255", "16", "number")


def test_score_of_images_of_different_size(run: Run, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.eye(20, dtype=np.uint8))
    tifffile.imwrite(tmp_path / "b.tif", np.eye(21, dtype=np.uint8))
    assert_one_line(run("score", tmp_path / "a.tif", tmp_path / "b.tif"), "20", "21", "b.tif")


def write_pairs(folder: Path, count: int, empty_channels: int = 0) -> Path:
    """Annotated images without an index, whose last channel is the only one that shows something."""
    folder.mkdir()
    for number in range(count):
        sample = generate("nuclei", (96, 96), diameter=20, seed=number)
        planes = np.stack([*[0 * sample.image[0]] * empty_channels, sample.image[0]])
        tifffile.imwrite(folder / f"{number}.tif", planes, metadata={"axes": "CYX"}, ome=False, imagej=True)
        tifffile.imwrite(folder / f"{number}_masks.tif", sample.labels.astype(np.uint16))
    return folder


@pytest.fixture
def short_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr("cellbasin.training.loop._NORM_BATCHES", 1)
    monkeypatch.setattr("cellbasin.training.generated.COUNT", 2)
    monkeypatch.setenv("CELLBASIN_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("short_training")
def test_train_a_little(run: Run, small_model: Path, data_set: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.safetensors"
    command = ["train", data_set, "--out", out, "--from", small_model, "--epochs", "1", "--exclude", "two"]
    outcome = run(*command)
    assert outcome.code == 0, outcome.err
    card = load_weights(out).card
    assert card.size_model and card.recipe["epochs"] == 1 and card.recipe["exclude"] == ["two"]
    assert "validation" in outcome.out and f"wrote {out}\n" in outcome.out
    assert "images of one source to learn from, and 2 generated ones" in outcome.out
    assert (tmp_path / "mine.log.jsonl").is_file()
    assert run("segment", data_set / "round" / "test" / "8.tif", "--model", out, "--out", tmp_path).code == 0


def test_training_goes_on_when_nobody_reads_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as broken:
        monkeypatch.setattr(sys, "stdout", broken)
        for _ in range(2):
            train._print_line({"step": 200, "crops": 3200, "seconds": 60.0, "validation_ap50": 0.5})


@pytest.mark.usefixtures("short_training")
def test_channels_that_no_index_tells_are_those_of_the_whole_training(
    run: Run, small_model: Path, tmp_path: Path
) -> None:
    """Also of the validation images, whose turn comes when the network has been trained."""
    folder = write_pairs(tmp_path / "pairs", 9, empty_channels=1)
    out = tmp_path / "mine.safetensors"
    words = ["--out", out, "--from", small_model, "--epochs", "1", "--validate-every", "0", "--channels", "1"]
    outcome = run("train", folder, *words)
    assert outcome.code == 0, outcome.err
    assert "float32" in load_weights(out).card.scores["validation"]
    assert outcome.out.endswith("segment with --channels 1\n")
    warning = "has learned from images of pairs"
    assert warning in run("evaluate", folder, "--model", out, "--channels", "1").out
    assert warning not in run("evaluate", folder, "--model", out, "--channels", "1", "--split", "validation").out
    assert warning not in run("evaluate", folder, "--model", small_model, "--channels", "1").out


@pytest.mark.usefixtures("short_training")
def test_a_few_images_prove_precisions_and_are_too_few_for_the_rest(
    run: Run, small_model: Path, tmp_path: Path
) -> None:
    folder = write_pairs(tmp_path / "pairs", 3)
    out = tmp_path / "mine.safetensors"
    outcome = run("train", folder, "--out", out, "--from", small_model, "--epochs", "1")
    assert outcome.code == 0, outcome.err
    for words in ("not validated", "no confidence, for which 200 objects", "for which 20 validation images"):
        assert words in outcome.out
    card = load_weights(out).card
    assert card.scores["validation"]["float32"].keys() == {"ap_at_0.5", "ap_at_0.75", "ap_at_0.9"}
    assert not card.confidence and not card.novelty


# models, doctor


def test_models_add_list_info_export(
    run: Run, small_model: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELLBASIN_MODELS", str(tmp_path / "mine"))
    assert run("models", "add", small_model, "--name", "tiny").code == 0
    assert "tiny" in run("models", "list").out
    listed = {record["name"]: record for record in json.loads(run("models", "list", "--json", "-").out)}
    assert listed["tiny"]["where"] == "added" and listed["tiny"]["licence"] == "CC0-1.0"
    told = run("models", "info", "tiny").out
    assert load_weights(small_model).sha256 in told and "CC0-1.0" in told
    assert run("segment", image, "--model", "tiny").code == 0
    shipped = run("models", "info", "general").out
    assert "\nancestors:\n  name general, sha256 " in shipped and "    float32: ap_at_0.5 0." in shipped
    assert "{" not in shipped
    copy = tmp_path / "copy.safetensors"
    assert run("models", "export", "tiny", copy).code == 0
    assert copy.read_bytes() == small_model.read_bytes()
    assert_one_line(run("models", "export", "tiny", copy), str(copy))
    assert_one_line(run("models", "add", small_model, "--name", "../x"), "../x", "--name")


def test_doctor(run: Run, small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELLBASIN_MODELS", str(tmp_path / "mine"))
    assert run("models", "add", small_model, "--name", "tiny").code == 0
    outcome = run("doctor")
    for word in ("processor", "threads", "openvino", "compiled code", "tiny", "because", "temporary", "formats: "):
        assert word in outcome.out
    findings = json.loads(run("doctor", "--json", "-").out)
    assert outcome.code == 0 and not [finding for finding in findings if finding["state"] == "problem"]


def test_doctor_survives_what_it_looks_for(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise OSError("no such\nprocessor")

    monkeypatch.setattr("cellbasin.engines.find_hardware", broken)
    outcome = run("doctor")
    assert outcome.code == 1 and "! system" in outcome.out and "no such processor" in outcome.out
