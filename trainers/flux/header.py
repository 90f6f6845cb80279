"""The table of tensors that a safetensors file begins with, read without opening any tensor. Nothing ever unpickles."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import ModelError
from ...files import parsed_json

REMEDY = "Choose a FLUX.1 model (dev, schnell, Krea or Kontext) as one .safetensors file."
_HEADER_LIMIT = 100_000_000  # bytes; the safetensors library's own limit


@dataclass(frozen=True)
class WeightsHeader:
    """A file's table of tensors, its metadata, and the byte at which the tensors' data starts."""

    tensors: dict[str, dict[str, Any]]
    metadata: dict[str, str]
    data_start: int


def read_header(path: str | Path) -> WeightsHeader:
    file_path = Path(path)
    if not file_path.is_file():
        raise ModelError(f"There is no model file {file_path}. Choose another model, or put the file back.")
    size = file_path.stat().st_size
    with open(file_path, "rb") as file:
        opening = file.read(8)
        _refuse_other_formats(file_path, opening)
        length = int.from_bytes(opening, "little")
        if size < 8 or length > min(_HEADER_LIMIT, size - 8):
            raise broken(file_path, f"its header should end at byte {8 + length:,}, the file has {size:,}")
        header = _parse_header(file_path, file.read(length))
    metadata = header.pop("__metadata__", {})
    end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if end != size:
        raise broken(file_path, f"its header promises {end:,} bytes, the file has {size:,}")
    return WeightsHeader(header, metadata, 8 + length)


def _parse_header(path: Path, content: bytes) -> dict[str, dict[str, Any]]:
    try:
        header = parsed_json(content)
        if not isinstance(header.get("__metadata__", {}), dict):
            raise ValueError("its metadata make no sense")
        for key, entry in header.items():
            if key != "__metadata__":
                start, stop = entry["data_offsets"]
                if not (entry["dtype"] and 0 <= start <= stop and all(side >= 0 for side in entry["shape"])):
                    raise ValueError(f"the entry of '{key}' makes no sense")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise broken(path, f"its header cannot be read ({error})") from error
    return header


def broken(path: Path, reason: str) -> ModelError:
    return ModelError(f"{path} is not a whole safetensors file: {reason}. Download or copy it again.")


def _refuse_other_formats(path: Path, opening: bytes) -> None:
    if opening.startswith(b"GGUF"):
        raise ModelError(
            f"{path} is a GGUF file, which the trainer's process does not read. Choose a .safetensors file, or load "
            "it with ComfyUI-GGUF's Unet Loader and connect the MODEL to FLUX LoRA Trainer, which writes it out as one."
        )
    # torch.save writes a zip (PK) or a bare pickle (its protocol); safetensors starts with a small 64-bit number.
    pickled = opening.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"))
    if pickled and opening[4:] != bytes(4):
        raise ModelError(f"{path} is a pickle, which can run any code when opened, so it is not read. {REMEDY}")
