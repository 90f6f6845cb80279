"""A FLUX.1 family small enough to be made on the spot: transformer, CLIP-L, T5 and autoencoder, without any download.

The files have the layout of the real ones, so that everything that loads, trains or samples FLUX does the same here.
They lie in a folder of the pack's own, where no ComfyUI loader lists them beside real models.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .. import files
from ..progress import Progress, silent
from .autoencoder_weights import autoencoder_weights
from .text_encoder_weights import clip_weights, t5_weights
from .transformer_weights import transformer_weights

VERSION = 2  # raised whenever any weight changes: it names the folder, so that old and new never mix
METADATA_KEY = "impasto.tiny_flux"  # the only one, because safetensors writes several in no fixed order


@dataclass(frozen=True)
class TinyFlux:
    """The four files of a family."""

    transformer: Path
    clip_l: Path
    t5: Path
    autoencoder: Path


def make_tiny_flux(models_root: str | Path, seed: int = 0, progress: Progress = silent) -> TinyFlux:
    """Return the family of this seed under `models_root`, writing the files that are missing, older or damaged.

    Written in `tiny-flux-<version>-<seed>/`; the same seed gives the same bytes. About a second, and nothing when the
    files are there.
    """
    folder = Path(models_root) / f"tiny-flux-{VERSION}-{seed}"
    makers: dict[str, Callable[[], dict[str, Tensor]]] = {
        "transformer": lambda: transformer_weights(seed=seed),
        "clip_l": lambda: clip_weights(seed),
        "t5": lambda: t5_weights(seed),
        "autoencoder": autoencoder_weights,
    }
    for done, (part, make) in enumerate(makers.items()):
        path = folder / f"{part}.safetensors"
        description = json.dumps({"version": VERSION, "part": part, "seed": seed}, sort_keys=True)
        if _description(path) != description:
            progress(done, len(makers), f"Making the tiny FLUX: {part}")
            with files.appearing(path) as temporary:
                save_file(make(), temporary, {METADATA_KEY: description})
    return TinyFlux(**{part: folder / f"{part}.safetensors" for part in makers})


def _description(path: Path) -> str | None:
    """What the file says of itself; None if there is no such file, or not a whole one."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get(METADATA_KEY)
    except SafetensorError:
        return None
