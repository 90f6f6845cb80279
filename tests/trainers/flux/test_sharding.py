"""A base that is sharded over two processes trains the same weights, and each process holds half of it."""

from __future__ import annotations

import json

import pytest
import torch
from impasto.embedded.transformer_weights import transformer_weights
from impasto.errors import TrainingError
from impasto.trainers.flux import detection, loading, sharding
from impasto.trainers.memory.choice import choose
from impasto.trainers.memory.estimate import Budget, forecast, plan
from impasto.trainers.memory.remedy import remedy
from impasto.trainers.settings import Settings
from safetensors.torch import save_file

from ..memory.test_estimate import FLUX_DEV, SMALL, BatchShape
from ..test_going_on import PROCESS, QUICK, by_two_processes, final_adapter, in_two_processes, train
from .sharded_step import RANK

FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}  # as accelerate's launcher tells of a profile with FSDP


@pytest.mark.parametrize(
    "settings",
    [
        {"precision": "nf4", "gradient_checkpointing": False},
        {"precision": "fp8", "dora": True},
    ],
    ids=lambda settings: "-".join(str(value) for value in settings.values()),
)
def test_a_sharded_base_trains_the_weights_that_a_whole_one_does(make_run, settings):
    one = make_run("one", **QUICK, steps=3, gradient_accumulation=2, **settings)
    two = make_run("two", **QUICK, steps=3, **settings)
    assert train(one)
    by_two_processes(PROCESS, two.folder, "--cpu", **FSDP)
    assert two.finished and "with the base sharded over 2 devices" in two.status()["plan"]
    expected, got = final_adapter(one), final_adapter(two)
    assert expected.keys() == got.keys()
    assert all(torch.allclose(expected[key], got[key], atol=1e-5) for key in expected)
    assert any(value.abs().max() > 1e-4 for key, value in got.items() if "lora_B" in key)


def test_each_process_holds_its_part_of_the_blocks_and_a_step_takes_no_more_than_planned(tmp_path):
    path = tmp_path / "flux.safetensors"
    size = {"hidden_size": 256, "double_blocks": 2, "single_blocks": 12, "context_width": 128, "pooled_width": 64}
    save_file(transformer_weights(**size), path)
    measured = json.loads(by_two_processes("--module", "tests.trainers.flux.sharded_step", path))
    flux, settings = detection.inspect(path), Settings(precision="fp32", rank=RANK)
    whole, sharded = (plan(settings, Budget(flux, (SMALL,), "cpu", 0, shards)) for shards in (1, 2))
    sizes = loading.weight_sizes(flux, "fp32")
    blocks = sum(size for name, size in sizes.items() if "blocks." in name)
    assert measured["held"] == pytest.approx(whole.weights - blocks / 2 + whole.lora, rel=0.02)
    used = measured["held"] + measured["step"] + sharded.optimizer
    largest = sum(size for name, size in sizes.items() if name.startswith("transformer_blocks.0."))
    # On the CPU what was gathered is given back at once; on a GPU its memory is kept for the next block.
    assert sharded.peak - 2 * largest < used < sharded.peak < whole.peak


def test_the_plan_for_a_sharded_base_never_streams_blocks_and_says_how_many_devices_share_it():
    budget = Budget(FLUX_DEV, (BatchShape(512, 512, 1, 512),), "cuda", 16 * 2**30, shards=2)
    settings = choose(Settings(), budget)
    assert (settings.precision, settings.streamed_blocks) == ("bf16", 0)  # alone, a card of 16 GB has no room for it
    assert "bf16, with the base sharded over 2 devices, needs" in forecast(settings, budget)
    tight = Budget(FLUX_DEV, budget.shapes, "cuda", 6 * 2**30, shards=2)
    assert "streamed_blocks" not in remedy(settings, tight)


def test_streamed_blocks_set_by_hand_and_a_sharded_base_exclude_each_other(make_run):
    run = make_run(**QUICK, streamed_blocks=1)
    assert in_two_processes(PROCESS, run.folder, "--cpu", **FSDP).returncode != 0
    assert "streamed_blocks is 1" in run.status()["error"] and "without FSDP" in run.status()["error"]


def test_weights_in_host_memory_are_refused_with_what_there_is_instead(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_OFFLOAD_PARAMS", "true")
    with pytest.raises(TrainingError, match=r"fsdp_offload_params.*streamed_blocks"):
        sharding.asked_for()


def test_one_process_has_nothing_to_shard(make_run, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    run = make_run(**QUICK, steps=1)
    assert train(run) and run.finished
