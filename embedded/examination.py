"""What a LoRA has taught the pretrained tiny FLUX: what judges find in samples of scenes that nothing was trained on.

The judges are shipped beside the weights; `export_weights` fits them on round trips through the shipped decoder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..trainers.flux.forward import predict_velocity
from ..trainers.flux.loading import load_transformer
from ..trainers.lora import adapter, file_formats
from ..trainers.lora.targets import LoraShape
from ..trainers.sampler import PREVIEW_GUIDANCE, sample
from . import judges, learning, text_embeddings, tiny_flux
from .scenes import Scene, caption
from .taesd import Autoencoder
from .train_transformer import SEED, starting_noise
from .training_pictures import HELD_OUT, scene_of

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

Velocity = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
STEPS = 16  # of a sample
TOGETHER = 32  # samples drawn in one batch


@dataclass(frozen=True)
class Findings:
    """What the judges find in samples, `(samples,)` each.

    Attributes:
        impressionist: whether the finish is.
        right: whether the scene is of the composition asked for.
        thumbnails: `(samples, 768)`, for telling how much they differ.
    """

    impressionist: Tensor
    right: Tensor
    thumbnails: Tensor

    @property
    def style(self) -> float:
        """Share of the samples that are impressionist."""
        return self.impressionist.float().mean().item()

    @property
    def content(self) -> float:
        """Share of the samples that show the composition asked for."""
        return self.right.float().mean().item()

    def kept(self, before: Findings) -> float:
        """Of the samples whose composition was right before, the share in which it still is; NaN if none was."""
        return self.right[before.right].float().mean().item()


def held_out_scenes(count: int) -> list[Scene]:
    """Scenes that neither the tiny FLUX nor a LoRA of ours is trained on, the four kinds in turn."""
    return [scene_of(HELD_OUT + index) for index in range(count)]


@cache
def pretrained_autoencoder() -> Autoencoder:
    """Frozen, in float32, for convolutions with channels last."""
    model = Autoencoder()
    model.load_state_dict(tiny_flux.pretrained_autoencoder_weights())
    return model.requires_grad_(False).to(memory_format=torch.channels_last)


class Examination:
    """Samples of some scenes, from the same noise whatever the LoRA, and the judges' findings in them."""

    def __init__(
        self,
        scenes: Sequence[Scene],
        comfyui: str | Path,
        prompt_of: Callable[[Scene], str] = caption,
        seed: int = SEED,
    ) -> None:
        """
        Args:
            comfyui: ComfyUI's folder, for its tokenizers.
            prompt_of: how a scene is asked for.
            seed: of the noise.
        """
        self.scenes, self.seed = list(scenes), seed
        self.told = text_embeddings.embed([prompt_of(scene) for scene in scenes], comfyui)
        self.judges = judges.load(tiny_flux.JUDGES)

    def draw(self, lora: str | Path | None = None) -> np.ndarray:
        """Square samples, uint8 `(scenes, 128, 128, 3)`, of the base or with a LoRA at strength 1."""
        transformer = self.transformer(lora)
        return self.draw_by(partial(predict_velocity, transformer, guidance=PREVIEW_GUIDANCE))

    @torch.no_grad()
    def draw_by(self, velocity: Velocity) -> np.ndarray:
        """The same by any model, which is given scaled latents, sigma `(batch,)`, T5 and pooled embeddings."""
        pixels = []
        for start in range(0, len(self.scenes), TOGETHER):
            t5, pooled = (embeddings[start : start + TOGETHER] for embeddings in self.told)
            noise = starting_noise(len(t5), seed=self.seed + start)

            def predicted(latents: Tensor, sigma: float, t5: Tensor = t5, pooled: Tensor = pooled) -> Tensor:
                return velocity(latents, torch.full((len(t5),), sigma), t5, pooled)

            latents = sample(predicted, noise, STEPS)
            with torch.autocast("cpu", torch.bfloat16):
                pixels.append(learning.as_pixels(pretrained_autoencoder().decode(latents)))
        return np.concatenate(pixels)

    @staticmethod
    def transformer(lora: str | Path | None = None) -> FluxTransformer2DModel:
        """The pretrained transformer in bfloat16, with a LoRA file of any format at strength 1."""
        transformer = load_transformer(tiny_flux.PRETRAINED["transformer"], "bf16")
        if lora is not None:
            state = file_formats.read(lora)
            rank = max(len(value) for key, value in state.items() if key.endswith(file_formats.LORA_A))
            dora = any(key.endswith(file_formats.MAGNITUDE) for key in state)
            adapter.add_lora(transformer, LoraShape(rank, float(rank), "all linear", dora=dora), seed=0)
            adapter.load_existing(transformer, lora)
        return transformer

    def judge(self, pixels: np.ndarray) -> Findings:
        """What is found in samples of this examination's scenes, in their order."""
        asked = [judges.composition_of(scene) for scene in self.scenes]
        found = self.judges["composition"].verdicts(pixels)
        return Findings(
            torch.tensor([verdict == "impressionist" for verdict in self.judges["finish"].verdicts(pixels)]),
            torch.tensor([verdict == label for verdict, label in zip(found, asked, strict=True)]),
            judges.thumbnail(pixels),
        )
