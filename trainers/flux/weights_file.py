"""A safetensors file written tensor by tensor, so that what is written need never be in memory as a whole.

The library's own `save_file` wants every tensor at once. Format: 8 bytes with the header's length, a JSON table of the
tensors, their data one after the other (huggingface/safetensors, README).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_ALIGNMENT = 8  # bytes at which the data begins, as in files of the library

Layout = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]  # a tensor's key -> its dtype and shape


def file_size(layout: Layout) -> int:
    """Bytes of the tensors' data."""
    return sum(dtype.itemsize * math.prod(shape) for dtype, shape in layout.values())


def write_tensors(path: Path, layout: Layout, tensors: Iterable[torch.Tensor]) -> None:
    """Write `tensors`, which come in the order of `layout`, each cast to what that says of it.

    Args:
        layout: dtypes in `DTYPES`.

    Raises:
        ValueError: a tensor has another shape than announced, or there are more or fewer of them.
    """
    entries, end = {}, 0
    for key, (dtype, shape) in layout.items():
        start, end = end, end + dtype.itemsize * math.prod(shape)
        entries[key] = {"dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % _ALIGNMENT)
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        values = iter(tensors)
        for key, (dtype, shape) in layout.items():
            # Without a name, by which a tensor would live until the next one is made.
            file.write(_data(key, shape, next(values, None), dtype))
        if next(values, None) is not None:
            raise ValueError(f"there are more tensors than the {len(layout)} announced")


def _data(key: str, shape: tuple[int, ...], tensor: torch.Tensor | None, dtype: torch.dtype) -> memoryview:
    found = None if tensor is None else tuple(tensor.shape)
    if tensor is None or found != shape:
        raise ValueError(f"{key} has the shape {found}, not {shape}")
    return tensor.detach().to("cpu", dtype).contiguous().reshape(-1).view(torch.uint8).numpy().data
