"""What tells one base model from another: a hash of a file's content, most of which it need not read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from .header import read_header

_SAMPLES, _SAMPLE_BYTES = 4, 4096  # what the fingerprint reads of each tensor: 16 KiB, at most


def fingerprint(path: str | Path) -> str:
    """Identify a safetensors file by its content, reading at most 16 KiB of each tensor: 16 hexadecimal digits.

    The tensors' names, types, shapes and places are hashed, with evenly spaced samples of each (tensors up to 16 KiB
    whole). The file's name, date and metadata don't count: a copy has the same fingerprint. A change that misses every
    sample of every tensor would not be seen; no merge, conversion or further training is that small.

    Raises:
        ModelError: not a whole safetensors file.
    """
    header = read_header(path)
    digest = hashlib.sha256(json.dumps(header.tensors, sort_keys=True, separators=(",", ":")).encode())
    with open(path, "rb") as file:
        for key in sorted(header.tensors):
            start, stop = header.tensors[key]["data_offsets"]
            for offset in _sample_offsets(stop - start):
                file.seek(header.data_start + start + offset)
                digest.update(file.read(min(_SAMPLE_BYTES, stop - start - offset)))
    return digest.hexdigest()[:16]


def _sample_offsets(size: int) -> list[int]:
    if size <= _SAMPLES * _SAMPLE_BYTES:
        return list(range(0, size, _SAMPLE_BYTES))
    return [(size - _SAMPLE_BYTES) * sample // (_SAMPLES - 1) for sample in range(_SAMPLES)]
