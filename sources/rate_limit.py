"""Calls to a service that publishes how many it allows, kept within that, also by the process after a killed one."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from bisect import bisect_right, insort
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..files import append_line, read_jsonl, write_whole
from .parallel import TICK, Stopped

SKEW = 1.0  # seconds; the system itself corrects its clock by less


@dataclass(frozen=True)
class Clock:
    """Time of day, because calls are remembered over restarts; tests put their own in its place."""

    now: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True)
class Limit:
    """At most `calls` within any `seconds`."""

    calls: int
    seconds: float


class Pace:
    """Lets calls through as fast as every limit allows, from several threads.

    A call counts from its start until the limit's time after its end: whenever in between the service counts it, the
    service never counts more than it allows.
    """

    def __init__(self, limits: Sequence[Limit], clock: Clock, ledger: Path | None = None) -> None:
        self._limits, self._clock, self._ledger = limits, clock, ledger
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._running = 0
        self._seen = clock.now()  # the latest time
        self._pause = 0.0  # seconds that the service asked for
        self._ends = self._remembered(max(limit.seconds for limit in limits))  # of calls, in order of time
        self._resume_at = 0.0

    def stop(self) -> None:
        """End every wait with `Stopped`."""
        self._stopped.set()

    def pause(self, seconds: float) -> None:
        """Let no call through for so long, because the service asks for it."""
        with self._lock:
            self._pause = seconds
            self._resume_at = max(self._resume_at, self._now() + seconds)

    def countdown(self) -> float:
        """Seconds until the next call may start, as far as is known now."""
        with self._lock:
            return self._wait()

    def calls_left(self, limit: Limit) -> int:
        """How many calls the limit allows at once from now on."""
        with self._lock:
            return limit.calls - self._running - len(self._within(limit))

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        """Wait for a call's turn; the block is the call.

        Raises:
            Stopped: it was called off meanwhile.
        """
        while not self._admitted():
            self._clock.sleep(min(TICK, max(self.countdown(), 0.01)))
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1
                now = self._now()  # first: it may put another list in place
                insort(self._ends, now)
                del self._ends[: -max(limit.calls for limit in self._limits)]

    def _admitted(self) -> bool:
        with self._lock:
            if self._stopped.is_set():
                raise Stopped
            if self._wait() > 0:
                return False
            if self._ledger:
                # before the call, so that one during which the process is killed counts too
                append_line(self._ledger, json.dumps({"time": self._clock.now()}))
            self._running += 1
            return True

    def _now(self) -> float:
        """The time; where it was set back, calls and pauses that lie ahead of it are counted from now."""
        now = self._clock.now()
        if now < self._seen - SKEW:
            logging.getLogger(__name__).warning(
                "The clock of this computer was set back by %.0f s: calls that lie ahead of it count as of now.",
                self._seen - now,
            )
            self._ends = [min(end, now) for end in self._ends]
            self._resume_at = min(self._resume_at, now + self._pause)
        self._seen = now
        return now

    def _wait(self) -> float:
        now = self._now()
        waits = [self._resume_at - now]
        for limit in self._limits:
            ends = self._within(limit)
            over = len(ends) + self._running + 1 - limit.calls
            if over > 0:
                # where it is calls under way that fill the limit, their end is not known
                waits.append(ends[over - 1] + limit.seconds - now if over <= len(ends) else limit.seconds)
        return max(0.0, *waits)

    def _within(self, limit: Limit) -> list[float]:
        begin = self._now() - limit.seconds
        return self._ends[bisect_right(self._ends, begin) :]

    def _remembered(self, seconds: float) -> list[float]:
        if self._ledger is None or not self._ledger.exists():
            return []
        now = self._clock.now()
        times = [float(line["time"]) for line in read_jsonl(self._ledger, time=float)]
        # one that lies ahead was made before the clock was set back
        recent = sorted(min(at, now) for at in times if now - seconds < at)
        write_whole(self._ledger, "".join(json.dumps({"time": at}) + "\n" for at in recent))
        return recent
