"""What the routes tell of runs, as their folders stand on a disk."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from impasto.api.routing import Call, Places, Refused
from impasto.api.table import ROUTES
from impasto.errors import ImpastoError
from impasto.trainers.features.index import Features
from impasto.trainers.run import create, requests
from impasto.trainers.run import folder as runs
from impasto.trainers.settings import Settings


@pytest.fixture
def run(tmp_path: Path) -> runs.Run:
    features = Features(str(tmp_path / "features"), "abc")
    Path(features.folder).mkdir()
    job = runs.Job("monet", Settings(steps=40), features.folder, features.key, "/models/flux.safetensors", "f1")
    return create.create_run(tmp_path / "runs", job)


def ask(run: runs.Run, path: str, **query: str):
    places = Places(run.path.parent, run.path, (), run.path)
    route = next(route for route in ROUTES if route.method == "GET" and route.path == path)
    return route(Call(places, {"run_id": run.id, **({"file": query.pop("file")} if "file" in query else {})}, query))


def write_status(run: runs.Run, **status: object) -> None:
    (run.path / "status.json").write_text(json.dumps(status))


def write_steps(run: runs.Run, steps: int) -> None:
    lines = [json.dumps({"step": step, "loss": 1 / step, "seconds": 2.0}) for step in range(1, steps + 1)]
    (run.path / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def test_a_run_that_was_never_trained_is_listed_as_new(run):
    (found,) = ask(run, "/impasto/runs").value["runs"]
    assert found["id"] == run.id and found["name"] == "monet" and found["state"] == "new"


def test_a_training_run_says_how_far_it_is_and_how_long_the_rest_takes(run):
    write_status(run, state="training", step=8, total=40)
    write_steps(run, 10)  # the log of steps is ahead of the status
    told = ask(run, "/impasto/runs/{run_id}").value
    assert (told["state"], told["step"], told["total"], told["seconds_left"]) == ("training", 10, 40, 60.0)
    assert told["settings"]["steps"] == 40


def test_only_the_steps_behind_the_last_known_are_sent(run):
    write_steps(run, 10)
    records = ask(run, "/impasto/runs/{run_id}/metrics", after="7").value["records"]
    assert [record["step"] for record in records] == [8, 9, 10]


def test_what_is_new_of_a_long_run_is_read_from_the_end_of_its_steps_alone(run, monkeypatch):
    write_steps(run, 2_000)
    whole = run.metrics()
    for after in (-1, 0, 1, 999, 1_700, 1_970, 1_999, 2_000):
        assert ask(run, "/impasto/runs/{run_id}/metrics", after=str(after)).value["records"] == whole[max(after, 0) :]
    monkeypatch.setattr(runs.Run, "metrics", lambda run: pytest.fail("the whole file was read"))
    records = ask(run, "/impasto/runs/{run_id}/metrics", after="1998").value["records"]
    assert [record["step"] for record in records] == [1_999, 2_000]


def test_the_last_lines_of_the_log_are_sent_and_none_before_there_is_one(run):
    assert ask(run, "/impasto/runs/{run_id}/log").value == {"lines": []}
    (run.path / "train.log").write_text("".join(f"line {number}\n" for number in range(9)))
    assert ask(run, "/impasto/runs/{run_id}/log", lines="2").value == {"lines": ["line 7", "line 8"]}


@pytest.mark.parametrize("name", ["../settings.toml", "state.pt", "nothing.png", "", "a/../../x.json"])
def test_no_file_outside_of_the_run_and_none_that_people_do_not_read_is_sent(run, name):
    (run.path / "state.pt").write_bytes(b"weights")
    with pytest.raises(ImpastoError, match="file"):
        ask(run, "/impasto/runs/{run_id}/files/{file:.+}", file=name)


def test_a_file_that_people_read_is_sent(run):
    assert ask(run, "/impasto/runs/{run_id}/files/{file:.+}", file="settings.toml").file == run.path / "settings.toml"


@pytest.mark.parametrize("lines", ["0", "many", "-1", "99999999999999999999", "²"])
def test_a_number_outside_of_its_bounds_is_refused_by_name(run, lines):
    with pytest.raises(Refused, match="lines") as refused:
        ask(run, "/impasto/runs/{run_id}/log", lines=lines)
    assert refused.value.name == "lines" and refused.value.status == 400


def post(run: runs.Run, kind: str):
    places = Places(run.path.parent, run.path, (), run.path)
    path = f"/impasto/runs/{{run_id}}/{kind}"
    route = next(route for route in ROUTES if route.method == "POST" and route.path == path)
    return route(Call(places, {"run_id": run.id}))


@pytest.mark.parametrize("kind", requests.KINDS)
def test_what_is_asked_of_a_run_that_nobody_trains_is_refused_with_its_state(run, kind):
    write_status(run, state="stopped", step=8, total=40)
    with pytest.raises(Refused, match="No trainer .* which is stopped") as refused:
        post(run, kind)
    assert refused.value.status == 409


@pytest.mark.parametrize(("kind", "letter"), [("save", b"s"), ("sample", b"p"), ("finish", b"f")])
def test_what_is_asked_of_a_running_trainer_comes_to_its_input(run, kind, letter):
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdout.write(sys.stdin.read())"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with requests.listening(run, process, {"node": "4", "workflow": "w"}):
        assert ask(run, "/impasto/runs").value["active"] == [
            {"run": run.id, "stopping": False, "node": "4", "workflow": "w"}
        ]
        assert post(run, kind).value == {"id": run.id, "asked": kind}
    assert process.communicate()[0] == letter and not ask(run, "/impasto/runs").value["active"]
    with requests.listening(run, process, {}), pytest.raises(Refused, match="ending already"):
        post(run, kind)


def test_no_samples_are_asked_of_a_run_that_draws_none(run):
    job = runs.Job.read(run)
    dataclasses.replace(job, settings=dataclasses.replace(job.settings, sample_steps=0)).write(run)
    process = subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.PIPE)
    with requests.listening(run, process, {}), pytest.raises(Refused, match="sample_steps = 0"):
        post(run, "sample")
    process.communicate()


def test_prompts_are_read_from_datasets_alone(run, tmp_path):
    job = dataclasses.replace(runs.Job.read(run), prompts="prompts.json")
    job.write(run)
    (Path(job.features_folder) / "prompts.json").write_text(json.dumps([{"text": "a harbour", "seed": 1, "file": "x"}]))
    assert ask(run, "/impasto/runs/{run_id}").value["prompts"] == []
    places = Places(run.path.parent, run.path, (tmp_path,), run.path)
    route = next(route for route in ROUTES if route.path == "/impasto/runs/{run_id}")
    assert route(Call(places, {"run_id": run.id})).value["prompts"] == ["a harbour"]
