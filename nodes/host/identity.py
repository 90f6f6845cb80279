"""What a model is, by its content: the same after a restart, so that results are found again on disk."""

from __future__ import annotations

import hashlib
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
import torch

from ...errors import ModelError

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP, VAE


FINGERPRINT_VALUES = 256  # of each weight; a fine-tune changes nearly all values


def model_identity(patcher: ModelPatcher) -> str:
    """A hash of the weights behind `patcher` and the patches on them: the same after a restart, and nothing is loaded.

    Of every weight the name, shape, dtype and about 256 evenly spaced values are taken, so that T5-XXL costs well under
    a second.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(patcher.model.state_dict().items()):
        # Where a patch has been worked into the weight, the weight before it is in the backup.
        original = patcher.backup[name].weight if name in patcher.backup else weight
        digest_of([name, original, patcher.patches.get(name, [])], digest)
    return digest.hexdigest()[:32]


def digest_of(value: Any, digest: hashlib._Hash) -> None:
    if isinstance(value, torch.Tensor):
        stored = getattr(value, "_qdata", value).detach()  # of a quantised weight, without dequantising it
        flat = stored.reshape(-1)
        sample = flat[:: max(1, flat.numel() // FINGERPRINT_VALUES)].cpu().contiguous()
        digest.update(f"{tuple(stored.shape)} {stored.dtype}".encode())
        digest.update(sample.view(torch.uint8).numpy().tobytes())
    elif isinstance(value, (list, tuple)):
        digest.update(f"[{len(value)}".encode())
        for part in value:
            digest_of(part, digest)
    elif isinstance(value, comfy.weight_adapter.WeightAdapterBase):
        digest.update(value.name.encode())
        digest_of(value.weights, digest)
    else:
        digest.update(repr(value).encode())


def refuse_attachments(patcher: ModelPatcher, socket: str) -> None:
    """What changes a model's results by running code has no content to recognise it by after a restart."""
    for what in ("injections", "forced_hooks", "weight_wrapper_patches"):
        if getattr(patcher, what):
            raise ModelError(
                f"The {socket} carries {what.replace('_', ' ')} from another node (hooks, a bypass LoRA), which "
                "cannot be recognised again later. Connect it without that node; Load LoRA can be used."
            )


def sampling_identity(model: ModelPatcher, clip: CLIP, vae: VAE) -> str:
    """A hash of all that decides a sampled picture but its own settings: weights, patches, noise schedule, options.

    Code attached to the model (hooks, attention patches) is told apart only while this server runs.
    """
    digest = hashlib.sha256()
    digest_of([model_identity(patcher) for patcher in (model, clip.patcher, vae.patcher)], digest)
    digest_of(model.get_model_object("model_sampling").sigmas, digest)
    attached = [model.model_options, sorted(model.object_patches), model.injections, model.forced_hooks]
    digest_of([*attached, model.weight_wrapper_patches, clip.layer_idx, clip.tokenizer_options], digest)
    return digest.hexdigest()[:32]
