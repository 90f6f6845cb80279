"""What the files of a run say just now, read once for all who ask until they are other files.

What is written whole has another inode, what grows another size: either tells that it is to be read again. Of what
grows with every step only the end is read: an answer costs as much in the last hour of a training as in the first.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..trainers.run import folder as runs
from ..trainers.run.folder import Run

LOG_BYTES = 200_000  # of the end of a log, in which its last lines are looked for
MOST_KNOWN = 1_000  # runs whose folder is remembered
State = tuple[int, int, int]

_known: dict[tuple[Path, str], Run] = {}


def find_run(runs_root: Path, run_id: str) -> Run:
    """The run with this id, as `trainers.run.folder` finds it; one that was found before is not searched for again.

    Raises:
        NameRefused, TrainingError: as there.
    """
    known = _known.get((runs_root, run_id))
    if known and os.path.realpath(known.folder) == known.folder and (known.path / "settings.toml").is_file():
        return known
    run = runs.find_run(runs_root, run_id)
    if run.id == run_id:  # the latest is another one by and by
        if len(_known) >= MOST_KNOWN:
            _known.clear()
        _known[runs_root, run_id] = run
    return run


def status(run: Run) -> Mapping[str, Any]:
    """`Run.status`."""
    return _status(run, state_of(run.path / "status.json"))


def last_steps(run: Run, wanted: int) -> Sequence[Mapping[str, Any]]:
    """`Run.last_metrics`."""
    return _last_steps(run, wanted, state_of(run.path / "metrics.jsonl"))


def log_lines(run: Run, wanted: int) -> list[str]:
    """The last lines of a run's log; none before a trainer was started."""
    return list(_log_lines(run, wanted, state_of(run.path / "train.log")))


def state_of(file: Path) -> State | None:
    """What is different as soon as a file is written; None where there is none."""
    try:
        state = file.stat()
    except OSError:
        return None
    return state.st_ino, state.st_mtime_ns, state.st_size


@functools.lru_cache(maxsize=2_048)
def _status(run: Run, state: State | None) -> Mapping[str, Any]:
    return run.status() if state else {}


@functools.lru_cache(maxsize=256)
def _last_steps(run: Run, wanted: int, state: State | None) -> Sequence[Mapping[str, Any]]:
    return run.last_metrics(wanted) if state else ()


@functools.lru_cache(maxsize=64)
def _log_lines(run: Run, wanted: int, state: State | None) -> Sequence[str]:
    end, _ = runs.end_of(run.path / "train.log", LOG_BYTES)
    return end.decode(errors="replace").splitlines()[-wanted:]
