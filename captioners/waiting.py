"""What a run waits for, and until when: told by those who wait, shown with the run's progress."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime

from ..progress import duration


@dataclass(frozen=True, eq=False)
class Wait:
    reason: str
    end: float  # seconds since 1970


waits: ContextVar[list[Wait]] = ContextVar("waits")  # of the run that this task belongs to


@contextlib.contextmanager
def waiting(reason: str, end: float) -> Iterator[None]:
    """Tell the run that this task waits, as long as the block lasts."""
    under_way, wait = waits.get([]), Wait(reason, end)
    under_way.append(wait)
    try:
        yield
    finally:
        under_way.remove(wait)


def waits_text(under_way: Sequence[Wait], now: float) -> str:
    """The wait that is over first, "waiting until 14:03:10 (25 s): 429 …"; "" where nobody waits."""
    if not under_way:
        return ""
    first = min(under_way, key=lambda wait: wait.end)
    end = datetime.fromtimestamp(first.end)
    return f"waiting until {end:%H:%M:%S} ({duration(max(0.0, first.end - now))}): {first.reason}"
