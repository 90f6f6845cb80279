"""One step of training: gradients of the flow-matching loss over some batches, clipped, and the optimiser's step."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.parallel import DistributedDataParallel

from ..out_of_memory import is_out_of_memory
from . import objective
from .attention import ATTENTION_BACKENDS
from .flux import quantisation, sharding
from .flux.forward import compile_blocks, predict_velocity, use_attention
from .flux.streaming import StreamedBlocks
from .lora import adapter
from .memory.remedy import explained
from .optimization import averaged, make_optimizer, make_scheduler
from .settings import Settings

if TYPE_CHECKING:
    from accelerate import Accelerator
    from diffusers import FluxTransformer2DModel
    from torch import Tensor

    from .batches import Batch
    from .memory.estimate import Budget
    from .run.metrics import Metrics

logger = logging.getLogger(__name__)

_SCHEDULED = ("lr", "initial_lr", "weight_decay")  # what settings decide in an optimiser's group


def train_step(
    learner: Learner, batches: list[Batch], positions: list[int], step: int, metrics: Metrics, budget: Budget
) -> None:
    """Take `step`, or leave it out because it had no memory, and give its line to the metrics.

    Args:
        batches: of this process, one for each pass of `gradient_accumulation`.
        positions: which batches of the run they are.
        step: counted from 1.
        budget: what the run was planned with, for the remedy.

    Raises:
        TrainingError: as `Metrics.skipped`.
        RuntimeError, MemoryError: one of several processes had no memory.
    """
    record = {
        "step": step,
        "learning_rate": learner.scheduler.get_last_lr()[0],
        "sigma": [round(sigma, 4) for batch in batches for sigma in batch.sigma.tolist()],
    }
    try:
        loss, errors = learner.add_gradients(batches, positions)
    except (RuntimeError, MemoryError) as error:
        # Of several processes, the others would wait for this one's gradients.
        if learner.accelerator.num_processes > 1 or not is_out_of_memory(error):
            raise
        learner.optimizer.zero_grad()  # a part of them may have been added
        logger.warning("Step %d is left out: %s", step, error)
        metrics.skipped(record, "out of memory", explained(error, learner.settings, budget))
    else:
        record["examples"] = [example for batch in batches for example in batch.examples]
        metrics.add(record, torch.stack([loss, learner.apply_gradients()]), errors)
    learner.scheduler.step()


def make_learner(
    transformer: FluxTransformer2DModel,
    settings: Settings,
    accelerator: Accelerator,
    device: torch.device,
    streamed: Sequence[int] = (),
    start_lora: str = "",
    first_step: int = 0,
    compiler: str = "inductor",
) -> Learner:
    """Make a base model ready for its first step: with its LoRA, and computed as the settings say.

    Args:
        transformer: as `load_transformer` gives it.
        settings: of the run, with nothing left to choose.
        accelerator: accelerate's, of this process.
        device: where the model computes.
        streamed: the blocks that are kept in host memory.
        start_lora: a file to start the LoRA from; "" for none.
        first_step: where the learning rate's schedule begins.
        compiler: backend of `torch.compile`.

    Raises:
        TrainingError: the LoRA to start from does not fit, or this machine cannot compile.
    """
    parameters = adapter.add_lora(transformer, settings.lora, settings.seed)
    if start_lora:
        adapter.load_existing(transformer, start_lora)
    ring = StreamedBlocks(transformer, streamed, device) if streamed else None
    if settings.eight_bit_products:
        quantisation.use_eight_bit_products(transformer, device)
    if settings.attention_backend != Settings.attention_backend:
        use_attention(transformer, ATTENTION_BACKENDS[settings.attention_backend].called)
    if settings.compile:
        compile_blocks(transformer, device, compiler)
    return Learner(transformer, parameters, settings, accelerator, device, first_step, ring)


class VelocityModel(torch.nn.Module):
    """The transformer behind one `forward`, which is what is sharded and distributed over several processes."""

    def __init__(self, transformer: torch.nn.Module, settings: Settings, streamed: StreamedBlocks | None) -> None:
        super().__init__()
        self.transformer = transformer
        self.options = {
            "guidance": settings.guidance,
            "checkpointing": settings.gradient_checkpointing,
            "interval": settings.checkpointing_interval,
            "streamed": streamed,
        }

    def forward(self, latents: Tensor, sigma: Tensor, t5: Tensor, pooled: Tensor, **changed: float) -> Tensor:
        return predict_velocity(self.transformer, latents, sigma, t5, pooled, **self.options | changed)


class Learner:
    """What is trained, and what trains it: the model with its LoRA, optimiser, schedule and moving average.

    Args:
        transformer: on the device, with its LoRA.
        parameters: of the LoRA.
        settings: of the run.
        accelerator: accelerate's, of this process.
        device: where the model computes.
        first_step: where the learning rate's schedule begins.
        streamed: the blocks that are kept in host memory.
    """

    def __init__(
        self,
        transformer: torch.nn.Module,
        parameters: list[torch.nn.Parameter],
        settings: Settings,
        accelerator: Accelerator,
        device: torch.device,
        first_step: int = 0,
        streamed: StreamedBlocks | None = None,
    ) -> None:
        from diffusers.training_utils import EMAModel

        self.transformer = transformer
        self.parameters = parameters
        self.settings = settings
        self.accelerator = accelerator
        self.device = device
        self.model: torch.nn.Module = VelocityModel(transformer, settings, streamed)
        self.optimizer: Any = make_optimizer(parameters, settings)
        self.scheduler = make_scheduler(self.optimizer, settings, first_step)
        decay = settings.ema_decay
        self.ema = EMAModel(parameters, decay=decay, foreach=True) if decay else None

    def prepare(self, mesh: Any = None) -> None:
        """Distribute the model over the processes; after `load_state_dict`.

        Args:
            mesh: what the base is sharded over; None where each process holds all of it.
        """
        if mesh:
            sharding.as_root(self.model, mesh)
        if self.accelerator.num_processes > 1:
            # Every process has read the same base: it is neither sent around nor, where it is streamed, moved.
            frozen = [name for name, parameter in self.model.named_parameters() if not parameter.requires_grad]
            frozen += [name for name, _ in self.model.named_buffers()]
            DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self.model, frozen)
            # Not by accelerate, which refuses a model with sharded parts.
            self.model = DistributedDataParallel(self.model, gradient_as_bucket_view=True)
        self.optimizer = self.accelerator.prepare(self.optimizer, device_placement=[False])

    def train(self) -> None:
        self.model.train()
        self.optimizer.train()  # of concern to schedule-free ones alone

    def loss(self, batch: Batch) -> Tensor:
        """Flow-matching loss of one batch."""
        return self.loss_and_errors(batch)[0]

    def loss_and_errors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Flow-matching loss of one batch, and the error of each of its pictures before any weight, `(batch,)`."""
        batch = batch.to(self.device)
        noisy = objective.noisy_latents(batch.latents, batch.noise, batch.sigma)
        velocity = self.model(noisy, batch.sigma, batch.t5, batch.pooled)
        errors = objective.velocity_errors(velocity, batch.latents, batch.noise, batch.mask)
        return objective.weighted_mean(errors, batch.weights), errors

    def add_gradients(self, batches: list[Batch], positions: list[int]) -> tuple[Tensor, Tensor]:
        """Forward and backward pass of all `batches`: their mean loss over all processes, and the error of each of this
        process's pictures before any weight, in the order of the batches; both on the device."""
        total, of_each = torch.zeros((), device=self.device), []
        for batch, position in zip(batches, positions, strict=True):
            last = position == positions[-1]
            if self.settings.lora_dropout:
                torch.manual_seed(objective.derived_seed(self.settings.seed, "dropout", position))
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.model):
                loss, errors = self.loss_and_errors(batch)
                loss = loss / len(batches)
                self.accelerator.backward(loss)
            total += loss.detach()
            of_each.append(errors.detach())
        return self.accelerator.reduce(total, "mean"), torch.cat(of_each)

    def apply_gradients(self) -> Tensor:
        """One step of the optimiser; the norm of the gradient before clipping, on the device.

        Where that is not finite, the gradient counts as 0: only momentum and weight decay act.
        """
        norm = self.accelerator.clip_grad_norm_(self.parameters, self.settings.max_grad_norm or math.inf)
        broken = ~norm.isfinite()  # decided on the device, for to ask it would be to wait for it
        for parameter in self.parameters:
            parameter.grad.masked_fill_(broken, 0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.ema:
            self.ema.step(self.parameters)
        return norm

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Within it the model is the one that would be saved now, without dropout."""
        self.model.eval()
        with averaged(self.optimizer, self.ema, self.parameters):
            yield
        self.model.train()

    def lora_state_dict(self) -> dict[str, Tensor]:
        """The LoRA as it is saved."""
        with self.evaluating():
            return adapter.lora_state_dict(self.transformer)

    def state_dict(self) -> dict[str, Any]:
        """All that training goes on from as if it had never stopped; no random state is among it."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "precision": self.settings.precision,
            "processes": self.accelerator.num_processes,
            "trained": [parameter.detach().to("cpu", copy=True) for parameter in self.parameters],
            "ema": self.ema and self.ema.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any], schedule_anew: bool = False) -> None:
        """Go back to what `state_dict` gave; with `schedule_anew`, the learning rate is that of the settings."""
        groups = self.optimizer.param_groups
        scheduled = [{name: group[name] for name in _SCHEDULED if name in group} for group in groups]
        self.optimizer.load_state_dict(state["optimizer"])
        if schedule_anew:
            for group, values in zip(self.optimizer.param_groups, scheduled, strict=True):
                group.update(values)
        else:
            self.scheduler.load_state_dict(state["scheduler"])
        if self.ema:
            self.ema.load_state_dict(state["ema"])
            self.ema.to(self.device)
        with torch.no_grad():
            for parameter, trained in zip(self.parameters, state["trained"], strict=True):
                parameter.copy_(trained)
