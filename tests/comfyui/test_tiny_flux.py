"""The tiny FLUX sampled by ComfyUI's own nodes on a real server."""

from __future__ import annotations

import shutil

import numpy
import pytest
from impasto.setup.serving import ComfyServer
from PIL import Image

SIZE = 256


def sampling(text: str, prefix: str, model: dict | None = None) -> dict:
    """Core's FLUX graph, euler in 6 steps, with MODEL from `model` (a node) or the tiny loader."""
    prompt = {
        "tiny": ("ImpastoTinyFluxLoader", {"seed": 0}),
        "text": ("CLIPTextEncodeFlux", {"clip": ["tiny", 1], "clip_l": text, "t5xxl": text, "guidance": 3.5}),
        "empty": ("EmptySD3LatentImage", {"width": SIZE, "height": SIZE, "batch_size": 1}),
        "guider": ("BasicGuider", {"model": ["model", 0] if model else ["tiny", 0], "conditioning": ["text", 0]}),
        "noise": ("RandomNoise", {"noise_seed": 5}),
        "sampler": ("KSamplerSelect", {"sampler_name": "euler"}),
        "sigmas": ("BasicScheduler", {"model": ["tiny", 0], "scheduler": "simple", "steps": 6, "denoise": 1.0}),
        "sample": (
            "SamplerCustomAdvanced",
            {
                "noise": ["noise", 0],
                "guider": ["guider", 0],
                "sampler": ["sampler", 0],
                "sigmas": ["sigmas", 0],
                "latent_image": ["empty", 0],
            },
        ),
        "decode": ("VAEDecode", {"samples": ["sample", 0], "vae": ["tiny", 2]}),
        "save": ("SaveImage", {"images": ["decode", 0], "filename_prefix": f"tests/{prefix}"}),
    }
    graph = {node: {"class_type": kind, "inputs": inputs} for node, (kind, inputs) in prompt.items()}
    return graph | ({"model": model} if model else {})


def sampled(server: ComfyServer, *arguments: object) -> numpy.ndarray:
    result = server.queue(sampling(*arguments))
    (saved,) = server.output_files(result, "save")
    return numpy.asarray(Image.open(saved)).astype(float)


@pytest.fixture(scope="module")
def boat(server: ComfyServer) -> numpy.ndarray:
    return sampled(server, "a red boat", "boat")


def test_it_samples_a_picture_that_is_neither_flat_nor_saturated(boat):
    assert boat.shape == (SIZE, SIZE, 3)
    assert boat.std() > 10
    assert numpy.mean((boat == 0) | (boat == 255)) < 0.5


def test_another_prompt_gives_another_picture(server: ComfyServer, boat):
    other = sampled(server, "a stone bridge over a river", "bridge")
    assert numpy.abs(other - boat).mean() > 3


def test_a_fresh_server_samples_the_same_picture_from_the_files_that_are_there(
    server: ComfyServer, own_server: ComfyServer, boat
):
    family = server.base / "models" / "impasto"
    shutil.copytree(family, own_server.base / "models" / "impasto")
    assert numpy.array_equal(sampled(own_server, "a red boat", "fresh"), boat)


def test_core_loads_the_transformer_as_a_file_and_samples_the_same(server: ComfyServer, boat):
    (source,) = (server.base / "models" / "impasto").glob("tiny-flux-*-0/transformer.safetensors")
    target = server.base / "models" / "diffusion_models" / "a-flux.safetensors"
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)
    try:
        core = {"class_type": "UNETLoader", "inputs": {"unet_name": target.name, "weight_dtype": "default"}}
        assert numpy.array_equal(sampled(server, "a red boat", "core", core), boat)
    finally:
        target.unlink()
