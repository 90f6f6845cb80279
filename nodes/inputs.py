"""Inputs that several nodes have, and inputs that are named after the fields of a settings object."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..prompting.seeds import MAX_SEED
from .host import sampling

AS_BEFORE = "as before"  # of what a node may leave as an earlier one set it


def field_input(settings: Any, kind: type[io.ComfyTypeIO], name: str, tooltip: str, **options: Any) -> io.Input:
    """An input of `kind` for the field `name`, with the value that the field has in `settings` as its default."""
    return kind.Input(name, default=getattr(settings, name), tooltip=tooltip, **options)


def seed_input(tooltip: str, default: int = 0) -> io.Input:
    """A seed that stays: ComfyUI's page would else draw another after each queue, and nothing would be found again."""
    return io.Int.Input(
        "seed",
        default=default,
        min=0,
        max=MAX_SEED,
        control_after_generate=io.ControlAfterGenerate.fixed,
        tooltip=tooltip,
    )


def max_per_artist_input(tooltip: str, **options: Any) -> io.Input:
    return io.Int.Input("max_per_artist", default=0, min=0, max=100_000, tooltip=tooltip, **options)


def picture_size_inputs(default: int) -> list[io.Input]:
    """Width and height of sampled pictures."""
    return [
        io.Int.Input(side, default=default, min=64, max=4096, step=16, tooltip="Of each picture, in pixels.")
        for side in ("width", "height")
    ]


def sampler_inputs(remark: str = "") -> list[io.Input]:
    """ComfyUI's sampler and noise schedule; `remark` follows the sampler's tooltip."""
    return [
        io.Combo.Input(
            "sampler_name",
            options=sampling.sampler_names(),
            default="euler",
            tooltip=f"ComfyUI's sampler, as in KSampler.{remark}",
            advanced=True,
        ),
        io.Combo.Input(
            "scheduler",
            options=sampling.scheduler_names(),
            default="simple",
            tooltip="ComfyUI's noise schedule, as in KSampler.",
            advanced=True,
        ),
    ]
