"""FLUX's latents: their shape, the tokens they become, and the scale that the transformer sees them in."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

LATENT_CHANNELS = 16
PIXELS_PER_LATENT = 8  # the autoencoder's downscaling of each side
PATCH = 2  # latent pixels per side of a token; BFL flux/sampling.py `prepare`
PIXELS_PER_TOKEN = PIXELS_PER_LATENT * PATCH  # of each side: pictures' sides are multiples of it
FLUX_LATENT_SHIFT = 0.1159  # black-forest-labs/flux util.py, ae_params.shift_factor
FLUX_LATENT_SCALE = 0.3611  # black-forest-labs/flux util.py, ae_params.scale_factor


def latent_shape(width: int, height: int) -> tuple[int, int, int]:
    """Of the latent of a picture of `width` x `height` pixels."""
    return LATENT_CHANNELS, height // PIXELS_PER_LATENT, width // PIXELS_PER_LATENT


def image_tokens(latents: Tensor) -> int:
    """Tokens of one picture of `latents`, `(…, height/8, width/8)`."""
    return latents.shape[-1] * latents.shape[-2] // PATCH**2


def scale_latent(raw: Tensor) -> Tensor:
    """The autoencoder's raw latent as the transformer sees it. The only place where this is done."""
    return (raw - FLUX_LATENT_SHIFT) * FLUX_LATENT_SCALE


def unscale_latent(scaled: Tensor) -> Tensor:
    """The inverse of `scale_latent`."""
    return scaled / FLUX_LATENT_SCALE + FLUX_LATENT_SHIFT
