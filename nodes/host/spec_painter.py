"""Pictures that differ in anything, by ComfyUI's own samplers: the base is loaded once, and patched in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import node_helpers

from ...rendering.noise import slerp
from .execution import raise_if_cancelled
from .models import with_lora
from .sampling import noise_of, sampled

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP, VAE
    from PIL.Image import Image

    from ...rendering.picture_specs import PictureSpec


class ComfySpecPainter:
    """A `rendering.picture_specs.SpecPainter`: what core's KSampler, FluxGuidance and LoRA loader give at cfg 1.0.

    Keeps the encoded prompts, and the model with the present LoRA.
    """

    def __init__(self, model: ModelPatcher, clip: CLIP, vae: VAE) -> None:
        self._base, self._clip, self._vae = model, clip, vae
        self._model = model
        self._conditioning: dict[str, list] = {}

    def encode(self, texts: Sequence[str]) -> None:
        for text in texts:
            raise_if_cancelled()
            self._conditioning[text] = self._clip.encode_from_tokens_scheduled(self._clip.tokenize(text))

    def use(self, adapter: Path | None, strength: float) -> None:
        self._model = with_lora(self._base, adapter, strength) if adapter else self._base

    def paint(self, spec: PictureSpec, on_step: Callable[[int], None]) -> Image | None:
        guidance = {"guidance": spec.sampling.guidance}
        conditioning = node_helpers.conditioning_set_values(self._conditioning[spec.text], guidance)
        noise = noise_of(self._model, spec.sampling, spec.seed)
        if spec.toward is not None:
            noise = slerp(noise, noise_of(self._model, spec.sampling, spec.toward), spec.share)
        return sampled(self._model, self._vae, conditioning, spec.sampling, noise, spec.seed, on_step)[0]
