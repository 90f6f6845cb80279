"""The commands that a running server answers: jobs are posted and followed, runs are looked at and told to stop."""

from __future__ import annotations

import argparse
import uuid
from typing import Any

from ..client import Client, RequestRefused
from . import fields, local, shown
from .shown import Output, ProgressBar

LAST_ANSWER = 60.0  # seconds to wait for what a job gave, once it has ended
EVERY = 1.0  # seconds between two looks at a job that is followed


def health(asked: argparse.Namespace, output: Output) -> int:
    told = asked.server.get("/impasto/health")
    queue = told["queue"]
    lines = [f"{name} {version}" for name, version in told["versions"].items()]
    lines.append(f"queue: {queue['running']} running, {queue['pending']} waiting")
    output.say(told, "\n".join(lines))
    return 0


def runs(asked: argparse.Namespace, output: Output) -> int:
    told = asked.server.get("/impasto/runs")
    output.say(told, "\n".join(map(shown.run_line, told["runs"])) or "There is no run yet.")
    return 0


def status(asked: argparse.Namespace, output: Output) -> int:
    """Of the run in a folder where there is such a folder, else of the job or run with this id on the server."""
    if local.is_folder(asked.run):
        return local.status(asked, output)
    if asked.follow:
        return _followed(asked.server, asked.run, output)
    told = asked.server.status(asked.run)
    output.say(told, shown.job_text(told))
    return 0


def request(asked: argparse.Namespace, output: Output) -> int:
    """Stop, finish, save or sample: what the trainer of a run is asked."""
    told = asked.server.post(f"/impasto/runs/{asked.server.quoted(asked.run)}/{asked.request}")
    output.say(told, told.get("message") or f"{asked.run}: asked to {asked.request}.")
    return 0


def cancel(asked: argparse.Namespace, output: Output) -> int:
    told = asked.server.post(f"/impasto/jobs/{asked.server.quoted(asked.job)}/cancel")
    cancelled = bool(told["cancelled"])
    output.say(told, f"{asked.job}: {'cancelled' if cancelled else 'neither waits nor runs any more'}.")
    return 0 if cancelled else 1


def go_on(asked: argparse.Namespace, output: Output) -> int:
    body = {} if asked.steps is None else {"more_steps": asked.steps}
    told = asked.server.post(f"/impasto/runs/{asked.server.quoted(asked.run)}/continue", body)
    return _posted(asked, told, output)


def job(asked: argparse.Namespace, output: Output) -> int:
    """Post a job, follow it, and say what it gave."""
    path, schema = fields.of_job(asked.server.get("/impasto/openapi.json"), asked.job)
    body = fields.body(asked.fields, schema, asked.body)
    body.setdefault("job_id", str(uuid.uuid4()))
    if waits := "wait" in schema:
        body["wait"] = 0
    told = asked.server.post(path, body)
    if asked.no_wait or not waits:
        return _posted(asked, told, output)
    _followed(asked.server, body["job_id"], None)
    # The same job, asked for by its id again, answers with what it gave, or says why it failed.
    told = asked.server.post(path, body | {"wait": LAST_ANSWER})
    output.say(told, shown.answer_text(told))
    return 0


def queue(asked: argparse.Namespace, output: Output) -> int:
    from .graphs import changed, prompt_of

    prompt, workflow = prompt_of(asked.workflow, asked.server)
    body: dict[str, Any] = {"prompt": changed(prompt, asked.set), "prompt_id": str(uuid.uuid4())}
    if workflow is not None:
        body["extra_data"] = {"extra_pnginfo": {"workflow": workflow}}
    told = asked.server.post("/prompt", body)
    if told["node_errors"]:  # part of the graph was refused, and the rest runs
        raise RequestRefused(400, told)
    return _posted(asked, {"job_id": told["prompt_id"]}, output)


def _posted(asked: argparse.Namespace, told: dict[str, Any], output: Output) -> int:
    if asked.no_wait:
        output.say(told, told["job_id"])
        return 0
    return _followed(asked.server, told["job_id"], output)


def _followed(server: Client, job_id: str, output: Output | None) -> int:
    """Show how far a job is until it has ended; say how, where there is an output. 0 if it has come to its end."""
    bar = ProgressBar()
    told: dict[str, Any] = {}
    try:
        for told in server.follow(job_id, EVERY):
            bar(told["step"], told["total"], shown.doing(told))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"The job goes on: impasto cancel {job_id} stops it.") from None
    finally:
        bar.close()
    if output is not None:
        output.say(told, shown.job_text(told))
    return 0 if told["status"] == "completed" else 1
