"""Every act that has a name and a key, and the menus that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PySide6.QtCore import Qt
from PySide6.QtGui import QAction, QActionGroup, QKeySequence, QUndoStack
from PySide6.QtWidgets import QMainWindow, QMenu, QWidget


@dataclass
class Actions:
    open_images: QAction
    open_model: QAction
    open_zoo: QAction
    open_run: QAction
    open_training: QAction
    details: QAction
    clear_recent: QAction
    samples: QAction
    photos: QAction
    export: QAction
    quit: QAction
    undo: QAction
    redo: QAction
    paste: QAction
    run: QAction
    one_step: QAction
    stop: QAction
    back: QAction
    fork: QAction
    resume: QAction
    verify: QAction
    copy_command: QAction
    previous: QAction
    next: QAction
    first: QAction
    last: QAction
    previous_event: QAction
    next_event: QAction
    loop: QAction
    large: QAction
    lens: QAction
    recording: QAction
    reset: QAction
    log: QAction
    about: QAction
    schemes: QActionGroup


def make(window: QMainWindow, centre: QWidget, stack: QUndoStack) -> Actions:
    """The actions, not yet connected. Those of the step cursor work where the images have the focus, since the same
    keys move sliders and text cursors elsewhere."""

    def action(text: str, keys: QKeySequence.StandardKey | str = "", tip: str = "", *, of: QWidget = window) -> QAction:
        made = QAction(text, of)
        made.setShortcut(QKeySequence(keys))
        made.setToolTip(tip or text.replace("&", "").rstrip("…"))
        made.setStatusTip(tip)
        if of is centre:
            made.setShortcutContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
        of.addAction(made)
        return made

    standard = QKeySequence.StandardKey
    undo, redo = stack.createUndoAction(window, "&Undo"), stack.createRedoAction(window, "&Redo")
    undo.setShortcuts(standard.Undo)
    redo.setShortcuts(standard.Redo)
    window.addActions([undo, redo])
    lens = action("C&EM lens", "C", "Split each step into its class part ∇f(x,y) and marginal part ∇LSE(x)", of=centre)
    lens.setCheckable(True)
    schemes = QActionGroup(window)
    for mode, text in (("system", "As the system"), ("dark", "Dark"), ("light", "Light")):
        scheme = schemes.addAction(text)
        scheme.setCheckable(True)
        scheme.setData(mode)
    return Actions(
        open_images=action("Open &images…", standard.Open, "Start from image files"),
        open_model=action("Open &model…", "Ctrl+Shift+O", "Open a checkpoint file"),
        open_zoo=action("Open from Robust&Bench…", "", "Open a published model, which is downloaded if you say so"),
        open_run=action("Open a recorded ru&n…", "", "Open the folder of a recorded run, wherever it is"),
        open_training=action("Open &training folder…", "", "Watch the learning curves of a training"),
        details=action("Model &details…", "Ctrl+I", "What was recognised of the model, and what was assumed"),
        clear_recent=action("&Clear", "", "Forget the recent files"),
        samples=action("&Sample images", "", "Start from the bundled images"),
        photos=action("Sample &photos", "", "Start from the bundled photos, which are larger than the model's input"),
        export=action("&Export…", "Ctrl+E", "Write images, animation, curves and settings"),
        quit=action("&Quit", standard.Quit),
        undo=undo,
        redo=redo,
        paste=action("&Paste images", standard.Paste, "Start from images or files in the clipboard"),
        run=action("&Run", "Space", "Run or pause"),
        one_step=action("&One step", ".", "Take one step, then pause"),
        stop=action("S&top", "Esc", "End the run; what was recorded stays"),
        back=action("&Back to the previous run", "Alt+Left", "Show the run before this one again"),
        fork=action("For&k here", "Ctrl+Shift+F", "Start anew from the step in sight, with the settings as they are"),
        resume=action("R&esume this run", "", "Go on with the run in sight, as if it had never been interrupted"),
        verify=action("Ver&ify this run", "", "Run it again, and see whether every step comes out the same"),
        copy_command=action("Copy as co&mmand", "", "Copy the command that repeats the run in sight"),
        previous=action("&Previous step", "Left", of=centre),
        next=action("&Next step", "Right", of=centre),
        first=action("&First step", "Home", of=centre),
        last=action("&Last step", "End", of=centre),
        previous_event=action("Previous e&vent", "[", "Go to what happened before this step"),
        next_event=action("Ne&xt event", "]", "Go to what happens next"),
        loop=action("Pla&y in a loop", "L", of=centre),
        large=action("&Large view", "F", "Show the chosen chain large", of=centre),
        lens=lens,
        recording=action("Recordin&g…", "", "Whether runs are recorded, where, and how much room they may take"),
        reset=action("&Reset layout", "", "Put every panel back where it was"),
        log=action("Open the &log folder"),
        about=action("&About CEM Explorer"),
        schemes=schemes,
    )


def tabs(window: QMainWindow, titles: Sequence[str]) -> QActionGroup:
    """An action a view of the centre, Alt+1 and on; its data is its index."""
    group = QActionGroup(window)
    for index, title in enumerate(titles):
        action = group.addAction(title)
        action.setCheckable(True)
        action.setChecked(index == 0)
        action.setShortcut(f"Alt+{index + 1}")
        action.setData(index)
    return group


def fill(
    window: QMainWindow,
    acts: Actions,
    recent: QMenu,
    stages: QActionGroup,
    views: QActionGroup,
    docks: list[QAction],
) -> None:
    """Put every action into a menu; `recent` has its own."""
    bar = window.menuBar()
    file = bar.addMenu("&File")
    file.addActions([acts.open_images, acts.open_model])
    file.addMenu(recent)
    file.addActions([acts.open_zoo, acts.open_run, acts.open_training])
    file.addSeparator()
    file.addActions([acts.details])
    file.addSeparator()
    file.addActions([acts.samples, acts.photos])
    file.addSeparator()
    file.addActions([acts.export])
    file.addSeparator()
    file.addActions([acts.quit])
    edit = bar.addMenu("&Edit")
    edit.addActions([acts.undo, acts.redo])
    edit.addSeparator()
    edit.addActions([acts.paste])
    run = bar.addMenu("&Run")
    run.addActions([acts.run, acts.one_step, acts.stop])
    run.addSeparator()
    run.addActions([acts.first, acts.previous, acts.next, acts.last])
    run.addActions([acts.previous_event, acts.next_event, acts.loop])
    run.addSeparator()
    run.addActions([acts.fork, acts.resume, acts.verify, acts.copy_command])
    run.addSeparator()
    run.addActions([acts.back])
    view = bar.addMenu("&View")
    view.addActions(stages.actions())
    view.addSeparator()
    view.addActions(views.actions())
    view.addActions([acts.lens, acts.large])
    view.addSeparator()
    view.addMenu("&Colours").addActions(acts.schemes.actions())
    view.addSeparator()
    view.addActions([*docks, acts.reset])
    view.addSeparator()
    view.addActions([acts.recording])
    bar.addMenu("&Help").addActions([acts.log, acts.about])
