"""Pictures as services get them: JPEG, no larger than they look at."""

from __future__ import annotations

import asyncio
import io
import re

from PIL import Image, ImageOps

from ..pixels import refuse_enormous
from .captioner import CaptionRefusal, Kind, Picture

LONGEST_SIDE = 1024  # pixels
JPEG_QUALITY = 90
ORIENTATION = 0x0112  # Exif tag
_ABOUT_THE_PICTURE = re.compile(r"\b(?:image|picture)\b(?! input)", re.IGNORECASE)


def is_about_the_picture(message: str) -> bool:
    """Whether a service's refusal speaks of the picture, not of the request or of a model that takes none."""
    return bool(_ABOUT_THE_PICTURE.search(message))


async def jpeg_or_refusal(picture: Picture) -> bytes | CaptionRefusal:
    """`jpeg_bytes`, made in a thread of its own, or that the picture cannot be decoded."""
    try:
        return await asyncio.to_thread(jpeg_bytes, picture)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return CaptionRefusal(Kind.UNREADABLE, f"{picture.path.name} cannot be decoded: {error}")


def jpeg_bytes(picture: Picture, longest_side: int = LONGEST_SIDE) -> bytes:
    """The picture upright as a JPEG of at most `longest_side` pixels; a small upright JPEG is passed on as it is.

    Raises:
        OSError: the file is gone or cannot be decoded.
        PIL.Image.DecompressionBombError: it has too many pixels.
    """
    with Image.open(picture.path) as image:
        refuse_enormous(image)
        upright = image.getexif().get(ORIENTATION, 1) == 1
        if image.format == "JPEG" and image.mode == "RGB" and upright and max(image.size) <= longest_side:
            return picture.path.read_bytes()
        image.draft("RGB", (longest_side, longest_side))
        shown = ImageOps.exif_transpose(image)
        if shown.mode in ("RGBA", "LA", "PA") or "transparency" in shown.info:
            shown = shown.convert("RGBA")
            white = Image.new("RGBA", shown.size, "white")
            shown = Image.alpha_composite(white, shown)
        shown = shown.convert("RGB")
        shown.thumbnail((longest_side, longest_side), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        shown.save(buffer, "JPEG", quality=JPEG_QUALITY)
        return buffer.getvalue()
