"""Still lifes: fruit, flowers, jugs and bottles on a table, lit from one side."""

from __future__ import annotations

import numpy as np

from . import table_things
from .canvas import Canvas, Point
from .colour import Colour, colour, mix
from .nature import Light, hill, light_of, sky, smooth, water
from .scenes import Scene

_WALLS = {"blue": "8fa8c4", "green": "93ab92", "grey": "b0aab0"}
_BEHIND = {  # each bunch's wall, and a fallen petal
    "sunflowers": ("9fbccb", "efb93a"),
    "pink and white peonies": ("9db3a8", "f0b3ba"),
    "violet irises": ("e6cd8c", "8f74c4"),
    "red and orange dahlias": ("98a4c2", "dd6a3c"),
}
_VASES = {"blue": "5f84bc", "white": "ece8e2", "ochre": "cf9a4e", "copper": "bf7448"}


def draw(c: Canvas, scene: Scene) -> None:
    """Draw a still-life scene."""
    rng = scene.random()
    light = light_of(scene.light, -1.0 if rng.random() < 0.5 else 1.0)
    _COMPOSITIONS[scene.composition](c, scene, light, rng)


def _wall(c: Canvas, rng, light: Light, tint: Colour) -> None:
    x, y = c.grid()
    cloud = c.noise(rng, 4, 5, 3)
    t = np.clip(0.55 + 0.6 * light.side * (x / c.aspect - 0.5) - 0.3 * (y - 0.3) + 0.6 * (cloud - 0.5), 0, 1)[..., None]
    dark, lit = light.on(tint, -0.75), light.on(mix(tint, colour("f6e6cc"), 0.25), 0.6)
    c.cover(dark + (lit - dark) * t, np.ones_like(cloud), -0.8 * light.side + 2.2 * (cloud - 0.5), 1.2)


def _table(c: Canvas, rng, light: Light, tint: Colour, line: float) -> None:
    x, y = c.grid()
    grain = c.noise(rng, 3, 26, 3)
    t = np.clip(0.5 + 0.5 * light.side * (x / c.aspect - 0.5) + 0.9 * (grain - 0.5) - 0.3 * (y - 0.8), 0, 1)[..., None]
    dark, lit = light.on(tint, -0.75), light.on(tint, 0.75)
    c.cover(dark + (lit - dark) * t, smooth(y + 0 * x, line - 0.002, line + 0.002), 0.04, 0.95)
    c.cover(light.on(tint, -0.9), 0.5 * np.exp(-(((y - line) / 0.012) ** 2)) * (y > line - 0.002) + 0 * x, 0.0, 0.7)


def _fruit_piece(c: Canvas, scene: Scene, light: Light, rng) -> None:
    line = 0.56
    kind = scene.choice("fruit")
    _wall(c, rng, light, colour(_WALLS[scene.choice("wall")]))
    _table(c, rng, light, colour("b8875c"), line)
    s = min(1.0, c.aspect**0.75)
    side = 1 if rng.random() < 0.5 else -1
    middle = c.aspect * 0.5
    table_things.bottle(c, light, middle + side * 0.34 * s, 0.66, 0.50 * s + 0.04, colour("5f8a62"))
    table_things.cloth(c, rng, light, middle - side * 0.05 * s, 0.80, 0.46 * s, 0.11)
    table_things.bowl_of_fruit(c, rng, light, middle - side * 0.08 * s, 0.58, 0.27 * s, colour("f2ece2"), kind)
    for px, py in ((0.30, 0.80), (0.17, 0.86), (-0.36, 0.85), (0.42, 0.87)):
        table_things.fruit(c, rng, light, kind, middle + side * px * s, py, 0.072 * s * rng.uniform(0.95, 1.08))
    c.drawn |= {kind, "bowl", "cloth", "bottle", "wall", scene.choice("wall")}


def _bloom(c: Canvas, rng, light: Light, kind: str, x: float, y: float, r: float, away: float) -> None:
    """One flower head of radius `r`; `away` (-1..1) is how lit its side of the bunch is."""
    flat = rng.uniform(0.72, 1.0)

    def petals(count, reach, size, tint, spread=0.12):
        for k in range(count):
            a = 2 * np.pi * k / count + rng.normal(0, spread)
            tone = np.clip(0.55 * away + 0.5 * light.side * np.cos(a) - 0.4 * np.sin(a) + rng.normal(0, 0.15), -1, 1)
            px, py = x + reach * r * np.cos(a), y + reach * r * np.sin(a) * flat
            tip = [
                (px + size * r * np.cos(a + b), py + size * r * np.sin(a + b) * flat)
                for b in (0.0, 1.3, 1.9, 3.14, 4.4, 5.0)
            ]
            tip[0] = (x + (reach + size * 1.15) * r * np.cos(a), y + (reach + size * 1.15) * r * np.sin(a) * flat)
            c.polygon(tip, light.on(tint, float(tone)), a, 0.42)

    if kind == "sunflowers":
        petals(17, 0.72, 0.30, colour("e9ad30"))
        petals(14, 0.58, 0.28, colour("f6cf4a"), 0.2)
        c.ellipse(x, y, 0.47 * r, 0.47 * r * flat, light.on(colour("8a5a38"), -0.1), 1, 0.42)
        for _ in range(26):
            a, d = rng.uniform(0, 6.28), 0.40 * np.sqrt(rng.random())
            c.ellipse(
                x + d * r * np.cos(a),
                y + d * r * np.sin(a) * flat,
                0.06 * r,
                0.06 * r,
                light.on(colour(("b3763c", "6b4a44")[int(rng.integers(2))]), 0.1),
                a,
                0.35,
            )
    elif kind == "violet irises":
        for a, size in ((-2.2, 0.62), (-0.95, 0.62), (-1.57, 0.7), (0.5, 0.66), (2.65, 0.66), (1.57, 0.72)):
            tone = np.clip(0.5 * away + 0.6 * light.side * np.cos(a) - 0.6 * np.sin(a), -1, 1)
            px, py = x + 0.45 * r * np.cos(a), y + 0.5 * r * np.sin(a)
            leaf = [
                (
                    px + size * r * (np.cos(b) * np.cos(a) * 0.8 - np.sin(b) * np.sin(a) * 0.5),
                    py + size * r * (np.cos(b) * np.sin(a) * 0.8 + np.sin(b) * np.cos(a) * 0.5),
                )
                for b in np.linspace(0, 6.28, 14)
            ]
            tint = colour("7f62b8") if a > 0 else colour("9f8ad0")
            c.polygon(leaf, light.on(mix(tint, colour("5f74c4"), 0.3 * rng.random()), float(tone)), a, 0.42)
        c.ellipse(x, y + 0.45 * r, 0.10 * r, 0.22 * r, colour("f2c84a"), 1.57, 0.35)
    else:
        tints = {
            "pink and white peonies": ("eea6b0", "f8ece6", "e58c9e"),
            "red and orange dahlias": ("d2453c", "ec8a3e", "c23a48"),
        }[kind]
        tint = colour(tints[int(rng.integers(3))])
        c.ellipse(x, y, r, r * flat, light.on(tint, -0.75 + 0.3 * away), 0.8, 0.45)
        for count, reach, size in ((12, 0.74, 0.30), (10, 0.52, 0.30), (7, 0.30, 0.27), (4, 0.12, 0.22)):
            petals(count, reach, size, mix(tint, colour("fff4e6"), 0.16 * (1 - reach)), 0.25)


def _bunch(c: Canvas, rng, light: Light, kind: str, x: float, y: float, rx: float, ry: float, size: float) -> None:
    """Sixteen flower heads of radius `size` in an ellipse, those in front last."""
    heads: list[Point] = []
    for _ in range(400):
        a, d = rng.uniform(0, 6.28), np.sqrt(rng.random())
        px, py = x + d * rx * np.cos(a), y + d * ry * np.sin(a) + 0.02
        if py < 0.60 and all((px - qx) ** 2 + (py - qy) ** 2 > (1.35 * size) ** 2 for qx, qy in heads):
            heads.append((px, py))
        if len(heads) == 16:
            break
    for px, py in sorted(heads, key=lambda p: -((p[0] - x) ** 2) - 1.6 * (p[1] - y - 0.06) ** 2):
        away = float(np.clip(light.side * (px - x) / rx - 0.6 * (py - y) / ry, -1, 1))
        _bloom(c, rng, light, kind, px, py, size * rng.uniform(0.9, 1.12), away)


def _stems(c: Canvas, rng, light: Light, x: float, y: float, rx: float, ry: float, root: float, s: float) -> None:
    """Stems from the vase's mouth at (x, root) to the bunch, each with a leaf."""
    for _ in range(34):
        a, d = rng.uniform(0, 6.28), rng.uniform(0.35, 1.1)
        ex, ey = x + d * rx * np.cos(a), y + 0.05 + d * ry * np.sin(a)
        green = light.on(mix(colour("5f8a52"), colour("8aa858"), rng.random()), rng.uniform(-0.8, 0.6))
        c.line([(x, root), (x + 0.4 * (ex - x), ey + 0.12), (ex, ey)], 0.007, green, 0.5)
        c.dab(ex, ey, 0.085 * s, 0.026 * s, green, float(np.arctan2(ey - 0.55, ex - x)), 0.5)


def _flowers(c: Canvas, scene: Scene, light: Light, rng) -> None:
    kind = scene.choice("flowers")
    wall, petal = _BEHIND[kind]
    _wall(c, rng, light, colour(wall))
    _table(c, rng, light, colour("c99a62"), 0.76)
    s = min(1.0, c.aspect**0.8)
    x, foot, w = c.aspect * rng.uniform(0.46, 0.54), 0.88, 0.125 * s
    tint = colour(_VASES[scene.choice("vase")])
    bunch = (x, rng.uniform(0.33, 0.38), 0.33 * s, 0.25)
    table_things.cast_shadow(c, light, x, foot, w * 1.3, 0.032)
    _stems(c, rng, light, *bunch, foot - 0.30, s)
    shape = ((0.31, 0.66), (0.285, 0.60), (0.23, 0.78), (0.13, 1.15), (0.05, 0.95), (0.0, 0.68))
    table_things.turned(c, light, x, [(foot - up, wide * w) for up, wide in shape], tint, 0.8)
    c.ellipse(x, foot - 0.31, 0.66 * w, 0.16 * w, light.on(mix(tint, colour("5f5a80"), 0.5), -0.6), 0, 0.4)
    _bunch(c, rng, light, kind, *bunch, (0.072 if kind == "violet irises" else 0.088) * s)
    for _ in range(7):
        px, py = x + rng.uniform(-0.30, 0.30) * s, rng.uniform(0.86, 0.95)
        c.ellipse(px, py, 0.014, 0.007, light.on(colour(petal), 0.4), 0.2, 0.4)
    c.drawn |= {*kind.split(" and "), "vase", "table", "wall", scene.choice("vase")}


def _jug(c: Canvas, scene: Scene, light: Light, rng) -> None:
    _wall(c, rng, light, colour(("a9a294", "9aa6b8", "b59c8a")[int(rng.integers(3))]))
    _table(c, rng, light, colour("a8744e"), 0.60)
    s = min(1.0, c.aspect**0.75)
    side = 1 if rng.random() < 0.5 else -1
    middle, kind = c.aspect * 0.5, scene.choice("fruit")
    tint = colour(_VASES[scene.choice("jug")])
    table_things.pitcher(c, light, middle + side * rng.uniform(0.16, 0.24) * s, 0.74, 0.145 * s, 0.46 * s, side, tint)
    table_things.wine(c, light, middle - side * rng.uniform(0.04, 0.10) * s, 0.72, 0.30 * s)
    table_things.loaf(c, light, middle - side * 0.30 * s, 0.76, 0.20 * s)
    for px, py in ((0.02, 0.845), (0.30, 0.85), (0.15, 0.875), (-0.14, 0.88)):
        x = middle + side * (px + rng.uniform(-0.03, 0.03)) * s
        table_things.fruit(c, rng, light, kind, x, py, 0.062 * s * rng.uniform(0.95, 1.1))
    c.drawn |= {"jug", "loaf", "bread", "glass", "red wine", "table", kind, scene.choice("jug")}


def _view(c: Canvas, rng, light: Light, horizon: float) -> None:
    """Sky, sea, a far headland and green hills, as seen from a window."""
    sky(c, light, rng, horizon, 0.55)
    _, y = c.grid()
    everywhere = np.zeros((c.height, c.width), dtype=np.float32)
    water(c, rng, light, smooth(y + everywhere, horizon, horizon + 0.002), horizon, colour("5fa0c0"), 0.5, 1.0)
    peak = rng.uniform(0.3, 0.7)
    across = np.linspace(0, 1, 30)
    coast = [(px * c.aspect, horizon + 0.005 - 0.09 * max(0.0, 1 - abs(px - peak) * 2.2) ** 1.3) for px in across]
    haze = mix(light.on(colour("8fa6c4"), 0.3), light.horizon, 0.35)
    c.polygon([*coast, (c.aspect, horizon + 0.006), (0, horizon + 0.006)], haze, 0.1, 0.7)
    for level, name in ((0.57, "93b07a"), (0.65, "6f9a5c")):
        green = light.on(colour(name), 0.3)
        hill(c, rng, level, 0.09, 3.0, green, mix(green, colour("c9c27a"), 0.4), 0.15)


def _open_window(c: Canvas, light: Light, sill: float) -> None:
    """Walls, striped curtains and casements on both sides, opening inwards."""
    wide = 0.13 * c.aspect
    for side in (-1, 1):
        edge = c.aspect / 2 + side * c.aspect / 2
        inner = edge - side * wide
        lit = side != light.side
        wall = light.on(colour("e6d8cc"), 0.1) if lit else light.on(colour("c7bac6"), -0.3)
        c.polygon([(edge, -0.02), (inner, -0.02), (inner, sill), (edge, sill + 0.03)], wall, 1.57, 0.8)
        post, swung = inner - side * 0.035, inner - side * 0.17
        frame = light.on(colour("f2ede6"), 0.4 if lit else -0.3)
        c.polygon([(inner, 0.0), (post, 0.0), (post, sill), (inner, sill)], frame, 1.57, 0.5)
        wood = light.on(colour("dfe6e6"), 0.2)
        c.line([(post, 0.02), (swung, 0.07), (swung, sill - 0.05), (post, sill), (post, 0.02)], 0.018, wood, 0.45)
        c.line([(post, 0.36), (swung, 0.37)], 0.012, wood, 0.4)
        for k, tone in enumerate((0.7, -0.3, 0.4, -0.6, 0.6)):
            px = edge - side * wide * (0.15 + 0.17 * k)
            fold = [(px, 0), (px + side * 0.012, 0.35), (px - side * 0.01, sill + 0.01)]
            c.line(fold, 0.024 * c.aspect, light.on(colour("f4e3d0"), tone), 0.6)


def _ledge(c: Canvas, rng, light: Light, sill: float) -> None:
    tones = c.noise(rng, 4, 12, 3)
    _, y = c.grid()
    stone = colour("efe6da")
    dark, lit = light.on(mix(stone, colour("b3aad0"), 0.5), -0.1), light.on(stone, 0.8)
    c.cover(
        dark + (lit - dark) * smooth(tones, 0.25, 0.75)[..., None], smooth(y + 0 * tones, sill, sill + 0.003), 0.04, 0.9
    )
    c.line([(0, 0.965), (c.aspect, 0.965)], 0.016, light.on(colour("a89cc0"), -0.3), 0.6)


def _potted_plant(c: Canvas, rng, light: Light, x: float, foot: float, s: float, geraniums: bool) -> None:
    """A clay pot with geraniums or daisies, at scale `s`."""
    w, clay, top = 0.115 * s, colour("c9734c"), foot - 0.36
    table_things.cast_shadow(c, light, x, foot, w, 0.03)
    shape = ((0.20, 1.05), (0.165, 1.08), (0.16, 0.95), (0.0, 0.70))
    table_things.turned(c, light, x, [(foot - up, wide * w) for up, wide in shape], clay, 0.3)
    table_things.mouth(c, light, x, foot - 0.20, 1.05 * w, clay)
    for _ in range(130):
        a, d = rng.uniform(0, 6.28), np.sqrt(rng.random())
        tone = float(np.clip(0.6 * light.side * d * np.cos(a) - 0.7 * d * np.sin(a) + rng.normal(0, 0.35), -1, 1))
        leaf = light.on(mix(colour("5c8a50"), colour("8fb060"), rng.random()), tone)
        c.dab(x + d * 0.20 * s * np.cos(a), top + d * 0.16 * np.sin(a), 0.028 * s, 0.020 * s, leaf, a, 0.45)
    for _ in range(13 if geraniums else 20):
        a, d = rng.uniform(0, 6.28), 0.92 * np.sqrt(rng.random())
        px, py = x + d * 0.21 * s * np.cos(a), top - 0.04 + d * 0.16 * np.sin(a)
        for k in range(13 if geraniums else 9):
            b = 0.7 * k
            if geraniums:
                tint = light.on(mix(colour("d8352f"), colour("f0665a"), rng.random()), rng.uniform(-0.6, 0.7))
                out = np.sqrt(rng.random()) * 0.022 * s
            else:
                tint, out = light.on(colour("f8f4ea"), 0.3 - 0.5 * np.sin(b)), 0.019 * s
            c.dab(px + out * np.cos(b), py + 0.85 * out * np.sin(b), 0.012 * s, 0.008 * s, tint, b, 0.38)
        if not geraniums:
            c.ellipse(px, py, 0.010 * s, 0.009 * s, light.on(colour("efb93a"), 0.4), 0, 0.35)


def _window(c: Canvas, scene: Scene, light: Light, rng) -> None:
    sill, kind = 0.72, scene.choice("fruit")
    _view(c, rng, light, rng.uniform(0.42, 0.50))
    _open_window(c, light, sill)
    _ledge(c, rng, light, sill)
    s = min(1.0, c.aspect**0.75)
    side = -1 if rng.random() < 0.5 else 1
    middle = c.aspect * 0.5
    _potted_plant(c, rng, light, middle + side * 0.20 * s, 0.86, s, scene.choice("flowers") == "red geraniums")
    x, y = middle - side * 0.22 * s, 0.86
    table_things.cast_shadow(c, light, x, y + 0.02, 0.17 * s, 0.04)
    for grow, tint in ((1.0, "f4efe6"), (0.9, "8fa8d0"), (0.84, "ece8e4")):
        c.ellipse(x, y, 0.19 * s * grow, 0.058 * s * grow, light.on(colour(tint), 0.4), 0, 0.5)
    for dx, dy in ((-0.075, -0.045), (0.075, -0.045), (0.0, -0.035), (0.01, -0.135)):
        table_things.fruit(c, rng, light, kind, x + dx * s, y + dy * s, 0.060 * s, False)
    c.drawn |= {scene.choice("flowers"), "pot", "plate", "sill", "window", "hills", "sea", kind}


_COMPOSITIONS = {"fruit": _fruit_piece, "flowers": _flowers, "jug": _jug, "window": _window}
