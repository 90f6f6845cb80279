"""Things on a table, lit from one side: fruit, bread, cloth, and vessels turned on a wheel."""

from __future__ import annotations

import numpy as np

from .canvas import Canvas, Point, placed
from .colour import Colour, colour, mix
from .nature import Light, smooth

_FRUIT = {
    "apples": ("d0483c", "dd7a42", "b9b84a"),
    "oranges": ("f0973a", "ee8434", "f4a94c"),
    "peaches": ("f0ae72", "e8896a", "f2c288"),
    "lemons": ("f2d24a", "ecc63c", "f6de6c"),
    "pears": ("c4b84e", "d8bf5a", "b0ad4c"),
}


def cast_shadow(c: Canvas, light: Light, x: float, y: float, rx: float, ry: float) -> None:
    """The shadow an object throws away from the light: soft and violet."""
    tint = light.on(colour("7d6f96"), -0.35)
    cx = x - light.side * rx * 0.75
    ring = [(cx + 1.35 * rx * np.cos(a), y + ry * np.sin(a)) for a in np.linspace(0, 6.28, 24)]
    c.shade(ring, lambda px, py: np.broadcast_to(tint, (*px.shape, 3)), 0.05, 0.7, 0.007)


def _round(light: Light, x: float, y: float, r: float, tint: Colour, bounce: Colour | None = None):
    """Shading of a ball: light, turn, cool shadow, and light thrown back from the table at its foot."""
    lit, half, dark = light.on(tint, 0.95), light.on(tint, 0.1), light.on(mix(tint, colour("7a5f96"), 0.28), -0.7)
    glow = mix(dark, tint if bounce is None else bounce, 0.45)

    def shading(px, py):
        dx, dy = (px - x) / r, (py - y) / r
        t = (0.72 * dx * light.side - 0.62 * dy)[..., None]
        body = np.where(
            t > -0.05, half + (lit - half) * smooth(t, -0.05, 0.75), half + (dark - half) * smooth(-t, 0.05, 0.55)
        )
        rim = (smooth(-0.72 * dx * light.side + 0.55 * dy, 0.62, 0.95))[..., None]
        return body + (glow - body) * rim

    return shading


def _follow(x: float, y: float):
    return lambda px, py: np.arctan2(py - y, px - x) + np.pi / 2


def _ring(x: float, y: float, rx: float, ry: float, steps: int = 40) -> list[Point]:
    return [(x + rx * np.cos(a), y + ry * np.sin(a)) for a in np.linspace(0, 2 * np.pi, steps, endpoint=False)]


def fruit(c: Canvas, rng, light: Light, kind: str, x: float, y: float, r: float, shadow: bool = True) -> None:
    """One fruit resting on its foot at about (x, y + r)."""
    one, another = (colour(_FRUIT[kind][k]) for k in rng.permutation(3)[:2])
    tint = mix(one, another, 0.35 * rng.random())
    if shadow:
        cast_shadow(c, light, x, y + 0.86 * r, r, 0.30 * r)
    if kind == "pears":
        lean = rng.uniform(-0.25, 0.25)
        outline = []
        for a in np.linspace(0, 2 * np.pi, 40, endpoint=False):
            up = max(0.0, -np.sin(a))
            px, py = r * np.cos(a) * (1 - 0.55 * up**1.3), r * np.sin(a) * (1 + 0.75 * up**2)
            outline.append((x + px - py * lean * (py < 0), y + py))
        c.shade(outline, _round(light, x, y - 0.1 * r, 1.15 * r, tint), _follow(x, y), 0.5, 0.0015)
        stem = (x + 1.7 * r * lean, y - 1.68 * r)
    elif kind == "lemons":
        tilt = rng.uniform(-0.5, 0.5)
        outline = []
        for a in np.linspace(0, 2 * np.pi, 48, endpoint=False):
            px, py = 1.22 * r * np.cos(a), 0.86 * r * np.sin(a)
            px *= 1 + 0.10 * abs(np.cos(a)) ** 10
            outline.append(
                (x + px * np.cos(tilt) - py * np.sin(tilt), y + 0.1 * r + px * np.sin(tilt) + py * np.cos(tilt))
            )
        c.shade(outline, _round(light, x, y + 0.1 * r, r, tint), _follow(x, y), 0.5, 0.0015)
        stem = None
    else:
        c.shade(_ring(x, y, r * 1.04, r * 0.97), _round(light, x, y, r, tint), _follow(x, y), 0.5, 0.0015)
        stem = (x + 0.05 * r, y - 0.98 * r) if kind == "apples" else None
        if kind == "apples":
            blush = light.on(colour(("e8b94e", "c9c25a")[int(rng.integers(2))]), 0.4)
            c.glow(x + 0.3 * light.side * r, y - 0.5 * r, 0.35 * r, blush, 0.5)
            c.ellipse(
                x + 0.03 * r,
                y - 0.78 * r,
                0.22 * r,
                0.07 * r,
                light.on(mix(tint, colour("7a4f3c"), 0.5), -0.3),
                0,
                0.35,
            )
        if kind == "peaches":
            c.line(
                [(x - 0.1 * r, y - 0.9 * r), (x - 0.28 * r, y - 0.2 * r), (x - 0.12 * r, y + 0.6 * r)],
                0.03 * r,
                light.on(mix(tint, colour("c9604c"), 0.55), -0.15),
                0.4,
            )
    if stem is not None:
        c.line(
            [(stem[0], stem[1] + 0.24 * r), (stem[0] + 0.08 * r, stem[1] - 0.10 * r)],
            0.07 * r,
            light.on(colour("6a4a3c"), -0.2),
            0.3,
        )
    c.glow(x + 0.36 * light.side * r, y - 0.40 * r, 0.13 * r, colour("fffaf0"), 0.85)


def turned(
    c: Canvas, light: Light, x: float, profile: list[tuple[float, float]], tint: Colour, gloss: float = 0.6
) -> None:
    """A vessel turned on a wheel: `profile` lists (height y, half-width) from the mouth down."""
    heights, widths = [p[0] for p in profile], [p[1] for p in profile]
    ys = np.linspace(heights[0], heights[-1], 50)
    half = np.interp(ys, heights, widths)
    kernel = np.ones(5) / 5
    half = np.convolve(np.pad(half, 2, mode="edge"), kernel, mode="valid")
    foot = [(x + half[-1] * np.cos(a), ys[-1] + 0.22 * half[-1] * np.sin(a)) for a in np.linspace(0, np.pi, 12)]
    outline = [
        *((x - w, y) for w, y in zip(half, ys, strict=True)),
        *reversed(foot),
        *((x + w, y) for w, y in zip(half[::-1], ys[::-1], strict=True)),
    ]
    lit, mid, dark = light.on(tint, 0.9), light.on(tint, 0.05), light.on(mix(tint, colour("5f5a90"), 0.28), -0.75)

    def shading(px, py):
        t = (light.side * (px - x) / np.maximum(np.interp(py, ys, half), 1e-3))[..., None]
        body = np.where(t > 0, mid + (lit - mid) * smooth(t, 0, 0.75), mid + (dark - mid) * smooth(-t, 0, 0.7))
        return body + (mid - body) * 0.55 * smooth(-t, 0.78, 1.0)

    c.shade(outline, shading, lambda px, py: 1.57 + 0.5 * (px - x) / max(widths), 0.5, 0.0015)
    shine = x + 0.42 * light.side * float(np.interp(0.4, [0, 1], [widths[0], max(widths)]))
    level = heights[0] + 0.42 * (heights[-1] - heights[0])
    c.glow(shine, level, 0.16 * max(widths), colour("ffffff"), gloss)
    c.glow(shine, level + 0.18 * max(widths), 0.12 * max(widths), colour("ffffff"), gloss * 0.7)


def mouth(c: Canvas, light: Light, x: float, y: float, half: float, tint: Colour) -> None:
    c.ellipse(x, y, half, 0.24 * half, light.on(tint, 0.5), 0, 0.4)
    c.ellipse(x, y + 0.02 * half, 0.84 * half, 0.17 * half, light.on(mix(tint, colour("5f5a80"), 0.5), -0.6), 0, 0.4)


def bottle(c: Canvas, light: Light, x: float, foot: float, tall: float, tint: Colour) -> None:
    w = 0.155 * tall
    cast_shadow(c, light, x, foot, w, 0.05 * tall)
    shape = ((1, 0.28), (0.96, 0.36), (0.93, 0.28), (0.72, 0.31), (0.58, 0.95), (0.50, 1), (0, 0.98))
    profile = [(foot - up * tall, wide * w) for up, wide in shape]
    turned(c, light, x, profile, tint, 0.75)
    label = placed("-15.3,-38 15.3,-38 15.3,-18 -15.3,-18", x, foot, tall)
    paper = colour("ead9b4")

    def shading(px, py):
        t = np.clip(0.5 + 0.5 * light.side * (px - x) / w, 0, 1)[..., None]
        return light.on(paper, -0.7) + (light.on(paper, 0.6) - light.on(paper, -0.7)) * t

    c.shade(label, shading, 0.02, 0.5)


def cloth(c: Canvas, rng, light: Light, x: float, y: float, rx: float, ry: float) -> None:
    """A white cloth lying in folds and hanging over the table's front."""
    around = np.linspace(0, 2 * np.pi, 36, endpoint=False)
    wave = 1 + 0.10 * np.sin(around * 5 + rng.uniform(0, 6)) + 0.06 * np.sin(around * 9 + rng.uniform(0, 6))
    outline = [
        (x + rx * w * np.cos(a), y + ry * w * np.sin(a) * (1.0 if np.sin(a) < 0 else 1.5))
        for a, w in zip(around, wave, strict=True)
    ]
    folds = [(rng.uniform(-1, 1), rng.uniform(-0.9, 0.9), rng.uniform(14, 26)) for _ in range(4)]
    white, blue, warm = (
        light.on(colour("faf6ee"), 0.6),
        light.on(colour("aab2d6"), -0.2),
        light.on(colour("efe2d0"), 0.2),
    )

    def crease(px, py):
        u, v = (px - x) / rx, (py - y) / ry
        return sum(np.sin(f * 0.42 * (u * np.cos(a) + 0.6 * v * np.sin(a)) + b * 5) for a, b, f in folds) / 4

    def shading(px, py):
        t = np.clip(crease(px + 0.02 * np.sin(py * 30), py) * 1.2 + 0.25, -1, 1)[..., None]
        return np.where(t > 0, warm + (white - warm) * t, warm + (blue - warm) * -t)

    cast_shadow(c, light, x, y + 0.4 * ry, rx * 0.9, ry)
    c.shade(outline, shading, lambda px, py: 0.6 * np.sin(crease(px, py) * 2) + 0.5 * (px - x) / rx, 0.75, 0.003)


def bowl_of_fruit(c: Canvas, rng, light: Light, x: float, y: float, half: float, tint: Colour, kind: str) -> None:
    """A footed bowl heaped with fruit; its rim lies at y."""
    cast_shadow(c, light, x, y + 0.72 * half, 0.75 * half, 0.16 * half)
    r = 0.285 * half
    c.ellipse(x, y, half, 0.26 * half, light.on(tint, -0.5), 0.0, 0.5)
    for px, py in (
        (-0.52, -0.16),
        (0.52, -0.16),
        (0.0, -0.20),
        (-0.28, -0.52),
        (0.27, -0.54),
        (0.0, -0.86),
        (-0.70, 0.02),
        (0.70, 0.02),
        (-0.25, 0.03),
        (0.25, 0.04),
    ):
        fruit(
            c, rng, light, kind, x + px * half * 0.96, y + py * half * 0.72 - 0.02, r * rng.uniform(0.95, 1.08), False
        )
    profile = (
        [(y, half)]
        + [(y + 0.62 * half * s, half * (1 - 0.66 * s**1.7)) for s in (0.2, 0.4, 0.6, 0.8, 1.0)]
        + [(y + 0.76 * half, 0.42 * half)]
    )
    rim = [(x + half * np.cos(a), y + 0.26 * half * np.sin(a)) for a in np.linspace(0, np.pi, 20)]
    # The front of the bowl begins at the rim's lower edge, so that the fruit stands inside.
    ys, ws = [p[0] for p in profile], [p[1] for p in profile]
    side = [(w, level) for level in np.linspace(ys[0], ys[-1], 24) for w in (float(np.interp(level, ys, ws)),)]
    outline = [*reversed(rim), *((x + w, level) for w, level in side), *((x - w, level) for w, level in reversed(side))]
    lit, mid, dark = (
        light.on(tint, 0.9),
        light.on(mix(tint, colour("c9c4dc"), 0.4), 0.0),
        light.on(mix(tint, colour("7f86c0"), 0.4), -0.6),
    )

    def shading(px, py):
        t = (light.side * (px - x) / half)[..., None]
        body = np.where(t > 0, mid + (lit - mid) * smooth(t, -0.1, 0.7), mid + (dark - mid) * smooth(-t, 0.0, 0.8))
        band = (np.exp(-(((py - y - 0.34 * half) / (0.035 * half)) ** 2)) * 0.8)[..., None]
        return body + (light.on(colour("5f7fc0"), 0) - body) * band

    c.shade(outline, shading, lambda px, py: 0.5 * (px - x) / half, 0.5, 0.0015)
    c.line(rim, 0.028 * half, light.on(tint, 1.0), 0.4)


def pitcher(c: Canvas, light: Light, x: float, foot: float, w: float, tall: float, side: int, tint: Colour) -> None:
    """A jug of half-width `w` with its handle on `side` (-1, 1)."""
    cast_shadow(c, light, x, foot, w * 1.2, 0.036)
    turn = np.linspace(0.0, np.pi, 16)
    handle = [(x + side * (0.55 + 1.05 * np.sin(t)) * w, foot - tall * (0.90 - 0.55 * t / np.pi)) for t in turn]
    c.line(handle, 0.21 * w, light.on(tint, -0.5 if side != light.side else 0.6), 0.4)
    shape = ((1, 0.66), (0.92, 0.56), (0.78, 0.60), (0.50, 1.05), (0.30, 1.16), (0.08, 0.86), (0, 0.76))
    turned(c, light, x, [(foot - up * tall, wide * w) for up, wide in shape], tint, 0.9)
    mouth(c, light, x, foot - tall, 0.66 * w, tint)
    c.polygon(placed("-50,-8 -98,-17 -55,41", x, foot - tall, w, side), light.on(tint, 0.4), 0.3, 0.35)


def wine(c: Canvas, light: Light, x: float, foot: float, h: float) -> None:
    """A stemmed glass of red wine, `h` high."""
    cast_shadow(c, light, x, foot, 0.23 * h, 0.018)
    glass = light.on(colour("c9d4dc"), 0.3)
    c.line([(x, foot), (x, foot - 0.5 * h)], 0.010, glass, 0.35)
    c.ellipse(x, foot, 0.20 * h, 0.014, glass, 0, 0.4)
    bowl = placed("-21,-100 -24,-78 -15,-56 0,-48 15,-56 24,-78 21,-100", x, foot, h)
    c.polygon(bowl, mix(glass, light.on(colour("b0a8a0"), 0), 0.3), 1.4, 0.4)
    red = _round(light, x, foot - 0.66 * h, 0.27 * h, colour("a8323e"), colour("e0605c"))
    c.shade(placed("-23.5,-80 -15,-56 0,-49 15,-56 23.5,-80", x, foot, h), red, 1.4, 0.4, 0.001)
    c.ellipse(x, foot - 0.80 * h, 0.235 * h, 0.014, light.on(colour("c2505a"), 0.3), 0, 0.35)
    c.glow(x + 0.13 * light.side * h, foot - 0.84 * h, 0.018, colour("ffffff"), 0.8)


def loaf(c: Canvas, light: Light, x: float, y: float, half: float) -> None:
    """A loaf of bread with slashed crust, `half` its length from the middle."""
    cast_shadow(c, light, x, y + 0.055, 0.9 * half, 0.03)
    around = np.linspace(0, 6.28, 40)
    crust = [(x + half * np.cos(a), y + (0.085 if np.sin(a) < 0 else 0.055) * np.sin(a)) for a in around]
    c.shade(crust, _round(light, x, y, 0.85 * half, colour("d09a58"), colour("e0b070")), 0.2, 0.55, 0.002)
    for k in range(4):
        px = x + (-0.55 + 0.36 * k) * half
        c.line([(px - 0.1 * half, y), (px + 0.1 * half, y - 0.062)], 0.07 * half, light.on(colour("f0d6a0"), 0.4), 0.4)
        edge = [(px - 0.04 * half, y + 0.002), (px + 0.15 * half, y - 0.058)]
        c.line(edge, 0.03 * half, light.on(colour("8f5f3c"), -0.2), 0.35)
