"""How much memory this process has used at most, on the host and on its accelerator."""

from __future__ import annotations

import sys
from pathlib import Path


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
    import torch

    return torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0
