"""Show, hide and remove the objects of a labels layer by a column of its table of features."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from napari.layers import Labels
from napari.utils.colormaps import DirectLabelColormap, ensure_colormap
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QCheckBox, QComboBox, QFormLayout, QLabel, QPushButton, QWidget
from superqt import QLabeledDoubleSlider

from .source import unwrapped

COLUMNS = ("confidence", "mean_probability")  # numbers from 0 to 1, the better one first
_SHADES = 64
_OWN: WeakKeyDictionary[Labels, Any] = WeakKeyDictionary()
"""The colormaps that layers had before a panel, also one that is closed by now, changed them."""
_DRAWN = (1.0, 1.0, 1.0, 1.0)  # colour of objects without a row, such as drawn ones


def hidden(values: np.ndarray, least: float) -> np.ndarray:
    """bool (N,): which objects are worth less than the least; not those whose value is unknown (NaN)."""
    return np.asarray(values, float) < least


def colours(layer: Labels, column: str, least: float, own: Any = None) -> DirectLabelColormap:
    """The colours of a labels layer whose objects below the least are see-through.

    own: the layer's colormap, for objects that are shown; None colours them by the column, dark blue 0 to yellow 1.
    """
    labels, values = np.asarray(layer.features["index"]), np.asarray(layer.features[column], float)
    if own is None:
        shade = np.rint(np.nan_to_num(values).clip(0, 1) * (_SHADES - 1)) / (_SHADES - 1)
        shown = ensure_colormap("viridis").map(shade)
    else:
        shown = np.asarray(own.map(labels)).reshape(-1, 4)
    shown = np.where(hidden(values, least)[:, None], 0.0, shown)
    table: dict[int | None, Any] = dict(zip(labels.tolist(), shown, strict=True))
    return DirectLabelColormap(color_dict={**table, None: np.array(_DRAWN), 0: np.zeros(4)})


def delete_hidden(layer: Labels, column: str, least: float) -> int:
    """Take the objects below the least out of a labels layer and its table; returns how many."""
    gone = hidden(layer.features[column], least)
    labels = np.asarray(layer.features["index"])[gone]
    data = np.asarray(layer.data)
    layer.data = np.where(np.isin(data, labels), 0, data).astype(data.dtype)
    layer.features = {name: np.asarray(layer.features[name])[~gone] for name in layer.features}
    return int(gone.sum())


class ConfidenceWidget(QWidget):
    """Which labels layer, by which column, the least value shown, and whether colours tell the values."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self._layers = unwrapped(napari_viewer).layers
        self.layer, self.column = QComboBox(), QComboBox()
        self.least = QLabeledDoubleSlider(Qt.Orientation.Horizontal)
        self.least.setRange(0.0, 1.0)
        self.coloured = QCheckBox("colour the objects by it")
        self.delete = QPushButton("Delete hidden objects")
        self.message = QLabel()
        layout = QFormLayout(self)
        for name, widget in (("labels", self.layer), ("by", self.column), ("at least", self.least)):
            layout.addRow(name, widget)
        for widget in (self.coloured, self.message, self.delete):
            layout.addRow(widget)
        self.layer.currentIndexChanged.connect(self._layer_changed)
        self.column.currentIndexChanged.connect(self.show_values)
        self.least.valueChanged.connect(self.show_values)
        self.coloured.toggled.connect(self.show_values)
        self.delete.clicked.connect(self._delete)
        self._layers.events.inserted.connect(self._list_layers)
        self._layers.events.removed.connect(self._list_layers)
        self._list_layers()

    def _list_layers(self, event: Any = None) -> None:
        """Labels layers that have a column to judge by."""
        chosen = self.layer.currentData()
        fitting = [layer for layer in self._layers if isinstance(layer, Labels) and _columns(layer)]
        self.layer.blockSignals(True)
        self.layer.clear()
        for layer in fitting:
            self.layer.addItem(layer.name, layer)
            layer.events.name.connect(self._list_layers)  # once, however often it is called
        place = fitting.index(chosen) if chosen in fitting else len(fitting) - 1
        self.layer.setCurrentIndex(place)
        self.layer.blockSignals(False)
        if not fitting or fitting[place] is not chosen:
            self._layer_changed()

    def _layer_changed(self, index: int = 0) -> None:
        layer = self.layer.currentData()
        self.column.blockSignals(True)
        self.column.clear()
        self.column.addItems(_columns(layer) if layer is not None else [])
        self.column.blockSignals(False)
        self.show_values()

    def show_values(self, *changed: object) -> None:
        """Give the layer the colours that are asked for."""
        layer, column, least = self.layer.currentData(), self.column.currentText(), self.least.value()
        self.delete.setEnabled(layer is not None and least > 0)
        if layer is None:
            self.message.setText("no labels with a table of confidence: segment an image first")
            return
        own = _OWN.setdefault(layer, layer.colormap)
        if least == 0 and not self.coloured.isChecked():
            layer.colormap = own
        else:
            layer.colormap = colours(layer, column, least, None if self.coloured.isChecked() else own)
        count = len(layer.features)
        self.message.setText(f"{count - int(hidden(layer.features[column], least).sum())} of {count} objects shown")

    def _delete(self) -> None:
        delete_hidden(self.layer.currentData(), self.column.currentText(), self.least.value())
        self.show_values()


def _columns(layer: Labels) -> list[str]:
    return [name for name in COLUMNS if name in layer.features and "index" in layer.features]
