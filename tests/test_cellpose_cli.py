"""Cellpose's command line: what TrackMate, QuPath and CellProfiler send, and the files and lines that they read."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import roifile
import tifffile
from cellpose_helpers import cellpose, picture
from cli_helpers import Run, run, small_model
from PIL import Image as Pillow

from cellbasin.cellpose.arguments import make_parser, parse
from cellbasin.cellpose.files import places
from cellbasin.cellpose.images import chosen, list_images
from cellbasin.cellpose.networks import find_network
from cellbasin.image import Image
from cellbasin.io import ReadError, read_labels, read_outlines_text, read_rois
from cellbasin.outlines import trace_outlines

__all__ = ["cellpose", "run", "small_model"]  # fixtures


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two frames as TrackMate exports them, numbered."""
    for number in (0, 1):
        tifffile.imwrite(tmp_path / f"{number}.tif", picture(number))
    return tmp_path


def ours(run: Run, path: Path, out: Path, *flags: object) -> np.ndarray:
    """What `cellbasin segment` makes of an image."""
    assert run("segment", path, "--out", out, *flags).code == 0
    return read_labels(out / f"{path.stem}_masks.tif")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_trackmate(cellpose, run: Run, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:  # type: ignore[no-untyped-def]
    sent = f"--dir {folder} --chan 0 --use_gpu --diameter 20.0 --pretrained_model cyto2 --save_png --no_npy"
    answer = cellpose(*sent.split())
    assert answer.code == 0, answer.err
    assert "'cyto2'" in answer.err and "general" in answer.err
    assert names(folder) == {"0.tif", "1.tif", "0_cp_masks.png", "1_cp_masks.png"}
    for number in (0, 1):
        with Pillow.open(folder / f"{number}_cp_masks.png") as file:
            labels = np.asarray(file).astype(int)
        assert labels.shape == (96, 96) and labels.max() > 3
        assert np.array_equal(
            labels, ours(run, folder / f"{number}.tif", tmp_path_factory.mktemp("x"), "--diameter", 20)
        )


def test_trackmate_with_two_channels_and_automatic_diameter(cellpose, run: Run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    planes = np.stack([picture(1), picture(2), picture(3)])
    tifffile.imwrite(tmp_path / "0.tif", planes, imagej=True, metadata={"axes": "CYX"})
    sent = f"--dir {tmp_path} --chan 2 --chan2 3 --diameter 0 --pretrained_model cyto --save_png --no_npy"
    assert cellpose(*sent.split()).code == 0
    with Pillow.open(tmp_path / "0_cp_masks.png") as file:
        labels = np.asarray(file).astype(int)
    assert np.array_equal(labels, ours(run, tmp_path / "0.tif", tmp_path / "o", "--channels", "1,2"))


def test_qupath(cellpose, run: Run, folder: Path, small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> None:  # type: ignore[no-untyped-def]
    sent = (
        f"--dir {folder} --pretrained_model {small_model} --diameter 20.0 --cellprob_threshold -1.5 --flow_threshold 0"
    )
    answer = cellpose(*sent.split(), "--save_tif", "--no_npy", "--use_gpu", "--verbose")
    assert answer.code == 0, answer.err
    assert names(folder) == {"0.tif", "1.tif", "0_cp_masks.tif", "1_cp_masks.tif"}
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} \[INFO\] ", line) for line in answer.out.splitlines())
    assert ">>>> completed in" in answer.out
    probability = 1 / (1 + np.exp(1.5))
    expected = ours(
        run,
        folder / "1.tif",
        tmp_path_factory.mktemp("x"),
        *("--model", small_model, "--diameter", 20, "--probability-threshold", probability, "--flow-threshold", 0),
    )
    assert np.array_equal(tifffile.imread(folder / "1_cp_masks.tif"), expected)


def test_cellprofiler(cellpose, run: Run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    tifffile.imwrite(tmp_path / "3f2a.tiff", picture())
    sent = f"--verbose --dir {tmp_path} --pretrained_model nuclei --chan 0 --chan2 0 --diameter 20"
    rest = "--cellprob_threshold 0.0 --min_size 15 --anisotropy 1.0 --flow_threshold 0.4 --stitch_threshold 0.0"
    answer = cellpose(*sent.split(), *rest.split())
    assert answer.code == 0, answer.err
    content = np.load(tmp_path / "3f2a_seg.npy", allow_pickle=True).item()
    assert np.array_equal(content["masks"], ours(run, tmp_path / "3f2a.tiff", tmp_path / "o", "--diameter", 20))
    assert np.squeeze(content["flows"][1], axis=0).shape == (96, 96)


@pytest.mark.parametrize("stitch", [0.0, 0.3])
def test_volumes_of_cellprofiler_have_no_names_of_axes(cellpose, run: Run, tmp_path: Path, stitch: float) -> None:  # type: ignore[no-untyped-def]
    volume = np.stack([picture(size=48)] * 4)
    tifffile.imwrite(tmp_path / "3f2a.tiff", volume, photometric="minisblack")
    sent = f"--verbose --dir {tmp_path} --pretrained_model nuclei --chan 0 --chan2 0 --diameter 20 --do_3D"
    rest = f"--cellprob_threshold 0.0 --min_size 15 --anisotropy 1.0 --flow_threshold 0.4 --stitch_threshold {stitch}"
    answer = cellpose(*sent.split(), *rest.split())
    assert answer.code == 0 and ("--stitch_threshold has no effect" in answer.err) == (stitch > 0), answer.err
    flags = ("--axes", "ZYX", "--anisotropy", 1, "--diameter", 20)
    expected = ours(run, tmp_path / "3f2a.tiff", tmp_path / "o", *flags)
    assert np.array_equal(np.load(tmp_path / "3f2a_seg.npy", allow_pickle=True).item()["masks"], expected)


def test_every_file_that_can_be_asked_for(cellpose, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "images").mkdir()
    Pillow.fromarray((picture() / 256).astype(np.uint8)).save(tmp_path / "images" / "cells.png")
    files = ("--save_png", "--save_tif", "--save_txt", "--save_outlines", "--save_flows", "--save_rois", "--save_mpl")
    flags = ("--image_path", tmp_path / "images" / "cells.png", "--diameter", 20, *files)
    assert cellpose(*flags, "--exclude_on_edges").code == 0
    inside = tmp_path / "images"
    assert names(inside) == {
        "cells.png",
        "cells_seg.npy",
        "cells_rois.zip",
        "cells_cp_masks.png",
        "cells_cp_masks.tif",
        "cells_cp_outlines.txt",
        "cells_outlines_cp_masks.png",
        "cells_flows_cp_masks.tif",
        "cells_dP_cp_masks.tif",
        "cells_cp_output_cp_masks.png",
    }
    labels = tifffile.imread(inside / "cells_cp_masks.tif").astype(int)
    assert labels.max() > 1 and not labels[0].any() and not labels[:, -1].any()
    assert sorted(np.unique(labels)) == list(range(labels.max() + 1))
    order = np.array([0, *(outline.label for outline in trace_outlines(labels))])
    assert np.array_equal(order[read_outlines_text(inside / "cells_cp_outlines.txt", labels.shape)], labels)
    assert np.array_equal(read_rois(inside / "cells_rois.zip", labels.shape), labels)
    assert len(roifile.roiread(inside / "cells_rois.zip")) == labels.max()
    assert tifffile.imread(inside / "cells_dP_cp_masks.tif").shape == (2, 96, 96)
    assert tifffile.imread(inside / "cells_flows_cp_masks.tif").dtype == np.uint16
    red = np.asarray(Pillow.open(inside / "cells_outlines_cp_masks.png"))
    assert (red[labels == 0] != (255, 0, 0)).any(axis=-1).all()

    (tmp_path / "out").mkdir()
    assert cellpose(*flags, "--savedir", tmp_path / "out", "--output_name", "", "--in_folders", "--no_npy").code == 0
    assert names(tmp_path / "out") >= {"masks", "outlines", "txt_outlines", "flows"}
    assert names(tmp_path / "out" / "masks") == {"cells.png", "cells.tif"}


def test_fields_without_cells_have_their_file_too(cellpose, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    tifffile.imwrite(tmp_path / "0.tif", np.full((64, 64), 7, np.uint8))
    assert cellpose("--dir", tmp_path, "--diameter", "30", "--save_png", "--save_rois", "--save_txt").code == 0
    assert not np.asarray(Pillow.open(tmp_path / "0_cp_masks.png")).any()


def test_inverted_images(cellpose, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    bright = picture()
    for name, image, flags in (("a", bright, ()), ("b", bright.max() - bright, ("--invert",))):
        (tmp_path / name).mkdir()
        tifffile.imwrite(tmp_path / name / "0.tif", image)
        assert cellpose("--dir", tmp_path / name, "--diameter", "20", "--save_tif", "--no_npy", *flags).code == 0
    found = [tifffile.imread(tmp_path / name / "0_cp_masks.tif") for name in "ab"]
    assert found[0].max() > 3 and np.array_equal(*found)


def test_signed_numbers_are_inverted_without_overflow() -> None:
    wide = Image(np.array([[-30000, 30000], [0, 7]], np.int16), "YX")
    assert chosen(wide, 0, 0, invert=True)[0].array.tolist() == [[[60000, 0], [30000, 29993]]]


def test_images_whose_results_have_one_name(cellpose, folder: Path) -> None:  # type: ignore[no-untyped-def]
    np.save(folder / "0.npy", picture())
    answer = cellpose("--dir", folder, "--diameter", "20", "--save_png")
    assert answer.code == 2 and "0.npy" in answer.err and "0.tif" in answer.err
    assert names(folder) == {"0.npy", "0.tif", "1.tif"}


def test_axes_that_no_file_names_are_told_by_its_flags(cellpose, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    np.save(tmp_path / "0.npy", np.stack([picture()] * 2))
    flags = ("--image_path", tmp_path / "0.npy", "--chan", 1, "--diameter", 20, "--save_tif", "--no_npy")
    answer = cellpose(*flags)
    assert answer.code == 2 and "--channel_axis" in answer.err and "--axes" not in answer.err
    assert cellpose(*flags, "--channel_axis", 0).code == 0
    assert read_labels(tmp_path / "0_cp_masks.tif").shape == (96, 96)


def test_being_asked_to_end_is_heeded(cellpose, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    seen = []
    look = lambda given: seen.append(signal.getsignal(signal.SIGTERM)) or 0  # noqa: E731
    monkeypatch.setattr("cellbasin.cellpose._train_or_segment", look)
    assert cellpose("--dir", folder).code == 0 and seen != [signal.getsignal(signal.SIGTERM)]


@pytest.mark.parametrize("flags", [("--do_3D", "--anisotropy", "2"), ("--stitch_threshold", "0.3")])
def test_volumes(cellpose, run: Run, tmp_path: Path, flags: tuple[str, ...]) -> None:  # type: ignore[no-untyped-def]
    volume = np.stack([picture(size=48)] * 4)
    tifffile.imwrite(tmp_path / "v.tif", volume, imagej=True, metadata={"axes": "ZYX"})
    answer = cellpose("--dir", tmp_path, "--diameter", "20", "--save_tif", "--no_npy", "--save_rois", *flags)
    assert answer.code == 0 and "no files are written for --save_rois" in answer.err
    own = ("--anisotropy", 2) if "--do_3D" in flags else ("--volume-mode", "stitch", "--stitch-threshold", 0.3)
    expected = ours(run, tmp_path / "v.tif", tmp_path / "o", "--diameter", 20, *own)
    assert np.array_equal(tifffile.imread(tmp_path / "v_cp_masks.tif"), expected)
    answer = cellpose("--dir", tmp_path, "--img_filter", "v", "--diameter", "20", "--save_tif")
    assert answer.code == 2 and "--do_3D" in answer.err


def test_channels_by_number() -> None:
    gray, rgb = Image(np.arange(12.0).reshape(3, 4), "YX"), Image(np.zeros((3, 4, 3), np.uint8), "YXS")
    three = Image(np.arange(36.0).reshape(3, 3, 4), "CYX")
    assert chosen(gray, 0, 0, invert=False) == (gray, None) and chosen(rgb, 0, 0, invert=False) == (rgb, None)
    assert chosen(gray, 1, 0, invert=False)[1] == (0,) and chosen(rgb, 2, 3, invert=False)[1] == (1, 2)
    mean, channels = chosen(three, 0, 3, invert=False)
    assert channels == (0,) and np.array_equal(mean.array[0], three.array.mean(axis=0))
    with pytest.raises(ValueError, match="--chan2 2"):
        chosen(gray, 1, 2, invert=False)


def test_images_of_a_folder(tmp_path: Path) -> None:
    results = ("a_masks.tif", "a_cp_masks.png", "a_flows.tif", "x_seg.npy")
    for name in ("b10.tif", "b2.PNG", *results, "notes.txt", ".h.tif"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "c_img.tif").write_bytes(b"")

    def found(img_filter: str = "", *, down: bool = False) -> list[str]:
        return [path.name for path in list_images(str(tmp_path), img_filter, "_masks", one_level_down=down)]

    assert found() == ["b2.PNG", "b10.tif"]
    assert sorted(found(down=True)) == ["b10.tif", "b2.PNG", "c_img.tif"]
    assert found("_img", down=True) == ["c_img.tif"]
    with pytest.raises(ReadError, match="no image whose names end with _img"):
        found("_img")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--dir", "x", "--colour"], ["--colour"]),
        (["--dir", "x", "--diameter", "wide"], ["--diameter", "wide"]),
        (["--dir", "x", "--diameter", "-3"], ["--diameter"]),
        (["--dir", "x", "--chan", "4"], ["--chan 4"]),
        (["--dir", "x", "--restore_type", "denoise_cyto3"], ["--restore_type", "restored"]),
        (["--dir", "x", "--no_norm"], ["--no_norm"]),
        (["--dir", "x", "--transformer"], ["--transformer"]),
        (["--dir", "x", "--omni"], ["--omni"]),
        (["--dir", "x", "--norm_percentile", "3", "97"], ["3 97", "1 99"]),
        (["--dir", "x", "--norm_percentile", "low", "97"], ["--norm_percentile", "'low'"]),
        (["--dir", "x", "--image_path", "y"], ["one of them"]),
        (["--dir", "x", "--nclasses", "4"], ["--nclasses 4"]),
        (["--image_path", "nowhere.tif"], ["nowhere.tif"]),
        (["--dir", "nowhere"], ["nowhere"]),
        ([], ["--dir", "--image_path"]),
    ],
)
def test_bad_flags_are_one_line(cellpose, flags: list[str], words: list[str]) -> None:  # type: ignore[no-untyped-def]
    answer = cellpose(*flags)
    errors = [line for line in answer.err.splitlines() if "error:" in line]
    assert answer.code == 2 and len(errors) == 1 and "Traceback" not in answer.err
    for word in words:
        assert word in errors[0], (word, errors[0])


def test_unknown_networks_are_not_replaced(cellpose, folder: Path) -> None:  # type: ignore[no-untyped-def]
    answer = cellpose("--dir", folder, "--pretrained_model", "livecell_cp3", "--save_png")
    assert answer.code == 2 and "livecell_cp3" in answer.err and names(folder) == {"0.tif", "1.tif"}


def test_networks_in_cellposes_folder_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELLPOSE_LOCAL_MODELS_PATH", str(tmp_path))
    monkeypatch.setenv("CELLBASIN_MODELS", str(tmp_path / "none"))
    assert find_network("cyto2")[0] == "general" and "cyto2" in find_network("cyto2")[1]
    (tmp_path / "cyto2torch_0").write_bytes(b"x")
    (tmp_path / "mine").write_bytes(b"x")
    assert find_network("cyto2") == (tmp_path / "cyto2torch_0", "")
    assert find_network("mine") == (tmp_path / "mine", "")


def test_bad_image_does_not_stop_the_others(cellpose, folder: Path) -> None:  # type: ignore[no-untyped-def]
    (folder / "0.tif").write_bytes(b"II*\0 damaged")
    answer = cellpose("--dir", folder, "--diameter", "20", "--save_png", "--no_npy")
    assert answer.code == 1 and "0.tif" in answer.err and (folder / "1_cp_masks.png").is_file()


def test_flags_that_change_nothing_are_said(cellpose, folder: Path) -> None:  # type: ignore[no-untyped-def]
    (folder / "0.tif").unlink()
    answer = cellpose(
        "--dir", folder, "--diameter", "20", "--save_png", "--no_npy", "--no_interp", "--net_avg", "--niter", 500
    )
    assert answer.code == 0
    for flag in ("--no_interp", "--net_avg", "--niter"):
        assert f"{flag} has no effect" in answer.err


def test_names_of_results() -> None:
    def suffix(**changes: object) -> tuple[str, str]:
        given = {"savedir": None, "dir_above": False, "output_name": None, "in_folders": False} | changes
        where = places(Path("/data/run/a.tif"), Namespace(**given))
        return str(where.folder), where.suffix

    assert suffix() == ("/data/run", "_cp_masks")
    assert suffix(dir_above=True) == ("/data", "_cp_masks")
    assert suffix(output_name="_x") == ("/data/run", "_x")
    assert suffix(output_name="") == ("/data/run", "_cp_masks")  # else the image would be overwritten
    assert suffix(output_name="", savedir="/out") == ("/out", "")
    assert suffix(output_name="", savedir="/data/run") == ("/data/run", "_cp_masks")
    with pytest.raises(ValueError, match="expected the end of a name"):
        suffix(output_name="/../x")


def test_all_flags_of_version_3_are_known() -> None:
    """The list of its help; `python -m cellpose --help` in the environment of benchmarks/upstream.py shows the same."""
    flags = """version verbose Zstack use_gpu gpu_device check_mkl dir image_path look_one_level_down img_filter
        channel_axis z_axis chan chan2 invert all_channels pretrained_model restore_type chan2_restore add_model
        transformer pretrained_model_ortho no_resample no_interp no_norm norm_percentile do_3D diameter
        stitch_threshold min_size flow3D_smooth flow_threshold cellprob_threshold niter anisotropy exclude_on_edges
        augment save_png save_tif output_name no_npy savedir dir_above in_folders save_flows save_outlines save_rois
        save_txt save_mpl train train_size test_dir file_list mask_filter diam_mean learning_rate weight_decay
        n_epochs batch_size nimg_per_epoch nimg_test_per_epoch min_train_masks SGD save_every model_name_out"""
    known = {option.removeprefix("--") for action in make_parser()._actions for option in action.option_strings}
    assert set(flags.split()) <= known
    assert parse(["--dir", "x", "--mask_threshold", "-1"]).cellprob_threshold == -1


def test_module_and_help() -> None:
    answer = subprocess.run([sys.executable, "-m", "cellbasin.cellpose", "--help"], capture_output=True, text=True)
    assert answer.returncode == 0 and "Examples:" in answer.stdout and "--pretrained_model" in answer.stdout


def test_two_images_with_one_result(cellpose, folder: Path) -> None:  # type: ignore[no-untyped-def]
    np.save(folder / "1.npy", picture(2))
    before = names(folder)
    answer = cellpose("--dir", folder, "--save_png")
    assert answer.code == 2 and "1.npy" in answer.err and "1.tif would both be written to" in answer.err
    assert names(folder) == before


@pytest.mark.parametrize("flags", [("--output_name", "_b"), ("--savedir", "SAVE", "--output_name", "")])
def test_images_are_never_replaced_by_masks(cellpose, tmp_path: Path, flags: tuple[str, ...]) -> None:  # type: ignore[no-untyped-def]
    crops = tmp_path / "crops"
    crops.mkdir()
    for number, path in enumerate((crops / "a.png", crops / "a_b.png", tmp_path / "a.png")):
        Pillow.fromarray(picture(number)).save(path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
    words = [str(tmp_path) if flag == "SAVE" else flag for flag in flags]
    answer = cellpose("--dir", crops, "--save_png", "--no_npy", "--diameter", 20, *words)
    assert answer.code == 2 and "would replace" in answer.err and "--output_name" in answer.err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.png")} == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_full_disk_under_the_log_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "cellbasin.cellpose", "--version"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=300, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("cellbasin-cellpose: error: standard output cannot be written")
    assert done.stderr.count("\n") == 1
