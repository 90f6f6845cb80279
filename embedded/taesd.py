"""TAESD's architecture with 16 latent channels, trainable: names and shapes as in ComfyUI's `comfy.taesd.taesd`.

ComfyUI's own modules are not used for training: their operations leave weights uninitialised, and this package does not
know ComfyUI. Architecture: Ollin Boer Bohan, github.com/madebyollin/taesd (MIT).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .autoencoder_weights import FLUX_LATENT_SCALE, FLUX_LATENT_SHIFT, LANES, LATENT_CHANNELS, autoencoder_weights

LATENT_LIMIT = 3.0  # the decoder takes 3 tanh(x / 3) of scaled latents
_BRANCH_GAIN = 0.2  # of the last convolution of a block at the start, so that the branches add up gently


def _convolution(lanes_in: int, lanes_out: int, **settings) -> nn.Conv2d:
    layer = nn.Conv2d(lanes_in, lanes_out, 3, padding=1, **settings)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class _Clamp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / LATENT_LIMIT) * LATENT_LIMIT


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            _convolution(LANES, LANES), nn.ReLU(), _convolution(LANES, LANES), nn.ReLU(), _convolution(LANES, LANES)
        )
        with torch.no_grad():
            self.conv[4].weight.mul_(_BRANCH_GAIN)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x) + x)


def _encoder() -> nn.Sequential:
    layers: list[nn.Module] = [_convolution(3, LANES), _Block()]
    for _ in range(3):
        layers += [_convolution(LANES, LANES, stride=2, bias=False), _Block(), _Block(), _Block()]
    return nn.Sequential(*layers, _convolution(LANES, LATENT_CHANNELS))


def _decoder() -> nn.Sequential:
    layers: list[nn.Module] = [_Clamp(), _convolution(LATENT_CHANNELS, LANES), nn.ReLU()]
    for _ in range(3):
        layers += [_Block(), _Block(), _Block(), nn.Upsample(scale_factor=2), _convolution(LANES, LANES, bias=False)]
    return nn.Sequential(*layers, _Block(), _convolution(LANES, 3))


class Autoencoder(nn.Module):
    """Pictures `(batch, 3, height, width)` in 0…1 to scaled latents `(batch, 16, height/8, width/8)` and back.

    `state_dict()` has ComfyUI's keys, FLUX's latent scale and shift among them: there raw latents are these unscaled.
    """

    def __init__(self) -> None:
        super().__init__()
        self.taesd_encoder = _encoder()
        self.taesd_decoder = _decoder()
        self.register_buffer("vae_scale", torch.tensor(FLUX_LATENT_SCALE))
        self.register_buffer("vae_shift", torch.tensor(FLUX_LATENT_SHIFT))

    def encode(self, pictures: Tensor) -> Tensor:
        return self.taesd_encoder(pictures)

    def decode(self, latents: Tensor) -> Tensor:
        """Not clamped to 0…1, so that a gradient remains where it is beyond."""
        return self.taesd_decoder(latents)


def worked_out() -> Autoencoder:
    """The autoencoder whose weights are worked out, see `autoencoder_weights`."""
    model = Autoencoder()
    model.load_state_dict(autoencoder_weights())
    return model.requires_grad_(False)
