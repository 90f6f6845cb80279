"""Streaming of frozen blocks: their weights stay in host memory and are copied to the device when their turn comes.

The copies go one way. A frozen weight is the same when its block is done, so the place it had on the device is simply
written over by a later block's. The LoRA beside the weights, which does change, stays on the device.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .blocks import blocks

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

    from .layout import FluxArchitecture

logger = logging.getLogger(__name__)

RING = 2  # blocks on the device at a time: one that computes, and the next one arriving meanwhile
ALIGNMENT = 256  # bytes: no matmul kernel asks for more, and the last bit of a product may depend on it


def streamed_indices(total: int, count: int) -> tuple[int, ...]:
    """Choose `count` of `total` blocks, spread evenly: a copy then has the resident blocks' time to arrive."""
    count = min(count, total)
    return tuple(position * total // count for position in range(count))


def block_names(architecture: FluxArchitecture, indices: Sequence[int]) -> tuple[str, ...]:
    """What the names of these blocks' parameters begin with; blocks are counted as by `blocks`."""
    double = architecture.double_blocks
    return tuple(
        f"transformer_blocks.{index}." if index < double else f"single_transformer_blocks.{index - double}."
        for index in indices
    )


@dataclass(eq=False)
class _Place:
    """One frozen tensor of a block, and where the block reads it: `put` sets what is read.

    `start` is its first byte in the block's memory, `size` counts bytes too.
    """

    put: Callable[[Tensor], None]
    dtype: torch.dtype
    shape: torch.Size
    strides: tuple[int, ...]
    start: int
    size: int

    def view(self, memory: Tensor) -> Tensor:
        piece = memory[self.start : self.start + self.size].view(self.dtype)
        return piece.as_strided(self.shape, self.strides)


@dataclass(eq=False)
class _Carried:
    """A block's frozen tensors, all in one piece of host memory, so that one copy brings them."""

    host: Tensor
    places: list[_Place]
    pinned: bool

    def read_from(self, memory: Tensor) -> None:
        for place in self.places:
            place.put(place.view(memory))


@dataclass(eq=False)
class _Slot:
    """Memory on the device for any one of the streamed blocks.

    `ready` is recorded when what was last copied here has arrived; None where copies are synchronous.
    """

    memory: Tensor
    ready: torch.cuda.Event | None
    holds: int | None = field(default=None)


class StreamedBlocks:
    """Some blocks of a transformer, their frozen weights in host memory, and a ring of slots for them on the device.

    Use it with `predict_velocity(..., streamed=...)`. Make it after the adapter and before the optimiser: the adapter's
    parameters of these blocks are moved to the device here.

    Args:
        transformer: with its adapter; everything but the blocks of `indices` is on `device` already.
        indices: of the blocks to stream, counted as by `blocks`.
        device: where the blocks run.
        ring: how many streamed blocks are on the device at a time, at least 2 for copies to overlap with computing.
    """

    def __init__(
        self, transformer: FluxTransformer2DModel, indices: Sequence[int], device: torch.device, ring: int = RING
    ) -> None:
        self.device = torch.device(device)
        self.indices = tuple(sorted(indices))
        self._overlapping = self.device.type == "cuda"
        self._step = 1  # 1 in the forward pass, -1 in the backward pass
        every = blocks(transformer)
        self._carried = {index: self._carry(every[index]) for index in self.indices}
        size = max((block.host.numel() for block in self._carried.values()), default=0)
        # The slots are made on the stream that computes and live as long as this object. The allocator can therefore
        # never hand their memory to anyone else while a copy is under way, and no record_stream is needed.
        self._slots = [
            _Slot(
                torch.empty(size, dtype=torch.uint8, device=self.device),
                torch.cuda.Event() if self._overlapping else None,
            )
            for _ in range(min(ring, len(self.indices)))
        ]
        self._copies = torch.cuda.Stream(self.device) if self._overlapping else None

    @property
    def on_device(self) -> tuple[int, ...]:
        """The streamed blocks whose weights are on the device now."""
        return tuple(slot.holds for slot in self._slots if slot.holds is not None)

    def carried(self, index: int, block: torch.nn.Module) -> Callable[..., Any]:
        """`block` itself if it is not streamed, else a function that brings its weights and then runs it.

        As a function inside a checkpoint it brings them again when the block is recomputed.
        """
        self._step = 1
        return partial(self._run, index, block) if index in self._carried else block

    def turn(self) -> None:
        """Say that the forward pass is over: from now on blocks are asked for in reverse."""
        self._step = -1

    def close(self) -> None:
        """Let go of the device's memory; the blocks read the host's again."""
        if self._copies:
            self._copies.synchronize()
        for block in self._carried.values():
            block.read_from(block.host)
            if block.pinned:
                torch.cuda.cudart().cudaHostUnregister(block.host.data_ptr())
        self._slots.clear()

    def _run(self, index: int, block: torch.nn.Module, *arguments: Any) -> Any:
        self._bring(index)
        return block(*arguments)

    def _bring(self, index: int) -> None:
        """Have block `index` read its weights on the device, and start copying those that come after it."""
        slot = self._slot_of(index) or self._copy(index, wanted=(index,))
        if slot.ready:
            torch.cuda.current_stream(self.device).wait_event(slot.ready)
        self._carried[index].read_from(slot.memory)
        position = self.indices.index(index)
        last = position + self._step * len(self._slots)
        wanted = [self.indices[place] for place in range(position, last, self._step) if 0 <= place < len(self.indices)]
        for later in wanted[1:]:
            if not self._slot_of(later):
                self._copy(later, wanted)

    def _slot_of(self, index: int) -> _Slot | None:
        return next((slot for slot in self._slots if slot.holds == index), None)

    def _copy(self, index: int, wanted: Sequence[int]) -> _Slot:
        """Copy block `index` over a slot that holds none of the `wanted`."""
        slot = next(slot for slot in self._slots if slot.holds not in wanted)
        if slot.holds is not None:
            self._carried[slot.holds].read_from(self._carried[slot.holds].host)
        host = self._carried[index].host
        if self._copies:
            # All work on the block that is written over was queued before now on the stream that computes, so waiting
            # for that stream as it stands is enough. For the forward pass this is plain. In the backward pass, autograd
            # runs what it can in the reverse order of creation: as this recomputation was only just asked for, the
            # later blocks have nothing left to run. The block computing next is queued after this and not waited for.
            self._copies.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(self._copies):
                slot.memory[: host.numel()].copy_(host, non_blocking=True)
                slot.ready.record()
        else:
            slot.memory[: host.numel()].copy_(host)
        slot.holds = index
        return slot

    def _carry(self, block: torch.nn.Module) -> _Carried:
        """Bring a block's frozen tensors together in one piece of host memory, and its trained ones to the device."""
        for parameter in block.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(self.device)
        tensors, places, end = [], [], 0
        for put, tensor in frozen_tensors(block):
            size = tensor.numel() * tensor.element_size()
            strides = torch.empty_like(tensor, device="meta").stride()  # its own; without gaps if it is part of another
            places.append(_Place(put, tensor.dtype, tensor.shape, strides, end, size))
            tensors.append(tensor)
            end += -(-size // ALIGNMENT) * ALIGNMENT
        host = torch.empty(end, dtype=torch.uint8)
        for place, tensor in zip(places, tensors, strict=True):
            place.view(host).copy_(tensor)
        carried = _Carried(host, places, pinned=self._overlapping and _pin(host, self.device))
        carried.read_from(carried.host)
        return carried


def frozen_tensors(block: torch.nn.Module) -> Iterator[tuple[Callable[[Tensor], None], Tensor]]:
    """Every tensor that a block reads and training does not change, scales included, each with what replaces it."""
    for module in block.modules():
        for parameter in module.parameters(recurse=False):
            if not parameter.requires_grad:
                yield partial(setattr, parameter, "data"), parameter.data
        for name, buffer in module.named_buffers(recurse=False):
            yield partial(module._buffers.__setitem__, name), buffer


def _pin(memory: Tensor, device: torch.device) -> bool:
    """Lock host memory in place, which copies need to run beside computing. False, with a warning, if it was refused.

    Not by `pin_memory`: its allocator rounds up to a power of two, which is half as much again for a FLUX block.
    """
    refused = int(torch.cuda.cudart().cudaHostRegister(memory.data_ptr(), memory.numel(), 0))
    if not refused:
        return True
    logger.warning(
        "The system refused to lock %.1f GB of host memory for streaming (CUDA error %d). Copies to the card will be "
        "slower. Close other programs, or stream fewer blocks.",
        memory.numel() / 1e9,
        refused,
    )
    with contextlib.suppress(RuntimeError):  # CUDA keeps the refusal, and raises it at the next operation
        torch.ones(1, device=device).add_(1).item()
    return False
