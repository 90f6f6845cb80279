"""A drawing surface that remembers, beside every colour, how a brush would move there.

Scenes are drawn here once; the finishes then render what they find. Coordinates are in units of the picture's height:
x runs from 0 to `aspect`, y from 0 (top) to 1 (bottom), so that a circle is round in every format.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Point = tuple[float, float]
_DAB = ((-1.0, -0.15), (-0.5, -0.85), (0.2, -1.0), (0.8, -0.55), (1.0, 0.1), (0.55, 0.8), (-0.1, 1.0), (-0.75, 0.6))
Shading = Callable[
    [np.ndarray, np.ndarray], np.ndarray
]  # x and y of some points, (h, w) each -> their colours (h, w, 3)


def outline(numbers: str) -> list[Point]:
    """The points of an outline written as ``"x,y x,y …"``, in hundredths."""
    return [(float(x) / 100, float(y) / 100) for x, y in (pair.split(",") for pair in numbers.split())]


def placed(numbers: str, x: float, y: float, size: float = 1.0, side: float = 1.0) -> list[Point]:
    """The same, `size` times as large around (x, y), and mirrored where `side` is -1."""
    return [(x + side * size * px, y + size * py) for px, py in outline(numbers)]


class Canvas:
    """Colour (`image`) and brush movement (`flow`: cos 2θ, sin 2θ and stroke size as bytes) of the same shapes."""

    def __init__(self, width: int, height: int):
        """`width` and `height` in pixels."""
        self.width, self.height = width, height
        self.aspect = width / height
        self.image = Image.new("RGB", (width, height), (200, 190, 170))
        self.flow = Image.new("RGB", (width, height), _brush(0.0, 1.0))
        self.drawn: set[str] = set()  # what the picture shows, in the nouns that its caption must use
        self._colour = ImageDraw.Draw(self.image)
        self._brush = ImageDraw.Draw(self.flow)

    # Flat shapes

    def polygon(self, points: Sequence[Point], fill: np.ndarray, angle: float = 0.0, size: float = 1.0) -> None:
        """Fill a polygon; the brush moves at `angle` (radians, clockwise from right); `size` 1 is a normal stroke."""
        corners = [(x * self.height, y * self.height) for x, y in points]
        self._colour.polygon(corners, fill=_ink(fill))
        self._brush.polygon(corners, fill=_brush(angle, size))

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, fill: np.ndarray, angle: float = 0.0, size: float = 1.0
    ) -> None:
        """Fill an upright ellipse around (x, y)."""
        box = [(x - rx) * self.height, (y - ry) * self.height, (x + rx) * self.height, (y + ry) * self.height]
        self._colour.ellipse(box, fill=_ink(fill))
        self._brush.ellipse(box, fill=_brush(angle, size))

    def dab(self, x: float, y: float, length: float, width: float, fill: np.ndarray, angle: float, size: float) -> None:
        """A pointed touch of the brush around (x, y); `length` and `width` are halves of its extent."""
        cos, sin = math.cos(angle), math.sin(angle)
        self.polygon(
            [(x + length * u * cos - width * v * sin, y + length * u * sin + width * v * cos) for u, v in _DAB],
            fill,
            angle,
            size,
        )

    def line(self, points: Sequence[Point], width: float, fill: np.ndarray, size: float = 0.5) -> None:
        """Draw a line of `width` (in picture heights); the brush follows it."""
        corners = [(x * self.height, y * self.height) for x, y in points]
        pixels = max(1, round(width * self.height))
        self._colour.line(corners, fill=_ink(fill), width=pixels, joint="curve")
        (x0, y0), (x1, y1) = points[0], points[-1]
        self._brush.line(corners, fill=_brush(math.atan2(y1 - y0, x1 - x0), size), width=pixels, joint="curve")

    # Shaded shapes

    def shade(
        self,
        points: Sequence[Point],
        shading: Shading,
        angle: float | np.ndarray | Callable[[np.ndarray, np.ndarray], np.ndarray] = 0.0,
        size: float = 1.0,
        soft: float = 0.0,
    ) -> None:
        """Fill a polygon with colours computed from each point's coordinates; `soft` blurs its outline (heights)."""
        margin = 3 * soft
        xs, ys = [p[0] for p in points], [p[1] for p in points]
        left = max(0, int((min(xs) - margin) * self.height))
        top = max(0, int((min(ys) - margin) * self.height))
        right = min(self.width, int((max(xs) + margin) * self.height) + 2)
        bottom = min(self.height, int((max(ys) + margin) * self.height) + 2)
        if right <= left or bottom <= top:
            return
        mask = Image.new("L", (right - left, bottom - top))
        ImageDraw.Draw(mask).polygon([(x * self.height - left, y * self.height - top) for x, y in points], fill=255)
        if soft:
            mask = mask.filter(ImageFilter.GaussianBlur(soft * self.height))
        x, y = np.meshgrid(
            (np.arange(left, right, dtype=np.float32) + 0.5) / self.height,
            (np.arange(top, bottom, dtype=np.float32) + 0.5) / self.height,
        )
        self._paste(shading(x, y), angle(x, y) if callable(angle) else angle, size, (left, top), mask)

    def cover(self, colours: np.ndarray, alpha: np.ndarray, angle: float | np.ndarray = 0.0, size: float = 1.0) -> None:
        """Blend `colours` ((height, width, 3) or one colour) over the whole surface with `alpha` (height, width), 0..1.

        The brush changes where alpha is over a half.
        """
        base = self.pixels()
        self.image.paste(_picture(base + (colours - base) * alpha[..., None]))
        mask = Image.fromarray(((alpha > 0.5) * 255).astype(np.uint8))
        self.flow.paste(_brush_picture(angle, size, alpha.shape), (0, 0), mask)

    def glow(self, x: float, y: float, radius: float, light: np.ndarray, strength: float) -> None:
        """Add light around (x, y), falling off to nothing at about twice `radius`; the brush stays as it is."""
        left, right = (
            max(0, int((x - 2.2 * radius) * self.height)),
            min(self.width, int((x + 2.2 * radius) * self.height)),
        )
        top, bottom = (
            max(0, int((y - 2.2 * radius) * self.height)),
            min(self.height, int((y + 2.2 * radius) * self.height)),
        )
        if right <= left or bottom <= top:
            return
        across = ((np.arange(left, right, dtype=np.float32) + 0.5) / self.height - x) / radius
        down = ((np.arange(top, bottom, dtype=np.float32) + 0.5) / self.height - y) / radius
        distance = across[None] ** 2 + down[:, None] ** 2
        alpha = (strength * np.clip(np.exp(-1.1 * distance) - 0.005, 0, 1))[..., None]
        part = np.asarray(self.image.crop((left, top, right, bottom)), dtype=np.float32)
        # Screen rather than mix, so that a glow never darkens what it falls on.
        lit = 255 - (255 - part) * (255 - light) / 255
        self.image.paste(_picture(part + (lit - part) * alpha), (left, top))

    def tint(self, box: tuple[int, int, int, int], fill: np.ndarray, alpha: np.ndarray) -> None:
        """Blend a colour over a pixel box (left, top, right, bottom) with `alpha` (h, w); the brush is not changed."""
        part = np.asarray(self.image.crop(box), dtype=np.float32)
        self.image.paste(_picture(part + (fill - part) * alpha[..., None]), box[:2])

    # What lies under the brush

    def pixels(self) -> np.ndarray:
        """The colours as float32 (height, width, 3), 0..255."""
        return np.asarray(self.image, dtype=np.float32)

    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """x (1, width) and y (height, 1) of every pixel's middle."""
        x = (np.arange(self.width, dtype=np.float32) + 0.5) / self.height
        y = (np.arange(self.height, dtype=np.float32) + 0.5) / self.height
        return x[None], y[:, None]

    def noise(self, rng: np.random.Generator, cells_x: int, cells_y: int, octaves: int = 3) -> np.ndarray:
        """Smooth noise (height, width), 0..1 around 0.5, the same picture at every resolution."""
        total = np.zeros((self.height, self.width), dtype=np.float32)
        weight = 0.0
        for octave in range(octaves):
            lattice = rng.random((cells_y * 2**octave + 3, cells_x * 2**octave + 3), dtype=np.float32)
            layer = Image.fromarray(lattice).resize((self.width, self.height), Image.Resampling.BICUBIC)
            total += np.asarray(layer) * 0.5**octave
            weight += 0.5**octave
        return np.clip((total / weight - 0.5) * 1.5 + 0.5, 0, 1)

    def sample(self, field: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The values of a (height, width) field at the points x, y; those outside take the nearest inside."""
        rows = np.clip((y * self.height).astype(int), 0, self.height - 1)
        return field[rows, np.clip((x * self.height).astype(int), 0, self.width - 1)]

    def _paste(self, colours, angle, size, corner, mask) -> None:
        self.image.paste(_picture(colours), corner, mask)
        brush = _brush_picture(angle, size, (mask.height, mask.width))
        self.flow.paste(brush, corner, mask.point(lambda value: 255 if value > 127 else 0))


def _ink(fill: np.ndarray) -> tuple[int, int, int]:
    red, green, blue = (min(255, max(0, int(value))) for value in fill)
    return red, green, blue


def _brush(angle: float, size: float) -> tuple[int, int, int]:
    return (
        int(127.5 + 127 * math.cos(2 * angle)),
        int(127.5 + 127 * math.sin(2 * angle)),
        min(255, max(1, int(size * 128))),
    )


def _picture(colours: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(colours, 0, 255).astype(np.uint8))


def _brush_picture(angle: float | np.ndarray, size: float, shape: tuple[int, int]) -> Image.Image:
    if np.isscalar(angle):
        return Image.new("RGB", (shape[1], shape[0]), _brush(float(angle), size))
    brush = np.empty((*shape, 3), dtype=np.uint8)
    brush[..., 0] = 127.5 + 127 * np.cos(2 * angle)
    brush[..., 1] = 127.5 + 127 * np.sin(2 * angle)
    brush[..., 2] = min(255, max(1, int(size * 128)))
    return Image.fromarray(brush)
