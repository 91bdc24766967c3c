"""The window's panel: which layer, how to read it, how to segment it, and the results as layers."""

from __future__ import annotations

from dataclasses import fields
from typing import Any
from weakref import WeakKeyDictionary
from zlib import crc32

import numpy as np
from napari.layers import Image, Labels, Layer
from napari.utils.notifications import notification_manager
from qtpy.QtCore import QEvent, Qt, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)
from superqt import QCollapsible
from superqt.utils import FunctionWorker, create_worker

from cellbasin.engines import EngineError
from cellbasin.image import described_reading
from cellbasin.messages import one_line
from cellbasin.model import Cancelled
from cellbasin.options import Options

from .form import OptionsForm
from .job import Job
from .model_choice import ModelChoice
from .results import MADE, MAPS, Collected
from .source import channel_names, largest, layer_readings, plane_in_sight, source_of, unwrapped

_FROM_LAYER = ("axes", "channels")  # options that the layer's own fields stand for
_FIRST = ("diameter", "min_confidence")  # those that are always in sight
_MADE: WeakKeyDictionary[Layer, dict[bool, dict[Layer, int]]] = WeakKeyDictionary()
"""Layers made of an image by any panel, also one that is closed by now, with checksums; bool: of a plane."""
_EXPECTED = (ValueError, TypeError, OSError, MemoryError, EngineError)  # of images, options and models that do not fit


class SegmentWidget(QWidget):
    """Segments the image layer that is selected, or the plane of it that is in sight.

    The results replace those made of that layer before; those of a plane only those of a plane.
    """

    told = Signal(str, float)

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self._viewer = unwrapped(napari_viewer)
        self._worker: FunctionWorker | None = None
        self._source: tuple[Any, bool] = (None, False)
        self._listed: Any = None  # the layer whose channels are listed
        self.layer, self.axes, self.primary, self.nuclei = (QComboBox() for _ in range(4))
        self.plane, self.model = QCheckBox("current plane only"), ModelChoice()
        self.first = OptionsForm(_FIRST)
        self.more = OptionsForm([f.name for f in fields(Options) if f.name not in (*_FROM_LAYER, *_FIRST)])
        self.maps = {name: QCheckBox(f"add {name} as a layer") for name in MAPS}
        self.run, self.cancel = QPushButton("Segment"), QPushButton("Cancel")
        self.bar, self.message = QProgressBar(), QLabel()
        self._lay_out()
        self._connect()
        self._list_layers()
        self._idle()

    def _lay_out(self) -> None:
        inner = QWidget()
        column = QVBoxLayout(inner)
        form = QFormLayout()
        rows = {"image": self.layer, "axes": self.axes, "cells in": self.primary, "nuclei in": self.nuclei}
        for name, widget in rows.items():
            widget.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
            form.addRow(name, widget)
        self.plane.setToolTip("of a stack or a time series: that which the sliders of the window show")
        form.insertRow(2, "", self.plane)
        form.addRow("model", self.model)
        column.addLayout(form)
        column.addWidget(self.first)
        more = QCollapsible("more options")
        more.addWidget(self.more)
        for widget in (*self.maps.values(), more):
            column.addWidget(widget)
        column.addStretch()
        area = QScrollArea()
        area.setWidgetResizable(True)
        area.setWidget(inner)
        buttons = QHBoxLayout()
        buttons.addWidget(self.run)
        buttons.addWidget(self.cancel)
        self.message.setWordWrap(True)
        self.message.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        outer = QVBoxLayout(self)  # what is below the fields is always in sight
        outer.addWidget(area)
        outer.addLayout(buttons)
        outer.addWidget(self.bar)
        outer.addWidget(self.message)

    def _connect(self) -> None:
        layers = self._viewer.layers
        layers.events.inserted.connect(self._list_layers)
        layers.events.removed.connect(self._list_layers)
        layers.selection.events.active.connect(self._follow_selection)
        self.layer.currentIndexChanged.connect(self._list_axes)
        self.axes.currentIndexChanged.connect(self._list_channels)
        self.run.clicked.connect(self.start)
        self.cancel.clicked.connect(self.stop)
        self.told.connect(self._show_progress)

    # ---- what can be chosen

    def _list_layers(self, event: Any = None) -> None:
        """Image layers, without flows and probabilities."""
        images = [one for one in self._viewer.layers if isinstance(one, Image) and MADE not in one.metadata]
        before, active = self.layer.currentData(), self._viewer.layers.selection.active
        chosen = next((layer for layer in (before, active) if layer in images), None)
        self.layer.blockSignals(True)
        self.layer.clear()
        for layer in images:
            self.layer.addItem(layer.name, layer)
            layer.events.name.connect(self._list_layers)  # once, however often it is called
        self.layer.setCurrentIndex(images.index(chosen) if chosen is not None else len(images) - 1)
        self.layer.blockSignals(False)
        if before is not None and self.layer.currentData() is before:
            self._list_channels()
        else:
            self._list_axes()

    def _follow_selection(self, event: Any = None) -> None:
        listed = [self.layer.itemData(k) for k in range(self.layer.count())]
        active = self._viewer.layers.selection.active
        if active in listed:
            self.layer.setCurrentIndex(listed.index(active))

    def _list_axes(self, index: int = 0) -> None:
        """What the layer's axes can mean; where they are not known, the user says so."""
        layer = self.layer.currentData()
        self.axes.blockSignals(True)
        self.axes.clear()
        self.message.clear()
        try:
            found = layer_readings(layer) if layer is not None else []
        except ValueError as error:
            found = []
            self.message.setText(str(error))
        if len(found) > 1:
            self.axes.addItem("choose what they are", None)
        for axes in found:
            told = "YXS (colour)" if axes == "YXS" else described_reading(largest(layer).shape, axes)
            self.axes.addItem(told, axes)
        self.axes.blockSignals(False)
        self._list_channels()

    def _list_channels(self, index: int = 0) -> None:
        """Channels of the layer that can show cells; these and other layers for the nuclei.

        What was chosen stays chosen while it is there and the layer is the same.
        """
        layer, axes = self.layer.currentData(), self.axes.currentData()
        chosen = (self.primary.currentText(), self.nuclei.currentText()) if self._listed is layer else ("", "")
        self._listed = layer
        self.plane.setEnabled(bool(axes) and bool({"T", "Z"} & set(axes)))
        names = channel_names(layer, axes) if axes else []
        self.primary.clear()
        self.nuclei.clear()
        if not names or axes.endswith("S"):
            self.primary.addItem("gray of the colours" if names else "the layer", None)
        self.nuclei.addItem("none", None)
        for number, name in enumerate(names):
            self.primary.addItem(name, number)
            self.nuclei.addItem(name, number)
        for k in range(self.layer.count()):
            other = self.layer.itemData(k)
            if axes and other is not layer and _fits(layer, axes, other):
                self.nuclei.addItem(f"layer {other.name}", other)
        for combo, text in zip((self.primary, self.nuclei), chosen, strict=True):
            combo.setCurrentIndex(max(0, combo.findText(text)))

    # ---- running

    def job(self) -> Job:
        """What the fields ask for; raises ValueError for what cannot be done."""
        layer, axes = self.layer.currentData(), self.axes.currentData()
        if layer is None:
            raise ValueError("there is no image layer: open an image first")
        if axes is not None and axes not in layer_readings(layer):  # its pixels are others than when it was chosen
            self._list_axes()
            axes = self.axes.currentData()
        if axes is None:
            layer_readings(layer)  # says what is wrong with the layer
            raise ValueError("the axes of this layer are not known: choose what they are")
        primary, nuclei = self.primary.currentData(), self.nuclei.currentData()
        other = nuclei if isinstance(nuclei, Layer) else None
        if other is None and nuclei is not None and primary is None:
            raise ValueError("nuclei are in one of the colours: choose another for the cells, too")
        channels: tuple[int, ...] | None = None if primary is None else (primary,)
        if other is not None:
            channels = (0, 1)  # of the two that are put together
        elif nuclei is not None:
            channels = (primary, nuclei)
        options = Options(channels=channels, **self.first.values(), **self.more.values())
        maps = tuple(name for name, box in self.maps.items() if box.isChecked())
        one = self.plane.isEnabled() and self.plane.isChecked()
        at = plane_in_sight(layer, axes, self._viewer.dims) if one else None
        return Job(source_of(layer, axes, other, at), primary, self.model.chosen(), options, maps)

    def start(self) -> None:
        """Segment in a thread; a second call while one runs does nothing."""
        if self._worker is not None:
            return
        try:
            job = self.job()
        except ValueError as error:
            self.message.setText(str(error))
            return
        # Errors are told by `_failed`; by itself superqt raises them anew, for napari to show with a traceback.
        worker = create_worker(lambda: job.run(self._tell), _start_thread=False, _ignore_errors=True)
        worker.returned.connect(self._add_layers)
        worker.errored.connect(self._failed)
        worker.finished.connect(self._finished)
        self._worker, self._source = worker, (self.layer.currentData(), bool(job.source.at))
        self.run.setEnabled(False)
        self.cancel.setEnabled(True)
        self.bar.setVisible(True)
        self.message.clear()
        worker.start()

    def stop(self) -> None:
        """Ask the thread to end; it does so at the next report of progress."""
        if self._worker is not None:
            self._worker.quit()
            self.message.setText("cancelling")

    def changeEvent(self, event: QEvent) -> None:
        """Cancel when the panel leaves its window: it is closed for good then, not only hidden."""
        if event.type() == QEvent.Type.ParentChange and self.parent() is None:
            self.stop()
        super().changeEvent(event)

    def _tell(self, stage: str, part: float) -> bool:
        """Called by the thread, also after the panel was closed."""
        if self._worker is None or self._worker.abort_requested:
            return False
        self.told.emit(stage, part)
        return True

    def _show_progress(self, stage: str, part: float) -> None:
        self.bar.setFormat(f"{stage} %p%")
        self.bar.setValue(round(100 * part))

    def _add_layers(self, collected: Collected) -> None:
        """In the places of the layers made of the same source before, and shown or not as those were.

        Labels that were edited since stay: they are the user's work.
        """
        layers, (source, plane) = self._viewer.layers, self._source
        kinds = _MADE.setdefault(source, {})
        before = {layer: number for layer, number in kinds.pop(plane, {}).items() if layer in layers}
        edited = [layer for layer, number in before.items() if _checksum(layer) != number]
        shown = {layer.name: layer.visible for layer in before}
        made = [Layer.create(*data) for data in collected.layers()]
        kinds[plane] = {layer: _checksum(layer) for layer in made}
        for layer in before:
            if layer not in edited:
                layers.remove(layer)
        for layer in made:
            layer.visible = shown.get(layer.name, layer.visible)
            self._viewer.add_layer(layer)
        self._list_layers()
        kept = "".join(f"; {layer.name} was edited and is kept" for layer in edited)
        self.message.setText(collected.summary() + kept)

    def _failed(self, error: Exception) -> None:
        if isinstance(error, Cancelled):
            return
        self.message.setText(one_line(error))
        if not isinstance(error, _EXPECTED):
            notification_manager.receive_error(type(error), error, error.__traceback__)

    def _finished(self) -> None:
        if self._worker is not None and self._worker.abort_requested:
            self.message.setText("cancelled: no layers were added")
        self._worker = None
        self._idle()

    def _idle(self) -> None:
        self.run.setEnabled(True)
        self.cancel.setEnabled(False)
        self.bar.setVisible(False)
        self.bar.setValue(0)


def _checksum(layer: Layer) -> int:
    """Tells whether labels were edited; pictures never are."""
    return crc32(np.ascontiguousarray(layer.data).data) if isinstance(layer, Labels) else 0


def _fits(layer: Any, axes: str, nuclei: Any) -> bool:
    try:
        source_of(layer, axes, nuclei)
    except ValueError:
        return False
    return True
