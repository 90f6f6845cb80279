"""ComfyUI's CLIP, VAE and CLIP_VISION sockets as the encoders that the pure packages ask for."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

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

from ...curation.style_similarity import PictureEncoder
from ...errors import ModelError
from ...trainers.features.encoding import Encoder
from ...trainers.flux.latents import LATENT_CHANNELS
from .execution import raise_if_cancelled
from .identity import model_identity, refuse_attachments
from .sampling import image_batch

_EMBEDDING = re.compile(r"(?<!\S)embedding:")

if TYPE_CHECKING:
    import numpy
    from comfy.clip_vision import ClipVisionModel
    from comfy.sd import CLIP, VAE
    from PIL.Image import Image


def text_encoder(clip: CLIP) -> Encoder:
    """FLUX's text encoders on a CLIP socket, giving what CLIPTextEncode gives: T5 unmasked, padded by ComfyUI.

    Raises:
        ModelError: the CLIP is another model's, or carries hooks.
    """
    tokenizers = set(clip.tokenize(""))
    if tokenizers != {"l", "t5xxl"}:
        raise ModelError(
            f"The CLIP has the text encoders {', '.join(sorted(tokenizers))}, but FLUX has l and t5xxl. "
            "Load both with DualCLIPLoader, type flux."
        )

    refuse_attachments(clip.patcher, "CLIP")

    def encode(text: str) -> tuple[torch.Tensor, torch.Tensor]:
        hidden_states, pooled = clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)
        return hidden_states[0], pooled[0]

    options = f"{clip.layer_idx} {sorted(clip.tokenizer_options.items())}"
    return Encoder(f"{model_identity(clip.patcher)} {options}", encode)


def literal(text: str) -> str:
    """The prompt of which ComfyUI's tokenizers read nothing but `text`: no weights and no embeddings' names.

    In `(1906)`, `(John 3:16)` and `embedding:name` they would else see a weight of 1.1, one of 16, and a file. Text
    without brackets and that word is its own prompt (comfy.sd1_clip, token_weights and tokenize_with_weights).
    """
    escaped = re.sub(r"[()]", r"\\\g<0>", text)
    # The word alone, with a weight of 1, is no embedding's name, and the rest does not begin with one.
    return _EMBEDDING.sub("(embedding:1.0):", escaped)


def token_counters(
    clip: CLIP | None, check: Callable[[], object] = raise_if_cancelled
) -> tuple[Callable[[str], int], Callable[[str], int]]:
    """Count the tokens of a text for CLIP-L and for T5, without start, end and padding.

    By the tokenizers of a FLUX CLIP, or without one by those that ComfyUI ships: FLUX's are the same.

    Args:
        check: called before each text; ends this by raising.

    Raises:
        ModelError: the CLIP is another model's.
    """
    tokenizer = clip.tokenizer if clip else _flux_tokenizer()
    if not (hasattr(tokenizer, "clip_l") and hasattr(tokenizer, "t5xxl")):
        raise ModelError(
            f"The CLIP has the tokenizer {type(tokenizer).__name__}, which is not FLUX.1's. Load it with "
            "DualCLIPLoader, type flux, or leave 'clip' unconnected."
        )
    return _counter(tokenizer.clip_l, check), _counter(tokenizer.t5xxl, check)


def _counter(tokenizer: Any, check: Callable[[], object]) -> Callable[[str], int]:
    def count(text: str) -> int:
        check()  # a long prompt is counted some twenty times before it fits
        # ComfyUI numbers words from 1; start, end and padding have 0.
        chunks = tokenizer.tokenize_with_weights(text, return_word_ids=True)
        return sum(word > 0 for chunk in chunks for _, _, word in chunk)

    return count


@functools.cache
def _flux_tokenizer() -> Any:
    return comfy.text_encoders.flux.FluxTokenizer(folder_paths.get_folder_paths("embeddings"))


def autoencoder(vae: VAE) -> Encoder:
    """FLUX's autoencoder on a VAE socket, giving raw latents (not yet scaled).

    Raises:
        ModelError: the VAE is another model's, or carries hooks.
    """
    vae.throw_exception_if_invalid()
    if (vae.latent_channels, vae.latent_dim) != (LATENT_CHANNELS, 2):
        raise ModelError(
            f"The VAE has {vae.latent_channels} latent channels in {vae.latent_dim} dimensions, but FLUX.1's has "
            f"{LATENT_CHANNELS} in 2. Load FLUX's autoencoder (ae.safetensors) with Load VAE."
        )
    refuse_attachments(vae.patcher, "VAE")
    return Encoder(model_identity(vae.patcher), lambda pixels: vae.encode(pixels[None])[0])


def picture_encoder(clip_vision: ClipVisionModel) -> PictureEncoder:
    """The image encoder on a CLIP_VISION socket, giving the image embeddings of core's CLIP Vision Encode.

    Raises:
        ModelError: it carries hooks.
    """
    refuse_attachments(clip_vision.patcher, "CLIP_VISION")

    def encode(pictures: Sequence[Image]) -> numpy.ndarray:
        embeds = clip_vision.encode_image(image_batch(list(pictures)))["image_embeds"].float().cpu()
        # ComfyUI gives one embedding a patch for SigLIP, whose own pooling it leaves out.
        return (embeds.mean(dim=1) if embeds.ndim == 3 else embeds).numpy()

    return PictureEncoder(model_identity(clip_vision.patcher), clip_vision.image_size, encode)
