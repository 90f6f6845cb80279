"""Florence-2 in the care of ComfyUI's memory management."""

from __future__ import annotations

from typing import TYPE_CHECKING

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

from ...captioners.florence import Florence, activation_bytes, load_florence

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

    from ...captioners.florence import Florence2Captioner


class _Movable(torch.nn.Module):
    """A transformers model as ModelPatcher wants one: with a `device` that can be set."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.transformer = model


class ManagedFlorence:
    """Where ComfyUI computes, in bf16 on a GPU that has it, else in float32; in the care of its memory management.

    Other models make room for it and its batch. They take the room back when they need it, between batches too.
    """

    def __init__(self) -> None:
        self._held: tuple[ModelPatcher, Florence] | None = None

    def open(self, captioner: Florence2Captioner) -> Florence:
        patcher, florence = self._held = self._held or self._load(captioner)
        room = captioner.fitting * activation_bytes(florence, captioner.settings.num_beams)
        # Whole: ComfyUI streams single weights only into layers of its own.
        comfy.model_management.load_models_gpu([patcher], memory_required=room, force_full_load=True)
        return florence

    def free(self) -> None:
        comfy.model_management.soft_empty_cache()

    def close(self) -> None:
        """Let go of it in device and host memory: training may come next, and reading it again takes a second."""
        self._held = None
        self.free()

    def _load(self, captioner: Florence2Captioner) -> tuple[ModelPatcher, Florence]:
        device = comfy.model_management.text_encoder_device()
        dtype = torch.bfloat16 if comfy.model_management.should_use_bf16(device) else torch.float32
        florence = load_florence(captioner.checkpoint.folder, dtype)
        # Said here because ComfyUI would count the embeddings, which Florence-2 uses in four places, four times.
        size = sum(weight.nbytes for weight in florence.model.parameters())
        offload = comfy.model_management.text_encoder_offload_device()
        return comfy.model_patcher.ModelPatcher(_Movable(florence.model), device, offload, size), florence
