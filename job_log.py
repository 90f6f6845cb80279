"""The log of jobs: how long each stage took, how fast it was and how much memory it took, beside what the job made.

A stage is timed where the work is done, and counts for the job that is under way in that context; where none is,
nothing is kept. A line holds names of stages and numbers, no path, no prompt and no key: a folder can be given away
with it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import ImpastoError
from .files import append_line, has_types, read_jsonl, write_whole
from .progress import duration
from .texts import megabytes, one_line

logger = logging.getLogger(__name__)

JOBS = "jobs.jsonl"  # in the folder of a dataset or of a run
LARGEST_LOG = 1_000_000  # bytes; of a longer one the older half is forgotten
SAMPLE_SECONDS = 0.2  # between looks at the memory
YEAR_3000 = 32_503_680_000  # in seconds since 1970
DONE, FAILED, STOPPED = "done", "failed", "stopped"

MemoryHeld = Callable[[], tuple[int, int]]  # bytes of host and device memory that this process holds now


@dataclass
class Stage:
    """A part of a job.

    Attributes:
        seconds: it took, all times together that it came up.
        items: pictures, captions or steps that it got through; 0 where nothing is counted.
    """

    name: str
    seconds: float = 0.0
    items: int = 0

    def as_json(self) -> dict[str, Any]:
        said: dict[str, Any] = {"stage": self.name, "seconds": round(self.seconds, 3)}
        if self.items:
            said["items"] = self.items
            if self.seconds > 0:
                said["per_second"] = round(self.items / self.seconds, 3)
        return said


@dataclass
class LoggedJob:
    """A job that is under way.

    Attributes:
        folder: where its results lie, and so its log; None as long as nobody knows.
        stages: by name, in the order in which they began.
        host, device: greatest memory held so far, in bytes.
    """

    name: str
    folder: Path | None = None
    stages: dict[str, Stage] = field(default_factory=dict)
    host: int = 0
    device: int = 0

    def saw_memory(self, host: int, device: int) -> None:
        self.host, self.device = max(self.host, host), max(self.device, device)


_under_way: ContextVar[LoggedJob | None] = ContextVar("impasto job", default=None)


@contextlib.contextmanager
def stage(name: str, items: int = 0) -> Iterator[Stage]:
    """Time a stage of the job under way in this context. It may come up several times; the times are added up.

    Args:
        items: how many it gets through unless it is broken off; what is yielded can be given them as they are done.
    """
    job = _under_way.get()
    part = Stage(name) if job is None else job.stages.setdefault(name, Stage(name))
    began = time.perf_counter()
    try:
        yield part
        part.items += items
    finally:
        part.seconds += time.perf_counter() - began


@contextlib.contextmanager
def logged(name: str, folder: str | Path | None = None, memory: MemoryHeld | None = None) -> Iterator[LoggedJob]:
    """Run a job and add its line to the log in its folder, whether it is done, fails or is stopped.

    A log that cannot be written is told in ComfyUI's log and costs nothing else.

    Args:
        name: of the job, for a person.
        folder: where its results lie, if that is known already; else to be set on what is yielded.
        memory: asked a few times a second.
    """
    job = LoggedJob(name, Path(folder) if folder else None)
    token = _under_way.set(job)
    started, began, outcome = time.time(), time.perf_counter(), STOPPED
    try:
        with _watched(job, memory):
            yield job
        outcome = DONE
    except Exception:
        outcome = FAILED
        raise
    finally:
        _under_way.reset(token)
        _write(job, started, time.perf_counter() - began, outcome)


@contextlib.contextmanager
def _watched(job: LoggedJob, memory: MemoryHeld | None) -> Iterator[None]:
    if memory is None:
        yield
        return
    ended = threading.Event()

    def watch() -> None:
        job.saw_memory(*memory())
        while not ended.wait(SAMPLE_SECONDS):
            job.saw_memory(*memory())

    thread = threading.Thread(target=watch, name="impasto job log", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _write(job: LoggedJob, started: float, seconds: float, outcome: str) -> None:
    if job.folder is None or not job.folder.is_dir():  # it failed before there was anything
        return
    line = {
        "job": job.name,
        "started": round(started, 3),
        "seconds": round(seconds, 3),
        "outcome": outcome,
        "stages": [part.as_json() for part in job.stages.values()],
        "peak_memory": job.host,
        "peak_device_memory": job.device,
    }
    path = job.folder / JOBS
    try:
        _forget_old(path)
        append_line(path, json.dumps(line))
    except (OSError, ImpastoError):
        logger.exception("The log of jobs %s could not be written", path)


def _forget_old(path: Path) -> None:
    if path.is_file() and path.stat().st_size > LARGEST_LOG:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        write_whole(path, "".join(lines[len(lines) // 2 :]))


def read_jobs(folders: Iterable[str | Path]) -> list[dict[str, Any]]:
    """The jobs logged in these folders, the newest first; lines that are damaged are left out."""
    logs = [Path(folder) / JOBS for folder in dict.fromkeys(map(str, folders))]
    types = {"job": str, "started": float, "seconds": float, "outcome": str, "stages": list}
    lines = [line for log in logs if _is_ours(log) for line in read_jsonl(log, **types)]
    whole = [line for line in lines if 0 <= line["started"] < YEAR_3000 and 0 <= line["seconds"] < YEAR_3000]
    return sorted(whole, key=lambda line: line["started"], reverse=True)


def _is_ours(log: Path) -> bool:
    """A log grows by a line after it was last cut; anything much longer was put there by someone else."""
    return log.is_file() and log.stat().st_size < 2 * LARGEST_LOG


def report(jobs: Iterable[dict[str, Any]]) -> str:
    """The jobs as lines for a person."""
    return "\n".join(line for job in jobs for line in _told(job)) or "No job is logged here yet."


def _told(job: dict[str, Any]) -> Iterator[str]:
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(job["started"]))
    yield one_line(f"{when} {job['job']}: {job['outcome']} in {_seconds(job['seconds'])}{_memory(job)}")
    for part in job["stages"]:
        if isinstance(part, dict) and has_types(part, stage=str, seconds=float):
            counted = has_types(part, items=int, per_second=float)
            rate = f", {part['items']:,} at {part['per_second']:,.3g} a second" if counted else ""
            yield f"    {one_line(part['stage'])}: {_seconds(part['seconds'])}{rate}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 90 else duration(seconds)


def _memory(job: dict[str, Any]) -> str:
    held = [(job.get("peak_memory"), "host"), (job.get("peak_device_memory"), "device")]
    said = [f"{megabytes(size)} of {where} memory" for size, where in held if isinstance(size, int) and size]
    return f", at most {' and '.join(said)}" if said else ""
