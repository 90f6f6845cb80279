"""Every hyperparameter of a training run, validated once, where it enters."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from ..errors import SettingsError
from .attention import ATTENTION_BACKENDS, is_for_inference
from .lora.targets import MAX_RANK, TARGETS, LoraShape
from .optimizers import OPTIMIZERS

# Names of diffusers.optimization.get_scheduler, each with warm-up.
SCHEDULERS = ("constant", "linear", "cosine", "cosine_with_restarts")
TIMESTEP_SAMPLINGS = ("sigmoid", "uniform", "flux_shift", "shift", "mode")
LOSS_WEIGHTINGS = ("none", "sigma_sqrt", "cosmap")  # diffusers.training_utils.compute_loss_weighting_for_sd3
PRECISIONS = ("auto", "bf16", "fp32", "fp8", "int8", "nf4")
TRACKERS = ("none", "tensorboard", "wandb", "mlflow")  # names in accelerate

# Inclusive ranges; the widgets of the node take theirs from here.
RANGES: dict[str, tuple[float, float]] = {
    "steps": (1, 1_000_000),
    "learning_rate": (1e-8, 1.0),
    "rank": (1, MAX_RANK),
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
    "lora_dropout": (0.0, 0.99),
    "scheduler_cycles": (1, 1000),
    "timestep_mean": (-5.0, 5.0),
    "timestep_scale": (0.01, 10.0),
    "timestep_shift": (0.01, 100.0),
    "mode_scale": (-1.0, 1.75),
    "ema_decay": (0.0, 0.99999),
    "prior_loss_weight": (0.001, 100.0),
    "checkpointing_interval": (1, 1000),
    "streamed_blocks": (-1, 1000),
    "checkpoint_epochs": (0, 100_000),
    "keep_checkpoints": (0, 100_000),
    "early_stop_patience": (0, 1000),
}
_CHOICES = {
    "optimizer": tuple(OPTIMIZERS),
    "scheduler": SCHEDULERS,
    "timestep_sampling": TIMESTEP_SAMPLINGS,
    "loss_weighting": LOSS_WEIGHTINGS,
    "tracker": TRACKERS,
    "precision": PRECISIONS,
    "targets": tuple(TARGETS),
    "attention_backend": tuple(ATTENTION_BACKENDS),
}
# How a run is computed, kept and watched, not what it learns: a run goes on when these have changed.
NOT_DECIDING = frozenset(
    {
        "gradient_checkpointing",
        "checkpointing_interval",
        "streamed_blocks",
        "compile",
        "attention_backend",
        "checkpoint_every",
        "checkpoint_epochs",
        "keep_checkpoints",
        "sample_steps",
        "early_stop_patience",
        "tracker",
        "preset",
    }
)
# A setting on the left has an effect only where another, named first, has one of these values. One that has itself no
# effect here counts as its default for those below it.
USED_WITH: dict[str, tuple[str, tuple[str, ...]]] = {
    "scheduler": ("optimizer", tuple(name for name, row in OPTIMIZERS.items() if not row.schedule_free)),
    "scheduler_cycles": ("scheduler", ("cosine_with_restarts",)),
    "timestep_mean": ("timestep_sampling", ("sigmoid", "flux_shift", "shift")),
    "timestep_scale": ("timestep_sampling", ("sigmoid", "flux_shift", "shift")),
    "timestep_shift": ("timestep_sampling", ("shift",)),
    "mode_scale": ("timestep_sampling", ("mode",)),
    "eight_bit_products": ("precision", ("auto", "int8", "fp8")),
}
LAST_OF_0_1 = "preset"  # a new setting is declared below it
LEAST_MULTIPLE = 0.01  # of an optimiser that multiplies its own estimate by the learning rate, which should be 1
# What the matrices and the state in a checkpoint are made for: a run cannot be continued with others.
FIXED = ("rank", "alpha", "targets", "rslora", "dora", "block_ranks", "optimizer", "ema_decay", "seed")


@dataclass(frozen=True)
class Settings:
    """Hyperparameters of a FLUX.1 LoRA run.

    Attributes:
        steps: optimiser steps in all.
        learning_rate: peak learning rate, reached after `warmup_steps`.
        rank: rank of the LoRA matrices.
        alpha: the LoRA is scaled by alpha / rank; both are written into the file.
        targets: which linear layers get a LoRA; a name in `targets.TARGETS`.
        optimizer: name of one of `OPTIMIZERS`.
        weight_decay: decoupled weight decay (AdamW).
        scheduler: learning-rate schedule after warm-up.
        warmup_steps: steps over which the learning rate rises linearly from 0.
        max_grad_norm: gradients are clipped to this norm; 0 leaves them as they are.
        gradient_accumulation: batches per optimiser step.
        caption_dropout: share of batches trained with the empty caption.
        timestep_sampling: distribution of sigma; see `trainers.objective`.
        guidance: guidance embedding during training; 1.0 for FLUX.1-dev (see README of ai-toolkit, SimpleTuner).
        precision: of the frozen base; the LoRA is always fp32. "auto": the first of bf16, int8 and nf4 that fits,
            on the CPU of fp32 and bf16.
        gradient_checkpointing: recompute each block in the backward pass, for less memory and about a third more time.
        checkpoint_every: steps between checkpoints, held-out evaluations and samples.
        sample_steps: sampling steps of the live preview at each checkpoint; 0 for none.
        seed: of the LoRA's initial weights, the data order, the noise and the caption dropout.
        lora_dropout: probability of dropping each input of the LoRA's A in training.
        rslora: scale by alpha / sqrt(rank) instead (Kalajdzievski 2023, arXiv:2312.03732).
        dora: learn each weight's magnitude beside its direction (Liu et al. 2024, arXiv:2402.09353).
        block_ranks: ranks of single blocks, see `targets.parse_block_ranks`; "" gives every block `rank`.
        scheduler_cycles: of cosine_with_restarts.
        timestep_mean: mean of the normal behind sigmoid, shift and flux_shift; above 0 trains more noise.
        timestep_scale: standard deviation of that normal.
        timestep_shift: of shift; 3.1582 is FLUX's own at 1024 px.
        mode_scale: of mode (Esser et al. 2024, section 3.1).
        loss_weighting: weight of the loss by sigma.
        ema_decay: the LoRA that is saved is an exponential moving average of the one trained; 0 for none.
        prior_loss_weight: weight of the loss of regularisation pictures.
        checkpointing_interval: with gradient_checkpointing, recompute every n-th block only.
        streamed_blocks: blocks kept in host memory and copied to the device when their turn comes; -1: as many as
            have to be for the run to fit.
        compile: `torch.compile` each block.
        checkpoint_epochs: epochs between checkpoints, instead of `checkpoint_every`; 0 counts steps.
        keep_checkpoints: how many of the latest checkpoints are kept, besides the best; 0 keeps all.
        early_stop_patience: stop after so many evaluations in a row without a better held-out loss; 0 for never.
        tracker: where accelerate sends the metrics besides metrics.jsonl.
        preset: name in `presets.PRESETS` of what these settings began as; "" for none.
        attention_backend: what computes attention; a name in `attention.ATTENTION_BACKENDS`.
        eight_bit_products: with int8 or fp8, multiply in it too where the device can: faster, and less exact.

    Raises:
        SettingsError: a value is out of its range, not one of its choices, or none that works with another.
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
    lora_dropout: float = 0.0
    rslora: bool = False
    dora: bool = False
    block_ranks: str = ""
    scheduler_cycles: int = 1
    timestep_mean: float = 0.0
    timestep_scale: float = 1.0
    timestep_shift: float = 3.1582
    mode_scale: float = 1.29
    loss_weighting: str = "none"
    ema_decay: float = 0.0
    prior_loss_weight: float = 1.0
    checkpointing_interval: int = 1
    streamed_blocks: int = 0
    compile: bool = False
    checkpoint_epochs: int = 0
    keep_checkpoints: int = 0
    early_stop_patience: int = 0
    tracker: str = "none"
    preset: str = ""
    attention_backend: str = "native"
    eight_bit_products: bool = False

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not math.isfinite(value) or not low <= value <= high:
                raise SettingsError(f"The training setting {name} is {value!r}. Set it between {low:g} and {high:g}.")
        if is_for_inference(self.attention_backend):
            raise SettingsError(
                f"The training setting attention_backend is {self.attention_backend!r}, which computes attention "
                "without a backward pass: nothing can be trained with it. Choose one of: "
                f"{', '.join(ATTENTION_BACKENDS)}."
            )
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise SettingsError(
                    f"The training setting {name} is {getattr(self, name)!r}. Choose one of: {', '.join(choices)}."
                )
        _ = self.lora  # whose text of block_ranks may be at fault
        if self.warmup_steps >= self.steps and self.warmup_steps:
            raise SettingsError(
                f"warmup_steps is {self.warmup_steps}, but the run has only {self.steps} steps. "
                "Set fewer warm-up steps than steps."
            )

    @property
    def lora(self) -> LoraShape:
        """What the LoRA is to be like."""
        return LoraShape(
            self.rank,
            self.alpha,
            self.targets,
            dropout=self.lora_dropout,
            rslora=self.rslora,
            dora=self.dora,
            block_ranks=self.block_ranks,
        )

    def to_dict(self) -> dict[str, Any]:
        """The settings as TOML can hold them: its integers are signed 64-bit and a seed is unsigned, so it is text.

        Those that came after `LAST_OF_0_1` are left out where they are the default: whatever was trained before them
        keeps its id and its files.
        """
        later = {field.name: field.default for field in _later_fields(self)}
        kept = {name: value for name, value in dataclasses.asdict(self).items() if later.get(name, ...) != value}
        return kept | {"seed": str(self.seed)}

    def without_idle(self) -> Settings:
        """The same settings with their default in place of each value that the others leave without effect."""
        settings = self
        for name, (other, values) in USED_WITH.items():
            if getattr(settings, other) not in values:
                settings = dataclasses.replace(settings, **{name: getattr(Settings, name)})
        return settings

    def deciding(self) -> dict[str, Any]:
        """The settings that the weights at a step depend on.

        The number of steps is one of them only where the learning rate falls towards the last.
        """
        settings = self.without_idle()
        kept = {name: value for name, value in settings.to_dict().items() if name not in NOT_DECIDING}
        if settings.scheduler == "constant":
            del kept["steps"]
        return kept

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


def _later_fields(settings: Settings) -> tuple[dataclasses.Field, ...]:
    fields = dataclasses.fields(settings)
    return fields[[field.name for field in fields].index(LAST_OF_0_1) + 1 :]


def check_learning_rate(settings: Settings) -> None:
    """Refuse one that the optimiser would train next to nothing with.

    Raises:
        SettingsError: the optimiser finds the learning rate itself, and this is one for others.
    """
    if OPTIMIZERS[settings.optimizer].finds_learning_rate and settings.learning_rate < LEAST_MULTIPLE:
        raise SettingsError(
            f"learning_rate is {settings.learning_rate:g}, but the optimizer {settings.optimizer} finds the learning "
            f"rate itself and multiplies it by this: below {LEAST_MULTIPLE:g} it trains next to nothing. Set "
            "learning_rate to 1."
        )
