"""What is told of a run is what its files say now, however often it is asked, and as cheaply when they are long."""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path

import pytest
from impasto.api import jobs, run_files
from impasto.files import append_line, write_whole
from impasto.trainers.features.index import Features
from impasto.trainers.run import create
from impasto.trainers.run import folder as runs
from impasto.trainers.settings import Settings


@pytest.fixture
def run(places) -> runs.Run:
    features = Features(str(places.user_root / "features"), "abc")
    Path(features.folder).mkdir()
    job = runs.Job("monet", Settings(steps=100_000), features.folder, features.key, "/models/flux.safetensors", "f1")
    run = create.create_run(places.runs_root, job)
    write_whole(run.path / "status.json", json.dumps({"state": "training", "step": 0, "total": 100_000}))
    return run


def lines(steps: range) -> str:
    records = [{"step": step, "loss": 0.5, "seconds": 2.0, "sigma": [0.5], "examples": ["a" * 64]} for step in steps]
    return "".join(json.dumps(record) + "\n" for record in records)


def status(ask, run: runs.Run) -> dict:
    return ask("GET", "status/{run_id}", run_id=run.id).value


def test_each_new_line_of_a_trainer_is_told_at_once(ask, run):
    log = run.path / "train.log"
    for step in range(1, 30):
        append_line(run.path / "metrics.jsonl", lines(range(step, step + 1)).strip())
        append_line(log, f"step {step}")
        told = status(ask, run)
        assert (told["step"], told["logs"][-1]) == (step, f"step {step}")
    write_whole(run.path / "status.json", json.dumps({"state": "stopped", "step": 29, "total": 100_000}))
    assert status(ask, run)["state"] == "stopped"


def test_steps_that_are_trained_again_are_told_from_where_they_begin(ask, run):
    (run.path / "metrics.jsonl").write_text(lines(range(1, 100)))
    assert status(ask, run)["step"] == 99
    write_whole(run.path / "metrics.jsonl", lines(range(1, 51)))  # as a trainer that begins at a checkpoint
    assert status(ask, run)["step"] == 50


@pytest.mark.parametrize("width", [1, 40_000])
def test_the_last_steps_are_those_of_the_whole_file_however_long_its_lines_are(run, width):
    records = [{"step": step, "loss": 1 / step, "seconds": 1.0, "x": "x" * width} for step in range(1, 41)]
    file = run.path / "metrics.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records) + '{"step": 40, "held_out_loss": 0.25}\n')
    last = run.last_metrics(20)
    assert len(last) >= 20 and last == run.metrics()[-len(last) :] and last[-1]["held_out_loss"] == 0.25
    assert run.last_metrics(1_000) == run.metrics()


def test_a_run_that_was_deleted_or_moved_out_is_not_told_of_from_memory(ask, run, places, tmp_path):
    assert status(ask, run)["run"] == run.id
    elsewhere = tmp_path / "elsewhere"
    run.path.rename(elsewhere)
    with pytest.raises(Exception, match="no training run"):
        status(ask, run)
    run.path.symlink_to(elsewhere)  # out of the folder of runs, where nobody is led
    with pytest.raises(Exception, match="leads to"):
        status(ask, run)


def test_a_long_training_is_told_of_as_cheaply_as_a_short_one_and_no_folder_is_listed(ask, run, places, monkeypatch):
    job_id = str(uuid.uuid4())
    jobs.note_run(places.user_root, job_id, run.id, {})
    file = run.path / "metrics.jsonl"

    def seconds() -> float:
        """Of the processor, a call after each of twenty steps."""
        began = time.process_time()
        for _ in range(20):
            with open(file, "a") as opened:
                opened.write(lines(range(1, 2)))
            status(ask, run)
        return time.process_time() - began

    file.write_text(lines(range(1, 100)))
    status(ask, run)
    short = min(seconds() for _ in range(3))
    file.write_text(lines(range(1, 20_000)))
    assert min(seconds() for _ in range(3)) < 3 * short  # it was two hundred times that, the whole file being read
    with monkeypatch.context() as patched:
        for listing in ("os.listdir", "os.scandir"):
            patched.setattr(listing, lambda *_: pytest.fail("a folder is listed"))
        assert status(ask, run)["run"] == run.id


def test_the_end_of_a_log_is_whole_lines(run):
    log = run.path / "train.log"
    log.write_text("é" * run_files.LOG_BYTES + "\nthe last\n")
    assert run_files.log_lines(run, 100) == ["the last"]
