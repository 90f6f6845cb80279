"""Aspect buckets: the sizes that pictures are brought to, so that a batch has one shape and no painting is cut square.

The sizes are those of kohya-ss/sd-scripts (`library/model_util.py` make_bucket_resolutions, `library/train_util.py`
BucketManager), so that a dataset config means the same here and there.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from ..errors import DatasetError
from . import orientation, pictures
from .config_schema import acted_on
from .schema_key import BUCKETS, DATASET, frozen_fields

SIDE_MULTIPLE = 16  # pixels; the FLUX autoencoder divides by 8 and the transformer's patches by 2


_BucketFields: Any = frozen_fields("_BucketFields", acted_on(DATASET, part=BUCKETS))


@dataclass(frozen=True)
class Buckets(_BucketFields):
    """How pictures find their bucket: the keys of the schema that are part of BUCKETS.

    Attributes:
        resolution: (width, height) in pixels; its area is the area of every bucket, give or take a step.
        enable_bucket: False brings every picture to `resolution` itself.
        bucket_reso_steps: sides of buckets are multiples of this many pixels.
        min_bucket_reso: shortest side of a bucket; rounded down to a multiple of the steps.
        max_bucket_reso: longest side of a bucket; rounded up to a multiple of the steps.
        bucket_no_upscale: a picture smaller than the area keeps its size, cut down to multiples of the steps; minimum
            and maximum are not used.

    Raises:
        DatasetError: a side that FLUX cannot take, or a resolution outside minimum and maximum.
    """

    resolution: tuple[int, int]

    def __post_init__(self) -> None:
        step = self.bucket_reso_steps
        if not self.enable_bucket:
            if any(side <= 0 or side % SIDE_MULTIPLE for side in self.resolution):
                raise DatasetError(
                    f"resolution is {_times(self.resolution)}, but FLUX needs sides that are multiples of "
                    f"{SIDE_MULTIPLE}. Change it, or set enable_bucket = true."
                )
            return
        if step <= 0 or step % SIDE_MULTIPLE:
            raise DatasetError(
                f"bucket_reso_steps is {step}, but FLUX needs a multiple of {SIDE_MULTIPLE}. Use 64, or 32 for a "
                "closer fit."
            )
        if self.min_bucket_reso < step:
            raise DatasetError(
                f"min_bucket_reso is {self.min_bucket_reso}. Set it to bucket_reso_steps ({step}) or more."
            )
        if min(self.resolution) < self.min_bucket_reso or max(self.resolution) > self.max_bucket_reso:
            raise DatasetError(
                f"resolution {_times(self.resolution)} lies outside min_bucket_reso {self.min_bucket_reso} and "
                f"max_bucket_reso {self.max_bucket_reso}. Widen them, or change the resolution."
            )

    @property
    def limits(self) -> tuple[int, int]:
        """Shortest and longest side of a bucket in pixels, as multiples of the steps."""
        step = self.bucket_reso_steps
        return self.min_bucket_reso // step * step, -(-self.max_bucket_reso // step) * step


def _times(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


@functools.cache
def bucket_sizes(buckets: Buckets) -> tuple[tuple[int, int], ...]:
    """Every (width, height) that `assign` can choose from, in pixels, sorted; empty where `bucket_no_upscale` decides.

    Widths go from minimum to maximum in steps; the height is the largest multiple of the step that stays in the area
    and under the maximum. Each size comes with its mirror image, and the square of the area is added.
    """
    if not buckets.enable_bucket:
        return (buckets.resolution,)
    if buckets.bucket_no_upscale:
        return ()
    step = buckets.bucket_reso_steps
    low, high = buckets.limits
    area = buckets.resolution[0] * buckets.resolution[1]
    square = int(math.sqrt(area) // step) * step
    sizes = {(square, square)}
    for width in range(low, high + 1, step):
        height = min(high, area // width // step * step)
        if height >= low:
            sizes |= {(width, height), (height, width)}
    return tuple(sorted(sizes))


def assign(width: int, height: int, buckets: Buckets) -> tuple[int, int]:
    """The bucket (width, height), in pixels, of a picture of `width` x `height` pixels: the nearest aspect ratio wins.

    Raises:
        DatasetError: with `bucket_no_upscale`, the picture is smaller than one step.
    """
    sizes = bucket_sizes(buckets)
    if not sizes:
        return _without_upscale(width, height, buckets)
    if (width, height) in sizes:
        return width, height
    return min(sizes, key=lambda size: abs(size[0] / size[1] - width / height))


def _without_upscale(width: int, height: int, buckets: Buckets) -> tuple[int, int]:
    """BucketManager.select_bucket with no_upscale: shrink only if the area is too large, then floor to the steps."""
    step = buckets.bucket_reso_steps
    area = buckets.resolution[0] * buckets.resolution[1]
    if width * height > area:
        width, height = _shrunk(width / height, area, step)
    size = width // step * step, height // step * step
    if not all(size):
        raise DatasetError(
            f"with bucket_no_upscale, its {width} x {height} pixels are less than one step of {step}. "
            "Remove the picture, or set bucket_no_upscale = false."
        )
    return size


def _shrunk(aspect: float, area: int, step: int) -> tuple[int, int]:
    """The size of about `area` with one side a multiple of `step`: of both such, the one that bends the aspect less."""

    def floored(side: float) -> int:
        return int(side + 0.5) // step * step

    width, height = floored(math.sqrt(area * aspect)), floored(math.sqrt(area / aspect))
    height_for_width, width_for_height = floored(width / aspect), floored(height * aspect)
    by_width = abs(width / height_for_width - aspect) if height_for_width else math.inf
    by_height = abs(width_for_height / height - aspect) if height else math.inf
    if by_width < by_height:
        return width, int(width / aspect + 0.5)
    return int(height * aspect + 0.5), height


def upright_size(path: str | Path) -> tuple[int, int]:
    """(width, height) in pixels as the picture is seen, its Exif orientation applied; only the header is read.

    Raises:
        DatasetError: the file is not a picture that Pillow reads.
    """
    try:
        with pictures.opened(Path(path)) as picture:
            return orientation.upright_size(picture)
    except pictures.PictureRefused as refused:
        raise _unreadable(path, refused) from refused


def read_picture(path: str | Path) -> Image.Image:
    """The whole picture as `pictures.seen` gives it, but for what its alpha channel hides, which is shown.

    sd-scripts shows that too, with and without `alpha_mask`, which weighs the loss alone.

    Raises:
        DatasetError: the file is truncated, damaged or not a picture.
    """
    return _seen(path).convert("RGB")


def read_alpha(path: str | Path) -> Image.Image:
    """The picture's alpha channel, upright, as 8-bit grey; white where it has none.

    Raises:
        DatasetError: the file is truncated, damaged or not a picture.
    """
    return _seen(path).convert("RGBA").getchannel("A")


@contextlib.contextmanager
def upright(path: str | Path) -> Iterator[Image.Image]:
    """The picture as its file has it, with its orientation applied.

    Raises:
        DatasetError: the file is truncated, damaged or not a picture.
    """
    try:
        with pictures.opened(Path(path)) as picture:
            yield orientation.upright(picture)
    except pictures.PictureRefused as refused:
        raise _unreadable(path, refused) from refused


def _seen(path: str | Path) -> Image.Image:
    try:
        return pictures.seen(Path(path), keep_alpha=True)
    except pictures.PictureRefused as refused:
        raise _unreadable(path, refused) from refused


def _unreadable(path: str | Path, error: Exception) -> DatasetError:
    return DatasetError(f"The picture {path} cannot be read ({error}). Replace or remove it, then queue again.")


def fit(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize `image` so that it just covers `size` (width, height), and cut off what stands over on both sides."""
    return ImageOps.fit(image, size, Image.Resampling.LANCZOS)
