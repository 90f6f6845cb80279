"""A run that goes on: by the graph that trained it where that is known, else by Continue Training on what its folder
holds.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import TrainingError
from ..trainers.run import checkpoints, create, requests
from ..trainers.run.folder import Job, Run
from . import graphs, jobs
from .jobs import Found
from .models import Continue
from .routing import Call, Refused, Reply
from .status import state_of
from .training import started

BY_THE_GRAPH = "Queue the graph that it was trained by in ComfyUI."


def go_on(call: Call) -> Reply:
    """Queue a job again that was stopped or lost, which goes on where it was; or train a finished run for longer.

    Where the graph is not known, a run of its own goes on from the last checkpoint: for the steps that are left, or for
    `more_steps`.
    """
    body: Continue = call.body
    asked = call.path["run_id"]
    found = jobs.find(call, asked)
    _check_nobody_trains(found, asked)
    graph = found.record.graph if found.record else {}
    finished = found.run is not None and found.run.finished
    if body.more_steps is None:
        if finished:
            raise Refused(f"'{asked}' is finished. Say by more_steps for how long it is to go on.", "more_steps", 409)
        if found.record and graph:
            return started(call, found.record.kind, graph)
        return started(call, "continue", _from_folder(call, found, asked))
    if found.run is None or (graph and not finished):
        raise Refused(
            f"'{asked}' is not finished, and its graph goes on to its end. Leave more_steps out.", "more_steps", 409
        )
    longer = graphs.continued(graph, found.run.id, body.more_steps)
    return started(call, "continue", longer or _from_folder(call, found, asked, body.more_steps))


def _check_nobody_trains(found: Found, asked: str) -> None:
    state, _ = state_of(found)
    if state in ("queued", "running") or (found.run and requests.trainer_of(found.run)):
        does = "waits in the queue" if state == "queued" else "is being trained"
        raise Refused(f"'{asked}' {does}. Wait until it has ended, or stop it.", "run_id", 409)


def _from_folder(call: Call, found: Found, asked: str, more_steps: int | None = None) -> graphs.Graph:
    """Continue Training of a run on the base model that its folder names.

    Raises:
        Refused: something that it needs is not there; the text says what, and what to do.
    """
    run = found.run
    if run is None:
        raise Refused(f"The graph of '{asked}' is not known, and it has no run yet. {BY_THE_GRAPH}", "run_id", 409)
    job = Job.read(run)
    more_steps = more_steps or _steps_left(run, job)
    if not Path(job.features_folder).is_dir():
        raise Refused(
            f"The encoded pictures of '{run.id}' are gone from {job.features_folder}. {BY_THE_GRAPH}", "run_id", 409
        )
    try:
        create.longer_job(run, more_steps, Path(job.weights), job.fingerprint)
    except TrainingError as error:
        raise Refused(str(error), "run_id", 409) from error
    loader = call.host.loader_of(Path(job.weights), job.fingerprint) if call.host else None
    if loader is None:
        raise Refused(
            f"'{run.id}' was trained on {job.weights}, which no loader of ComfyUI lists (any more, or with this "
            f"content). Put that file among ComfyUI's diffusion models. If a graph has made it: {BY_THE_GRAPH}",
            "run_id",
            409,
        )
    return graphs.continued_on(loader, run.id, more_steps)


def _steps_left(run: Run, job: Job) -> int:
    last = checkpoints.latest(run.path / "checkpoints")
    if last is None:
        raise Refused(f"'{run.id}' has no checkpoint to go on from. {BY_THE_GRAPH}", "run_id", 409)
    if last.step >= job.settings.steps:
        raise Refused(
            f"'{run.id}' has come to step {last.step}, its last, and did not say that it is finished. {BY_THE_GRAPH} "
            "Nothing is trained again.",
            "run_id",
            409,
        )
    return job.settings.steps - last.step
