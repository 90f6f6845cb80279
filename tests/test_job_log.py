"""The log of jobs: what is timed, counted and kept, and what is not."""

from __future__ import annotations

import json
import re
import threading
import time
from pathlib import Path

import pytest
from impasto.job_log import JOBS, LARGEST_LOG, logged, read_jobs, report, stage


def written(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / JOBS).read_text(encoding="utf-8").splitlines()]


def test_a_job_tells_the_time_of_each_stage_and_how_fast_it_was(tmp_path):
    with logged("Filter", tmp_path):
        for _ in range(2):
            with stage("measure", 10) as measuring:
                time.sleep(0.05)
            measuring.items += 5
        with stage("draw"):
            pass
    (line,) = written(tmp_path)
    measure, draw = line["stages"]
    assert (line["job"], line["outcome"], measure["stage"], measure["items"]) == ("Filter", "done", "measure", 30)
    assert 0.1 <= measure["seconds"] <= line["seconds"] and draw["stage"] == "draw" and "items" not in draw
    assert measure["per_second"] == pytest.approx(30 / measure["seconds"], rel=0.01)
    assert abs(line["started"] - time.time()) < 60


def test_a_job_that_fails_or_is_stopped_keeps_what_it_did(tmp_path):
    class Cancelled(BaseException):
        pass

    for error in (ValueError, Cancelled):
        with pytest.raises(error), logged("Captioner", tmp_path), stage("ask", 100) as asking:
            asking.items += 3
            raise error
    assert [line["outcome"] for line in written(tmp_path)] == ["failed", "stopped"]
    assert [line["stages"][0]["items"] for line in written(tmp_path)] == [3, 3]


def test_the_memory_of_a_job_is_the_most_that_was_seen_while_it_ran(tmp_path):
    held = [(100, 7)]
    with logged("Encode", tmp_path, lambda: held[0]) as job:
        for memory in ((500, 9), (200, 3)):
            held[0] = memory
            time.sleep(0.5)
        job.saw_memory(0, 11)  # of another process
    held[0] = (10_000, 10_000)
    (line,) = written(tmp_path)
    assert (line["peak_memory"], line["peak_device_memory"]) == (500, 11)
    assert not [thread for thread in threading.enumerate() if thread.name == "impasto job log"]


def test_stages_outside_of_a_job_and_in_other_threads_are_kept_nowhere(tmp_path):
    with stage("nothing", 1) as outside:
        pass
    assert outside.items == 1

    def work() -> None:
        with stage("in a thread"):
            pass

    with logged("Job", tmp_path):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert written(tmp_path)[0]["stages"] == []


def test_a_job_without_a_folder_leaves_nothing_behind(tmp_path):
    with logged("Plan"):
        pass
    with logged("Loader", tmp_path / "not yet"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_log_that_cannot_be_written_costs_the_job_nothing(tmp_path, caplog):
    (tmp_path / JOBS).mkdir()
    with logged("Filter", tmp_path):
        pass
    assert "could not be written" in caplog.text and read_jobs([tmp_path]) == []


def test_a_long_log_forgets_its_older_half(tmp_path):
    line = json.dumps({"job": "old", "started": 1.0, "seconds": 1.0, "outcome": "done", "stages": []})
    count = LARGEST_LOG // len(line) + 2
    (tmp_path / JOBS).write_text(f"{line}\n" * count)
    with logged("new", tmp_path):
        pass
    lines = written(tmp_path)
    assert len(lines) == count - count // 2 + 1 and lines[-1]["job"] == "new"


def test_several_logs_are_told_together_the_newest_first_and_once(tmp_path):
    folders = [tmp_path / "dataset", tmp_path / "run"]
    for folder, name in zip(folders, ("Loader", "Trainer"), strict=True):
        folder.mkdir()
        with logged(name, folder), stage("store pictures", 2):
            time.sleep(0.02)
    jobs = read_jobs([*folders, str(folders[0])])
    assert [job["job"] for job in jobs] == ["Trainer", "Loader"]
    told = report(jobs).splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d Trainer: done in 0\.\d s", told[0])
    assert re.fullmatch(r"    store pictures: 0\.\d s, 2 at [\d.]+ a second", told[1])
    assert report([]) == "No job is logged here yet."


@pytest.mark.parametrize(
    "damage",
    [
        "torn",
        '{"job": 3}',
        '{"job": "x", "started": 1e300, "seconds": 1, "outcome": "done", "stages": []}',
        '{"job": "x", "started": 1, "seconds": -1, "outcome": "done", "stages": []}',
        '{"job": "x", "started": NaN, "seconds": 1, "outcome": "done", "stages": []}',
    ],
)
def test_lines_that_nobody_could_have_written_are_left_out(tmp_path, damage):
    odd = {"stages": [None, {"stage": 1}, {"stage": "a\nb", "seconds": 1, "items": "x", "per_second": "y"}]}
    whole = {"job": "a\nb", "started": 5, "seconds": 2, "outcome": "done", "peak_memory": "x"} | odd
    (tmp_path / JOBS).write_text(f"{damage}\n{json.dumps(whole)}\n")
    assert len(read_jobs([tmp_path])) == 1
    assert [line[16:] for line in report(read_jobs([tmp_path])).splitlines()[:1]] == [" a b: done in 2.0 s"]
    assert report(read_jobs([tmp_path])).splitlines()[1:] == ["    a b: 1.0 s"]


def test_a_file_that_is_much_too_long_is_not_read(tmp_path):
    with open(tmp_path / JOBS, "wb") as file:
        file.truncate(2 * LARGEST_LOG)
    assert read_jobs([tmp_path]) == []
