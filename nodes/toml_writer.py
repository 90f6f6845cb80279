"""The node that writes a dataset as trainers read it."""

from __future__ import annotations

import functools
from pathlib import Path

from comfy_api.latest import io

from ..dataset.config_writer import INTERPOLATIONS, TARGETS, TomlSettings, write_dataset_toml
from . import sockets
from .host import execution
from .inputs import field_input

TRAINERS_OWN = "trainer's own"
_field = functools.partial(field_input, TomlSettings())
# What came to the node later is optional, so that saved graphs and old API calls stay as they are.
_later = functools.partial(_field, optional=True, advanced=True)
_switch = functools.partial(_later, io.Boolean)
_text = functools.partial(_later, io.String)
_count = functools.partial(_later, io.Int, min=0, step=1)
_number = functools.partial(_later, io.Float, min=0.0, max=1.0, step=0.01)


class DatasetTOMLWriter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImpastoDatasetTOMLWriter",
            display_name="Dataset TOML Writer",
            category="Impasto/Dataset",
            description=(
                "Puts pictures and captions side by side, and writes the dataset config that kohya sd-scripts and "
                "trainers built on it read. What they would refuse later is refused here."
            ),
            search_aliases=["kohya", "sd-scripts", "dataset config", "toml", "buckets", "training data"],
            inputs=[
                sockets.Dataset.Input("dataset", tooltip="A dataset in which every picture has a caption."),
                *_size_inputs(),
                *_bucket_inputs(),
                *_held_out_inputs(),
                *_trainer_inputs(),
                *_caption_inputs(),
                *_picture_inputs(),
                *_regularisation_inputs(),
                _text(
                    "more_keys",
                    'Other keys of sd-scripts, one TOML line each: class_tokens = "a painting", cache_info = true, '
                    "alpha_mask = true, custom_attributes, network_multiplier.",
                    multiline=True,
                ),
            ],
            outputs=[
                sockets.DatasetConfig.Output("dataset_config", tooltip="The dataset config, for Encode Training Data."),
                io.String.Output("toml", tooltip="The text of the dataset config."),
            ],
        )

    @classmethod
    def execute(cls, dataset, regularisation=None, **settings) -> io.NodeOutput:
        if settings.get("resize_interpolation") == TRAINERS_OWN:
            settings["resize_interpolation"] = ""
        config = write_dataset_toml(dataset, TomlSettings(**settings), execution.progress(), regularisation)
        return io.NodeOutput(config, Path(config.path).read_text(encoding="utf-8"))


def _size_inputs() -> list[io.Input]:
    return [
        _field(
            io.Int,
            "resolution",
            "Training size in pixels: no bucket has more pixels than a square of this side.",
            min=64,
            max=4096,
            step=16,
        ),
        _field(io.Int, "batch_size", "Pictures per step; all of one batch share a bucket.", min=1, max=256),
        _field(io.Int, "num_repeats", "How often each picture is shown in one epoch.", min=1, max=10_000),
    ]


def _bucket_inputs() -> list[io.Input]:
    return [
        _field(
            io.Boolean,
            "enable_bucket",
            "Sort pictures into buckets by their aspect. Without it every picture is cropped square.",
        ),
        _field(
            io.Int,
            "min_bucket_reso",
            "Shortest side of a bucket, pixels: a multiple of bucket_reso_steps, at most resolution.",
            min=32,
            max=4096,
            step=32,
            advanced=True,
        ),
        _field(
            io.Int,
            "max_bucket_reso",
            "Longest side of a bucket, pixels: a multiple of bucket_reso_steps, at least resolution.",
            min=64,
            max=8192,
            step=32,
            advanced=True,
        ),
        _field(
            io.Int,
            "bucket_reso_steps",
            "Bucket sides are multiples of this many pixels. FLUX needs a multiple of 32.",
            min=32,
            max=512,
            step=32,
            advanced=True,
        ),
        _field(
            io.Boolean,
            "bucket_no_upscale",
            "Never enlarge a picture to fill its bucket; shortest and longest side are ignored then.",
            advanced=True,
        ),
    ]


def _held_out_inputs() -> list[io.Input]:
    return [
        io.Float.Input(
            "validation_split",
            default=0.1,
            min=0.0,
            max=0.9,
            step=0.001,
            tooltip="Share of the pictures held out from training to measure the loss on. 0 holds out none.",
        ),
        _field(
            io.Int,
            "validation_seed",
            "Which pictures are held out.",
            min=0,
            max=0x7FFF_FFFF,
            control_after_generate=False,
            advanced=True,
        ),
    ]


def _trainer_inputs() -> list[io.Input]:
    """Who reads the file, and how it treats pictures and captions."""
    return [
        _later(
            io.Combo,
            "target",
            "Who reads the file: today's sd-scripts (and Impasto), or the older one that FluxTrainer carries, "
            "which knows no validation keys and no resize_interpolation.",
            options=list(TARGETS),
        ),
        _switch("cached_text", "Training will use cached text encoder outputs, as is usual: captions cannot change."),
        _switch("cached_latents", "Training will use cached latents, as is usual: pictures can only be mirrored."),
        _later(
            io.Int,
            "resolution_height",
            "Height in pixels if not square; resolution is the width. 0: square.",
            min=0,
            max=4096,
            step=16,
        ),
        io.Combo.Input(
            "resize_interpolation",
            optional=True,
            advanced=True,
            options=[TRAINERS_OWN, *INTERPOLATIONS],
            default=TRAINERS_OWN,
            tooltip="How pictures are resized. Impasto's own trainer always uses lanczos and refuses others.",
        ),
    ]


def _caption_inputs() -> list[io.Input]:
    """How captions are completed, shuffled and dropped."""
    drawn = "Needs cached_text off; Impasto's own trainer draws from a few encoded texts of each caption."
    return [
        _text("caption_prefix", "Put before every caption, with a space between: a trigger word, for example."),
        _text("caption_suffix", "Put after every caption, with a space between."),
        _text("caption_separator", "Between the parts of a caption that are shuffled or dropped."),
        _switch("shuffle_caption", f"Shuffle the parts of a caption each time. {drawn}"),
        _count("keep_tokens", "So many first parts of a caption are neither shuffled nor dropped.", max=255),
        _text("keep_tokens_separator", "What stands before this in a caption is kept; in place of keep_tokens."),
        _text("secondary_separator", f"Parts joined by this are shuffled or dropped together. {drawn}"),
        _switch("enable_wildcard", f"Choose one of {{a|b}} in captions each time. {drawn}"),
        _number(
            "caption_dropout_rate",
            "Share of pictures trained with an empty caption. Needs cached_text off; 0 leaves it to caption_dropout in "
            "Training Settings.",
        ),
        _count(
            "caption_dropout_every_n_epochs",
            "Every so many epochs without captions, 0 for never. Needs cached_text off.",
            max=10_000,
        ),
        _number("caption_tag_dropout_rate", f"Share of a caption's parts that is left out each time. {drawn}"),
        _count("token_warmup_min", "So many parts of a caption are trained at first.", min=1, max=1000),
        _number(
            "token_warmup_step",
            "Whole captions from this step on; under 1 a share of all. Needs cached_text off; Impasto's own trainer "
            "encodes captions once and refuses it.",
            max=1_000_000.0,
        ),
    ]


def _picture_inputs() -> list[io.Input]:
    """How pictures are varied."""
    refused = "Impasto's own trainer encodes pictures once and refuses it; for sd-scripts."
    return [
        _switch("flip_aug", "Mirror pictures half of the time; signatures and faces are mirrored too."),
        _switch("color_aug", f"Vary the colours a little each time, which a style LoRA should not learn. {refused}"),
        _switch("random_crop", f"Crop at random instead of at the centre. {refused}"),
    ]


def _regularisation_inputs() -> list[io.Input]:
    return [
        sockets.Dataset.Input(
            "regularisation",
            optional=True,
            tooltip="Captioned pictures of what the base model paints without the LoRA, to keep that (prior "
            "preservation): a subset of their own with is_reg.",
        ),
        _count("regularisation_repeats", "num_repeats of the regularisation pictures.", min=1, max=10_000),
    ]


NODES = [DatasetTOMLWriter]
