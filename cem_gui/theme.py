"""Colours, the style sheet and icons, dark and light. Everything that is drawn asks `theme.now()`."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from PySide6.QtCore import QByteArray, QRectF, Qt
from PySide6.QtGui import QColor, QGuiApplication, QIcon, QPainter, QPalette, QPixmap
from PySide6.QtSvg import QSvgRenderer
from PySide6.QtWidgets import QApplication

from cem_core import bundle


@dataclass(frozen=True)
class Theme:
    window: str
    card: str
    field: str
    border: str
    text: str
    muted: str
    faint: str
    accent: str
    on_accent: str
    chip: str
    blue: str
    orange: str
    red: str


DARK: Final = Theme(
    "#14161b", "#1b1e26", "#232731", "#2e333e", "#e9ebef", "#99a0ac", "#4a505c", "#4cc3a7", "#0b1613", "#1d3b37",
    "#6ea8fe", "#f0a35e", "#f07178",
)  # fmt: skip
LIGHT: Final = Theme(
    "#f1f3f6", "#ffffff", "#f7f8fa", "#d9dee5", "#191c22", "#5f6774", "#c3c9d2", "#147a66", "#ffffff", "#d9efe9",
    "#2a66d0", "#b0540b", "#c4373a",
)  # fmt: skip

_CHOSEN: Final = "colour scheme"
_MODES: Final = {"system": Qt.ColorScheme.Unknown, "dark": Qt.ColorScheme.Dark, "light": Qt.ColorScheme.Light}


def now() -> Theme:
    """The colours in force."""
    return LIGHT if _scheme() == Qt.ColorScheme.Light else DARK


OF_MODELS: Final = ("accent", "blue", "orange", "red")
"""Names of the colours of the models that are compared."""


def of_model(index: int) -> str:
    """The colour of one of the models that are compared, in everything that is drawn of it."""
    return str(getattr(now(), OF_MODELS[index % len(OF_MODELS)]))


def apply(app: QApplication, mode: str) -> None:
    """Set `dark`, `light` or `system`; a system that does not say gets dark, on which images look best."""
    scheme = _MODES.get(mode, Qt.ColorScheme.Unknown)
    app.setStyle("Fusion")
    app.setProperty(_CHOSEN, scheme.value)
    app.styleHints().setColorScheme(scheme)
    restyle(app)


def _scheme() -> Qt.ColorScheme:
    # Some platforms have no theme of their own and forget what they are told: what was chosen is kept here too.
    app = QApplication.instance()
    chosen = app.property(_CHOSEN) if app is not None else None
    return Qt.ColorScheme(chosen) if chosen else QGuiApplication.styleHints().colorScheme()


def restyle(app: QApplication) -> None:
    """Paint everything anew in the colours in force."""
    theme = now()
    palette = QPalette()
    role = QPalette.ColorRole
    for where, colour in (
        (role.Window, theme.window), (role.WindowText, theme.text), (role.Base, theme.field),
        (role.AlternateBase, theme.card), (role.Text, theme.text), (role.Button, theme.field),
        (role.ButtonText, theme.text), (role.ToolTipBase, theme.card), (role.ToolTipText, theme.text),
        (role.PlaceholderText, theme.muted), (role.Highlight, theme.accent), (role.HighlightedText, theme.on_accent),
        (role.Link, theme.accent), (role.Accent, theme.accent),
    ):  # fmt: skip
        palette.setColor(where, QColor(colour))
    for where in (role.WindowText, role.Text, role.ButtonText):
        palette.setColor(QPalette.ColorGroup.Disabled, where, QColor(theme.faint))
    app.setPalette(palette)
    app.setStyleSheet(_sheet(theme))


def icon(name: str, colour: str | None = None) -> QIcon:
    """A bundled symbol in the text colour, or another, and fainter where it is disabled."""
    symbol = QIcon()
    symbol.addPixmap(_pixmap(name, colour or now().text), QIcon.Mode.Normal)
    symbol.addPixmap(_pixmap(name, now().faint), QIcon.Mode.Disabled)
    return symbol


def app_icon() -> QIcon:
    return QIcon(str(bundle.ASSETS / "icons" / "app.svg"))


@lru_cache(maxsize=128)
def _pixmap(name: str, colour: str, side: int = 64) -> QPixmap:
    svg = (bundle.ASSETS / "icons" / f"{name}.svg").read_text().replace("currentColor", colour)
    pixmap = QPixmap(side, side)
    pixmap.fill(Qt.GlobalColor.transparent)
    painter = QPainter(pixmap)
    QSvgRenderer(QByteArray(svg.encode())).render(painter, QRectF(0, 0, side, side))
    painter.end()
    return pixmap


@lru_cache(maxsize=1)
def _arrows() -> tempfile.TemporaryDirectory[str]:
    """Style sheets take images from files only: tinted arrows live here while the program does."""
    return tempfile.TemporaryDirectory(prefix="cem-explorer-")


def _image(name: str, colour: str) -> str:
    path = Path(_arrows().name) / f"{name}-{colour[1:]}.svg"
    if not path.exists():
        svg = (bundle.ASSETS / "icons" / f"{name}.svg").read_text().replace("currentColor", colour)
        path.write_text(svg)
    return path.as_posix()


def _sheet(t: Theme) -> str:
    return f"""
    QMainWindow::separator {{ width: 8px; height: 8px; background: {t.window}; }}
    QMenuBar {{ background: {t.window}; padding: 2px 4px; }}
    QMenuBar::item {{ padding: 4px 9px; border-radius: 5px; }}
    QMenuBar::item:selected {{ background: {t.field}; }}
    QMenu {{ background: {t.card}; border: 1px solid {t.border}; padding: 5px; }}
    QMenu::item {{ padding: 5px 26px 5px 22px; border-radius: 5px; }}
    QMenu::item:selected {{ background: {t.accent}; color: {t.on_accent}; }}
    QMenu::item:disabled {{ color: {t.faint}; }}
    QMenu::separator {{ height: 1px; background: {t.border}; margin: 5px 8px; }}
    QStatusBar {{ color: {t.muted}; }} QStatusBar::item {{ border: 0; }}
    QToolTip {{ background: {t.card}; color: {t.text}; border: 1px solid {t.border}; padding: 4px; }}
    QDockWidget > QWidget, QScrollArea, QScrollArea > QWidget > QWidget {{ background: transparent; border: 0; }}
    QFrame#card {{ background: {t.card}; border: 1px solid {t.border}; border-radius: 9px; }}
    QLabel#heading {{ color: {t.muted}; font-weight: 600; }}
    QLabel#muted {{ color: {t.muted}; }}
    QTextEdit#passage {{ background: transparent; border: 0; padding: 0; }}
    QPlainTextEdit, QTreeView {{ background: {t.field}; border: 1px solid {t.border}; border-radius: 6px;
        selection-background-color: {t.accent}; selection-color: {t.on_accent}; }}
    QTreeView {{ outline: 0; }} QTreeView::item {{ padding: 4px 6px; border: 0; }}
    QTreeView::item:selected {{ background: {t.accent}; color: {t.on_accent}; }}
    QTreeView#runs::item {{ padding: 0; }} QTreeView#runs::item:selected {{ background: transparent; }}
    QTreeView#runs {{ selection-background-color: transparent; }}
    QTreeView#runs::branch:has-children:open {{ image: url({_image("down", t.muted)}); }}
    QTreeView#runs::branch:has-children:closed {{ image: url({_image("right", t.muted)}); }}
    QTabBar {{ qproperty-drawBase: 0; }}
    QTabBar::tab {{ background: transparent; color: {t.muted}; border: 0; border-bottom: 2px solid transparent;
        padding: 4px 8px 5px 8px; margin: 0 2px 0 6px; }}
    QTabBar::tab:selected {{ color: {t.text}; border-bottom-color: {t.accent}; }}
    QTabBar::tab:hover, QTabBar::tab:focus {{ color: {t.text}; }}
    QHeaderView::section {{ background: {t.field}; color: {t.muted}; border: 0; border-bottom: 1px solid {t.border};
        padding: 5px 8px; }}
    QLabel#notice {{ background: {t.field}; border: 1px solid {t.border}; border-left: 3px solid {t.red};
        border-radius: 6px; padding: 8px 10px; }}
    QPushButton {{ background: {t.field}; border: 1px solid {t.border}; border-radius: 6px; padding: 5px 12px; }}
    QPushButton:hover {{ border-color: {t.muted}; }}
    QPushButton:focus, QComboBox:focus, QAbstractSpinBox:focus, QLineEdit:focus {{ border-color: {t.accent}; }}
    QPushButton:checked, QPushButton#primary {{ background: {t.accent}; color: {t.on_accent};
        border-color: {t.accent}; }}
    QPushButton#primary {{ font-weight: 600; }}
    QPushButton:checked:hover, QPushButton#primary:hover {{ border-color: {t.text}; }}
    QPushButton:disabled, QPushButton#primary:disabled {{ background: transparent; color: {t.faint};
        border-color: {t.border}; }}
    QDialogButtonBox {{ dialogbuttonbox-buttons-have-icons: 0; }}
    QPushButton#chip {{ padding: 3px 9px; }}
    QPushButton#chip:checked {{ background: {t.chip}; color: {t.text}; border-color: {t.accent}; }}
    QToolButton {{ background: transparent; border: 1px solid transparent; border-radius: 6px; padding: 4px; }}
    QToolButton:hover {{ background: {t.field}; }} QToolButton:focus {{ border-color: {t.accent}; }}
    QToolButton:checked {{ background: {t.field}; border-color: {t.accent}; }}
    QComboBox, QAbstractSpinBox, QLineEdit {{ background: {t.field}; border: 1px solid {t.border};
        border-radius: 6px; padding: 2px 7px; min-height: 18px;
        selection-background-color: {t.accent}; selection-color: {t.on_accent}; }}
    QComboBox:disabled, QAbstractSpinBox:disabled {{ color: {t.faint}; }}
    QComboBox::drop-down {{ border: 0; width: 20px; }}
    QComboBox::down-arrow {{ image: url({_image("down", t.muted)}); width: 10px; height: 10px; }}
    QComboBox QAbstractItemView {{ background: {t.card}; border: 1px solid {t.border}; padding: 3px; outline: 0; }}
    QAbstractSpinBox::up-button, QAbstractSpinBox::down-button {{ border: 0; width: 16px; background: transparent; }}
    QAbstractSpinBox::up-arrow {{ image: url({_image("up", t.muted)}); width: 8px; height: 8px; }}
    QAbstractSpinBox::down-arrow {{ image: url({_image("down", t.muted)}); width: 8px; height: 8px; }}
    QSlider::groove:horizontal {{ height: 4px; border-radius: 2px; background: {t.border}; }}
    QSlider::sub-page:horizontal {{ height: 4px; border-radius: 2px; background: {t.accent}; }}
    QSlider::handle:horizontal {{ width: 12px; height: 12px; margin: -4px 0; border-radius: 6px;
        background: {t.text}; }}
    QSlider::handle:horizontal:focus {{ background: {t.accent}; }}
    QSlider::sub-page:horizontal:disabled, QSlider::handle:horizontal:disabled {{ background: {t.faint}; }}
    QCheckBox::indicator, QTreeView::indicator {{ width: 14px; height: 14px; border: 1px solid {t.faint};
        border-radius: 4px; background: {t.field}; }}
    QCheckBox::indicator:checked, QTreeView::indicator:checked {{ background: {t.accent}; border-color: {t.accent};
        image: url({_image("check", t.on_accent)}); }}
    QTreeView::indicator:indeterminate {{ background: {t.chip}; border-color: {t.accent}; }}
    QCheckBox::indicator:checked:disabled {{ background: {t.faint}; border-color: {t.faint}; }}
    QCheckBox:focus {{ color: {t.accent}; }}
    QProgressBar {{ background: {t.border}; border: 0; border-radius: 3px; max-height: 6px; }}
    QProgressBar::chunk {{ background: {t.accent}; border-radius: 3px; }}
    QScrollBar:vertical {{ width: 9px; background: transparent; }}
    QScrollBar:horizontal {{ height: 9px; background: transparent; }}
    QScrollBar::handle {{ background: {t.faint}; border-radius: 4px; min-height: 24px; min-width: 24px; }}
    QScrollBar::add-line, QScrollBar::sub-line {{ width: 0; height: 0; }}
    QScrollBar::add-page, QScrollBar::sub-page {{ background: transparent; }}
    """
