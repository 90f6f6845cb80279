"""A lesson for the pretrained tiny FLUX: pictures of one finish with captions, encoded, and a LoRA trained on them.

For whoever wants to know whether a way of training teaches: `examination` tells what was learned.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import TrainingError
from ..trainers import recipe
from ..trainers.features import encoding
from ..trainers.features.index import Features
from ..trainers.flux.fingerprint import fingerprint
from ..trainers.flux.latents import unscale_latent
from ..trainers.run import create
from ..trainers.run.checkpoints import ADAPTER_FILE
from ..trainers.run.folder import Job, Run
from ..trainers.settings import Settings
from . import text_embeddings, tiny_flux
from .paintings import caption, paint
from .training_latents import latents_of
from .training_pictures import HELD_OUT, LEAST_STROKE, SHAPES, scene_of

if TYPE_CHECKING:
    from PIL.Image import Image

TAUGHT = range(HELD_OUT - 40, HELD_OUT)  # forty scenes that the tiny FLUX was not trained on, none of them examined
BATCH = 4
SETTINGS: dict[str, Any] = {
    "steps": 300,
    "checkpoint_every": 300,
    "learning_rate": 1e-3,
    "rank": 16,
    "targets": "all linear",
    "precision": "bf16",
    "gradient_checkpointing": False,
    "sample_steps": 0,
}


def prepare(
    folder: str | Path, finish: str, comfyui: str | Path, shuffled: bool = False, held_out: float = 0.0
) -> Features:
    """Paint the scenes `TAUGHT` in one finish, as square pictures, and encode them as the tiny FLUX's sockets would.

    Args:
        folder: for pictures, captions and features; must be empty.
        finish: of `paintings.FINISHES`.
        comfyui: ComfyUI's folder, for its tokenizers.
        shuffled: deal the captions out anew, so that they tell nothing of their pictures.
        held_out: share of the pictures that nothing is trained on, for measuring the loss.
    """
    captions = [caption(scene_of(index)) for index in TAUGHT]
    if shuffled:
        random.Random(0).shuffle(captions)
    pictures = [paint(scene_of(index), finish, *SHAPES[0], LEAST_STROKE) for index in TAUGHT]
    return encode(folder, list(zip(pictures, captions, strict=True)), comfyui, held_out)


def encode(
    folder: str | Path, pictures: Sequence[tuple[Image, str]], comfyui: str | Path, held_out: float = 0.0
) -> Features:
    """Encode any square pictures with their captions, as `prepare` does it."""
    folder = Path(folder)
    for number, (picture, text) in enumerate(pictures):
        picture.save(folder / f"{number:04}.png")
        (folder / f"{number:04}.txt").write_text(text, encoding="utf-8")
    split = f"validation_split = {held_out}\n" if held_out else ""
    (folder / "dataset.toml").write_text(
        f"[[datasets]]\nresolution = {list(SHAPES[0])}\nbatch_size = {BATCH}\n{split}"
        '[[datasets.subsets]]\nimage_dir = "."\ncaption_extension = ".txt"\n',
        encoding="utf-8",
    )
    known = list(dict.fromkeys(["", *(text for _, text in pictures)]))
    embedded = dict(zip(known, zip(*text_embeddings.embed(known, comfyui), strict=True), strict=True))
    return encoding.encode(
        folder / "dataset.toml",
        encoding.Encoder("latents_of", _encoded_picture),
        encoding.Encoder("embed", embedded.__getitem__),
    )


def _encoded_picture(picture: Tensor) -> Tensor:
    """Raw latents `(16, height/8, width/8)` of a picture `(height, width, 3)` in 0…1."""
    return unscale_latent(latents_of(picture.mul(255).round().byte().numpy()[None]))[0]


@cache
def _fingerprint(weights: Path) -> str:
    return fingerprint(weights)


def begin(features: Features, runs_root: str | Path, **changes: Any) -> Run:
    """A run of the trainer on a lesson, with `SETTINGS` but for `changes`; not yet trained."""
    weights, settings = tiny_flux.PRETRAINED["transformer"], Settings(**SETTINGS | changes)
    job = Job("lesson", settings, features.folder, features.key, str(weights), _fingerprint(weights))
    return create.create_run(Path(runs_root), job)


def learn(run: Run) -> Path:
    """Train a run to its end, in this process, and return its LoRA.

    Raises:
        TrainingError: the trainer gave up; its text says why.
    """
    if not recipe.train_run(run, cpu=not torch.cuda.is_available(), stop_requested=lambda: False):
        raise TrainingError(run.status()["error"])
    return run.checkpoints()[max(run.checkpoints())] / ADAPTER_FILE
