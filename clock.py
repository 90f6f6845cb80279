"""The time that limits and waits are reckoned in: the system's, or one that runs faster to try a day's limits out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

POLL = 0.2  # seconds, of the system, between looks at whether a wait shall end


class Stopped(Exception):
    """Ends a wait or a transfer: the work was called off meanwhile."""


@dataclass(frozen=True)
class Clock:
    """The system's; or one that runs `scale` times as fast since `start`, alike in all processes given the same two."""

    start: float = 0.0  # seconds since 1970
    scale: float = 1.0

    def time(self) -> float:
        """Seconds since 1970: calls are remembered over restarts."""
        return self.start + (time.time() - self.start) * self.scale

    def wait(self, seconds: float) -> None:
        """Let this thread wait."""
        time.sleep(seconds / self.scale)

    async def sleep(self, seconds: float, check: Callable[[], None]) -> None:
        """Let this task wait; `check` is called at once and every `POLL` seconds, and ends the wait by raising."""
        end = self.time() + seconds
        check()
        while (left := end - self.time()) > 0:
            await asyncio.sleep(min(left / self.scale, POLL))
            check()


SYSTEM = Clock()


def now_and_then(check: Callable[[], None]) -> Callable[[], None]:
    """`check`, to be called as often as one likes: it is passed on at the first call and then every `POLL` seconds."""
    last = float("-inf")

    def throttled() -> None:
        nonlocal last
        if time.monotonic() - last >= POLL:
            check()
            last = time.monotonic()

    return throttled
