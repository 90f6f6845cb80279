"""Pictures from anywhere, made into ones that every trainer reads the same: upright, sRGB, opaque, 8 bits a channel."""

from __future__ import annotations

import functools
import io
from collections.abc import Collection
from pathlib import Path

import numpy
from PIL import Image, ImageCms, ImageOps

from ..pixels import MAX_PIXELS
from .pictures import EXTENSIONS, JPEG_QUALITY, PictureRefused, first_line

JPEG, PNG = "JPEG", "PNG"
PNG_SIGNATURE = b"\x89PNG"
# Formats that Pillow decodes itself (MPO comes with JPEG, AVIF where it was built in): for them it starts no other
# program, as it starts Ghostscript for EPS.
FORMATS = (
    *("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "DIB", "TIFF", "JPEG2000", "PPM", "QOI", "PSD", "SGI"),
    *("PCX", "ICNS", "ICO"),
)
LONGEST_JPEG_SIDE = 65_500  # pixels: libjpeg's JPEG_MAX_DIMENSION
ORIENTATION = 0x0112  # Exif
PAPER = "white"  # under what is transparent
READ_BY_ALL = ("JPEG", "MPO", "PNG")  # ai-toolkit passes over WebP
PLAIN_MODES = ("1", "L", "P", "RGB")


def for_trainers(path: Path, keep_alpha: bool = False) -> bytes | None:
    """What to give trainers in place of a stored picture; None where the file will do.

    It is PNG for a PNG and, with `keep_alpha`, for what is transparent; else JPEG.

    They read some files differently: sd-scripts, for one, does not turn pictures and cuts 16 bits off at 8.

    Raises:
        PictureRefused, OSError: the picture does not decode.
    """
    with Image.open(path) as picture:
        alike = (
            picture.format in READ_BY_ALL
            and picture.mode in PLAIN_MODES
            and not picture.info.keys() & {"icc_profile", "transparency"}
            # PngImageFile.getexif would decode the whole picture to look for Exif behind the pixels
            and Image.Image.getexif(picture).get(ORIENTATION, 1) == 1
        )
        masked = keep_alpha and picture.has_transparency_data
    if alike:
        return None
    stored = path.read_bytes()
    kind = PNG if masked or path.suffix == ".png" else JPEG
    written, _ = normalised(stored, kind, READ_BY_ALL, keep_alpha)
    return None if written is stored else written


def normalised(
    data: bytes, kind: str = JPEG, keep: Collection[str] = tuple(EXTENSIONS), keep_alpha: bool = False
) -> tuple[bytes, tuple[str, ...]]:
    """The picture as the trainers need it, and what had to be done for it.

    The format is told from the content. A picture of the formats in `keep` with nothing to change stays as it is, byte
    for byte; all else is written anew. Of several frames or pages the first is taken.

    Args:
        data: the file.
        kind: `JPEG` (quality 95, full colour resolution) or `PNG`, for what is written anew.
        keep: Pillow's names of formats.
        keep_alpha: do not lay what is transparent on white; `kind` has to be PNG for it.

    Raises:
        PictureRefused: empty, no picture, damaged, or with more than `MAX_PIXELS`.
    """
    if not data:
        raise PictureRefused("empty", "the file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=_known_formats()) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise PictureRefused("too_large", f"{width} x {height} is more than {MAX_PIXELS:,} pixels")
            picture.load()
            changed, changes = _changed(picture, keep_alpha)
            kept = picture.format in keep and not changes
            if picture.format not in keep:
                changes.append(f"was {picture.format}")
    except PictureRefused:
        raise
    except Image.DecompressionBombError:
        raise PictureRefused("too_large", f"more than {2 * MAX_PIXELS:,} pixels") from None
    except Exception as error:  # Pillow's plugins raise whatever they meet in damaged bytes
        raise PictureRefused("unreadable", f"no readable picture ({first_line(error)})") from error
    if kept:
        return data, ()
    buffer = io.BytesIO()
    if kind == JPEG and max(changed.size) > LONGEST_JPEG_SIDE:
        raise PictureRefused("too_large", f"a side of {max(changed.size)} pixels is too long for a JPEG")
    options = {"quality": JPEG_QUALITY, "subsampling": 0, "comment": b""} if kind == JPEG else {"compress_level": 4}
    changed.save(buffer, kind, **options)
    return buffer.getvalue(), tuple(changes)


@functools.cache
def _known_formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _changed(picture: Image.Image, keep_alpha: bool) -> tuple[Image.Image, list[str]]:
    """The picture in RGB, or in RGBA with `keep_alpha`, and what of it was changed beyond its format."""
    changes: list[str] = []
    profile = picture.info.get("icc_profile")
    changed = picture
    if picture.getexif().get(ORIENTATION, 1) != 1:
        changed = ImageOps.exif_transpose(picture)
        changes.append("turned as its camera said")
    if changed.mode in ("I", "F") or changed.mode.startswith("I;"):
        changed = _in_eight_bits(changed)
        changes.append("brought to 8 bits")
    if profile:
        changed, change = _in_srgb(changed, profile)
        changes += change
    if changed.has_transparency_data:
        changed = changed.convert("RGBA")
        if keep_alpha:
            return changed, changes
        if changed.getextrema()[3][0] < 255:
            changes.append("laid on white")
        changed = Image.alpha_composite(Image.new("RGBA", changed.size, PAPER), changed)
    if changed.mode == "CMYK":
        changes.append("brought from CMYK to RGB")
    return changed.convert("RGB"), changes


def _in_eight_bits(picture: Image.Image) -> Image.Image:
    values = numpy.asarray(picture)
    if picture.mode == "F" or values.min() < 0 or values.max() > 0xFFFF:
        raise PictureRefused("format", f"its values ({picture.mode}) are not the brightness of 8 or 16 bits")
    return Image.fromarray((values >> 8 if values.max() > 0xFF else values).astype(numpy.uint8))


def _in_srgb(picture: Image.Image, profile: bytes) -> tuple[Image.Image, list[str]]:
    """Convert from the embedded colour profile; one that is damaged or for other channels is left out, and told."""
    alpha = picture.getchannel("A") if picture.mode in ("RGBA", "LA") else None
    colours = picture.convert("RGB") if picture.mode in ("RGBA", "P", "1") else picture
    colours = colours.convert("L") if picture.mode == "LA" else colours
    try:
        embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(embedded).lower():
            return picture, []
        converted = ImageCms.profileToProfile(colours, embedded, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return picture, ["its colour profile could not be used and was left out"]
    if alpha is not None:
        converted.putalpha(alpha)
    return converted, ["brought to sRGB"]
