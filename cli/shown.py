"""What the command line says: results on standard output, progress and errors on standard error."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

from ..errors import writable
from ..progress import duration
from ..texts import one_line

if TYPE_CHECKING:
    from PIL.Image import Image

HEARTBEAT = 15.0  # seconds between two lines of progress where nothing can be rewritten in place
BAR = "{percentage:3.0f} % |{bar:24}| {desc}"


class Output:
    """Says results: as text for a person, or as JSON, a value a line."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def say(self, value: Any, text: str) -> None:
        print(json.dumps(value) if self.as_json else writable(text), flush=True)

    def error(self, text: str, field: str = "") -> None:
        """Say what went wrong: as a server does, where JSON is asked for."""
        if self.as_json:
            print(json.dumps({"error": {"message": text, "field": field}}), flush=True)
        else:
            print(writable(text), file=sys.stderr, flush=True)


class ProgressBar:
    """A `Progress`: one line on a terminal, rewritten in place; elsewhere a line whenever `HEARTBEAT` has passed."""

    def __init__(self) -> None:
        from tqdm import tqdm

        self._bar = tqdm(bar_format=BAR, file=sys.stderr, leave=True) if sys.stderr.isatty() else None
        self._told = 0.0

    def __call__(self, done: int, total: int, text: str = "", preview: Image | None = None) -> None:
        said = writable(one_line(", ".join(text.splitlines())))
        if self._bar is not None:
            self._bar.total, self._bar.n = total, done
            self._bar.set_description_str(said)
        elif time.monotonic() - self._told >= HEARTBEAT:
            self._told = time.monotonic()
            print(said, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def doing(job: dict[str, Any]) -> str:
    """What a job or a run on the server is at, as `GET status` tells of it."""
    if job["state"] == "queued":
        return f"waiting, {job['ahead']} before it"
    parts = [one_line(job["doing"]), f"{job['step']} of {job['total']}" if job["total"] else ""]
    if job["seconds_left"]:
        parts.append(f"{duration(job['seconds_left'])} left")
    return ", ".join(part for part in parts if part) or job["state"]


def job_text(job: dict[str, Any]) -> str:
    """A job or a run on the server, with what to do about it where something is to be done."""
    line = f"{job['run'] or job['run_id']}  {job['state']}"
    if job["state"] in ("queued", "running"):
        line += f"  {doing(job)}"
    elif job["total"]:
        line += f"  {job['step']} of {job['total']}"
    beneath = [job["lora"] or "", job["data"]["error"] or "", job["remedy"]]
    return "\n    ".join([line, *(part for part in beneath if part)])


def answer_text(answer: dict[str, Any]) -> str:
    """What a job gave: its message, and beneath that a line for each thing."""
    lines = [str(answer["message"])]
    for name, value in answer.items():
        if isinstance(value, dict):
            lines += [f"{key}: {each}" for key, each in value.items()]
        elif name not in ("message", "job_id"):
            lines.append(f"{name}: {value}")
    return "\n    ".join(lines)


def run_line(run: dict[str, Any]) -> str:
    """A run as the routes tell of it, on one line."""
    parts = [run["id"], run["state"]]
    if run["total"]:
        parts.append(f"step {run['step']} of {run['total']}")
    if run.get("seconds_left"):
        parts.append(f"{duration(run['seconds_left'])} left")
    if run["best_step"] is not None:
        parts.append(f"best at step {run['best_step']}")
    return "  ".join(parts)


def run_text(run: dict[str, Any]) -> str:
    """The same with what there is to know beside it."""
    beneath = [run["doing"] if run["state"] == "starting" else "", run["warning"], run["error"]]
    if steps := run.get("checkpoints"):
        beneath.append(f"checkpoints at step {', '.join(map(str, steps))}")
    return "\n    ".join([run_line(run), *(one_line(line) for line in beneath if line)])
