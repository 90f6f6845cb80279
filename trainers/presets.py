"""Settings that belong together, each with where they come from and the dataset settings that go with them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy

from .settings import Settings

# Said of every preset; of the other settings, those that differ from Training Settings' defaults.
_ALWAYS_SAID = ("steps", "rank", "alpha", "learning_rate", "targets", "precision", "optimizer", "checkpoint_every")
_NEVER_SAID = ("seed", "preset")


@dataclass(frozen=True)
class Preset:
    """A starting point.

    Attributes:
        settings: of the training.
        width: of the pictures in pixels, for Dataset TOML Writer; with buckets, other aspects have the same area.
        height: likewise.
        batch_size: for Dataset TOML Writer.
        source: who found these settings good, or what they are made to fit.
    """

    settings: Settings
    width: int
    height: int
    batch_size: int
    source: str

    def describe(self) -> str:
        """What the preset sets, what to set in Dataset TOML Writer, and the source."""
        return (
            f"Sets: {_in_words(self.settings)}.\n"
            f"In Dataset TOML Writer: resolution {self.width} x {self.height}, batch_size {self.batch_size}.\n"
            f"Source: {self.source}."
        )


def _in_words(settings: Settings) -> str:
    rate = numpy.format_float_scientific(settings.learning_rate, trim="-", exp_digits=1)
    others = [
        f"{field.name} {getattr(settings, field.name)}"
        for field in dataclasses.fields(Settings)
        if field.name not in (*_ALWAYS_SAID, *_NEVER_SAID) and getattr(settings, field.name) != field.default
    ]
    said = (
        f"{settings.steps:,} steps, rank {settings.rank}, alpha {settings.alpha:g}, learning rate {rate}, targets "
        f"{settings.targets}, precision {settings.precision}, optimizer {settings.optimizer}, a checkpoint every "
        f"{settings.checkpoint_every:,} steps"
    )
    return ", ".join([said, *others])


_LITTLE_MEMORY = {"optimizer": "adamw8bit", "gradient_checkpointing": True}
_FITS = "made to fit a card of {} by the pack's memory planner; computed for FLUX.1-dev, not measured on a card"

PRESETS: dict[str, Preset] = {
    "Impressionism": Preset(
        Settings(steps=1000, rank=16, alpha=16.0, learning_rate=1e-4, optimizer="adamw8bit"),
        1024,
        1024,
        1,
        "ai-toolkit's example for FLUX.1-dev (rank 16, 1e-4, 512 to 1024 px), with 1,000 steps",
    ),
    "Mucha QLoRA": Preset(
        Settings(
            steps=700,
            rank=4,
            alpha=4.0,
            learning_rate=1e-4,
            targets="image attention",
            precision="nf4",
            optimizer="adamw8bit",
            gradient_accumulation=4,
            timestep_sampling="uniform",
            caption_dropout=0.0,
            checkpoint_every=100,
        ),
        512,
        768,
        1,
        "diffusers' flux_lora_quantization example and the Hugging Face blog 'Fine-tuning FLUX.1-dev on consumer "
        "hardware' (Alphonse Mucha, NF4, to_k to_q to_v to_out.0)",
    ),
    "8 GB": Preset(
        Settings(rank=8, alpha=8.0, targets="image attention", precision="nf4", streamed_blocks=-1, **_LITTLE_MEMORY),
        512,
        512,
        1,
        _FITS.format("8 GB"),
    ),
    "12 GB": Preset(
        Settings(precision="nf4", targets="attention", streamed_blocks=-1, **_LITTLE_MEMORY),
        512,
        512,
        1,
        _FITS.format("12 GB"),
    ),
    "16 GB": Preset(
        Settings(precision="fp8", targets="attention", streamed_blocks=-1, **_LITTLE_MEMORY),
        768,
        768,
        1,
        _FITS.format("16 GB"),
    ),
    "24 GB": Preset(
        Settings(precision="fp8", streamed_blocks=-1, **_LITTLE_MEMORY),
        1024,
        1024,
        1,
        _FITS.format("24 GB"),
    ),
    "fast": Preset(
        Settings(precision="bf16", gradient_checkpointing=False, compile=True, optimizer="adamw8bit"),
        512,
        512,
        1,
        "bf16 with compiled blocks and nothing recomputed, for cards of 48 GB and more; not measured on a card",
    ),
}
