"""Each picture of a set before a model that does not learn: its error with its caption and with none, from the same
noises and at the same sigmas. What was measured is kept, so that a pass that was stopped goes on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import append_line, read_jsonl
from ..progress import Progress, silent
from .loss_watch import PictureErrors

if TYPE_CHECKING:
    from torch import Tensor

    from ..trainers.features.feature_set import Example, FeatureSet

    Velocity = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

VERSION = 1  # to be raised when the same picture would measure otherwise
SIGMAS = (0.25, 0.5, 0.75, 0.9)
TOLD_BY_CAPTION = SIGMAS[1:]  # under them the noisy picture itself says all that a caption could
NOISES = 2


def measure(
    features: FeatureSet,
    examples: Sequence[Example],
    velocity: Velocity,
    file: Path,
    progress: Progress = silent,
) -> dict[str, PictureErrors]:
    """Measure the examples that `file` does not have yet, and add each to it at once.

    Args:
        velocity: the model, from scaled latents `(batch, 16, h, w)`, sigma `(batch,)`, T5 and pooled embeddings.
        file: of lines, named by everything that decides what is measured.

    Raises:
        FeatureError: an encoded file is missing or damaged.
    """
    known = {line["example"]: line for line in read_jsonl(file, example=str, captioned=list, bare=list)}
    for done, example in enumerate(examples):
        progress(done, len(examples), f"Measuring picture {done + 1} of {len(examples)}")
        if example.id not in known:
            known[example.id] = {"example": example.id} | _errors(features, example, velocity)
            append_line(file, json.dumps(known[example.id]))
    return {example.id: _measured(known[example.id]) for example in examples}


def _errors(features: FeatureSet, example: Example, velocity: Velocity) -> dict[str, Any]:
    """Errors by sigma and noise: `captioned` at `SIGMAS`, `bare` at `TOLD_BY_CAPTION`."""
    import torch

    from ..trainers import objective

    latents = features.load_latent(example).expand(NOISES, -1, -1, -1)
    drawn = (objective.generator(0, "watched", example.id, number) for number in range(NOISES))
    noise = torch.stack([torch.randn(latents.shape[1:], generator=random) for random in drawn])
    mask = features.load_mask(example)[None] if example.mask_path else None

    @torch.inference_mode()
    def errors(text: Path, sigma: float) -> list[float]:
        t5, pooled = (tensor.expand(NOISES, *tensor.shape) for tensor in features.load_text(text))
        sigmas = torch.full((NOISES,), sigma)
        found = velocity(objective.noisy_latents(latents, noise, sigmas), sigmas, t5, pooled)
        return objective.velocity_errors(found.cpu(), latents, noise, mask).tolist()

    return {
        "captioned": [errors(example.text_path, sigma) for sigma in SIGMAS],
        "bare": [errors(features.empty_text_path, sigma) for sigma in TOLD_BY_CAPTION],
    }


def _measured(line: dict[str, Any]) -> PictureErrors:
    captioned = {
        sigma: [math.log(max(error, 1e-12)) for error in errors]
        for sigma, errors in zip(SIGMAS, line["captioned"], strict=False)
    }
    bare = [math.log(max(error, 1e-12)) for errors in line["bare"] for error in errors]
    told = [error for sigma in TOLD_BY_CAPTION for error in captioned.get(sigma, [])]
    return PictureErrors(
        {sigma: sum(errors) / len(errors) for sigma, errors in captioned.items()},
        (sum(told) - sum(bare)) / len(bare) if len(told) == len(bare) else math.nan,
    )
