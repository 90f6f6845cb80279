"""Heads and shoulders, lit from one side: faces, hair and what is worn."""

from __future__ import annotations

import numpy as np

from .canvas import Canvas, Point
from .colour import Colour, colour, mix
from .nature import Light, smooth


def oval(x: float, y: float, rx: float, ry: float, lean: float = 0.0, jaw: float = 1.0) -> list[Point]:
    """An egg: an ellipse leaning by `lean` radians whose lower half narrows by `jaw`."""
    points = []
    for a in np.linspace(0, 2 * np.pi, 48, endpoint=False):
        px, py = rx * np.cos(a), ry * np.sin(a)
        px *= 1 - (1 - jaw) * max(0.0, np.sin(a)) ** 1.5
        points.append((x + px * np.cos(lean) - py * np.sin(lean), y + px * np.sin(lean) + py * np.cos(lean)))
    return points


def flesh(light: Light, x: float, y: float, r: float):
    """Shading of a head of radius `r` at (x, y): warm in light, rosy at the turn, cool violet in shadow."""
    skin = colour("ecc3a2")
    lit, turn, dark = light.on(skin, 0.75), light.on(mix(skin, colour("d98a78"), 0.32), 0.0), light.on(skin, -0.5)

    def shading(px, py):
        t = (((px - x) * light.side * 0.85 - (py - y) * 0.42) / r)[..., None]
        return np.where(
            t > 0.05, turn + (lit - turn) * smooth(t, 0.05, 0.6), turn + (dark - turn) * smooth(-t, -0.05, 0.65)
        )

    return shading


def around(x: float, y: float):
    """Brush movement that runs round a point, as hair does."""
    return lambda px, py: np.arctan2(py - y, px - x) + np.pi / 2


def down(x: float, y: float, r: float):
    """Brush movement down a head of half-width `r`, bending with its sides."""
    return lambda px, py: np.pi / 2 - 0.9 * (px - x) * (py - y) / (r * r)


def cloth(c: Canvas, rng, light: Light, tint: Colour):
    """Shading of cloth: broad folds, light on one side."""
    folds = c.noise(rng, 9, 4, 3)

    def shading(px, py):
        t = (c.sample(folds, px, py) - 0.5) * 2.4 + 0.9 * light.side * (px / c.aspect - 0.5)
        t = np.clip(t, -1, 1)[..., None]
        lit, half, dark = light.on(tint, 0.95), light.on(tint, 0), light.on(tint, -0.9)
        return np.where(t > 0, half + (lit - half) * t, half + (dark - half) * -t)

    return shading


def bust(c: Canvas, rng, light: Light, x: float, head_y: float, r: float, tint: Colour) -> None:
    """Neck and clothed shoulders under a head of half-width `r`."""
    chin = head_y + 1.15 * r
    left = [
        (x - 2.05 * r, 1.05),
        (x - 1.95 * r, chin + 1.45 * r),
        (x - 1.45 * r, chin + 0.66 * r),
        (x - 0.62 * r, chin + 0.26 * r),
    ]
    right = [
        (x + 0.62 * r, chin + 0.26 * r),
        (x + 1.45 * r, chin + 0.66 * r),
        (x + 1.95 * r, chin + 1.45 * r),
        (x + 2.05 * r, 1.05),
    ]
    skin = flesh(light, x, chin - 0.6 * r, 1.3 * r)
    neck = [
        (x - 0.40 * r, head_y + 0.5 * r),
        (x + 0.40 * r, head_y + 0.5 * r),
        (x + 0.62 * r, chin + 0.34 * r),
        (x, chin + 0.8 * r),
        (x - 0.62 * r, chin + 0.34 * r),
    ]
    c.shade(
        [*left, (x, chin + 0.6 * r), *right],
        cloth(c, rng, light, tint),
        lambda px, py: 1.2 + 1.5 * (px - x) / r * 0.4,
        1.0,
        0.003,
    )
    c.shade(neck, lambda px, py: skin(px, py) * np.array([0.93, 0.90, 0.95]), 1.4, 0.6, 0.003)


def face(c: Canvas, light: Light, x: float, y: float, r: float, turn: float, lips: Colour | None = None) -> None:
    """A face of half-width about `r`, turned by `turn` (-1..1), eyes lowered."""
    skin = flesh(light, x, y, 1.15 * r)
    c.shade(oval(x, y, 0.86 * r, 1.15 * r, 0.06 * turn, 0.72), skin, down(x, y, r), 0.42, 0.002)
    middle = x + 0.20 * turn * r
    shadow, line = light.on(colour("c08878"), -0.45), light.on(colour("7c5656"), -0.25)
    blush = light.on(colour("dd8577"), 0.15)
    for side in (-1, 1):
        eye = middle + side * (0.36 - 0.07 * turn * side) * r
        wide = 0.17 * (1 - 0.25 * turn * side) * r
        patch(c, eye, y - 0.03 * r, wide * 1.35, 0.11 * r, shadow, 0.42)
        patch(c, eye + side * 0.10 * r, y + 0.42 * r, 0.26 * r, 0.20 * r, blush, 0.55)
        arc = [(eye + wide * t, y + (0.075 - 0.07 * t * t) * r) for t in np.linspace(-1, 1, 9)]
        c.line(arc, 0.038 * r, line, 0.3)
        brow = [
            (eye + 1.25 * wide * t, y + (-0.235 + 0.065 * (t - 0.1 * side) ** 2) * r) for t in np.linspace(-1, 1, 9)
        ]
        c.line(brow, 0.036 * r, mix(line, shadow, 0.35), 0.3)
    tip_x, tip_y = middle + 0.10 * turn * r, y + 0.44 * r
    dark = -light.side
    bridge = [
        (middle + 0.05 * dark * r, y + 0.02 * r),
        (tip_x + 0.13 * dark * r, tip_y),
        (tip_x + 0.02 * dark * r, tip_y + 0.045 * r),
        (middle - 0.01 * dark * r, y + 0.1 * r),
    ]
    c.shade(bridge, lambda px, py: np.broadcast_to(shadow, (*px.shape, 3)), 1.5, 0.32, 0.012 * r / 0.2)
    patch(c, tip_x, tip_y + 0.05 * r, 0.12 * r, 0.04 * r, light.on(colour("b87468"), -0.3), 0.75)
    patch(c, tip_x - 0.03 * dark * r, tip_y - 0.06 * r, 0.05 * r, 0.06 * r, light.on(colour("fbe3cc"), 0.8), 0.7)
    lips = light.on(colour("c4605c") if lips is None else lips, 0.0)
    mouth = middle + 0.03 * turn * r
    patch(c, mouth, y + 0.685 * r, 0.20 * r, 0.045 * r, mix(lips, line, 0.2), 0.9)
    patch(c, mouth, y + 0.745 * r, 0.15 * r, 0.05 * r, mix(lips, colour("f0b0a0"), 0.25), 0.85)
    patch(c, mouth, y + 0.835 * r, 0.13 * r, 0.03 * r, shadow, 0.4)


def patch(c: Canvas, x: float, y: float, rx: float, ry: float, tint: Colour, strength: float) -> None:
    """A soft touch of colour that leaves the brush's movement mostly as it is."""
    left, top = max(0, int((x - 2 * rx) * c.height)), max(0, int((y - 2 * ry) * c.height))
    right, bottom = min(c.width, int((x + 2 * rx) * c.height) + 2), min(c.height, int((y + 2 * ry) * c.height) + 2)
    if right <= left or bottom <= top:
        return
    px = ((np.arange(left, right) + 0.5) / c.height - x) / rx
    py = ((np.arange(top, bottom) + 0.5) / c.height - y) / ry
    c.tint((left, top, right, bottom), tint, strength * np.exp(-1.3 * (px[None] ** 2 + py[:, None] ** 2)))


def hair(c: Canvas, rng, light: Light, points: list[Point], tint: Colour, x: float, y: float) -> None:
    """A mass of hair whose strands run around (x, y)."""
    strands = c.noise(rng, 10, 10, 3)
    lit, half, dark = light.on(mix(tint, colour("e8c48a"), 0.25), 0.8), light.on(tint, 0), light.on(tint, -0.7)

    def shading(px, py):
        t = (c.sample(strands, px, py) - 0.5) * 1.5 + 3.2 * light.side * (px - x) - 2.2 * (py - y)
        t = np.clip(t, -1, 1)[..., None]
        return np.where(t > 0, half + (lit - half) * t, half + (dark - half) * -t)

    c.shade(points, shading, around(x, y), 0.5, 0.003)
