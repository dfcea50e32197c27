"""What a training has told so far, read from its folder, again and again while it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Self

import msgspec

from cem_core.messages import Refused
from cem_core.recording import is_held
from cem_core.training.progress import LOG, RECIPE, Began, Ended, Epoch, Progress, Word
from cem_core.training.recipe import LARGEST, Recipe

_LONGEST: Final = 2**20
"""Bytes of a line that are read at once; the longest names its classes, and has a hundredth of that."""
_MARK: Final = 512
"""Bytes before the place up to which it was read: where these are others, the log is another."""
_GREATEST: Final = 2**53
"""Of numbers: what a plot takes."""


class History:
    """The words of a training. Nothing here is written, and any line may be hostile.

    Attributes:
        progress: one a step, later words in place of earlier ones, as a training that goes on repeats steps.
        epochs: likewise, one an epoch.
        began: how it began, or went on last; None: it has not said so.
        ended: None while it goes on, or after it was killed.
    """

    began: Began | None
    ended: Ended | None
    _place: int
    """Bytes that were read."""
    _mark: bytes
    _progress: dict[int, Progress]
    _epochs: dict[int, Epoch]

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        """For `open`, which checks."""
        self.folder = folder
        self.recipe = recipe
        self._forget()

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Nothing of the log is read yet, which need not be there.

        Raises:
            Refused: the folder is none of a training.
        """
        try:
            if not is_training(folder):
                raise Refused(f"{folder} is no folder of a training, which holds a {RECIPE}: choose another.")
            with (folder / RECIPE).open("rb") as file:
                text = file.read(LARGEST + 1)
        except OSError as error:
            raise Refused(f"{folder} cannot be read ({error.strerror or error}): choose another folder.") from error
        try:
            if len(text) > LARGEST:
                raise ValueError
            return cls(folder, msgspec.json.decode(text, type=Recipe))
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise Refused(f"The {RECIPE} in {folder} is none of a training, or damaged: choose another.") from error

    def read(self) -> list[Word]:
        """The words that are new, in the order of the log; all of them if it was replaced by another.

        A last line without its end waits, and a line that is no word is passed over.

        Raises:
            Refused: there is a log that cannot be read.
        """
        path = self.folder / LOG
        found: list[Word] = []
        try:
            if path.exists() and not path.is_file():  # a pipe might never end
                raise Refused(f"{path} is no ordinary file: choose another folder.")
            with path.open("rb") as file:
                file.seek(self._place - len(self._mark))
                if file.read(len(self._mark)) != self._mark:
                    self._forget()
                    file.seek(0)
                while line := file.readline(_LONGEST):
                    if not line.endswith(b"\n") and len(line) < _LONGEST:
                        break
                    self._place += len(line)
                    self._mark = (self._mark + line)[-_MARK:]
                    if (word := _word(line)) is not None:
                        self._take(word)
                        found.append(word)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise Refused(f"{path} cannot be read ({error.strerror or error}): check the folder.") from error
        return found

    @property
    def progress(self) -> tuple[Progress, ...]:
        return tuple(self._progress[step] for step in sorted(self._progress))

    @property
    def epochs(self) -> tuple[Epoch, ...]:
        return tuple(self._epochs[number] for number in sorted(self._epochs))

    @property
    def running(self) -> bool:
        """Whether a program trains there just now; where none does and it has not ended, it was killed."""
        return is_held(self.folder)

    def checkpoint(self, epoch: Epoch) -> Path:
        """The file of an epoch's weights. Raises Refused if it is gone, or the log names one elsewhere."""
        try:
            path = (self.folder / epoch.file).resolve()
            there = path.is_relative_to(self.folder.resolve()) and path.is_file()
        except (OSError, ValueError, RuntimeError):  # a name that cannot be, or links in a ring
            there = False
        if not there:
            raise Refused(f"The checkpoint of epoch {epoch.epoch:,} is not in {self.folder}: choose another epoch.")
        return path

    def _forget(self) -> None:
        self._place, self._mark = 0, b""
        self._progress, self._epochs = {}, {}
        self.began = self.ended = None

    def _take(self, word: Word) -> None:
        match word:
            case Began():
                self.began, self.ended = word, None
            case Progress():
                self._progress[word.step] = word
            case Epoch():
                self._epochs[word.epoch] = word
            case Ended():
                self.ended = word


def is_training(path: Path) -> bool:
    """Whether it looks like the folder of a training."""
    try:
        return (path / RECIPE).is_file()
    except (OSError, ValueError):  # a name that cannot be
        return False


_decoder: Final = msgspec.json.Decoder(Began | Progress | Epoch | Ended)


def _word(line: bytes) -> Word | None:
    try:
        word: Word = _decoder.decode(line)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    numbers = [value for value in msgspec.structs.astuple(word) if isinstance(value, int | float)]
    return word if all(abs(value) <= _GREATEST for value in numbers) else None  # as infinity and NaN are not
