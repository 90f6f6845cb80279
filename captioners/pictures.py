"""Pictures as services get them: JPEG, no larger than they look at."""

from __future__ import annotations

import asyncio
import io
import re

from PIL import Image

from ..dataset.pictures import PictureRefused, as_seen, opened, smaller
from .captioner import CaptionRefusal, Kind, Picture

LONGEST_SIDE = 1024  # pixels
JPEG_QUALITY = 90
_ABOUT_THE_PICTURE = re.compile(r"\b(?:image|picture)\b(?! input)", re.IGNORECASE)


def is_about_the_picture(message: str) -> bool:
    """Whether a service's refusal speaks of the picture, not of the request or of a model that takes none."""
    return bool(_ABOUT_THE_PICTURE.search(message))


async def jpeg_or_refusal(picture: Picture) -> bytes | CaptionRefusal:
    """`jpeg_bytes`, made in a thread of its own, or that the picture cannot be decoded."""
    try:
        return await asyncio.to_thread(jpeg_bytes, picture)
    except (PictureRefused, OSError) as error:
        return CaptionRefusal(Kind.UNREADABLE, f"{picture.path.name} cannot be decoded: {error}")


def jpeg_bytes(picture: Picture, longest_side: int = LONGEST_SIDE) -> bytes:
    """What is to be seen, as a JPEG of at most `longest_side` pixels; a small plain JPEG is passed on as it is.

    Raises:
        PictureRefused: the file is gone or does not decode whole.
        OSError: it cannot be read.
    """
    with opened(picture.path) as image:
        small = image.format == "JPEG" and image.mode == "RGB" and max(image.size) <= longest_side
        smaller(image, (longest_side, longest_side))
        shown, changes = as_seen(image)
    if small and not changes:
        return picture.path.read_bytes()
    shown.thumbnail((longest_side, longest_side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    shown.save(buffer, "JPEG", quality=JPEG_QUALITY, comment=b"")
    return buffer.getvalue()
