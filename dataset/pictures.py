"""Picture files: what a header tells without decoding, storing by content, and decoding whole to find damage."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageFile

from ..files import write_whole
from ..pixels import MAX_PIXELS, refuse_enormous
from .private_data import without_private_data

# Pillow's name of a format (MPO is a JPEG with more pictures appended) -> the extension that every trainer reads.
EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
JPEG_QUALITY = 95  # of what has to be encoded again


class PictureRefused(Exception):
    """One picture cannot be used. It is recorded and left out; the rest goes on."""

    def __init__(self, rule: str, reason: str) -> None:
        super().__init__(reason)
        self.rule = rule


@dataclass(frozen=True)
class Header:
    extension: str  # by content, whatever the file was called
    width: int  # pixels
    height: int  # pixels


@dataclass(frozen=True)
class StoredPicture:
    file_name: str  # "images/<sha256>.<ext>"
    sha256: str
    width: int
    height: int
    size: int  # bytes
    source_sha256: str = ""  # of the file as it came, where private data was taken out of it


Outcome = StoredPicture | PictureRefused


def read_header(data: bytes) -> Header:
    """What the first bytes of a picture tell, without decoding it.

    Raises:
        PictureRefused: not a JPEG, PNG or WebP by content, or larger than `MAX_PIXELS`.
    """
    if not data:
        raise PictureRefused("empty", "the file is empty")
    try:
        with Image.open(io.BytesIO(data)) as picture:
            kind, (width, height) = picture.format, picture.size
    except Image.DecompressionBombError:
        raise PictureRefused("too_large", f"more than {2 * MAX_PIXELS:,} pixels") from None
    except Exception as error:  # Pillow's plugins raise whatever they meet in damaged bytes
        raise PictureRefused("unreadable", f"no readable picture ({first_line(error)})") from error
    if kind not in EXTENSIONS:
        raise PictureRefused("format", f"format {kind} is not JPEG, PNG or WebP")
    if width * height > MAX_PIXELS:
        raise PictureRefused("too_large", f"{width} x {height} is more than {MAX_PIXELS:,} pixels")
    return Header(EXTENSIONS[kind], width, height)


def store_picture(folder: Path, data: bytes, keep_metadata: bool = False) -> StoredPicture:
    """Store a picture under `<folder>/images/<sha256>.<ext>`, unless it is there already.

    Args:
        keep_metadata: store the bytes as they are; else without what `private_data` takes out, which most have not.

    Raises:
        PictureRefused: see `read_header`.
    """
    header = read_header(data)
    source, data = data, data if keep_metadata else without_private_data(data)
    sha256 = hashlib.sha256(data).hexdigest()
    source_sha256 = "" if data is source else hashlib.sha256(source).hexdigest()
    file_name = f"images/{sha256}.{header.extension}"
    path = folder / file_name
    if not path.exists() or path.stat().st_size != len(data):
        write_whole(path, data)
    return StoredPicture(file_name, sha256, header.width, header.height, len(data), source_sha256)


def stored_or_refused(folder: Path, data: bytes | PictureRefused, keep_metadata: bool = False) -> Outcome:
    """`store_picture`, with the refusal as a value; one that came already is passed on."""
    if isinstance(data, PictureRefused):
        return data
    try:
        return store_picture(folder, data, keep_metadata)
    except PictureRefused as refused:
        return refused


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Image.Image]:
    """A stored picture, opened; what the block meets while decoding it is told as damage.

    Raises:
        PictureRefused: the file is missing, truncated or damaged.
    """
    try:
        with Image.open(path) as picture:
            refuse_enormous(picture)
            yield picture
    except FileNotFoundError:
        raise PictureRefused("missing", f"the stored file {path.name} is missing") from None
    except Exception as error:  # Pillow's decoders raise whatever they meet in damaged bytes
        raise PictureRefused("damaged", f"does not decode whole: {first_line(error)}") from error


@contextlib.contextmanager
def strict_decoding() -> Iterator[None]:
    """Let Pillow raise on a truncated file, even where another part of the process asked it to fill in grey instead."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def first_line(error: Exception) -> str:
    # Pillow names the in-memory buffer in its message, which tells a person nothing
    text = (str(error).splitlines() or [""])[0].partition(" <_io.BytesIO")[0]
    return text or type(error).__name__
