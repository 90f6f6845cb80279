"""Two ways to finish the same drawn scene: smooth shading, and the impressionists' short strokes of broken colour.

The impressionist finish lays strokes from large to small. Each is a bent polygon drawn into a map of stroke numbers;
all that makes it paint (bristles, dry ends, relief) is then computed for every pixel at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .canvas import Canvas
from .colour import colour, from_oklab, to_oklab

ANY_STROKE = 0.0  # no stroke is too narrow
GROUND = colour("d9c7a6")  # a warm primed canvas, which shows in the gaps between strokes


@dataclass(frozen=True)
class _Layer:
    """Strokes of one size. Lengths are fractions of the picture's geometric mean side."""

    length: float
    ratio: float  # width / length
    coverage: float  # how often each point is covered on flat ground
    detail: float  # how much more often where the drawing changes
    edge: float  # colour distance (0..255) over which a stroke stops at another form's border


_PASSES = (
    (_Layer(0.085, 0.32, 1.9, 0.0, 62), _Layer(0.055, 0.30, 1.3, 0.5, 46)),
    (_Layer(0.042, 0.27, 0.9, 0.5, 36), _Layer(0.027, 0.27, 0.30, 1.2, 32), _Layer(0.016, 0.32, 0.0, 1.5, 28)),
)
_WASH = 0.72  # how much of the motif the first thin wash already shows; the rest is canvas


def plain(canvas: Canvas, width: int, height: int, seed: int) -> Image.Image:
    """The drawing itself, smooth, with the faint tooth that keeps large skies from banding."""
    smooth = canvas.image.resize((width, height), Image.Resampling.LANCZOS).filter(ImageFilter.GaussianBlur(0.6))
    tooth = np.random.default_rng(seed).normal(0, 2.2, (height, width, 1)).astype(np.float32)
    return Image.fromarray(np.clip(np.asarray(smooth, dtype=np.float32) + tooth, 0, 255).astype(np.uint8))


def impressionist(canvas: Canvas, width: int, height: int, seed: int, least_stroke: float = ANY_STROKE) -> Image.Image:
    """Short strokes along the forms, colours broken apart in OKLab, violet where a plain picture has black.

    Args:
        least_stroke: width of the narrowest strokes, as a fraction of the picture's geometric mean side. Narrower ones
            are made as wide, and as much longer, so that a picture that will be seen or trained on small keeps them.
    """
    rng = np.random.default_rng(seed)
    motif = _broken_light(canvas.pixels())
    full = np.asarray(_as_image(motif).resize((width, height), Image.Resampling.BILINEAR), dtype=np.float32)
    detail = _detail(motif)
    brush = np.asarray(canvas.flow.filter(ImageFilter.BoxBlur(2)), dtype=np.float32)
    wash = _as_image(full).filter(ImageFilter.BoxBlur(float(0.005 * np.sqrt(width * height))))
    painted = GROUND + (np.asarray(wash, dtype=np.float32) - GROUND) * _WASH
    relief = np.zeros((height, width), dtype=np.float32)
    for layers in _PASSES:
        strokes = _Strokes.concatenate(
            [_strokes(rng, layer, motif, brush, detail, (width, height), least_stroke) for layer in layers]
        )
        _lay(painted, relief, strokes, full, rng)
    return _lit(painted, relief, rng)


@dataclass(frozen=True)
class _Strokes:
    """Many strokes, every array with one row each; lengths in pixels."""

    x: np.ndarray
    y: np.ndarray
    angle: np.ndarray
    half_length: np.ndarray
    half_width: np.ndarray
    bend: np.ndarray  # how far the ends leave the tangent, in half lengths
    paint: np.ndarray  # (n, 3) colour laid down
    motif: np.ndarray  # (n, 3) colour of the drawing under the stroke's middle
    edge: np.ndarray

    @staticmethod
    def concatenate(parts: list[_Strokes]) -> _Strokes:
        return _Strokes(*(np.concatenate([getattr(p, name) for p in parts]) for name in _Strokes.__dataclass_fields__))


def _broken_light(rgb: np.ndarray) -> np.ndarray:
    """The palette without black: shadows rise to violet blue, lights warm a little, colours gain strength."""
    lab = to_oklab(rgb)
    lightness = lab[..., 0]
    shadow = np.clip(0.62 - lightness, 0, 1)
    lab[..., 1:] *= 1.16
    lab[..., 1] += 0.05 * shadow
    lab[..., 2] += 0.018 * lightness**2 - 0.17 * shadow**1.3
    lab[..., 0] = np.where(lightness < 0.66, 0.31 + (lightness / 0.66) ** 1.25 * 0.35, lightness)
    return from_oklab(lab)


def _detail(motif: np.ndarray) -> np.ndarray:
    """How much the drawing changes around each point (h, w), 0..1."""
    grey = motif @ np.array([0.35, 0.4, 0.25], dtype=np.float32)
    change = np.abs(np.gradient(grey, axis=0)) + np.abs(np.gradient(grey, axis=1))
    image = Image.fromarray(np.clip(change * 6, 0, 255).astype(np.uint8)).filter(ImageFilter.BoxBlur(3))
    return np.asarray(image, dtype=np.float32) / 255


def _strokes(
    rng, layer: _Layer, motif, brush, detail, sides: tuple[int, int], least_stroke: float = ANY_STROKE
) -> _Strokes:
    """Scatter one layer: evenly, denser where the brush is small or the drawing rich."""
    (width, height), (rows, columns) = sides, motif.shape[:2]
    scale = np.sqrt(width * height) * layer.length
    spacing = scale * np.sqrt(layer.ratio) * 0.62  # of the densest scatter; most sites are then thinned out
    count_x, count_y = int(width / spacing) + 1, int(height / spacing) + 1
    x = (np.arange(count_x)[None] + rng.random((count_y, count_x))).ravel() * (width / count_x)
    y = (np.arange(count_y)[:, None] + rng.random((count_y, count_x))).ravel() * (height / count_y)
    column, row = (x * columns / width).astype(int), (y * rows / height).astype(int)
    flow = brush[row, column]
    size = np.maximum(np.clip(flow[:, 2] / 128, 0.3, 2), least_stroke / (layer.length * layer.ratio))
    wanted = (layer.coverage + layer.detail * np.minimum(1, 2.2 * detail[row, column])) * 0.62**2 / size**2
    kept = rng.permutation(np.flatnonzero(rng.random(x.size) < wanted))
    x, y, column, row, size, flow = x[kept], y[kept], column[kept], row[kept], size[kept], flow[kept]

    n = x.size
    angle = 0.5 * np.arctan2(flow[:, 1] - 127.5, flow[:, 0] - 127.5) + rng.normal(0, 0.16, n)
    half_length = 0.5 * scale * size * rng.uniform(0.75, 1.25, n)
    half_width = half_length * layer.ratio * rng.uniform(0.8, 1.25, n)
    # The flow a little further on tells how the stroke bends.
    ahead_x = np.clip(((x + np.cos(angle) * half_length) * columns / width).astype(int), 0, columns - 1)
    ahead_y = np.clip(((y + np.sin(angle) * half_length) * rows / height).astype(int), 0, rows - 1)
    ahead = brush[ahead_y, ahead_x]
    turn = 0.5 * np.arctan2(ahead[:, 1] - 127.5, ahead[:, 0] - 127.5) - angle
    turn = (turn + np.pi / 2) % np.pi - np.pi / 2
    bend = np.clip(0.5 * turn, -0.3, 0.3) + rng.normal(0, 0.05, n)
    under = motif[row, column]
    return _Strokes(
        x, y, angle, half_length, half_width, bend, _broken_colour(rng, under, size), under, np.full(n, layer.edge)
    )


def _broken_colour(rng, under: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Neighbouring strokes differ in hue and value around the motif's colour; a few lean to its complement.

    Small strokes draw (faces, windows), so they keep closer to the motif.
    """
    lab = to_oklab(under)
    n = len(lab)
    free = np.clip(size, 0.35, 1.0)
    hue = rng.normal(0, 0.21, n) * free
    chroma = rng.normal(1.06, 0.15 * free)
    a, b = lab[:, 1].copy(), lab[:, 2].copy()
    opposite = rng.random(n) < 0.055 * free**2
    chroma = np.where(opposite, -0.2, chroma)
    lab[:, 1] = (a * np.cos(hue) - b * np.sin(hue)) * chroma + rng.normal(0, 0.013, n) * free
    lab[:, 2] = (a * np.sin(hue) + b * np.cos(hue)) * chroma + rng.normal(0, 0.015, n) * free
    lab[:, 0] = np.clip(lab[:, 0] + rng.normal(0, 0.029, n) * free, 0.31, 0.985)
    return from_oklab(lab)


_TIPS = np.array([-1.0, -0.55, 0.0, 0.55, 1.0])
_GIRTH = np.array([0.62, 0.98, 1.0, 0.95, 0.55])  # of the half width, along the stroke


def _number_map(strokes: _Strokes, width: int, height: int) -> np.ndarray:
    """Draw all strokes, later over earlier; each pixel holds its stroke's index + 1, or 0."""
    cos, sin = np.cos(strokes.angle)[:, None], np.sin(strokes.angle)[:, None]
    along = strokes.half_length[:, None] * _TIPS
    spine = strokes.bend[:, None] * strokes.half_length[:, None] * _TIPS**2
    girth = strokes.half_width[:, None] * _GIRTH
    outline = []
    for across, order in ((spine + girth, slice(None)), (spine - girth, slice(None, None, -1))):
        x = strokes.x[:, None] + along * cos - across * sin
        y = strokes.y[:, None] + along * sin + across * cos
        outline.append(np.stack([x, y], axis=2)[:, order])
    image = Image.new("I", (width, height))
    draw = ImageDraw.Draw(image)
    for number, corners in enumerate(np.concatenate(outline, axis=1).reshape(len(strokes.x), -1).tolist(), start=1):
        draw.polygon(corners, fill=number)
    return np.asarray(image)


def _bristles(rng) -> np.ndarray:
    """Marks of a hog brush: (along, across), 0..1, changing quickly across a stroke and slowly along it."""
    hairs = rng.random((12, 512), dtype=np.float32)
    marks = np.asarray(Image.fromarray(hairs).resize((512, 96), Image.Resampling.BICUBIC))
    return np.clip((marks + np.roll(marks, 1, axis=1)) * 0.5, 0, 1)


def _lay(painted: np.ndarray, relief: np.ndarray, strokes: _Strokes, motif: np.ndarray, rng) -> None:
    """Put the strokes' paint on `painted` (h, w, 3) and its thickness on `relief` (h, w), in place."""
    height, width = relief.shape
    numbers = _number_map(strokes, width, height).ravel()
    where = np.flatnonzero(numbers)
    n = numbers[where] - 1
    rows, columns = np.divmod(where.astype(np.int32), np.int32(width))

    def of(values: np.ndarray) -> np.ndarray:
        return np.take(values.astype(np.float32), n, axis=0)

    cos, sin = of(np.cos(strokes.angle)), of(np.sin(strokes.angle))
    length, girth = of(strokes.half_length), of(strokes.half_width)
    dx, dy = columns + np.float32(0.5) - of(strokes.x), rows + np.float32(0.5) - of(strokes.y)
    u = (dx * cos + dy * sin) / length
    v = (dy * cos - dx * sin) / girth - of(strokes.bend) * (length / girth) * u * u

    marks = _bristles(rng)
    offset = rng.integers(0, 512, len(strokes.x))
    hair = ((v + 1) * np.minimum(girth, 14) * 0.9 + 64).astype(np.int32)
    mark = marks[np.clip((u + 1) * 47, 0, 95).astype(np.int32), (hair + np.take(offset, n)) & 511]
    side = np.clip((1.05 - np.abs(v)) * girth * 0.8, 0, 1)
    tail = np.clip((1.05 - u) * 3.2 + (mark - 0.62) * 2.2, 0, 1)  # the brush runs dry towards the end
    body = np.clip(mark * 7 - 0.7, 0.15, 1)
    border = of(strokes.motif) - np.take(motif.reshape(-1, 3), where, axis=0)
    strange = np.sqrt(np.einsum("ij,ij->i", border, border)) / of(strokes.edge)
    alpha = side * tail * body * np.clip(1.9 - strange, 0, 1)

    laid = of(strokes.paint) * (1 + 0.13 * (mark - 0.5))[:, None]
    surface, thickness = painted.reshape(-1, 3), relief.reshape(-1)
    under = np.take(surface, where, axis=0)
    surface[where] = under + (laid - under) * alpha[:, None]
    ridge = (0.35 + 0.65 * mark) * (1 - 0.5 * v * v) * np.minimum(girth, 8) / 8
    thickness[where] = thickness[where] * (1 - 0.8 * alpha) + ridge * alpha


def _lit(painted: np.ndarray, relief: np.ndarray, rng) -> Image.Image:
    """Light from the upper left rakes over the paint's relief; the darkest paint stays well above black."""
    slope = np.zeros_like(relief)
    slope[1:, 1:] = relief[1:, 1:] - relief[:-1, :-1]
    weave = rng.normal(0, 0.012, relief.shape).astype(np.float32)
    lit = painted * (1 + np.clip(0.20 * slope + weave, -0.10, 0.10))[..., None]
    return _as_image(lit)


def _as_image(rgb: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(rgb, 0, 255).astype(np.uint8))
