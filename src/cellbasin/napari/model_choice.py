"""The list of models, and a button for weights files beside it."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QComboBox, QFileDialog, QHBoxLayout, QPushButton, QWidget

from cellbasin.model import DEFAULT_MODEL
from cellbasin.weights import known_models

_FILES = "Weights of cellbasin and of Cellpose 1 to 3 (*)"  # Cellpose's have no ending, or any


class ModelChoice(QWidget):
    """One of the models that are known by name, or a file: of cellbasin's, or of Cellpose 1 to 3."""

    def __init__(self) -> None:
        super().__init__()
        self.list, self.button = QComboBox(), QPushButton("File …")
        self.list.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        for name in sorted(known_models(), key=lambda name: (name != DEFAULT_MODEL, name)):
            self.list.addItem(name, name)
        self.button.setToolTip("take a weights file: one of cellbasin's, or of Cellpose 1 to 3")
        self.button.clicked.connect(self.ask)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.list, 1)
        row.addWidget(self.button)

    def chosen(self) -> str:
        """A name or a path for `load_model`."""
        return str(self.list.currentData())

    def ask(self) -> None:
        """Let the user choose a file, which becomes the one that is chosen; none: nothing changes."""
        path, _ = QFileDialog.getOpenFileName(self, "Weights file", "", _FILES)
        if path:
            self.take(path)

    def take(self, path: str) -> None:
        """Choose a file; it stays in the list, by its name, with the whole path under the mouse."""
        place = self.list.findData(path)
        if place < 0:
            place = self.list.count()
            self.list.addItem(Path(path).name, path)
            self.list.setItemData(place, path, Qt.ItemDataRole.ToolTipRole)
        self.list.setCurrentIndex(place)
