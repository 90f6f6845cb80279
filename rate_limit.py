"""Calls to a service that publishes how many it allows, kept within that, also by the process after a killed one."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from bisect import insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .clock import POLL, Clock, Stopped
from .files import append_line, read_jsonl, write_whole

SKEW = 1.0  # seconds; the system itself corrects its clock by less


@dataclass(frozen=True)
class Limit:
    """At most so many calls, or tokens, within any `seconds`."""

    most: int
    seconds: float


def wait_for_room(used: Iterable[tuple[float, int]], more: int, limit: Limit, now: float) -> float:
    """Seconds until there is room for `more` beside what was used: 0 where there is, and where there was nothing used.

    Args:
        used: time (seconds since 1970) and amount, oldest first.
    """
    recent = [(time, amount) for time, amount in used if time > now - limit.seconds]
    over = sum(amount for _, amount in recent) + more - limit.most
    wait = 0.0
    for time, amount in recent:
        if over <= 0:
            break
        over -= amount
        wait = time + limit.seconds - now
    return wait


class RateLimiter:
    """Lets calls through as fast as every limit allows, from several threads.

    A call counts from its start until the limit's time after its end: whenever in between the service counts it, the
    service never counts more than it allows.
    """

    def __init__(self, limits: Sequence[Limit], clock: Clock, ledger: Path | None = None) -> None:
        self._limits, self._clock, self._ledger = limits, clock, ledger
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._running = 0
        self._seen = clock.time()  # the latest time
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
            begin = self._now() - limit.seconds
            return limit.most - self._running - sum(end > begin for end in self._ends)

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        """Wait for a call's turn; the block is the call.

        Raises:
            Stopped: it was called off meanwhile.
        """
        while not self._admitted():
            self._clock.wait(min(POLL, max(self.countdown(), 0.01)))
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1
                now = self._now()  # first: it may put another list in place
                insort(self._ends, now)
                del self._ends[: -max(limit.most for limit in self._limits)]

    def _admitted(self) -> bool:
        with self._lock:
            if self._stopped.is_set():
                raise Stopped
            if self._wait() > 0:
                return False
            if self._ledger:
                # before the call, so that one during which the process is killed counts too
                append_line(self._ledger, json.dumps({"time": self._clock.time()}))
            self._running += 1
            return True

    def _now(self) -> float:
        """The time; where it was set back, calls and pauses that lie ahead of it are counted from now."""
        now = self._clock.time()
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
        used = [(end, 1) for end in self._ends]
        waits = [self._resume_at - now]
        for limit in self._limits:
            # where it is calls under way that fill the limit, their end is not known
            full = self._running >= limit.most
            waits.append(limit.seconds if full else wait_for_room(used, self._running + 1, limit, now))
        return max(0.0, *waits)

    def _remembered(self, seconds: float) -> list[float]:
        if self._ledger is None or not self._ledger.exists():
            return []
        now = self._clock.time()
        times = [float(line["time"]) for line in read_jsonl(self._ledger, time=float)]
        # one that lies ahead was made before the clock was set back
        recent = sorted(min(at, now) for at in times if now - seconds < at)
        write_whole(self._ledger, "".join(json.dumps({"time": at}) + "\n" for at in recent))
        return recent
