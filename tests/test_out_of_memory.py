"""What running out of memory looks like; where it can be had, the real thing."""

import errno
import os

import numpy
import pytest
import torch
from impasto.out_of_memory import is_out_of_memory


def raised(attempt) -> Exception:
    try:
        attempt()
    except Exception as error:
        return error
    pytest.fail("there was memory for it")


@pytest.mark.parametrize(
    "attempt",
    [
        lambda: bytearray(2**62),
        lambda: numpy.empty(2**60, numpy.uint8),
        lambda: torch.empty(2**60, dtype=torch.uint8),
        lambda: torch.from_numpy(numpy.ones(1)).expand(2**58).clone(),
    ],
)
def test_the_host_running_out_is_seen(attempt):
    assert is_out_of_memory(raised(attempt))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("Allocation on device 0 would exceed allowed memory."),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GB, other allocations: 2.00 MB)"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: not enough memory: you tried to"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    ],
)
def test_every_device_running_out_is_seen(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        ValueError("the picture 'out of memory.png' has no caption"),
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        KeyError("out of memory"),
    ],
)
def test_another_error_is_not_taken_for_it(error):
    assert not is_out_of_memory(error)
