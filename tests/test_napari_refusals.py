"""napari's panel: what cannot be done is told in one line, and nothing is lost by it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("napari", reason="needs the extra napari")

from napari.components import ViewerModel
from napari.utils.notifications import notification_manager
from napari_helpers import app, choose, names, nuclei, panel, raised, segment, viewer
from qtpy.QtWidgets import QApplication

from cellbasin.model import Progress
from cellbasin.napari.job import Job
from cellbasin.napari.results import Collected
from cellbasin.napari.widget import SegmentWidget

__all__ = ["app", "panel", "raised", "viewer"]  # fixtures


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
    raised: list[object],
) -> None:
    prepare(viewer, panel)
    before = names(viewer)
    segment(panel)
    assert message in panel.message.text() and "\n" not in panel.message.text()
    assert names(viewer) == before and panel.run.isEnabled() and not raised


def test_a_damaged_model_is_told(app: QApplication, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    monkeypatch.setenv("CELLBASIN_MODELS", str(tmp_path))
    viewer = ViewerModel()
    panel = SegmentWidget(viewer)
    assert panel.model.chosen() == "general"
    choose(panel.model.list, "broken")
    viewer.add_image(nuclei())
    segment(panel)
    assert "broken.safetensors" in panel.message.text()


def test_what_nobody_expects_is_reported_once(
    panel: SegmentWidget, viewer: ViewerModel, raised: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(job: Job, tell: Progress) -> Collected:
        raise KeyError("odd")

    told: list[object] = []
    monkeypatch.setattr(Job, "run", broken)
    monkeypatch.setattr(notification_manager, "receive_error", lambda kind, error, traceback: told.append(error))
    viewer.add_image(nuclei(), name="a")
    segment(panel)
    assert [str(error) for error in told] == ["'odd'"] and not raised
    assert "odd" in panel.message.text() and names(viewer) == ["a"] and panel.run.isEnabled()


def test_an_empty_image_has_no_objects_and_is_no_error(panel: SegmentWidget, viewer: ViewerModel) -> None:
    viewer.add_image(np.zeros((64, 64), np.uint8), name="dark")
    segment(panel)
    assert panel.message.text().startswith("0 objects") and not viewer.layers["dark cells"].data.any()
