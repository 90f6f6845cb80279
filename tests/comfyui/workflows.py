"""Shipped workflows on a test server: core's FLUX loaders find the embedded tiny FLUX under the real files' names, and
what a person is to choose, a picture, a LoRA or a dataset, is there under the names that the graphs are shipped with.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from impasto.embedded.paintings import paint, scene
from impasto.embedded.tiny_flux import make_tiny_flux
from impasto.setup import comfy_cli
from impasto.setup.environment import HOME, REPOSITORY
from impasto.setup.serving import ComfyServer
from impasto.sources.folder import load_folder
from impasto.trainers.flux import detection
from safetensors.torch import save_file


def shipped(number: int) -> Path:
    """The shipped graph of this number in ComfyUI's template browser."""
    [workflow] = (REPOSITORY / "workflows").glob(f"{number:02} *.json")
    return workflow


def offer_models(server: ComfyServer, workflow: Path) -> None:
    """Put the tiny FLUX where a workflow says that its models lie: by the name and the folder that each node tells."""
    family = make_tiny_flux(server.base / "models" / "impasto")
    parts = {"diffusion_models": family.transformer, "vae": family.autoencoder}
    for node in json.loads(workflow.read_text(encoding="utf-8"))["nodes"]:
        for model in node["properties"].get("models", ()):
            encoder = family.t5 if model["name"].startswith("t5") else family.clip_l
            file = server.base / "models" / model["directory"] / model["name"]
            file.parent.mkdir(parents=True, exist_ok=True)
            if not file.exists():
                file.symlink_to(parts.get(model["directory"], encoder))
        if node["type"] == "LoadImage":
            picture = server.base / "input" / node["widgets_values"][0]
            if not picture.exists():
                paint(scene("landscape", 3), "plain", 256, 192).save(picture)
        if node["type"] == "ImpastoDatasetByName":
            _make_dataset(server, node["widgets_values"][0])
        if node["type"] == "ImpastoLoraWorkbench":
            _write_lora(server.base / "models" / "loras" / node["widgets_values"][0], family.transformer)


def _make_dataset(server: ComfyServer, name: str) -> None:
    """A dataset of that name, where no graph has made one before."""
    if (server.base / "datasets" / name).exists():
        return
    folder = server.base / "input" / name
    folder.mkdir(exist_ok=True)
    for seed in range(6):
        paint(scene("landscape", seed), "impressionist", 128, 128).save(folder / f"{seed}.png")
    load_folder(server.base / "datasets", server.base / "input", name, name, "input")


def _write_lora(file: Path, transformer: Path) -> None:
    """A LoRA that changes what a FLUX of this size paints."""
    if file.exists():
        return
    width = detection.inspect(transformer).hidden_size
    noise = torch.randn(4, width, generator=torch.Generator().manual_seed(2))
    name = "transformer.transformer_blocks.0.attn.to_q"
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({f"{name}.lora_A.weight": noise, f"{name}.lora_B.weight": torch.full((width, 4), 0.5)}, file)


def on_tiny_flux(server: ComfyServer, workflow: Path) -> dict[str, Any]:
    """A shipped workflow in API form, painting with the tiny FLUX where it loads FLUX.1 through core's loaders.

    Core's own loaders read the transformer and the autoencoder. The text encoders are Tiny FLUX Loader's, because core
    reads T5 and CLIP-L in the real sizes only.
    """
    offer_models(server, workflow)
    prompt = comfy_cli.to_api(HOME, workflow, server.port)
    loaders = {node for node, content in prompt.items() if content["class_type"] == "DualCLIPLoader"}
    for node in loaders:
        prompt[node] = {"class_type": "ImpastoTinyFluxLoader", "inputs": {"seed": 0}}
    for content in prompt.values():
        for name, value in content["inputs"].items():
            if isinstance(value, list) and value[0] in loaders:
                content["inputs"][name] = [value[0], 1]
    return prompt
