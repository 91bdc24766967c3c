"""napari's panel: whatever is segmented in it is what `Model.segment` gives, in the right place."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("napari", reason="needs the extra napari")

from napari.components import ViewerModel
from napari_helpers import MODEL, app, choose, names, nuclei, panel, raised, segment, until, viewer
from qtpy.QtWidgets import QApplication, QDockWidget

from cellbasin.generator import generate
from cellbasin.io import read_seg
from cellbasin.napari import samples, writers
from cellbasin.napari.form import OptionsForm
from cellbasin.napari.widget import SegmentWidget
from cellbasin.options import Options

__all__ = ["app", "panel", "raised", "viewer"]  # fixtures


def test_the_form_has_every_option_and_starts_with_its_default(panel: SegmentWidget, viewer: ViewerModel) -> None:
    viewer.add_image(nuclei())
    named = [*panel.first.editors, *panel.more.editors]
    assert sorted([*named, "axes", "channels"]) == sorted(item.name for item in fields(Options))
    assert panel.job().options == Options()


def test_values_of_the_form_arrive(app: QApplication) -> None:
    form = OptionsForm(["diameter", "augment", "min_size", "volume_mode", "direction_weights", "flow_threshold"])
    form.editors["diameter"].widget.setValue(33)
    form.editors["augment"].widget.setChecked(True)
    form.editors["min_size"].widget.setValue(7)
    form.editors["volume_mode"].widget.setCurrentText("stitch")
    form.editors["direction_weights"].widget.setText("1, 0.5, 0")
    form.editors["flow_threshold"].widget.setValue(0)
    assert form.values() == {
        "diameter": 33.0,
        "augment": True,
        "min_size": 7,
        "volume_mode": "stitch",
        "direction_weights": (1.0, 0.5, 0.0),
        "flow_threshold": 0.0,
    }


def test_labels_equal_those_of_the_model_and_lie_on_the_image(panel: SegmentWidget, viewer: ViewerModel) -> None:
    image = nuclei()
    viewer.add_image(image, name="plate", scale=(0.5, 0.25), translate=(3, 4), units=("um", "um"))
    for box in panel.maps.values():
        box.setChecked(True)
    segment(panel)
    assert names(viewer) == ["plate", "plate flows", "plate probability", "plate cells"]
    wanted = MODEL.segment(image)
    flows, probability, cells = list(viewer.layers)[1:]
    np.testing.assert_array_equal(cells.data, wanted.labels)
    np.testing.assert_array_equal(cells.features["index"], wanted.objects["label"])
    np.testing.assert_array_equal(cells.features["confidence"], wanted.objects["confidence"])
    np.testing.assert_array_equal(probability.data, wanted.probability)
    assert flows.rgb and flows.data.shape == (*image.shape, 3)
    for layer in (flows, probability, cells):
        np.testing.assert_array_equal(layer.scale, (0.5, 0.25))
        np.testing.assert_array_equal(layer.translate, (3, 4))
        assert layer.units == viewer.layers["plate"].units
    assert f"{len(wanted)} objects, diameter {wanted.diameter:.1f} px (estimated)" in panel.message.text()


def test_saving_cells_as_cellposes_file_keeps_the_networks_flow(
    panel: SegmentWidget, viewer: ViewerModel, tmp_path: Path
) -> None:
    image = nuclei((64, 64))
    viewer.add_image(image, name="a")
    segment(panel)
    data, told, _ = viewer.layers["a cells"].as_layer_data_tuple()
    writers.write(str(tmp_path / "a_seg.npy"), data, told)
    wanted, seg = MODEL.segment(image), read_seg(tmp_path / "a_seg.npy")
    np.testing.assert_allclose(seg.flow, wanted.flow, atol=1e-5)
    assert seg.diameter == pytest.approx(wanted.diameter)


def test_again_replaces_its_own_layers_and_no_others(panel: SegmentWidget, viewer: ViewerModel) -> None:
    viewer.add_image(nuclei(), name="a")
    segment(panel)
    first = viewer.layers["a cells"]
    viewer.add_labels(first.data.copy(), name="kept")
    first.visible = False
    panel.first.editors["diameter"].widget.setValue(40)
    segment(panel)
    assert names(viewer) == ["a", "kept", "a cells"]
    again = viewer.layers["a cells"]
    assert again is not first and not again.visible
    np.testing.assert_array_equal(again.data, MODEL.segment(nuclei(), diameter=40).labels)


def test_labels_that_were_edited_are_kept(panel: SegmentWidget, viewer: ViewerModel) -> None:
    viewer.add_image(nuclei(), name="a")
    segment(panel)
    mine = viewer.layers["a cells"]
    mine.paint((5, 5), 99)
    wanted = mine.data.copy()
    for _ in range(2):
        segment(panel)
        assert names(viewer) == ["a", "a cells", "a cells [1]"]
    np.testing.assert_array_equal(viewer.layers["a cells"].data, wanted)


def test_time_series_are_segmented_frame_by_frame(panel: SegmentWidget, viewer: ViewerModel) -> None:
    frames = np.stack([nuclei(seed=seed) for seed in (1, 2)])
    viewer.add_image(frames, name="film", axis_labels=("t", "y", "x"), scale=(5, 1, 1))
    panel.maps["flows"].setChecked(True)
    segment(panel)
    cells, found = viewer.layers["film cells"], [MODEL.segment(frame) for frame in frames]
    np.testing.assert_array_equal(cells.data[0], found[0].labels)
    np.testing.assert_array_equal(cells.data[1], np.where(found[1].labels > 0, found[1].labels + len(found[0]), 0))
    assert cells.features["index"].is_unique and cells.features["frame"].sum() == len(found[1])
    low, high = sorted(result.diameter for result in found)
    assert f"diameter {low:.1f} to {high:.1f} px" in panel.message.text()
    viewer.layers["film"].data = np.stack([frames[0]] * 2)
    segment(panel)
    assert f"diameter {found[0].diameter:.1f} px (estimated)" in panel.message.text()
    assert viewer.layers["film flows"].data.shape == (*frames.shape, 3)


def test_a_volume_is_segmented_in_3d_with_the_distance_of_its_planes(panel: SegmentWidget, viewer: ViewerModel) -> None:
    ((pixels, told, _),) = samples.volume()
    pixels = pixels[4:14, :48, :48]
    viewer.add_image(pixels, **told)
    panel.first.editors["diameter"].widget.setValue(20)
    panel.maps["flows"].setChecked(True)
    segment(panel)
    cells = viewer.layers[f"{told['name']} cells"]
    wanted = MODEL.segment(pixels, axes="ZYX", options=Options(anisotropy=2.0), diameter=20)
    np.testing.assert_array_equal(cells.data, wanted.labels)
    np.testing.assert_array_equal(cells.scale, told["scale"])
    assert "diameter 20.0 px (given), anisotropy 2 (voxel size), " in panel.message.text()
    assert viewer.layers[f"{told['name']} flows"].data.shape == (*pixels.shape, 3)


def test_channels_of_one_layer(panel: SegmentWidget, viewer: ViewerModel) -> None:
    image = generate("tissue", (96, 96), diameter=24, seed=3).image
    viewer.add_image(image, name="tissue", axis_labels=("c", "y", "x"), scale=(1, 2, 2))
    choose(panel.primary, "channel 1")
    choose(panel.nuclei, "channel 0")
    segment(panel)
    cells = viewer.layers["tissue cells"]
    np.testing.assert_array_equal(cells.data, MODEL.segment(image, "CYX", (1, 0)).labels)
    np.testing.assert_array_equal(cells.scale, (2, 2))


def test_nuclei_of_another_layer(panel: SegmentWidget, viewer: ViewerModel) -> None:
    image = generate("tissue", (96, 96), diameter=24, seed=3).image
    viewer.add_image(image[1], name="nuclei")
    viewer.add_image(np.zeros((50, 50)), name="another size")
    viewer.add_image(image[0], name="cytoplasm")
    assert panel.layer.currentText() == "cytoplasm"
    assert panel.nuclei.findText("layer another size") < 0
    choose(panel.nuclei, "layer nuclei")
    segment(panel)
    assert panel.nuclei.currentText() == "layer nuclei"  # stays chosen
    np.testing.assert_array_equal(viewer.layers["cytoplasm cells"].data, MODEL.segment(image, "CYX", (0, 1)).labels)


def test_the_selected_layer_is_the_one_that_is_segmented(panel: SegmentWidget, viewer: ViewerModel) -> None:
    one, two = viewer.add_image(nuclei(), name="one"), viewer.add_image(nuclei(), name="two")
    viewer.layers.selection.active = one
    assert panel.layer.currentText() == "one"
    viewer.layers.selection.active = two
    two.name = "renamed"
    assert panel.layer.currentText() == "renamed"
    viewer.layers.remove(two)
    assert panel.layer.currentText() == "one"


def test_colour_pictures_are_read_as_gray_or_by_one_colour(panel: SegmentWidget, viewer: ViewerModel) -> None:
    picture = np.stack([nuclei(seed=seed) // 256 for seed in (1, 2, 3)], axis=-1).astype(np.uint8)
    viewer.add_image(picture, name="photo", rgb=True)
    segment(panel)
    np.testing.assert_array_equal(viewer.layers["photo cells"].data, MODEL.segment(picture).labels)
    choose(panel.primary, "green")
    segment(panel)
    np.testing.assert_array_equal(viewer.layers["photo cells"].data, MODEL.segment(picture, channels=(1,)).labels)


def test_a_layer_may_get_other_pixels(panel: SegmentWidget, viewer: ViewerModel) -> None:
    layer = viewer.add_image(nuclei(), name="a")
    layer.data = np.stack([nuclei()] * 3, axis=-1)[..., :2]
    segment(panel)
    assert panel.axes.currentText() == "YXC (2 channels)" and names(viewer) == ["a", "a cells"], panel.message.text()
    layer.data = np.stack([nuclei()] * 3)
    segment(panel)
    assert "choose what they are" in panel.message.text()


def test_a_panel_opened_after_the_image_knows_its_axes(app: QApplication, viewer: ViewerModel) -> None:
    viewer.add_image(nuclei(), name="a")
    panel = SegmentWidget(viewer)
    segment(panel)
    assert names(viewer) == ["a", "a cells"], panel.message.text()


def test_panels_know_what_others_made(panel: SegmentWidget, viewer: ViewerModel) -> None:
    viewer.add_image(nuclei(), name="a")
    panel.maps["flows"].setChecked(True)
    panel.maps["probability"].setChecked(True)
    segment(panel)
    later = SegmentWidget(viewer)
    assert [later.layer.itemText(k) for k in range(later.layer.count())] == ["a"]
    segment(later)
    assert names(viewer) == ["a", "a cells"]


def test_closing_the_panel_cancels(app: QApplication, viewer: ViewerModel) -> None:
    viewer.add_image(nuclei((700, 700)), name="large")
    dock = QDockWidget()
    panel = SegmentWidget(viewer)
    dock.setWidget(panel)
    dock.show()
    panel.told.connect(lambda stage, part: panel.setParent(None))  # as napari does when the dock is closed for good
    panel.run.click()
    until(lambda: panel.run.isEnabled())
    assert panel.message.text() == "cancelled: no layers were added" and names(viewer) == ["large"]


def test_cancel_adds_nothing_and_the_button_can_be_used_again(
    panel: SegmentWidget, viewer: ViewerModel, raised: list[object]
) -> None:
    viewer.add_image(nuclei((700, 700)), name="large")
    panel.told.connect(lambda stage, part: panel.cancel.click())
    panel.run.click()
    assert not panel.run.isEnabled() and panel.cancel.isEnabled()
    until(lambda: panel.run.isEnabled())
    assert names(viewer) == ["large"] and panel.message.text() == "cancelled: no layers were added"
    assert not panel.cancel.isEnabled() and not raised
    panel.told.disconnect()
    segment(panel)
    assert names(viewer) == ["large", "large cells"]
