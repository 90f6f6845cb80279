"""The variants of one picture in training: cut out at random, enlarged, its colours changed a little.

kohya-ss/sd-scripts cuts and colours a picture anew every time it shows it (`library/train_util.py`, AugHelper and
trim_and_resize_if_required), and cannot keep latents then. Here pictures are encoded once, so a stated number of
variants is drawn beforehand, by hashes, the same on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image

from ..errors import DatasetError
from .caption_variants import share
from .config_schema import OWN_KEYS, acted_on
from .schema_key import PICTURES, SUBSET, frozen_fields

MOST_VARIANTS = 32  # of a picture; a latent of 1024 x 1024 pixels takes 1 MB
MOST_SCALE = 2.0
HUE = 8 / 180  # of a turn, to either side: AugHelper's hue_shift_limit, in OpenCV's 180 steps
GAMMA = 0.05  # about 1, to either side: AugHelper's
_HUES = 256  # steps of a turn in Pillow's HSV

_PictureFields: Any = frozen_fields("_PictureFields", [*acted_on(SUBSET, part=PICTURES), *OWN_KEYS])


@dataclass(frozen=True)
class PictureRules(_PictureFields):
    """What a subset asks to be done with its pictures: the keys of the schema that are part of PICTURES, and ours.

    Attributes:
        random_crop: what stands over the bucket's shape is cut off anywhere, not evenly at both sides.
        color_aug: the hue is turned by up to 16 degrees, or the gamma changed by up to 5 %.
        random_scale: the picture is enlarged by up to this factor before it is cut.
        picture_variants: how many variants there are, the picture as it is among them, where one of these is on.

    Raises:
        DatasetError: a value is out of range.
    """

    def __post_init__(self) -> None:
        if not 1 <= self.picture_variants <= MOST_VARIANTS:
            raise DatasetError(f"picture_variants is {self.picture_variants}. Set it from 1 to {MOST_VARIANTS}.")
        if not 1 <= self.random_scale <= MOST_SCALE:
            raise DatasetError(f"random_scale is {self.random_scale}. Set it from 1.0 to {MOST_SCALE}.")

    @property
    def vary(self) -> bool:
        return self.picture_variants > 1 and (self.random_crop or self.color_aug or self.random_scale > 1)


@dataclass(frozen=True)
class PictureVariant:
    """One way in which a picture is shown.

    Attributes:
        box: left, top, right and bottom, in pixels of the upright picture: what is brought to the bucket's size.
        hue: how far it is turned, in 256ths of a turn.
        gamma: the exponent of every channel.
    """

    box: tuple[float, float, float, float]
    hue: int = 0
    gamma: float = 1.0


def variants(
    size: tuple[int, int], bucket: tuple[int, int], rules: PictureRules, seed: str
) -> tuple[PictureVariant, ...]:
    """The variants of a picture beside the picture as it is: each once, fewer where not so many are different.

    Args:
        size: (width, height) of the upright picture, in pixels.
        bucket: (width, height) that it is brought to.
        seed: what they are drawn by; more variants are those of fewer, and some.
    """
    if not rules.vary:
        return ()
    drawn = (_drawn(size, bucket, rules, f"{seed} variant {number}") for number in range(1, rules.picture_variants))
    as_it_is = PictureVariant(_box(size, bucket, 1.0, 0.5, 0.5))
    return tuple(variant for variant in dict.fromkeys(drawn) if variant != as_it_is)


def shown(picture: Image.Image, variant: PictureVariant, bucket: tuple[int, int]) -> Image.Image:
    """A picture, or its mask, as `variant` shows it at the bucket's size; a mask (mode L) has no colours to change."""
    cut = picture.resize(bucket, Image.Resampling.LANCZOS, box=variant.box)
    if cut.mode != "RGB":
        return cut
    if variant.hue:
        hue, *others = cut.convert("HSV").split()
        turned = hue.point([(value + variant.hue) % _HUES for value in range(_HUES)])
        cut = Image.merge("HSV", (turned, *others)).convert("RGB")
    if variant.gamma != 1:
        cut = cut.point([round(255 * (value / 255) ** variant.gamma) for value in range(256)] * 3)
    return cut


def _drawn(size: tuple[int, int], bucket: tuple[int, int], rules: PictureRules, seed: str) -> PictureVariant:
    scale = 1 + (rules.random_scale - 1) * share(f"{seed} scale")
    across, down = (share(f"{seed} {way}") if rules.random_crop else 0.5 for way in ("across", "down"))
    hue, gamma = 0, 1.0
    if rules.color_aug:
        change = 2 * share(f"{seed} change") - 1
        if share(f"{seed} colour") < 0.5:
            hue = round(change * HUE * _HUES)
        else:
            gamma = round(1 + change * GAMMA, 3)
    return PictureVariant(_box(size, bucket, scale, across, down), hue, gamma)


def _box(
    size: tuple[int, int], bucket: tuple[int, int], scale: float, across: float, down: float
) -> tuple[float, float, float, float]:
    """The largest cut-out of the bucket's shape made smaller by `scale`, by shares of what is left beside and above it.

    To hundredths of a pixel, so that the files' keys do not hang on the last bits of a float.
    """
    aspect = bucket[0] / bucket[1]
    width, height = min(size[0], size[1] * aspect) / scale, min(size[1], size[0] / aspect) / scale
    left, top = round(across * (size[0] - width), 2), round(down * (size[1] - height), 2)
    return left, top, min(round(left + width, 2), float(size[0])), min(round(top + height, 2), float(size[1]))
