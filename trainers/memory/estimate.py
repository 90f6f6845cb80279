"""How much memory a training step will take, before anything is loaded.

`block_profile` counts what a step makes; here that is added to the weights, the optimiser's state and what lies outside
of tensors. `torch.compile` keeps less than is planned for here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from ...errors import SettingsError
from ..flux.loading import weight_sizes
from ..flux.sharding import GATHERED
from ..flux.streaming import RING, block_names, streamed_indices
from ..libraries import is_installed
from ..optimizers import OPTIMIZERS
from ..presets import PRESETS
from .block_profile import BatchShape, lora_bytes, outer_lora_bytes, peak_of_pass, profiled_model

if TYPE_CHECKING:
    from ..flux.layout import FluxArchitecture
    from ..settings import Settings

GIGABYTE = 2**30  # as cards are sold: one of "8 GB" has 8 * 2**30 bytes
# On an accelerator, outside of what tensors take: cuBLAS's workspaces and the kernels that are loaded as they are first
# used. An estimate: not measured on a GPU.
KERNELS = 400 * 2**20
# Of the activations: gaps between what PyTorch's caching allocator has handed out. Its CUDA code, run on full-size
# steps over a driver that computes nothing, left 0.16 to 0.36, the most at 1024 px. Not measured on a GPU.
FRAGMENTATION = 0.4
CLEARLY_MORE = 1.1  # times the pixels of a preset, which is then told


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

    @property
    def can_stream(self) -> bool:
        """Whether blocks can be kept in host memory and copied when their turn comes."""
        return self.device_type != "cpu" and self.shards == 1


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
        listed = ", ".join(f"{name} {gigabytes(size)}" for name, size in parts.items() if size)
        return f"{gigabytes(self.peak)} ({listed})"


@torch.inference_mode(False)  # ComfyUI runs its nodes in inference mode, where there is nothing to rehearse
@torch.enable_grad()
def plan(settings: Settings, budget: Budget) -> Plan:
    """Predict the peak of a training step, for that shape of the budget which needs most.

    Raises:
        SettingsError: the precision or the number of streamed blocks is still to be chosen (see `choice`).
    """
    if not is_settled(settings):
        raise SettingsError("Memory can be planned once precision and streamed_blocks are chosen.")
    plans = (_plan(settings, budget, shape) for shape in _largest(budget.shapes))
    return max(plans, key=lambda plan: plan.peak)


def is_settled(settings: Settings) -> bool:
    """Whether the settings leave nothing to `choose`."""
    return settings.precision != "auto" and settings.streamed_blocks >= 0


def fits(settings: Settings, budget: Budget) -> bool:
    """Whether the plan stays within the free memory; also where that is not known."""
    return budget.free is None or plan(settings, budget).peak <= budget.free


def forecast(settings: Settings, budget: Budget) -> str:
    """What to tell before the start: 'Training in nf4 needs 14.2 GB (…); 15.1 GB are free.'"""
    planned = plan(settings, budget)
    host = f" and {gigabytes(planned.host)} of host memory" if planned.host else ""
    shards = f", with the base sharded over {budget.shards} devices," if budget.shards > 1 else ""
    free = "how much is free is unknown" if budget.free is None else f"{gigabytes(budget.free)} are free"
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


def _largest(shapes: Sequence[BatchShape]) -> tuple[BatchShape, ...]:
    """The shapes that no other exceeds both in tokens of the picture and of the text; of equal ones, one."""
    tokens = {(shape.batch * shape.width * shape.height, shape.batch * shape.text_tokens): shape for shape in shapes}
    return tuple(
        shape
        for size, shape in tokens.items()
        if not any(other != size and other[0] >= size[0] and other[1] >= size[1] for other in tokens)
    )


def usable(precisions: Sequence[str]) -> tuple[str, ...]:
    """Those of `precisions` whose library is installed."""
    return tuple(name for name in precisions if name != "nf4" or is_installed("bitsandbytes"))


def gigabytes(size: int) -> str:
    return f"{size / GIGABYTE:.1f} GB"


def _plan(settings: Settings, budget: Budget, shape: BatchShape) -> Plan:
    profiled = profiled_model(settings, budget.architecture, budget.device_type)
    streamed = streamed_indices(budget.architecture.blocks, settings.streamed_blocks)
    weights, host = _weight_bytes(budget, settings.precision, streamed)
    outer = outer_lora_bytes(profiled)
    lora = sum(lora_bytes(profiled)) + outer
    gradients, activations = peak_of_pass(profiled, settings, shape, streamed)
    return Plan(
        weights=weights,
        lora=lora * (2 if settings.ema_decay else 1),
        gradients=gradients + outer,
        optimizer=int(lora * OPTIMIZERS[settings.optimizer].state),
        activations=activations,
        workspace=0 if profiled.on_cpu else KERNELS + int(FRAGMENTATION * activations),
        host=host,
    )


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
    sizes = weight_sizes(architecture, precision)
    names = block_names(architecture, range(architecture.blocks))
    every = tuple(sum(size for name, size in sizes.items() if name.startswith(block)) for block in names)
    return sum(sizes.values()), every
