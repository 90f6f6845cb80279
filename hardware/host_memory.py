"""What this process holds in host memory: how much, in which tensors, and how to give freed memory back."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True)
class TensorsHeld:
    """All live tensors of one shape, dtype and device."""

    shape: tuple[int, ...]
    dtype: str
    device: str
    count: int
    size: int  # bytes of all of them


def resident_memory() -> int:
    """Bytes of this process that lie in physical memory."""
    import psutil

    return psutil.Process().memory_info().rss


def host_memory() -> tuple[int, int]:
    """Total and available bytes of the machine's memory."""
    import psutil

    memory = psutil.virtual_memory()
    return memory.total, memory.available


def return_freed_heap() -> bool:
    """Give freed heap back to the system with glibc's malloc_trim. False where there is no glibc: nothing was done.

    Only this process is touched.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        trim = ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):  # musl
        return False
    trim(0)
    return True


def tensors_held(limit: int) -> list[TensorsHeld]:
    """The kinds of tensors that take most memory, each storage counted once; at most `limit` of them."""
    import torch

    counts: Counter[tuple] = Counter()
    sizes: Counter[tuple] = Counter()
    seen: set[int] = set()
    for thing in gc.get_objects():
        if not issubclass(type(thing), torch.Tensor) or thing.layout is not torch.strided:
            continue
        if thing.device.type == "meta" or type(thing) not in (torch.Tensor, torch.nn.Parameter):
            continue
        storage = thing.untyped_storage()
        if storage.data_ptr() in seen or not storage.nbytes():
            continue
        seen.add(storage.data_ptr())
        kind = (tuple(thing.shape), str(thing.dtype).removeprefix("torch."), str(thing.device))
        counts[kind] += 1
        sizes[kind] += storage.nbytes()
    return [TensorsHeld(*kind, counts[kind], size) for kind, size in sizes.most_common(limit)]
