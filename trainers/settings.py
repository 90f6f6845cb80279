"""Every hyperparameter of a training run, validated once, where it enters."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from ..errors import SettingsError
from .adapter import TARGETS

OPTIMIZERS = ("adamw", "adamw8bit")
SCHEDULERS = ("constant", "linear", "cosine")  # names of diffusers.optimization.get_scheduler, each with warm-up
TIMESTEP_SAMPLINGS = ("sigmoid", "uniform", "flux_shift")
PRECISIONS = ("auto", "bf16", "fp32")

# Inclusive ranges; the widgets of the node take theirs from here.
RANGES: dict[str, tuple[float, float]] = {
    "steps": (1, 1_000_000),
    "learning_rate": (1e-8, 1.0),
    "rank": (1, 1024),
    "alpha": (0.001, 4096.0),
    "warmup_steps": (0, 100_000),
    "weight_decay": (0.0, 1.0),
    "max_grad_norm": (0.0, 1000.0),
    "gradient_accumulation": (1, 1024),
    "caption_dropout": (0.0, 1.0),
    "guidance": (0.0, 30.0),
    "checkpoint_every": (1, 1_000_000),
    "sample_steps": (0, 100),
    "seed": (0, 2**64 - 1),
}
_CHOICES = {
    "optimizer": OPTIMIZERS,
    "scheduler": SCHEDULERS,
    "timestep_sampling": TIMESTEP_SAMPLINGS,
    "precision": PRECISIONS,
    "targets": tuple(TARGETS),
}


@dataclass(frozen=True)
class Settings:
    """Hyperparameters of a FLUX.1 LoRA run.

    Attributes:
        steps: optimiser steps in all.
        learning_rate: peak learning rate, reached after `warmup_steps`.
        rank: rank of the LoRA matrices.
        alpha: the LoRA is scaled by alpha / rank; both are written into the file.
        targets: which linear layers get a LoRA; a name in `adapter.TARGETS`.
        optimizer: one of `OPTIMIZERS`.
        weight_decay: decoupled weight decay (AdamW).
        scheduler: learning-rate schedule after warm-up.
        warmup_steps: steps over which the learning rate rises linearly from 0.
        max_grad_norm: gradients are clipped to this norm; 0 leaves them as they are.
        gradient_accumulation: batches per optimiser step.
        caption_dropout: share of batches trained with the empty caption.
        timestep_sampling: distribution of sigma; see `trainers.objective`.
        guidance: guidance embedding during training; 1.0 for FLUX.1-dev (see README of ai-toolkit, SimpleTuner).
        precision: of the frozen base; the LoRA is always fp32. "auto": bf16 on an accelerator, fp32 on the CPU.
        gradient_checkpointing: recompute each block in the backward pass, for less memory and about a third more time.
        checkpoint_every: steps between checkpoints, held-out evaluations and samples.
        sample_steps: sampling steps of the live preview at each checkpoint; 0 for none.
        seed: of the LoRA's initial weights, the data order, the noise and the caption dropout.

    Raises:
        SettingsError: a value is out of its range or not one of its choices.
    """

    steps: int = 1000
    learning_rate: float = 1e-4
    rank: int = 16
    alpha: float = 16.0
    targets: str = "attention and feed-forward"
    optimizer: str = "adamw"
    weight_decay: float = 0.01
    scheduler: str = "constant"
    warmup_steps: int = 0
    max_grad_norm: float = 1.0
    gradient_accumulation: int = 1
    caption_dropout: float = 0.05
    timestep_sampling: str = "sigmoid"
    guidance: float = 1.0
    precision: str = "auto"
    gradient_checkpointing: bool = True
    checkpoint_every: int = 250
    sample_steps: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not math.isfinite(value) or not low <= value <= high:
                raise SettingsError(f"The training setting {name} is {value!r}. Set it between {low:g} and {high:g}.")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise SettingsError(
                    f"The training setting {name} is {getattr(self, name)!r}. Choose one of: {', '.join(choices)}."
                )
        if self.warmup_steps >= self.steps and self.warmup_steps:
            raise SettingsError(
                f"warmup_steps is {self.warmup_steps}, but the run has only {self.steps} steps. "
                "Set fewer warm-up steps than steps."
            )

    def to_dict(self) -> dict[str, Any]:
        """The settings as TOML can hold them: its integers are signed 64-bit and a seed is unsigned, so it is text."""
        return dataclasses.asdict(self) | {"seed": str(self.seed)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Settings:
        """The reverse of `to_dict`.

        Raises:
            SettingsError: an unknown setting, or a value out of range.
        """
        unknown = values.keys() - {field.name for field in dataclasses.fields(cls)}
        if unknown:
            raise SettingsError(f"Unknown training settings: {', '.join(sorted(unknown))}. Remove them.")
        return cls(**values | {"seed": int(values.get("seed", 0))})
