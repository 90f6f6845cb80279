"""What `GET /impasto/status` costs beside reading the run's files anew at each call, as it did before.

    .impasto/venv/bin/python benchmarks/status.py [--steps 200 2000 20000] [--clients 20]

A trainer's files are written as while it trains, a step every tenth of a second. So many clients at once ask for the
status in this process, half of the rounds in the one way and half in the other, taking turns: seconds and processor
time of a call, and what ours are of theirs. ComfyUI's web server, which adds the same to both, is left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from full_size import load_pack

CALLS, ROUNDS, EVERY = 5, 4, 0.1  # of each client in a round; rounds of each way; seconds between two steps


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="+", default=[200, 2_000, 20_000], help="trained so far")
    parser.add_argument("--clients", type=int, default=20)
    asked = parser.parse_args()
    load_pack()
    print("| steps | way | median, ms | p99, ms | CPU, ms a call |\n|---:|---|---:|---:|---:|")
    for steps in asked.steps:
        with tempfile.TemporaryDirectory() as folder:
            told, step = _training(Path(folder), steps)
            ours, theirs = _rounds(told, step, asked.clients)
        for way, figures in (("each file once for all", ours), ("every file anew", theirs)):
            print(f"| {steps:,} | {way} | " + " | ".join(f"{figure * 1e3:.2f}" for figure in figures) + " |")
        print("| | ratio | " + " | ".join(f"{own / other:.3f}" for own, other in zip(ours, theirs, strict=True)) + " |")
    return 0


def _training(folder: Path, steps: int) -> tuple[Callable[[], object], Callable[[], None]]:
    """A call for the status of a run that is at this step, and what does a step more."""
    from impasto.api import jobs, status
    from impasto.api.routing import Call, JobState, Places
    from impasto.trainers.features.index import Features
    from impasto.trainers.run import create
    from impasto.trainers.run.folder import Job
    from impasto.trainers.settings import Settings

    places = Places(folder / "runs", folder / "loras", (folder / "datasets",), folder / "user")
    features = Features(str(folder / "features"), "abc")
    Path(features.folder).mkdir()
    job = Job("monet", Settings(steps=100_000), features.folder, features.key, "/models/flux.safetensors", "f1")
    run = create.create_run(places.runs_root, job)
    (run.path / "status.json").write_text(json.dumps({"state": "training", "step": 0, "total": 100_000}))
    metrics, log = run.path / "metrics.jsonl", run.path / "train.log"
    metrics.write_text("".join(_line(step) for step in range(1, steps + 1)))
    log.write_text("a line of the trainer's log\n" * 5_000)
    job_id = str(uuid.uuid4())
    jobs.note_run(places.user_root, job_id, run.id, {})
    host = mock.Mock(state=lambda asked: JobState("running", doing="Train"))
    call = Call(places, host=host)

    def step() -> None:
        with open(metrics, "a") as file:
            file.write(_line(steps + 1))

    return lambda: status.told(call, job_id), step


def _line(step: int) -> str:
    record = {"step": step, "loss": 0.43, "learning_rate": 1e-4, "seconds": 0.1, "sigma": [0.5123456]}
    return json.dumps(record | {"grad_norm": 0.7, "examples": ["0123456789abcdef" * 2], "losses": [0.43]}) + "\n"


def _rounds(told: Callable[[], object], step: Callable[[], None], clients: int) -> tuple[list[float], list[float]]:
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    with _stepping(step), ThreadPoolExecutor(clients) as threads:
        for _ in range(ROUNDS):
            ours += _round(told, threads, clients)
            with _anew():
                theirs += _round(told, threads, clients)
    return _figures(ours), _figures(theirs)


def _round(told: Callable[[], object], threads: ThreadPoolExecutor, clients: int) -> list[tuple[float, float]]:
    """Seconds and seconds of processor time of each call."""

    def client(_: int) -> list[tuple[float, float]]:
        taken = []
        for _ in range(CALLS):
            began, began_work = time.perf_counter(), time.thread_time()
            told()
            taken.append((time.perf_counter() - began, time.thread_time() - began_work))
        return taken

    return [each for taken in threads.map(client, range(clients)) for each in taken]


def _figures(taken: list[tuple[float, float]]) -> list[float]:
    seconds, work = zip(*taken, strict=True)
    return [statistics.median(seconds), statistics.quantiles(seconds, n=100)[98], statistics.mean(work)]


@contextmanager
def _stepping(step: Callable[[], None]) -> Iterator[None]:
    ended = threading.Event()

    def train() -> None:
        while not ended.wait(EVERY):
            step()

    thread = threading.Thread(target=train)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def _anew() -> Iterator[None]:
    """Every file is read, whole, and every folder listed, at each call."""
    from impasto.api import run_files
    from impasto.trainers.run import folder

    before = {
        "status": lambda run: run.status(),
        "last_steps": lambda run, wanted: run.metrics(),
        "log_lines": lambda run, wanted: run_files._log_lines.__wrapped__(run, wanted, None),
        "find_run": folder.find_run,
    }
    with mock.patch.multiple(run_files, **before):
        yield


if __name__ == "__main__":
    sys.exit(main())
