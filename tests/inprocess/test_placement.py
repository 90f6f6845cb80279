"""Encoder Placement through ComfyUI's own device selection.

There are no cards here: the list of devices is made up. Nothing is computed on them; what is looked at is where
ComfyUI's memory management would load each model, and for the CPU, that it computes there.
"""

import pytest
import torch
from impasto.errors import ModelError
from impasto.hardware.cleanup import DeviceMemory, MemoryState

FIRST, SECOND, CPU = torch.device("cuda", 0), torch.device("cuda", 1), torch.device("cpu")


@pytest.fixture(scope="module")
def loaded(comfyui):
    from impasto.nodes.embedded import TinyFluxLoader

    with torch.inference_mode():
        return TinyFluxLoader.execute(seed=0).args


@pytest.fixture
def two_cards(loaded, monkeypatch):
    import comfy.model_management
    from impasto.nodes.host import memory

    monkeypatch.setattr(comfy.model_management, "get_all_torch_devices", lambda *_: [FIRST, SECOND])
    cards = tuple(DeviceMemory(f"card {n}", 24, free, 0) for n, free in enumerate((5, 20)))
    monkeypatch.setattr(memory, "memory_state", lambda: MemoryState(cards, 0, 16, 8, ()))


def place(**inputs):
    from impasto.nodes.memory import EncoderPlacement

    with torch.inference_mode():
        return EncoderPlacement.execute(**{"clip_device": "default", "vae_device": "default"} | inputs).args


def test_clip_and_vae_are_loaded_where_chosen_and_what_came_in_stays(loaded, two_cards):
    _, clip, vae = loaded
    placed_clip, placed_vae, report = place(clip=clip, vae=vae, clip_device="gpu:1", vae_device="gpu:0")
    assert (placed_clip.patcher.load_device, placed_vae.patcher.load_device) == (SECOND, FIRST)
    assert placed_vae.device == FIRST
    assert (clip.patcher.load_device, vae.patcher.load_device) == (CPU, CPU)
    assert placed_clip.patcher.model is not clip.patcher.model
    assert report == "CLIP on cuda:1, VAE on cuda:0"


def test_most_room_is_the_emptiest_card(loaded, two_cards):
    _, clip, vae = loaded
    placed_clip, placed_vae, _ = place(clip=clip, vae=vae, clip_device="most room", vae_device="most room")
    assert (placed_clip.patcher.load_device, placed_vae.patcher.load_device) == (SECOND, SECOND)


def test_back_on_the_cpu_it_encodes_as_before(loaded, two_cards):
    _, clip, _ = loaded
    there, _, _ = place(clip=clip, clip_device="gpu:1")
    back, no_vae, report = place(clip=there, clip_device="cpu")
    assert (no_vae, report) == (None, "CLIP on cpu")
    with torch.inference_mode():
        expected, given = (each.encode_from_tokens(each.tokenize("a boat")) for each in (clip, back))
    assert torch.equal(given, expected)


def test_without_several_cards_most_room_changes_nothing(loaded):
    _, clip, vae = loaded
    placed, _, report = place(clip=clip, clip_device="most room")
    assert placed.patcher.load_device == CPU
    assert report == "CLIP on cpu"


def test_a_device_that_is_not_there_is_named(loaded, two_cards):
    from impasto.nodes.host import memory

    with pytest.raises(ModelError, match="no device gpu:7.*gpu:1"):
        memory.place_clip(loaded[1], "gpu:7")


def test_a_clip_that_cannot_be_loaded_again_is_not_passed_on_quietly(loaded, two_cards, monkeypatch):
    monkeypatch.setattr(loaded[1].patcher, "cached_patcher_init", None)
    with pytest.raises(ModelError, match="CLIP could not be placed on gpu:1"):
        place(clip=loaded[1], clip_device="gpu:1")
