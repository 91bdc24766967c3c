"""Finding images, pairs and data sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cellbasin.io import ReadError, find_images, find_pairs, read_image, read_index, read_labels


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_folder_in_natural_order_without_results_and_other_files(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "img10.tif",
        "img9.TIF",
        "IMG1.png",
        "b.jpeg",
        "a2b10.bmp",
        "a2b9.bmp",
        "x.npy",
        "y_size.tif",
        "inner/deep.tif",
    )
    touch(tmp_path, "y_size.npy", "y_train_losses.npy", "mine.log.png", "z.log.tif")
    touch(tmp_path, "._img9.tif", "notes.txt", "Thumbs.db", "img9_objects.csv", "index.csv")
    touch(tmp_path, "img9_masks.tif", "img9_cp_masks.png", "img9_overlay.png", "img9_flows.tif", "img9_seg.npy")
    touch(tmp_path, "img9_outlines.png", "img9_outlines_cp_masks.png", "img9_cellprob.tif", "img9_cp_output.png")
    expected = ["a2b9.bmp", "a2b10.bmp", "b.jpeg", "IMG1.png", "img9.TIF", "img10.tif", "x.npy", "y_size.tif"]
    expected.append("z.log.tif")  # somebody's logarithm, not what a training drew
    assert names(find_images([tmp_path])) == expected
    assert names(find_images([str(tmp_path)])) == expected


def test_patterns_files_and_duplicates(tmp_path: Path) -> None:
    touch(tmp_path, "a2.tif", "a10.tif", "b.tif", "a2_masks.tif", "deep/c.tif", "odd[1].tif")
    assert names(find_images([f"{tmp_path}/a*.tif"])) == ["a2.tif", "a10.tif"]
    assert names(find_images([tmp_path / "b.tif", f"{tmp_path}/*.tif"])) == [
        "b.tif",
        "a2.tif",
        "a10.tif",
        "odd[1].tif",
    ]
    assert "c.tif" in names(find_images([f"{tmp_path}/**/*.tif"]))
    assert names(find_images([tmp_path / "odd[1].tif"])) == ["odd[1].tif"]
    assert names(find_images([tmp_path / "b.tif", tmp_path / "." / "b.tif"])) == ["b.tif"]


def test_named_results_are_left_out_only_beside_their_image(tmp_path: Path) -> None:
    touch(tmp_path, "a.tif", "a_masks.tif", "b_masks.tif")
    assert names(find_images([tmp_path / "a.tif", tmp_path / "a_masks.tif", tmp_path / "b_masks.tif"])) == [
        "a.tif",
        "b_masks.tif",
    ]
    assert names(find_images([tmp_path / "a_masks.tif"])) == ["a_masks.tif"]


@pytest.mark.parametrize("what", ["missing.tif", "missing", "*.tif", "empty"])
def test_inputs_without_images_are_refused(tmp_path: Path, what: str) -> None:
    touch(tmp_path, "empty/notes.txt", "empty/a_masks.tif")
    with pytest.raises(ReadError) as caught:
        find_images([tmp_path / what])
    assert "\n" not in str(caught.value) and what in str(caught.value)


def test_names_that_the_system_refuses(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="cannot be read"):
        find_images([tmp_path / ("x" * 5000)])


def test_pairs(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "a.tif",
        "a_masks.tif",
        "b.png",
        "b_masks.png",
        "c_img.tif",
        "c_masks.tif",
        "d.jpg",
        "d_cp_masks.png",
    )
    pairs = find_pairs(tmp_path)
    assert [(image.name, masks.name) for image, masks in pairs] == [
        ("a.tif", "a_masks.tif"),
        ("b.png", "b_masks.png"),
        ("c_img.tif", "c_masks.tif"),
        ("d.jpg", "d_cp_masks.png"),
    ]
    touch(tmp_path, "lonely.tif")
    with pytest.raises(ReadError, match="1 of 5 images without labels"):
        find_pairs(tmp_path)


def test_endings_of_labels_are_taken_in_any_case(tmp_path: Path) -> None:
    touch(tmp_path, "a.TIF", "a_masks.TIF", "b.png", "b_masks.Png", "c.tif", "c_masks.npy")
    assert names([masks for _, masks in find_pairs(tmp_path)]) == ["a_masks.TIF", "b_masks.Png", "c_masks.npy"]
    (tmp_path / "set").mkdir()
    touch(tmp_path / "set", "s/train/a.TIF", "s/train/a_masks.TIF")
    (tmp_path / "set" / "index.csv").write_text("source,split,name\ns,train,a\n")
    assert read_index(tmp_path / "set")[0].masks.name == "a_masks.TIF"


def test_plain_folders_are_data_sets_too(tmp_path: Path) -> None:
    touch(tmp_path / "set", "a.tif", "a_masks.tif", "b.tif", "b_masks.tif")
    records = read_index(tmp_path / "set", "test")
    assert [(record.source, record.split, record.name) for record in records] == [
        ("set", "", "a"),
        ("set", "", "b"),
    ]
    assert records[0].diameter is None and records[0].layout == ""
    touch(tmp_path / "parts", "train/a.tif", "train/a_masks.tif", "test/b.tif", "test/b_masks.tif")
    assert [record.split for record in read_index(tmp_path / "parts")] == ["train", "test"]
    assert [record.name for record in read_index(tmp_path / "parts", "test")] == ["b"]


def test_index(tmp_path: Path) -> None:
    touch(tmp_path, "s/train/a.png", "s/train/a_masks.png", "s/test/b.jpg", "s/test/b_masks.png")
    header = "source,split,name,layout,group,median_diameter_px,objects,annotated"
    (tmp_path / "index.csv").write_text(f"\ufeff{header}\ns,train,a,gray,g1,10.5,7,0.5\ns,test,b,rgb,,,,\n", "utf-8")
    first, second = read_index(tmp_path)
    assert (first.diameter, first.objects, first.annotated, first.group) == (10.5, 7, 0.5, "g1")
    assert (second.diameter, second.objects, second.annotated, second.group) == (None, None, 1.0, "b")
    assert second.image == tmp_path / "s/test/b.jpg"
    assert read_index(tmp_path, "test") == [second]
    with pytest.raises(ReadError, match="found no line for split 'validation'"):
        read_index(tmp_path, "validation")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source,split,name\ns,train,missing\n", "line 2 names"),
        ("source,split,name\n", "found no lines"),
        ("file,labels\na,b\n", "no column source, split, name"),
        ("source,split,name,objects\ns,train,a,many\n", "'many' for objects"),
        ("source,split,name\ns,train\n", "line 2 is cut short"),
        ("source,split,name\ns\n", "line 2 is cut short"),
        ("source,split,name\ns,train,\n", "inside the data set"),
        ("source,split,name\ns/../s,train,a\n", "inside the data set"),
        ("source,split,name\n/s,train,a\n", "inside the data set"),
    ],
)
def test_broken_index_is_refused(tmp_path: Path, text: str, message: str) -> None:
    touch(tmp_path, "s/train/a.png", "s/train/a_masks.png")
    (tmp_path / "index.csv").write_text(text)
    with pytest.raises(ReadError, match=message) as caught:
        read_index(tmp_path)
    assert "\n" not in str(caught.value)


def test_missing_data_set(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="no such folder"):
        read_index(tmp_path / "nowhere")
    with pytest.raises(ReadError):
        read_index(tmp_path)


@pytest.mark.data
def test_annotated_images_beside_the_project(data_root: Path) -> None:
    records = read_index(data_root)
    assert len(records) > 1000 and {record.split for record in records} == {"train", "test"}
    for record in records[::60]:
        image, labels = read_image(record.image), read_labels(record.masks)
        assert labels.shape == image.spatial_shape
        assert image.axes == ("YX" if record.layout == "gray" else "YXS")
        if record.annotated == 1:
            assert len(np.unique(labels[labels > 0])) == record.objects
