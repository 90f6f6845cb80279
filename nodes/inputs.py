"""Inputs that several nodes have, and inputs that are named after the fields of a settings object."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from comfy_api.latest import io

from ..dataset.schema_key import Key
from ..drawing.palette import THEMES
from ..errors import ImpastoError
from ..prompting.seeds import MAX_SEED
from ..texts import cleaned
from ..trainers.settings import RANGES
from .host import folders, sampling

AS_BEFORE = "as before"  # of a choice that a node may leave as an earlier one set it
# A number has no room for words: that of a training setting says the same by the whole number below the least it takes.
AS_BEFORE_NUMBERS = {
    name: math.ceil(RANGES[name][0]) - 1
    for name in (
        "steps",
        "learning_rate",
        "checkpointing_interval",
        "streamed_blocks",
        "checkpoint_every",
        "sample_steps",
    )
}


def field_input(settings: Any, kind: type[io.ComfyTypeIO], name: str, tooltip: str, **options: Any) -> io.Input:
    """An input of `kind` for the field `name`, with the value that the field has in `settings` as its default."""
    return kind.Input(name, default=getattr(settings, name), tooltip=tooltip, **options)


def key_input(key: Key, tooltip: str = "", **options: Any) -> io.Input:
    """An input for a key of the dataset config's schema, as its row asks for it; `options` in place of the row's."""
    kind = {bool: io.Boolean, int: io.Int, float: io.Float, str: io.String}[key.kind]
    widget = key.widget
    default = key.written_default if widget.default is None else widget.default
    given = {"default": default, "optional": widget.optional, "advanced": widget.advanced}
    if kind in (io.Int, io.Float):
        least, most, step = key.offered
        given |= {"min": key.kind(least), "max": key.kind(most), "step": key.kind(step)}
    return kind.Input(key.name, tooltip=tooltip or widget.tooltip, **(given | options))


def number_or_as_before(kind: type[io.ComfyTypeIO], name: str, tooltip: str, **options: Any) -> io.Input:
    """A number for the training setting `name`, which a new node leaves as an earlier one set it."""
    number = int if kind is io.Int else float
    left, most = number(AS_BEFORE_NUMBERS[name]), number(RANGES[name][1])
    return kind.Input(name, default=left, min=left, max=most, tooltip=f"{tooltip} {left:g}: {AS_BEFORE}.", **options)


def changed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a node's values, by the names of settings, that do not say "as before"."""
    return {
        name: value for name, value in values.items() if value != AS_BEFORE and value != AS_BEFORE_NUMBERS.get(name)
    }


def anew() -> float:
    """A fingerprint that equals no other, so that ComfyUI runs the node at each queueing.

    Another object each time: one and the same NaN is found again in ComfyUI's cache, because containers compare by
    identity first.
    """
    return float("nan")


def over_links(*values: object) -> bool:
    """Whether one of them is not known yet: to `fingerprint_inputs` ComfyUI gives None for what comes over a link.

    A node whose fingerprint needs it answers `anew()`.
    """
    return None in values


LONGEST_CHECKED = 100_000  # characters


def refused(*checks: tuple[str, object, Callable[[str], object]]) -> bool | str:
    """What is wrong with the values of widgets, as `validate_inputs` says it before the graph runs: True, or all texts.

    ComfyUI puts one text beside every widget that `validate_inputs` asks for, so that each text begins with the widget
    that it is about.

    Args:
        checks: a widget, "" for none; its value, None where it comes over a link; and what raises if that value cannot
            be used. Only texts are checked, cleaned as `execute` gets them, and no long ones: ComfyUI answers nobody
            else meanwhile.
    """
    said = []
    for widget, value, check in checks:
        if value is None:
            continue
        if not isinstance(value, str):
            return f"{widget} takes a text, and got a value of type {type(value).__name__}."
        if len(value) > LONGEST_CHECKED:
            continue
        try:
            check(cleaned(value))
        except (OSError, RecursionError):
            continue  # `execute` tells in words what a disk or a depth refuses
        except ImpastoError as error:
            said.append(f"{widget}: {error}" if widget else str(error))
    return " ".join(dict.fromkeys(said)) or True


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


def keep_input() -> io.Input:
    """Pictures that a person keeps whatever is measured of them."""
    return io.String.Input(
        "keep",
        default="",
        multiline=True,
        optional=True,
        advanced=True,
        placeholder="3fa94c12 The Jetty",
        tooltip="Pictures that no threshold refuses, one a line: the first digits of the hash under each refused one.",
    )


def keep_metadata_input() -> io.Input:
    return io.Boolean.Input(
        "keep_metadata",
        default=False,
        optional=True,
        advanced=True,
        tooltip="Store files as they come, with what they say beside the picture: place, camera, owner, thumbnails. "
        "Off, that is taken out; the pixels and the colour profile stay as they are.",
    )


def painter_inputs(model: str, decodes: str = "Decodes the pictures.") -> list[io.Input]:
    """What pictures are sampled with; `model` is the tooltip of the model."""
    return [
        io.Model.Input("model", tooltip=model),
        io.Clip.Input("clip", tooltip="Encodes the prompts."),
        io.Vae.Input("vae", tooltip=decodes),
    ]


def picture_size_inputs(default: int, optional: bool = False) -> list[io.Input]:
    """Width and height of sampled pictures."""
    return [
        io.Int.Input(
            side,
            default=default,
            min=64,
            max=4096,
            step=16,
            optional=optional,
            tooltip="Of each picture, in pixels.",
        )
        for side in ("width", "height")
    ]


def sampling_inputs(steps: int = 20) -> list[io.Input]:
    """Steps and guidance of sampled pictures."""
    return [
        io.Int.Input("steps", default=steps, min=1, max=200, tooltip="Sampling steps of each picture."),
        io.Float.Input("guidance", default=3.5, min=0.0, max=100.0, step=0.1, tooltip="FLUX guidance while sampling."),
    ]


def checkpoint_inputs(most: int) -> list[io.Input]:
    """How many checkpoints of a run are shown, at most `most` columns, and how strongly each is applied."""
    return [
        io.Int.Input(
            "columns",
            default=6,
            min=2,
            max=most,
            tooltip="At most so many columns: the base model, and checkpoints evenly spread up to the last.",
        ),
        io.Float.Input(
            "strength",
            default=1.0,
            min=-10.0,
            max=10.0,
            step=0.05,
            tooltip="How strongly the LoRA is applied; 1 is as trained.",
            advanced=True,
        ),
    ]


def theme_input(advanced: bool = False) -> io.Input:
    return io.Combo.Input(
        "theme",
        options=list(THEMES),
        default="light",
        optional=True,
        advanced=advanced,
        tooltip="Dark letters on paper, or light on dark.",
    )


def grid_inputs() -> list[io.Input]:
    """How a grid of pictures is drawn."""
    return [
        theme_input(),
        io.Int.Input(
            "cell_size",
            default=0,
            min=0,
            max=4096,
            optional=True,
            tooltip="Longer side of a cell as it is drawn, in pixels; 0: as the pictures are. Small ones make a "
            "contact sheet. The pictures stay as they are.",
        ),
    ]


def seeds_input() -> io.Input:
    return io.String.Input(
        "seeds",
        default="",
        optional=True,
        tooltip="Seeds with commas between them, as Seed Manager's 'seed_list': each cell shows a picture with each. "
        "Empty: each prompt with its own.",
    )


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


def lora_input(tooltip: str) -> io.Input:
    """One of the LoRAs that ComfyUI lists, or none; `folders.chosen_lora` has its file."""
    return io.Combo.Input(
        "lora", options=[folders.NO_LORA, *folders.lora_names()], default=folders.NO_LORA, tooltip=tooltip
    )


def lora_strength_input(tooltip: str) -> io.Input:
    return io.Float.Input("strength", default=1.0, min=-10.0, max=10.0, step=0.05, tooltip=tooltip)


def watched_input(does: str) -> io.Input:
    """The list of pictures that Loss Watch gives; `does` says what becomes of them."""
    return io.String.Input(
        "watched",
        optional=True,
        force_input=True,
        tooltip=f"From Loss Watch, or a text with a line a picture: the first digits of its hash, and why. {does}",
    )
