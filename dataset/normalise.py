"""Pictures from anywhere, made into ones that every trainer reads the same: upright, sRGB, opaque, 8 bits a channel."""

from __future__ import annotations

import io
from collections.abc import Collection
from pathlib import Path

from PIL import Image

from .orientation import orientation
from .pictures import EXTENSIONS, JPEG_QUALITY, LIGHTENED, PictureRefused, as_seen, opened, seen

JPEG, PNG = "JPEG", "PNG"
PNG_SIGNATURE = b"\x89PNG"
LONGEST_JPEG_SIDE = 65_500  # pixels: libjpeg's JPEG_MAX_DIMENSION
READ_BY_ALL = ("JPEG", "MPO", "PNG")  # ai-toolkit passes over WebP
PLAIN_MODES = ("1", "L", "P", "RGB")


def for_trainers(path: Path, keep_alpha: bool = False) -> bytes | None:
    """What to give trainers in place of a stored picture; None where the file will do.

    It is PNG for a PNG and, with `keep_alpha`, for what is transparent; else JPEG.

    They read some files differently: sd-scripts, for one, does not turn pictures and cuts 16 bits off at 8.

    Raises:
        PictureRefused: the picture does not decode.
        OSError: it cannot be read.
    """
    with opened(path) as picture:
        alike = (
            picture.format in READ_BY_ALL
            and picture.mode in PLAIN_MODES
            and not picture.info.keys() & {"icc_profile", "transparency", LIGHTENED}
            and orientation(picture) == 1
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
    with opened(data) as picture:
        format = picture.format
        changed, changes = as_seen(picture, keep_alpha)
    kept = format in keep and not changes
    if format not in keep:
        changes.append(f"was {format}")
    if kept:
        return data, ()
    buffer = io.BytesIO()
    if kind == JPEG and max(changed.size) > LONGEST_JPEG_SIDE:
        raise PictureRefused("too_large", f"a side of {max(changed.size)} pixels is too long for a JPEG")
    options = {"quality": JPEG_QUALITY, "subsampling": 0, "comment": b""} if kind == JPEG else {"compress_level": 4}
    changed.save(buffer, kind, **options)
    return buffer.getvalue(), tuple(changes)


def masked(data: bytes, mask: bytes) -> bytes:
    """A picture as PNG with a mask in its alpha channel: white is trained on, black is not.

    Args:
        data: the picture, as `normalised` gives it.
        mask: of any size; it is brought to the picture's.

    Raises:
        PictureRefused: one of them is no picture, damaged, or with more than `MAX_PIXELS`.
    """
    picture, shade = seen(data), seen(mask).convert("L")
    picture.putalpha(shade if shade.size == picture.size else shade.resize(picture.size, Image.Resampling.BILINEAR))
    buffer = io.BytesIO()
    picture.save(buffer, PNG, compress_level=4)
    return buffer.getvalue()
