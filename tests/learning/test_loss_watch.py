"""Loss Watch names what was planted among pictures that the tiny FLUX is trained on: wrong captions, foreign ones."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest
from impasto.dataset import watch_list
from impasto.embedded import lesson
from impasto.embedded.examination import Examination
from impasto.evaluation.watched_run import LossWatch, watch_run
from impasto.trainers.flux.forward import predict_velocity

from .planted import PICTURES, Planted, prepare

REPOSITORY = Path(__file__).resolve().parents[2]
COMFYUI = Path(os.environ.get("COMFYUI_PATH") or REPOSITORY / ".impasto" / "ComfyUI")
long = pytest.mark.skipif(not os.environ.get("IMPASTO_LONG"), reason="a long test; set IMPASTO_LONG")

PRECISION = RECALL = 0.9  # at least
FALSE = 0.02  # of a clean set, at most


@pytest.fixture(scope="module")
def base():
    return partial(predict_velocity, Examination.transformer().eval(), guidance=1.0)


def watched(folder: Path, seed: int, base, planted: bool, **changes) -> tuple[Planted, LossWatch]:
    """A set of that seed, and what is named of it; trained first where `changes` say for how long."""
    (folder / "pictures").mkdir()
    made = prepare(folder / "pictures", seed, COMFYUI, planted)
    run = lesson.begin(made.features, folder / "runs", seed=seed, **changes)
    if changes:
        lesson.learn(run)
    return made, watch_run(run, base, "tiny")


def scores(made: Planted, found: LossWatch) -> tuple[float, float, set[str]]:
    """Precision, recall, and what was missed."""
    named = {whole for one in found.pictures for whole in made.truth if whole.startswith(one.digits)}
    missed = {what for whole, what in made.truth.items() if whole not in named}
    return len(named) / max(1, len(found.pictures)), len(named) / len(made.truth), missed


def judge(made: Planted, found: LossWatch, record_property, called: str) -> None:
    precision, recall, missed = scores(made, found)
    record_property("measured", f"{called}: precision {precision:.2f}, recall {recall:.2f}, missed {sorted(missed)}")
    assert precision >= PRECISION and recall >= RECALL


def test_planted_wrong_captions_and_foreign_pictures_are_named(tmp_path, base, record_property):
    made, found = watched(tmp_path, 1, base, planted=True)
    judge(made, found, record_property, "measuring pass of a planted set")
    assert f"{len(found.pictures)} of {PICTURES} pictures to look at" in found.report
    assert all(Path(one.file).is_file() and one.caption for one in found.pictures)
    listed = watch_list.reasons(watch_list.read(found.listed), made.truth)
    assert len(listed) >= RECALL * len(made.truth)


@long
@pytest.mark.parametrize("seed", [1, 3, 5])
def test_after_a_run_they_are_named_by_its_losses_and_the_base_model(tmp_path, base, record_property, seed):
    made, found = watched(tmp_path, seed, base, planted=True, steps=300)
    judge(made, found, record_property, f"a run on planted set {seed}, with the base model")
    alone = watch_run(lesson.begin(made.features, tmp_path / "runs", seed=seed, steps=300))
    precision, recall, _ = scores(made, alone)
    record_property("measured", f"the same by training's losses alone: precision {precision:.2f}, recall {recall:.2f}")
    assert precision >= PRECISION


@long
@pytest.mark.parametrize("seed", [2, 4])
def test_of_a_clean_set_at_most_two_in_a_hundred_are_named(tmp_path, base, record_property, seed):
    _, found = watched(tmp_path, seed, base, planted=False, steps=300)
    record_property("measured", f"clean set {seed}: {len(found.pictures)} of {PICTURES} named")
    assert len(found.pictures) <= FALSE * PICTURES
