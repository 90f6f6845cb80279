"""The settings nodes: each changes its theme, and leaves what it is not told to change."""

import dataclasses
import importlib.util

import pytest
from impasto.errors import TrainingError
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


def test_each_memory_setting_can_be_changed_alone(settings_nodes):
    changed = given(settings_nodes.MemorySettings, Settings(precision="nf4"), gradient_checkpointing="off")
    assert changed == Settings(precision="nf4", gradient_checkpointing=False)
    assert given(settings_nodes.MemorySettings, Settings(), streamed_blocks=-1).streamed_blocks == -1
    assert given(settings_nodes.MemorySettings, Settings(), compile="on").compile


def test_a_preset_takes_other_steps_and_says_where_it_comes_from(settings_nodes):
    settings, notes = settings_nodes.TrainingPreset.execute("Mucha QLoRA", 20, 7).args
    assert settings == dataclasses.replace(PRESETS["Mucha QLoRA"].settings, steps=20, seed=7, preset="Mucha QLoRA")
    assert "512 x 768" in notes and "flux_lora_quantization" in notes


def test_a_library_that_is_missing_is_named_before_anything_is_encoded(settings_nodes, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else find(name))
    with pytest.raises(TrainingError, match="precision nf4 needs bitsandbytes.*pip install bitsandbytes"):
        given(settings_nodes.MemorySettings, Settings(), precision="nf4")
    with pytest.raises(TrainingError, match="optimizer adamw8bit needs bitsandbytes"):
        settings_nodes.TrainingPreset.execute("8 GB", 0, 0)


@pytest.fixture
def settings_nodes(comfyui):
    from impasto.nodes import settings

    return settings
