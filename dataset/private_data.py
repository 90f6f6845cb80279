"""What a picture file says beyond its picture, taken out without decoding it: place, camera, owner, thumbnails.

JPEG, PNG and WebP are rows of labelled pieces. Those that decoding needs are copied byte for byte, colour profile
included; the others, and whatever lies behind the picture's end, are left out. A file that has none stays as it is. Of
Exif the orientation is kept, by itself, where it turns the picture: every reader goes on seeing it upright.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from .orientation import ORIENTATION

_PNG_START = b"\x89PNG\r\n\x1a\n"
# Of the PNG specification, third edition: critical, colour, transparency, size of a pixel, and what animates it. The
# others are texts, times, Exif, and what programs add for themselves.
_PNG_KEPT = frozenset(
    (*(b"IHDR", b"PLTE", b"IDAT", b"IEND", b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"cICP", b"mDCV", b"cLLI", b"sBIT"),)
    + (b"tRNS", b"bKGD", b"hIST", b"sPLT", b"pHYs", b"acTL", b"fcTL", b"fdAT")
)
_WEBP_KEPT = frozenset((b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ICCP", b"ANIM", b"ANMF"))
_WEBP_EXIF, _WEBP_XMP = 0x08, 0x04  # flags of VP8X (developers.google.com/speed/webp/docs/riff_container)
# JPEG markers (ITU-T T.81, table B.1)
_SOI, _EOI, _SOS, _COM = 0xD8, 0xD9, 0xDA, 0xFE
_APPLICATION = range(0xE0, 0xF0)
_JFIF, _EXIF, _ICC, _ADOBE = 0xE0, 0xE1, 0xE2, 0xEE
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
_JFIF_HEADER = 14  # bytes: what follows is a thumbnail


def without_private_data(data: bytes, turned: int) -> bytes:
    """The file with its picture alone; `data` itself where there is nothing else in it, or it is no such file.

    Args:
        turned: the picture's orientation as Exif counts, from 1, upright, to 8; it is kept.

    Where a file is damaged, what follows the damage is kept: whoever decodes it finds the damage as it was.
    """
    if data.startswith(b"\xff\xd8"):
        pieces = b"".join(_jpeg(data, _exif_for(turned)))
    elif data.startswith(_PNG_START):
        pieces = b"".join(_png(data, _exif_for(turned)))
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        pieces = _webp(data, _exif_for(turned))
    else:
        return data
    return data if pieces == data else pieces


def _exif_for(turned: int) -> bytes:
    """Exif (TIFF 6.0, little-endian) that holds the picture's orientation alone; empty where it is upright."""
    return b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, ORIENTATION, 3, 1, turned, 0, 0) if turned > 1 else b""


def _jpeg(data: bytes, exif: bytes) -> Iterator[bytes]:
    yield data[:2]
    position = 2
    while True:
        start = position
        while data[position : position + 1] == b"\xff":  # any number of them may stand before a marker
            position += 1
        if position == start or position >= len(data):
            break  # no marker: damaged
        marker = data[position]
        position += 1
        if marker == _EOI:
            yield data[start:position]
            return
        if exif and marker != _JFIF:
            yield b"\xff\xe1" + struct.pack(">H", 8 + len(exif)) + b"Exif\0\0" + exif
            exif = b""
        if marker in _ALONE:
            yield data[start:position]
            continue
        end = position + int.from_bytes(data[position : position + 2], "big")
        if end < position + 2 or end > len(data):
            break
        yield _jpeg_segment(marker, data[start:position], data[position + 2 : end])
        position = end
        if marker == _SOS:
            position = _end_of_scan(data, end)
            yield data[end:position]
    yield data[start:]


def _jpeg_segment(marker: int, head: bytes, content: bytes) -> bytes:
    """A segment as it is kept; empty where it is not. `head` is its marker with what stands before it."""
    if marker == _JFIF and content.startswith(b"JFIF\0"):
        if len(content) > _JFIF_HEADER:
            content = content[: _JFIF_HEADER - 2] + b"\0\0"
    elif marker == _ICC:
        if not content.startswith(b"ICC_PROFILE\0"):  # else FlashPix, or more pictures appended (MPF)
            return b""
    elif marker == _COM or (marker in _APPLICATION and not (marker == _ADOBE and content.startswith(b"Adobe"))):
        return b""
    return head + struct.pack(">H", 2 + len(content)) + content


def _end_of_scan(data: bytes, position: int) -> int:
    """Where the coded pixels that begin at `position` end: before the next marker that is none of theirs."""
    while (position := data.find(b"\xff", position)) >= 0 and position + 1 < len(data):
        if data[position + 1] != 0 and not 0xD0 <= data[position + 1] <= 0xD7 and data[position + 1] != 0xFF:
            return position
        position += 1 if data[position + 1] == 0xFF else 2
    return len(data)


def _png(data: bytes, exif: bytes) -> Iterator[bytes]:
    yield _PNG_START
    position = len(_PNG_START)
    while position < len(data):
        length, name = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        end = position + 12 + length
        if len(name) < 4 or end > len(data):
            yield data[position:]
            return
        if exif and name == b"IDAT":
            piece = b"eXIf" + exif
            yield struct.pack(">I", len(exif)) + piece + struct.pack(">I", zlib.crc32(piece))
            exif = b""
        if name in _PNG_KEPT:
            yield data[position:end]
        position = end
        if name == b"IEND":
            return


def _webp(data: bytes, exif: bytes) -> bytes:
    size = 8 + int.from_bytes(data[4:8], "little")
    if size > len(data):  # cut short
        return data
    pieces: list[bytes] = []
    position = 12
    while position + 8 <= size:
        name, length = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        end = min(position + 8 + length + length % 2, size)
        if name == b"VP8X" and length:
            flags = data[position + 8] & ~(_WEBP_EXIF | _WEBP_XMP) | (_WEBP_EXIF if exif else 0)
            pieces.append(data[position : position + 8] + bytes([flags]) + data[position + 9 : end])
        elif name in _WEBP_KEPT:
            pieces.append(data[position:end])
        position = end
    if exif and pieces and pieces[0].startswith(b"VP8X"):
        pieces.append(b"EXIF" + struct.pack("<I", len(exif)) + exif)
    content = b"WEBP" + b"".join(pieces)
    return b"RIFF" + struct.pack("<I", len(content)) + content
