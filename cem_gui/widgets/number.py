"""A number with a slider and a field."""

from __future__ import annotations

import itertools
import math
from typing import Final

from PySide6.QtCore import QSignalBlocker, Qt, Signal
from PySide6.QtWidgets import QDoubleSpinBox, QHBoxLayout, QSlider, QWidget

_TICKS: Final = 1000
_WIDEST: Final = "1000.0000"
_PULLS: Final = itertools.count(1)


class Number(QWidget):
    """The slider covers `low` to `high`, evenly or by orders of magnitude; the field takes `least` to `most`.

    `changed` bears the value; it is silent when the value is set by the program. What is set is kept exactly, though
    the field may have no room for all its digits.
    """

    changed = Signal(float)

    def __init__(
        self,
        name: str,
        low: float,
        high: float,
        *,
        least: float,
        most: float,
        decimals: int,
        logarithmic: bool = False,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._low, self._high, self._logarithmic = low, high, logarithmic
        self._value = least
        self.pull = 0
        """A number for each time that the slider was taken by the mouse; no two sliders share one."""
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(0, _TICKS)
        self.slider.setPageStep(_TICKS // 20)
        self.slider.setAccessibleName(f"{name}, slider")
        self.slider.setMinimumWidth(60)
        self.field = QDoubleSpinBox()
        self.field.setDecimals(decimals)
        self.field.setRange(least, most)
        self.field.setAccessibleName(name)
        self.field.setFixedWidth(self.fontMetrics().horizontalAdvance(_WIDEST) + 22)
        self.field.setAlignment(Qt.AlignmentFlag.AlignRight)
        self.field.setButtonSymbols(QDoubleSpinBox.ButtonSymbols.NoButtons)
        self.field.setKeyboardTracking(False)
        self.field.setStepType(
            QDoubleSpinBox.StepType.AdaptiveDecimalStepType if logarithmic else QDoubleSpinBox.StepType.DefaultStepType
        )
        if not logarithmic:
            self.field.setSingleStep(max((high - low) / 40, 10**-decimals))
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(8)
        layout.addWidget(self.slider, 1)
        layout.addWidget(self.field)
        self.setFocusProxy(self.field)
        self.slider.valueChanged.connect(self._slid)
        self.slider.sliderPressed.connect(self._pulled)
        self.field.valueChanged.connect(self._typed)
        # Return gives the keys back to the window, where Space runs.
        self.field.lineEdit().returnPressed.connect(self.field.clearFocus)

    @property
    def value(self) -> float:
        return self._value

    def set(self, value: float) -> None:
        """Show a value without announcing it."""
        with QSignalBlocker(self.field):
            self.field.setValue(value)
        self._value = min(max(value, self.field.minimum()), self.field.maximum())
        self._follow()

    def _pulled(self) -> None:
        self.pull = next(_PULLS)

    def _slid(self, tick: int) -> None:
        share = tick / _TICKS
        if self._logarithmic:
            # Zero has no logarithm: where it is allowed, the left end of the slider stands for it.
            zero = tick == 0 and self.field.minimum() == 0
            value = 0.0 if zero else self._low * (self._high / self._low) ** share
        else:
            value = self._low + share * (self._high - self._low)
        with QSignalBlocker(self.field):
            self.field.setValue(value)
        self._value = self.field.value()
        self.changed.emit(self._value)

    def _typed(self, value: float) -> None:
        self._value = value
        self._follow()
        self.changed.emit(value)

    def _follow(self) -> None:
        value = min(max(self.field.value(), self._low), self._high)
        if self._logarithmic:
            share = math.log(value / self._low) / math.log(self._high / self._low)
        else:
            share = (value - self._low) / (self._high - self._low)
        with QSignalBlocker(self.slider):
            self.slider.setValue(round(share * _TICKS))
