"""ComfyUI's memory management: what is held, giving it back, and on which device models lie."""

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

from ... import out_of_memory
from ...errors import ModelError
from ...hardware.cleanup import DeviceMemory, HeldModel, MemoryState
from ...hardware.device_memory import empty_cache, reserved_memory
from ...hardware.host_memory import host_memory, resident_memory

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP, VAE


def unload_models() -> None:
    """Give back all device memory that ComfyUI's models hold, before another process needs it."""
    comfy.model_management.unload_all_models()
    comfy.model_management.cleanup_models_gc()
    comfy.model_management.soft_empty_cache()


def empty_device_caches() -> None:
    """Give memory that torch keeps for later back to the device."""
    comfy.model_management.soft_empty_cache(force=True)
    empty_cache()  # on the kinds of device that ComfyUI does not know


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the host or a device had no memory left for what was asked.

    ComfyUI is asked first, because it also clears the device's error, which would be raised again by what comes next.
    """
    return comfy.model_management.is_oom(error) or out_of_memory.is_out_of_memory(error)


def memory_state() -> MemoryState:
    """What this process and its models hold on the host and on every accelerator."""
    total, free = host_memory()
    devices = [device for device in comfy.model_management.get_all_torch_devices() if device.type != "cpu"]
    return MemoryState(tuple(map(_device_memory, devices)), resident_memory(), total, free, _held_models())


def held() -> tuple[int, int]:
    """Bytes of host memory and of all accelerators' memory that this process holds now."""
    devices = [device for device in comfy.model_management.get_all_torch_devices() if device.type != "cpu"]
    return resident_memory(), sum(map(reserved_memory, devices))


def device_options() -> list[str]:
    """The names by which ComfyUI's own nodes choose a device: "default" (the loader's), "cpu", "gpu:0" …"""
    return comfy.model_management.get_gpu_device_options()


def place_clip(clip: CLIP, device: str) -> CLIP:
    """The text encoders on a device, by core's Select CLIP Device; what comes in is left where it is.

    Raises:
        ModelError: the device is not there, or the loader of this CLIP cannot load it a second time.
    """
    from comfy_extras.nodes_multigpu import SelectCLIPDeviceNode  # here: a core without it costs only this node

    placed = SelectCLIPDeviceNode.execute(clip, device).args[0]
    _refuse_left_behind("CLIP", device, placed.patcher)
    return placed


def place_vae(vae: VAE, device: str) -> VAE:
    """The autoencoder on a device, by core's Select VAE Device; what comes in is left where it is.

    Raises:
        ModelError: the device is not there, or the loader of this VAE cannot load it a second time.
    """
    from comfy_extras.nodes_multigpu import SelectVAEDeviceNode

    placed = SelectVAEDeviceNode.execute(vae, device).args[0]
    _refuse_left_behind("VAE", device, placed.patcher)
    return placed


def _refuse_left_behind(socket: str, device: str, patcher: ModelPatcher) -> None:
    """Core's nodes pass on unchanged what they cannot place."""
    wanted = comfy.model_management.resolve_gpu_device_option(device)
    if device == "default" or patcher.load_device == wanted:
        return
    if wanted is None:
        raise ModelError(f"There is no device {device}. Choose one of: {', '.join(device_options())}.")
    raise ModelError(
        f"The {socket} could not be placed on {device}: its loader cannot load it a second time, or core keeps it off "
        "that device. Load it with core's DualCLIPLoader or Load VAE."
    )


def _device_memory(device: torch.device) -> DeviceMemory:
    management = comfy.model_management
    return DeviceMemory(
        management.get_torch_device_name(device),
        management.get_total_memory(device),
        management.get_free_memory(device),
        reserved_memory(device),
    )


def _held_models() -> tuple[HeldModel, ...]:
    held = [loaded for loaded in comfy.model_management.current_loaded_models if loaded.model is not None]
    return tuple(
        HeldModel(
            type(loaded.model.model).__name__,
            str(loaded.device),
            loaded.model_loaded_memory(),
            loaded.model_memory(),
        )
        for loaded in held
    )


def on_cpu() -> bool:
    """Whether ComfyUI computes on the CPU, by choice or for want of an accelerator."""
    return comfy.model_management.get_torch_device().type == "cpu"
