"""The time that limits and waits are reckoned in: the system's, or one that runs faster to try a day's limits out."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Protocol


class Clock(Protocol):
    def time(self) -> float:
        """Seconds since 1970."""

    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    def time(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


SYSTEM = SystemClock()


@dataclass(frozen=True)
class ScaledClock:
    """Runs `scale` times as fast as the system's clock since `start`; processes with the same two agree on the time."""

    start: float  # seconds since 1970
    scale: float

    def time(self) -> float:
        return self.start + (time.time() - self.start) * self.scale

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / self.scale)
