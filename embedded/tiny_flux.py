"""A FLUX.1 family small enough to lie beside the code: transformer, CLIP-L, T5 and autoencoder, without any download.

It comes in two kinds: one that has learned to draw the embedded painter's scenes (docs/tiny-flux.md), and seeded ones
that know no pictures. The files have the layout of the real ones, so that everything that loads, trains or samples FLUX
does the same here. They lie in a folder of the pack's own, where no ComfyUI loader lists them beside real models.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from .. import files
from ..errors import ModelError
from ..progress import Progress, silent
from .autoencoder_weights import autoencoder_weights
from .text_encoder_weights import clip_weights, t5_weights
from .transformer_weights import transformer_weights

VERSION = 2  # raised whenever any weight changes: it names the folder, so that old and new never mix
METADATA_KEY = "impasto.tiny_flux"  # the only one, because safetensors writes several in no fixed order
WEIGHTS = Path(__file__).with_name("weights")  # what `export_weights` writes
PRETRAINED = {part: WEIGHTS / f"{part}.safetensors" for part in ("transformer", "decoder")}
JUDGES = WEIGHTS / "judges.safetensors"  # of its samples, see `judges` and `examination`
TEXT_SEED = 0  # of the text encoders that the pretrained transformer was taught with


@dataclass(frozen=True)
class TinyFlux:
    """The four files of a family."""

    transformer: Path
    clip_l: Path
    t5: Path
    autoencoder: Path


def make_tiny_flux(models_root: str | Path, seed: int = 0, progress: Progress = silent) -> TinyFlux:
    """Return the seeded family under `models_root`, writing the files that are missing, older or damaged.

    Written in `tiny-flux-<version>-<seed>/`; the same seed gives the same bytes. About a second, and nothing when the
    files are there.
    """
    makers: dict[str, Callable[[], dict[str, Tensor]]] = {
        "transformer": lambda: transformer_weights(seed=seed),
        "clip_l": lambda: clip_weights(seed),
        "t5": lambda: t5_weights(seed),
        "autoencoder": autoencoder_weights,
    }
    return _family(Path(models_root) / f"tiny-flux-{VERSION}-{seed}", makers, {"seed": seed}, progress)


def pretrained_tiny_flux(models_root: str | Path, progress: Progress = silent) -> TinyFlux:
    """Return the family that has learned to draw, as `make_tiny_flux` does the seeded one.

    Written in `tiny-flux-<version>-pretrained-<digest>/`, the digest being of the weights that were shipped. Its text
    encoders are seeded ones, whose prompts are to be padded to `text_encoder_weights.T5_LEAST_TOKENS`.

    Raises:
        ModelError: the shipped weights are not there.
    """
    makers: dict[str, Callable[[], dict[str, Tensor]]] = {
        "transformer": lambda: load_file(PRETRAINED["transformer"]),
        "clip_l": lambda: clip_weights(TEXT_SEED),
        "t5": lambda: t5_weights(TEXT_SEED),
        "autoencoder": pretrained_autoencoder_weights,
    }
    return _family(_pretrained_folder(Path(models_root)), makers, {"weights": pretrained_digest()}, progress)


def _pretrained_folder(models_root: Path) -> Path:
    return models_root / f"tiny-flux-{VERSION}-pretrained-{pretrained_digest()}"


def seed_of(transformer: Path) -> int | None:
    """The seed that `make_tiny_flux` makes this file with, wherever it lies; None where it is none of its."""
    seeded = re.fullmatch(rf"tiny-flux-{VERSION}-(\d+)", transformer.parent.name)
    return int(seeded[1]) if seeded else None


def is_pretrained(transformer: Path) -> bool:
    """Whether `pretrained_tiny_flux` makes this file, wherever it lies."""
    name = transformer.parent.name
    return name.startswith(f"tiny-flux-{VERSION}-pretrained-") and name == _pretrained_folder(Path()).name


def decoder_of(transformer: Path, models_root: Path) -> Path | None:
    """The decoder that was trained for a transformer, where that is the pretrained one; else None."""
    is_ours = PRETRAINED["decoder"].is_file() and transformer.parent == _pretrained_folder(models_root)
    return PRETRAINED["decoder"] if is_ours else None


def pretrained_autoencoder_weights() -> dict[str, Tensor]:
    """By ComfyUI's keys, float32: the encoder that is worked out, and the decoder that was trained for it."""
    decoder = load_file(PRETRAINED["decoder"])
    return autoencoder_weights() | {f"taesd_decoder.{key}": value.float() for key, value in decoder.items()}


def pretrained_digest() -> str:
    """Twelve digits of the SHA-256 of the shipped weights.

    Raises:
        ModelError: they are not there.
    """
    digest = hashlib.sha256()
    for path in PRETRAINED.values():
        try:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        except FileNotFoundError as error:
            raise ModelError(
                f"{path} is missing: the weights of the tiny FLUX that has learned to draw come with Impasto. "
                "Install the pack again, or choose the weights 'seeded'."
            ) from error
    return digest.hexdigest()[:12]


def _family(
    folder: Path, makers: dict[str, Callable[[], dict[str, Tensor]]], origin: dict[str, object], progress: Progress
) -> TinyFlux:
    """Have each file of a family in `folder`, made where it does not say that it is of this version and origin."""
    for done, (part, make) in enumerate(makers.items()):
        path = folder / f"{part}.safetensors"
        description = json.dumps({"version": VERSION, "part": part} | origin, sort_keys=True)
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
