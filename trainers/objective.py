"""Flow matching as FLUX.1 was trained: sigma, noisy latents, the velocity target and its loss.

sigma is 1 at pure noise and 0 at the picture; it stays in fp32 everywhere (bf16 has steps of 1/256 near 1).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from .settings import Settings

# Black Forest Labs, flux/sampling.py `get_schedule`: mu is linear in the number of image tokens.
SHIFT_AT_TOKENS = ((256, 0.5), (4096, 1.15))
HELD_OUT_SIGMAS = (0.25, 0.5, 0.75, 1.0)  # ai-toolkit's validation timesteps


def derived_seed(seed: int, *purpose: int | str) -> int:
    """A 63-bit seed that depends on the run's seed and on what it is for, so that any step can be drawn on its own.

    Resuming then needs no random state: step 731's noise is the same whether or not steps 1 to 730 ran before it.
    """
    text = ":".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: int | str) -> torch.Generator:
    """A CPU generator for `derived_seed`; drawn on the CPU so that every device sees the same numbers."""
    return torch.Generator().manual_seed(derived_seed(seed, *purpose))


def resolution_shift(image_tokens: int) -> float:
    """FLUX's mu for a picture of `image_tokens` = height / 16 x width / 16 tokens: 0.5 at 256 px, 1.15 at 1024 px."""
    (low, mu_low), (high, mu_high) = SHIFT_AT_TOKENS
    return mu_low + (image_tokens - low) * (mu_high - mu_low) / (high - low)


def shifted(sigma: Tensor, mu: float) -> Tensor:
    """FLUX's time shift, sigma' = e^mu / (e^mu + 1/sigma - 1) (flux/sampling.py `time_shift`); 0 and 1 stay."""
    return math.exp(mu) * sigma / (1 + (math.exp(mu) - 1) * sigma)


def sample_sigmas(count: int, settings: Settings, image_tokens: int, random: torch.Generator) -> Tensor:
    """Draw `count` sigmas, fp32, in 0…1, shape `(count,)`, as `settings.timestep_sampling` says.

    "uniform"; "mode" (Esser et al. 2024, arXiv:2403.03206, section 3.1, with `mode_scale`); "sigmoid", the logistic of
    a normal with `timestep_mean` and `timestep_scale` (the same paper's logit-normal); "shift", that shifted by
    `timestep_shift` as by sd-scripts' discrete_flow_shift; "flux_shift", that shifted by resolution as FLUX's sampler.

    Args:
        image_tokens: of one picture of the batch; only "flux_shift" uses it.
    """
    from diffusers.training_utils import compute_density_for_timestep_sampling

    sampling = settings.timestep_sampling
    scheme = {"uniform": "none", "mode": "mode"}.get(sampling, "logit_normal")
    sigma = compute_density_for_timestep_sampling(
        scheme,
        count,
        logit_mean=settings.timestep_mean,
        logit_std=settings.timestep_scale,
        mode_scale=settings.mode_scale,
        generator=random,
    )
    if sampling == "shift":
        return shifted(sigma, math.log(settings.timestep_shift))
    return shifted(sigma, resolution_shift(image_tokens)) if sampling == "flux_shift" else sigma


def noisy_latents(latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """x_sigma = (1 - sigma) x + sigma noise. `latents` and `noise` are `(batch, 16, h, w)`, `sigma` is `(batch,)`."""
    sigma = sigma.view(-1, 1, 1, 1)
    return (1 - sigma) * latents + sigma * noise


def velocity_loss(
    velocity: Tensor, latents: Tensor, noise: Tensor, weights: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """Mean squared error against the velocity target, noise - latents, in fp32; a scalar.

    Args:
        weights: `(batch,)`, of each picture's error.
        mask: `(batch, 1, h, w)` in 0…1, of each place's error; the mean is over all places (as in sd-scripts).
    """
    return weighted_mean(velocity_errors(velocity, latents, noise, mask), weights)


def velocity_errors(velocity: Tensor, latents: Tensor, noise: Tensor, mask: Tensor | None = None) -> Tensor:
    """Each picture's mean squared error in velocity, unweighted, fp32, `(batch,)`; as `velocity_loss`."""
    error = (velocity.float() - (noise - latents)).square()
    if mask is not None:
        error = error * mask
    return error.mean(dim=(1, 2, 3))


def weighted_mean(errors: Tensor, weights: Tensor | None) -> Tensor:
    """The loss of a batch from its pictures' errors and their weights, `(batch,)` each; None: all alike."""
    return (errors if weights is None else errors * weights).mean()


def loss_weights(sigma: Tensor, weighting: str) -> Tensor | None:
    """Weight of the loss by sigma, `(batch,)`; None for "none".

    "sigma_sqrt" is 1 / sigma², held at sigma = 0.01 where it would leave all others without effect; "cosmap" is
    2 / (pi (1 - 2 sigma + 2 sigma²)). Both are of Esser et al. 2024, section 3.1.
    """
    from diffusers.training_utils import compute_loss_weighting_for_sd3

    return None if weighting == "none" else compute_loss_weighting_for_sd3(weighting, sigma.clamp(min=0.01))


def histogram(sigmas: Sequence[float]) -> list[int]:
    """How many of `sigmas` lie in each tenth of 0…1."""
    return torch.histc(torch.tensor(sigmas), 10, 0, 1).int().tolist()
