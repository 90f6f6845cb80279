"""How far a job or a run is: what ComfyUI's queue says of the one, and its folder of the other."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ..trainers.run.folder import Run
from . import jobs, run_files, runs
from .jobs import Found
from .routing import Call, JobState, Refused, Reply

LOG_LINES = 10
SILENT_SECONDS = 60.0  # after which a trainer that ComfyUI does not wait for is taken for gone
GO_ON = "POST /impasto/runs/{}/continue goes on where it was."
_OF_THE_QUEUE = {
    "pending": "queued",
    "running": "running",
    "done": "finished",
    "failed": "failed",
    "stopped": "stopped",
}
# As clients of flux-train know them.
_TOLD = {"queued": "processing", "running": "processing", "finished": "completed"}


def status(call: Call) -> Reply:
    """State, step, percent, time left and the last lines of the log, of a job's or a run's id."""
    return Reply(told(call, call.path["run_id"]))


def events(call: Call) -> Reply:
    """The same as server-sent events; what is unknown is refused before the first."""
    asked = call.path["run_id"]
    told(call, asked)

    def now() -> tuple[Any, bool]:
        value = told(call, asked)
        return value, value["status"] != "processing"

    return Reply(events=now)


def cancel(call: Call) -> Reply:
    job_id = call.path["job_id"]
    found = jobs.find(call, job_id)
    if found.job_id is None or call.host is None:
        raise Refused(f"'{job_id[:100]}' was not asked for as a job, and is not in the queue.", "job_id", 404)
    return Reply({"job_id": found.job_id, "cancelled": call.host.cancel(found.job_id)})


def told(call: Call, asked: str) -> dict[str, Any]:
    """What `status` answers.

    Raises:
        Refused: there is no such job or run.
    """
    found = jobs.find(call, asked)
    state, error = state_of(found)
    of_run = runs.how_far(found.run) if found.run else {}
    resumable = state in ("stopped", "lost", "failed") and _can_go_on(found)
    step, total = _steps(found, of_run)
    percent = 100.0 if state == "finished" else min(100.0, 100.0 * step / total) if total else 0.0
    queue = found.state or JobState("")
    return {
        "run_id": asked,
        "status": _TOLD.get(state, "failed"),
        "data": {"progress": int(percent), "error": error or None},
        "state": state,
        "job_id": found.job_id,
        "run": found.run.id if found.run else None,
        "kind": found.record.kind if found.record else "train",
        "ahead": queue.ahead,
        "doing": of_run.get("doing") or queue.doing,
        "step": step,
        "total": total,
        "percent": round(percent, 2),
        "seconds_left": of_run.get("seconds_left") if state == "running" else None,
        "best_step": of_run.get("best_step"),
        "lora": next((made["lora"] for made in queue.made if "lora" in made), None) or _lora(call, found.run, state),
        "logs": run_files.log_lines(found.run, LOG_LINES) if found.run else [],
        "resumable": resumable,
        "remedy": GO_ON.format(asked) if resumable else "",
    }


def state_of(found: Found) -> tuple[str, str]:
    """What a job or a run is, and what went wrong."""
    if found.state:
        return _OF_THE_QUEUE[found.state.state], found.state.error or _stopped(found.state.state == "stopped")
    status = run_files.status(found.run) if found.run else {}
    said = status.get("state", "")
    if said == "finished":
        return "finished", ""
    if said == "failed":
        return "failed", str(status.get("error", "The trainer failed."))
    if said == "stopped":
        return "stopped", _stopped(True)
    if said in ("starting", "training") and found.run and _is_told_of(found.run):
        return "running", ""  # by a trainer of its own, or one that saves what it has because its server ended
    return "lost", "ComfyUI was started again since, and its queue begins empty."


def _can_go_on(found: Found) -> bool:
    """By the graph that was queued, or from a checkpoint."""
    return bool(found.record and found.record.graph) or bool(found.run and found.run.checkpoints())


def _stopped(it_was: bool) -> str:
    return "It was stopped before its end." if it_was else ""


def _is_told_of(run: Run) -> bool:
    said = [_written(run.path / name) for name in ("status.json", "metrics.jsonl")]
    return time.time() - max(said) < SILENT_SECONDS


def _written(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def _steps(found: Found, of_run: dict[str, Any]) -> tuple[int, int]:
    if of_run.get("total"):
        return of_run["step"], of_run["total"]
    return (found.state.done, found.state.total) if found.state else (0, 0)


def _lora(call: Call, run: Run | None, state: str) -> str | None:
    """The finished LoRA of a run that this server did not train itself."""
    if run is None or state != "finished":
        return None
    found = sorted((call.places.loras_root / run.name).glob(f"{run.id}-*.safetensors"))
    return f"{run.name}/{found[-1].name}" if found else None
