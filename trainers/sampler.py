"""A small Euler sampler for samples during training, so that the trainer's process needs neither ComfyUI nor a VAE."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from .flux.latents import image_tokens
from .objective import resolution_shift, shifted

if TYPE_CHECKING:
    from torch import Tensor

PREVIEW_GUIDANCE = 3.5  # what FLUX.1-dev is sampled with; training uses 1.0


def schedule(steps: int, image_tokens: int) -> list[float]:
    """`steps` + 1 sigmas from 1 to 0, shifted by resolution (flux/sampling.py `get_schedule`)."""
    return shifted(torch.linspace(1, 0, steps + 1, dtype=torch.float64), resolution_shift(image_tokens)).tolist()


@torch.no_grad()
def sample(velocity: Callable[[Tensor, float], Tensor], noise: Tensor, steps: int) -> Tensor:
    """Integrate dx/dsigma = velocity(x, sigma) from pure noise to the picture with Euler's method.

    Args:
        velocity: the model; takes latents `(batch, 16, h, w)` and one sigma, returns the same shape.
        noise: `(batch, 16, h, w)`, fp32.

    Returns:
        Scaled latents of `noise`'s shape, as the model sees them; `unscale_latent` makes them what goes into a VAE.
    """
    latents = noise
    sigmas = schedule(steps, image_tokens(noise))
    for sigma, following in zip(sigmas, sigmas[1:], strict=False):
        latents = latents + (following - sigma) * velocity(latents, sigma)
    return latents
