"""What a PNG holds beside its pixels, found without decoding: texts too long for Pillow to open the file, and Exif.

ComfyUI writes whole graphs into PNGs. From 1 MiB unpacked, Pillow refuses the picture for its text or its profile.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

SIGNATURE = b"\x89PNG\r\n\x1a\n"
LONGEST_UNPACKED = 1 << 20  # bytes: PIL.PngImagePlugin.MAX_TEXT_CHUNK, which other packs change
LONGEST_TEXTS = 64 << 20  # bytes of all texts together: PIL.PngImagePlugin.MAX_TEXT_MEMORY
LARGEST_PROFILE = 16 << 20  # bytes
TEXTS = (b"tEXt", b"zTXt", b"iTXt")


@dataclass(frozen=True)
class BesidePixels:
    """What matters of a PNG's other chunks; for a file of another format, nothing."""

    too_long: tuple[tuple[int, int], ...] = ()  # first byte and end of each chunk that Pillow would not open
    profile: bytes = b""  # the ICC profile, where it is one of them
    exif: bytes = b""  # also where it stands behind the pixels


def beside_pixels(file: IO[bytes]) -> BesidePixels:
    """Look through the chunks of `file`, whose position is left anywhere."""
    file.seek(0)
    if file.read(len(SIGNATURE)) != SIGNATURE:
        return BesidePixels()
    too_long, profile, exif, texts = [], b"", b"", 0
    for name, start, length in _chunks(file):
        if name == b"eXIf":
            exif = file.read(length)
        elif name in TEXTS:
            texts += length
            if texts > LONGEST_TEXTS or _unpacks_beyond(LONGEST_UNPACKED, _packed(name, file.read(length))):
                texts -= length
                too_long.append((start, start + length + 12))
        elif name == b"iCCP" and _unpacks_beyond(LONGEST_UNPACKED, packed := _packed(name, file.read(length))):
            too_long.append((start, start + length + 12))
            if not _unpacks_beyond(LARGEST_PROFILE, packed):
                profile = zlib.decompressobj().decompress(packed, LARGEST_PROFILE)
    return BesidePixels(tuple(too_long), profile, exif)


def without(data: bytes, pieces: tuple[tuple[int, int], ...]) -> bytes:
    """The bytes but for some pieces of them, each given by its first byte and its end, in their order."""
    starts, ends = [0, *(end for _, end in pieces)], [*(start for start, _ in pieces), len(data)]
    return b"".join(data[start:end] for start, end in zip(starts, ends, strict=True))


def _chunks(file: IO[bytes]) -> Iterator[tuple[bytes, int, int]]:
    """Name, first byte and length of each chunk, whose content can be read when it comes (PNG specification, 5.3)."""
    start, name = len(SIGNATURE), b""
    while name != b"IEND":
        file.seek(start)
        head = file.read(8)
        if len(head) < 8:
            return
        length, name = int.from_bytes(head[:4], "big"), head[4:]
        yield name, start, length
        start += length + 12


def _packed(name: bytes, content: bytes) -> bytes:
    """What is compressed of a text or a profile (PNG specification, 11.3); nothing where it stands as it is."""
    after_keyword = content.partition(b"\0")[2]
    if name in (b"zTXt", b"iCCP"):
        return after_keyword[1:]
    if name == b"iTXt" and after_keyword[:1] != b"\0":
        return after_keyword[2:].split(b"\0", 2)[-1]
    return b""


def _unpacks_beyond(limit: int, packed: bytes) -> bool:
    unpacker = zlib.decompressobj()
    try:
        unpacker.decompress(packed, limit)
    except zlib.error:  # Pillow passes over it
        return False
    return bool(unpacker.unconsumed_tail)
