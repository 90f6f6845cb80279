"""The settings nodes: each changes its theme, and leaves what it is not told to change."""

import asyncio
import dataclasses
import importlib.util
import math

import pytest
from impasto.errors import SettingsError, TrainingError
from impasto.trainers.presets import PRESETS
from impasto.trainers.settings import Settings


def defaults(node) -> dict:
    """What the node's widgets say when it is new."""
    widgets = [widget for widget in node.GET_SCHEMA().inputs if widget.id != "training"]
    return {widget.id: widget.options[0] if widget.default is None else widget.default for widget in widgets}


def given(node, *arguments, **changes):
    return node.execute(*arguments, **defaults(node) | changes).args[0]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_new_memory_or_checkpoint_node_after_a_preset_keeps_what_the_preset_is_for(settings_nodes, preset):
    settings = PRESETS[preset].settings
    assert given(settings_nodes.MemorySettings, settings) == settings
    assert given(settings_nodes.CheckpointSettings, settings) == settings


@pytest.mark.parametrize(
    ("node", "saved"),
    [
        ("MemorySettings", {"precision": "as before", "gradient_checkpointing": "as before", "compile": "as before"}),
        ("MemorySettings", {"checkpointing_interval": 0, "streamed_blocks": -2}),
        ("CheckpointSettings", {"checkpoint_every": 0, "sample_steps": -1}),
    ],
)
def test_what_saved_graphs_have_for_as_before_is_what_a_new_node_says(settings_nodes, node, saved):
    assert saved.items() <= defaults(getattr(settings_nodes, node)).items()
    settings = PRESETS["8 GB"].settings
    assert given(getattr(settings_nodes, node), settings, **saved) == settings


def test_a_number_below_what_means_as_before_is_refused(settings_nodes):
    with pytest.raises(SettingsError, match="streamed_blocks is -3"):
        given(settings_nodes.MemorySettings, Settings(), streamed_blocks=-3)


def typed(widget, value: float) -> float:
    """What ComfyUI's page makes of a number typed into a widget: its frontend's useFloatWidget, onFloatValueChange."""
    digits = max(0, -math.floor(math.log10(widget.step or 0.5)))
    grain = widget.round or (10.0**-digits if digits else None)
    rounded = round(math.floor(value / grain + 0.5) * grain, digits) if grain else value
    return min(max(rounded, widget.min), widget.max)


def float_inputs(node) -> dict:
    return {widget.id: widget for widget in node.GET_SCHEMA().inputs if widget.get_io_type() == "FLOAT"}


def test_the_page_keeps_the_default_and_the_range_of_every_number_of_every_node(comfyui):
    from impasto.nodes import ImpastoExtension

    nodes = asyncio.run(ImpastoExtension().get_node_list())
    widgets = [(node, widget) for node in nodes for widget in float_inputs(node).values()]
    lost = [
        f"{node.__name__}.{widget.id}: {value} becomes {typed(widget, value)}"
        for node, widget in widgets
        for value in (widget.default, widget.min, widget.max)
        if typed(widget, value) != value
    ]
    assert widgets and not lost


@pytest.mark.parametrize(
    ("node", "name", "value"),
    [
        ("TrainingSettings", "learning_rate", 5e-7),
        ("TrainingSettings", "learning_rate", 1.5e-6),
        ("TrainingSettings", "alpha", 0.25),
        ("TrainingSettings", "weight_decay", 0.0001),
        ("TrainingSettings", "max_grad_norm", 0.25),
        ("TrainingSettings", "caption_dropout", 0.005),
        ("LoraSettings", "lora_dropout", 0.005),
        ("NoiseSettings", "timestep_mean", -0.25),
        ("NoiseSettings", "timestep_scale", 0.75),
        ("NoiseSettings", "timestep_shift", 3.1582),
        ("NoiseSettings", "timestep_shift", 1.15),
        ("NoiseSettings", "mode_scale", 0.81),
        ("NoiseSettings", "prior_loss_weight", 0.05),
        ("CheckpointSettings", "ema_decay", 0.9999),
    ],
)
def test_the_page_keeps_a_useful_number_that_is_typed(settings_nodes, node, name, value):
    assert typed(float_inputs(getattr(settings_nodes, node))[name], value) == value


def test_a_noise_node_replaces_what_a_preset_says_unless_it_is_told_to_leave_it(settings_nodes):
    preset = PRESETS["Mucha QLoRA"].settings
    assert given(settings_nodes.NoiseSettings, preset).timestep_sampling == Settings.timestep_sampling
    left = given(settings_nodes.NoiseSettings, preset, timestep_sampling="as before", loss_weighting="as before")
    assert left == preset
    weighted = dataclasses.replace(preset, loss_weighting="cosmap")
    assert given(settings_nodes.NoiseSettings, weighted, loss_weighting="as before").loss_weighting == "cosmap"


def test_prodigy_with_the_learning_rate_of_adamw_is_refused_at_the_node(settings_nodes):
    with pytest.raises(SettingsError, match="Set learning_rate to 1"):
        given(settings_nodes.TrainingSettings, optimizer="prodigy")


def test_each_memory_setting_can_be_changed_alone(settings_nodes):
    changed = given(settings_nodes.MemorySettings, Settings(precision="nf4"), gradient_checkpointing="off")
    assert changed == Settings(precision="nf4", gradient_checkpointing=False)
    assert given(settings_nodes.MemorySettings, Settings(), streamed_blocks=-1).streamed_blocks == -1
    assert given(settings_nodes.MemorySettings, Settings(), compile="on").compile


def test_a_preset_takes_other_steps_and_says_where_it_comes_from(settings_nodes):
    settings, notes = settings_nodes.TrainingPreset.execute("Mucha QLoRA", 20, 7).args
    assert settings == dataclasses.replace(PRESETS["Mucha QLoRA"].settings, steps=20, seed=7, preset="Mucha QLoRA")
    assert "512 x 768" in notes and "flux_lora_quantization" in notes


def test_a_presets_notes_say_what_it_sets_with_the_steps_it_was_given(settings_nodes):
    _, notes = settings_nodes.TrainingPreset.execute("8 GB", 0, 7).args
    assert notes.splitlines()[0] == (
        "Sets: 1,000 steps, rank 8, alpha 8, learning rate 1e-4, targets image attention, precision nf4, optimizer "
        "adamw8bit, a checkpoint every 250 steps, streamed_blocks -1."
    )
    _, notes = settings_nodes.TrainingPreset.execute("Mucha QLoRA", 20, 7).args
    assert "Sets: 20 steps, rank 4" in notes
    assert "gradient_accumulation 4, caption_dropout 0.0, timestep_sampling uniform." in notes


def test_a_library_that_is_missing_is_named_before_anything_is_encoded(settings_nodes, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else find(name))
    with pytest.raises(TrainingError, match="precision nf4 needs bitsandbytes.*install.py bitsandbytes"):
        given(settings_nodes.MemorySettings, Settings(), precision="nf4")
    with pytest.raises(TrainingError, match="optimizer adamw8bit needs bitsandbytes"):
        settings_nodes.TrainingPreset.execute("8 GB", 0, 0)


@pytest.fixture
def settings_nodes(comfyui):
    from impasto.nodes import settings

    return settings
