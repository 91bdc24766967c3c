"""napari's plugin: the manifest, every contribution in it, and the panels in real (offscreen) Qt windows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
pytest.importorskip("napari", reason="needs the extra napari")

import npe2
from napari.components import ViewerModel
from napari.layers import Image, Labels, Layer
from napari.utils._proxies import PublicOnlyProxy
from npe2 import PluginManager
from qtpy.QtWidgets import QApplication

from cellbasin.generator import generate
from cellbasin.io import read_outlines_text, read_rois, read_seg
from cellbasin.io.ome_zarr import write_zarr_labels
from cellbasin.model import load_model
from cellbasin.napari import readers, samples, writers
from cellbasin.napari.confidence import ConfidenceWidget, delete_hidden
from cellbasin.napari.form import OptionsForm
from cellbasin.napari.source import layer_readings, source_of, voxel_size_of
from cellbasin.napari.widget import SegmentWidget
from cellbasin.options import Options

MODEL = load_model()


@pytest.fixture(scope="session")
def app() -> QApplication:
    return QApplication.instance() or QApplication([])


@pytest.fixture
def viewer() -> ViewerModel:
    return ViewerModel()


@pytest.fixture
def panel(app: QApplication, viewer: ViewerModel) -> Iterator[SegmentWidget]:
    widget = SegmentWidget(PublicOnlyProxy(viewer))  # as napari gives it to plugins
    widget.show()
    yield widget
    widget.stop()
    until(lambda: widget._worker is None)
    widget.close()


def until(done: Callable[[], bool], seconds: float = 30) -> None:
    """Let Qt work until it is done."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "not done in time"
        QApplication.processEvents()
        time.sleep(0.002)


def segment(panel: SegmentWidget) -> None:
    panel.run.click()
    until(lambda: panel.run.isEnabled())


def nuclei(shape: tuple[int, int] = (96, 128), seed: int = 1) -> np.ndarray:
    return generate("nuclei", shape, diameter=22, density=0.3, seed=seed).image[0]


def names(viewer: ViewerModel) -> list[str]:
    return [layer.name for layer in viewer.layers]


def choose(combo: Any, text: str) -> None:
    place = combo.findText(text)
    assert place >= 0, [combo.itemText(k) for k in range(combo.count())]
    combo.setCurrentIndex(place)


# ---- the manifest


@pytest.fixture(scope="module")
def plugins() -> PluginManager:
    """npe2's own, which knows the installed package by its entry point."""
    manager = PluginManager.instance()
    manager.discover()
    return manager


def test_every_command_of_the_manifest_is_there(plugins: PluginManager) -> None:
    manifest = plugins.get_manifest("cellbasin")
    for command in manifest.contributions.commands:
        assert callable(plugins.commands.get(command.id))
    used = [*manifest.contributions.widgets, *manifest.contributions.readers, *manifest.contributions.writers]
    assert {one.command for one in [*used, *manifest.contributions.sample_data]} == {
        command.id for command in manifest.contributions.commands
    }


def test_every_sample_becomes_layers_whose_axes_are_known(plugins: PluginManager) -> None:
    for sample in plugins.get_manifest("cellbasin").contributions.sample_data:
        made = [Layer.create(*data) for data in plugins.commands.execute(sample.command)]
        assert made and all(isinstance(layer, Image) and len(layer_readings(layer)) == 1 for layer in made)


def test_neither_the_package_nor_readers_and_writers_import_qt() -> None:
    code = (
        "import sys, cellbasin, cellbasin.napari.readers, cellbasin.napari.writers, cellbasin.napari.samples;"
        "print([m for m in ('napari', 'qtpy', 'superqt', 'PySide6', 'openvino') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---- files


def opened(plugins: PluginManager, path: Path) -> list[Layer]:
    """The layers that napari makes of a file with our reader."""
    return [Layer.create(*data) for data in npe2.read([str(path)], stack=False, plugin_name="cellbasin")]


def saved(plugins: PluginManager, path: Path, layer: Labels) -> Path:
    """The file that napari writes of a labels layer with our writer for that ending."""
    (written,) = npe2.write(str(path), [layer.as_layer_data_tuple()], plugin_name="cellbasin")
    return Path(written)


@pytest.fixture(scope="module")
def cells() -> Labels:
    labels = generate("nuclei", (60, 80), diameter=16, density=0.3, seed=4).labels
    numbers = np.arange(1, labels.max() + 1)
    features = {"index": numbers, "area": np.bincount(labels.ravel())[1:], "confidence": numbers / len(numbers)}
    return Labels(labels, name="cells", scale=(0.5, 0.25), units=("um", "um"), features=features)


@pytest.mark.parametrize("name", ["a_masks.tif", "a_masks.png", "a_seg.npy", "a_masks.zarr"])
def test_labels_are_written_and_read_back(name: str, plugins: PluginManager, cells: Labels, tmp_path: Path) -> None:
    path = saved(plugins, tmp_path / name, cells)
    layer = opened(plugins, path)[-1]
    assert isinstance(layer, Labels)
    np.testing.assert_array_equal(layer.data, cells.data)
    if name.endswith((".tif", ".zarr")):
        assert voxel_size_of(layer.scale, layer.units) == pytest.approx((0.5, 0.25))


def test_other_files_hold_the_same_objects(plugins: PluginManager, cells: Labels, tmp_path: Path) -> None:
    wanted = cells.data
    np.testing.assert_array_equal(read_rois(saved(plugins, tmp_path / "a.zip", cells), wanted.shape), wanted)
    outlines = read_outlines_text(saved(plugins, tmp_path / "a.txt", cells), wanted.shape)
    np.testing.assert_array_equal(outlines > 0, wanted > 0)
    polygons = json.loads(saved(plugins, tmp_path / "a.geojson", cells).read_text())
    annotations = json.loads(saved(plugins, tmp_path / "a.json", cells).read_text())["annotations"]
    assert len(polygons["features"]) == len(annotations) == wanted.max()
    assert annotations[-1]["score"] == 1.0
    rows = saved(plugins, tmp_path / "a.csv", cells).read_text().splitlines()
    assert rows[0] == "label,area,confidence" and len(rows) == wanted.max() + 1


def test_a_table_tells_what_is_there_after_drawing(plugins: PluginManager, cells: Labels, tmp_path: Path) -> None:
    drawn = Labels(cells.data.copy(), features=cells.features)
    drawn.data[drawn.data == 1] = 0
    drawn.data[:3, :3] = 99
    rows = saved(plugins, tmp_path / "a.csv", drawn).read_text().splitlines()
    assert rows[1].startswith("2,") and rows[-1] == "99,9,"


def test_cellposes_name_is_kept_to_and_other_files_are_not_replaced(cells: Labels, tmp_path: Path) -> None:
    data, told, _ = cells.as_layer_data_tuple()
    assert writers.write(str(tmp_path / "a.npy"), data, told) == [str(tmp_path / "a_seg.npy")]
    with pytest.raises(OSError, match="found a file there"):
        writers.write(str(tmp_path / "a.npy"), data, told)
    assert read_seg(tmp_path / "a_seg.npy").flow is not None


def test_layers_that_cannot_be_written_are_refused(cells: Labels, tmp_path: Path) -> None:
    _, told, _ = cells.as_layer_data_tuple()
    with pytest.raises(ValueError, match="expected two or three"):
        writers.write(str(tmp_path / "a.tif"), np.zeros((2, 3, 4, 5), int), told)
    with pytest.raises(ValueError, match="whole ones from 0 on"):
        writers.write(str(tmp_path / "a.tif"), np.array([[-1, 0]]), told)
    with pytest.raises(ValueError, match=r"found the ending '\.xyz'"):
        writers.write(str(tmp_path / "a.xyz"), cells.data, told)
    assert not list(tmp_path.iterdir())


def test_zarr_images_are_read_with_axes_scale_and_their_labels(plugins: PluginManager, tmp_path: Path) -> None:
    labels = np.zeros((3, 20, 30), np.int32)
    labels[1, 5:9, 5:9] = 7
    write_zarr_labels(tmp_path / "image.zarr", labels, (2.0, 0.5, 0.5))
    attributes = json.loads((tmp_path / "image.zarr" / ".zattrs").read_text())
    del attributes["image-label"]
    (tmp_path / "image.zarr" / ".zattrs").write_text(json.dumps(attributes))
    (tmp_path / "image.zarr" / "labels").mkdir()
    (tmp_path / "image.zarr" / "labels" / ".zgroup").write_text('{"zarr_format":2}')
    (tmp_path / "image.zarr" / "labels" / ".zattrs").write_text('{"labels":["cells"]}')
    write_zarr_labels(tmp_path / "image.zarr" / "labels" / "cells", labels, (2.0, 0.5, 0.5))
    image, cells = opened(plugins, tmp_path / "image.zarr")
    assert isinstance(image, Image) and isinstance(cells, Labels)
    assert layer_readings(image) == ["ZYX"] and tuple(image.scale) == tuple(cells.scale) == (2.0, 0.5, 0.5)
    np.testing.assert_array_equal(cells.data, labels)


def test_files_of_others_are_left_to_other_readers(tmp_path: Path) -> None:
    assert readers.get_reader(str(tmp_path)) is None
    assert readers.get_reader("photo.png") is None
    assert readers.get_reader(["a_masks.tif", "b_masks.tif"]) is None


# ---- layers as images


def test_axes_are_those_of_labels_or_all_that_fit_the_shape() -> None:
    assert layer_readings(Image(np.zeros((8, 9)))) == ["YX"]
    assert layer_readings(Image(np.zeros((8, 9, 3), np.uint8), rgb=True)) == ["YXS"]
    assert layer_readings(Image(np.zeros((5, 20, 30)))) == ["CYX", "ZYX", "TYX"]
    assert layer_readings(Image(np.zeros((5, 20, 30)), axis_labels=("time", "y", "x"))) == ["TYX"]
    assert layer_readings(Image(np.zeros((5, 20, 30)), axis_labels=("x", "a", "b"))) == ["CYX", "ZYX", "TYX"]


def test_pyramids_give_their_largest_level() -> None:
    levels = [np.ones((64, 64)), np.ones((32, 32))]
    (image,) = source_of(Image(levels, multiscale=True), "YX").frames()
    assert image.array.shape == (64, 64)


def test_voxel_sizes_are_micrometres_and_a_scale_without_unit_tells_the_distance_of_planes() -> None:
    pixels = np.zeros((4, 20, 30))
    known = source_of(Image(pixels, scale=(2000, 500, 500), units=("nm", "nm", "nm")), "ZYX")
    assert known.voxel_size == pytest.approx((2.0, 0.5, 0.5)) and known.anisotropy is None
    unknown = source_of(Image(pixels, scale=(3, 1, 1)), "ZYX")
    assert unknown.voxel_size is None and unknown.anisotropy == 3


def test_what_is_made_of_a_layer_lies_where_it_does() -> None:
    layer = Image(np.zeros((2, 20, 30)), scale=(1, 2, 3), translate=(7, 8, 9), rotate=(0, 0, 20), shear=(0, 0, 0.5))
    source = source_of(layer, "CYX")
    flat = Labels(np.zeros((20, 30), int), **source.geometry)
    for point in ((0.0, 0.0), (5.0, 11.0)):
        np.testing.assert_allclose(flat.data_to_world(point), layer.data_to_world((0.0, *point))[1:])


# ---- the panel


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


def test_time_series_are_segmented_frame_by_frame(panel: SegmentWidget, viewer: ViewerModel) -> None:
    frames = np.stack([nuclei(seed=seed) for seed in (1, 2)])
    viewer.add_image(frames, name="film", axis_labels=("t", "y", "x"), scale=(5, 1, 1))
    panel.maps["flows"].setChecked(True)
    segment(panel)
    cells, found = viewer.layers["film cells"], [MODEL.segment(frame) for frame in frames]
    np.testing.assert_array_equal(cells.data[0], found[0].labels)
    np.testing.assert_array_equal(cells.data[1], np.where(found[1].labels > 0, found[1].labels + len(found[0]), 0))
    assert cells.features["index"].is_unique and cells.features["frame"].sum() == len(found[1])
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


def test_cancel_adds_nothing_and_the_button_can_be_used_again(panel: SegmentWidget, viewer: ViewerModel) -> None:
    viewer.add_image(nuclei((700, 700)), name="large")
    panel.told.connect(lambda stage, part: panel.cancel.click())
    panel.run.click()
    assert not panel.run.isEnabled() and panel.cancel.isEnabled()
    until(lambda: panel.run.isEnabled())
    assert names(viewer) == ["large"] and panel.message.text() == "cancelled: no layers were added"
    assert not panel.cancel.isEnabled()
    panel.told.disconnect()
    segment(panel)
    assert names(viewer) == ["large", "large cells"]


def _stack_that_may_be_anything(viewer: ViewerModel, panel: SegmentWidget) -> None:
    viewer.add_image(np.zeros((5, 64, 64), np.uint8))


def _picture_read_as_a_volume(viewer: ViewerModel, panel: SegmentWidget) -> None:
    viewer.add_image(np.zeros((64, 64, 3), np.uint8), rgb=False, axis_labels=("z", "y", "x"))


def _layer_of_six_axes(viewer: ViewerModel, panel: SegmentWidget) -> None:
    viewer.add_image(np.zeros((2, 2, 2, 2, 8, 8), np.uint8))


def _not_a_number(viewer: ViewerModel, panel: SegmentWidget) -> None:
    viewer.add_image(np.full((64, 64), np.nan, np.float32), contrast_limits=(0, 1))


def _one_colour_for_nuclei_only(viewer: ViewerModel, panel: SegmentWidget) -> None:
    viewer.add_image(np.zeros((64, 64, 3), np.uint8), rgb=True)
    choose(panel.nuclei, "blue")


def _no_numbers(viewer: ViewerModel, panel: SegmentWidget) -> None:
    viewer.add_image(np.zeros((64, 64), np.uint8))
    panel.more.editors["direction_weights"].widget.setText("much")


def _odd_tile(viewer: ViewerModel, panel: SegmentWidget) -> None:
    viewer.add_image(np.zeros((64, 64), np.uint8))
    panel.more.editors["tile"].widget.setValue(100)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda viewer, panel: None, "there is no image layer"),
        (_stack_that_may_be_anything, "choose what they are"),
        (_picture_read_as_a_volume, "looks like a colour picture"),
        (_layer_of_six_axes, "expected pixels along two to five axes"),
        (_not_a_number, "4096 NaN"),
        (_one_colour_for_nuclei_only, "choose another for the cells"),
        (_no_numbers, "expected numbers with commas between"),
        (_odd_tile, "multiple of 16"),
    ],
)
def test_bad_input_is_told_in_one_line(
    prepare: Callable[[ViewerModel, SegmentWidget], None],
    message: str,
    panel: SegmentWidget,
    viewer: ViewerModel,
) -> None:
    prepare(viewer, panel)
    before = names(viewer)
    segment(panel)
    assert message in panel.message.text() and "\n" not in panel.message.text()
    assert names(viewer) == before and panel.run.isEnabled()


def test_a_damaged_model_is_told(app: QApplication, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    monkeypatch.setenv("CELLBASIN_MODELS", str(tmp_path))
    viewer = ViewerModel()
    panel = SegmentWidget(viewer)
    assert panel.model.currentText() == "general"
    choose(panel.model, "broken")
    viewer.add_image(nuclei())
    segment(panel)
    assert "broken.safetensors" in panel.message.text()


def test_an_empty_image_has_no_objects_and_is_no_error(panel: SegmentWidget, viewer: ViewerModel) -> None:
    viewer.add_image(np.zeros((64, 64), np.uint8), name="dark")
    segment(panel)
    assert panel.message.text().startswith("0 objects") and not viewer.layers["dark cells"].data.any()


# ---- confidence


@pytest.fixture
def judged(app: QApplication, viewer: ViewerModel, cells: Labels) -> Iterator[tuple[ConfidenceWidget, Labels]]:
    layer = viewer.add_labels(cells.data.copy(), name="cells", features=cells.features)
    widget = ConfidenceWidget(PublicOnlyProxy(viewer))
    widget.show()
    yield widget, layer
    widget.close()


def seen(layer: Labels) -> set[int]:
    """Labels that are not see-through."""
    numbers = np.unique(layer.data)
    return set(numbers[np.asarray(layer.colormap.map(numbers)).reshape(-1, 4)[:, 3] > 0].tolist())


def test_the_slider_hides_objects_below_it(judged: tuple[ConfidenceWidget, Labels]) -> None:
    widget, layer = judged
    everything, data = seen(layer), layer.data.copy()
    widget.least.setValue(0.6)
    wanted = {int(n) for n, c in zip(layer.features["index"], layer.features["confidence"], strict=True) if c >= 0.6}
    assert seen(layer) == wanted < everything
    assert widget.message.text() == f"{len(wanted)} of {len(everything)} objects shown"
    np.testing.assert_array_equal(layer.data, data)
    widget.least.setValue(0)
    assert seen(layer) == everything


def test_colours_tell_the_confidence(judged: tuple[ConfidenceWidget, Labels]) -> None:
    widget, layer = judged
    own = layer.colormap
    widget.coloured.setChecked(True)
    low, high = layer.colormap.map(1), layer.colormap.map(len(layer.features))
    assert np.ravel(low)[2] > np.ravel(low)[0] and np.ravel(high)[0] > 0.9  # from blue to yellow
    widget.coloured.setChecked(False)
    assert layer.colormap is own


def test_drawn_objects_stay_in_sight(judged: tuple[ConfidenceWidget, Labels]) -> None:
    widget, layer = judged
    layer.data[:2, :2] = 99
    widget.least.setValue(1.0)
    assert 99 in seen(layer)


def test_hidden_objects_can_be_deleted(judged: tuple[ConfidenceWidget, Labels]) -> None:
    widget, layer = judged
    count = len(layer.features)
    widget.least.setValue(0.6)
    left = seen(layer)
    widget.delete.click()
    assert set(np.unique(layer.data)) - {0} == left == set(layer.features["index"])
    assert delete_hidden(layer, "confidence", 0.6) == 0 and len(left) < count


def test_without_labels_to_judge_it_says_so(app: QApplication, viewer: ViewerModel) -> None:
    viewer.add_labels(np.eye(4, dtype=int))
    widget = ConfidenceWidget(viewer)
    assert "segment an image first" in widget.message.text() and not widget.delete.isEnabled()
