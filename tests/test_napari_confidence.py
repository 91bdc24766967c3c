"""napari's panel that shows, hides and deletes objects by their confidence."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip("napari", reason="needs the extra napari")

from napari.components import ViewerModel
from napari.layers import Labels
from napari.utils._proxies import PublicOnlyProxy
from napari_helpers import app, cells, viewer
from qtpy.QtWidgets import QApplication

from cellbasin.napari.confidence import ConfidenceWidget, delete_hidden

__all__ = ["app", "cells", "viewer"]  # fixtures


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


def test_what_a_closed_panel_hid_comes_back(judged: tuple[ConfidenceWidget, Labels], viewer: ViewerModel) -> None:
    widget, layer = judged
    everything = seen(layer)
    widget.least.setValue(0.6)
    later = ConfidenceWidget(viewer)
    later.least.setValue(0.1)
    later.least.setValue(0)
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
