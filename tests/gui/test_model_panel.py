"""What is open, what was recognised, and what of that was assumed."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest
from windows import Wait, checkpoint, discard

from cem_core import bundle
from cem_core.messages import Checkpoint, Fact
from cem_gui.panels.model import ModelPanel


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
    return {name: line.text() for name, line in panel.facts.items()}


def marks(panel: ModelPanel) -> dict[str, str]:
    """What is marked as assumed, and what the mark says when it is asked."""
    return {name: line.mark.toolTip() for name, line in panel.facts.items() if line.mark.isVisible()}


def with_facts(*facts: Fact) -> Checkpoint:
    return msgspec.structs.replace(checkpoint(("cat", "dog", "ship")), facts=facts)


def show(panel: ModelPanel, reference: str, net: Checkpoint) -> None:
    panel.set_models(list(bundle.models()), [(reference.rsplit("/", 1)[-1], reference)])
    panel.show_checkpoint(reference, net)


def test_nothing_is_claimed_before_a_model_is_open(panel: ModelPanel) -> None:
    assert set(texts(panel).values()) == {"–"}
    assert marks(panel) == {}
    assert not panel.details_button.isEnabled()
    assert [panel.choice.itemText(i) for i in range(panel.choice.count())] == list(bundle.models())


def test_it_says_what_was_recognised(panel: ModelPanel) -> None:
    facts = Fact("accuracy", "93.1 % clean", "file"), Fact("normalisation", "CIFAR-10", "file", options=("none",))
    show(panel, "/models/net.pt", with_facts(*facts))
    assert texts(panel) == {
        "Network": "A net · 1.2 M",
        "Classes": "3 · cat … ship",
        "Input": "8×8 · RGB",
        "Normalised": "CIFAR-10",
        "Check": "93.1 % clean",
    }
    assert marks(panel) == {}
    assert panel.choice.currentText() == "net.pt"
    assert panel.choice.toolTip() == "/models/net.pt"
    assert panel.details_button.isEnabled()


def test_what_was_assumed_is_marked(panel: ModelPanel) -> None:
    facts = (
        Fact("family", "A net", "file", 0.8, ("A net", "B net")),
        Fact("activation", "relu", "guess", 0.75, ("relu", "silu")),
        Fact("route", "main", "name", 0.9, ("main", "aux")),
        Fact("trained against", "L2, ε = 0.5", "name", 0.8),
        Fact("normalisation", "none", "guess", 0.5, ("none", "CIFAR-10"), True, "nothing speaks for another"),
        Fact("image size", "8", "choice", 1.0, ("8", "32"), True),
    )
    show(panel, "/models/net.pt", with_facts(*facts))
    assert marks(panel) == {
        "Network": "activation: assumed, 75 % sure\nroute: from the file name, 90 % sure",
        "Normalised": "normalisation: assumed, 50 % sure",
    }
    show(panel, "/models/other.pt", with_facts())
    assert marks(panel) == {}


def test_an_encoder_says_its_features(panel: ModelPanel) -> None:
    show(panel, "/net.pt", msgspec.structs.replace(checkpoint(()), features=512, channels=1, parameters=1234))
    assert texts(panel)["Classes"] == "Encoder · 512 features"
    assert texts(panel)["Input"] == "8×8 · grey"
    assert texts(panel)["Network"] == "A net · 1,234"


def test_what_was_not_checked_is_not_claimed(panel: ModelPanel) -> None:
    show(panel, "/net.pt", checkpoint(("only",)))
    assert texts(panel)["Check"] == "–"
    assert texts(panel)["Classes"] == "1 · only"
    panel.show_check("19 of 20 images recognised", "in full")
    assert texts(panel)["Check"] == "19 of 20 images recognised"
    assert panel.facts["Check"].label.toolTip() == "in full"
    show(panel, "/other.pt", checkpoint())
    assert texts(panel)["Check"] == "–"


def test_long_names_are_elided_and_can_be_read_in_full(panel: ModelPanel) -> None:
    long = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft"
    before = panel.minimumSizeHint().width()
    show(panel, f"/{long}.pt", checkpoint((long, f"{long} & Söhne")))
    assert panel.minimumSizeHint().width() == before
    for line in panel.facts.values():
        assert line.label.toolTip() == line.text()
        assert line.width() <= panel.width()
    panel.show_opening(f"{long}.pt")
    assert panel.minimumSizeHint().width() == before


def test_files_stand_below_the_bundled_models(panel: ModelPanel) -> None:
    panel.set_models(["one", "two"], [("net.pt (a)", "/a/net.pt"), ("net.pt (b)", "/b/net.pt")])
    assert [panel.choice.itemText(i) for i in range(panel.choice.count())] == [
        "one", "two", "", "net.pt (a)", "net.pt (b)",
    ]  # fmt: skip
    panel.show_checkpoint("/b/net.pt", checkpoint())
    assert panel.choice.currentData() == "/b/net.pt"
    panel.set_models(["one", "two"], [("net.pt", "/b/net.pt")])
    assert panel.choice.currentText() == "net.pt"


def test_choosing_says_the_reference(qtbot, panel: ModelPanel) -> None:
    show(panel, "/a/net.pt", checkpoint())
    panel.choice.setFocus()
    with qtbot.waitSignal(panel.chosen) as chosen:
        QTest.keyClick(panel.choice, Qt.Key.Key_Home)
    assert chosen.args == [bundle.DEFAULT_MODEL]


def test_showing_a_model_is_not_choosing_it(qtbot, panel: ModelPanel) -> None:
    with qtbot.assertNotEmitted(panel.chosen):
        show(panel, "/a/net.pt", checkpoint())
        panel.end_opening("/a/net.pt")


def test_an_opening_that_lasts_is_shown_and_can_be_ended(qtbot, panel: ModelPanel, wait: Wait) -> None:
    show(panel, "/a/net.pt", checkpoint())
    before, height = texts(panel), panel.sizeHint().height()
    panel.show_opening("large.pt")
    assert not panel.opening.isVisible()  # it may be over in a moment
    wait(panel.opening.isVisible)
    assert panel.sizeHint().height() == height  # and nothing moves
    assert panel.opening.bar.maximum() == 0
    panel.opening.show_progress("Downloading", 0.25)
    assert panel.opening.what.text() == "Downloading large.pt"
    assert panel.opening.bar.value() / panel.opening.bar.maximum() == 0.25
    with qtbot.waitSignal(panel.cancelled):
        QTest.mouseClick(panel.opening.cancel, Qt.MouseButton.LeftButton)
    panel.end_opening("/a/net.pt")
    assert not panel.opening.isVisible()
    assert texts(panel) == before
    assert panel.choice.currentData() == "/a/net.pt"


def test_an_opening_that_is_over_at_once_is_not_shown(panel: ModelPanel) -> None:
    panel.show_opening("small.pt")
    show(panel, "/small.pt", checkpoint())
    assert not panel._late.isActive()
    assert not panel.opening.isVisible()


def test_device_and_precision(qtbot, panel: ModelPanel) -> None:
    with qtbot.assertNotEmitted(panel.placed):
        panel.set_place("cpu", "bfloat16")
    assert panel.place == ("cpu", "bfloat16")
    panel.set_place("abacus", "int3")  # settings of another version
    assert panel.place == ("auto", "float32")
    with qtbot.waitSignal(panel.placed):
        QTest.keyClick(panel.device, Qt.Key.Key_Down)
    assert panel.place == ("cpu", "float32")


def test_open_asks_for_a_file_and_details_for_details(qtbot, panel: ModelPanel) -> None:
    with qtbot.waitSignal(panel.open_wanted):
        QTest.mouseClick(panel.open_button, Qt.MouseButton.LeftButton)
    show(panel, "/a/net.pt", checkpoint())
    with qtbot.waitSignal(panel.details_wanted):
        QTest.mouseClick(panel.details_button, Qt.MouseButton.LeftButton)
