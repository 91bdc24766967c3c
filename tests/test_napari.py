"""napari's plugin: the manifest and every contribution in it, and layers as images."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("napari", reason="needs the extra napari")

from napari.layers import Image, Labels, Layer
from napari_helpers import plugins
from npe2 import PluginManager

from cellbasin.napari.source import layer_readings, source_of

__all__ = ["plugins"]  # a fixture


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
