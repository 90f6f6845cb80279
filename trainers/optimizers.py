"""The optimisers and schedules by their names in the settings; each is a library's, none is ours."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from ..errors import SettingsError, TrainingError

if TYPE_CHECKING:
    from accelerate.optimizer import AcceleratedOptimizer

    from .settings import Settings

# Name in the settings -> module and class, what to install for it, and its arguments besides lr and weight_decay.
_ADAM = {"betas": (0.9, 0.999)}
_CLASSES: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "adamw": ("torch.optim", "AdamW", "torch", _ADAM),
    "adamw8bit": ("bitsandbytes.optim", "AdamW8bit", "bitsandbytes", _ADAM),
    "paged_adamw8bit": ("bitsandbytes.optim", "PagedAdamW8bit", "bitsandbytes", _ADAM),
    "lion8bit": ("bitsandbytes.optim", "Lion8bit", "bitsandbytes", {"betas": (0.9, 0.99)}),
    # As sd-scripts' README runs it: a fixed learning rate, not scaled by the size of the weights.
    "adafactor": (
        "transformers.optimization",
        "Adafactor",
        "transformers",
        {"scale_parameter": False, "relative_step": False},
    ),
    # Its README: decouple (AdamW's weight decay), and both of these for diffusion models.
    "prodigy": ("prodigyopt", "Prodigy", "prodigyopt", {"use_bias_correction": True, "safeguard_warmup": True}),
    "schedule_free_adamw": ("schedulefree", "AdamWScheduleFree", "schedulefree", _ADAM),
}

# bitsandbytes' own step waits for the device after each parameter, which is a thousand times for a LoRA of FLUX. Only
# paged state, which host and device share, asks for that.
_QUEUED = ("adamw8bit", "lion8bit")

PRODIGY_LEAST = 0.01  # it multiplies its own estimate by the learning rate, which its README leaves at 1

# What each keeps per trained number, in 32-bit numbers.
STATE_NUMBERS = {
    "adamw": 2.0,
    "adamw8bit": 0.5,
    "paged_adamw8bit": 0.5,
    "lion8bit": 0.25,
    "adafactor": 0.1,  # of a matrix, a row and a column
    "prodigy": 4.0,
    "schedule_free_adamw": 2.0,
}


def check_installed(settings: Settings) -> None:
    """Look for the libraries that `settings` ask for, without importing them.

    Raises:
        TrainingError: one is not installed; the text has the line that installs it.
    """
    asked = {f"The optimizer {settings.optimizer}": _CLASSES[settings.optimizer][2]}
    if settings.precision == "nf4":
        asked["The precision nf4"] = "bitsandbytes"
    if settings.tracker != "none":
        asked[f"The tracker {settings.tracker}"] = settings.tracker
    for what, package in asked.items():
        if not is_installed(package):
            raise TrainingError(
                f"{what} needs {package}, which is not installed. Install it into ComfyUI's Python with "
                f"{install_command(package)}, or choose another."
            )


def check_learning_rate(settings: Settings) -> None:
    """Refuse one that the optimiser would train next to nothing with.

    Raises:
        SettingsError: the optimiser is Prodigy, and the learning rate one for others.
    """
    if settings.optimizer == "prodigy" and settings.learning_rate < PRODIGY_LEAST:
        raise SettingsError(
            f"learning_rate is {settings.learning_rate:g}, but the optimizer prodigy finds the learning rate itself "
            f"and multiplies it by this: below {PRODIGY_LEAST:g} it trains next to nothing. Set learning_rate to 1."
        )


def is_installed(package: str) -> bool:
    """Whether a package can be imported, without importing it."""
    return importlib.util.find_spec(package) is not None


def install_command(package: str) -> str:
    """What installs a package into this Python, in quotes."""
    return f"'{sys.executable} -m pip install {package}'"


def make_optimizer(parameters: list[torch.nn.Parameter], settings: Settings) -> torch.optim.Optimizer:
    """The optimiser that `settings` names, over `parameters`."""
    module, name, _, arguments = _CLASSES[settings.optimizer]
    optimizer = getattr(importlib.import_module(module), name)
    if settings.optimizer in _QUEUED:
        optimizer = type(name, (_Queued, optimizer), {})
    if settings.optimizer == "adamw" and parameters[0].is_cuda:
        arguments = arguments | {"fused": True}
    if settings.optimizer == "schedule_free_adamw":  # it averages the weights, so that it must do the warm-up itself
        arguments = arguments | {"warmup_steps": settings.warmup_steps}
    return optimizer(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, **arguments)


class _Queued:
    """A bitsandbytes optimiser whose step is queued on the device and not waited for; the result is the same."""

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

    if settings.optimizer == "schedule_free_adamw":
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
