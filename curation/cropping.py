"""Pictures without their borders, stored as pictures of their own beside the others."""

from __future__ import annotations

import io
import math
from dataclasses import replace

from ..dataset.orientation import upright
from ..dataset.pictures import JPEG_QUALITY, opened, store_picture
from ..dataset.records import Dataset, Record

LEAST_CROP = 0.01  # share of the area: less border than this is not worth another JPEG compression


def without_border(dataset: Dataset, record: Record, border: tuple[float, float, float, float]) -> Record:
    """Store an upright copy without the border, in the picture's own format and colours, and give its record."""
    with opened(dataset.image_path(record)) as file:
        picture = upright(file)
        left, top, right, bottom = border
        # up and down to whole pixels of the picture, so that no line of the border stays
        box = (
            *(math.ceil(left * picture.width), math.ceil(top * picture.height)),
            *(math.floor((1 - right) * picture.width), math.floor((1 - bottom) * picture.height)),
        )
        kind = "JPEG" if file.format == "MPO" else file.format
        options = {"quality": JPEG_QUALITY, "subsampling": 0} if kind == "JPEG" else {"lossless": True}
        buffer = io.BytesIO()
        left_over = picture.crop(box)
        left_over.info = {name: value for name, value in file.info.items() if name == "transparency"}
        left_over.save(buffer, kind, icc_profile=file.info.get("icc_profile"), **options)
    stored = store_picture(dataset.image_path(record).parent.parent, buffer.getvalue())
    return replace(
        record,
        file_name=stored.file_name,
        sha256=stored.sha256,
        width=stored.width,
        height=stored.height,
        size=stored.size,
    )
