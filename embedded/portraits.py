"""Portraits: quiet people, lit from one side, their eyes lowered or turned away."""

from __future__ import annotations

import numpy as np

from . import heads
from .canvas import Canvas, outline, placed
from .colour import Colour, colour, mix
from .nature import Light, flowers, foliage, grasses, light_of, parasol, sky, smooth
from .scenes import Scene

_TINTS = {
    "white": "f7f1e8",
    "pale pink": "f1cdc8",
    "pale blue": "c2d4ea",
    "green": "6f9a72",
    "ochre": "d9a24e",
    "rose": "d98a94",
    "blue": "5d7fc0",
    "red": "c9483c",
    "violet": "8f76b8",
    "yellow": "ecc95e",
    "brown": "94684a",
    "auburn": "a4583a",
    "dark": "5c4550",
    "fair": "d8af68",
    "grey": "b9b4b8",
}
_BACKDROPS = ("8aa29a", "a89bb8", "b59a86", "7f95b4", "9aa37c")
# A head in profile looking right, in head half-widths around the temple.
_PROFILE = outline(
    "10,-110 46,-102 68,-78 76,-50 75.5,-30 72,-17 74,-8 83,8 93.5,24 93,29.5 80,33.5 77.5,40 83,45.5 83.5,50 "
    "79,54.5 82,60 80,67 75.5,71 76.5,80 74,93 62,101 42,98 15,86 -5,74 -10,110 -58,115 -58,40 -60,-60"
)
_GATHERED_HAIR = outline(
    "62,-72 52,-106 18,-130 -30,-136 -76,-114 -102,-68 -102,-14 -82,34 -55,56 -42,40 -34,24 -12,26 -6,0 8,-22 30,-46"
)


def draw(c: Canvas, scene: Scene) -> None:
    """Draw a portrait scene."""
    rng = scene.random()
    light = light_of(scene.light, -1.0 if rng.random() < 0.5 else 1.0)
    _COMPOSITIONS[scene.composition](c, scene, light, rng)


def _tint(scene: Scene, what: str) -> Colour:
    return colour(_TINTS[scene.choice(what)])


def _backdrop(c: Canvas, rng, light: Light) -> None:
    """A wall of scumbled colour, lighter towards the light."""
    x, y = c.grid()
    base = colour(_BACKDROPS[int(rng.integers(len(_BACKDROPS)))])
    cloud = c.noise(rng, 4, 5, 3)
    toward = (x / c.aspect - 0.5) * light.side - 0.25 * (y - 0.4)
    t = np.clip(0.5 + 0.7 * toward + 0.5 * (cloud - 0.5), 0, 1)[..., None]
    dark, lit = light.on(base, -0.75), light.on(mix(base, colour("f0dcc0"), 0.25), 0.6)
    c.cover(dark + (lit - dark) * t, np.ones_like(cloud), 0.8 * light.side + 2.4 * (cloud - 0.5), 1.25)


def _garden(c: Canvas, rng, light: Light) -> None:
    """Leaves out of focus, with spots of sun and flowers."""
    x, y = c.grid()
    cloud = c.noise(rng, 6, 7, 4)
    dark, mid = light.on(colour("567f5c"), -0.7), light.on(colour("9dbb74"), 0.5)
    c.cover(dark + (mid - dark) * smooth(cloud, 0.2, 0.8)[..., None], np.ones_like(cloud), 3 * cloud, 1.0)
    for _ in range(18):
        foliage(
            c,
            rng,
            light,
            rng.uniform(0, c.aspect),
            rng.uniform(-0.05, 1),
            0.16,
            0.13,
            mix(colour("5f8a5c"), colour("a3b964"), rng.random()),
            40,
            0.024,
            0.75,
        )
    flowers(c, rng, light, 0.0, 130, [colour("f3b5bd"), colour("fbf1e2"), colour("e88a7a")], 0.011)


def _place(c: Canvas, rng) -> tuple[float, float, float]:
    """Middle, height and half-width of a head that suits the format."""
    r = 0.165 * min(1.0, c.aspect**0.6 * 1.08)
    return c.aspect * rng.uniform(0.46, 0.54), 0.40, r


def _straw_hat(c: Canvas, scene: Scene, light: Light, rng) -> None:
    _garden(c, rng, light)
    x, y, r = _place(c, rng)
    turn = -light.side * 0.7 if rng.random() < 0.3 else light.side * 0.7
    hair = colour(("8a5a42", "b3824e", "6b4c4a")[int(rng.integers(3))])
    heads.hair(c, rng, light, heads.oval(x - 0.12 * turn * r, y + 0.10 * r, 1.06 * r, 1.18 * r, 0, 0.85), hair, x, y)
    heads.bust(c, rng, light, x, y, r, _tint(scene, "dress"))
    heads.face(c, light, x, y, r, turn)
    straw = colour("e6c67e")
    # Under the brim the brow lies in shadow, which also softens the eyes.
    brim = heads.oval(x, y - 0.60 * r, 1.66 * r, 0.36 * r, -0.10 * turn)
    heads.patch(c, x, y - 0.36 * r, 0.80 * r, 0.30 * r, light.on(colour("b58a78"), -0.4), 0.7)

    def weave(px, py):
        t = np.clip((px - x) * light.side / (1.6 * r) + 0.25 - 0.8 * (py - y + 0.5 * r) / r, -1, 1)[..., None]
        lit, half, dark = light.on(straw, 0.9), light.on(straw, 0.1), light.on(mix(straw, colour("b08a6a"), 0.4), -0.6)
        return np.where(t > 0, half + (lit - half) * t, half + (dark - half) * -t)

    c.shade(brim, weave, lambda px, py: np.arctan2((py - y + 0.5 * r) * 3.4, (px - x)) + np.pi / 2, 0.55, 0.002)
    round_crown = heads.oval(x - 0.05 * turn * r, y - 0.72 * r, 0.90 * r, 0.72 * r)
    crown = [(px, min(py, y - 0.52 * r)) for px, py in round_crown]
    c.shade(crown, weave, heads.around(x, y - 0.6 * r), 0.5, 0.002)
    ribbon = _tint(scene, "ribbon")
    for row in range(4):
        level = y - (0.66 + 0.055 * row) * r
        band = [(x - 0.05 * turn * r + 0.91 * r * t, level + 0.10 * r * (1 - t * t)) for t in np.linspace(-1, 1, 15)]
        c.line(band, 0.075 * r, light.on(ribbon, 0.5 - 0.35 * row), 0.4)
    knot = x - 0.8 * turn * r
    c.polygon(
        [(knot, y - 0.72 * r), (knot - 0.42 * turn * r, y - 0.15 * r), (knot - 0.12 * turn * r, y - 0.08 * r)],
        light.on(ribbon, 0.2),
        1.2,
        0.4,
    )
    c.drawn |= {"woman", "straw hat", "ribbon", "dress", "garden", scene.choice("ribbon"), scene.choice("dress")}


def _headscarf(c: Canvas, scene: Scene, light: Light, rng) -> None:
    _backdrop(c, rng, light)
    x, y, r = _place(c, rng)
    turn = light.side * 0.75
    chin = y + 1.22 * r
    shawl, scarf = _tint(scene, "shawl"), _tint(scene, "scarf")
    heads.bust(c, rng, light, x, y, r, shawl)
    for k in range(6):
        for side in (-1, 1):
            tone = (0.35, -0.5)[k % 2] + 0.3 * side * light.side
            start = (x + side * (0.50 + 0.19 * k) * r, chin + (0.36 + 0.11 * k) * r)
            c.line([start, (x - side * 0.12 * r, chin + (1.0 + 0.26 * k) * r)], 0.13 * r, light.on(shawl, tone), 0.8)
    shading = heads.cloth(c, rng, light, scarf)
    wrapped = heads.oval(x - 0.06 * turn * r, y + 0.02 * r, 1.10 * r, 1.36 * r, 0, 0.8)
    c.shade(wrapped, shading, heads.around(x, y), 0.6, 0.003)
    fx, fy = x + 0.05 * turn * r, y + 0.05 * r
    heads.face(c, light, fx, fy, 0.97 * r, turn)
    hair = colour(("6f4f48", "8a6248", "5c5258")[int(rng.integers(3))])
    for side in (-1, 1):
        lock = [
            (fx, fy - 0.86 * r),
            (fx + side * 0.5 * r, fy - 0.62 * r),
            (fx + side * 0.84 * r, fy - 0.02 * r),
            (fx + side * 0.66 * r, fy - 0.30 * r),
            (fx + side * 0.34 * r, fy - 0.54 * r),
        ]
        heads.hair(c, rng, light, lock, hair, x, y)
    arch = [(fx + 0.90 * r * np.cos(a), fy - 0.02 * r - 0.74 * r * np.sin(a)) for a in np.linspace(0, np.pi, 20)]
    top = [(x + 1.12 * r * np.cos(a), y - 0.05 * r - 1.28 * r * np.sin(a)) for a in np.linspace(np.pi, 0, 24)]
    c.shade([*arch, *top], shading, heads.around(x, y), 0.55, 0.002)
    for side in (-1, 1):
        fall = [
            (fx + side * 0.90 * r, fy - 0.05 * r),
            (x + side * 1.12 * r, y - 0.1 * r),
            (x + side * 1.08 * r, y + 0.55 * r),
            (x + side * 0.66 * r, chin - 0.02 * r),
            (x, chin + 0.16 * r),
            (x, chin - 0.04 * r),
            (x + side * 0.52 * r, y + 0.98 * r),
            (fx + side * 0.80 * r, fy + 0.45 * r),
        ]
        c.shade(fall, shading, 1.57 - 0.35 * side, 0.55, 0.002)
        tail = [
            (x, chin + 0.04 * r),
            (x + side * 0.20 * r, chin + 0.02 * r),
            (x + side * 0.46 * r, chin + 0.62 * r),
            (x + side * 0.16 * r, chin + 0.56 * r),
        ]
        c.shade(tail, shading, 1.57 - 0.5 * side, 0.5, 0.002)
    c.ellipse(x, chin + 0.07 * r, 0.13 * r, 0.11 * r, light.on(scarf, 0.3), 0.5, 0.4)
    c.ellipse(x - 0.04 * light.side * r, chin + 0.11 * r, 0.10 * r, 0.06 * r, light.on(scarf, -0.6), 0.5, 0.4)
    c.drawn |= {"woman", "headscarf", "shawl", "backdrop", scene.choice("scarf"), scene.choice("shawl")}


def _bearded_man(c: Canvas, scene: Scene, light: Light, rng) -> None:
    _backdrop(c, rng, light)
    x, y, r = _place(c, rng)
    turn = light.side * 0.75
    hair = _tint(scene, "beard")
    heads.hair(c, rng, light, heads.oval(x - 0.1 * turn * r, y, 1.0 * r, 1.1 * r), hair, x, y)
    heads.bust(c, rng, light, x, y, r * 1.12, _tint(scene, "jacket"))
    heads.face(c, light, x, y, r, turn, colour("b8655c"))
    collar = light.on(colour("f1ebe0"), 0.5)
    for side in (-1, 1):
        c.polygon(
            [(x, y + 1.75 * r), (x + side * 0.62 * r, y + 1.38 * r), (x + side * 0.55 * r, y + 1.85 * r)],
            collar,
            0.6 * side,
            0.4,
        )
    middle = x + 0.16 * turn * r
    beard = [
        (x - 0.90 * r, y + 0.15 * r),
        (x - 0.72 * r, y + 0.45 * r),
        (middle - 0.34 * r, y + 0.58 * r),
        (middle, y + 0.52 * r),
        (middle + 0.34 * r, y + 0.58 * r),
        (x + 0.72 * r, y + 0.45 * r),
        (x + 0.90 * r, y + 0.15 * r),
        (x + 0.80 * r, y + 1.05 * r),
        (middle + 0.3 * r, y + 1.62 * r),
        (middle - 0.25 * r, y + 1.62 * r),
        (x - 0.80 * r, y + 1.05 * r),
    ]
    heads.hair(c, rng, light, beard, hair, x, y + 0.2 * r)
    heads.patch(c, middle, y + 0.71 * r, 0.17 * r, 0.045 * r, light.on(colour("b8655c"), -0.1), 0.85)
    felt = colour(("7d6a5c", "6a6f86", "8a7a5c")[int(rng.integers(3))])
    heads.patch(c, x, y - 0.42 * r, 0.80 * r, 0.26 * r, light.on(colour("b08878"), -0.5), 0.6)
    shading = heads.cloth(c, rng, light, felt)
    c.shade(heads.oval(x, y - 0.60 * r, 1.62 * r, 0.28 * r, -0.10 * turn), shading, -0.1 * turn, 0.55, 0.003)
    crown = [(px, min(py, y - 0.60 * r)) for px, py in heads.oval(x, y - 0.82 * r, 0.92 * r, 0.74 * r)]
    c.shade(crown, shading, 1.2, 0.6, 0.003)
    band = [(x + 0.92 * r * t, y - (0.72 - 0.09 * (1 - t * t)) * r) for t in np.linspace(-1, 1, 15)]
    c.line(band, 0.17 * r, light.on(felt, -0.9), 0.4)
    c.drawn |= {"man", "beard", "hat", "jacket", "backdrop", scene.choice("beard"), scene.choice("jacket")}


def _profile(c: Canvas, scene: Scene, light: Light, rng) -> None:
    _backdrop(c, rng, light)
    x, y, r = _place(c, rng)
    r *= 1.05
    look = light.side  # towards the light

    def at(points):
        return [(x + look * px * r, y + py * r) for px, py in points]

    heads.bust(c, rng, light, x - 0.1 * look * r, y, r, _tint(scene, "dress"))
    skin = heads.flesh(light, x + 0.25 * look * r, y, 1.0 * r)
    throat = at([(0.40, 0.90), (0.22, 1.12), (0.30, 1.75), (-0.72, 1.75), (-0.62, 0.2), (0.2, 0.2)])
    c.shade(throat, lambda px, py: skin(px, py) * np.array([0.93, 0.9, 0.95]), 1.4, 0.5, 0.003)
    c.shade(at(_PROFILE), skin, heads.down(x, y, r), 0.40, 0.002)
    shadow, line = light.on(colour("c08878"), -0.45), light.on(colour("7c5656"), -0.25)
    heads.patch(c, x + 0.40 * look * r, y + 0.34 * r, 0.26 * r, 0.22 * r, light.on(colour("dd8577"), 0.2), 0.6)
    heads.patch(c, x + 0.58 * look * r, y - 0.10 * r, 0.16 * r, 0.11 * r, shadow, 0.5)
    heads.patch(c, x + 0.30 * look * r, y + 0.95 * r, 0.42 * r, 0.14 * r, light.on(colour("b98a86"), -0.5), 0.5)
    c.line(at([(0.46, -0.02), (0.54, 0.01), (0.62, 0.0), (0.69, -0.05)]), 0.036 * r, line, 0.3)
    c.line(at([(0.42, -0.27), (0.53, -0.33), (0.64, -0.32), (0.72, -0.27)]), 0.036 * r, mix(line, shadow, 0.3), 0.3)
    c.line(at([(0.80, 0.345), (0.74, 0.34), (0.70, 0.29)]), 0.03 * r, light.on(colour("b87468"), -0.3), 0.3)
    lips = light.on(colour("c4605c"), 0.1)
    c.polygon(at([(0.645, 0.53), (0.78, 0.455), (0.833, 0.48), (0.785, 0.545)]), mix(lips, line, 0.15), 0.2, 0.3)
    c.polygon(
        at([(0.655, 0.545), (0.785, 0.55), (0.818, 0.61), (0.74, 0.665)]), mix(lips, colour("f0b0a0"), 0.25), 0.2, 0.3
    )
    hair = _tint(scene, "hair")
    heads.hair(c, rng, light, at(_GATHERED_HAIR), hair, x - 0.15 * look * r, y - 0.3 * r)
    c.shade(
        heads.oval(x - 0.20 * look * r, y + 0.10 * r, 0.10 * r, 0.19 * r, 0.2 * look),
        heads.flesh(light, x - 0.2 * look * r, y, 0.3 * r),
        1.5,
        0.32,
        0.002,
    )
    bun_x, bun_y = x - 1.08 * look * r, y - 0.32 * r
    heads.hair(c, rng, light, heads.oval(bun_x, bun_y, 0.40 * r, 0.44 * r), hair, bun_x, bun_y)
    c.line(at([(-0.82, -0.68), (-0.76, -0.35), (-0.86, 0.05)]), 0.045 * r, light.on(hair, -0.9), 0.4)
    collar = light.on(colour("f6f0e6"), 0.6)
    c.polygon(at([(-0.86, 1.42), (0.46, 1.60), (0.52, 1.86), (-0.1, 1.92), (-0.98, 1.70)]), collar, 0.2 * look, 0.45)
    c.line(at([(-0.86, 1.50), (-0.1, 1.72), (0.46, 1.70)]), 0.03 * r, light.on(colour("c9c4d8"), -0.2), 0.4)
    c.drawn |= {"woman", "hair", "bun", "profile", "dress", "collar", scene.choice("hair"), scene.choice("dress")}


def _hilltop(c: Canvas, rng, light: Light, x: float, top: float, grass: Colour) -> None:
    """A grassy rise whose crest, at about `top`, lies under x."""
    across = np.linspace(-0.02, 1.02, 40) * c.aspect
    crest = [(px, top + 0.05 - 0.07 * np.exp(-(((px - x) / (0.35 * c.aspect)) ** 2))) for px in across]
    streaks = c.noise(rng, 8, 10, 3)
    dark, lit = light.on(grass, -0.8), light.on(grass, 0.7)

    def shading(px, py):
        return dark + (lit - dark) * smooth(c.sample(streaks, px, py) - 0.5 * (py - 0.85), 0.25, 0.75)[..., None]

    c.shade([*crest, (c.aspect * 1.02, 1.02), (-0.02, 1.02)], shading, 1.3, 0.8)


def _walker(c: Canvas, rng, light: Light, x: float, foot: float, size: float, tint: Colour) -> None:
    """A standing woman seen from behind, her skirt and veil blown away from the light."""
    wind = -light.side
    skirt = placed("-11,0 -8,-20 -5,-45 5,-45 9,-24 17,-8 31,-2", x, foot, size, wind)
    c.shade(skirt, heads.cloth(c, rng, light, tint), lambda px, py: 1.57 + 1.6 * (px - x), 0.6, 0.003)
    bodice = placed("-6.2,-43 -8.8,-70 -4,-76 4,-76 8.8,-70 6.2,-43", x, foot, size)
    c.shade(bodice, heads.cloth(c, rng, light, tint), 1.5, 0.5, 0.002)
    c.line(placed("7,-69 17,-55 15,-66", x, foot, size, light.side), 0.045 * size, light.on(tint, -0.3), 0.4)
    head, straw = foot - 0.825 * size, colour("ecd08a")
    veil = mix(light.cloud, light.zenith, 0.25)
    c.line(placed("0,0 12,4 26,12", x, head, size, wind), 0.035 * size, veil, 0.4)
    c.shade(heads.oval(x, head, 0.050 * size, 0.066 * size), heads.flesh(light, x, head, 0.06 * size), 1.5, 0.32)
    c.ellipse(
        x + wind * 0.015 * size, head - 0.012, 0.052 * size, 0.06 * size, light.on(colour("8a5f48"), -0.2), 1.5, 0.32
    )
    c.ellipse(x, head - 0.048 * size, 0.105 * size, 0.022 * size, light.on(straw, 0.6), 0, 0.35)
    c.ellipse(x, head - 0.072 * size, 0.055 * size, 0.036 * size, light.on(straw, 0.2), 0, 0.35)


def _parasol(c: Canvas, scene: Scene, light: Light, rng) -> None:
    sky(c, light, rng, 0.98, 0.75)
    x, top, size, grass = c.aspect * rng.uniform(0.44, 0.56), rng.uniform(0.72, 0.77), 0.50, colour("86a55a")
    _hilltop(c, rng, light, x, top, grass)
    foot = top + 0.015
    _walker(c, rng, light, x, foot, size, _tint(scene, "dress"))
    # The crown stands so that its stick passes through her hand.
    crown_x, crown_y = x + light.side * 0.20 * size, foot - 0.965 * size
    radius, tint = 0.185 * min(1.0, c.aspect + 0.2), _tint(scene, "parasol")
    parasol(c, light, crown_x, crown_y, radius, tint, 0.2 * light.side, 1.1)
    flowers(c, rng, light, top + 0.03, 170, [colour("f2d25a"), colour("f6f1e4")], 0.010)
    grasses(c, rng, light, top, 320, grass)
    c.drawn |= {"woman", "parasol", "dress", "hill", "sky", "clouds", scene.choice("dress"), scene.choice("parasol")}


_COMPOSITIONS = {
    "parasol": _parasol,
    "straw hat": _straw_hat,
    "profile": _profile,
    "headscarf": _headscarf,
    "bearded man": _bearded_man,
}
