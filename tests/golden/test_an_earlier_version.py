"""What earlier versions left on people's disks is read by the present code, and half-trained runs come to their end.

Processors round differently, so that a run is compared bit by bit with one that the present code trains here without a
stop, and with what the earlier version came to on its machine only nearly.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from . import current
from .conftest import no_encoder
from .record_version import RUNS, TOML, VERSIONS, described, unpack

NEARLY = 1e-5


@pytest.fixture(scope="module", params=VERSIONS, ids=lambda path: path.name)
def version(request) -> Path:
    return request.param


@pytest.fixture(scope="module")
def expected(version) -> dict:
    return json.loads((version / "expected.json").read_text(encoding="utf-8"))


@pytest.fixture
def disk(version, tmp_path, base_weights) -> Path:
    """The version's disk, as if it were copied here, with the base model in its place."""
    root = unpack(version, tmp_path / "disk")
    (root / "models").mkdir()
    (root / "models" / "flux.safetensors").write_bytes(base_weights.read_bytes())
    return root


def tensors(path: Path) -> dict:
    return current.read_lora(path)


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def metrics(run: Path) -> list[dict]:
    """Without what the clock says."""
    return [{name: value for name, value in line.items() if name != "seconds"} for line in current.metrics_of(run)]


@pytest.mark.parametrize("name", RUNS)
def test_a_half_trained_run_is_resumed_to_the_same_weights(golden, disk, expected, tmp_path, base_weights, name):
    run = disk / "runs" / expected["runs"][name]
    asked = current.asked_for(run)
    inputs = {key: value for key, value in asked.items() if key not in ("name", "settings")}
    whole = current.begin_run(tmp_path / "whole", name, asked["settings"], inputs)
    assert whole.name == run.name
    assert current.train(whole)["state"] == current.train(run)["state"] == "finished"

    resumed, uninterrupted = (current.checkpoints_of(each) for each in (run, whole))
    assert resumed.keys() == uninterrupted.keys()
    for step in resumed:
        assert same(tensors(resumed[step]), tensors(uninterrupted[step])), step
        assert current.metadata_in(resumed[step]) == current.metadata_in(uninterrupted[step])
    last, recorded_file = resumed[max(resumed)], disk / "finished" / f"{name}.safetensors"
    assert current.metadata_in(last) == current.metadata_in(recorded_file)
    found, recorded = tensors(last), tensors(recorded_file)
    assert found.keys() == recorded.keys()
    for key, tensor in recorded.items():
        assert torch.allclose(found[key], tensor, rtol=0, atol=NEARLY), key
    assert metrics(run)[-1] == metrics(whole)[-1]
    assert any(tensor.any() for key, tensor in found.items() if "lora_B" in key)
    if name == "plain":
        golden("run_files", files_of(whole, tmp_path / "loras"))
        longer = current.continue_run(disk / "runs", run, 4, base_weights, learning_rate=5e-5)
        golden("run_continued_after_a_resume", {"id": longer.name})


def files_of(run: Path, loras_root: Path) -> dict:
    """Names of all that a finished run leaves, and of the fields in its files."""
    published = current.publish(run, "golden", loras_root, "diffusers")
    lines = current.metrics_of(run)
    state = torch.load(run / "checkpoints" / "step-000008" / "state.pt", weights_only=True)
    status = json.loads((run / "status.json").read_text(encoding="utf-8"))
    return {
        "folder": sorted(path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()),
        "published": published.relative_to(loras_root).as_posix(),
        "loras": sorted(path.relative_to(loras_root).as_posix() for path in loras_root.rglob("*") if path.is_file()),
        "status.json": {name: type(value).__name__ for name, value in status.items()},
        "metrics.jsonl": [sorted(line) for line in lines],
        "state.pt": sorted(state),
        "state of the optimiser": sorted(state["optimizer"]),
    }


def test_a_dataset_and_its_captions_are_read(disk, expected):
    of_dataset = expected["dataset"]
    folder = disk / "datasets" / "garden"
    dataset = current.dataset_at(folder, of_dataset["revision"])
    records = dataset.records()
    assert [dataset.image_path(record).is_file() for record in records] == [True] * 5
    assert current.write_dataset(folder, [vars(record) for record in records]).revision == of_dataset["revision"]
    assert current.ledger_of(dataset.captions_ledger) == expected["ledger"]
    before = state_of(folder)
    config, identity = current.write_toml(dataset, TOML)
    assert (config.name, identity) == (of_dataset["toml"], of_dataset["hash"])
    assert state_of(folder) == before


def state_of(folder: Path) -> dict:
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def test_features_are_read_and_nothing_is_encoded_again(disk, expected):
    of_dataset = expected["dataset"]
    folder = disk / "datasets" / "garden" / "features" / of_dataset["key"]
    assert described(current.samples_of(folder, of_dataset["key"], of_dataset["prompts"])) == expected["samples"]
    before = state_of(folder.parent)
    config = disk / "datasets" / "garden" / of_dataset["toml"]
    asked = [("a harbour at dawn", 7), ("été", 2**64 - 1)]
    assert current.encode(config, no_encoder, no_encoder, prompts=asked) == (
        folder,
        of_dataset["key"],
        of_dataset["prompts"],
    )
    assert state_of(folder.parent) == before


def test_the_prompt_library_is_read_and_written_to(disk, expected):
    file = disk / "user" / "prompts.sqlite"
    assert current.library_of(file) == expected["library"]
    current.save_prompts(file, [{"text": "a third harbour"}], [("a harbour at noon", 3, "")])
    assert current.library_of(file)["with 'harb'"] == ["a third harbour", *expected["library"]["with 'harb'"]]
    assert current.library_of(file)["history"] == [["a harbour at noon", "3", ""], *expected["library"]["history"]]


def test_the_seed_book_is_read_and_goes_on_where_it_stood(disk, expected):
    file = disk / "user" / "seeds.sqlite"
    assert current.seed_book_of(file) == expected["seed book"]
    assert current.taken(file, "increment", "default") == ["9", "10"]
    assert current.taken(file, "list", "default") == ["9", "7"]
