"""Models from files, and the files behind models."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.lora
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

from ... import checksums
from ...errors import ModelError
from ...files import appearing, remove_partials
from ...trainers.flux import detection
from ...trainers.flux.weights_file import file_size, write_tensors
from .execution import progress
from .folders import pack_models_root
from .identity import model_identity, refuse_attachments
from .stored_weights import as_stored, dequantised, is_ggml, is_quantised_ggml, stored_weights

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP, VAE


def flux_weights_file(model: ModelPatcher) -> Path:
    """The file that training reads the model on a MODEL socket from: the one behind it, or one that is written first.

    Written out is a model without a file or with patches on it (a LoRA), one whose file has another layout than the
    trainer reads (diffusers' names, another prefix, keys beside the model's, a pickle), and one of ComfyUI-GGUF, whose
    weights are dequantised one at a time.

    Raises:
        ModelError: the model is not FLUX.1, is quantised in a way that cannot be trained on, or carries code.
    """
    if type(model.model) is not comfy.model_base.Flux:
        raise ModelError(
            f"The model is {type(model.model).__name__}, not FLUX.1. Load a FLUX.1 model (dev, schnell, Krea or "
            "Kontext) with Load Diffusion Model and connect it."
        )
    refuse_attachments(model, "MODEL", ("injections", "forced_hooks", "hook_patches", "weight_wrapper_patches"))
    file = _file_behind(model)
    refusal = _refusal_of(file) if file else None
    if file and not refusal and not model.patches:
        return file
    _check_held(model, refusal)
    return _written_out(model)


def _file_behind(model: ModelPatcher) -> Path | None:
    loader, arguments = (model.cached_patcher_init or (None, ()))[:2]
    known = loader in (comfy.sd.load_diffusion_model, comfy.sd.load_checkpoint_guess_config)
    return Path(arguments[0]) if known else None


def _refusal_of(file: Path) -> ModelError | None:
    """Why the trainer does not read the file as it is; None where it does."""
    try:
        detection.inspect(file)
    except ModelError as error:
        return error
    return None


def _check_held(model: ModelPatcher, refusal: ModelError | None) -> None:
    """Refuse to write out, which takes minutes and 24 GB, what could not be trained on then.

    Args:
        refusal: of the file that the model is from; raised where the model is no other in memory.
    """
    weights = dict(model.model.diffusion_model.named_parameters())
    try:
        detection.check_shapes("The model", {name: tuple(weight.shape) for name, weight in weights.items()})
    except ModelError as error:
        raise refusal or error from None
    for name, weight in weights.items():
        packed = hasattr(weight, "_qdata") and refusal  # by ComfyUI, in a format that the refusal names
        if packed or not (is_ggml(weight) or weight.dtype.is_floating_point):
            raise refusal or ModelError(
                f"The model holds '{name}' as {weight.dtype}, quantised by the node that loaded it. Load the bf16, "
                "fp16 or fp8 file of the same model with Load Diffusion Model, or a GGUF one with ComfyUI-GGUF."
            )


def _written_out(model: ModelPatcher) -> Path:
    target = pack_models_root() / "baked" / f"{model_identity(model)}.safetensors"
    remove_partials(target.parent)  # each of the size of the model
    if not target.exists():
        if any(map(is_ggml, model.model.parameters())):
            _write_dequantised(model, target)
        else:
            with appearing(target, model.model_size()) as temporary:
                comfy.sd.save_checkpoint(str(temporary), model)
    return target


def _write_dequantised(model: ModelPatcher, target: Path) -> None:
    """Write a model of ComfyUI-GGUF, patches worked in: what is quantised as bf16, the rest as it is stored."""
    weights = {name: weight for name, weight in stored_weights(model) if name.startswith("diffusion_model.")}
    layout = {
        name: (torch.bfloat16 if is_quantised_ggml(weight) else as_stored(weight).dtype, tuple(weight.shape))
        for name, weight in weights.items()
    }
    report = progress()

    def values() -> Iterator[torch.Tensor]:
        for done, (name, weight) in enumerate(weights.items()):
            report(done, len(weights), "Dequantising the GGUF model")
            yield _patched(weight, name, model.patches.get(name))

    size = file_size(layout)
    with appearing(target, size) as temporary:
        write_tensors(temporary, layout, values())


def _patched(weight: torch.Tensor, name: str, patches: list | None) -> torch.Tensor:
    """A weight of ComfyUI-GGUF with its patches worked in, float32 on the CPU."""
    value = dequantised(weight, name) if is_quantised_ggml(weight) else as_stored(weight).cpu().float()
    return comfy.lora.calculate_weight(patches, value.clone(), name) if patches else value


def load_diffusion_model(path: Path) -> ModelPatcher:
    """A MODEL from one file, as core's UNETLoader gives it; it remembers the file it came from."""
    return comfy.sd.load_diffusion_model(str(path))


def load_flux_clip(
    clip_l: Path,
    t5: Path,
    clip_config: dict[str, Any],
    t5_config: dict[str, Any],
    least_t5_tokens: int | None = None,
) -> CLIP:
    """A CLIP of ComfyUI's own FLUX class from a CLIP-L and a T5 file whose sizes differ from the real ones.

    In float32 on every device, so that a prompt has the same embedding everywhere.

    Args:
        least_t5_tokens: to which T5 prompts are padded; as FLUX's, to 256, if not given.
    """
    # "model_config" is the CLIP-L's: comfy/text_encoders/long_clipl.py adds the token count and hands it on.
    options = {"model_config": dict(clip_config), "t5xxl_model_config": dict(t5_config), "dtype": torch.float32}
    clip = comfy.sd.load_clip(
        [str(clip_l), str(t5)], folder_paths.get_folder_paths("embeddings"), comfy.sd.CLIPType.FLUX, options
    )
    if least_t5_tokens is not None:
        clip.set_tokenizer_option("t5xxl_min_length", least_t5_tokens)
    return clip


def load_vae(path: Path) -> VAE:
    """A VAE from one file, in float32 on every device; it remembers the file it came from."""
    weights, metadata = comfy.utils.load_torch_file(str(path), return_metadata=True)
    vae = comfy.sd.VAE(sd=weights, metadata=metadata, dtype=torch.float32)
    vae.throw_exception_if_invalid()
    vae.patcher.cached_patcher_init = (comfy.sd.load_vae_patcher, (str(path), metadata, None))
    return vae


def load_lora(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a LoRA file.

    Raises:
        ModelError: it is gone, or not as it was written.
    """
    try:
        damage = checksums.damage_of(path)
    except FileNotFoundError:
        raise ModelError(f"The LoRA {path} is not there any more. Put it back, or choose another.") from None
    if damage:
        raise ModelError(f"The LoRA {damage}. Delete it, and queue the training that it is of again.")
    return comfy.utils.load_torch_file(str(path), safe_load=True)


# The first weight of a layer, as PEFT, diffusers, kohya's sd-scripts and LyCORIS (LoKr, LoHa) name it.
_LAYER = re.compile(
    r"(.+)\.(?:lora_A(?:\.default)?\.weight|lora_down\.weight|lora\.down\.weight|lokr_w1|lokr_w1_a|hada_w1_a)"
)
_TEXT_ENCODER = re.compile(r"lora_te|text_encoder|te\d?[._]")  # which a MODEL has not


def _fits(adapter, weight: torch.Tensor) -> bool:
    """Whether a layer's LoRA has as many inputs as the layer; core itself notices that of other kinds."""
    if not isinstance(adapter, comfy.weight_adapter.LoRAAdapter):
        return True
    return adapter.weights[1].shape[1] == weight.shape[1]


def with_lora(model: ModelPatcher, file: Path, strength: float) -> ModelPatcher:
    """`model` with a LoRA file applied, as core's LoraLoaderModelOnly does it, but never only in part.

    Raises:
        ModelError: some of the LoRA's layers do not exist in the model, or have other sizes there.
    """
    return with_lora_weights(model, load_lora(file), strength, str(file))


def with_lora_weights(
    model: ModelPatcher, weights: dict[str, torch.Tensor], strength: float, called: str
) -> ModelPatcher:
    """The same for a LoRA's tensors, under the names that a file has them by; `called` names it in errors."""
    patched, _ = comfy.sd.load_lora_for_models(model, None, weights, strength, 0)
    layers = len({found[1] for key in weights if (found := _LAYER.fullmatch(key)) and not _TEXT_ENCODER.match(key)})
    applied = [
        (key, patch[1])
        for key, patches in patched.patches.items()
        for patch in patches[len(model.patches.get(key, ())) :]
        if isinstance(patch[1], comfy.weight_adapter.WeightAdapterBase)
    ]
    fitting = sum(_fits(adapter, comfy.utils.get_attr(model.model, key)) for key, adapter in applied)
    if fitting < layers or not layers:
        raise ModelError(
            f"{called} has {layers} LoRA layers, and only {fitting} of them fit this {type(model.model).__name__} "
            "model. Connect the model that the LoRA was trained on."
        )
    return patched
