"""Weights as a model holds them, before any patch. ComfyUI-GGUF's among them, which stay quantised in memory and which
`state_dict` gives without content, for an estimate of memory only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import comfy.utils
import torch

from ... import installation
from ...errors import ModelError

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


def stored_weights(patcher: ModelPatcher) -> Iterator[tuple[str, torch.Tensor]]:
    """Every weight and buffer of a model by name, in the order of names, as it was before any patch was worked in."""
    state = dict(patcher.model.state_dict())
    for place, original in patcher.object_patches_backup.items():  # what stands there now is another model's on a link
        if isinstance(original, torch.nn.Module):
            state = {name: weight for name, weight in state.items() if not name.startswith(f"{place}.")}
            state |= original.state_dict(prefix=f"{place}.")
    for name, weight in sorted(state.items()):
        if name in patcher.backup:
            yield name, patcher.backup[name].weight
        elif not weight.is_meta:
            yield name, weight
        elif (held := _held(patcher.model, name)) is not None:
            yield name, held


def is_ggml(weight: torch.Tensor) -> bool:
    """Whether a weight is held by ComfyUI-GGUF, or a pack like it: rows of bytes that say what they stand for."""
    return hasattr(weight, "tensor_type") and hasattr(weight, "tensor_shape")


def as_stored(weight: torch.Tensor) -> torch.Tensor:
    """A weight's own values or bytes, as a tensor that behaves like one: of a quantised one without dequantising it."""
    return getattr(weight, "_qdata", weight).as_subclass(torch.Tensor).detach()  # _qdata: of comfy.quant_ops


def is_quantised_ggml(weight: torch.Tensor) -> bool:
    """Whether it is held in another type than PyTorch has, as bytes."""
    return is_ggml(weight) and not as_stored(weight).dtype.is_floating_point


def dequantised(weight: torch.Tensor, name: str) -> torch.Tensor:
    """What a weight of ComfyUI-GGUF stands for, float32 on the CPU, by the package gguf.

    Raises:
        ModelError: the package is not installed, or does not know the type.
    """
    try:
        import gguf
    except ImportError as error:
        raise ModelError(
            "The model is a GGUF one, which training reads through the Python package gguf, and that is not "
            f"installed. Install it into ComfyUI's Python with '{installation.command('gguf')}', or connect the "
            "bf16, fp16 or fp8 file of the same model."
        ) from error
    kind = int(weight.tensor_type)
    try:
        # By its number: another pack has an enumeration of its own.
        values = gguf.quants.dequantize(as_stored(weight).cpu().numpy(), gguf.GGMLQuantizationType(kind))
    except (NotImplementedError, ValueError) as error:
        known = getattr(weight.tensor_type, "name", kind)
        raise ModelError(
            f"The GGUF model holds '{name}' in the type {known}, which the installed package gguf cannot read "
            f"({error}). Update it with '{installation.command('gguf')}', or choose a file in another type, such as "
            "Q8_0 or Q4_K."
        ) from error
    return torch.from_numpy(values).reshape(tuple(weight.tensor_shape))


def ggml_options(model: torch.nn.Module) -> list[str]:
    """In which dtypes ComfyUI-GGUF's layers were told to compute, where that is not the default."""
    asked = {
        (getattr(module, "dequant_dtype", None), getattr(module, "patch_dtype", None)) for module in model.modules()
    }
    return sorted(str(dtypes) for dtypes in asked if any(dtypes))


def _held(model: torch.nn.Module, name: str) -> torch.Tensor | None:
    """The weight behind an entry without content; None where the entry only stands for memory that is needed."""
    try:
        return comfy.utils.get_attr(model, name)
    except AttributeError:
        return None
