"""What is open, what was recognised, and where each assumption came from."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QLabel
from superqt import QElidingLabel
from windows import checkpoint, discard

from cem_core import bundle
from cem_core.messages import Fact
from cem_gui.panels.model import Details, ModelPanel


@pytest.fixture
def panel(qtbot) -> Iterator[ModelPanel]:
    panel = ModelPanel()
    panel.set_models(list(bundle.models()))
    panel.resize(320, 300)
    with qtbot.waitExposed(panel):
        panel.show()
    yield panel
    panel.close()
    discard(panel)


def texts(panel: ModelPanel) -> dict[str, str]:
    """The facts that can be read."""
    return {name: label.text() for name, label in panel._facts.items()}


def test_nothing_is_claimed_before_a_model_is_open(panel: ModelPanel) -> None:
    assert set(texts(panel).values()) == {"–"}
    assert not panel.details_button.isEnabled()
    assert [panel.choice.itemText(i) for i in range(panel.choice.count())] == list(bundle.models())


def test_it_says_what_was_recognised(panel: ModelPanel) -> None:
    net = msgspec.structs.replace(checkpoint(("cat", "dog", "ship")), facts=(Fact("accuracy", "93.1 % clean", "file"),))
    panel.show_checkpoint("/models/net.pt", net)
    assert texts(panel) == {
        "Network": "A net · 1.2 M",
        "Classes": "3 · cat … ship",
        "Input": "8×8 · RGB",
        "Measured": "93.1 % clean",
    }
    assert panel.choice.currentText() == "net.pt"
    assert panel.choice.toolTip() == "/models/net.pt"
    assert panel.details_button.isEnabled()


def test_what_was_not_measured_is_said(panel: ModelPanel) -> None:
    panel.show_checkpoint("net", msgspec.structs.replace(checkpoint(("only",)), channels=1))
    assert texts(panel)["Measured"] == "not yet"
    assert texts(panel)["Classes"] == "1 · only"
    assert texts(panel)["Input"] == "8×8 · grey"


def test_long_names_are_elided_and_can_be_read_in_full(panel: ModelPanel) -> None:
    long = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft"
    before = panel.minimumSizeHint().width()
    panel.show_checkpoint(f"/{long}.pt", checkpoint((long, f"{long} & Söhne")))
    assert panel.minimumSizeHint().width() == before
    for label in panel.findChildren(QElidingLabel):
        assert label.toolTip() == label.text()
        assert label.width() <= panel.width()


def test_a_model_is_added_once(panel: ModelPanel) -> None:
    for _ in range(3):
        panel.show_checkpoint("/a/net.pt", checkpoint())
        panel.show_checkpoint("/b/net.pt", checkpoint())
    assert panel.choice.count() == len(bundle.models()) + 2
    assert panel.choice.currentData() == "/b/net.pt"


def test_choosing_says_the_reference(qtbot, panel: ModelPanel) -> None:
    panel.show_checkpoint("/a/net.pt", checkpoint())
    panel.choice.setFocus()
    with qtbot.waitSignal(panel.chosen) as chosen:
        QTest.keyClick(panel.choice, Qt.Key.Key_Home)
    assert chosen.args == [bundle.DEFAULT_MODEL]


def test_showing_a_model_is_not_choosing_it(qtbot, panel: ModelPanel) -> None:
    with qtbot.assertNotEmitted(panel.chosen):
        panel.show_checkpoint("/a/net.pt", checkpoint())
        panel.show_refused("/a/net.pt")


def test_a_refusal_brings_back_what_is_open(panel: ModelPanel) -> None:
    """Under the name by which it was opened, be that a link to it."""
    panel.show_checkpoint("~/link to it.pt", checkpoint())
    before = texts(panel)
    panel.show_opening("/downloads/broken.pt")
    assert texts(panel)["Network"] == "Opening broken.pt …"
    panel.show_refused("~/link to it.pt")
    assert texts(panel) == before
    assert panel.choice.currentData() == "~/link to it.pt"


def test_a_refusal_with_nothing_open_says_so(panel: ModelPanel) -> None:
    panel.show_opening("/downloads/broken.pt")
    panel.show_refused("anything")
    assert texts(panel)["Network"] == "none open"
    assert not panel.details_button.isEnabled()


def test_device_and_precision(qtbot, panel: ModelPanel) -> None:
    with qtbot.assertNotEmitted(panel.placed):
        panel.set_place("cpu", "bfloat16")
    assert panel.place == ("cpu", "bfloat16")
    panel.set_place("abacus", "int3")  # settings of another version
    assert panel.place == ("auto", "float32")
    with qtbot.waitSignal(panel.placed):
        QTest.keyClick(panel.device, Qt.Key.Key_Down)
    assert panel.place == ("cpu", "float32")


def test_open_asks_for_a_file(qtbot, panel: ModelPanel) -> None:
    with qtbot.waitSignal(panel.open_wanted):
        QTest.mouseClick(panel.open_button, Qt.MouseButton.LeftButton)


def test_details_tell_every_fact_with_its_source(qtbot) -> None:
    facts = (
        Fact("family", "A net", "file"),
        Fact("size", "8×8", "name"),
        Fact("normalisation", "<b>none</b>", "guess"),
    )
    net = msgspec.structs.replace(checkpoint(), facts=facts, ignored=("ema.weight", "fc2.bias"))
    dialog = Details(net)
    qtbot.addWidget(dialog)
    said = [label.text() for label in dialog.findChildren(QLabel)]
    for text in (
        "A net  (from the file)",
        "8×8  (from the file name)",
        "<b>none</b>  (assumed)",
        net.path,
        net.sha256,
        "ema.weight, fc2.bias",
    ):
        assert text in said
    plain = {label.text(): label.textFormat() for label in dialog.findChildren(QLabel)}
    assert plain["<b>none</b>  (assumed)"] == Qt.TextFormat.PlainText
