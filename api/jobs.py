"""Jobs that were asked for over HTTP, on disk: what each is to do, and which run it trains.

A job's id is ComfyUI's prompt id, a UUID, given when it is asked for. A run's id is a hash of what decides its weights,
which is known once the pictures are encoded; the trainer's node then notes it here. Two jobs may train one run: the
later goes on from what the earlier left. Records outlive the server, whose queue does not, so that a job which was lost
with it can be told and be gone on with.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ImpastoError
from ..files import has_types, parsed_json, write_whole
from ..paths import child_of
from ..trainers.run.folder import MAX_RUN_ID_LENGTH, Run
from . import run_files
from .graphs import Graph
from .routing import Call, JobState, Places, Refused, Reply

MOST_RECORDS = 2_000
LARGEST_GRAPH = 2**20  # characters of one that was not asked for here; bodies of requests have a limit of their own
SPARE_RECORDS = 200  # beyond that, before the oldest are removed
OF_RUN = "of-run"  # folder of files that bear a run's id and hold that of the job which trained it last
_POSTING = threading.Lock()
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class JobRecord:
    """A job as it was asked for; `run_id` is "" until it is known, `graph` empty where that is not known.

    The graph is shared with others who read the record: it is not to be changed.
    """

    job_id: str
    kind: str
    graph: Graph
    run_id: str = ""


@dataclass(frozen=True)
class Found:
    """What an id stands for: a job, the run it trains, or both."""

    record: JobRecord | None = None
    run: Run | None = None
    state: JobState | None = None

    @property
    def job_id(self) -> str | None:
        return self.record.job_id if self.record else None


def post(call: Call, kind: str, graph: Graph, job_id: str | None = None) -> str:
    """Note a job and queue it; the same id again is the same job, and queues nothing.

    Raises:
        Refused: ComfyUI does not take the graph.
    """
    job_id = job_id or str(uuid.uuid4())
    folder = _folder(call.places.user_root)
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / f"{job_id}.json"
    with _POSTING:  # of two requests with one id, the second finds the record
        if record.exists():
            return job_id
        write_whole(record, json.dumps({"job_id": job_id, "kind": kind, "asked": time.time(), "graph": graph}))
    try:
        _host(call).post(job_id, graph)
    except BaseException:
        record.unlink(missing_ok=True)
        raise
    _remove_oldest(folder)
    return job_id


def note_run(user_root: Path, job_id: str, run_id: str, graph: Graph) -> None:
    """Say which run a job trains, and by which graph; called by the node that trains, of every prompt.

    Of a job that was asked for here, the graph is known already; of one that a page or a script queued, this is kept.
    """
    if not _ID.fullmatch(job_id):
        return
    folder = _folder(user_root)
    known = read(user_root, job_id) or JobRecord(job_id, "prompt", {})
    kept = known.graph or (graph if len(json.dumps(graph)) <= LARGEST_GRAPH else {})
    content = {"job_id": job_id, "kind": known.kind, "asked": time.time(), "graph": kept, "run_id": run_id}
    write_whole(folder / f"{job_id}.json", json.dumps(content))
    write_whole(_of_run(user_root, run_id), job_id)


def read(user_root: Path, job_id: str) -> JobRecord | None:
    """The record of a job; None where there is none, or a damaged one."""
    if not _ID.fullmatch(job_id):
        return None
    file = _folder(user_root) / f"{job_id}.json"
    return _read(file, run_files.state_of(file))


@functools.lru_cache(maxsize=16)
def _read(file: Path, state: run_files.State | None) -> JobRecord | None:
    """The record as it is in this state: a graph of ten thousand URLs is not read for each question."""
    try:
        content = parsed_json(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(content, dict) or not has_types(content, kind=str, graph=dict):
        return None
    run_id = content.get("run_id", "")
    return JobRecord(file.stem, content["kind"], content["graph"], run_id if isinstance(run_id, str) else "")


def find(call: Call, asked: str) -> Found:
    """The job or the run with this id, each with the other where one is known.

    Raises:
        Refused: there is neither.
    """
    places = call.places
    if _ID.fullmatch(asked):
        record, state = read(places.user_root, asked), call.host.state(asked) if call.host else None
        if record is None and state is None:
            raise Refused(f"There is no job '{asked}'. POST train or run gives one's id.", "run_id", 404)
        made = next((made["run_id"] for made in state.made if "run_id" in made), "") if state else ""
        run_id = (record.run_id if record else "") or made
        return Found(record or JobRecord(asked, "prompt", {}), _run(places, run_id) if run_id else None, state)
    try:
        run = run_files.find_run(places.runs_root, asked)
    except ImpastoError as error:
        raise Refused(str(error), "run_id", 404) from error
    job_id = _text(_folder(places.user_root) / OF_RUN / run.id)  # the id is the name of a folder that is there
    record = read(places.user_root, job_id)
    return Found(record, run, call.host.state(job_id) if record and call.host else None)


def run_of(call: Call, asked: str) -> Run:
    """The run with this id, or that a job with this id trains.

    Raises:
        Refused: there is none, or not yet.
    """
    found = find(call, asked)
    if found.run is None:
        raise Refused(
            f"The job '{asked}' has no run yet: it begins when the pictures are encoded. GET status tells.",
            "run_id",
            404,
        )
    return found.run


def followed(call: Call, kind: str, graph: Graph, message: str, finished: Any) -> Reply:
    """Queue a job and answer when it has ended, or after the request's `wait` with its id alone.

    Args:
        message: while it is not done.
        finished: gets what the last of its nodes made; gives the answer's own fields.
    """
    job_id = post(call, kind, graph, call.body.job_id)

    def then(state: JobState) -> Reply:
        if state.state == "done":
            return Reply(finished({key: value for made in state.made for key, value in made.items()}, job_id))
        if state.ended:
            raise Refused(state.error or "The job was stopped. Ask again to go on where it was.", "", 409)
        return Reply({"message": message, "job_id": job_id}, status=202)

    return Reply({"message": message, "job_id": job_id}, status=202, follow=job_id, seconds=call.body.wait, then=then)


def _host(call: Call) -> Any:
    if call.host is None:
        raise Refused("There is no ComfyUI to ask.", status=503)
    return call.host


def _run(places: Places, run_id: str) -> Run | None:
    with contextlib.suppress(ImpastoError):  # deleted since
        return run_files.find_run(places.runs_root, run_id)
    return None


def _folder(user_root: Path) -> Path:
    return user_root / "jobs"


def _of_run(user_root: Path, run_id: str) -> Path:
    return child_of(_folder(user_root), OF_RUN, run_id, what="run id", longest=MAX_RUN_ID_LENGTH)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def _remove_oldest(folder: Path) -> None:
    records = list(folder.glob("*.json"))
    if len(records) <= MOST_RECORDS + SPARE_RECORDS:
        return
    written = {}
    for record in records:
        with contextlib.suppress(OSError):  # removed by another request
            written[record] = record.stat().st_mtime_ns
    for record in sorted(written, key=written.__getitem__)[:-MOST_RECORDS]:
        record.unlink(missing_ok=True)
