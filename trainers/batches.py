"""Batches as the trainer takes them: prepared by another thread, in memory from where they reach the device quickly."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

AHEAD = 2  # batches read from disk while the device computes


@dataclass(frozen=True)
class Batch:
    """What one batch is trained on.

    Attributes:
        latents: `(batch, 16, h, w)`, scaled.
        noise: like `latents`.
        sigma: `(batch,)`.
        t5: `(batch, tokens, width)`.
        pooled: `(batch, width)`.
        weights: `(batch,)`, of each picture's loss; None: all alike.
        mask: `(batch, 1, h, w)` in 0…1, of the loss at each place; None: all alike.
    """

    latents: Tensor
    noise: Tensor
    sigma: Tensor
    t5: Tensor
    pooled: Tensor
    weights: Tensor | None = None
    mask: Tensor | None = None

    def pinned(self) -> Batch:
        """The same in page-locked memory, from where it goes to a CUDA device while that computes."""
        return Batch(*(tensor if tensor is None else tensor.pin_memory() for tensor in self.tensors()))

    def to(self, device: torch.device) -> Batch:
        return Batch(*(tensor if tensor is None else tensor.to(device, non_blocking=True) for tensor in self.tensors()))

    def tensors(self) -> list[Tensor | None]:
        return [getattr(self, field.name) for field in dataclasses.fields(self)]


def prefetched(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches, `AHEAD` of them prepared by another thread; `batches` never ends."""
    with ThreadPoolExecutor(1, "batches") as pool:
        coming = deque(pool.submit(next, batches) for _ in range(AHEAD))
        while True:
            batch = coming.popleft()
            coming.append(pool.submit(next, batches))
            yield batch.result()
