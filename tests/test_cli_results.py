"""Results never replace images or other results, and are whole or not there, whatever ends the program."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from cli_helpers import Run, assert_one_line, image, leftovers, run, save_image, small_model
from PIL import Image as Pillow

from cellbasin.io import find_pairs, read_labels, write_labels

__all__ = ["image", "run", "small_model"]  # fixtures


@pytest.mark.parametrize("out", ["a file", "below a file", "/proc/cellbasin", "/proc"])
def test_output_folder_that_cannot_be_written(
    run: Run, image: Path, small_model: Path, tmp_path: Path, out: str
) -> None:
    (tmp_path / "taken").write_text("a file")
    folder = {"a file": tmp_path / "taken", "below a file": tmp_path / "taken" / "x"}.get(out, Path(out))
    assert_one_line(run("segment", image, "--out", folder, "--model", small_model), str(folder), "--out")


def test_json_that_cannot_be_written(run: Run, image: Path, small_model: Path, tmp_path: Path) -> None:
    target = tmp_path / "nowhere" / "a.json"
    assert_one_line(run("segment", image, "--json", target, "--model", small_model), str(target))
    assert not list(image.parent.glob("*_masks.tif"))  # it was found out before any work


def test_two_images_with_one_result(run: Run, small_model: Path, tmp_path: Path) -> None:
    first, second = save_image(tmp_path / "a" / "cells.npy"), save_image(tmp_path / "b" / "cells.npy", seed=2)
    outcome = run("segment", first, second, "--out", tmp_path / "out", "--model", small_model)
    assert_one_line(outcome, str(first), str(second), "cells_masks.tif")
    assert not (tmp_path / "out").exists()


def test_a_frame_and_an_image_with_one_result(run: Run, small_model: Path, tmp_path: Path) -> None:
    """Frames that were exported beside the film that they are from."""
    frame = np.load(save_image(tmp_path / "film_t2.npy"))
    tifffile.imwrite(tmp_path / "film.tif", np.stack([frame] * 3), imagej=True, metadata={"axes": "TYX"})
    outcome = run("segment", tmp_path, "--model", small_model)
    assert_one_line(outcome, "film.tif", "film_t2.npy", "film_t2_masks.tif", code=1)
    assert len(list(tmp_path.glob("*_masks.tif"))) == 3
    assert "film.tif" not in next(line for line in outcome.out.splitlines() if "film_t2_masks" in line)


def test_an_image_is_never_replaced(run: Run, small_model: Path, tmp_path: Path) -> None:
    image = save_image(tmp_path / "cells.npy")
    other = tmp_path / "out" / "cells_masks.tif"
    other.parent.mkdir()
    tifffile.imwrite(other, np.load(image))
    before = other.read_bytes()
    outcome = run("segment", image, other, "--out", tmp_path / "out", "--model", small_model)
    assert_one_line(outcome, str(other))
    assert other.read_bytes() == before


def test_labels_made_by_hand_are_never_replaced(run: Run, image: Path, small_model: Path) -> None:
    """A folder to train with is a folder of images, whose labels have the names of results."""
    labels = image.with_name("cells_masks.tif")
    tifffile.imwrite(labels, np.eye(96, dtype=np.uint16))
    drawn = {"masks": np.eye(96, dtype=np.uint16), "ismanual": np.ones(1, bool)}
    np.save(image.with_name("cells_seg.npy"), np.array(drawn, object), allow_pickle=True)
    for what, name in (("labels", "cells_masks.tif"), ("seg", "cells_seg.npy")):
        before = image.with_name(name).read_bytes()
        assert_one_line(run("segment", image, "--save", what, "--model", small_model), name, "--out")
        assert image.with_name(name).read_bytes() == before
        image.with_name(name).unlink()
    for _ in range(2):  # our own are replaced
        assert run("segment", image, "--save", "labels,seg", "--model", small_model).code == 0
    corrected = labels.read_bytes().replace(b"ImageJ=1.11a", b"ImageJ=1.54f")  # Fiji keeps our note where it saves
    labels.write_bytes(corrected)
    assert_one_line(run("segment", image, "--model", small_model), "cells_masks.tif", "--out")
    assert labels.read_bytes() == corrected
    volume = {"masks": np.eye(96, dtype=np.uint16)[None], "zdraw": [-1, [1, 2]]}
    changed = {
        "masks": np.eye(96, dtype=np.uint16),
        "ismanual": [False],
        "manual_changes": [["now", "removed mask", [2]]],
    }
    for content in (volume, changed):
        np.save(image.with_name("cells_seg.npy"), np.array(content, object), allow_pickle=True)
        assert_one_line(run("segment", image, "--save", "seg", "--model", small_model), "cells_seg.npy", "--out")
    write_labels(labels, np.eye(96, dtype=np.int32), provenance={"saved_by": "napari"})
    assert_one_line(run("segment", image, "--model", small_model), "cells_masks.tif", "--out")


@pytest.mark.parametrize("name", ["cells.npy", "cells_masks.tif"])
def test_json_never_replaces_an_image_or_result(run: Run, image: Path, small_model: Path, name: str) -> None:
    before = image.read_bytes()
    outcome = run("segment", image, "--json", image.with_name(name), "--model", small_model)
    assert_one_line(outcome, name)
    assert image.read_bytes() == before


def test_json_goes_into_the_folder_of_the_results(run: Run, image: Path, small_model: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / "all.json"
    outcome = run("segment", image, "--out", target.parent, "--json", target, "--model", small_model)
    assert outcome.code == 0 and json.loads(target.read_text())[0]["status"] == "done"


def test_evaluate_never_replaces_annotated_images(run: Run, image: Path, small_model: Path) -> None:
    folder, labels = image.parent, image.with_name("cells_masks.tif")
    tifffile.imwrite(labels, np.eye(96, dtype=np.uint16))
    before = labels.read_bytes()
    assert_one_line(run("evaluate", folder, "--model", small_model, "--save", folder.parent), "--save")
    for flag in ("--json", "--log"):
        assert_one_line(run("evaluate", folder, "--model", small_model, flag, labels), str(labels))
        assert_one_line(run("evaluate", folder, "--model", small_model, flag, folder / "no" / "a.json"), "no folder")
    assert_one_line(run("score", labels, labels, "--json", labels), str(labels))
    assert labels.read_bytes() == before


def test_disk_full(run: Run, small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first image fits; half of the second's labels too."""
    for seed, name in enumerate("abc"):
        save_image(tmp_path / f"{name}.npy", seed)
    write, calls = tifffile.imwrite, []

    def full(path: Path, *arguments: Any, **options: Any) -> None:
        calls.append(path)
        if len(calls) == 1:
            write(path, *arguments, **options)
            return
        Path(path).write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("cellbasin.io.write.tifffile.imwrite", full)
    outcome = run("segment", tmp_path, "--model", small_model)
    assert outcome.code == 1
    assert "No space left" in outcome.err and "Traceback" not in outcome.err
    assert "stopped" in outcome.err.splitlines()[-1]
    assert [path.name for path in tmp_path.glob("*_masks.tif")] == ["a_masks.tif"]
    assert read_labels(tmp_path / "a_masks.tif").shape == (96, 96)
    assert len(calls) == 2 and not leftovers(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_stopped_in_the_middle(small_model: Path, tmp_path: Path, name: str) -> None:
    number = getattr(signal, name)
    count = 150
    first = save_image(tmp_path / "0.npy", size=160)
    for copy in range(1, count):
        shutil.copyfile(first, tmp_path / f"{copy}.npy")
    command = [sys.executable, "-m", "cellbasin", "segment", tmp_path, "--model", small_model]
    with subprocess.Popen(
        [*map(str, command), "--save", "labels,overlay"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # a background job ignores Ctrl-C, nohup a hang-up
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        lines = [process.stdout.readline() for _ in range(3)]
        process.send_signal(number)
        out, err = process.stdout.read(), process.stderr.read()
        assert process.wait(60) == 128 + number, err
    lines += out.splitlines()
    assert "Traceback" not in err
    if number == signal.SIGINT:
        assert err.count("\n") == 1 and err.startswith("cellbasin: interrupted"), err
    masks = list(tmp_path.glob("*_masks.tif"))
    assert 3 <= len(lines) <= len(masks) < count
    assert all(read_labels(path).shape == (160, 160) for path in masks)
    for path in tmp_path.glob("*_overlay.png"):
        with Pillow.open(path) as picture:
            picture.load()
    assert not leftovers(tmp_path)


def _in_shell(tail: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """What the shell makes of a command and a tail such as `> file`."""
    command = " ".join(f"'{word}'" for word in (sys.executable, "-m", "cellbasin", *arguments))
    return subprocess.run(f"{command} {tail}", shell=True, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_full_disk_under_the_output_spoils_no_results(small_model: Path, tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        save_image(tmp_path / f"{name}.npy", seed)
    target = tmp_path / "all.json"
    done = _in_shell("> /dev/full", "segment", tmp_path, "--model", small_model, "--json", target)
    assert done.returncode == 1
    assert done.stderr.startswith("cellbasin: error: standard output") and done.stderr.count("\n") == 1, done.stderr
    assert {record["status"] for record in json.loads(target.read_text())} == {"done"}
    masks = tmp_path / "a_masks.tif"
    assert read_labels(masks).shape == read_labels(tmp_path / "b_masks.tif").shape == (96, 96)

    scores = tmp_path / "scores.json"
    for command in (["score", masks, masks, "--json", scores], ["models", "list"]):
        done = _in_shell("> /dev/full", *command)
        assert done.returncode == 2
        assert done.stderr.startswith("cellbasin: error: standard output") and done.stderr.count("\n") == 1, done.stderr
    assert json.loads(scores.read_text())["all"]["images"] == 1  # written before anything was printed


@pytest.mark.skipif(sys.platform == "win32", reason="needs head")
def test_a_reader_that_has_enough_does_not_end_the_work(small_model: Path, tmp_path: Path) -> None:
    for seed, name in enumerate("abc"):
        save_image(tmp_path / f"{name}.npy", seed)
    done = _in_shell("| head -1", "segment", tmp_path, "--model", small_model)
    assert done.stderr == "" and done.stdout.count("\n") == 1
    assert len(list(tmp_path.glob("*_masks.tif"))) == 3


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell that closes streams")
def test_closed_streams_are_no_error(image: Path, small_model: Path) -> None:
    """As a service, or a window without a console, starts programs."""
    assert _in_shell(">&- 2>&-", "segment", image, "--model", small_model).returncode == 0
    assert image.with_name("cells_masks.tif").is_file()


@pytest.mark.parametrize("what", ["a folder", "a pipe", "in /proc", "an animation"])
def test_json_that_cannot_be_is_refused_before_any_work(
    run: Run, image: Path, small_model: Path, tmp_path: Path, what: str
) -> None:
    places = {"a folder": tmp_path, "a pipe": tmp_path / "pipe", "in /proc": Path("/proc/a.json")}
    target = places.get(what, image.with_name("cells_overlay.gif"))
    if what == "a pipe":
        os.mkfifo(target)
    elif what == "in /proc" and not target.parent.is_dir():
        pytest.skip("needs a folder that nobody can write in")
    outcome = run("segment", image, "--save", "labels,overlay", "--json", target, "--model", small_model)
    assert_one_line(outcome, str(target if what != "in /proc" else target.parent))
    assert list(image.parent.iterdir()) == [image]
    assert what != "a pipe" or target.is_fifo()


def test_evaluate_finds_out_at_once_what_cannot_be_written(run: Run, image: Path, small_model: Path) -> None:
    folder = image.parent
    tifffile.imwrite(folder / "cells_masks.tif", np.eye(96, dtype=np.uint16))
    taken = folder.parent / "taken"
    taken.write_text("a file")
    command = ["evaluate", folder, "--model", small_model]
    assert_one_line(run(*command, "--save", taken), str(taken), "--save")
    assert_one_line(run(*command, "--log", folder), str(folder))
    shutil.copyfile(image, image.with_name("cells.NPY"))
    twice = run(*command, "--save", folder.parent / "found")
    assert_one_line(twice, "cells.npy", "cells.NPY", "cells_masks.tif")
    image.with_name("cells.NPY").unlink()
    both = folder.parent / "both.json"
    assert_one_line(run(*command, "--log", both, "--json", both), str(both), "--log")
    assert not both.exists()


def test_what_needs_a_package_is_refused_before_any_work(
    run: Run, image: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    outcome = run("segment", image, "--save", "labels,parquet", "--model", small_model)
    assert_one_line(outcome, "parquet", "pyarrow", "pip install 'cellbasin[formats]'")
    assert list(image.parent.iterdir()) == [image]


def test_axes_of_a_film_and_of_an_image_with_an_axis_of_one(run: Run, small_model: Path, tmp_path: Path) -> None:
    frame = np.load(save_image(tmp_path / "a.npy"))
    tifffile.imwrite(tmp_path / "film.tif", np.stack([frame] * 3), photometric="minisblack")
    np.save(tmp_path / "odd.npy", frame[None, None])
    for name, axes, count in (("film.tif", "TYX", 3), ("odd.npy", "ZCYX", 1)):
        for diameter in (20, "once"):
            outcome = run(
                *("segment", tmp_path / name, "--axes", axes, "--diameter", diameter),
                *("--model", small_model, "--out", tmp_path / axes),
            )
            assert outcome.code == 0, outcome.err
            assert ("diameter for all images" in outcome.out + outcome.err) == (diameter == "once")
        assert len(list((tmp_path / axes).glob("*_masks.tif"))) == count


def test_json_goes_into_no_file_of_another_kind(run: Run, image: Path, small_model: Path) -> None:
    other = image.with_name("other.tif")
    tifffile.imwrite(other, np.eye(9, dtype=np.uint8))
    before = other.read_bytes(), small_model.read_bytes()
    for words in (
        ("segment", image, "--model", small_model, "--json", other),
        ("models", "list", "--json", other),
        ("models", "info", small_model, "--json", small_model),
        ("doctor", "--json", other),
        ("score", other, other, "--json", other),
    ):
        assert_one_line(run(*words), "expected a new")
    assert (other.read_bytes(), small_model.read_bytes()) == before
    log = image.with_name("log.json")
    for _ in range(2):
        assert run("models", "list", "--json", log).code == 0


def test_results_of_frames_are_no_images_the_next_time(run: Run, small_model: Path, tmp_path: Path) -> None:
    frame = np.load(save_image(tmp_path / "one" / "a.npy"))
    tifffile.imwrite(tmp_path / "film.tif", np.stack([frame] * 2), imagej=True, metadata={"axes": "TYX"})
    for _ in range(2):
        words = ["segment", *sorted(tmp_path.glob("*.tif")), "--model", small_model, "--diameter", 20]
        assert run(*words).code == 0
    assert len(list(tmp_path.glob("*.tif"))) == 3


def test_own_results_are_not_taken_for_the_annotation(run: Run, small_model: Path, tmp_path: Path) -> None:
    image = save_image(tmp_path / "cells.npy")
    Pillow.fromarray(np.eye(96, dtype=np.uint8)).save(tmp_path / "cells_masks.png")
    assert run("segment", image, "--model", small_model).code == 0
    assert (tmp_path / "cells_masks.tif").is_file()
    assert [labels.name for _, labels in find_pairs(tmp_path)] == ["cells_masks.png"]
    (tmp_path / "cells_masks.png").unlink()
    assert [labels.name for _, labels in find_pairs(tmp_path)] == ["cells_masks.tif"]


def test_annotated_images_whose_axes_no_file_names_can_be_scored(run: Run, small_model: Path, tmp_path: Path) -> None:
    frame = np.load(save_image(tmp_path / "a.npy"))
    (tmp_path / "a.npy").unlink()
    tifffile.imwrite(tmp_path / "b.tif", np.stack([frame] * 2), photometric="minisblack")
    tifffile.imwrite(tmp_path / "b_masks.tif", np.eye(96, dtype=np.uint16))
    words = ("evaluate", tmp_path, "--model", small_model, "--channels", 0, "--diameter", 20)
    assert_one_line(run(*words), "--axes CYX")
    assert run(*words, "--axes", "CYX").code == 0
