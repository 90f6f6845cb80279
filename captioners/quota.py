"""What a service lets each project send per minute and per day, kept on disk so that a restart forgets nothing.

Google counts requests per minute, input tokens per minute and requests per day, each per project and model, not per
key; days end at midnight in California (ai.google.dev/gemini-api/docs/rate-limits).
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from ..clock import Clock
from ..errors import CaptionError
from ..files import append_line, has_types, parsed_json, write_whole
from ..rate_limit import Limit, wait_for_room
from .waiting import waiting

MINUTE = 60.0  # seconds
MARGIN = 0.75  # seconds longer than a minute: requests do not all travel equally fast, and the service counts arrivals
ZONE = "America/Los_Angeles"
LOCK_POLL = 0.005  # seconds between two attempts to lock a usage file: it is held for a few lines only
SKEW = 5.0  # seconds that a request may lie ahead of the clock before it counts as set back
COMPACT_ABOVE = 1_000_000  # bytes of a usage file, which is then written anew with what still counts
SET_BACK = "The clock of this computer was set back: requests that lie ahead of it count as sent now."


class DayLimitReached(CaptionError):
    """Every project's requests of the day are used up; the text says when they come back."""


@dataclass(frozen=True)
class ProjectLimits:
    """Of one project. Google shows them in AI Studio; these are what the free tier was last reported to give."""

    requests_per_minute: int = 15
    tokens_per_minute: int = 250_000  # of input
    requests_per_day: int = 1_500


@dataclass
class CountedRequest:
    """One request: counted when it is about to be sent, again when it has left, and its tokens when they are known."""

    time: float  # seconds since 1970
    tokens: int
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])

    def line(self) -> str:
        return json.dumps({"request": self.id, "time": self.time, "tokens": self.tokens})


def midnight(time: float, days: int = 1) -> float:
    """Midnight in California so many days after the one that began the day of `time`, in seconds since 1970.

    Days are counted by the calendar there: two a year have 23 and 25 hours.
    """
    from zoneinfo import ZoneInfo

    today = datetime.fromtimestamp(time, ZoneInfo(ZONE)).date()
    return datetime.combine(today + timedelta(days=days), datetime.min.time(), ZoneInfo(ZONE)).timestamp()


@dataclass
class ProjectBudget:
    """What one project has left. Lives as long as a run; the file outlives it, and is shared by all that send."""

    project: str
    limits: ProjectLimits
    file: Path
    clock: Clock
    requests: list[CountedRequest] = field(default_factory=list)  # of this day and the last minute, oldest first
    paused_until: float = 0.0
    spent_until: float = 0.0  # the service itself said that the day is over
    paused_for: str = "the service asks for a pause"
    waits_for: str = ""  # what holds the next request up
    set_back: bool = False  # whether the clock was, since something was written to the file

    def __post_init__(self) -> None:
        from filelock import FileLock

        self.file.parent.mkdir(parents=True, exist_ok=True)
        # Of all processes that use the project: none may count on what another is about to send, or writes anew.
        self._lock = FileLock(f"{self.file}.lock")
        self._by_id = {request.id: request for request in self.requests}
        self._inode, self._read = 0, 0  # of the file, and its bytes
        with self._locked():
            self._catch_up()
            self._heed_clock()
            self._forget()
            if self._read > COMPACT_ABOVE:
                write_whole(self.file, "".join(f"{line}\n" for line in self._lines()))

    def _locked(self) -> AbstractContextManager[object]:
        return self._lock.acquire(poll_interval=LOCK_POLL)

    def _catch_up(self) -> None:
        """Take in what was written since, also by other nodes and servers that use the project; to be called locked."""
        if not self.file.exists():
            return
        found = self.file.stat()
        if found.st_ino != self._inode:  # written anew, with all that still counts; pauses may have become shorter
            self._inode, self._read = found.st_ino, 0
            self.paused_until = self.spent_until = 0.0
        if found.st_size == self._read:
            return
        with open(self.file, "rb") as file:
            file.seek(self._read)
            content = file.read()
            whole = content.rfind(b"\n") + 1
            self._read = file.tell() - len(content) + whole
        for line in content[:whole].splitlines():
            with contextlib.suppress(ValueError):  # a line torn by a crash
                self._take_in(parsed_json(line))
        self.requests = sorted(self._by_id.values(), key=lambda request: request.time)

    def _take_in(self, line: object) -> None:
        """Take in a line; one with values of other types than are written is passed over."""
        if not isinstance(line, dict):
            return
        if has_types(line, request=str, time=float, tokens=int):
            request = self._by_id.setdefault(line["request"], CountedRequest(0.0, 0, line["request"]))
            request.time, request.tokens = float(line["time"]), max(line["tokens"], 0)
        for name in ("paused_until", "spent_until"):
            if has_types(line, **{name: float}):
                setattr(self, name, max(getattr(self, name), float(line[name])))

    def _heed_clock(self) -> None:
        """Where the clock was set back, count what lies ahead of it as of now, so that nothing waits longer than a
        minute, or the day, for it; to be called locked."""
        now = self.clock.time()
        ahead = [request for request in self.requests if request.time > now + SKEW]
        midnight_comes = midnight(now)
        if not ahead and self.spent_until <= midnight_comes + SKEW:
            return
        self.set_back = True
        logging.getLogger(__name__).warning("Project '%s': %s", self.project, SET_BACK)
        for request in ahead:
            request.time = now
        self.requests.sort(key=lambda request: request.time)
        self.paused_until = min(self.paused_until, now + MINUTE + MARGIN)
        self.spent_until = min(self.spent_until, midnight_comes)
        write_whole(self.file, "".join(f"{line}\n" for line in self._lines()))

    def left_today(self) -> int:
        if self.clock.time() < self.spent_until:
            return 0
        return max(0, self.limits.requests_per_day - self._today())

    def wait(self, tokens: int) -> float:
        """Seconds until a request of so many tokens may be sent; infinite when the day is used up."""
        with self._locked():
            self._catch_up()
            self._heed_clock()
        if not self.left_today():
            return math.inf
        now, within = self.clock.time(), MINUTE + MARGIN
        calls = [(request.time, 1) for request in self.requests]
        asked = [(request.time, request.tokens) for request in self.requests]
        waits = [
            self.paused_until - now,
            wait_for_room(calls, 1, Limit(self.limits.requests_per_minute, within), now),
            wait_for_room(asked, tokens, Limit(self.limits.tokens_per_minute, within), now),
        ]
        reasons = [
            self.paused_for,
            f"it may send {self.limits.requests_per_minute} requests a minute",
            f"it may send {self.limits.tokens_per_minute:,} tokens a minute",
        ]
        self.waits_for = f"project '{self.project}': {reasons[waits.index(max(waits))]}"
        return max(0.0, *waits)

    def spend(self, tokens: int) -> CountedRequest | None:
        """Count a request that is about to be sent; it is on disk when this returns. None: it may not be sent yet."""
        with self._locked():
            if self.wait(tokens) > 0:
                return None
            self._forget()
            request = CountedRequest(self.clock.time(), tokens)
            self.requests.append(request)
            self._by_id[request.id] = request
            self._append(request.line())
        return request

    def sent(self, request: CountedRequest) -> None:
        """The request has left only now: what the service counts is its arrival."""
        request.time = self.clock.time()
        self.requests.sort(key=lambda request: request.time)
        self._append(request.line())

    def used(self, request: CountedRequest, tokens: int) -> None:
        """The answer says how many tokens the question had."""
        if tokens != request.tokens:
            request.tokens = tokens
            self._append(request.line())

    def pause(self, seconds: float, reason: str = "") -> None:
        self.paused_for = reason[:120] or self.paused_for
        self.paused_until = max(self.paused_until, self.clock.time() + seconds)
        self._append(f'{{"paused_until": {self.paused_until!r}}}')

    def end_day(self) -> None:
        """The service says that this project's requests of the day are used up, whatever was counted here."""
        self.spent_until = midnight(self.clock.time())
        self._append(f'{{"spent_until": {self.spent_until!r}}}')

    def _append(self, line: str) -> None:
        with self._locked():  # else it may be lost while another process writes the file anew
            append_line(self.file, line)

    def _today(self) -> int:
        begin = midnight(self.clock.time(), 0)
        return sum(request.time >= begin for request in self.requests)

    def _forget(self) -> None:
        begin = min(midnight(self.clock.time(), 0), self.clock.time() - MINUTE - MARGIN)
        if self.requests and self.requests[0].time < begin:
            self.requests = [request for request in self.requests if request.time >= begin]
            self._by_id = {request.id: request for request in self.requests}

    def _lines(self) -> list[str]:
        marks = {"paused_until": self.paused_until, "spent_until": self.spent_until}
        return [request.line() for request in self.requests] + [json.dumps(marks)]


async def take(
    budgets: Sequence[ProjectBudget], tokens: int, clock: Clock, check: Callable[[], None]
) -> tuple[ProjectBudget, CountedRequest]:
    """Wait until a project may send a request of so many tokens, and count it; the one with most left goes first.

    Args:
        check: called before the request is counted and while this waits; ends it by raising.

    Raises:
        DayLimitReached: no project has a request left today.
    """
    while True:
        check()
        waits = [budget.wait(tokens) for budget in budgets]
        shortest = min(waits)
        if shortest == math.inf:
            raise DayLimitReached(_day_limit_text(budgets, clock))
        if shortest > 0:
            with waiting(budgets[waits.index(shortest)].waits_for, clock.time() + shortest):
                await clock.sleep(shortest, check)
            continue
        ready = [budget for budget, wait in zip(budgets, waits, strict=True) if wait <= 0]
        chosen = max(ready, key=ProjectBudget.left_today)
        if request := chosen.spend(tokens):
            return chosen, request


def _day_limit_text(budgets: Sequence[ProjectBudget], clock: Clock) -> str:
    reset = midnight(clock.time())
    local = datetime.fromtimestamp(reset).astimezone()
    hours = (reset - clock.time()) / 3600
    names = ", ".join(budget.project for budget in budgets)
    clock_note = f" {SET_BACK}" if any(budget.set_back for budget in budgets) else ""
    return (
        f"The requests of the day are used up for every project ({names}). They come back at "
        f"{local:%Y-%m-%d %H:%M %Z}, in {hours:.1f} hours. Queue again then, or name another project.{clock_note}"
    )
