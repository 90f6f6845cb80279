"""Batches as the trainer takes them: read and drawn by another thread, in memory from where they reach the device
quickly. What is in a batch depends on the seed and its place in the run alone."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from . import objective
from .features.feature_set import epoch_batches
from .flux.latents import image_tokens
from .memory.block_profile import BatchShape

if TYPE_CHECKING:
    from torch import Tensor

    from .features.feature_set import Example, FeatureSet
    from .settings import Settings

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
        examples: the ids of the examples, in the order of the tensors; empty where nobody asks for them.
    """

    latents: Tensor
    noise: Tensor
    sigma: Tensor
    t5: Tensor
    pooled: Tensor
    weights: Tensor | None = None
    mask: Tensor | None = None
    examples: tuple[str, ...] = ()

    def pinned(self) -> Batch:
        """The same in page-locked memory, from where it goes to a CUDA device while that computes."""
        return self._with(torch.Tensor.pin_memory)

    def to(self, device: torch.device) -> Batch:
        return self._with(lambda tensor: tensor.to(device, non_blocking=True))

    def _with(self, changed: Callable[[Tensor], Tensor]) -> Batch:
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        return dataclasses.replace(self, **{name: changed(tensor) for name, tensor in tensors.items()})


@dataclass(frozen=True)
class TrainingData:
    """Encoded training data, parted.

    Attributes:
        features: all of it.
        training: the examples to train on, at least one.
        held_out: those to measure the loss with.
    """

    features: FeatureSet
    training: tuple[Example, ...]
    held_out: tuple[Example, ...]


class BatchLoader:
    """The batches of a run, each by its position in it: counted from 0, over all processes and without end.

    Args:
        data: to train on.
        settings: of the run.
        process: which of the processes this is; it takes every `processes`-th batch.
        processes: how many train.
        pinned: whether batches are to lie in page-locked memory.
    """

    def __init__(
        self, data: TrainingData, settings: Settings, process: int = 0, processes: int = 1, pinned: bool = False
    ) -> None:
        self.data = data
        self.settings = settings
        self.process = process
        self.processes = processes
        self.pinned = pinned
        # Every epoch has as many batches as the first: buckets and repeats do not change.
        self.batches_per_epoch = len(self.epoch(0))

    @property
    def batches_per_step(self) -> int:
        return self.settings.gradient_accumulation * self.processes

    def epoch(self, number: int) -> list[tuple[Example, ...]]:
        return epoch_batches(self.data.training, self.settings.seed, number)

    def position(self, step: int, index: int = 0) -> int:
        """Which batch of the run is this process's `index`-th of the step after `step`."""
        return step * self.batches_per_step + index * self.processes + self.process

    def from_step(self, step: int) -> Iterator[Batch]:
        """This process's batches of the steps after `step`, without end."""
        position = self.position(step)
        while True:
            epoch, index = divmod(position, self.batches_per_epoch)
            batches = self.epoch(epoch)
            while index < self.batches_per_epoch:
                yield self.load(position, batches[index])
                position += self.processes
                index += self.processes

    def load(self, position: int, examples: tuple[Example, ...]) -> Batch:
        """Read the examples of one batch, and draw its noise and sigmas."""
        settings = self.settings
        random = objective.generator(settings.seed, "batch", position)
        encoded = self.data.features.load_batch(
            examples,
            random,
            epoch=position // self.batches_per_epoch,
            caption_dropout=settings.caption_dropout,
            prior_loss_weight=settings.prior_loss_weight,
        )
        sigma = objective.sample_sigmas(len(examples), settings, image_tokens(encoded.latents), random)
        noise = torch.randn(encoded.latents.shape, generator=random)
        weights = objective.loss_weights(sigma, settings.loss_weighting)
        if encoded.weights is not None:
            weights = encoded.weights if weights is None else encoded.weights * weights
        ids = tuple(example.id for example in examples)
        batch = Batch(encoded.latents, noise, sigma, encoded.t5, encoded.pooled, weights, encoded.mask, ids)
        return batch.pinned() if self.pinned else batch

    def largest_batches(self) -> tuple[BatchShape, ...]:
        """Of the batches of as many pictures and as long texts, the shape of the one with the most pixels."""
        largest: dict[tuple[int, int], BatchShape] = {}
        for batch in self.epoch(0):
            texts = (text.tokens for example in batch for text in example.all_texts)
            tokens = max(self.data.features.empty_tokens, *texts)
            shape = BatchShape(batch[0].width, batch[0].height, len(batch), tokens)
            known = largest.setdefault((len(batch), tokens), shape)
            if shape.width * shape.height > known.width * known.height:
                largest[len(batch), tokens] = shape
        return tuple(largest.values())


def prefetched(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches, `AHEAD` of them prepared by another thread; `batches` never ends."""
    with ThreadPoolExecutor(1, "batches") as pool:
        coming = deque(pool.submit(next, batches) for _ in range(AHEAD))
        while True:
            batch = coming.popleft()
            coming.append(pool.submit(next, batches))
            yield batch.result()
