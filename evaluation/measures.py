"""What can be measured of a picture's style and of what it shows: weight-free measures, and what others are.

Each measure turns pictures into vectors, one row each. The vectors mean nothing by themselves: `calibration` finds out
whether they tell this set of pictures from what the base model paints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy
from PIL import Image

LONGEST = 512  # pixels of the longer side on which strokes are measured
PALETTE_SIDE = 96  # pixels of the square on which colours are counted
DIRECTIONS = 24  # of colour, along which the palette is looked at
QUANTILES = 17  # of each
WINDOW = 32  # pixels each way of the places where strokes are looked for
SCALES = (1, 2, 4)  # the picture made smaller by these
BANDS = 6  # of spatial frequency within a window
CALM = (0.2, 0.5, 0.8)  # quantiles over places: brushwork is everywhere, what is drawn is not
FAINTEST = 1e-5
STRUCTURE_SIDE = 32  # pixels of the square on which two pictures are compared for what they show


@dataclass(frozen=True)
class Measure:
    """One way to look at pictures.

    Attributes:
        name: as people read it.
        embed: pictures, RGB of any size, to float32 `(pictures, width)`.
        network: the vectors are an image network's, between which a cosine means something.
        embed_texts: prompts to vectors of the same space, `(prompts, width)`; None where it has no texts.
    """

    name: str
    embed: Callable[[Sequence[Image.Image]], numpy.ndarray]
    network: bool = False
    embed_texts: Callable[[Sequence[str]], numpy.ndarray] | None = None


def oklab(pixels: numpy.ndarray) -> numpy.ndarray:
    """sRGB 0…255 `(…, 3)` to lightness 0…1 and two opponent colours.

    Björn Ottosson, "A perceptual color space for image processing" (2020).
    """
    srgb = pixels.astype(numpy.float32) / 255
    linear = numpy.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    cones = numpy.cbrt(linear @ _TO_CONES.T)
    return cones @ _TO_LAB.T


_TO_CONES = numpy.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ],
    numpy.float32,
)
_TO_LAB = numpy.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ],
    numpy.float32,
)


def palette(pictures: Sequence[Image.Image]) -> numpy.ndarray:
    """Quantiles of the colours along fixed directions of OKLab, `(pictures, 408)`.

    The distance between two rows is the sliced Wasserstein distance of the palettes: how far paint would have to be
    moved (Rabin et al., "Wasserstein barycenter and its application to texture mixing", 2011).
    """
    rows = []
    for picture in pictures:
        small = picture.convert("RGB").resize((PALETTE_SIDE, PALETTE_SIDE), Image.Resampling.BOX)
        along = oklab(numpy.asarray(small)).reshape(-1, 3) @ _directions().T
        rows.append(numpy.quantile(along, numpy.linspace(0.02, 0.98, QUANTILES), axis=0).T.ravel())
    return numpy.array(rows, numpy.float32).reshape(-1, DIRECTIONS * QUANTILES)


def _directions() -> numpy.ndarray:
    """Evenly spread over half a sphere (a Fibonacci lattice), unit length, `(24, 3)`."""
    index = numpy.arange(DIRECTIONS) + 0.5
    height, turn = index / DIRECTIONS, index * numpy.pi * (3 - 5**0.5)
    radius = numpy.sqrt(1 - height**2)
    return numpy.stack([height, radius * numpy.cos(turn), radius * numpy.sin(turn)], axis=1).astype(numpy.float32)


def strokes(pictures: Sequence[Image.Image]) -> numpy.ndarray:
    """How strong each spatial frequency is in calm, middling and busy places, and how much it runs in one direction.

    Logarithms, `(pictures, 216)`: 3 scales, 3 opponent colours, 6 bands and their 3 quantiles over places for the
    strength, and as many, of lightness alone, for the direction, which tell hatching from stippling.
    """
    return numpy.array([_strokes(picture) for picture in pictures], numpy.float32).reshape(len(pictures), -1)


def _strokes(picture: Image.Image) -> numpy.ndarray:
    share = min(1.0, LONGEST / max(picture.size))
    least = WINDOW * SCALES[-1]
    size = tuple(max(least, round(side * share)) for side in picture.size)
    found = []
    for scale in SCALES:
        smaller = picture.convert("RGB").resize((size[0] // scale, size[1] // scale), Image.Resampling.BOX)
        windows = _windows(oklab(numpy.asarray(smaller)))
        power = numpy.abs(numpy.fft.rfft2(windows * _hann(), axes=(1, 2))) ** 2 / WINDOW**2
        strength = numpy.einsum("nyxc,byx->ncb", power, _bands()) + FAINTEST
        # The spectrum as a set of points: its two second moments differ where strokes run in one direction.
        doubled = numpy.einsum("nyx,byx,yxk->nbk", power[..., 0], _bands(), _doubled_angles())
        directed = numpy.linalg.norm(doubled, axis=2) / strength[:, 0]
        found += [
            numpy.log(numpy.quantile(strength, CALM, axis=0)).ravel(),
            numpy.quantile(directed, CALM, axis=0).ravel(),
        ]
    return numpy.concatenate(found)


def _windows(values: numpy.ndarray) -> numpy.ndarray:
    """Half-overlapping squares of `(height, width, 3)`, without their mean: `(places, 32, 32, 3)`."""
    cut = numpy.lib.stride_tricks.sliding_window_view(values, (WINDOW, WINDOW), axis=(0, 1))
    places = cut[:: WINDOW // 2, :: WINDOW // 2].reshape(-1, 3, WINDOW, WINDOW).transpose(0, 2, 3, 1)
    return places - places.mean(axis=(1, 2), keepdims=True)


def _hann() -> numpy.ndarray:
    one = numpy.hanning(WINDOW + 2)[1:-1].astype(numpy.float32)
    return (one[:, None] * one)[None, :, :, None]


def _frequencies() -> tuple[numpy.ndarray, numpy.ndarray]:
    return numpy.meshgrid(numpy.fft.fftfreq(WINDOW), numpy.fft.rfftfreq(WINDOW), indexing="ij")


def _bands() -> numpy.ndarray:
    """`(6, 32, 17)`: each a ring of frequencies, an equal share of the octaves from 1/32 to 1/2, mean within it."""
    frequency = numpy.hypot(*_frequencies())
    edges = numpy.geomspace(0.75 / WINDOW, 0.5 * 2**0.5 + 1e-6, BANDS + 1)
    inside = (frequency >= edges[:-1, None, None]) & (frequency < edges[1:, None, None])
    return (inside / inside.sum(axis=(1, 2), keepdims=True)).astype(numpy.float32)


def _doubled_angles() -> numpy.ndarray:
    """Of each frequency, the direction with its angle doubled, so that opposite ones are the same: `(32, 17, 2)`."""
    angle = 2 * numpy.arctan2(*_frequencies())
    return numpy.stack([numpy.cos(angle), numpy.sin(angle)], axis=2).astype(numpy.float32)


def structure(pictures: Sequence[Image.Image]) -> numpy.ndarray:
    """What is where, in light and dark, whatever the colours and the strokes: unit length, `(pictures, 1024)`.

    Lightness in 32 x 32 places without its own slow changes, so that the dot product of two rows is near 1 for two
    versions of one composition and near 0 for two different ones.
    """
    rows = []
    for picture in pictures:
        small = picture.convert("RGB").resize((STRUCTURE_SIDE, STRUCTURE_SIDE), Image.Resampling.BOX)
        lightness = oklab(numpy.asarray(small))[..., 0]
        row = (lightness - lightness.mean()).ravel()
        rows.append(row / max(float(numpy.linalg.norm(row)), 1e-6))
    return numpy.array(rows, numpy.float32).reshape(-1, STRUCTURE_SIDE**2)


PALETTE = Measure("palette", palette)
STROKES = Measure("strokes", strokes)
WEIGHT_FREE = (STROKES, PALETTE)
