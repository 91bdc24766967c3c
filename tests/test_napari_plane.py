"""napari's panel: the current plane only, and weights out of files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("napari", reason="needs the extra napari")

from cellpose_helpers import write_network
from cli_helpers import small_model
from napari.components import ViewerModel
from napari_helpers import MODEL, app, names, nuclei, panel, segment, viewer
from qtpy.QtWidgets import QFileDialog

from cellbasin.io import read_labels, read_seg
from cellbasin.model import load_model
from cellbasin.napari import writers
from cellbasin.napari.widget import SegmentWidget

__all__ = ["app", "panel", "small_model", "viewer"]  # fixtures


def planes(count: int = 3) -> np.ndarray:
    return np.stack([nuclei(seed=seed) for seed in range(1, count + 1)])


def test_the_plane_in_sight_is_an_image_and_its_cells_lie_there(panel: SegmentWidget, viewer: ViewerModel) -> None:
    stack = viewer.add_image(
        planes(), name="stack", axis_labels=("z", "y", "x"), scale=(3, 0.5, 0.5), translate=(7, 8, 9), rotate=(0, 0, 20)
    )
    panel.plane.setChecked(True)
    panel.maps["flows"].setChecked(True)
    viewer.dims.set_current_step(0, 2)
    segment(panel)
    assert names(viewer) == ["stack", "stack plane flows", "stack plane cells"]
    flows, cells = list(viewer.layers)[1:]
    wanted = MODEL.segment(stack.data[2]).labels
    np.testing.assert_array_equal(cells.data, wanted[None])
    assert flows.data.shape == (1, *wanted.shape, 3)
    for layer in (flows, cells):
        np.testing.assert_allclose(layer.data_to_world((0, 5, 11)), stack.data_to_world((2, 5, 11)))


def test_planes_replace_planes_and_not_the_cells_of_the_whole(panel: SegmentWidget, viewer: ViewerModel) -> None:
    film = viewer.add_image(planes(2), name="film", axis_labels=("t", "y", "x"))
    segment(panel)
    panel.plane.setChecked(True)
    for moment in (0, 1):
        viewer.dims.set_current_step(0, moment)
        segment(panel)
        assert names(viewer) == ["film", "film cells", "film plane cells"]
        np.testing.assert_array_equal(viewer.layers[-1].data[0], MODEL.segment(film.data[moment]).labels)
    panel.plane.setChecked(False)
    segment(panel)
    assert names(viewer) == ["film", "film plane cells", "film cells"]


def test_a_plane_of_a_volume_series_with_nuclei_of_another_layer(panel: SegmentWidget, viewer: ViewerModel) -> None:
    both = np.stack([planes(4), planes(4)[::-1]]).reshape(2, 2, 2, 96, 128)
    viewer.add_image(both[1], name="nuclei", axis_labels=tuple("tzyx"))
    viewer.add_image(both[0], name="cytoplasm", axis_labels=tuple("tzyx"))
    panel.nuclei.setCurrentIndex(panel.nuclei.findText("layer nuclei"))
    panel.plane.setChecked(True)
    viewer.dims.set_current_step((0, 1), (1, 0))
    segment(panel)
    wanted = MODEL.segment(both[:, 1, 0], "CYX", (0, 1)).labels
    np.testing.assert_array_equal(viewer.layers["cytoplasm plane cells"].data, wanted[None, None])


def test_cells_of_a_plane_are_saved_as_those_of_an_image(
    panel: SegmentWidget, viewer: ViewerModel, tmp_path: Path
) -> None:
    viewer.add_image(planes(2), name="stack", axis_labels=("z", "y", "x"))
    panel.plane.setChecked(True)
    segment(panel)
    data, told, _ = viewer.layers["stack plane cells"].as_layer_data_tuple()
    for name in ("a_masks.png", "a_seg.npy"):
        writers.write(str(tmp_path / name), data, told)
        np.testing.assert_array_equal(read_labels(tmp_path / name), data[0])
    flow = read_seg(tmp_path / "a_seg.npy").flow
    np.testing.assert_allclose(flow, told["metadata"]["cellbasin"]["flow"], atol=1e-5)


def test_an_image_has_no_planes_to_choose(panel: SegmentWidget, viewer: ViewerModel) -> None:
    panel.plane.setChecked(True)
    viewer.add_image(nuclei(), name="flat")
    assert not panel.plane.isEnabled()
    segment(panel)
    assert names(viewer) == ["flat", "flat cells"]


@pytest.mark.parametrize("shown", ["in 3D", "from the side"])
def test_where_no_plane_is_in_sight_it_says_so(shown: str, panel: SegmentWidget, viewer: ViewerModel) -> None:
    viewer.add_image(planes(), name="stack", axis_labels=("z", "y", "x"))
    panel.plane.setChecked(True)
    if shown == "in 3D":
        viewer.dims.ndisplay = 3
    else:
        viewer.dims.order = (1, 0, 2)
    segment(panel)
    assert "the window shows the axes Z" in panel.message.text() and names(viewer) == ["stack"]


def test_a_slider_beyond_the_layer_is_told(panel: SegmentWidget, viewer: ViewerModel) -> None:
    viewer.add_image(np.zeros((9, 96, 128)), name="longer", axis_labels=("z", "y", "x"))
    viewer.add_image(planes(), name="stack", axis_labels=("z", "y", "x"))
    panel.plane.setChecked(True)
    viewer.dims.set_current_step(0, 5)
    segment(panel)
    assert "shows the place 5 on the axis Z" in panel.message.text() and "from 0 to 2" in panel.message.text()


# ---- weights out of files


def ask_gives(monkeypatch: pytest.MonkeyPatch, path: Path | None) -> None:
    chosen = (str(path) if path else "", "")
    monkeypatch.setattr(QFileDialog, "getOpenFileName", staticmethod(lambda *_: chosen))


def test_a_weights_file_can_be_chosen(
    panel: SegmentWidget, viewer: ViewerModel, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = panel.model.list.count()
    ask_gives(monkeypatch, small_model)
    panel.model.button.click()
    panel.model.button.click()  # again: no second entry
    assert panel.model.list.count() == known + 1 and panel.model.list.currentText() == small_model.name
    ask_gives(monkeypatch, None)
    panel.model.button.click()
    assert panel.model.chosen() == str(small_model)
    viewer.add_image(nuclei(), name="a")
    segment(panel)
    made = viewer.layers["a cells"].metadata["cellbasin"]
    wanted = load_model(small_model).segment(nuclei())
    assert made["provenance"]["models"] == wanted.provenance["models"]
    np.testing.assert_array_equal(made["probability"], wanted.probability)


def test_a_file_of_cellposes_can_be_chosen_and_a_changed_one_is_read_again(
    panel: SegmentWidget, viewer: ViewerModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer.add_image(nuclei((64, 64)), name="a")
    panel.first.editors["diameter"].widget.setValue(30)
    used = []
    for channels in ((4, 8), (2, 3)):
        path = write_network(tmp_path / "their_model", channels)  # Cellpose's files have no ending
        ask_gives(monkeypatch, path)
        panel.model.button.click()
        segment(panel)
        used.append(viewer.layers["a cells"].metadata["cellbasin"]["provenance"]["models"])
    assert used[1] == load_model(path).segment(nuclei((64, 64)), diameter=30).provenance["models"] != used[0]


def test_a_file_that_holds_no_weights_is_told(
    panel: SegmentWidget, viewer: ViewerModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notes").write_text("nothing")
    ask_gives(monkeypatch, tmp_path / "notes")
    panel.model.button.click()
    viewer.add_image(nuclei(), name="a")
    segment(panel)
    assert str(tmp_path / "notes") in panel.message.text() and names(viewer) == ["a"]
