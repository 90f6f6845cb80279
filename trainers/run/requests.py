"""What a person asks of a trainer at work: a checkpoint now, samples now, to finish or to stop after this step.

A request is a letter on the trainer's standard input, whose end is already the request to stop. That pipe belongs to
the process which started the trainer, so that nobody who can write into the run's folder asks for anything, and it ends
with the trainer, so that nothing asked of one is left for the next. Of several processes any may read the letter: the
recipe adds up what they have heard.
"""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from ...errors import TrainingError

if TYPE_CHECKING:
    from .folder import Run

STOP, FINISH, SAVE, SAMPLE = KINDS = ("stop", "finish", "save", "sample")
LETTERS = {FINISH: b"f", SAVE: b"s", SAMPLE: b"p"}


class Inbox:
    """What this trainer's process has heard since it last looked; another thread puts the letters in."""

    def __init__(self, letters: SimpleQueue[bytes] | None = None) -> None:
        self._letters = letters or SimpleQueue()

    def taken(self) -> set[str]:
        """All that was asked for; it is asked for no more. Letters that mean nothing are dropped."""
        letters = set()
        with contextlib.suppress(Empty):
            while True:
                letters.add(self._letters.get_nowait())
        return {kind for kind, letter in LETTERS.items() if letter in letters}


@dataclass
class Trainer:
    """A trainer's process that this process has started.

    Attributes:
        about: where in which graph the run is trained, for whoever looks for it: `node`, `prompt`, `workflow`.
        asked_to_stop: set when somebody asked for it; whoever follows the process then does as after Cancel.
        stopping: whether it was told to end.
    """

    run: Run
    process: subprocess.Popen[bytes]
    about: Mapping[str, str]
    asked_to_stop: threading.Event = field(default_factory=threading.Event)
    stopping: bool = False


_at_work: dict[str, Trainer] = {}
_writing = threading.Lock()


@contextlib.contextmanager
def listening(run: Run, process: subprocess.Popen[bytes], about: Mapping[str, str]) -> Iterator[Trainer]:
    """Have requests to `run` reach its trainer, whose standard input is a pipe."""
    _at_work[run.folder] = trainer = Trainer(run, process, dict(about))
    try:
        yield trainer
    finally:
        if _at_work.get(run.folder) is trainer:
            del _at_work[run.folder]


def at_work() -> list[Trainer]:
    """The trainers that this process has started and that have not ended."""
    return list(_at_work.values())


def trainer_of(run: Run) -> Trainer | None:
    return _at_work.get(run.folder)


def ask(run: Run, kind: str) -> None:
    """Ask the trainer of `run` for one of `KINDS`; it hears between two steps.

    Raises:
        TrainingError: no trainer of this process is at work on it, or that one is ending.
    """
    trainer = trainer_of(run)
    if trainer is None:
        state = run.status().get("state", "new")
        raise TrainingError(
            f"No trainer of this ComfyUI is at work on the run '{run.id}', which is {state}: queue its graph to train."
        )
    if kind == STOP:
        trainer.asked_to_stop.set()
        return
    try:
        with _writing:
            trainer.process.stdin.write(LETTERS[kind])
            trainer.process.stdin.flush()
    except (OSError, ValueError) as error:  # ValueError of a pipe that was closed to have it stop
        raise TrainingError(
            f"The trainer of the run '{run.id}' is ending already: queue its graph to go on."
        ) from error
