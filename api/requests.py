"""What is asked of a run's trainer while it is at work; it hears between two steps."""

from __future__ import annotations

from ..errors import TrainingError
from ..trainers.run import requests
from ..trainers.run.folder import Job, Run
from .jobs import run_of
from .routing import Call, Refused, Reply


def save(call: Call) -> Reply:
    """A checkpoint of the step it is in, which stays; it is measured and sampled as one that is due."""
    return _asked(run_of(call, call.path["run_id"]), requests.SAVE)


def sample(call: Call) -> Reply:
    """The samples of the step it is in, without a checkpoint."""
    run = run_of(call, call.path["run_id"])
    if requests.trainer_of(run) and not Job.read(run).settings.sample_steps:
        text = f"The run '{run.id}' has sample_steps = 0 and draws no samples: set it in Training Settings."
        raise Refused(text, "run_id", 409)
    return _asked(run, requests.SAMPLE)


def finish(call: Call) -> Reply:
    """The step it is in becomes the last: saved, measured, published, and the graph goes on."""
    return _asked(run_of(call, call.path["run_id"]), requests.FINISH)


def stop(call: Call) -> Reply:
    """As Cancel: the step it is in is saved, and the same graph queued again goes on from there."""
    return _asked(run_of(call, call.path["run_id"]), requests.STOP)


def _asked(run: Run, kind: str) -> Reply:
    try:
        requests.ask(run, kind)
    except TrainingError as error:
        raise Refused(str(error), "run_id", 409) from error
    return Reply({"id": run.id, "asked": kind}, status=202)
