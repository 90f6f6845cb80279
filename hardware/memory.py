"""How much memory this process has used at most, how much is left, and what the tensors of a computation take."""

from __future__ import annotations

import sys
import weakref
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .host_memory import host_memory


def peak_host_memory() -> int:
    """Largest resident set of this process so far, in bytes."""
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    if sys.platform == "linux":
        # Not getrusage: there a process starts with the peak of the one that started it.
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts in bytes


def peak_device_memory() -> int:
    """Largest memory that PyTorch has held on the current CUDA or ROCm device, in bytes; 0 without such a device."""
    return torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0


def free_device_memory(device: torch.device) -> int:
    """Bytes that this process could still allocate on `device`; for the CPU, the machine's available memory.

    What PyTorch holds in its cache counts as free. Apple's GPU shares the machine's memory and is told how much of it.

    Raises:
        NotImplementedError: PyTorch cannot tell for this kind of device.
    """
    device = torch.device(device)
    if device.type == "cpu":
        return host_memory()[1]
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    try:
        return getattr(torch, device.type).mem_get_info(device)[0]
    except (AttributeError, RuntimeError) as error:  # the latter of some of Intel's devices, Arc B580 among them
        raise NotImplementedError(f"PyTorch does not tell how much memory is free on {device} ({error}).") from error


def spilled(reserved: int, total: int) -> str:
    """A warning when more is reserved than the card has, else ''. `reserved` and `total` are bytes.

    Windows' driver does not refuse such memory: it takes the machine's, and every step becomes many times slower.
    """
    if reserved <= total:
        return ""
    return (
        f"{reserved / 1e9:.1f} GB are reserved on a card of {total / 1e9:.1f} GB: the driver has moved the rest into "
        "system memory, which makes every step many times slower. Choose a setting that needs less memory, or set "
        "'CUDA - Sysmem Fallback Policy' to 'Prefer No Sysmem Fallback' in the NVIDIA control panel."
    )


def spilled_device() -> str:
    """`spilled` for the current CUDA device; '' without one."""
    if not torch.cuda.is_available():
        return ""
    return spilled(torch.cuda.max_memory_reserved(), torch.cuda.get_device_properties(None).total_memory)


class AllocatedTensors(TorchDispatchMode):
    """Counts the bytes of the tensors that are made within it, for as long as each lives.

    On the meta device too, where they count as what they would take elsewhere. What a kernel takes and gives back by
    itself is not seen, nor are tensors that were there before.

    Attributes:
        bytes: of the tensors alive now.
        peak: largest `bytes` so far; may be set to start anew.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        result = function(*arguments, **keywords or {})
        given = {storage._cdata for storage in _storages((arguments, keywords))}
        for storage in _storages(result):
            if storage._cdata not in given and storage._cdata not in self._known:
                self._made(storage)
        return result

    def _made(self, storage: torch.UntypedStorage) -> None:
        size = storage.nbytes()
        self._known.add(storage._cdata)
        weakref.finalize(storage, self._gone, storage._cdata, size)
        self.bytes += size
        self.peak = max(self.peak, self.bytes)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.bytes -= size


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
