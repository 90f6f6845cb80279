"""Which process is the one that writes a run's folder: one trainer at a time, and of several processes the first."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ...errors import TrainingError

if TYPE_CHECKING:
    from .folder import Run

LOCK_SECONDS = 330.0  # how long a trainer waits for another one of the same run


def is_first_process() -> bool:
    """Whether this is the first of the processes that train, by what their launcher set: known from the start."""
    return os.environ.get("RANK", "0") == "0"


@contextlib.contextmanager
def sole_trainer(run: Run, stop_requested: Callable[[], bool]) -> Iterator[None]:
    """Hold the run's lock, so that a trainer whose ComfyUI died can save its step before the next one reads it.

    Only the first process of several takes the lock.

    Raises:
        TrainingError: another trainer still holds it after `LOCK_SECONDS`, or this one was asked to stop meanwhile.
    """
    from filelock import FileLock, Timeout

    if not is_first_process():
        yield
        return
    lock = FileLock(run.path / "run.lock")
    deadline = time.monotonic() + LOCK_SECONDS
    while not lock.is_locked:
        try:
            lock.acquire(timeout=0.5)
        except Timeout as error:
            if stop_requested() or time.monotonic() > deadline:
                raise TrainingError(
                    f"Another trainer is at work on the run '{run.id}'. Wait until it is finished, or stop it there, "
                    "and queue again."
                ) from error
    try:
        yield
    finally:
        lock.release()
