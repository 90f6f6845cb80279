"""What a model is, by its content: the same after a restart, so that results are found again on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
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
from .attached_code import CHANGING, attached, filled, is_plain, name_of
from .stored_weights import as_stored, ggml_options, is_ggml, stored_weights

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP, VAE


FINGERPRINT_VALUES = 256  # of each weight; a fine-tune changes nearly all values
# Of each quantised weight of ComfyUI-GGUF, bytes: of its values, most of which a fine-tune leaves as they are, and of
# scales, which it does not. The step is odd, so that all places within a block (18 to 256 bytes, all even) are met.
FINGERPRINT_BYTES = 4096


def model_identity(patcher: ModelPatcher) -> str:
    """A hash of the weights behind `patcher` and the patches on them: the same after a restart, and nothing is loaded.

    Of every weight the name, shape, dtype and about 256 evenly spaced values are taken, so that T5-XXL costs well under
    a second.
    """
    digest, quantised = hashlib.sha256(), False
    for name, weight in stored_weights(patcher):
        quantised = quantised or is_ggml(weight)
        digest_of([name, weight, patcher.patches.get(name, [])], digest)
    if quantised and (options := ggml_options(patcher.model)):
        digest_of(options, digest)
    return digest.hexdigest()[:32]


def digest_of(value: Any, digest: hashlib._Hash, whole: bool = False) -> None:
    """Hash a value and all that it holds.

    Args:
        whole: hash every value of a tensor, and not only as many as tell weights apart.
    """
    if isinstance(value, torch.Tensor):
        _digest_of_tensor(value, digest, whole)
    elif isinstance(value, (list, tuple)):
        digest.update(f"[{len(value)}".encode())
        for part in value:
            digest_of(part, digest, whole)
    elif isinstance(value, comfy.weight_adapter.WeightAdapterBase):
        digest.update(value.name.encode())
        digest_of(value.weights, digest, whole)
    elif isinstance(value, comfy.model_patcher.ModelPatcher):
        digest_of([model_identity(value), value.model_options, attached(value)], digest, whole)
    elif is_plain(value):
        digest.update(repr(value).encode())
    elif isinstance(value, Mapping):
        digest.update(f"{{{len(value)}".encode())
        for pair in value.items():
            digest_of(pair, digest, whole)
    else:
        digest.update(name_of(value).encode())


def _digest_of_tensor(value: torch.Tensor, digest: hashlib._Hash, whole: bool) -> None:
    stored = as_stored(value)
    step = 1 if whole else max(1, stored.numel() // FINGERPRINT_VALUES)
    digest.update(f"{tuple(stored.shape)} {stored.dtype}".encode())
    if is_ggml(value):
        digest.update(f"{value.tensor_type!r} {tuple(value.tensor_shape)}".encode())
        step = max(1, stored.numel() // FINGERPRINT_BYTES) | 1
    sample = stored.reshape(-1)[::step].cpu().contiguous()
    digest.update(sample.view(torch.uint8).numpy().tobytes())


def refuse_attachments(patcher: ModelPatcher, socket: str, changing: tuple[str, ...] = CHANGING) -> None:
    """What changes a model's results by running code has no content to recognise it by after a restart.

    Raises:
        ModelError: `patcher` has some of it.
    """
    for what in changing:
        if filled({what: _code(getattr(patcher, what, None))}):
            raise ModelError(
                f"The {socket} carries {what.replace('_', ' ')} from another node (hooks, a bypass LoRA), which "
                "cannot be recognised again later. Connect it without that node; Load LoRA can be used."
            )


def sampling_identity(model: ModelPatcher, clip: CLIP, vae: VAE) -> str:
    """A hash of all that decides a sampled picture but its own settings: weights, patches, noise schedule, options.

    Code attached to the models (hooks, attention patches) is told apart; where it is more than a function of a module,
    only as long as this server runs.
    """
    digest = hashlib.sha256()
    digest_of([model_identity(patcher) for patcher in (model, clip.patcher, vae.patcher)], digest)
    digest_of(model.get_model_object("model_sampling").sigmas, digest)
    beside = [model.model_options, sorted(model.object_patches), model.injections, model.forced_hooks]
    digest_of([*beside, model.weight_wrapper_patches, clip.layer_idx, clip.tokenizer_options], digest, whole=True)
    if more := filled(_beside_weights(model, clip, vae)):  # of an ordinary model there is nothing more to tell
        digest_of(more, digest, whole=True)
    return digest.hexdigest()[:32]


def _beside_weights(model: ModelPatcher, clip: CLIP, vae: VAE) -> dict[str, Any]:
    """What else decides a picture and is not in the weights."""
    schedule = _schedule(model.get_model_object("model_sampling"))
    own = _schedule(model.object_patches_backup.get("model_sampling", model.model.model_sampling))
    replaced = {name: value for name, value in model.object_patches.items() if name != "model_sampling"}
    return {
        "model": attached(model) | {"object_patches": replaced},
        "schedule": schedule if schedule != own else [],
        "optimizations": [name for name, on in model.model.model_config.optimizations.items() if on],
        "clip": _attached_to_encoder(clip.patcher),
        "hooks": clip.apply_hooks_to_conds,
        "vae": _attached_to_encoder(vae.patcher),
    }


def _attached_to_encoder(patcher: ModelPatcher) -> dict[str, Any]:
    return attached(patcher) | {
        "model_options": patcher.model_options,
        "object_patches": _code(patcher.object_patches),
    }


def _code(value: Any) -> Any:
    """What of a mapping is no plain data. Core itself replaces the dtype that a CLIP computes in."""
    return {name: part for name, part in value.items() if not is_plain(part)} if isinstance(value, Mapping) else value


def _schedule(sampling: Any) -> list[Any]:
    """What a noise schedule's object makes of a sigma: the classes that its own is made of, and its settings.

    Not the shift, which is in the sigmas.
    """
    settings = {name: value for name, value in vars(sampling).items() if is_plain(value) and name[0] != "_"}
    return [[kind.__qualname__ for kind in type(sampling).__mro__[1:]], sorted((settings | {"shift": None}).items())]
