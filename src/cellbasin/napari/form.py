"""A form with a field for each of `cellbasin.options.Options`, made from their one definition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import Field, dataclass, fields
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from qtpy.QtWidgets import QCheckBox, QComboBox, QDoubleSpinBox, QFormLayout, QLineEdit, QSpinBox, QWidget

from cellbasin.options import Options

AUTOMATIC = "automatic"


@dataclass(frozen=True, eq=False)
class Editor:
    """A widget for one option, and how its value is read (ValueError where it is none)."""

    widget: QWidget
    value: Callable[[], Any]


class OptionsForm(QWidget):
    """Editors of the options that are named, in their order; `editors` holds them by name."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        known, hints = {item.name: item for item in fields(Options)}, get_type_hints(Options)
        self.editors = {name: _editor(known[name], hints[name]) for name in names}
        layout = QFormLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for name, editor in self.editors.items():
            editor.widget.setToolTip(known[name].metadata["help"])
            layout.addRow(name.replace("_", " "), editor.widget)

    def values(self) -> dict[str, Any]:
        """The options by name; raises ValueError for a text that is no value."""
        return {name: editor.value() for name, editor in self.editors.items()}


def _editor(item: Field[Any], hint: Any) -> Editor:
    """An editor for a type: bool, int, float, float or None, one of several words, several numbers."""
    kinds = [kind for kind in get_args(hint) if kind is not NoneType]
    if get_origin(hint) is Literal:
        return _choice(item, kinds)
    if hint is bool:
        box = QCheckBox()
        box.setChecked(item.default)
        return Editor(box, box.isChecked)
    if hint is int:
        spin = QSpinBox()
        _set(spin, item, step=1)
        return Editor(spin, spin.value)
    if hint is float or kinds == [float]:
        return _number(item, optional=hint is not float)
    if get_origin(hint) is tuple:
        return _numbers(item)
    raise TypeError(f"option {item.name} is of type {hint}; expected a kind that has an editor")


def _set(spin: Any, item: Field[Any], step: float) -> None:
    spin.setRange(item.metadata["low"], item.metadata["high"])
    spin.setSingleStep(step)
    spin.setSuffix(f" {item.metadata['unit']}" if item.metadata["unit"] else "")
    if item.default is not None:
        spin.setValue(item.default)


def _number(item: Field[Any], *, optional: bool) -> Editor:
    """A number; where it can be left open, one step below the least allowed stands for that."""
    spin = QDoubleSpinBox()
    step = 1.0 if item.metadata["high"] > 100 else 0.05
    spin.setDecimals(2)
    _set(spin, item, step)
    if not optional:
        return Editor(spin, spin.value)
    open_end = item.metadata["low"] - step
    spin.setMinimum(open_end)
    spin.setSpecialValueText(AUTOMATIC)
    spin.setValue(open_end if item.default is None else item.default)
    return Editor(spin, lambda: None if spin.value() < item.metadata["low"] else spin.value())


def _choice(item: Field[Any], words: Sequence[str]) -> Editor:
    combo = QComboBox()
    combo.addItems(list(words))
    combo.setCurrentText(item.default)
    return Editor(combo, combo.currentText)


def _numbers(item: Field[Any]) -> Editor:
    numbers: Any = item.default
    line = QLineEdit(", ".join(f"{number:g}" for number in numbers))

    def value() -> tuple[float, ...]:
        try:
            return tuple(float(part) for part in line.text().split(","))
        except ValueError:
            raise ValueError(f"{item.name} is {line.text()!r}, expected numbers with commas between") from None

    return Editor(line, value)
