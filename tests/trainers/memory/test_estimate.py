import dataclasses
import importlib.util
import re

import pytest
import torch
from impasto.embedded.transformer_weights import transformer_weights
from impasto.errors import SettingsError
from impasto.trainers import objective
from impasto.trainers.flux import detection, layout, loading, quantisation
from impasto.trainers.flux.streaming import StreamedBlocks, streamed_indices
from impasto.trainers.libraries import check_installed
from impasto.trainers.lora import adapter
from impasto.trainers.memory.block_profile import BatchShape
from impasto.trainers.memory.choice import choose, simulate
from impasto.trainers.memory.estimate import Budget, fits, forecast, plan
from impasto.trainers.memory.remedy import explained, remedy
from impasto.trainers.optimization import make_optimizer
from impasto.trainers.optimizers import OPTIMIZERS
from impasto.trainers.presets import PRESETS
from impasto.trainers.settings import Settings
from impasto.trainers.step import VelocityModel
from safetensors.torch import save_file

FLUX_DEV = layout.FluxArchitecture(
    hidden_size=3072,
    heads=24,
    double_blocks=19,
    single_blocks=38,
    context_width=4096,
    pooled_width=768,
    in_channels=64,
    guidance=True,
    prefix="",
    parameters=11_901_408_320,
)
SMALL = BatchShape(256, 256, 1, 64)
WIDE = BatchShape(256, 384, 2, 40)
PRODIGY = {"optimizer": "prodigy", "learning_rate": 1.0}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("flux") / "flux.safetensors"
    size = {"hidden_size": 256, "double_blocks": 2, "single_blocks": 4, "context_width": 128, "pooled_width": 64}
    save_file(transformer_weights(**size), path)
    return path


def allocations(step) -> int:
    """Peak of what torch's allocator handed out during `step`, in bytes: all of it, also within kernels."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        step()
    now = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


def random_loss(model, shape) -> torch.Tensor:
    """The loss of a batch of noise, for a model of the `path`'s widths."""
    latents = torch.randn(shape.batch, 16, shape.height // 8, shape.width // 8)
    noise, sigma = torch.randn_like(latents), torch.rand(shape.batch)
    t5, pooled = torch.randn(shape.batch, shape.text_tokens, 128), torch.randn(shape.batch, 64)
    velocity = model(objective.noisy_latents(latents, noise, sigma), sigma, t5, pooled)
    return objective.velocity_loss(velocity, latents, noise)


def measured(path, settings, shape) -> tuple[int, int]:
    """Bytes of a real training step: in all, and of what forward and backward pass make."""
    transformer = loading.load_transformer(path, settings.precision)
    if settings.eight_bit_products:
        assert quantisation.use_eight_bit_products(transformer, torch.device("cpu"))
    parameters = adapter.add_lora(transformer, settings.lora, seed=0)
    transformer.train()
    indices = streamed_indices(6, settings.streamed_blocks)
    streamed = StreamedBlocks(transformer, indices, torch.device("cpu")) if indices else None
    optimizer = make_optimizer(parameters, settings)
    if OPTIMIZERS[settings.optimizer].schedule_free:
        optimizer.train()

    model = VelocityModel(transformer, settings, streamed)

    def step():
        for _ in range(settings.gradient_accumulation):
            random_loss(model, shape).backward()
        optimizer.step()
        optimizer.zero_grad()

    step()  # from then on, the optimiser has its state
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in transformer.parameters()}
    if streamed:
        memories = [slot.memory for slot in streamed._slots] + [block.host for block in streamed._carried.values()]
        storages |= {memory.data_ptr(): memory.untyped_storage() for memory in memories}
    state = [value for values in optimizer.state.values() for value in values.values() if torch.is_tensor(value)]
    passes = allocations(step)
    return sum(map(len, storages.values())) + sum(tensor.nbytes for tensor in state) + passes, passes


@pytest.mark.parametrize(
    ("changes", "shape"),
    [
        ({"precision": "fp32"}, SMALL),
        ({"precision": "fp32", "gradient_checkpointing": False}, WIDE),
        ({"precision": "bf16", "gradient_checkpointing": False, "lora_dropout": 0.1}, SMALL),
        ({"precision": "bf16", "checkpointing_interval": 2, "targets": "attention"}, WIDE),
        ({"precision": "fp32", "checkpointing_interval": 3, "rank": 64, **PRODIGY}, SMALL),
        ({"precision": "fp32", "targets": "single blocks", "gradient_checkpointing": False}, SMALL),
        ({"precision": "bf16", "targets": "all linear", "rank": 32, "gradient_accumulation": 2}, SMALL),
        ({"precision": "int8", "optimizer": "adafactor"}, SMALL),
        ({"precision": "nf4", "gradient_checkpointing": False, "optimizer": "schedule_free_adamw"}, WIDE),
        ({"precision": "fp8", "rank": 4}, WIDE),
        ({"precision": "int8", "eight_bit_products": True, "gradient_checkpointing": False}, WIDE),
        ({"precision": "fp32", "streamed_blocks": 4}, SMALL),
        ({"precision": "bf16", "dora": True, "block_ranks": "double 0: 0; single 1-2: 32"}, SMALL),
    ],
)
def test_a_planned_step_takes_what_was_planned(path, changes, shape):
    settings = Settings(**changes)
    planned = plan(settings, Budget(detection.inspect(path), (shape,), "cpu", 0))
    total, passes = measured(path, settings, shape)
    assert planned.peak + planned.host == pytest.approx(total, rel=0.1)
    assert planned.activations + planned.gradients == pytest.approx(passes, rel=0.1)


def card(gigabytes, *shapes):
    return Budget(FLUX_DEV, shapes or (BatchShape(512, 512, 1, 512),), "cuda", int(gigabytes * 2**30))


def test_the_weights_of_flux_dev_take_what_its_files_take():
    budget = card(8)
    assert plan(Settings(precision="bf16"), budget).weights == pytest.approx(23.8e9, rel=0.001)
    assert plan(Settings(precision="nf4"), budget).weights == pytest.approx(6.2e9, rel=0.02)


@pytest.mark.parametrize(("gigabytes", "precision"), [(30, "bf16"), (15, "int8"), (9, "nf4")])
def test_auto_takes_the_best_precision_that_fits(gigabytes, precision):
    assert choose(Settings(), card(gigabytes)).precision == precision


def test_auto_on_the_cpu_is_exact_where_that_fits():
    roomy, tight = (dataclasses.replace(card(gigabytes), device_type="cpu") for gigabytes in (64, 32))
    assert choose(Settings(), roomy).precision == "fp32"
    assert choose(Settings(), tight).precision == "bf16"


def test_as_few_blocks_are_streamed_as_fit():
    settings = Settings(precision="bf16", streamed_blocks=-1)
    chosen = choose(settings, card(12))
    assert 0 < chosen.streamed_blocks < 57
    fewer = dataclasses.replace(chosen, streamed_blocks=chosen.streamed_blocks - 1)
    assert fits(chosen, card(12)) and not fits(fewer, card(12))
    assert choose(settings, card(40)).streamed_blocks == 0


def test_what_does_not_fit_is_refused_with_the_cheapest_setting_that_does():
    settings = Settings(precision="bf16", gradient_checkpointing=False)
    with pytest.raises(SettingsError, match=r"needs \d+\.\d GB .* 28\.0 GB are free.*Set gradient_checkpointing to on"):
        choose(settings, card(28))


@pytest.mark.parametrize(
    ("changes", "gigabytes", "expected"),
    [
        ({"precision": "bf16", "checkpointing_interval": 4}, 26, "checkpointing_interval to 1"),
        ({"precision": "int8", "rank": 128, "optimizer": "adamw"}, 17, "optimizer to adamw8bit"),
        ({"precision": "int8", "rank": 128, **PRODIGY}, 19, "precision to nf4"),  # its learning rate is no other's
        ({"precision": "bf16"}, 15, "precision to int8"),
        ({"precision": "bf16"}, 9, "precision to nf4"),
        ({"precision": "nf4", "optimizer": "adamw8bit"}, 6, "streamed_blocks to"),
    ],
)
def test_a_remedy_is_the_first_that_helps(changes, gigabytes, expected):
    said = remedy(Settings(**changes), card(gigabytes))
    assert said.startswith(f"Set {expected}") and " and " not in said


def test_a_remedy_names_together_what_helps_only_together():
    shape = BatchShape(1024, 1024, 4, 512)
    said = remedy(Settings(precision="bf16", gradient_checkpointing=False), card(11, shape))
    assert "gradient_checkpointing to on, precision to nf4 and batch_size to 1 in Dataset TOML Writer" in said


def test_where_nothing_helps_this_is_said():
    assert "Even the least that can be set needs" in remedy(Settings(precision="bf16"), card(0.5))


@pytest.fixture
def no_bitsandbytes(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else find(name))


def test_auto_leaves_nf4_out_where_bitsandbytes_is_not_installed_and_streams_int8(no_bitsandbytes):
    chosen = choose(Settings(streamed_blocks=-1), card(9))
    assert (chosen.precision, chosen.streamed_blocks > 0) == ("int8", True)
    check_installed(chosen)


def test_without_bitsandbytes_the_refusal_names_what_fits_and_what_installing_it_would_allow(no_bitsandbytes):
    remedy = r"int8 needs .*Set streamed_blocks to \d+: that needs .*install\.py bitsandbytes': it allows precision nf4"
    with pytest.raises(SettingsError, match=remedy):
        choose(Settings(), card(9))


def test_a_remedy_asks_for_nothing_that_is_not_installed(no_bitsandbytes):
    least = remedy(Settings(precision="bf16", rank=128, **PRODIGY), card(3.2, BatchShape(1024, 1024, 4, 512)))
    assert "adamw8bit" not in least and "precision to int8" in least and "bitsandbytes" not in least
    everything = remedy(Settings(precision="bf16"), card(0.5))
    assert everything.endswith("or train on another.")


def test_planning_works_where_comfyui_runs_its_nodes():
    budget = card(8, BatchShape(64, 64, 1, 16))
    for rank, mode in ((3, torch.inference_mode()), (5, torch.no_grad())):
        with mode:
            planned = plan(Settings(precision="bf16", rank=rank), budget)
        assert planned.gradients > 0


def test_every_shape_of_a_run_has_to_fit():
    small, large = BatchShape(512, 512, 1, 512), BatchShape(1024, 1024, 1, 512)
    settings = Settings(precision="nf4")
    peaks = [plan(settings, card(8, *shapes)).peak for shapes in ((small,), (large,), (small, large))]
    assert peaks[0] < peaks[1] == peaks[2]
    small, wordy = BatchShape(1024, 512, 1, 77), BatchShape(512, 512, 1, 512)
    peaks = [plan(settings, card(8, *shapes)).peak for shapes in ((small,), (wordy,), (small, wordy))]
    assert max(peaks[:2]) == peaks[2]


def test_the_need_is_told_beside_what_is_free():
    said = forecast(Settings(precision="nf4", streamed_blocks=20), card(15.06))
    assert "needs" in said and "of host memory" in said and said.endswith("15.1 GB are free.")


@pytest.mark.parametrize(
    ("changes", "open_ones"),
    [
        ({}, "precision to one of [^.]*int8[^.]*"),
        ({"streamed_blocks": -1}, "precision to one of [^.]*, and streamed_blocks to [^.]*"),
        ({"precision": "nf4", "streamed_blocks": -1}, "streamed_blocks to [^.]*"),
    ],
)
def test_where_the_free_memory_is_unknown_what_is_left_to_it_has_to_be_set(changes, open_ones):
    unknown = dataclasses.replace(card(0), device_type="xpu", free=None)
    with pytest.raises(SettingsError, match=rf"\(xpu\)\. In Training Memory Settings, set {open_ones}\.$"):
        choose(Settings(**changes), unknown)
    settled = Settings(**{"precision": "nf4"} | changes | {"streamed_blocks": 4})
    assert choose(settled, unknown) == settled and fits(settled, unknown)
    assert re.search(r"needs \d.* GB .*; how much is free is unknown\.$", forecast(settled, unknown))
    assert re.search(r"Set .*: that needs \d", explained(MemoryError("no memory"), settled, unknown))


def test_batches_larger_than_the_preset_is_for_are_told_with_what_they_need():
    settings = dataclasses.replace(PRESETS["8 GB"].settings, preset="8 GB", streamed_blocks=0)
    at_512, at_1024, two = BatchShape(448, 576, 1, 512), BatchShape(1152, 896, 1, 512), BatchShape(512, 512, 2, 512)
    told = "The preset '8 GB' is for 512 x 512 pixels with batch_size 1; this dataset has up to"
    assert forecast(settings, card(8, at_512, at_1024)).endswith(f"{told} 1152 x 896 with 1.")
    assert forecast(settings, card(8, at_512, two)).endswith(f"{told} 512 x 512 with 2.")
    assert "preset" not in forecast(settings, card(8, at_512))
    assert "preset" not in forecast(dataclasses.replace(settings, preset=""), card(8, at_1024))
    with pytest.raises(SettingsError, match=told):
        choose(dataclasses.replace(settings, streamed_blocks=-1), card(0.5, at_1024))


def test_running_out_against_the_plan_asks_for_clearly_less():
    settings = Settings(precision="int8", optimizer="adamw8bit")
    said = explained(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), settings, card(40))
    assert "Set precision to nf4: that needs" in said and "Queue again" in said


def test_running_out_before_anything_was_planned_still_says_what_to_do():
    for budget in (None, card(8)):
        assert "Close other programs" in explained(MemoryError("no memory"), Settings(precision="auto"), budget)


@pytest.mark.parametrize(("name", "streamed"), [("8 GB", 4), ("12 GB", 0), ("16 GB", 0), ("24 GB", 0)])
def test_a_preset_for_a_card_fits_it_with_hardly_a_block_streamed(name, streamed):
    preset = PRESETS[name]
    shape = BatchShape(preset.width, preset.height, preset.batch_size, 512)
    chosen = simulate(preset.settings, FLUX_DEV, shape, int(name.split()[0]))
    assert chosen is not None and chosen.streamed_blocks == streamed
