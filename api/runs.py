"""What is told of training runs, read from their folders alone: the same after a restart, and during training."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ImpastoError
from ..files import parsed_json
from ..paths import child_of
from ..trainers.flux.header import read_header
from ..trainers.run import folder as runs
from ..trainers.run import requests
from ..trainers.run.folder import Job, Run
from ..trainers.run.launch import PREVIEW
from . import jobs, run_files
from .routing import PREFIX, Call, Refused, Reply, whole_number

MOST_RUNS, MOST_LINES, PROMPTS_BYTES = 1_000, 1_000, 1_000_000
# Files of a run that may be read: what people and pages show. A trainer's state is none of it.
READABLE = {".png", ".jpg", ".webp", ".json", ".jsonl", ".toml", ".log", ".html", ".safetensors"}
RECENT_STEPS = 20  # whose mean duration says how long the rest will take


def listed(call: Call) -> Reply:
    """Summaries of the runs, `limit` of them; a run whose folder is damaged says so in `error`."""
    limit = whole_number(call, "limit", MOST_RUNS, 1, MOST_RUNS)
    found = runs.list_runs(call.places.runs_root)
    summaries = [summary(run_files.find_run(call.places.runs_root, name)) for name in found[:limit]]
    return Reply({"runs": summaries, "active": [_active(trainer) for trainer in requests.at_work()]})


def described(call: Call) -> Reply:
    """The summary of one run, with its settings, checkpoints, and samples: `count` side by side in each picture, in the
    order of `prompts`, which is empty where they are not known.
    """
    run = run_of(call)
    told = summary(run)
    try:
        job = Job.read(run)
        told["settings"] = job.settings.to_dict()
        told["continued_from"], told["first_step"] = job.continued_from, job.first_step
        told["prompts"] = _prompts(job, call.places.datasets_roots)
    except ImpastoError as error:  # its pictures and its log are told of all the same
        told["error"] = told["error"] or str(error)
    told["checkpoints"] = list(run.checkpoints())
    told["samples"] = [
        {"step": step, "pictures": _pictures(run, file), "count": _count(file)} for step, file in run.samples().items()
    ]
    return Reply(told)


def metrics(call: Call) -> Reply:
    """The records of the steps behind `after`."""
    after, run = whole_number(call, "after", -1, -1), run_of(call)
    records = run_files.last_steps(run, RECENT_STEPS)  # a page asks each second for what is new
    if not records or records[0]["step"] > after:
        records = run.metrics()
    return Reply({"records": [record for record in records if record["step"] > after]})


def log(call: Call) -> Reply:
    """The last `lines` of train.log; none before a trainer was started."""
    return Reply({"lines": run_files.log_lines(run_of(call), whole_number(call, "lines", 100, 1, MOST_LINES))})


def file(call: Call) -> Reply:
    """A file in the run's folder, of a kind that people read."""
    run = run_of(call)
    names = call.path["file"].split("/")
    path = child_of(run.path, *names, what="file")
    if path.suffix not in READABLE or not path.is_file():
        raise Refused(f"The run '{run.id}' has no file '{call.path['file'][:200]}' to read.", "file", 404)
    return Reply(file=path)


def run_of(call: Call) -> Run:
    """The run that the path names, by its own id, its job's or `latest`."""
    return jobs.run_of(call, call.path["run_id"])


def _active(trainer: requests.Trainer) -> dict[str, Any]:
    return {"run": trainer.run.id, "stopping": trainer.stopping, **trainer.about}


def _prompts(job: Job, roots: tuple[Path, ...]) -> list[str]:
    """Texts of the samples; none where the encoded data is gone, or a held-out caption stands in for them.

    The job is what strangers may have written: only a small file within a dataset is read for it.
    """
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        file = (Path(job.features_folder) / job.prompts).resolve()
        within = any(file.is_relative_to(root.resolve()) for root in roots)
        if job.prompts and within and file.is_file() and file.stat().st_size < PROMPTS_BYTES:
            return [str(prompt["text"]) for prompt in parsed_json(file.read_bytes())]
    return []


def _count(latents: Path) -> int:
    """How many samples a file holds; 1 of a damaged one."""
    with contextlib.suppress(ImpastoError, OSError, KeyError, IndexError):
        return max(1, int(read_header(latents).tensors["latents"]["shape"][0]))
    return 1


def summary(run: Run) -> dict[str, Any]:
    status = run_files.status(run)
    previews = [picture for sample in run.samples().values() for picture in _pictures(run, sample)]
    return {
        "id": run.id,
        "name": run.name,
        **how_far(run),
        "plan": status.get("plan", ""),
        "warning": status.get("warning", ""),
        "error": status.get("error", ""),
        "finished_early": status.get("finished_early") is True,
        "active": None if (trainer := requests.trainer_of(run)) is None else _active(trainer),
        "peak_memory": status.get("peak_memory", 0),
        "peak_device_memory": status.get("peak_device_memory", 0),
        "updated": _updated(run),
        "thumbnail": previews[-1] if previews else None,
    }


def how_far(run: Run) -> dict[str, Any]:
    """What changes from step to step; of a run that is being trained with `seconds_left`."""
    status = run_files.status(run)
    told: dict[str, Any] = {
        "state": status.get("state", "new"),
        "step": status.get("step", 0),
        "total": status.get("total", 0),
        "best_step": status.get("best_step"),
        "doing": status.get("doing", ""),
    }
    if told["state"] in ("starting", "training"):
        records = run_files.last_steps(run, RECENT_STEPS)
        told["step"] = max(told["step"], records[-1]["step"] if records else 0)
        told["seconds_left"] = _seconds_left(records, told["total"])
    return told


def _updated(run: Run) -> float | None:
    """When its trainer last said something, in seconds since 1970."""
    with contextlib.suppress(OSError):
        return (run.path / "status.json").stat().st_mtime
    return None


def _seconds_left(records: Sequence[Mapping[str, Any]], total: int) -> float | None:
    recent = [record["seconds"] for record in records if "seconds" in record][-RECENT_STEPS:]
    return (total - records[-1]["step"]) * sum(recent) / len(recent) if recent else None


def _pictures(run: Run, latents: Path) -> list[str]:
    """Addresses of the pictures of a sample."""
    picture = latents.with_name(PREVIEW)
    inside = picture.relative_to(run.path).as_posix()
    return [f"{PREFIX}/runs/{run.id}/files/{inside}"] if picture.is_file() else []
