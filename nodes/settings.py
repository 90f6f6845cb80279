"""The nodes that make a training's settings: all at once, from a preset, and one theme at a time on top of either."""

from __future__ import annotations

import dataclasses
import functools

from comfy_api.latest import io

from ..trainers import attention
from ..trainers.libraries import check_installed
from ..trainers.lora.targets import TARGETS
from ..trainers.optimizers import OPTIMIZERS, described
from ..trainers.presets import PRESETS
from ..trainers.settings import (
    LOSS_WEIGHTINGS,
    PRECISIONS,
    RANGES,
    SCHEDULERS,
    TIMESTEP_SAMPLINGS,
    TRACKERS,
    Settings,
    check_learning_rate,
)
from . import results, sockets
from .inputs import AS_BEFORE, changed, field_input, number_or_as_before, seed_input

CATEGORY = "Impasto/Training"
_SWITCHES = {"on": True, "off": False}
_field = functools.partial(field_input, Settings())
_switch = functools.partial(_field, io.Boolean)

_PRECISION = (
    "Of the frozen base model; the LoRA is always fp32. auto: the first of bf16, int8 and nf4 that fits the memory "
    "that is free; on the CPU fp32 or, where that does not fit, bf16. nf4 needs bitsandbytes."
)
_SEED = "Decides the initial weights, the order, the noise and the caption dropout. Another seed, another run."
_EIGHT_BIT = (
    "With precision int8 or fp8: multiply in 8 bits too, where the card can. Faster, and less exact: another run than "
    "without."
)
_CHECKPOINTING = "Recompute each block in the backward pass: far less memory, about a third more time."
_REPLACES = "Every value on this node replaces what came before it, unless it says 'as before'."


def _int(name: str, tooltip: str, **more) -> io.Input:
    low, high = RANGES[name]
    return _field(io.Int, name, tooltip, min=int(low), max=int(high), **more)


def _float(name: str, tooltip: str, step: float, **more) -> io.Input:
    """A number; ComfyUI's page rounds what is typed to the digits of `step`, so it is the finest that is useful."""
    low, high = RANGES[name]
    return _field(io.Float, name, tooltip, min=low, max=high, step=step, **more)


def _switch_or_as_before(name: str, tooltip: str, **more) -> io.Input:
    return io.Combo.Input(name, options=[AS_BEFORE, *_SWITCHES], tooltip=tooltip, **more)


def _combo(name: str, options: tuple[str, ...], tooltip: str, **more) -> io.Input:
    return _field(io.Combo, name, tooltip, options=list(options), **more)


def _may_be_left_out(*inputs: io.Input) -> list[io.Input]:
    """Inputs that a graph sent over the API needs not have: each then is its default."""
    for given in inputs:
        given.optional = True
    return list(inputs)


def _settings(settings: Settings, *more) -> io.NodeOutput:
    """What the nodes here give; a library that is missing is named before anything is encoded."""
    check_installed(settings)
    check_learning_rate(settings)
    told = (
        f"{settings.steps} steps at {settings.learning_rate:g} with {settings.optimizer}\n"
        f"rank {settings.rank}, {settings.targets}"
    )
    return io.NodeOutput(settings, *more, ui=results.said("\n".join([told, *more])))


class TrainingSettings(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImpastoTrainingSettings",
            display_name="Training Settings",
            category=CATEGORY,
            description="The hyperparameters of a FLUX.1 LoRA run. The defaults are a sound start for a painting "
            "style with 20 to 1,000 pictures; the other settings nodes change what is not here.",
            search_aliases=["hyperparameters", "learning rate", "lora rank", "train settings", "steps"],
            inputs=_may_be_left_out(
                _int("steps", "Optimiser steps in all. Style LoRAs usually need 1,000 to 2,000."),
                _float(
                    "learning_rate",
                    "Peak learning rate, reached after the warm-up. 1e-4 suits AdamW; prodigy needs 1.",
                    1e-7,
                ),
                _int("rank", "Rank of the LoRA matrices: how much it can learn, and how large the file is."),
                _float("alpha", "The LoRA is scaled by alpha / rank. Keep it equal to the rank for scale 1.", 0.001),
                _combo("targets", tuple(TARGETS), "Which linear layers of the transformer get a LoRA."),
                _combo(
                    "optimizer",
                    tuple(OPTIMIZERS),
                    f"What follows the gradients. {described()}.",
                ),
                _combo("scheduler", SCHEDULERS, "How the learning rate goes on after the warm-up."),
                _int("warmup_steps", "Steps over which the learning rate rises from 0."),
                _combo(
                    "timestep_sampling",
                    TIMESTEP_SAMPLINGS,
                    "Which noise levels are trained: sigmoid favours the middle ones, flux_shift follows FLUX's "
                    "sampler at this resolution.",
                ),
                _float("caption_dropout", "Share of batches trained with an empty caption.", 0.001),
                _int("checkpoint_every", "Steps between checkpoints. Each becomes a LoRA file and a grid column."),
                seed_input(_SEED),
                _combo("precision", PRECISIONS, _PRECISION, advanced=True),
                _switch("gradient_checkpointing", _CHECKPOINTING, advanced=True),
                _int("gradient_accumulation", "Batches per optimiser step.", advanced=True),
                _float("weight_decay", "Decoupled weight decay of AdamW.", 1e-5, advanced=True),
                _float(
                    "max_grad_norm",
                    "Gradients are clipped to this norm; 0 switches that off.",
                    0.001,
                    advanced=True,
                ),
                _float("guidance", "Guidance embedding while training: 1.0 for FLUX.1-dev.", 0.01, advanced=True),
                _int("sample_steps", "Sampling steps of the preview at each checkpoint; 0 for none.", advanced=True),
            ),
            outputs=[sockets.Training.Output("training", tooltip="The settings, for FLUX LoRA Trainer.")],
        )

    @classmethod
    def execute(cls, **settings) -> io.NodeOutput:
        return _settings(Settings(**settings))


class TrainingPreset(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImpastoTrainingPreset",
            display_name="Training Preset",
            category=CATEGORY,
            description="Settings that belong together: for a style, or for what a card holds. Says what they are, "
            "where they come from, and what to set in Dataset TOML Writer.",
            search_aliases=["preset", "qlora", "8 GB", "12 GB", "16 GB", "24 GB", "low vram training", "mucha"],
            inputs=[
                io.Combo.Input("preset", options=list(PRESETS), tooltip="A style, or the memory of your card."),
                number_or_as_before(io.Int, "steps", "Optimiser steps in all, if not the preset's."),
                seed_input(_SEED),
            ],
            outputs=[
                sockets.Training.Output("training", tooltip="The settings, for FLUX LoRA Trainer."),
                io.String.Output(
                    "notes", tooltip="What the preset sets, the dataset settings that go with it, and the source."
                ),
            ],
        )

    @classmethod
    def execute(cls, preset, steps, seed) -> io.NodeOutput:
        chosen = PRESETS[preset]
        changes = changed({"steps": steps, "seed": seed, "preset": preset})
        settings = dataclasses.replace(chosen.settings, **changes)
        return _settings(settings, dataclasses.replace(chosen, settings=settings).describe())


class _Change(io.ComfyNode):
    """A node that changes one theme of the settings it is given; what says "as before" it leaves."""

    @classmethod
    def schema(cls, node_id: str, name: str, description: str, aliases: list[str], inputs: list) -> io.Schema:
        return io.Schema(
            node_id=node_id,
            display_name=name,
            category=CATEGORY,
            description=description,
            search_aliases=aliases,
            inputs=[
                sockets.Training.Input(
                    "training", tooltip="From Training Settings, Training Preset or another change."
                ),
                *inputs,
            ],
            outputs=[sockets.Training.Output("training", tooltip="The changed settings, for FLUX LoRA Trainer.")],
        )

    @classmethod
    def execute(cls, training, **changes) -> io.NodeOutput:
        return _settings(dataclasses.replace(training, **changed(changes)))


class LoraSettings(_Change):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return cls.schema(
            node_id="ImpastoLoraSettings",
            name="LoRA Settings",
            description="Variants of the LoRA: DoRA, rank-stabilised scaling, dropout, other ranks for some blocks. "
            "Every value on this node replaces what came before it.",
            aliases=["dora", "rslora", "block weight", "block rank", "lora dropout"],
            inputs=[
                _switch("dora", "Learn each weight's magnitude beside its direction. Slower, and larger in memory."),
                _switch("rslora", "Scale by alpha / sqrt(rank): high ranks then learn as fast as low ones."),
                _float("lora_dropout", "Probability of dropping each input of the LoRA in training.", 0.001),
                _field(
                    io.String,
                    "block_ranks",
                    "Ranks of some blocks, such as: double 0-4: 8; single 10-37: 4; rest: 0. Rank 0 leaves a block "
                    "untrained. Empty: every block has the rank of the settings.",
                ),
            ],
        )


class NoiseSettings(_Change):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return cls.schema(
            node_id="ImpastoNoiseSettings",
            name="Noise Settings",
            description=f"Which noise levels are trained how often, and how much each counts. {_REPLACES}",
            aliases=["timestep sampling", "logit normal", "sigma", "discrete flow shift", "loss weighting", "min snr"],
            inputs=[
                _combo(
                    "timestep_sampling",
                    (*TIMESTEP_SAMPLINGS, AS_BEFORE),
                    "The distribution of the noise levels. It replaces that of Training Settings or of a preset; "
                    "as before: leave it.",
                ),
                _float("timestep_mean", "Of sigmoid, shift and flux_shift: above 0 trains more noise.", 0.01),
                _float("timestep_scale", "Of sigmoid, shift and flux_shift: below 1 keeps to the middle.", 0.01),
                _float("timestep_shift", "Of shift; 3.1582 is FLUX's own at 1024 pixels.", 0.0001),
                _float("mode_scale", "Of mode: above 0 favours the middle.", 0.01),
                _combo(
                    "loss_weighting",
                    (*LOSS_WEIGHTINGS, AS_BEFORE),
                    "How much the loss at a noise level counts: none, all alike; sigma_sqrt, little noise far more; "
                    "cosmap, the middle up to twice as much. as before: leave it.",
                ),
                _float("prior_loss_weight", "How much the loss of regularisation pictures counts.", 0.001),
            ],
        )


class MemorySettings(_Change):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return cls.schema(
            node_id="ImpastoMemorySettings",
            name="Training Memory Settings",
            description="What trades memory for time or precision. All but precision and eight_bit_products may be "
            "changed between two queues of one run: it goes on where it was.",
            aliases=["block swap", "offload", "quantisation", "nf4", "fp8", "int8", "compile", "low vram"],
            inputs=[
                io.Combo.Input("precision", options=[AS_BEFORE, *PRECISIONS], default=AS_BEFORE, tooltip=_PRECISION),
                _switch_or_as_before("gradient_checkpointing", _CHECKPOINTING),
                number_or_as_before(
                    io.Int,
                    "checkpointing_interval",
                    "Recompute every n-th block only: 2 takes more memory and less time.",
                ),
                number_or_as_before(
                    io.Int,
                    "streamed_blocks",
                    "Blocks kept in the computer's memory and copied to the card when their turn comes. -1: as many as "
                    "it takes to fit.",
                ),
                _switch_or_as_before(
                    "compile", "Compile each block with torch.compile: a slow start, then faster steps."
                ),
                io.Combo.Input(
                    "attention_backend",
                    options=[AS_BEFORE, *attention.ATTENTION_BACKENDS],
                    default=AS_BEFORE,
                    optional=True,
                    advanced=True,
                    tooltip=f"What computes attention. {attention.described()}.",
                ),
                _switch_or_as_before("eight_bit_products", _EIGHT_BIT, optional=True, advanced=True),
            ],
        )

    @classmethod
    def execute(cls, training, attention_backend=AS_BEFORE, eight_bit_products=AS_BEFORE, **changes) -> io.NodeOutput:
        changes |= {"attention_backend": attention_backend, "eight_bit_products": eight_bit_products}
        switches = ("gradient_checkpointing", "compile", "eight_bit_products")
        changes |= {name: _SWITCHES.get(changes[name], changes[name]) for name in switches}
        return super().execute(training, **changes)


class CheckpointSettings(_Change):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return cls.schema(
            node_id="ImpastoCheckpointSettings",
            name="Checkpoint Settings",
            description="What is kept, when training stops by itself, the moving average, and who is told. "
            f"{_REPLACES}",
            aliases=["ema", "early stopping", "save every epoch", "rotation", "tensorboard", "wandb", "restarts"],
            inputs=[
                _int("keep_checkpoints", "How many of the latest are kept, besides the best; 0 keeps all."),
                _int("checkpoint_epochs", "Epochs between checkpoints, instead of checkpoint_every; 0 counts steps."),
                _int(
                    "early_stop_patience",
                    "Stop after so many checkpoints without a better held-out loss, and publish the best; 0: never.",
                ),
                _float(
                    "ema_decay",
                    "Save a moving average of the LoRA, such as 0.99; 0 for none. Another value, another run.",
                    1e-5,
                ),
                _int(
                    "scheduler_cycles",
                    "How often the scheduler cosine_with_restarts falls; without effect with others. Another value, "
                    "another run.",
                ),
                _combo(
                    "tracker", TRACKERS, "Where the metrics go besides metrics.jsonl; what is named must be installed."
                ),
                number_or_as_before(io.Int, "checkpoint_every", "Steps between checkpoints."),
                number_or_as_before(
                    io.Int, "sample_steps", "Sampling steps of the samples at each checkpoint; 0 for none."
                ),
            ],
        )


NODES = [TrainingSettings, TrainingPreset, LoraSettings, NoiseSettings, MemorySettings, CheckpointSettings]
