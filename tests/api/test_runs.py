"""What the routes tell of runs, as their folders stand on a disk."""

import json
from pathlib import Path

import pytest
from impasto.api.routing import Call, Places, Refused
from impasto.api.table import ROUTES
from impasto.errors import ImpastoError
from impasto.trainers.features.index import Features
from impasto.trainers.run import create
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
