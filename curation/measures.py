"""What can be measured of a picture: the JPEG quality in its header, and on a reduced copy sharpness, exposure,
entropy, colour, borders and perceptual hashes. Remembering is for `measurements`, judging for `quality`.
"""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy
from PIL import Image

from ..dataset.orientation import upright_size
from ..dataset.pictures import as_seen, opened, smaller

DECODED_SIDE = 256  # pixels: a JPEG is shrunk by 2, 4 or 8 while it is decoded, down to no less than this
REDUCED_SIDE = 384  # pixels of the longer side on which everything is measured
COLOUR_STRIDE = 2  # pixels: colour is smooth enough for every second one
BORDER_TOLERANCE = 10  # of 255: how far the pixels of a border may lie from its colour; JPEG blurs even a drawn one
BORDER_EVEN = 0.985  # share of a border's row that has its colour
BORDER_ENDS = 0.6  # share of its greatest width that the picture has at once: a border ends straight, a head does not
BORDER_FADES = 8  # rows between border and picture that may be a mixture of both: a block of JPEG
DEEPEST_BORDER = 0.45  # of the side
HASHED_SIDE = 32  # pixels of the square that the perceptual hash is computed from
HASH_FREQUENCIES = 8  # lowest of each direction; their square is the number of bits
LAPLACIAN_ROUNDING = 20 / 12  # variance of 4, and four times -1, numbers that were rounded to whole ones

# ITU-T T.81 annex K.1, the luminance table that encoders scale by their quality (Independent JPEG Group, jcparam.c).
_LUMINANCE = (
    *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
)


@dataclass(frozen=True)
class Measures:
    """What the reduced copy of one picture shows, apart from its border."""

    size: tuple[int, int]  # (width, height) of the picture as it is seen, in pixels
    sharpness: float  # see `sharpness`
    highlight: float  # brightness of the 99th percentile, 0 to 1
    shadow: float  # brightness of the 1st percentile, 0 to 1
    entropy: float  # bits, of the histogram of brightness in 256 steps: 0 to 8
    colour: float  # see `stray_colour`
    colourfulness: float  # see `colourfulness`
    border: tuple[float, float, float, float]  # left, top, right, bottom, as shares of width or height
    hashes: tuple[int, int]  # see `perceptual_hash` and `gradient_hash`

    @property
    def border_area(self) -> float:
        """The share of the picture's area that is border."""
        left, top, right, bottom = self.border
        return 1 - (1 - left - right) * (1 - top - bottom)


def jpeg_quality(path: Path) -> int | None:
    """The quality, 1 to 100, whose scaled standard table is nearest to the file's own; None where it is no JPEG.

    Encoders with tables of their own (Photoshop's) get the quality that takes as much away. Decodes nothing.

    Raises:
        PictureRefused: the file is missing, or no picture.
    """
    with opened(path) as picture:
        tables = getattr(picture, "quantization", None)
        if not tables:
            return None
        return _nearest_quality(sum(tables[min(tables)]))


@functools.cache
def _table_sums() -> list[int]:
    """The sum of the luminance table at quality 100, 99 … 1: rising."""
    scales = [5000 // quality if quality < 50 else 200 - 2 * quality for quality in range(100, 0, -1)]
    return [sum(min(max((entry * scale + 50) // 100, 1), 255) for entry in _LUMINANCE) for scale in scales]


def _nearest_quality(total: int) -> int:
    sums = _table_sums()
    place = bisect.bisect_left(sums, total)
    near = [index for index in (place - 1, place) if 0 <= index < len(sums)]
    return 100 - min(near, key=lambda index: abs(sums[index] - total))


def measure(path: Path) -> Measures:
    """Decode the file to its end, as small as its format lets the decoder make it, and measure that.

    A JPEG shrunk on the way is read to its last byte like any other, so that damage is found here and not in training.

    Raises:
        PictureRefused: the file is missing, truncated or damaged.
    """
    with opened(path) as picture:
        size = upright_size(picture)
        smaller(picture, (DECODED_SIDE, DECODED_SIDE))
        small = _reduced(as_seen(picture)[0])
    border = find_border(numpy.asarray(small))
    inside = small.crop(_inner_box(small.size, border))
    brightness, blue, red = (numpy.asarray(band) for band in inside.convert("YCbCr").split())
    counts = numpy.array(inside.convert("L").histogram())
    up_to = numpy.cumsum(counts) / counts.sum()
    shares = counts[counts > 0] / counts.sum()
    coarse = slice(None, None, COLOUR_STRIDE), slice(None, None, COLOUR_STRIDE)
    return Measures(
        size=size,
        sharpness=_rounded(sharpness(brightness.astype(numpy.float32))),
        highlight=_rounded(int(numpy.searchsorted(up_to, 0.99)) / 255),
        shadow=_rounded(int(numpy.searchsorted(up_to, 0.01)) / 255),
        entropy=_rounded(abs(float((shares * numpy.log2(shares)).sum()))),
        colour=_rounded(stray_colour(brightness[coarse], blue[coarse], red[coarse])),
        colourfulness=_rounded(colourfulness(numpy.asarray(inside)[coarse].astype(numpy.float32))),
        border=tuple(_rounded(share) for share in border),
        hashes=(perceptual_hash(inside), gradient_hash(inside)),
    )


def _reduced(picture: Image.Image) -> Image.Image:
    """A copy whose longer side has at most `REDUCED_SIDE` pixels."""
    scale = min(1.0, REDUCED_SIDE / max(picture.size))
    size = tuple(max(1, round(side * scale)) for side in picture.size)
    return picture.resize(size, Image.Resampling.BOX, reducing_gap=2.0)


def _rounded(value: float) -> float:
    return round(float(value), 4)


def sharpness(brightness: numpy.ndarray) -> float:
    """How much detail of one pixel there is for the contrast of the whole: 0.05 if blurred, 0.3 and more if crisp.

    The root mean square of the Laplacian over the standard deviation. Fog and dusk lessen both alike, so that they are
    not taken for blur. A picture without contrast gives 1: nothing in it is blurred.

    Args:
        brightness: `(height, width)`, 0 to 255.
    """
    if min(brightness.shape) < 3:
        return 1.0
    inner = brightness[1:-1, 1:-1]
    laplacian = 4 * inner - brightness[:-2, 1:-1] - brightness[2:, 1:-1] - brightness[1:-1, :-2] - brightness[1:-1, 2:]
    detail = float(numpy.square(laplacian).mean()) - LAPLACIAN_ROUNDING
    contrast = float(brightness.var())
    return math.sqrt(max(detail, 0.0) / contrast) if contrast > LAPLACIAN_ROUNDING else 1.0


def stray_colour(brightness: numpy.ndarray, blue: numpy.ndarray, red: numpy.ndarray) -> float:
    """How far the colour strays from what the brightness foretells, root mean square of Cb and Cr in steps of 255.

    A greyscale picture has 0, and a sepia, however brown, little more: its tone is a function of its brightness.

    Args:
        brightness, blue, red: `(height, width)`, the bands Y, Cb and Cr in whole numbers of 0 to 255.
    """
    tone = brightness.ravel()
    counts = numpy.maximum(numpy.bincount(tone, minlength=256), 1)
    stray = 0.0
    for values in (blue.ravel(), red.ravel()):
        foretold = numpy.bincount(tone, values, 256) / counts
        stray += float(numpy.square(values - foretold[tone]).mean())
    return math.sqrt(stray)


def colourfulness(pixels: numpy.ndarray) -> float:
    """The metric of Hasler and Süsstrunk (2003): about 15 slightly, 45 quite, 80 highly colourful.

    Args:
        pixels: `(height, width, 3)`, red, green and blue of 0 to 255.
    """
    red, green, blue = numpy.moveaxis(pixels, 2, 0)
    opponents = (red - green, (red + green) / 2 - blue)
    spread = math.hypot(*(float(values.std()) for values in opponents))
    return spread + 0.3 * math.hypot(*(float(values.mean()) for values in opponents))


def find_border(pixels: numpy.ndarray) -> tuple[float, float, float, float]:
    """The border around a picture, in shares of its width or height: left, top, right, bottom.

    A border is drawn: an even colour on two opposite sides, ending in a straight line. Several around each other are
    found (wall, then mat). A sky, a dark background or a gilded frame is none.

    Args:
        pixels: `(height, width, 3)`, 0 to 255.
    """
    height, width = pixels.shape[:2]
    left, top, right, bottom = 0, 0, width, height
    found = True
    while found:
        inside = pixels[top:bottom, left:right]
        above, below = _opposite_bands(inside)
        before, behind = _opposite_bands(inside[above : inside.shape[0] - below].swapaxes(0, 1))
        found = bool(above or before)
        left, top, right, bottom = left + before, top + above, right - behind, bottom - below
    return left / width, top / height, 1 - right / width, 1 - bottom / height


def _opposite_bands(pixels: numpy.ndarray) -> tuple[int, int]:
    """Rows of border at the top and at the bottom; none of either unless both have one, of the same colour."""
    first, last = (numpy.sort(pixels[row], axis=0)[pixels.shape[1] // 2].astype(numpy.int16) for row in (0, -1))
    if len(pixels) < 16 or numpy.abs(first - last).max() > BORDER_TOLERANCE:
        return 0, 0
    for row, colour in ((pixels[0], first), (pixels[-1], last)):  # nearly every painting is done with here
        if _alike(row, colour).mean() < BORDER_EVEN:
            return 0, 0
    depths = _band(pixels, first), _band(pixels[::-1], last)
    return depths if all(depths) else (0, 0)


def _band(pixels: numpy.ndarray, colour: numpy.ndarray) -> int:
    """How many rows from the first on have one even colour, if a straight line ends them."""
    shares = _alike(pixels[: int(len(pixels) * DEEPEST_BORDER) + BORDER_FADES + 1], colour).mean(axis=1)
    uneven = numpy.flatnonzero(shares < BORDER_EVEN)
    if not len(uneven) or uneven[0] + BORDER_FADES >= len(shares):
        return 0
    fading = shares[uneven[0] : uneven[0] + BORDER_FADES + 1]
    ended = numpy.flatnonzero(1 - fading >= BORDER_ENDS * (1 - shares.min()))
    return int(uneven[0] + ended[0]) if len(ended) else 0


def _alike(pixels: numpy.ndarray, colour: numpy.ndarray) -> numpy.ndarray:
    return (numpy.abs(pixels - colour) <= BORDER_TOLERANCE).all(axis=-1)


def _inner_box(size: tuple[int, int], border: Sequence[float]) -> tuple[int, int, int, int]:
    """What is inside the border, in pixels: left, top, right, bottom."""
    width, height = size
    left, top, right, bottom = border
    return round(left * width), round(top * height), round((1 - right) * width), round((1 - bottom) * height)


def perceptual_hash(picture: Image.Image) -> int:
    """64 bits that hardly change with size, compression and tone: which low frequencies are above their median.

    Zauner, "Implementation and benchmarking of perceptual image hash functions" (2010), as ImageHash computes it.
    """
    grey = numpy.asarray(picture.convert("L").resize((HASHED_SIDE, HASHED_SIDE), Image.Resampling.LANCZOS))
    cosines = _cosines()
    frequencies = cosines @ grey.astype(numpy.float64) @ cosines.T
    bits = numpy.packbits(frequencies.ravel() > numpy.median(frequencies))
    return int.from_bytes(bits.tobytes(), "big")


def gradient_hash(picture: Image.Image) -> int:
    """64 bits: where brightness rises from left to right. Krawetz, "Kind of like that" (2013), known as dHash."""
    size = HASH_FREQUENCIES + 1, HASH_FREQUENCIES
    grey = numpy.asarray(picture.convert("L").resize(size, Image.Resampling.LANCZOS))
    return int.from_bytes(numpy.packbits((grey[:, 1:] > grey[:, :-1]).ravel()).tobytes(), "big")


@functools.cache
def _cosines() -> numpy.ndarray:
    """The lowest rows of the discrete cosine transform (type II)."""
    frequency, place = numpy.arange(HASH_FREQUENCIES)[:, None], numpy.arange(HASHED_SIDE)[None]
    return numpy.cos(math.pi * frequency * (2 * place + 1) / (2 * HASHED_SIDE))
