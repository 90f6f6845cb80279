"""What a card asks of the training step: everything on one device, and nothing that makes the host wait for it.

Where there is no CUDA device, the meta device stands in for it, in torch's fake tensor mode: shapes and devices are
real, numbers are not. A CPU tensor that meets one of the card is an error there, and so is any question for a number.
Nothing is computed, so this measures neither time nor memory, and it does not show that CUDA's kernels are right. The
tests that do are skipped without a card.
"""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator
from impasto.embedded.transformer_weights import transformer_weights
from impasto.trainers import batches
from impasto.trainers.batches import Batch
from impasto.trainers.flux import detection, loading, products, quantisation
from impasto.trainers.flux.streaming import block_names
from impasto.trainers.libraries import is_installed
from impasto.trainers.optimization import averaged, make_optimizer
from impasto.trainers.settings import Settings
from impasto.trainers.step import Learner, make_learner
from safetensors.torch import save_file
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

SMALL = {"hidden_size": 128, "double_blocks": 1, "single_blocks": 1, "context_width": 64, "pooled_width": 32}
DEEP = SMALL | {"double_blocks": 3, "single_blocks": 4}
STREAMED = (0, 2, 3, 6)
STAND_IN = torch.device("meta")
NO_CARD = "there is no CUDA device"  # by which benchmarks/card_parts.py finds the tests that need one
NO_BITSANDBYTES = "bitsandbytes is not installed: pip install bitsandbytes"
needs_a_card = pytest.mark.skipif(not torch.cuda.is_available(), reason=NO_CARD)
needs_bitsandbytes = pytest.mark.skipif(not is_installed("bitsandbytes"), reason=NO_BITSANDBYTES)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("flux") / "small.safetensors"
    save_file(transformer_weights(**SMALL), path)
    return path


@pytest.fixture(scope="module")
def deep_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("flux") / "deep.safetensors"
    save_file(transformer_weights(**DEEP), path)
    return path


def set_up(path, device: torch.device, streamed: tuple[int, ...] = (), **settings) -> Learner:
    """The learner as a recipe's `setup` makes it, without a run's files."""
    settings = Settings(rank=4, alpha=4.0, targets="all linear", learning_rate=1e-3, **settings)
    host = block_names(detection.inspect(path), streamed)
    transformer = loading.load_transformer(path, settings.precision, device, in_host_memory=host)
    learner = make_learner(transformer, settings, Accelerator(cpu=True), device, streamed)
    learner.prepare()
    learner.train()
    return learner


def batch_of(number: int) -> Batch:
    random = torch.Generator().manual_seed(number)
    latents, noise = (torch.randn(2, 16, 8, 12, generator=random) for _ in range(2))
    t5, pooled = (
        torch.randn(2, 7, SMALL["context_width"], generator=random),
        torch.randn(2, SMALL["pooled_width"], generator=random),
    )
    sigma, weights = torch.tensor([0.3, 0.8]), torch.tensor([1.0, 0.5])
    return Batch(latents, noise, sigma, t5, pooled, weights, torch.ones(2, 1, 8, 12))


def step(learner: Learner, number: int) -> torch.Tensor:
    loss, errors = learner.add_gradients([batch_of(number)], positions=[0])
    assert errors.shape == (2,) and errors.device == STAND_IN
    return torch.stack([loss, learner.apply_gradients()])


MODES = [
    {"precision": "bf16", "ema_decay": 0.9},
    {"precision": "fp8", "dora": True, "optimizer": "schedule_free_adamw"},
    {"precision": "int8", "lora_dropout": 0.1, "gradient_checkpointing": False},
    {"precision": "int8", "eight_bit_products": True},
    {"precision": "fp8", "eight_bit_products": True},
    {"precision": "nf4", "dora": True, "checkpointing_interval": 2, "ema_decay": 0.9},
]


def cases(*modes: dict) -> list:
    """Each mode as a case; one that asks for bitsandbytes is left out where that is not installed."""
    asking = {"nf4", "adamw8bit"}
    return [
        pytest.param(mode, id=str(mode), marks=[needs_bitsandbytes] if asking & set(mode.values()) else [])
        for mode in modes
    ]


@pytest.mark.parametrize("mode", cases(*MODES))
def test_a_step_stays_on_the_card_and_asks_it_for_no_number(path, mode, monkeypatch):
    if mode["precision"] == "nf4":  # bitsandbytes keeps this where it was first used, which is no device
        monkeypatch.setattr("bitsandbytes.functional.name2qmap", {})
    learner = set_up(path, STAND_IN, **mode)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert step(learner, 0).device == STAND_IN
        with averaged(learner.optimizer, learner.ema, learner.parameters), torch.no_grad():
            assert learner.loss(batch_of(3)).device == STAND_IN


def test_the_stand_in_notices_what_was_left_on_the_host(path, monkeypatch):
    monkeypatch.setattr(batches.Batch, "to", lambda batch, device: batch)
    learner = set_up(path, STAND_IN, precision="bf16")
    with FakeTensorMode(allow_non_fake_inputs=True), pytest.raises(RuntimeError, match="two different devices"):
        step(learner, 0)


def test_the_stand_in_notices_a_question_for_a_number():
    with FakeTensorMode(), pytest.raises(DataDependentOutputException):
        bool(torch.ones(2, device=STAND_IN).isfinite().all())


@pytest.mark.parametrize("name", ["adamw8bit", "lion8bit"])
def test_an_8_bit_optimiser_does_not_wait_and_steps_as_bitsandbytes_does(name, monkeypatch):
    bitsandbytes = pytest.importorskip("bitsandbytes", reason=NO_BITSANDBYTES)
    plain = {"adamw8bit": bitsandbytes.optim.AdamW8bit, "lion8bit": bitsandbytes.optim.Lion8bit}[name]
    settings = Settings(optimizer=name, learning_rate=1e-2, weight_decay=0.1)
    start = [torch.randn(64, 128), torch.randn(7)]
    trained = []
    for queued in (True, False):
        parameters = [torch.nn.Parameter(tensor.clone()) for tensor in (*start, torch.zeros(3))]
        own = make_optimizer(parameters, settings)
        optimizer = (
            own
            if queued
            else plain(parameters, **{key: own.defaults[key] for key in ("lr", "betas")}, weight_decay=0.1)
        )
        waits = []
        monkeypatch.setattr(bitsandbytes.optim.optimizer, "sync_gpu", waits.append)
        for seed in range(3):
            random = torch.Generator().manual_seed(seed)
            for parameter in parameters[:2]:
                parameter.grad = torch.randn(parameter.shape, generator=random)
            optimizer.step()
        assert queued is not bool(waits)
        trained.append((parameters, optimizer.state_dict()))
    (ours, our_state), (theirs, their_state) = trained
    assert not torch.equal(ours[0], start[0])
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    assert our_state["state"].keys() == their_state["state"].keys()


# On a card only.


@needs_a_card
@pytest.mark.parametrize(
    "mode",
    cases(
        *MODES,
        {"precision": "bf16", "optimizer": "adamw8bit"},
        {"precision": "bf16", "attention_backend": "native_flash"},
        {"precision": "bf16", "attention_backend": "native_cudnn"},
    ),
)
def test_a_real_step_makes_the_host_wait_for_nothing(deep_path, mode):
    device = torch.device("cuda")
    learner = set_up(deep_path, device, STREAMED, **mode)
    step(learner, 0)  # the first makes the optimiser's state
    batch = batch_of(1).pinned()
    torch.cuda.set_sync_debug_mode("error")
    try:
        learner.add_gradients([batch], positions=[0])
        numbers = learner.apply_gradients()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert numbers.isfinite()


@needs_a_card
@pytest.mark.parametrize(
    "mode",
    cases(
        *({"precision": precision} for precision in quantisation.PRECISIONS),
        *({"precision": precision, "eight_bit_products": True} for precision in products.PRECISIONS),
    ),
)
def test_a_card_learns_what_the_cpu_learns(deep_path, mode):
    norms = {}
    for device in ("cpu", "cuda"):
        learner = set_up(deep_path, torch.device(device), **mode)
        numbers = torch.stack([step(learner, number).cpu() for number in range(3)])
        norms[device] = numbers
    assert torch.allclose(norms["cpu"], norms["cuda"], rtol=1e-4 if mode["precision"] == "fp32" else 0.05)


@needs_a_card
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("precision", ["bf16", pytest.param("nf4", marks=needs_bitsandbytes)])
def test_streaming_changes_no_bit_on_a_card_either(tmp_path, precision, compiled):
    """With blocks so large that their copies are still under way when the next ones are asked for."""
    save_file(
        {key: value.bfloat16() for key, value in transformer_weights(**DEEP | {"hidden_size": 2048}).items()},
        tmp_path / "wide",
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    found = []
    try:
        for streamed in ((), STREAMED, tuple(range(7))):
            torch._dynamo.reset()
            learner = set_up(tmp_path / "wide", torch.device("cuda"), streamed, precision=precision, compile=compiled)
            found.append(torch.stack([step(learner, number) for number in range(4)]))
    finally:
        torch.use_deterministic_algorithms(False)
    resident, *others = found
    assert resident.isfinite().all()
    for streaming in others:  # a compiler may choose another order of summation each time
        assert torch.allclose(resident, streaming, rtol=0.02) if compiled else torch.equal(resident, streaming)
