"""The cells of a run's grids are found one by one, and a run is deleted at a person's word."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from filelock import FileLock
from impasto.api.routing import Call, Places, Refused, Route
from impasto.api.table import ROUTES
from impasto.rendering.painting import PictureToPaint, Sampling, Weights, _save
from impasto.trainers.features.index import Features
from impasto.trainers.run import create
from impasto.trainers.run import folder as runs
from impasto.trainers.settings import Settings
from PIL import Image

QUICK, SLOW = Sampling(64, 64, 2, 3.5, "euler", "simple"), Sampling(64, 64, 9, 3.5, "euler", "simple")


@pytest.fixture
def run(tmp_path: Path) -> runs.Run:
    features = Features(str(tmp_path / "features"), "abc")
    Path(features.folder).mkdir()
    job = runs.Job("monet", Settings(steps=40), features.folder, features.key, "/models/flux.safetensors", "f1")
    return create.create_run(tmp_path / "runs", job)


def route(path: str) -> Route:
    return next(route for route in ROUTES if route.path == f"/impasto/runs/{{run_id}}/{path}")


def asked(run: runs.Run, path: str, body: object = None, run_id: str = ""):
    places = Places(run.path.parent, run.path, (), run.path)
    return route(path)(Call(places, {"run_id": run_id or run.id}, {}, body)).value


def paint(run: runs.Run, step: int, prompt: str, strength: float = 1.0, sampling: Sampling = QUICK) -> None:
    """A cell as a grid keeps it."""
    (run.path / "grid").mkdir(exist_ok=True)
    number = len(list((run.path / "grid").iterdir()))
    file = run.path / "grid" / f"step-{step:06d}-{number:04d}.png"
    about = {"run": run.id, "step": step, "prompt": prompt, "seed": 7}
    weights = Weights(None, strength, "")
    _save(PictureToPaint(file, weights, prompt, 7, "", about), Image.new("RGB", (64, 64)), sampling)
    os.utime(file, (number, number))


def test_a_grid_is_put_together_from_its_pictures_row_by_row(run):
    for step in (0, 20, 40):
        for prompt in ("a barn", "a harbour"):
            paint(run, step, prompt)
    (grid,) = asked(run, "grids")["grids"]
    assert [row["text"] for row in grid["rows"]] == ["a barn", "a harbour"]
    assert [column["text"] for column in grid["columns"]] == ["base", "step 20", "step 40"]
    assert grid["cells"][1][2][0].endswith("/files/grid/step-000040-0005.png") and grid["sampling"]["steps"] == 2


def test_each_strength_has_the_base_models_pictures_and_another_sampling_is_another_grid(run):
    paint(run, 0, "a barn")
    paint(run, 40, "a barn", 1.0)
    paint(run, 40, "a barn", 0.5)
    paint(run, 40, "a barn", 1.0, SLOW)
    grids = asked(run, "grids")["grids"]
    assert [(grid["strength"], grid["sampling"]["steps"], len(grid["columns"])) for grid in grids] == [
        (1.0, 9, 1),
        (1.0, 2, 2),
        (0.5, 2, 2),
    ]
    assert grids[1]["cells"][0][0] == grids[2]["cells"][0][0]


def test_what_is_no_picture_of_a_grid_is_left_out_and_what_was_never_painted_is_empty(run):
    paint(run, 0, "a barn")
    paint(run, 20, "a harbour")
    (run.path / "grid" / "half.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    Image.new("RGB", (8, 8)).save(run.path / "grid" / "foreign.png")
    (grid,) = asked(run, "grids")["grids"]
    assert [[bool(cell[0]) for cell in row] for row in grid["cells"]] == [[True, False], [False, True]]


def test_a_run_without_a_grid_has_none(run):
    assert asked(run, "grids")["grids"] == []


def test_a_deleted_run_is_gone_whole_and_its_published_lora_and_its_neighbours_stay(run, tmp_path):
    other = create.create_run(
        run.path.parent, runs.Job("other", Settings(steps=9), str(tmp_path), "abc", "/models/flux.safetensors", "f1")
    )
    lora = run.path / "lora.safetensors"
    lora.write_bytes(b"weights")
    published = tmp_path / "published.safetensors"
    os.link(lora, published)
    (run.path / "elsewhere").symlink_to(tmp_path / "features", target_is_directory=True)
    assert asked(run, "delete", {"confirm": run.id}) == {"deleted": run.id}
    assert published.read_bytes() == b"weights" and (tmp_path / "features").is_dir()
    assert [path.name for path in run.path.parent.iterdir()] == [other.id]


@pytest.mark.parametrize("body", [None, {}, {"confirm": True}, {"confirm": "another"}, [], "monet"])
def test_a_run_is_not_deleted_unless_its_id_is_said_again(run, body):
    with pytest.raises(Refused, match="confirm|The body"):
        asked(run, "delete", body)
    assert run.path.is_dir()


def test_the_latest_run_is_not_deleted_by_that_name(run):
    (run.path / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": 1.0}) + "\n")
    with pytest.raises(Refused, match="name it"):
        asked(run, "delete", {"confirm": run.id}, run_id="latest")
    assert run.path.is_dir()


def test_a_run_that_is_being_trained_is_not_deleted(run):
    with FileLock(run.path / "run.lock"), pytest.raises(Refused, match="being trained") as refused:
        asked(run, "delete", {"confirm": run.id})
    assert refused.value.status == 409 and run.path.is_dir()
    assert asked(run, "delete", {"confirm": run.id})


def test_a_run_whose_folder_is_a_link_is_left_to_its_owner(run, tmp_path):
    link = run.path.with_name("linked-12345678")
    link.symlink_to(run.path, target_is_directory=True)
    with pytest.raises(Refused, match="confirm|link"):
        asked(run, "delete", {"confirm": link.name}, run_id=link.name)
    assert run.path.is_dir() and link.is_symlink()
