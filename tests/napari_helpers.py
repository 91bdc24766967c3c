"""What the tests of napari's plugin share: a viewer without a window, and the panel in a real (offscreen) one."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
pytest.importorskip("napari", reason="needs the extra napari")

import npe2
from napari.components import ViewerModel
from napari.layers import Labels, Layer
from napari.utils._proxies import PublicOnlyProxy
from npe2 import PluginManager
from qtpy.QtWidgets import QApplication

from cellbasin.generator import generate
from cellbasin.model import load_model
from cellbasin.napari.widget import SegmentWidget

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


@pytest.fixture
def raised(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What Qt's event loop raises, each of which napari shows as an error with its traceback."""
    errors: list[object] = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, traceback: errors.append(error))
    return errors


def until(done: Callable[[], bool], seconds: float = 120) -> None:
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


@pytest.fixture(scope="session")
def plugins() -> PluginManager:
    """npe2's own, which knows the installed package by its entry point."""
    manager = PluginManager.instance()
    manager.discover()
    return manager


def opened(plugins: PluginManager, path: Path) -> list[Layer]:
    """The layers that napari makes of a file with our reader."""
    return [Layer.create(*data) for data in npe2.read([str(path)], stack=False, plugin_name="cellbasin")]


def saved(plugins: PluginManager, path: Path, layer: Labels) -> Path:
    """The file that napari writes of a labels layer with our writer for that ending."""
    (written,) = npe2.write(str(path), [layer.as_layer_data_tuple()], plugin_name="cellbasin")
    return Path(written)


@pytest.fixture(scope="session")
def cells() -> Labels:
    labels = generate("nuclei", (60, 80), diameter=16, density=0.3, seed=4).labels
    numbers = np.arange(1, labels.max() + 1)
    features = {"index": numbers, "area": np.bincount(labels.ravel())[1:], "confidence": numbers / len(numbers)}
    return Labels(labels, name="cells", scale=(0.5, 0.25), units=("um", "um"), features=features)
