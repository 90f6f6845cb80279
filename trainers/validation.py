"""What a run is measured by: the loss on held-out pictures, samples drawn during training, and when these are due."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..out_of_memory import is_out_of_memory
from ..texts import first_line
from . import objective, sampler
from .batches import Batch
from .flux.latents import latent_shape

if TYPE_CHECKING:
    from torch import Tensor

    from .batches import BatchLoader, TrainingData
    from .run.folder import Run
    from .settings import Settings
    from .step import Learner

logger = logging.getLogger(__name__)


def is_due(step: int, settings: Settings, loader: BatchLoader) -> bool:
    """Whether `step` is one at which a checkpoint is kept, the held-out loss measured and a sample drawn."""
    if step == settings.steps:
        return True
    if not settings.checkpoint_epochs:
        return step % settings.checkpoint_every == 0
    per_step, length = loader.batches_per_step, settings.checkpoint_epochs * loader.batches_per_epoch
    return step * per_step // length > (step - 1) * per_step // length


def has_stopped_improving(run: Run, patience: int) -> bool:
    """Whether the held-out loss has not become better in the last `patience` measurements; never where that is 0.

    Those that a person asked for in between do not use up the patience.
    """
    best = run.best_step()
    if not patience or best is None:
        return False
    asked = {record["step"] for record in run.metrics() if "asked" in record}
    stopped = len([step for step, _ in run.evaluations() if step > best and step not in asked]) >= patience
    if stopped:
        logger.info("Stopped early: no better held-out loss since step %d", best)
    return stopped


@dataclass(frozen=True)
class Measured:
    """What was measured at a step.

    Attributes:
        loss: on the held-out pictures; None where there are none, or no time or memory for them.
        samples: scaled latents `(prompts, 16, h, w)`; None where none are asked for, or no time or memory for them.
        out_of_memory: the words with which memory ran out; "" where it did not.
    """

    loss: float | None = None
    samples: Tensor | None = None
    out_of_memory: str = ""


class Validation:
    """Measures the model of a run; all that is random in it is the same at every step, and in every run.

    Args:
        data: with what is held out, and the prompts of samples.
        learner: whose model is measured.
        should_stop: asked before each forward pass of the loss and before each sample; when it says True, the rest is
            left out.
    """

    def __init__(self, data: TrainingData, learner: Learner, should_stop: Callable[[], bool]) -> None:
        self.data = data
        self.learner = learner
        self.settings = learner.settings
        self.should_stop = should_stop
        self.by_sigma: dict[str, float] | None = None  # the last held-out loss at each sigma, named as "0.25"

    def measure(self, held_out: bool = True) -> Measured:
        """The held-out loss and the samples, which only inform: what has no memory is left out and told.

        Args:
            held_out: whether the loss is measured too.

        Raises:
            RuntimeError, MemoryError: one of several processes had no memory.
        """
        loss = samples = None
        out_of_memory = ""
        with self.learner.evaluating():
            try:
                loss = self.held_out_loss() if held_out else None
                samples = self.samples()
            except (RuntimeError, MemoryError) as error:
                # Of several processes, the others would wait for this one.
                if self.learner.accelerator.num_processes > 1 or not is_out_of_memory(error):
                    raise
                out_of_memory = first_line(error)
        return Measured(loss, samples, out_of_memory)

    def measure_untrained(self) -> float | None:
        """The held-out loss before the first step."""
        with self.learner.evaluating():
            return self.held_out_loss()

    @torch.no_grad()
    def held_out_loss(self) -> float | None:
        """Mean loss over the held-out pictures at fixed sigmas and fixed noise, comparable between steps and runs.

        It is masked as the loss in training is, so that it tells nothing of what is not to be learned.

        None when nothing is held out, or when the run was asked to stop meanwhile.
        """
        features = self.data.features
        losses = []
        self.by_sigma = None
        for example in self.data.held_out:
            latents = features.load_latent(example)[None]
            noise = torch.randn(latents.shape, generator=objective.generator(0, "held out", example.id))
            t5, pooled = self._load_text(example.text_path)
            mask = features.load_mask(example)[None] if example.mask_path else None
            for sigma in objective.HELD_OUT_SIGMAS:
                if self.should_stop():
                    return None
                batch = Batch(latents, noise, torch.tensor([sigma]), t5, pooled, mask=mask)
                losses.append(self.learner.loss(batch))
        if not losses:
            return None
        measured = torch.stack(losses)
        sigmas = objective.HELD_OUT_SIGMAS
        means = measured.view(-1, len(sigmas)).mean(0).tolist()
        self.by_sigma = {f"{sigma:g}": mean for sigma, mean in zip(sigmas, means, strict=True)}
        return measured.mean().item()

    @torch.no_grad()
    def samples(self) -> Tensor | None:
        """Scaled latents `(prompts, 16, h, w)`, each prompt from its own noise; None if there is no time for them.

        The prompts are those that were encoded with the training data, else the first held-out caption.
        """
        steps = self.settings.sample_steps
        if not steps:
            return None
        shown = (self.data.held_out or self.data.training)[0]
        prompts = self.data.features.prompts or ((shown.caption, self.settings.seed, shown.text_path),)
        shape = (1, *latent_shape(shown.width, shown.height))
        latents = []
        for _, seed, text_path in prompts:
            if self.should_stop():
                return None
            noise = torch.randn(shape, generator=objective.generator(seed, "sample")).to(self.learner.device)
            latents.append(sampler.sample(self._velocity(text_path), noise, steps))
        return torch.cat(latents)

    def _velocity(self, text_path: Path) -> Callable[[Tensor, float], Tensor]:
        """The model as `sampler.sample` calls it."""
        device = self.learner.device
        t5, pooled = (tensor.to(device) for tensor in self._load_text(text_path))

        def velocity(latents: Tensor, sigma: float) -> Tensor:
            sigmas = torch.full((1,), sigma, device=device)
            return self.learner.model(latents, sigmas, t5, pooled, guidance=sampler.PREVIEW_GUIDANCE).float()

        return velocity

    def _load_text(self, path: Path) -> tuple[Tensor, Tensor]:
        """T5 `(1, tokens, width)` and pooled `(1, width)` embeddings."""
        t5, pooled = self.data.features.load_text(path)
        return t5[None], pooled[None]
