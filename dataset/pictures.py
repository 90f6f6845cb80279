"""Picture files: opening them, the one place where that is done; what they show; storing them by content.

Whoever looks at a picture (filter, captioners, contact sheets, thumbnails, training) sees what `seen` gives: upright,
in sRGB, opaque, 8 bits a channel. Files that no longer decode, are cut short or enormous are found here.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy
from PIL import Image, ImageCms, ImageFile

from ..files import write_whole
from ..texts import first_line
from . import orientation
from .png_chunks import beside_pixels, without
from .private_data import without_private_data

# Pillow's name of a format (MPO is a JPEG with more pictures appended) -> the extension that every trainer reads.
EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
# Formats that are decoded in this process (MPO comes with JPEG, AVIF where it was built in, HEIF and JPEG XL where a
# plug-in was installed): for them Pillow starts no other program, as it starts Ghostscript for EPS. Icons are not
# among them: they hold pictures of whose size their header says nothing.
FORMATS = (
    *("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "DIB", "TIFF", "JPEG2000", "PPM", "QOI", "PSD", "SGI"),
    *("PCX", "HEIF", "JXL"),
)
JPEG_QUALITY = 95  # of what has to be encoded again
MAX_PIXELS = 89_478_485  # where Pillow begins to warn of a decompression bomb (PIL.Image.MAX_IMAGE_PIXELS)
PAPER = "white"  # under what is transparent
LIGHTENED = "impasto_lightened"  # key of `info`: texts or a profile that Pillow would not read were passed over


@functools.cache
def reads_heif() -> bool:
    """Whether Pillow reads HEIC: where pillow-heif is installed, which is asked to take part the first time."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


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
    turned: int  # its orientation as Exif counts, from 1, upright, to 8


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
    with opened(data) as picture:
        kind, (width, height), turned = picture.format, picture.size, orientation.orientation(picture)
    if kind not in EXTENSIONS:
        raise PictureRefused("format", f"format {kind} is not JPEG, PNG or WebP")
    return Header(EXTENSIONS[kind], width, height, turned)


def store_picture(folder: Path, data: bytes, keep_metadata: bool = False) -> StoredPicture:
    """Store a picture under `<folder>/images/<sha256>.<ext>`, unless it is there already.

    Args:
        keep_metadata: store the bytes as they are; else without what `private_data` takes out, which most have not.

    Raises:
        PictureRefused: see `read_header`.
    """
    header = read_header(data)
    source, data = data, data if keep_metadata else without_private_data(data, header.turned)
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
def opened(source: Path | bytes) -> Iterator[Image.Image]:
    """A picture of which only the header is read; what the block meets while it decodes is told as damage.

    Raises:
        PictureRefused: the file is missing, empty, of no known format, cut short, damaged, or has more than
            `MAX_PIXELS`, which is looked at before anything is decoded.
    """
    rule, found = ("unreadable", "no readable picture")
    if isinstance(source, Path):
        rule, found = "damaged", f"{source.name} does not decode whole"
    elif not source:
        raise PictureRefused("empty", "the file is empty")
    try:
        with _strict_decoding(), _opened(source) as picture:
            yield picture
    except (PictureRefused, MemoryError):
        raise
    except FileNotFoundError:
        raise PictureRefused("missing", f"the stored file {getattr(source, 'name', '')} is missing") from None
    except Image.DecompressionBombError:
        raise PictureRefused("too_large", f"more than {2 * MAX_PIXELS:,} pixels") from None
    except Exception as error:  # Pillow's plugins raise whatever they meet in damaged bytes
        raise PictureRefused(rule, f"{found} ({_reason(error)})") from error


def seen(source: Path | bytes, least: tuple[int, int] | None = None, keep_alpha: bool = False) -> Image.Image:
    """The picture as it is to be seen, by everyone: see `as_seen`.

    Args:
        least: width and height in pixels that are enough. A JPEG is then decoded at a half, a quarter or an eighth of
            its size, but no smaller than this.

    Raises:
        PictureRefused: see `opened`, or its numbers are not the brightness of 8 or 16 bits.
    """
    with opened(source) as picture:
        if least:
            smaller(picture, least)
        return as_seen(picture, keep_alpha)[0]


def thumbnail(source: Path | bytes, side: int) -> Image.Image:
    """The picture as it is to be seen, its longer side at most `side` pixels.

    Raises:
        PictureRefused: see `seen`.
    """
    picture = seen(source, (2 * side, 2 * side))
    picture.thumbnail((side, side))
    return picture


def smaller(picture: Image.Image, least: tuple[int, int]) -> None:
    """Let an opened JPEG be decoded at the least eighth of its size that covers `least` once it is upright."""
    exchanged = orientation.orientation(picture) in orientation.EXCHANGED
    picture.draft("RGB", least[::-1] if exchanged else least)


def as_seen(picture: Image.Image, keep_alpha: bool = False) -> tuple[Image.Image, list[str]]:
    """An opened picture in RGB, upright, in sRGB, of 8 bits a channel, on white; and what of it had to be changed.

    Of several frames or pages it is the first.

    Args:
        keep_alpha: give what is transparent in RGBA instead, with the colours that are hidden.

    Raises:
        PictureRefused: its numbers are not the brightness of 8 or 16 bits. And whatever Pillow raises of damage.
    """
    changes: list[str] = []
    if LIGHTENED in picture.info:
        changes.append("its texts or profile of over 1 MiB were left out")
    profile = picture.info.get("icc_profile")
    changed = orientation.upright(picture)
    if changed is not picture:
        changes.append("turned as its camera said")
    changed.load()  # here the rest of the file is read
    if changed.mode in ("I", "F") or changed.mode.startswith("I;"):
        changed = _in_eight_bits(changed)
        changes.append("brought to 8 bits")
    if profile or changed.mode == "LAB":
        changed, change = _in_srgb(changed, profile)
        changes += change
    if changed.has_transparency_data:
        changed = changed.convert("RGBA")
        if keep_alpha:
            return _without_orientation(changed), changes
        if changed.getextrema()[3][0] < 255:
            changes.append("laid on white")
        changed = Image.alpha_composite(Image.new("RGBA", changed.size, PAPER), changed)
    if changed.mode == "CMYK":
        changes.append("brought from CMYK to RGB")
    return _without_orientation(changed.convert("RGB")), changes


@contextlib.contextmanager
def _opened(source: Path | bytes) -> Iterator[Image.Image]:
    with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
        beside = beside_pixels(file)
        file.seek(0)
        legible = io.BytesIO(without(file.read(), beside.too_long)) if beside.too_long else file
        with Image.open(legible, formats=_known_formats()) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:  # Pillow's own limit is twice this, and others lift it
                name = f"{source.name}: " if isinstance(source, Path) else ""
                raise PictureRefused("too_large", f"{name}{width} x {height} is more than {MAX_PIXELS:,} pixels")
            found = {LIGHTENED: bool(beside.too_long), "icc_profile": beside.profile, "exif": beside.exif}
            picture.info.update({name: value for name, value in found.items() if value})
            yield picture


def _known_formats() -> tuple[str, ...]:
    reads_heif()
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _without_orientation(picture: Image.Image) -> Image.Image:
    """The copy, which nobody is to turn again."""
    for name in ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif", LIGHTENED):
        picture.info.pop(name, None)
    return picture


def _in_eight_bits(picture: Image.Image) -> Image.Image:
    values = numpy.asarray(picture)
    if picture.mode == "F" or values.min() < 0 or values.max() > 0xFFFF:
        raise PictureRefused("format", f"its values ({picture.mode}) are not the brightness of 8 or 16 bits")
    grey = Image.fromarray((values >> 8 if values.max() > 0xFF else values).astype(numpy.uint8))
    transparent = picture.info.get("transparency")  # one of the values
    if transparent is not None:
        grey.putalpha(Image.fromarray(numpy.where(values == transparent, 0, 255).astype(numpy.uint8)))
    return grey


def _in_srgb(picture: Image.Image, profile: bytes | None) -> tuple[Image.Image, list[str]]:
    """Convert from the embedded colour profile; one that is damaged or for other channels is left out, and told."""
    shown = picture.convert("RGBA") if picture.has_transparency_data else picture
    alpha = shown.getchannel("A") if shown is not picture else None
    colours = picture.convert("L") if picture.mode in ("L", "LA", "La") else shown
    colours = colours if colours.mode in ("L", "CMYK", "LAB") else colours.convert("RGB")
    try:
        embedded = ImageCms.createProfile("LAB") if picture.mode == "LAB" else io.BytesIO(profile or b"")
        embedded = ImageCms.ImageCmsProfile(embedded)
        if "srgb" in ImageCms.getProfileDescription(embedded).lower():
            return picture, []
        converted = ImageCms.profileToProfile(colours, embedded, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return picture, ["its colour profile could not be used and was left out"]
    if alpha is not None:
        converted.putalpha(alpha)
    return converted, ["brought to sRGB"]


class _Strictness:
    """How many pictures are being decoded here now, and what another part of the process wants of Pillow meanwhile."""

    lock = threading.Lock()
    decoding = 0
    wanted = False  # to have what a file lacks filled in with grey


@contextlib.contextmanager
def _strict_decoding() -> Iterator[None]:
    """Let Pillow raise on a truncated file, even where another part of the process asked it to fill in grey instead.

    The switch is one for the whole process, so it is put back as soon as nothing is decoded here any more.
    """
    with _Strictness.lock:
        _Strictness.decoding += 1
        if ImageFile.LOAD_TRUNCATED_IMAGES:
            _Strictness.wanted, ImageFile.LOAD_TRUNCATED_IMAGES = True, False
    try:
        yield
    finally:
        with _Strictness.lock:
            _Strictness.decoding -= 1
            if not _Strictness.decoding and _Strictness.wanted:
                _Strictness.wanted, ImageFile.LOAD_TRUNCATED_IMAGES = False, True


def _reason(error: Exception) -> str:
    # Pillow names the open file in its message, which tells a person nothing
    return first_line(error).partition(" <_io.")[0] or type(error).__name__
