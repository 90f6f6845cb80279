"""Publish LoRA on a real server whose Hugging Face Hub is on loopback: nothing without the owner, all of it with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from impasto.publishing.rights import MINE
from impasto.setup.serving import ComfyServer, NodeFailed, PromptRefused
from impasto.trainers.features.index import Features
from impasto.trainers.run import checkpoints, create
from impasto.trainers.run import folder as runs
from impasto.trainers.settings import Settings

from ..publishing import writable_hub
from .conftest import new_server

TOKEN = "hf_" + "s" * 34


@pytest.fixture(scope="module")
def hub() -> Iterator[writable_hub.WritableHub]:
    with writable_hub.serving(TOKEN) as running:
        yield running


@pytest.fixture(scope="module")
def publishing_server(hub, tmp_path_factory) -> Iterator[ComfyServer]:
    running = new_server(tmp_path_factory.mktemp("comfyui"))
    with pytest.MonkeyPatch.context() as environment:
        for name, value in {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}.items():
            environment.setenv(name, value)
        environment.delenv("HF_HUB_OFFLINE", raising=False)
        running.start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def run(publishing_server, tmp_path_factory) -> runs.Run:
    """A run as it lies on disk once it is trained, made without training."""
    folder = tmp_path_factory.mktemp("features")
    features = Features(str(folder), "abc")
    job = runs.Job("monet", Settings(steps=20), features.folder, features.key, "/models/flux.safetensors", "f1")
    made = create.create_run(publishing_server.base / "output" / "impasto" / "runs", job)
    lora = {"transformer.x.lora_A.weight": torch.full((2, 2), 1.0)}
    checkpoints.save(made.path / "checkpoints", 20, lora, {"impasto_run": made.id, "impasto_step": "20"}, {})
    return made


def graph(run: runs.Run, **inputs: str) -> dict:
    publish = {"run": ["1", 0], "base_model": "FLUX.1-schnell", "rights": MINE} | inputs
    return {
        "1": {"class_type": "ImpastoTrainingRunLoader", "inputs": {"run_id": run.id}},
        "2": {"class_type": "ImpastoPublishLora", "inputs": publish},
    }


def test_without_the_owner_s_word_there_is_a_folder_and_nothing_is_sent(publishing_server, hub, run):
    with pytest.raises(PromptRefused) as refused:
        publishing_server.queue(graph(run, repository="me/monet"))
    assert "may not publish as 'me'" in str(refused.value) and "publish.toml" in str(refused.value)
    result = publishing_server.queue(graph(run))
    folder = publishing_server.base / "output" / "impasto" / "published" / run.id / "monet"
    assert {file.name for file in folder.iterdir()} == {"README.md", "monet.safetensors"}
    assert result and not hub.repositories


def test_with_it_the_lora_lies_on_the_hub_and_no_token_lies_anywhere(publishing_server, hub, run):
    folder = publishing_server.base / "output" / "impasto" / "published" / run.id / "monet"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ComfyUI_00001_.png").write_bytes(b"put there by another graph")
    allowed = publishing_server.base / "user" / "impasto" / "publish.toml"
    allowed.parent.mkdir(parents=True, exist_ok=True)
    allowed.write_text('namespaces = ["me"]\n')
    result = publishing_server.queue(graph(run, repository="me/monet", space_repository="me/monet-space"))
    sent = hub.repositories["model", "me/monet"].files.keys()
    assert sent == {".gitattributes", "README.md", "monet.safetensors"}
    assert {"app.py", "requirements.txt", "README.md"} <= hub.repositories["space", "me/monet-space"].files.keys()
    assert all(repository.private for repository in hub.repositories.values())
    told = json.dumps(publishing_server.history(result.prompt_id))
    assert f"{hub.endpoint}/me/monet" in told
    written = [file for file in Path(publishing_server.base).rglob("*") if file.is_file()]
    assert TOKEN not in told + publishing_server.log_text()
    assert not [file for file in written if TOKEN.encode() in file.read_bytes()]


def test_other_files_there_are_not_written_over(publishing_server, hub, run):
    hub.repositories["model", "me/taken"] = writable_hub.Repository(True, {"README.md": b"somebody's\n"})
    with pytest.raises(NodeFailed) as failed:
        publishing_server.queue(graph(run, repository="me/taken"))
    assert "holds other files of these names: README.md" in str(failed.value)
    assert hub.repositories["model", "me/taken"].files == {"README.md": b"somebody's\n"}
