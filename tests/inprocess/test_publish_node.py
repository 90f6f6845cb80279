"""Publish LoRA within ComfyUI: which checkpoint, what is refused before anything is made, and the dataset's way."""

from __future__ import annotations

import json

import pytest
import torch
from impasto.errors import SettingsError
from impasto.publishing.rights import AS_STATED, MINE
from impasto.trainers.run import checkpoints, create
from impasto.trainers.run import folder as runs
from impasto.trainers.settings import Settings

from ..curation.test_exports import painted
from ..golden.record_version import VERSIONS, unpack
from ..publishing import writable_hub

TOKEN = "hf_" + "i" * 34


@pytest.fixture
def run(tmp_path) -> runs.Run:
    """A run with two checkpoints, each with weights of its own."""
    job = runs.Job("monet", Settings(steps=20), str(tmp_path), "abc", "/models/flux.safetensors", "f1")
    made = create.create_run(tmp_path / "runs", job)
    for step in (10, 20):
        lora = {"transformer.x.lora_A.weight": torch.full((2, 2), float(step))}
        checkpoints.save(made.path / "checkpoints", step, lora, {"impasto_step": str(step)}, {})
    return made


@pytest.fixture
def owner_s_word(comfyui):
    """This server may publish as "me"."""
    from impasto.nodes.host import folders
    from impasto.publishing.hub_upload import PERMISSION

    file = folders.user_root() / PERMISSION
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text('namespaces = ["me"]\n')
    yield
    file.unlink()


@pytest.fixture
def hub(monkeypatch):
    with writable_hub.reached(TOKEN, monkeypatch) as running:
        yield running


def publish(run, **inputs):
    from impasto.nodes.publishing import PublishLora

    return PublishLora.execute(run, **{"base_model": "FLUX.1-dev", "rights": MINE} | inputs).args


def step_in(folder: str) -> str:
    from pathlib import Path

    from impasto.trainers.lora.file_formats import read_metadata

    return read_metadata(Path(folder) / "monet.safetensors")["impasto_step"]


def test_the_checkpoint_that_is_asked_for_is_published(comfyui, run):
    assert step_in(publish(run)[0]) == "20"
    assert step_in(publish(run, at_step="10")[0]) == "10"


@pytest.mark.parametrize(
    ("at_step", "said"),
    [("best", "no held-out loss was measured"), ("10, 20", "Name one step"), ("15", "checkpoint: 10, 20")],
)
def test_a_step_that_is_not_one_checkpoint_is_refused_by_name(comfyui, run, at_step, said):
    with pytest.raises(SettingsError, match=said):
        publish(run, at_step=at_step)


def test_no_dataset_and_no_space_without_what_they_need(comfyui, run, owner_s_word):
    with pytest.raises(SettingsError, match="no dataset is connected"):
        publish(run, repository="me/monet", dataset_repository="me/paintings")
    with pytest.raises(SettingsError, match="A Space loads the LoRA from the Hub"):
        publish(run, space_repository="me/monet-space")


def test_another_set_s_pictures_are_refused_before_anything_is_made(comfyui, tmp_path):
    from impasto.nodes.host import folders

    root = unpack(VERSIONS[0], tmp_path / "disk")
    trained = next(folder for folder in sorted((root / "runs").iterdir()) if (folder / "metrics.jsonl").is_file())
    with pytest.raises(SettingsError, match="is not the one that the run .* was trained on"):
        publish(runs.Run(trained.name, str(trained)), dataset=painted(tmp_path / "other", rights="Public domain"))
    assert not (folders.published_root() / trained.name).exists()


def test_the_dataset_goes_along_with_its_card_its_captions_and_nothing_else(comfyui, run, owner_s_word, hub, tmp_path):
    dataset = painted(tmp_path / "paintings", rights="Public domain")
    where = {"repository": "me/monet", "dataset_repository": "me/paintings", "rights": AS_STATED}
    _, card, report = publish(run, dataset=dataset, **where)
    assert "| Public domain | 3 |" in card and f"{hub.endpoint}/datasets/me/paintings" in report
    assert "could not be checked" in report  # this run's training data never was
    sent = hub.repositories["dataset", "me/paintings"].files
    rows = [json.loads(line) for line in sent["train/metadata.jsonl"].splitlines()]
    pictures = {f"train/{row['file_name']}" for row in rows}
    assert sent.keys() == {".gitattributes", "README.md", "train/metadata.jsonl", *pictures}
    assert b"Public domain" in sent["README.md"] and len(pictures) == 3
    assert "nothing to send, all of it lies there" in publish(run, dataset=dataset, **where)[2]
