"""Steps a person watches: commands with their output in a log, a line that shows life, advice when one fails."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HEARTBEAT = 15.0  # seconds between two lines about the same step where nothing can be rewritten in place
LINE_WIDTH = 110  # characters; a longer line would wrap and could not be rewritten
TAIL_WIDTH = 300  # characters of each line of a log
TAIL_LINES = 12  # of a log, shown when its step fails

_CAUSES = (
    (
        (
            "could not resolve",
            "name resolution",
            "dns error",
            "timed out",
            "unreachable",
            "connection",
            "proxy",
            "certificate",
        ),
        "The network or a proxy looks like the cause: check it, then run the same command again (downloads are kept).",
    ),
    (
        ("no space left", "disk quota"),
        "The disk is full: free some space (about 8 GB are needed), then run the same command again.",
    ),
    (
        ("permission denied", "read-only file system"),
        "A file cannot be written: check who owns the folder, then run the same command again.",
    ),
    (
        ("no matching distribution", "no solution found", "no wheels", "requires-python", "requires python"),
        "A package does not exist for this Python or system: use Python 3.10 to 3.14, for example PYTHON=python3.12.",
    ),
)


class StepFailed(Exception):
    """A step of the setup did not work. The text says which, why and what to do."""


class Screen:
    """One line of progress: rewritten in place on a terminal, repeated every `HEARTBEAT` seconds elsewhere."""

    def __init__(self) -> None:
        self.in_place = sys.stdout.isatty()
        self._last_shown = 0.0

    def alive(self, text: str) -> None:
        """Show what is going on; the next call replaces it."""
        now = time.monotonic()
        if self.in_place:
            print(f"\r\033[K{text[:LINE_WIDTH]}", end="", flush=True)
        elif now - self._last_shown >= HEARTBEAT:
            print(text[:LINE_WIDTH], flush=True)
            self._last_shown = now

    def line(self, text: str = "") -> None:
        """Print a line that stays."""
        print(f"\r\033[K{text}" if self.in_place else text, flush=True)
        self._last_shown = time.monotonic()


class Steps:
    """The steps of one setup in order: each is timed, its commands are logged under `logs`."""

    def __init__(self, logs: Path, screen: Screen) -> None:
        self.logs = logs
        self.screen = screen
        self.seconds: dict[str, float] = {}
        self._title = ""
        self._started = 0.0

    @contextmanager
    def step(self, title: str) -> Iterator[list[str]]:
        """Time a step. The block appends to the yielded list what the closing line says about it."""
        self._title, self._started = title, time.monotonic()
        self.screen.alive(f"  {title} …")
        said: list[str] = []
        yield said
        self.seconds[title] = time.monotonic() - self._started
        self.screen.line(f"  {title:<16} {self.seconds[title]:6.1f} s  {' '.join(said)}".rstrip())

    def run(self, command: list[str | Path], env: dict[str, str] | None = None, timeout: float | None = None) -> None:
        """Run a command of the current step, its output going to the step's log.

        Raises:
            StepFailed: it exited with another status than 0, or took longer than `timeout` seconds.
        """
        log = self.logs / f"{self._title.lower().replace(' ', '-')}.log"
        words = [str(word) for word in command]
        with open(log, "a", encoding="utf-8") as output:
            output.write(f"$ {shlex.join(words)}\n")
            output.flush()
            began = output.tell()
            try:
                process = subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=env
                )
            except OSError as error:
                raise StepFailed(failure_text(self._title, words, str(error), str(error), log)) from error
            try:
                self._watch(process, log, timeout)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        if process.returncode:
            with open(log, encoding="utf-8", errors="replace") as file:
                file.seek(began)
                said = file.read()
            raise StepFailed(failure_text(self._title, words, f"exit status {process.returncode}", said, log))

    def _watch(self, process: subprocess.Popen, log: Path, timeout: float | None) -> None:
        began = time.monotonic()
        while process.poll() is None:
            try:
                process.wait(timeout=0.5)
            except subprocess.TimeoutExpired:
                if timeout is not None and time.monotonic() - began > timeout:
                    process.kill()
                seconds = time.monotonic() - self._started
                self.screen.alive(f"  {self._title:<16} {seconds:6.0f} s  {last_line(log)}")

    def save(self, path: Path) -> None:
        """Write the seconds of each step as JSON, for a summary printed by another process."""
        path.write_text(json.dumps(self.seconds), encoding="utf-8")


def last_line(log: Path) -> str:
    """The last line of a growing log that says something."""
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - 2000))
        lines = file.read().decode(errors="replace").replace("\r", "\n").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def failure_text(title: str, command: list[str], what: str, said: str, log: Path) -> str:
    """Tell which command of which step failed, how its output ended, and what to do about it."""
    lines = [line for line in said.splitlines() if line.strip()][-TAIL_LINES:]
    lowered = said.lower()
    causes = [remedy for signs, remedy in _CAUSES if any(sign in lowered for sign in signs)]
    remedy = causes[0] if causes else "The log says more; once the cause is mended, run the same command again."
    shown = "\n".join(f"    {line[:TAIL_WIDTH]}" for line in lines)
    return f"{title} failed ({what}):\n  $ {shlex.join(command)}\n{shown}\n{remedy}\nWhole log: {log}"
