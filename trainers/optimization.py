"""Makes the optimiser and the learning-rate schedule that settings name."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from .optimizers import OPTIMIZERS

if TYPE_CHECKING:
    from accelerate.optimizer import AcceleratedOptimizer

    from .settings import Settings


def make_optimizer(parameters: list[torch.nn.Parameter], settings: Settings) -> torch.optim.Optimizer:
    """The optimiser that `settings` names, over `parameters`."""
    row = OPTIMIZERS[settings.optimizer]
    optimizer = getattr(importlib.import_module(row.module), row.class_name)
    if row.queued:
        optimizer = type(row.class_name, (_Queued, optimizer), {})
    arguments = {**row.arguments, **(row.on_cuda if parameters[0].is_cuda else {})}
    if row.schedule_free:
        arguments["warmup_steps"] = settings.warmup_steps
    return optimizer(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, **arguments)


class _Queued:
    """A bitsandbytes optimiser whose step is queued on the device and not waited for; the result is the same.

    Its own step waits for the device after each parameter, which is a thousand times for a LoRA of FLUX. Only paged
    state, which host and device share, asks for that.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        if not self.initialized:
            self.check_overrides()
            self.to_gpu()  # what was loaded from a checkpoint
            self.initialized = True
        for group_index, group in enumerate(self.param_groups):
            for index, parameter in enumerate(group["params"]):
                if parameter.grad is None:
                    continue
                if not self.state[parameter]:
                    self.init_state(group, parameter, group_index, index)
                self.update_step(group, parameter, group_index, index)


def make_scheduler(optimizer: torch.optim.Optimizer, settings: Settings, first_step: int = 0) -> Any:
    """The learning-rate schedule from `first_step` to the last step: warm-up, then as `settings.scheduler` says."""
    from diffusers.optimization import get_scheduler

    if OPTIMIZERS[settings.optimizer].schedule_free:
        return get_scheduler("constant", optimizer)
    name = "constant_with_warmup" if settings.scheduler == "constant" else settings.scheduler
    return get_scheduler(
        name,
        optimizer,
        num_warmup_steps=settings.warmup_steps,
        num_training_steps=settings.steps - first_step,
        num_cycles=settings.scheduler_cycles,
    )


@contextlib.contextmanager
def averaged(optimizer: AcceleratedOptimizer, ema: Any, parameters: list[torch.nn.Parameter]) -> Iterator[None]:
    """Within it the parameters are those to be measured, sampled from and saved, not those that training goes on with.

    They differ for a schedule-free optimiser and with a moving average (`ema`, diffusers' EMAModel or None).
    """
    trained = [parameter.detach().clone() for parameter in parameters]  # to eval and back would be to round twice
    optimizer.eval()
    if ema:
        ema.copy_to(parameters)
    try:
        yield
    finally:
        optimizer.train()
        with torch.no_grad():
            for parameter, value in zip(parameters, trained, strict=True):
                parameter.copy_(value)
