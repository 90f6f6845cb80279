"""The node that loads the base model of an earlier run, for graphs that go on with it."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import Any

import folder_paths

from ...api.graphs import node
from ...embedded import tiny_flux
from ...errors import ImpastoError
from ...trainers.flux.fingerprint import fingerprint

LOADERS = (  # ComfyUI's folder key, the core node that loads from it, its input, its other inputs
    ("diffusion_models", "UNETLoader", "unet_name", {"weight_dtype": "default"}),
    ("checkpoints", "CheckpointLoaderSimple", "ckpt_name", {}),
)
TITLE = "Load the base model"


def loader_of(weights: Path, content: str) -> dict[str, Any] | None:
    """A node in API format whose first output is the model; None where nothing that is listed is it.

    Args:
        weights: its file when it was trained on; one of that name is looked for wherever ComfyUI lists it now.
        content: its fingerprint.
    """
    if (seed := tiny_flux.seed_of(weights)) is not None:
        return node("ImpastoTinyFluxLoader", TITLE, seed=seed, weights="seeded")
    if tiny_flux.is_pretrained(weights):
        return node("ImpastoTinyFluxLoader", TITLE, seed=0, weights="pretrained")
    for folder, loader, name, others in LOADERS:
        for listed in folder_paths.get_filename_list(folder):
            file = folder_paths.get_full_path(folder, listed)
            if PurePath(listed).name == weights.name and file and _holds(Path(file), content):
                return node(loader, TITLE, **{name: listed}, **others)
    return None


def _holds(file: Path, content: str) -> bool:
    try:
        return fingerprint(file) == content
    except (ImpastoError, OSError):  # damaged, or gone since it was listed
        return False
