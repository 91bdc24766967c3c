"""Scores of data sets: what counts, over what it is averaged, which images and channels are taken."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cellbasin.datasets import channels_of, limit_per_source, pair_label_files, read_numbered, select_records
from cellbasin.evaluation import THRESHOLDS, Evaluation, ImageScore, evaluate, score_labels, validator
from cellbasin.image import Image
from cellbasin.io import ReadError, Record, read_index
from cellbasin.io.ome_zarr import write_zarr_labels
from cellbasin.labels import median_diameter
from cellbasin.options import Options
from cellbasin.training.folder import read_annotated, read_folder


def squares(*sides: int, size: int = 64) -> np.ndarray:
    """Labels: squares in a row, far enough apart."""
    labels = np.zeros((size, size), np.int32)
    left = 1
    for number, side in enumerate(sides, 1):
        labels[2 : 2 + side, left : left + side] = number
        left += side + 3
    return labels


class Oracle:
    """A model that gives back prepared labels and remembers what it was asked."""

    card = SimpleNamespace(diameter=30.0)

    def __init__(self, answers: list[np.ndarray]) -> None:
        self.answers, self.asked = iter(answers), []

    def segment(self, image: Image, options: Options, progress: Any = None) -> Any:
        self.asked.append(options)
        return SimpleNamespace(labels=next(self.answers), diameter=options.diameter or 20.0, provenance={})


@pytest.fixture
def records(tmp_path: Path) -> list[Record]:
    """Two images of squares of 10 and 20 px, and one without objects."""
    for name, labels in {"a": squares(10, 10), "b": squares(20, 20), "c": squares()}.items():
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(0).integers(0, 9, (64, 64), np.uint8))
        np.save(tmp_path / f"{name}_masks.npy", labels)
    return read_index(tmp_path)


def test_right_answers_score_one(records: list[Record]) -> None:
    model: Any = Oracle([squares(10, 10), squares(20, 20), squares()])
    found = evaluate(model, records)
    assert found.scores.average_precision.tolist() == [[1.0] * len(THRESHOLDS)] * 3
    assert found.summary()["tp"] == [4] * len(THRESHOLDS)
    assert [options.diameter for options in model.asked] == [None] * 3


def test_wrong_answers_are_counted(records: list[Record]) -> None:
    model: Any = Oracle([squares(10), squares(20, 20, 5), squares(5)])
    found = evaluate(model, records)
    assert [image.average_precision[0] for image in found.images] == [0.5, 2 / 3, 0.0]
    summary = found.summary()
    assert (summary["tp"][0], summary["fp"][0], summary["fn"][0]) == (3, 2, 1)
    assert found.at(0.5)[0].mean == pytest.approx((0.5 + 2 / 3) / 3)
    assert math.isnan(found.at(0.5)[1].mean), "no source has five images"


def test_true_diameters(records: list[Record]) -> None:
    model: Any = Oracle([squares(10, 10), squares(20, 20), squares()])
    found = evaluate(model, records, diameter="true")
    wanted = [median_diameter(squares(10)), median_diameter(squares(20)), 30.0]
    assert [options.diameter for options in model.asked] == pytest.approx(wanted)
    assert found.summary()["median_abs_log2_diameter"] == 0.0


def test_diameters_are_compared(records: list[Record]) -> None:
    model: Any = Oracle([squares(10, 10), squares(20, 20), squares()])
    ratios = [image.log2_ratio for image in evaluate(model, records).images]
    assert ratios[0] == pytest.approx(math.log2(20 / median_diameter(squares(10))))
    assert math.isnan(ratios[2])


def test_given_diameter_and_refused_words(records: list[Record]) -> None:
    model: Any = Oracle([squares()] * 3)
    evaluate(model, records, diameter=17.0)
    assert {options.diameter for options in model.asked} == {17.0}
    with pytest.raises(ValueError, match="true"):
        evaluate(model, records, diameter="guess")


def test_pixels_not_annotated_do_not_count() -> None:
    truth = squares(10, 10)
    truth[:, 30:] = 65535
    predicted = squares(10, 10)
    predicted[40:50, 40:50] = 9
    score = score_labels(truth, predicted)
    assert (score.tp[0], score.fp[0], score.fn[0]) == (2, 0, 0)
    assert score_labels(truth, predicted, ignore=None).fp[0] == 1
    assert score.true_diameter == pytest.approx(median_diameter(squares(10, 10)))


def test_label_numbers_do_not_matter() -> None:
    truth = squares(10, 12, 14)
    assert score_labels(truth, np.where(truth > 0, 1000 - 7 * truth, 0)).average_precision == (1.0,) * 10


def test_sources_of_five_images_count() -> None:
    def images(source: str, values: list[float]) -> list[ImageScore]:
        empty = (0,) * len(THRESHOLDS)
        return [
            ImageScore(source, str(i), (v,) * len(THRESHOLDS), empty, empty, empty, 1, 1) for i, v in enumerate(values)
        ]

    found = Evaluation((*images("many", [0.5] * 5), *images("few", [1.0] * 2)))
    over_images, over_sources = found.at(0.75)
    assert over_images.mean == pytest.approx(4.5 / 7) and over_sources.mean == 0.5
    assert found.as_dict()["by_source"]["few"]["average_precision"][0] == 1.0


@pytest.mark.parametrize(
    ("layout", "shape", "axes", "wanted"),
    [
        ("nucleus-cytoplasm", (9, 9, 3), "YXS", (1, 0)),
        ("nucleus-cytoplasm", (9, 9), "YX", None),
        ("rgb", (9, 9, 3), "YXS", None),
        ("gray", (9, 9), "YX", None),
        ("gray", (9, 9, 3), "YXS", (0,)),
        ("", (2, 9, 9), "CYX", (1,)),
    ],
)
def test_channels_by_layout(layout: str, shape: tuple[int, ...], axes: str, wanted: Any) -> None:
    record = Record("s", "test", "n", Path("n"), Path("n"), layout=layout)
    chosen = channels_of(record, Image(np.zeros(shape, np.uint8), axes), (1,))
    assert chosen == wanted


def test_limit_is_by_name_alone() -> None:
    records = [Record(source, "", str(i), Path("x"), Path("y")) for source in "ab" for i in range(20)]
    kept = limit_per_source(records, 3)
    assert [record.source for record in kept] == list("aaabbb")
    assert limit_per_source(reversed(records), 3)[::-1] == sorted(kept, key=lambda r: records.index(r))


def test_label_files_are_paired_by_name(tmp_path: Path) -> None:
    for name in ("truth/x/1_masks.png", "truth/x/1.png", "truth/2_masks.tif", "found/x/1_cp_masks.tif", "found/2.npy"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match="2"):
        pair_label_files(tmp_path / "truth", tmp_path / "found")
    (tmp_path / "found/2.npy").rename(tmp_path / "found/2_masks.npy")
    names = [
        (name, true.name, found.name) for name, true, found in pair_label_files(tmp_path / "truth", tmp_path / "found")
    ]
    assert names == [("2", "2_masks.tif", "2_masks.npy"), ("x/1", "1_masks.png", "1_cp_masks.tif")]
    for name in ("2.tif", "2_seg.npy", "x/1.tif", "x/1_seg.npy"):  # as Cellpose leaves them beside images
        path = tmp_path / "cellpose" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    pairs = pair_label_files(tmp_path / "truth", tmp_path / "cellpose")
    assert [(name, found.name) for name, _, found in pairs] == [("2", "2_seg.npy"), ("x/1", "1_seg.npy")]
    (tmp_path / "truth" / "2_masks.png").touch()
    with pytest.raises(ValueError, match="two label images"):
        pair_label_files(tmp_path / "truth", tmp_path / "found")


def test_label_images_as_ome_zarr_are_scored(tmp_path: Path) -> None:
    for name in ("a.zarr", "b.zarr"):
        write_zarr_labels(tmp_path / name, squares(5, 9))
    ((_, *files),) = pair_label_files(tmp_path / "a.zarr", tmp_path / "b.zarr")
    assert score_labels(*map(read_numbered, files)).tp[0] == 2


def test_labels_of_another_size_are_refused(records: list[Record]) -> None:
    np.save(records[0].masks, squares(5, size=40))
    with pytest.raises(ReadError, match="40"):
        evaluate(Oracle([]), records)  # type: ignore[arg-type]


def test_a_network_in_training_is_scored(records: list[Record]) -> None:
    pytest.importorskip("torch")
    from cellbasin.network import Network
    from cellbasin.weights import Architecture

    network = Network(Architecture(channels=(4, 8), stem=2, refine=0)).eval()
    scores = validator(records)(network)
    assert set(scores) == {"score", "ap50", "ap75", "ap90"} and 0 <= scores["score"] <= 1


# the reading side, for training


def test_validation_and_training_never_share_a_group(data_root: Path) -> None:
    train = select_records(data_root, "train", exclude=("sartorius",))
    held = select_records(data_root, "validation", exclude=("sartorius",))
    assert not {(r.source, r.group) for r in train} & {(r.source, r.group) for r in held}
    assert 0.05 < len(held) / (len(train) + len(held)) < 0.2
    assert {r.split for r in (*train, *held)} == {"train"}
    assert not [r for r in (*train, *held) if r.source == "sartorius"]
    assert select_records(data_root, "validation", sources=("dsb2018",)) == [r for r in held if r.source == "dsb2018"]


def test_annotated_images_have_their_layout(data_root: Path) -> None:
    readers = read_folder(data_root, "test")
    first = {r.source: number for number, r in reversed(list(enumerate(select_records(data_root, "test"))))}
    codex, gray = readers[first["codex"]](), readers[first["isbi2009"]]()
    assert codex.layout == "nucleus-cytoplasm" and codex.image.shape[0] == 3
    assert gray.layout == "gray" and gray.image.shape[0] == 1 and gray.labels.dtype == np.int32


def test_a_folder_of_pairs_is_training_data(records: list[Record], tmp_path: Path) -> None:
    np.save(records[1].image, np.zeros((2, 64, 64), np.uint8))
    annotated = read_annotated(records[0])
    assert annotated.layout == "gray" and annotated.image.shape == (1, 64, 64)
    np.save(records[1].image, np.zeros((64, 64, 3), np.uint8))
    assert read_annotated(records[1]).layout == "rgb"
    assert read_annotated(records[1], channels=(2, 0)).image.shape == (2, 64, 64)
    told = replace(records[1], layout="nucleus-cytoplasm")  # as when it is segmented: see `channels_of`
    assert read_annotated(told, channels=(0,)).layout == "nucleus-cytoplasm"
    with pytest.raises(ReadError, match="3 channels"):
        read_annotated(records[1], channels=(3,))
    assert read_annotated(replace(records[1], layout="gray")).image.shape == (1, 64, 64)
    assert len(read_folder(tmp_path, "train")) + len(select_records(tmp_path, "validation", validation=0.4)) >= 3
