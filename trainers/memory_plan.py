"""How much memory a training step will take, before anything is loaded; and the settings that fit into what is free.

Nothing is calibrated. One block of each kind, with its adapter, is rehearsed on fake tensors, which have shapes and no
memory, while every tensor that autograd makes and keeps is counted. The peak of the whole model follows by sums, as all
blocks of a kind are alike. `torch.compile` keeps less than is planned for here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..errors import SettingsError
from ..hardware.memory import AllocatedTensors
from . import adapter, flux_weights, objective, quantisation
from .optimizers import STATE_NUMBERS
from .streaming import RING, block_names, streamed_indices
from .velocity import blocks, predict_velocity, recomputed

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel
    from torch._subclasses.fake_tensor import FakeTensorMode

    from .flux_weights import FluxArchitecture
    from .settings import Settings

GIGABYTE = 1e9  # what cards are sold in and what the texts count in
# Best first. int8 errs by 0.9 % of a normally distributed weight, fp8 by 2.6 %, at the same size.
PRECISIONS = {"cpu": ("fp32", "bf16"), "accelerator": ("bf16", "int8", "nf4")}
# On an accelerator, outside of what tensors take: cuBLAS's workspaces and the kernels that are loaded as they are first
# used. Estimates: not measured on a GPU.
KERNELS = 400 * 2**20
FRAGMENTATION = 0.05  # of the activations: gaps between what PyTorch's allocator has handed out
SMALLER_PRECISIONS = ("bf16", "int8", "nf4")
SMALLER_SIDES = (1024, 768, 512, 384, 256)  # pixels; what a remedy proposes
SMALLER_RANKS = (64, 32, 16, 8, 4)
UNEXPLAINED = 0.9  # after running out of memory: a remedy has to need at most this part of what was planned


@dataclass(frozen=True)
class BatchShape:
    """The size of one batch: of its pictures in pixels, how many, and the length of their T5 embeddings."""

    width: int
    height: int
    batch: int
    text_tokens: int


@dataclass(frozen=True)
class Budget:
    """What is known before a model is loaded.

    Attributes:
        architecture: of the base model.
        shapes: of all batches of the run.
        device_type: "cpu", "cuda", …
        free: bytes free on the device.
    """

    architecture: FluxArchitecture
    shapes: tuple[BatchShape, ...]
    device_type: str
    free: int


@dataclass(frozen=True)
class Plan:
    """Bytes on the device at the peak of a training step.

    Attributes:
        weights: of the frozen base, with the ring for its streamed blocks.
        lora: the adapter, and its moving average.
        gradients: of the adapter.
        optimizer: its state.
        activations: everything that forward and backward pass make, the batch included.
        workspace: what lies outside of tensors.
        host: bytes in host memory besides, of streamed blocks.
    """

    weights: int
    lora: int
    gradients: int
    optimizer: int
    activations: int
    workspace: int
    host: int

    @property
    def peak(self) -> int:
        return self.weights + self.lora + self.gradients + self.optimizer + self.activations + self.workspace

    def __str__(self) -> str:
        parts = {
            "weights": self.weights,
            "LoRA": self.lora + self.gradients + self.optimizer,
            "activations": self.activations,
            "workspace": self.workspace,
        }
        listed = ", ".join(f"{name} {_gigabytes(size)}" for name, size in parts.items() if size)
        return f"{_gigabytes(self.peak)} ({listed})"


def plan(settings: Settings, budget: Budget) -> Plan:
    """Predict the peak of a training step, for that shape of the budget which needs most.

    Raises:
        SettingsError: the precision or the number of streamed blocks is still to be chosen (see `choose`).
    """
    if settings.precision == "auto" or settings.streamed_blocks < 0:
        raise SettingsError("Memory can be planned once precision and streamed_blocks are chosen.")
    return max((_plan(settings, budget, shape) for shape in budget.shapes), key=lambda plan: plan.peak)


def choose(settings: Settings, budget: Budget) -> Settings:
    """Settle `precision="auto"` and `streamed_blocks=-1` so that the run fits into the free memory.

    The best precision that fits is taken, without streaming where that is left open. If none does, as few blocks as fit
    are streamed, in the smallest precision that may be chosen.

    Raises:
        SettingsError: nothing that may be chosen fits; it names the cheapest setting that does.
    """
    precisions = _precisions(budget.device_type) if settings.precision == "auto" else (settings.precision,)
    streamable = settings.streamed_blocks < 0
    resident = dataclasses.replace(settings, streamed_blocks=0 if streamable else settings.streamed_blocks)
    for precision in precisions:
        candidate = dataclasses.replace(resident, precision=precision)
        if fits(candidate, budget):
            return candidate
    smallest = dataclasses.replace(resident, precision=precisions[-1])
    candidate = _fewest_streamed(smallest, budget) if streamable else None
    if candidate is None:
        raise SettingsError(f"{preflight(smallest, budget)} {remedy(smallest, budget)}")
    return candidate


def fits(settings: Settings, budget: Budget) -> bool:
    return plan(settings, budget).peak <= budget.free


def preflight(settings: Settings, budget: Budget) -> str:
    """What to tell before the start: 'Needs 14.2 GB (…), 15.1 GB free.'"""
    planned = plan(settings, budget)
    host = f" and {_gigabytes(planned.host)} of host memory" if planned.host else ""
    return f"Training in {settings.precision} needs {planned}{host}; {_gigabytes(budget.free)} are free."


def remedy(settings: Settings, budget: Budget) -> str:
    """Name the cheapest change of settings that fits: the first that does alone, or as few as are needed together.

    In order: recompute all blocks, an 8-bit optimiser, less precision, streamed blocks, a smaller batch, a lower
    resolution, a lower rank.
    """
    made: list[tuple[_Change, ...]] = []
    state = (settings, budget)
    for alternatives in _changes(settings, budget):
        made.append(alternatives)
        state = _apply([changes[-1] for changes in made], settings, budget)
        if fits(*state):
            break
    else:
        least = plan(*state)
        return (
            f"Even the least that can be set needs {_gigabytes(least.peak)}. Free memory on the device, or train on "
            "another."
        )
    return _needed(made, settings, budget)


def after_running_out(settings: Settings, budget: Budget) -> str:
    """The remedy when memory ran out although the plan had room: it has to need clearly less than what was tried."""
    tried = int(UNEXPLAINED * plan(settings, budget).peak)
    return remedy(settings, dataclasses.replace(budget, free=min(budget.free, tried)))


@dataclass(frozen=True)
class _Change:
    """One thing to set otherwise: `said` completes 'Set …'."""

    said: str
    settings: tuple[tuple[str, Any], ...] = ()
    batch: int | None = None
    side: int | None = None

    def applied(self, settings: Settings, budget: Budget) -> tuple[Settings, Budget]:
        shapes = tuple(
            dataclasses.replace(_within(shape, self.side), batch=min(shape.batch, self.batch or shape.batch))
            for shape in budget.shapes
        )
        return dataclasses.replace(settings, **dict(self.settings)), dataclasses.replace(budget, shapes=shapes)


def _changes(settings: Settings, budget: Budget) -> Iterator[tuple[_Change, ...]]:
    """What lowers the need for memory, cheapest first; of each kind all degrees, mildest first."""
    if not settings.gradient_checkpointing:
        everything = (("gradient_checkpointing", True), ("checkpointing_interval", 1))
        yield (_Change("gradient_checkpointing to on", everything),)
    elif settings.checkpointing_interval > 1:
        yield (_Change("checkpointing_interval to 1", (("checkpointing_interval", 1),)),)
    if STATE_NUMBERS[settings.optimizer] > STATE_NUMBERS["adamw8bit"] and budget.device_type != "cpu":
        yield (_Change("optimizer to adamw8bit", (("optimizer", "adamw8bit"),)),)
    if smaller := [name for name in SMALLER_PRECISIONS if _size(name) < _size(settings.precision)]:
        yield tuple(_Change(f"precision to {name}", (("precision", name),)) for name in smaller)
    total = _total_blocks(budget.architecture)
    if budget.device_type != "cpu" and settings.streamed_blocks < total:
        steps = sorted({max(settings.streamed_blocks + 1, total * eighth // 8) for eighth in range(1, 9)})
        yield tuple(_Change(f"streamed_blocks to {count}", (("streamed_blocks", count),)) for count in steps)
    if max(shape.batch for shape in budget.shapes) > 1:
        yield (_Change("batch_size to 1 in Dataset TOML Writer", batch=1),)
    side = max((shape.width * shape.height) ** 0.5 for shape in budget.shapes)
    if smaller_sides := [value for value in SMALLER_SIDES if value < side]:
        yield tuple(_Change(f"resolution to {value} in Dataset TOML Writer", side=value) for value in smaller_sides)
    if smaller_ranks := [value for value in SMALLER_RANKS if value < settings.rank]:
        yield tuple(_Change(f"rank to {value}", (("rank", value),)) for value in smaller_ranks)


def _needed(made: Sequence[tuple[_Change, ...]], settings: Settings, budget: Budget) -> str:
    """Of changes that fit together at their strongest: take each at its mildest, then leave out what is not needed."""
    chosen = [alternatives[-1] for alternatives in made]
    for place, alternatives in reversed(list(enumerate(made))):
        trials = ([*chosen[:place], milder, *chosen[place + 1 :]] for milder in alternatives)
        chosen = next(trial for trial in trials if fits(*_apply(trial, settings, budget)))
    for change in chosen[:-1]:
        without = [other for other in chosen if other is not change]
        if fits(*_apply(without, settings, budget)):
            chosen = without
    need = _gigabytes(plan(*_apply(chosen, settings, budget)).peak)
    return f"Set {' and '.join(change.said for change in chosen)}: that needs {need}."


def _apply(changes: Sequence[_Change], settings: Settings, budget: Budget) -> tuple[Settings, Budget]:
    for change in changes:
        settings, budget = change.applied(settings, budget)
    return settings, budget


def _within(shape: BatchShape, side: int | None) -> BatchShape:
    """The shape at the resolution of `side`: as many pixels as its square, in the same proportions."""
    scale = side / (shape.width * shape.height) ** 0.5 if side else 1.0
    if scale >= 1:
        return shape
    width, height = (max(16, round(length * scale / 16) * 16) for length in (shape.width, shape.height))
    return dataclasses.replace(shape, width=width, height=height)


def _fewest_streamed(settings: Settings, budget: Budget) -> Settings | None:
    if budget.device_type == "cpu":  # host memory is what there is too little of
        return None
    total = _total_blocks(budget.architecture)
    candidates = (dataclasses.replace(settings, streamed_blocks=count) for count in range(1, total + 1))
    return next((candidate for candidate in candidates if fits(candidate, budget)), None)


def _precisions(device_type: str) -> tuple[str, ...]:
    return PRECISIONS["cpu" if device_type == "cpu" else "accelerator"]


def _size(precision: str) -> int:
    return quantisation.weight_bytes((4096, 4096), precision)


def _gigabytes(size: int) -> str:
    return f"{size / GIGABYTE:.1f} GB"


@dataclass(frozen=True)
class _Lora:
    """The adapter of one block, as far as memory depends on it."""

    rank: int
    targets: str
    dropout: bool


@dataclass(frozen=True)
class _Scene:
    """What is rehearsed: a model of one double and one single block, its adapter, and the batch that it is given.

    `precision` is fp32, bf16, or int8 for any quantised weight.
    """

    architecture: FluxArchitecture
    lora: _Lora
    precision: str
    on_cpu: bool


@dataclass(frozen=True)
class _Rehearsal:
    """Bytes of one block, counted from when its inputs are there.

    Attributes:
        kept: after the forward pass, outputs included, which are the next block's inputs.
        forward: the most during the forward pass.
        backward: the most during the backward pass, with what was kept.
    """

    kept: int
    forward: int
    backward: int


@dataclass(frozen=True)
class _Frame:
    """Bytes of everything around the blocks: batch, embedders, output layer and loss.

    Attributes:
        held: alive while the blocks run.
        head: the most before the first block.
        tail: the most after the last block, over what was alive when it ended, until its gradient is there.
    """

    held: int
    head: int
    tail: int


def _plan(settings: Settings, budget: Budget, shape: BatchShape) -> Plan:
    architecture = budget.architecture
    streamed = streamed_indices(_total_blocks(architecture), settings.streamed_blocks)
    weights, host = _weight_bytes(architecture, settings.precision, streamed)
    lora = sum(_lora_bytes(architecture, kind, _lora(settings)) for kind in _kinds(architecture))
    gradients, activations = _peak_of_pass(settings, budget, shape, streamed)
    return Plan(
        weights=weights,
        lora=lora * (2 if settings.ema_decay else 1),
        gradients=gradients,
        optimizer=int(lora * STATE_NUMBERS[settings.optimizer]),
        activations=activations,
        workspace=0 if budget.device_type == "cpu" else KERNELS + int(FRAGMENTATION * activations),
        host=host,
    )


def _peak_of_pass(settings: Settings, budget: Budget, shape: BatchShape, streamed: Sequence[int]) -> tuple[int, int]:
    """Bytes of gradients and of all else that the forward and backward pass make, when their sum is at its peak."""
    architecture = budget.architecture
    quantised = settings.precision in quantisation.QUANTISED
    scene = _Scene(
        architecture, _lora(settings), "int8" if quantised else settings.precision, budget.device_type == "cpu"
    )
    kinds = _kinds(architecture)
    lora = [_lora_bytes(architecture, kind, scene.lora) for kind in kinds]
    rehearsals = [
        _rehearse_block(
            scene,
            kind,
            shape,
            recomputed(index, settings.gradient_checkpointing, settings.checkpointing_interval, streamed),
        )
        for index, kind in enumerate(kinds)
    ]
    frame = _rehearse_frame(scene, shape)
    # From the second of several batches on, the gradients of all blocks are there from the start.
    gradients = sum(lora) if settings.gradient_accumulation > 1 else 0
    peak, kept = (gradients, frame.head), frame.held
    for rehearsal in rehearsals:
        peak = max(peak, (gradients, kept + rehearsal.forward), key=sum)
        kept += rehearsal.kept
    peak = max(peak, (gradients, kept + frame.tail), key=sum)
    for rehearsal, size in zip(reversed(rehearsals), reversed(lora), strict=True):
        kept -= rehearsal.kept
        # A rehearsed backward pass makes its block's gradients itself.
        peak = max(peak, (gradients + size, kept + rehearsal.backward - size), key=sum)
        gradients += 0 if settings.gradient_accumulation > 1 else size
    return peak


def _weight_bytes(architecture: FluxArchitecture, precision: str, streamed: Sequence[int]) -> tuple[int, int]:
    """Bytes of the frozen base on the device, with the ring, and of its streamed blocks in host memory."""
    total, every = _block_bytes(architecture, precision)
    host = [every[index] for index in streamed]
    return total - sum(host) + max(host, default=0) * min(RING, len(host)), sum(host)


@lru_cache(maxsize=16)
def _block_bytes(architecture: FluxArchitecture, precision: str) -> tuple[int, tuple[int, ...]]:
    """Bytes of the frozen base, and of each of its blocks."""
    sizes = flux_weights.weight_sizes(architecture, precision)
    names = block_names(architecture, range(_total_blocks(architecture)))
    every = tuple(sum(size for name, size in sizes.items() if name.startswith(block)) for block in names)
    return sum(sizes.values()), every


def _kinds(architecture: FluxArchitecture) -> tuple[str, ...]:
    return ("double",) * architecture.double_blocks + ("single",) * architecture.single_blocks


def _total_blocks(architecture: FluxArchitecture) -> int:
    return architecture.double_blocks + architecture.single_blocks


def _lora(settings: Settings) -> _Lora:
    return _Lora(settings.rank, settings.targets, settings.lora_dropout > 0)


# Rehearsing, on fake tensors.


@lru_cache(maxsize=8)
def _stage(scene: _Scene) -> tuple[FakeTensorMode, FluxTransformer2DModel]:
    """The model of a scene, its weights fake, and the mode in which alone they can be used."""
    from torch._subclasses.fake_tensor import FakeTensorMode  # half a second, which only planning should cost

    small = dataclasses.replace(scene.architecture, double_blocks=1, single_blocks=1)
    transformer = flux_weights.empty_transformer(small).requires_grad_(False)
    torch.nn.Module.to(transformer, quantisation.compute_dtype(scene.precision))  # diffusers' own warns of nothing
    if scene.precision in quantisation.QUANTISED:
        for block in blocks(transformer):
            _quantise(block, scene.precision)
    dropout = 0.5 if scene.lora.dropout else 0.0
    adapter.add_lora(transformer, scene.lora.rank, 1.0, scene.lora.targets, seed=0, dropout=dropout)
    mode = FakeTensorMode()
    with mode:
        for module in transformer.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                fake = torch.empty(parameter.shape, dtype=parameter.dtype)
                setattr(module, name, torch.nn.Parameter(fake, parameter.requires_grad))
    if not scene.on_cpu:
        _fuse_norms(transformer)
    return mode, transformer.train()


def _quantise(block: torch.nn.Module, precision: str) -> None:
    for module in list(block.modules()):
        for name, layer in module.named_children():
            if type(layer) is torch.nn.Linear:
                values = torch.empty(layer.weight.shape, dtype=torch.int8, device="meta")
                stored = {"values": values, "scale": torch.empty(layer.out_features, device="meta")}
                setattr(module, name, quantisation.QuantisedLinear(precision, stored, layer.bias))


def _fuse_norms(transformer: FluxTransformer2DModel) -> None:
    """Compute RMSNorm as accelerators do, where it keeps less than the CPU's, which is made of several operators."""
    fused = getattr(torch.ops.aten, "_fused_rms_norm", None)  # since torch 2.8
    for norm in transformer.modules():
        if isinstance(norm, torch.nn.RMSNorm) and fused:
            norm.forward = lambda x, norm=norm: fused(x, norm.normalized_shape, norm.weight, norm.eps)[0]


def _lora_bytes(architecture: FluxArchitecture, kind: str, lora: _Lora) -> int:
    _, transformer = _stage(_Scene(architecture, lora, "bf16", on_cpu=False))
    block = blocks(transformer)[0 if kind == "double" else 1]
    return sum(parameter.nbytes for parameter in block.parameters() if parameter.requires_grad)


@lru_cache(maxsize=256)
def _rehearse_block(scene: _Scene, kind: str, shape: BatchShape, recompute: bool) -> _Rehearsal:
    mode, transformer = _stage(scene)
    block = blocks(transformer)[0 if kind == "double" else 1]
    tokens, width = shape.width * shape.height // 256, scene.architecture.hidden_size
    dtype = quantisation.compute_dtype(scene.precision)
    with mode:
        image = torch.empty(shape.batch, tokens, width, dtype=dtype, requires_grad=True)
        text = torch.empty(shape.batch, shape.text_tokens, width, dtype=dtype, requires_grad=True)
        conditioning = torch.empty(shape.batch, width, dtype=dtype)
        rotary = tuple(torch.empty(shape.text_tokens + tokens, flux_weights.HEAD_WIDTH) for _ in range(2))
        inputs = (image, text, conditioning, rotary)
        with AllocatedTensors() as allocated:
            outputs = checkpoint(block, *inputs, use_reentrant=False) if recompute else block(*inputs)
            end = _End.apply(*outputs)  # the outputs stay alive meanwhile, as in the checkpoint of the block after it
            kept, forward = allocated.bytes, allocated.peak
            allocated.peak = 0
            end.backward()
            backward = allocated.peak
        transformer.zero_grad()
    return _Rehearsal(kept, forward, backward)


class _End(torch.autograd.Function):
    """Takes the place of all that follows a block: keeps none of its outputs and sends gradients back to it."""

    @staticmethod
    def forward(ctx: Any, text: Tensor, image: Tensor) -> Tensor:
        ctx.shapes, ctx.dtype = (text.shape, image.shape), image.dtype
        return image.new_zeros(())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return tuple(gradient.new_empty(shape, dtype=ctx.dtype) for shape in ctx.shapes)


class _Blocks(torch.nn.Module):
    """Takes the place of all blocks: notes what is alive before and after them."""

    def __init__(self, allocated: AllocatedTensors) -> None:
        super().__init__()
        self.allocated = allocated

    def forward(self, image: Tensor, text: Tensor, conditioning: Tensor, rotary: Any) -> tuple[Tensor, Tensor]:
        self.held, self.head = self.allocated.bytes, self.allocated.peak
        self.allocated.peak = 0
        return text, image.detach().requires_grad_()


@lru_cache(maxsize=64)
def _rehearse_frame(scene: _Scene, shape: BatchShape) -> _Frame:
    mode, transformer = _stage(scene)
    architecture = scene.architecture
    allocated = AllocatedTensors()
    middle = _Blocks(allocated)
    with mode, _without_blocks(transformer, middle), allocated:
        latents = torch.empty(shape.batch, architecture.in_channels // 4, shape.height // 8, shape.width // 8)
        noise, sigma = torch.empty_like(latents), torch.empty(shape.batch)
        t5 = torch.empty(shape.batch, shape.text_tokens, architecture.context_width)
        pooled = torch.empty(shape.batch, architecture.pooled_width)
        noisy = objective.noisy_latents(latents, noise, sigma)
        velocity = predict_velocity(transformer, noisy, sigma, t5, pooled)
        objective.velocity_loss(velocity, latents, noise).backward()
    return _Frame(middle.held, middle.head, allocated.peak - middle.held)


@contextmanager
def _without_blocks(transformer: FluxTransformer2DModel, instead: torch.nn.Module) -> Iterator[None]:
    double, single = transformer.transformer_blocks, transformer.single_transformer_blocks
    transformer.transformer_blocks = torch.nn.ModuleList()
    transformer.single_transformer_blocks = torch.nn.ModuleList([instead])
    try:
        yield
    finally:
        transformer.transformer_blocks, transformer.single_transformer_blocks = double, single
