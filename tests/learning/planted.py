"""Sets of the painter's pictures in which wrong captions and foreign pictures are planted: the truth is known."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from impasto.embedded import lesson
from impasto.embedded.paintings import caption, paint
from impasto.embedded.training_pictures import HELD_OUT, LEAST_STROKE, SHAPES, scene_of
from impasto.trainers.features.index import Features
from PIL import Image, ImageDraw

PICTURES = 80
WRONG = 8  # of them with the caption of a scene of another kind
FOREIGN = ("screenshot", "chart", "damaged", "static", "plain", "screenshot", "chart", "damaged")
BEFORE = 1000  # scenes before those held out: none of the others' tests has them


@dataclass(frozen=True)
class Planted:
    """Encoded pictures, and what is wrong with some of them, by the first digits of the picture's hash."""

    features: Features
    truth: dict[str, str]


def prepare(folder: Path, seed: int, comfyui: Path, planted: bool) -> Planted:
    """Impressionist pictures with their captions; of `planted` sets, 8 with another's caption and 8 foreign ones."""
    draw = random.Random(seed)
    scenes = [HELD_OUT - BEFORE - PICTURES * seed + number for number in range(PICTURES)]
    pictures = [paint(scene_of(each), "impressionist", *SHAPES[0], LEAST_STROKE) for each in scenes]
    captions = [caption(scene_of(each)) for each in scenes]
    wrong = dict[int, str]()
    chosen = draw.sample(range(PICTURES), WRONG + len(FOREIGN)) if planted else []
    for place in chosen[:WRONG]:
        other = draw.choice([number for number in range(PICTURES) if scenes[number] % 4 != scenes[place] % 4])
        captions[place], wrong[place] = caption(scene_of(scenes[other])), "caption"
    for place, kind in zip(chosen[WRONG:], FOREIGN, strict=False):
        pictures[place], wrong[place] = foreign(kind, draw, pictures[place], scenes[place]), kind
    features = lesson.encode(folder, list(zip(pictures, captions, strict=True)), comfyui)
    hashes = [hashlib.sha256((folder / f"{place:04}.png").read_bytes()).hexdigest() for place in range(PICTURES)]
    return Planted(features, {hashes[place]: what for place, what in wrong.items()})


def foreign(kind: str, draw: random.Random, picture: Image.Image, scene: int) -> Image.Image:
    """A picture that is none of the set's: of a screen, a chart, noise, half lost, or in the other finish."""
    if kind == "plain":
        return paint(scene_of(scene), "plain", *SHAPES[0], LEAST_STROKE)
    pixels = np.array(picture)
    if kind == "damaged":
        pixels[draw.randrange(40, 70) :] = 128
        return Image.fromarray(pixels)
    if kind == "static":
        return Image.fromarray(np.random.default_rng(draw.randrange(2**32)).integers(0, 256, pixels.shape, np.uint8))
    sheet = Image.new("RGB", picture.size, (245, 245, 245))
    pen = ImageDraw.Draw(sheet)

    def colour() -> tuple[int, int, int]:
        return draw.randrange(256), draw.randrange(256), draw.randrange(256)

    if kind == "chart":
        for bar in range(8):
            pen.rectangle((6 + 15 * bar, draw.randrange(14, 114), 16 + 15 * bar, 124), fill=colour())
        return sheet
    pen.rectangle((0, 0, 128, 14), fill=colour())
    for line in range(22, 124, 9):
        pen.line((8, line, draw.randrange(40, 122), line), fill=(60, 60, 60), width=3)
    left, top = draw.randrange(60, 90), draw.randrange(30, 80)
    pen.rectangle((left, top, left + 30, top + 24), fill=colour())
    return sheet
