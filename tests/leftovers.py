"""What a process that was killed leaves half-written, named as it would have named it."""

from pathlib import Path

from impasto.files import temporary_beside


def of_a_killed_process(path: Path) -> Path:
    """Where a process of this machine that is no more would have been writing `path`; nothing is there yet.

    Its process id is this process's: the system gives an id again, so that only the time of its start tells.
    """
    return _of_another(path, "begun", "1")


def of_another_machine(path: Path) -> Path:
    """The same for one of which nobody here can tell whether it lives."""
    return _of_another(path, "machine", "00000000")


def _of_another(path: Path, what: str, value: str) -> Path:
    own = temporary_beside(path)
    parts = own.name.split("-")  # .partial-<machine>-<process>-<begun>-…
    parts[{"machine": 1, "begun": 3}[what]] = value
    return own.with_name("-".join(parts))
