"""Pictures that repeat one of the training set instead of painting in its style."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy
from PIL import Image, ImageOps

from .measures import oklab

CERTAIN = 0.97  # likeness over which a picture counts as a copy however alike the set's own pictures are
LEAST = 0.80  # under which none does
CLOSER = (0.96, 0.92, 0.88)  # shares of the side: a model may repeat a part of a picture
PLACES = (0.0, 0.5, 1.0)  # of such a part, from one end to the other
SIDE = 24  # pixels of the square on which two pictures are compared


@dataclass(frozen=True)
class Copy:
    """Of one picture, the training picture that it is most like, and how much: 1 is the same."""

    picture: int
    training: int
    likeness: float


def appearance(pictures: Sequence[Image.Image]) -> numpy.ndarray:
    """Light and colour in 24 x 24 places, each channel without its mean, unit length: `(pictures, 1728)`."""
    rows = []
    for picture in pictures:
        small = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
        lab = oklab(numpy.asarray(small))
        row = (lab - lab.mean(axis=(0, 1))).ravel()
        rows.append(row / max(float(numpy.linalg.norm(row)), 1e-6))
    return numpy.array(rows, numpy.float32).reshape(-1, 3 * SIDE**2)


def _views(picture: Image.Image) -> list[Image.Image]:
    """The picture as it is, parts of it, and all of them mirrored."""
    width, height = picture.size
    parts = [picture]
    for share in CLOSER:
        for down, across in itertools.product(PLACES, PLACES):
            left, top = width * (1 - share) * across, height * (1 - share) * down
            parts.append(
                picture.crop((round(left), round(top), round(left + width * share), round(top + height * share)))
            )
    return parts + [ImageOps.mirror(part) for part in parts]


class TrainingPictures:
    """The pictures that a LoRA was trained on, to find copies of.

    The limit is where the set's own pictures are most alike: paintings of one series resemble each other, and a
    picture that is no more like one of them than they are is no copy.

    Args:
        pictures: RGB, cut to the shape that is painted.
    """

    def __init__(self, pictures: Sequence[Image.Image]) -> None:
        self._views = numpy.stack([appearance(_views(picture)) for picture in pictures], axis=1)  # (views, n, width)
        plain = self._views[0]
        alike = numpy.max([plain @ view.T for view in self._views], axis=0)
        numpy.fill_diagonal(alike, -1.0)
        nearest = alike.max(axis=1) if len(pictures) > 1 else numpy.array([LEAST])
        highest = float(numpy.quantile(nearest, 0.99))
        self.limit = min(CERTAIN, max(LEAST, highest + 0.25 * (1 - highest)))

    def nearest(self, pictures: Sequence[Image.Image]) -> list[Copy]:
        """Of each picture, the training picture that it is most like."""
        rows = appearance(pictures)
        likeness = numpy.max([rows @ view.T for view in self._views], axis=0)
        best = likeness.argmax(axis=1)
        return [Copy(index, int(place), float(likeness[index, place])) for index, place in enumerate(best)]

    def copies(self, pictures: Sequence[Image.Image]) -> list[Copy]:
        """The pictures that are copies, the likest first."""
        found = [copy for copy in self.nearest(pictures) if copy.likeness >= self.limit]
        return sorted(found, key=lambda copy: -copy.likeness)
