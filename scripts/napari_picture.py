"""Draws docs/figures/napari.png: napari with the panels and a segmented image from the generator.

Needs a screen, such as that of Xvfb (on Debian: xvfb and libxcb-cursor0):
xvfb-run -s "-screen 0 1400x900x24" python scripts/napari_picture.py
"""

from __future__ import annotations

import time
from pathlib import Path

import napari
from qtpy.QtWidgets import QApplication

from cellbasin.napari import samples
from cellbasin.napari.confidence import ConfidenceWidget
from cellbasin.napari.widget import SegmentWidget

TARGET = Path(__file__).parent.parent / "docs" / "figures" / "napari.png"


def wait(seconds: float) -> None:
    """Let the window draw."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.01)


def main() -> None:
    """Open, segment, colour by confidence, save what the window shows."""
    viewer = napari.Viewer()
    viewer.window.resize(1300, 820)
    panel, judge = SegmentWidget(viewer), ConfidenceWidget(viewer)
    viewer.window.add_dock_widget(panel, name="Segment cells", area="right")
    viewer.window.add_dock_widget(judge, name="Show objects by confidence", area="right")
    for data, told, kind in samples.cells_and_nuclei():
        viewer.add_layer(napari.layers.Layer.create(data, told, kind))
    viewer.layers.selection.active = viewer.layers["cytoplasm"]
    panel.nuclei.setCurrentIndex(panel.nuclei.findText("layer nuclei of the cells"))
    panel.run.click()
    while not panel.run.isEnabled():
        wait(0.1)
    judge.coloured.setChecked(True)
    judge.least.setValue(0.6)
    viewer.reset_view()
    wait(2)
    viewer.screenshot(TARGET, canvas_only=False)
    viewer.close()
    print(f"wrote {TARGET}")


if __name__ == "__main__":
    main()
