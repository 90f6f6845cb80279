"""Files that say what their content was, and files named by it: compared when a process first reads them.

The SHA-256 of a safetensors file stands in its own header, taken with zeros in its place, so that it covers the header
too; who does not know of it reads a line of metadata more. Files without one (of version 0.1, of other programs) are
taken as they are. A file that has not changed since it was compared is not read again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

from .files import file_hash, parsed_json, write_whole

SEAL = "impasto_sha256"  # key in the header's metadata
UNSEALED = {SEAL: "0" * 64}  # metadata to write a file with that is to be sealed
_SEALED = re.compile(rf'"{SEAL}":"([0-9a-f]{{64}})"'.encode())
_LONGEST_HEADER = 100_000_000  # bytes, as in safetensors itself
_BLOCK = 1 << 20

_compared: dict[
    Path, tuple[int, int, int, str]
] = {}  # file -> time of writing, bytes, inode and SHA-256 of a whole one


def sealed(content: bytes) -> bytes:
    """A safetensors file's content, written with `UNSEALED` in its metadata, with its sum in place of the zeros."""
    found = _SEALED.search(content, 0, _header_end(content[:8]))
    return content[: found.start(1)] + hashlib.sha256(content).hexdigest().encode() + content[found.end(1) :]


def seal(path: Path) -> None:
    """The same for a file."""
    with open(path, "rb+") as file:
        start = file.read(8)
        found = _SEALED.search(file.read(_header_end(start) - 8))
        file.seek(0)
        digest = hashlib.sha256()
        while block := file.read(_BLOCK):
            digest.update(block)
        file.seek(8 + found.start(1))
        file.write(digest.hexdigest().encode())


def damage_of(path: Path) -> str:
    """How a safetensors file is not as it was written; "" where it is, or where that cannot be told.

    Raises:
        FileNotFoundError: there is none.
    """
    now = _state_of(path)
    if _compared.get(path, ())[:3] == now:
        return ""
    with open(path, "rb") as file:
        start = file.read(8)
        header = file.read(min(_header_end(start), _LONGEST_HEADER) - 8) if len(start) == 8 else b""
        if not header or now[1] != _whole_length(header):
            return f"{path} is not a whole safetensors file ({now[1]:,} bytes)"
        found = _SEALED.search(header)
        if found:
            digest = hashlib.sha256(start + header[: found.start(1)] + b"0" * 64 + header[found.end(1) :])
            while block := file.read(_BLOCK):
                digest.update(block)
            if digest.hexdigest().encode() != found[1]:
                return f"{path} has other content than was written"
    _compared[path] = (*now, "")
    return ""


def has_content(path: Path, sha256: str) -> bool:
    """Whether a file has the content that it is named by."""
    now = _state_of(path)
    if _compared.get(path) != (*now, sha256):
        if file_hash(path) != sha256:
            return False
        _compared[path] = (*now, sha256)
    return True


def write_sums(path: Path, folder: Path) -> None:
    """Write at `path` the SHA-256 of every file directly in `folder`, by name."""
    sums = {file.name: file_hash(file) for file in sorted(folder.iterdir())}
    write_whole(path, json.dumps(sums, indent=1, ensure_ascii=False))


def changed_since(path: Path, folder: Path) -> list[Path]:
    """Files in `folder` that are there and other than `write_sums` found them; none where it wrote nothing legible."""
    try:
        sums = parsed_json(path.read_bytes())
        listed = {folder / name: sha256 for name, sha256 in sums.items() if isinstance(sha256, str)}
    except (FileNotFoundError, ValueError, AttributeError):
        return []
    return [file for file, sha256 in listed.items() if file.is_file() and not has_content(file, sha256)]


def _state_of(path: Path) -> tuple[int, int, int]:
    found = os.stat(path)
    return found.st_mtime_ns, found.st_size, found.st_ino


def _header_end(start: bytes) -> int:
    return 8 + int.from_bytes(start, "little")


def _whole_length(header: bytes) -> int:
    """Bytes of a whole file with this header; -1 where it is none."""
    try:
        entries = json.loads(header)
        ends = [entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"]
        return 8 + len(header) + max(ends, default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return -1
