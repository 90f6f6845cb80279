"""Pictures by ComfyUI's own samplers, and as ComfyUI's IMAGE."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.text_encoders.flux
import comfy.utils
import comfy.weight_adapter
import folder_paths
import torch
from PIL.Image import fromarray

from ...errors import ModelError
from ...trainers.flux.latents import latent_shape, unscale_latent
from .execution import raise_if_cancelled
from .models import with_lora

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP, VAE
    from PIL.Image import Image

    from ...rendering.painting import Sampling

PREVIEW_SIDE = 384  # pixels of the longer side of each picture in a preview
ROUGH_ENLARGED = 4  # pixels a place of the latents


def image_batch(pictures: list[Image]) -> torch.Tensor:
    """PIL pictures of one size as a ComfyUI IMAGE: `(batch, height, width, 3)`, float32 in 0…1."""
    import numpy

    return torch.from_numpy(numpy.stack([numpy.asarray(picture.convert("RGB")) for picture in pictures])).float() / 255


def decode_scaled_latents(vae: VAE, path: Path) -> list[Image | None]:
    """The pictures of scaled FLUX latents in a safetensors file, one at a time; None where one is not finite."""
    latents = unscale_latent(comfy.utils.load_torch_file(str(path))["latents"])
    return [picture(vae.decode(latent[None]).float().cpu()[0]) for latent in latents]


def sampler_names() -> list[str]:
    return list(comfy.samplers.SAMPLER_NAMES)


def scheduler_names() -> list[str]:
    return list(comfy.samplers.SCHEDULER_NAMES)


def latents_preview(path: Path, decoder: Path | None = None) -> Image:
    """Small pictures of scaled FLUX latents in a safetensors file, side by side.

    Made on the CPU, because the accelerator's memory is the trainer's.

    Args:
        decoder: weights of a TAESD with 16 channels; None for ComfyUI's latent-to-RGB factors, a pixel for each place.
    """
    import numpy
    from latent_preview import TAESDPreviewerImpl

    latents = comfy.utils.load_torch_file(str(path))["latents"].float()
    if decoder is None:
        pictures = [_rough(latent) for latent in latents]
    else:
        from comfy.taesd.taesd import TAESD

        previewer = TAESDPreviewerImpl(TAESD(None, str(decoder), latent_channels=latents.shape[1]).float())
        with torch.inference_mode():
            pictures = [previewer.decode_latent_to_preview(latent[None]) for latent in latents]
        for picture in pictures:
            picture.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    return fromarray(numpy.concatenate([numpy.asarray(picture) for picture in pictures], axis=1))


def _rough(latent: torch.Tensor) -> Image:
    from latent_preview import Latent2RGBPreviewer

    flux = comfy.latent_formats.Flux()
    picture = Latent2RGBPreviewer(flux.latent_rgb_factors, flux.latent_rgb_factors_bias).decode_latent_to_preview(
        latent[None]
    )
    return picture.resize((picture.width * ROUGH_ENLARGED, picture.height * ROUGH_ENLARGED))


def preview_decoder() -> Path | None:
    """The TAESD decoder for FLUX in `models/vae_approx`, found as by core's own previews; None for none."""
    name = comfy.latent_formats.Flux().taesd_decoder_name
    found = next((file for file in folder_paths.get_filename_list("vae_approx") if file.startswith(name)), None)
    return Path(folder_paths.get_full_path("vae_approx", found)) if found else None


class ComfyPainter:
    """Samples pictures as core's KSampler does at cfg 1.0: one model pass a step, guided by FLUX's own guidance.

    Keeps the encoded prompts and the model with the present LoRA, so that neither is made once a picture.
    """

    def __init__(self, model: ModelPatcher, clip: CLIP, vae: VAE, sampling: Sampling):
        self._base, self._clip, self._vae = model, clip, vae
        self._sampling = sampling
        self._model = model
        self._conditioning: dict[str, list] = {}

    def encode(self, texts: Sequence[str]) -> None:
        for text in texts:
            raise_if_cancelled()
            self._conditioning[text] = self._clip.encode_from_tokens_scheduled(
                self._clip.tokenize(text), add_dict={"guidance": self._sampling.guidance}
            )

    def use(self, adapter: Path | None, strength: float) -> None:
        self._model = with_lora(self._base, adapter, strength) if adapter else self._base

    def paint(self, text: str, seed: int, on_step: Callable[[int], None]) -> Image | None:
        return self.paint_batch(text, [seed], on_step)[0]

    def paint_batch(self, text: str, seeds: Sequence[int], on_step: Callable[[int], None]) -> list[Image | None]:
        """One picture a seed, sampled together; each has the noise that it has alone."""
        sampling = self._sampling
        noise = torch.cat([noise_of(self._model, sampling, seed) for seed in seeds])
        return sampled(self._model, self._vae, self._conditioning[text], sampling, noise, seeds[0], on_step)


def velocity_of(model: ModelPatcher) -> Callable[[torch.Tensor, ...], torch.Tensor]:
    """FLUX on a MODEL socket as the trainer's objective asks it: from scaled latents `(batch, 16, h, w)`, sigma
    `(batch,)`, T5 and pooled embeddings to velocities, at the guidance that training uses.

    Raises:
        ModelError: the model is no FLUX.1.
    """
    if type(model.model) is not comfy.model_base.Flux:
        raise ModelError(f"The model is {type(model.model).__name__}, not FLUX.1. Connect the model of the run.")
    comfy.model_management.load_models_gpu([model])

    def velocity(latents: torch.Tensor, sigma: torch.Tensor, t5: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
        raise_if_cancelled()
        device = model.load_device
        noisy, sigmas = latents.to(device), sigma.to(device)
        guidance = torch.ones_like(sigmas)
        found = model.model.apply_model(
            noisy, sigmas, c_crossattn=t5.to(device), y=pooled.to(device), guidance=guidance
        )
        return ((noisy - found) / sigmas.view(-1, 1, 1, 1)).float()

    return velocity


def noise_of(model: ModelPatcher, sampling: Sampling, seed: int) -> torch.Tensor:
    """The noise that core's KSampler begins with, `(1, channels, height / 8, width / 8)`."""
    channels = model.get_model_object("latent_format").latent_channels
    _, height, width = latent_shape(sampling.width, sampling.height)
    return comfy.sample.prepare_noise(torch.zeros([1, channels, height, width]), seed)


def sampled(
    model: ModelPatcher,
    vae: VAE,
    conditioning: list,
    sampling: Sampling,
    noise: torch.Tensor,
    seed: int,
    on_step: Callable[[int], None],
) -> list[Image | None]:
    """A picture for each noise, sampled together from nothing but it; `seed` is of what a sampler adds on the way."""
    samples = comfy.sample.sample(
        model,
        noise,
        sampling.steps,
        1.0,
        sampling.sampler_name,
        sampling.scheduler,
        conditioning,
        conditioning,  # the negative: not computed at cfg 1.0
        torch.zeros_like(noise),
        callback=lambda step, x0, x, total: on_step(step + 1),
        disable_pbar=True,
        seed=seed,
    )
    return [picture(pixels) for pixels in vae.decode(samples).float().cpu()]


def round_trip(vae: VAE, original: Image) -> Image:
    """A picture encoded and decoded again, which is what a VAE leaves of it; as it was where that is not finite."""
    return picture(vae.decode(vae.encode(image_batch([original])))[0].float().cpu()) or original


def picture(pixels: torch.Tensor) -> Image | None:
    """`(height, width, 3)` in 0…1 as a picture; None where it is not finite."""
    if not torch.isfinite(pixels).all():
        return None
    # Cut, not rounded, as core's SaveImage does it.
    return fromarray((pixels * 255).clamp(0, 255).to(torch.uint8).numpy())
