"""What it looks like to run out of memory, on the host and on any kind of device."""

from __future__ import annotations

import errno

# PyTorch's on CUDA, ROCm, XPU and MPS; on the CPU; on the CPU under Windows; of cuBLAS, cuDNN and their likes.
_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "failed to allocate", "status_alloc_failed")
_NO_MEMORY = 2  # cudaErrorMemoryAllocation


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the host or a device had no memory left for what was asked."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    # Newer PyTorch reports the device's own errors by number, older by words, as all back ends but CUDA do.
    numbered = getattr(error, "error_code", None) == _NO_MEMORY
    return isinstance(error, RuntimeError) and (numbered or any(words in str(error).lower() for words in _WORDS))
