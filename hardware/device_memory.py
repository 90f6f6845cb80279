"""What torch has taken of an accelerator's memory, and giving back what it keeps there unused.

Asked of `torch.accelerator`, which speaks for every kind of device. Where it does not, the device's own module is
asked: torch before 2.9 lacks these functions, and before 2.13 Apple's allocator answers with a failed assertion
(pytorch/pytorch#186430).
"""

from __future__ import annotations

import contextlib

import torch

# No such function; no accelerator, or an allocator it does not know; a device of another kind than the accelerator.
_NO_ANSWER = (AttributeError, RuntimeError, ValueError)


def reserved_memory(device: torch.device) -> int:
    """Bytes of a device that this process's torch has taken, in use or not; 0 where nothing tells (DirectML)."""
    with contextlib.suppress(*_NO_ANSWER):
        return torch.accelerator.memory_reserved(device)
    module = getattr(torch, device.type, None)
    if hasattr(module, "driver_allocated_memory"):  # torch.mps
        return module.driver_allocated_memory()
    return module.memory_reserved(device) if hasattr(module, "memory_reserved") else 0


def empty_cache() -> None:
    """Give unused memory of the accelerator back to it; nothing is done where there is none."""
    with contextlib.suppress(*_NO_ANSWER):
        return torch.accelerator.empty_cache()
    module = torch.get_device_module()  # torch.cpu without an accelerator
    if hasattr(module, "empty_cache"):
        module.empty_cache()
