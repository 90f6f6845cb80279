"""How many pixels a picture may have, looked at in its header: a file of some kilobytes can unfold into gigabytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 89_478_485  # where Pillow begins to warn of a decompression bomb (PIL.Image.MAX_IMAGE_PIXELS)


def refuse_enormous(picture: Image) -> None:
    """To be called before anything decodes an opened picture; Pillow's own limit is twice this, and others lift it.

    Raises:
        PIL.Image.DecompressionBombError: it has more than `MAX_PIXELS`.
    """
    from PIL.Image import DecompressionBombError

    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise DecompressionBombError(f"{width} x {height} is more than {MAX_PIXELS:,} pixels")
