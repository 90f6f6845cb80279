"""How much memory a training step will take, before anything is loaded; and the settings that fit into what is free.

Nothing is calibrated. One block of each kind, with its adapter, is rehearsed on the meta device, where tensors have
shapes and no memory, while every tensor that autograd makes and keeps is counted. The peak of the whole model follows
by sums, as all blocks of a kind are alike. `torch.compile` keeps less than is planned for here.
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
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from ...errors import SettingsError
from ...hardware.memory import AllocatedTensors
from .. import objective
from ..flux import layout, loading, quantisation
from ..flux.blocks import blocks, recomputed
from ..flux.forward import predict_velocity
from ..flux.latents import PATCH, PIXELS_PER_TOKEN, latent_shape
from ..flux.sharding import GATHERED
from ..flux.streaming import RING, block_names, streamed_indices
from ..lora import adapter
from ..optimizers import STATE_NUMBERS, install_command, is_installed
from ..presets import PRESETS

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

    from ..flux.layout import FluxArchitecture
    from ..lora.targets import LoraShape
    from ..settings import Settings

GIGABYTE = 2**30  # as cards are sold: one of "8 GB" has 8 * 2**30 bytes
# Best first. int8 errs by 0.9 % of a normally distributed weight, fp8 by 2.6 %, at the same size.
PRECISIONS = {"cpu": ("fp32", "bf16"), "accelerator": ("bf16", "int8", "nf4")}
# On an accelerator, outside of what tensors take: cuBLAS's workspaces and the kernels that are loaded as they are first
# used. An estimate: not measured on a GPU.
KERNELS = 400 * 2**20
# Of the activations: gaps between what PyTorch's caching allocator has handed out. Its CUDA code, run on full-size
# steps over a driver that computes nothing, left 0.16 to 0.36, the most at 1024 px. Not measured on a GPU.
FRAGMENTATION = 0.4
TAKEN = 0.7 * GIGABYTE  # of an otherwise idle card, by the desktop and the CUDA contexts of ComfyUI and the trainer
SMALLER_PRECISIONS = ("bf16", "int8", "nf4")
SMALLER_SIDES = (1024, 768, 512, 384, 256)  # pixels; what a remedy proposes
SMALLER_RANKS = (64, 32, 16, 8, 4)
CLEARLY_MORE = 1.1  # times the pixels of a preset, which is then told
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
        free: bytes free on the device; None where that is not known.
        shards: processes that the frozen base is split over, each on a device of its own; see `sharding`.
    """

    architecture: FluxArchitecture
    shapes: tuple[BatchShape, ...]
    device_type: str
    free: int | None
    shards: int = 1


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


@torch.inference_mode(False)  # ComfyUI runs its nodes in inference mode, where there is nothing to rehearse
@torch.enable_grad()
def plan(settings: Settings, budget: Budget) -> Plan:
    """Predict the peak of a training step, for that shape of the budget which needs most.

    Raises:
        SettingsError: the precision or the number of streamed blocks is still to be chosen (see `choose`).
    """
    if not is_settled(settings):
        raise SettingsError("Memory can be planned once precision and streamed_blocks are chosen.")
    plans = (_plan(settings, budget, shape) for shape in _largest(budget.shapes))
    return max(plans, key=lambda plan: plan.peak)


def choose(settings: Settings, budget: Budget) -> Settings:
    """Settle `precision="auto"` and `streamed_blocks=-1` so that the run fits into the free memory.

    The best precision that fits is taken, without streaming where that is left open. If none does, as few blocks as fit
    are streamed, in the smallest precision that may be chosen.

    Raises:
        SettingsError: nothing that may be chosen fits; it names the cheapest setting that does. Or something is left
            open and the free memory is not known.
    """
    if budget.free is None and not is_settled(settings):
        open_ones = {
            f"precision to one of {', '.join(_usable(SMALLER_PRECISIONS))}": settings.precision == "auto",
            "streamed_blocks to 0, or higher where memory runs out": settings.streamed_blocks < 0,
        }
        raise SettingsError(
            f"precision auto and streamed_blocks -1 go by the free memory, which PyTorch does not tell on this device "
            f"({budget.device_type}). In Training Memory Settings, set "
            f"{', and '.join(text for text, is_open in open_ones.items() if is_open)}."
        )
    settled = _settled(settings, budget)
    if settled is None:
        smallest = list(_candidates(settings, budget))[-1]
        raise SettingsError(f"{preflight(smallest, budget)} {remedy(smallest, budget)}")
    return settled


def is_settled(settings: Settings) -> bool:
    """Whether the settings leave nothing to `choose`."""
    return settings.precision != "auto" and settings.streamed_blocks >= 0


def fits(settings: Settings, budget: Budget) -> bool:
    """Whether the plan stays within the free memory; also where that is not known."""
    return budget.free is None or plan(settings, budget).peak <= budget.free


def simulate(settings: Settings, architecture: FluxArchitecture, shape: BatchShape, card: int) -> Settings | None:
    """What `choose` would settle on a CUDA card of `card` gigabytes that nothing else uses; None if nothing fits."""
    budget = Budget(architecture, (shape,), "cuda", int(card * GIGABYTE - TAKEN))
    return _settled(settings, budget)


def preflight(settings: Settings, budget: Budget) -> str:
    """What to tell before the start: 'Training in nf4 needs 14.2 GB (…); 15.1 GB are free.'"""
    planned = plan(settings, budget)
    host = f" and {_gigabytes(planned.host)} of host memory" if planned.host else ""
    shards = f", with the base sharded over {budget.shards} devices," if budget.shards > 1 else ""
    free = "how much is free is unknown" if budget.free is None else f"{_gigabytes(budget.free)} are free"
    needs = f"Training in {settings.precision}{shards} needs {planned}{host}"
    return f"{needs}; {free}.{_beyond_preset(settings, budget)}"


def _beyond_preset(settings: Settings, budget: Budget) -> str:
    """A sentence where the batches are clearly larger than those that the preset is for; else ''."""
    preset = PRESETS.get(settings.preset)
    largest = max(budget.shapes, key=lambda shape: shape.batch * shape.width * shape.height)
    pixels = largest.batch * largest.width * largest.height
    if not preset or pixels <= CLEARLY_MORE * preset.batch_size * preset.width * preset.height:
        return ""
    return (
        f" The preset '{settings.preset}' is for {preset.width} x {preset.height} pixels with batch_size "
        f"{preset.batch_size}; this dataset has up to {largest.width} x {largest.height} with {largest.batch}."
    )


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
            f"another.{_by_installing(*state)}"
        )
    return _needed(made, settings, budget) + _by_installing(settings, budget)


def _by_installing(settings: Settings, budget: Budget) -> str:
    """A sentence where nf4 alone would fit, but is left out because what it needs is not installed; else ""."""
    smaller = dataclasses.replace(settings, precision="nf4")
    if _usable(("nf4",)) or _size(settings.precision) <= _size("nf4") or not fits(smaller, budget):
        return ""
    need = _gigabytes(plan(smaller, budget).peak)
    return (
        f" Or install bitsandbytes into ComfyUI's Python with {install_command('bitsandbytes')}: it allows precision "
        f"nf4, which needs {need}."
    )


def after_running_out(settings: Settings, budget: Budget) -> str:
    """The remedy when memory ran out although the plan had room: it has to need clearly less than what was tried."""
    tried = int(UNEXPLAINED * plan(settings, budget).peak)
    free = tried if budget.free is None else min(budget.free, tried)
    return remedy(settings, dataclasses.replace(budget, free=free))


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
    # Not of prodigy, whose learning rate of 1 would tear the weights apart.
    larger = settings.optimizer != "prodigy" and STATE_NUMBERS[settings.optimizer] > STATE_NUMBERS["adamw8bit"]
    if larger and budget.device_type != "cpu" and is_installed("bitsandbytes"):
        yield (_Change("optimizer to adamw8bit", (("optimizer", "adamw8bit"),)),)
    if smaller := [name for name in _usable(SMALLER_PRECISIONS) if _size(name) < _size(settings.precision)]:
        yield tuple(_Change(f"precision to {name}", (("precision", name),)) for name in smaller)
    total = _total_blocks(budget.architecture)
    if _can_stream(budget) and settings.streamed_blocks < total:
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
    *others, last = [change.said for change in chosen]
    listed = f"{', '.join(others)} and {last}" if others else last
    return f"Set {listed}: that needs {need}."


def _apply(changes: Sequence[_Change], settings: Settings, budget: Budget) -> tuple[Settings, Budget]:
    for change in changes:
        settings, budget = change.applied(settings, budget)
    return settings, budget


def _largest(shapes: Sequence[BatchShape]) -> tuple[BatchShape, ...]:
    """The shapes that no other exceeds both in tokens of the picture and of the text; of equal ones, one."""
    tokens = {(shape.batch * shape.width * shape.height, shape.batch * shape.text_tokens): shape for shape in shapes}
    return tuple(
        shape
        for size, shape in tokens.items()
        if not any(other != size and other[0] >= size[0] and other[1] >= size[1] for other in tokens)
    )


def _within(shape: BatchShape, side: int | None) -> BatchShape:
    """The shape at the resolution of `side`: as many pixels as its square, in the same proportions."""
    scale = side / (shape.width * shape.height) ** 0.5 if side else 1.0
    if scale >= 1:
        return shape
    step = PIXELS_PER_TOKEN
    width, height = (max(step, round(length * scale / step) * step) for length in (shape.width, shape.height))
    return dataclasses.replace(shape, width=width, height=height)


def _settled(settings: Settings, budget: Budget) -> Settings | None:
    return next((candidate for candidate in _candidates(settings, budget) if fits(candidate, budget)), None)


def _candidates(settings: Settings, budget: Budget) -> Iterator[Settings]:
    """The settings with what they leave open filled in, from what is liked best to what needs least."""
    precisions = _usable(PRECISIONS["cpu" if budget.device_type == "cpu" else "accelerator"])
    precisions = precisions if settings.precision == "auto" else (settings.precision,)
    streamable = settings.streamed_blocks < 0
    for precision in precisions:
        resident = dataclasses.replace(settings, precision=precision)
        yield dataclasses.replace(resident, streamed_blocks=0) if streamable else resident
    # On the CPU, host memory is what there is too little of. The ring itself has room for as many blocks.
    if streamable and _can_stream(budget):
        for count in range(RING + 1, _total_blocks(budget.architecture) + 1):
            yield dataclasses.replace(settings, precision=precisions[-1], streamed_blocks=count)


def _usable(precisions: Sequence[str]) -> tuple[str, ...]:
    """Those of `precisions` whose library is installed."""
    return tuple(name for name in precisions if name != "nf4" or is_installed("bitsandbytes"))


def _can_stream(budget: Budget) -> bool:
    return budget.device_type != "cpu" and budget.shards == 1


def _size(precision: str) -> int:
    return quantisation.weight_bytes((4096, 4096), precision)


def _gigabytes(size: int) -> str:
    return f"{size / GIGABYTE:.1f} GB"


@dataclass(frozen=True)
class _Scene:
    """What is rehearsed: a model with its adapter, as far as memory depends on them.

    `precision` is fp32, bf16, or int8 for any quantised weight.
    """

    architecture: FluxArchitecture
    lora: LoraShape
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
    scene = _scene(settings, budget)
    streamed = streamed_indices(_total_blocks(budget.architecture), settings.streamed_blocks)
    weights, host = _weight_bytes(budget, settings.precision, streamed)
    lora = sum(_lora_bytes(scene))
    gradients, activations = _peak_of_pass(scene, settings, shape, streamed)
    return Plan(
        weights=weights,
        lora=lora * (2 if settings.ema_decay else 1),
        gradients=gradients,
        optimizer=int(lora * STATE_NUMBERS[settings.optimizer]),
        activations=activations,
        workspace=0 if scene.on_cpu else KERNELS + int(FRAGMENTATION * activations),
        host=host,
    )


def _scene(settings: Settings, budget: Budget) -> _Scene:
    precision = "int8" if settings.precision in quantisation.QUANTISED else settings.precision
    dropout = 0.5 if settings.lora_dropout else 0.0
    lora = dataclasses.replace(settings.lora, alpha=1.0, rslora=False, dropout=dropout)
    return _Scene(budget.architecture, lora, precision, budget.device_type == "cpu")


def _peak_of_pass(scene: _Scene, settings: Settings, shape: BatchShape, streamed: Sequence[int]) -> tuple[int, int]:
    """Bytes of gradients and of all else that the forward and backward pass make, when their sum is at its peak."""
    lora = _lora_bytes(scene)
    first = next(index for index, size in enumerate(lora) if size)  # before it, there is nothing to go back for
    frame = _rehearse_frame(scene, shape)
    rehearsals = []
    for index, like in enumerate(_likes(scene.architecture, scene.lora)):
        again = recomputed(index, settings.gradient_checkpointing, settings.checkpointing_interval, streamed)
        rehearsals.append(_rehearse_block(scene, like, shape, again and index >= first, index > first))
    # From the second of several batches on, the gradients of all blocks are there from the start.
    accumulating = settings.gradient_accumulation > 1
    gradients = sum(lora) if accumulating else 0
    peak, kept = (gradients, frame.head), frame.held
    for index, rehearsal in enumerate(rehearsals):
        peak = max(peak, (gradients, kept + rehearsal.forward), key=sum)
        kept = frame.held + rehearsal.kept if index < first else kept + rehearsal.kept
    peak = max(peak, (gradients, kept + frame.tail), key=sum)
    for rehearsal, size in reversed(list(zip(rehearsals, lora, strict=True))[first:]):
        kept -= rehearsal.kept
        # A rehearsed backward pass makes its block's gradients itself.
        peak = max(peak, (gradients + size, kept + rehearsal.backward - size), key=sum)
        gradients += 0 if accumulating else size
    return peak


def _weight_bytes(budget: Budget, precision: str, streamed: Sequence[int]) -> tuple[int, int]:
    """Bytes of the frozen base on the device, with blocks that come and go, and of streamed ones in host memory."""
    total, every = _block_bytes(budget.architecture, precision)
    if budget.shards > 1:
        return total - sum(every) + -(-sum(every) // budget.shards) + GATHERED * max(every), 0
    host = [every[index] for index in streamed]
    return total - sum(host) + max(host, default=0) * min(RING, len(host)), sum(host)


@lru_cache(maxsize=16)
def _block_bytes(architecture: FluxArchitecture, precision: str) -> tuple[int, tuple[int, ...]]:
    """Bytes of the frozen base, and of each of its blocks."""
    sizes = loading.weight_sizes(architecture, precision)
    names = block_names(architecture, range(_total_blocks(architecture)))
    every = tuple(sum(size for name, size in sizes.items() if name.startswith(block)) for block in names)
    return sum(sizes.values()), every


def _total_blocks(architecture: FluxArchitecture) -> int:
    return architecture.double_blocks + architecture.single_blocks


@lru_cache(maxsize=64)
def _likes(architecture: FluxArchitecture, lora: LoraShape) -> tuple[int, ...]:
    """For each block, the first one that is like it: of the same kind, with the same layers adapted."""
    skeleton = _skeleton(architecture)
    targets = adapter.target_modules(skeleton, lora.targets)
    ranks = lora.ranks(architecture.double_blocks, architecture.single_blocks)
    looks = []
    for block, name in zip(blocks(skeleton), block_names(architecture, range(len(ranks))), strict=True):
        layers = [target.removeprefix(name) for target in targets if target.startswith(name)]
        looks.append((type(block), ranks[name.rstrip(".")], layers))
    return tuple(looks.index(look) for look in looks)


@lru_cache(maxsize=4)
def _skeleton(architecture: FluxArchitecture) -> FluxTransformer2DModel:
    return loading.empty_transformer(architecture)


# Rehearsing, on the meta device.


@lru_cache(maxsize=8)
def _stage(scene: _Scene) -> FluxTransformer2DModel:
    """The model of a scene, on the meta device.

    Of blocks that are alike only the first is there; the others have no weights and do nothing.
    """
    likes = _likes(scene.architecture, scene.lora)
    transformer = loading.empty_transformer(scene.architecture).requires_grad_(False)
    for index, name in enumerate(block_names(scene.architecture, range(len(likes)))):
        if likes[index] != index:
            transformer.set_submodule(name.rstrip("."), torch.nn.Identity())
    torch.nn.Module.to(transformer, quantisation.compute_dtype(scene.precision))  # diffusers' own warns of nothing
    if scene.precision in quantisation.QUANTISED:
        for block in blocks(transformer):
            _quantise(block, scene.precision)
    adapter.add_lora(transformer, scene.lora, seed=0)
    if not scene.on_cpu:
        _fuse_norms(transformer)
    return transformer.train()


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


@lru_cache(maxsize=64)
def _lora_bytes(scene: _Scene) -> tuple[int, ...]:
    """Bytes of each block's adapter."""
    every = blocks(_stage(scene))
    return tuple(
        sum(parameter.nbytes for parameter in every[like].parameters() if parameter.requires_grad)
        for like in _likes(scene.architecture, scene.lora)
    )


@lru_cache(maxsize=256)
def _rehearse_block(scene: _Scene, index: int, shape: BatchShape, recompute: bool, reached: bool) -> _Rehearsal:
    """Forward and backward pass of one block; `reached`: gradients go on from it to the blocks before."""
    transformer = _stage(scene)
    block = blocks(transformer)[index]
    tokens, width = shape.width * shape.height // PIXELS_PER_TOKEN**2, scene.architecture.hidden_size
    meta = {"device": "meta", "dtype": quantisation.compute_dtype(scene.precision)}
    image = torch.empty(shape.batch, tokens, width, requires_grad=reached, **meta)
    text = torch.empty(shape.batch, shape.text_tokens, width, requires_grad=reached, **meta)
    conditioning = torch.empty(shape.batch, width, **meta)
    rotary = torch.empty(2, shape.text_tokens + tokens, layout.HEAD_WIDTH, device="meta").unbind()
    inputs = (image, text, conditioning, rotary)

    def run(*inputs: Any) -> tuple[Tensor, Tensor]:
        with _FlashAttention():
            return block(*inputs)

    with AllocatedTensors() as allocated:
        outputs = checkpoint(run, *inputs, use_reentrant=False) if recompute else run(*inputs)
        end = _End.apply(*outputs)  # the outputs stay alive meanwhile, as in the checkpoint of the block after it
        kept, forward = allocated.bytes, allocated.peak
        allocated.peak = 0
        if end.requires_grad:
            end.backward()
        backward = allocated.peak
    transformer.zero_grad()
    return _Rehearsal(kept, forward, backward)


class _FlashAttention(TorchFunctionMode):
    """Attention as every real device computes it; on the meta device it would be written out, scores and all."""

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        if function is torch.nn.functional.scaled_dot_product_attention:
            given = dict(zip(("query", "key", "value"), arguments, strict=False)) | (keywords or {})
            flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
            return flash(given["query"], given["key"], given["value"])[0]
        return function(*arguments, **keywords or {})


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
    transformer = _stage(scene)
    architecture = scene.architecture
    allocated = AllocatedTensors()
    middle = _Blocks(allocated)
    with _without_blocks(transformer, middle), torch.device("meta"), allocated:
        _, height, width = latent_shape(shape.width, shape.height)
        latents = torch.empty(shape.batch, architecture.in_channels // PATCH**2, height, width)
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
