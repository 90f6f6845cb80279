"""ComfyUI's CLIP, VAE and CLIP_VISION sockets as the encoders that the pure packages ask for."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import comfy.clip_model
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

_FAMILIES = {  # by ComfyUI's model_type
    "clip_vision_model": "CLIP vision",
    "siglip_vision_model": "SigLIP",
    "siglip2_vision_model": "SigLIP 2",
    "dinov2": "DINOv2",
    "dinov3": "DINOv3",
}
_CLIP_TEXT = ("l", "h", "g")  # ComfyUI's names of CLIP's text encoders
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
        embeds = _image_embeds(clip_vision, image_batch(list(pictures))).float().cpu()
        # ComfyUI gives one embedding a patch for SigLIP, whose own pooling it leaves out.
        return (embeds.mean(dim=1) if embeds.ndim == 3 else embeds).numpy()

    name = _FAMILIES.get(clip_vision.model_type, "CLIP vision")
    return PictureEncoder(model_identity(clip_vision.patcher), _side(clip_vision), encode, name)


def _side(clip_vision: ClipVisionModel) -> int:
    """Pixels of the squares that it takes: SigLIP 2 of any shape says -1, and how many patches it has."""
    if clip_vision.image_size > 0:
        return clip_vision.image_size
    config = clip_vision.config
    return config.get("patch_size", 16) * round(config.get("num_patches", 256) ** 0.5)


def _image_embeds(clip_vision: ClipVisionModel, pixels: torch.Tensor) -> torch.Tensor:
    """`(pictures, width)`, or `(pictures, patches, width)` where the network is not pooled."""
    if clip_vision.model_type == "dinov3":  # core's encode_image asks it for hidden states that it does not give
        comfy.model_management.load_model_gpu(clip_vision.patcher)
        looks = {"size": clip_vision.image_size, "mean": clip_vision.image_mean, "std": clip_vision.image_std}
        seen = comfy.clip_model.clip_preprocess(pixels.to(clip_vision.load_device), **looks).float()
        return clip_vision.model(pixel_values=seen)[2]
    given = clip_vision.encode_image(pixels)
    embeds = given["image_embeds"]
    return given["last_hidden_state"] if embeds is None else embeds


def prompt_encoder(clip: CLIP, clip_vision: ClipVisionModel) -> Callable[[Sequence[str]], numpy.ndarray]:
    """Prompts to the space of the image embeddings on a CLIP_VISION socket, by the CLIP of the same family.

    CLIP's own projection of its text encoder's pooled output, which FLUX and Stable Diffusion 1.5 do without; of a
    prompt of more than 75 tokens, the first 75.

    Raises:
        ModelError: the two have no space in common, as far as their shapes tell, or the CLIP carries hooks.
    """
    refuse_attachments(clip.patcher, "CLIP")
    width = _projected_width(clip_vision)
    encoders = {name: getattr(clip.cond_stage_model, f"clip_{name}", None) for name in _CLIP_TEXT}
    widths = {
        name: encoder.transformer.text_projection.out_features
        for name, encoder in encoders.items()
        if hasattr(getattr(encoder, "transformer", None), "text_projection")
    }
    if not widths:
        raise ModelError(
            f"clip_text has no text encoder of CLIP's ({type(clip.cond_stage_model).__name__}), so that prompts cannot "
            "be compared with pictures. Load with Load CLIP the text encoder that belongs to clip_vision."
        )
    name = next((name for name, given in widths.items() if given == width), None)
    if name is None:
        given = " and ".join(f"{number:,} (CLIP {name.upper()})" for name, number in widths.items())
        raise ModelError(
            f"clip_text and clip_vision are not of one CLIP: {width:,} numbers of a picture, and {given} of a text. "
            "CLIP ViT-L/14 has 768 in both, ViT-H/14 1,024, ViT-bigG/14 1,280: load both from one model."
        )
    encoder = encoders[name]
    projection = encoder.transformer.text_projection.weight
    if projection is None or not torch.isfinite(projection.float()).all() or not projection.any():
        raise ModelError(
            "The file of clip_text holds no text projection, without which its prompts lie in no picture's space; the "
            "usual clip_l.safetensors for FLUX is such a one. Load the whole CLIP, as model.safetensors of "
            "openai/clip-vit-large-patch14, with Load CLIP."
        )

    def encode(texts: Sequence[str]) -> numpy.ndarray:
        rows = []
        for text in texts:
            raise_if_cancelled()
            tokens = clip.tokenize(text)
            clip.load_model(tokens)
            encoder.reset_clip_options()
            encoder.set_clip_options({"projected_pooled": True, "execution_device": clip.patcher.load_device})
            try:
                with comfy.model_management.cuda_device_context(clip.patcher.load_device):
                    rows.append(encoder.encode_token_weights(tokens[name])[1][0].float().cpu())
            finally:
                encoder.reset_clip_options()
        return torch.stack(rows).numpy()

    return encode


def _projected_width(clip_vision: ClipVisionModel) -> int:
    projection = getattr(clip_vision.model, "visual_projection", None)
    if clip_vision.model_type != "clip_vision_model" or not hasattr(projection, "out_features"):
        family = _FAMILIES.get(clip_vision.model_type, clip_vision.model_type)
        raise ModelError(
            f"clip_vision holds {family}, whose pictures share no space with a text encoder that ComfyUI loads. For "
            "prompts connect CLIP's own image encoder, or leave clip_text unconnected."
        )
    return projection.out_features
