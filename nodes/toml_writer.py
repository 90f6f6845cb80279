"""The node that writes a dataset as trainers read it."""

from __future__ import annotations

import functools
from pathlib import Path

from comfy_api.latest import io

from ..curation.watched import parted
from ..dataset import watch_list
from ..dataset.config_schema import BY_NAME, KEYS
from ..dataset.config_writer import HEAVIER, TomlSettings, write_dataset_toml
from ..dataset.schema_key import TARGETS, Key
from . import results, sockets
from .host import execution
from .inputs import field_input, key_input, watched_input

TRAINERS_OWN = "trainer's own"
# Saved graphs keep the value of a widget by its place: these stay where they are, and what the schema gains comes last.
_PLACES = (
    *("dataset", "resolution", "batch_size", "num_repeats"),
    *("enable_bucket", "min_bucket_reso", "max_bucket_reso", "bucket_reso_steps", "bucket_no_upscale"),
    *("validation_split", "validation_seed"),
    *("target", "cached_text", "cached_latents", "resolution_height", "resize_interpolation"),
    *("caption_prefix", "caption_suffix", "caption_separator", "shuffle_caption", "keep_tokens"),
    *("keep_tokens_separator", "secondary_separator", "enable_wildcard", "caption_dropout_rate"),
    *("caption_dropout_every_n_epochs", "caption_tag_dropout_rate", "token_warmup_min", "token_warmup_step"),
    *("flip_aug", "color_aug", "random_crop", "regularisation", "regularisation_repeats", "more_keys"),
)
# What came to the node later is optional, so that old API calls stay as they are.
_own = functools.partial(field_input, TomlSettings(), optional=True, advanced=True)


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
                *sorted([*_own_inputs(), *(_key_input(key) for key in KEYS if key.widget)], key=_place),
                watched_input(f"They weigh less: all others come {HEAVIER} times as often."),
            ],
            outputs=[
                sockets.DatasetConfig.Output("dataset_config", tooltip="The dataset config, for Encode Training Data."),
                io.String.Output("toml", tooltip="The text of the dataset config."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, dataset, regularisation=None, watched="", **settings) -> io.NodeOutput:
        dataset, lighter = parted(dataset, watch_list.read(watched))
        settings = {
            name: BY_NAME[name].written_default if value == TRAINERS_OWN and BY_NAME[name].choices else value
            for name, value in settings.items()
        }
        config = write_dataset_toml(dataset, TomlSettings(**settings), execution.progress(), regularisation, lighter)
        text = Path(config.path).read_text(encoding="utf-8")
        return io.NodeOutput(config, text, ui=results.said(f"Written: {config.path}"))


def _place(given: io.Input) -> int:
    return _PLACES.index(given.id) if given.id in _PLACES else len(_PLACES)


def _key_input(key: Key) -> io.Input:
    if not key.choices:
        return key_input(key)
    return io.Combo.Input(
        key.name,
        options=[TRAINERS_OWN, *key.choices],
        default=TRAINERS_OWN,
        tooltip=key.widget.tooltip,
        optional=key.widget.optional,
        advanced=key.widget.advanced,
    )


def _own_inputs() -> list[io.Input]:
    """The datasets, who reads the file, and how it treats pictures and captions."""
    return [
        sockets.Dataset.Input("dataset", tooltip="A dataset in which every picture has a caption."),
        _own(
            io.Combo,
            "target",
            "Who reads the file: today's sd-scripts (and Impasto), or the older one that FluxTrainer carries, "
            "which knows no validation keys and no resize_interpolation.",
            options=list(TARGETS),
        ),
        _own(
            io.Boolean,
            "cached_text",
            "Training will use cached text encoder outputs, as is usual: captions cannot change.",
        ),
        _own(
            io.Boolean,
            "cached_latents",
            "Training will use cached latents, as is usual: pictures can only be mirrored.",
        ),
        _own(
            io.Int,
            "resolution_height",
            "Height in pixels if not square; resolution is the width. 0: square.",
            min=0,
            max=4096,
            step=16,
        ),
        sockets.Dataset.Input(
            "regularisation",
            optional=True,
            tooltip="Captioned pictures of what the base model paints without the LoRA, to keep that (prior "
            "preservation): a subset of their own with is_reg.",
        ),
        _own(
            io.Int,
            "regularisation_repeats",
            "num_repeats of the regularisation pictures.",
            min=1,
            max=int(BY_NAME["num_repeats"].offered[1]),
        ),
        _own(
            io.String,
            "more_keys",
            'Other keys of sd-scripts, one TOML line each: class_tokens = "a painting", cache_info = true, '
            "alpha_mask = true, custom_attributes, network_multiplier.",
            multiline=True,
        ),
    ]


NODES = [DatasetTOMLWriter]
