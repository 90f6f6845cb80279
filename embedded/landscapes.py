"""Landscapes: one function draws each composition on a canvas, back to front."""

from __future__ import annotations

import numpy as np

from . import coasts
from .canvas import Canvas, placed
from .colour import Colour, colour, mix
from .nature import (
    Light,
    figure,
    flowers,
    foliage,
    grasses,
    hedge,
    hill,
    house,
    light_of,
    meadow,
    parasol,
    poplar,
    sky,
    smooth,
    tree,
    water,
)
from .scenes import Scene

_FLOWERS = {"yellow": "f2cf4a", "white": "f6f1e4", "violet": "a884cc", "pink": "eba3b4"}
_GREEN, _FAR_GREEN, _OLIVE, _STRAW = colour("6f9a4e"), colour("9db873"), colour("7d8a4a"), colour("d9b968")


def draw(c: Canvas, scene: Scene) -> None:
    """Draw a landscape scene."""
    rng = scene.random()
    light = light_of(scene.light, -1.0 if rng.random() < 0.5 else 1.0)
    _COMPOSITIONS[scene.composition](c, scene, light, rng)


def _hills(c: Canvas, rng, light: Light, y: float, layers: int = 3, height: float = 0.09) -> None:
    """Ranges that turn from the sky's colour to green as they come nearer (aerial perspective)."""
    for layer in range(layers):
        near = (layer + 1) / layers
        haze = mix(light.horizon, light.on(colour("7f93c4"), -0.2), 0.55)
        green = light.on(mix(colour("7fa08f"), _FAR_GREEN, near), 0.1)
        top = mix(haze, green, 0.15 + 0.6 * near)
        foot = mix(mix(light.horizon, haze, 0.4), green, 0.6 * near)
        hill(c, rng, y - height * (1 - near) * 0.8, height * (1.1 - 0.5 * near), 2.5 + 2 * layer, top, foot, 0.10)


def _river(c: Canvas, scene: Scene, light: Light, rng) -> None:
    horizon = rng.uniform(0.36, 0.46)
    sun_x, _ = sky(c, light, rng, horizon, rng.uniform(0.4, 0.8))
    _hills(c, rng, light, horizon - 0.02)
    c.drawn |= {"hills", "meadows"}
    meadow(c, rng, light, horizon + 0.015, _FAR_GREEN, _GREEN)
    bank = -1 if rng.random() < 0.5 else 1
    hedge(c, rng, light, -0.05, c.aspect + 0.05, horizon + 0.03, 0.045, mix(_FAR_GREEN, colour("6f8fa0"), 0.35))

    # The middle line swings less and less towards the horizon, where the river is a thread.
    x, y = c.grid()
    t = np.clip((y - horizon - 0.03) / (1 - horizon - 0.03), 0, 1)
    phase = rng.uniform(-0.4, 0.4)
    middle = c.aspect * (0.5 + 0.06 * bank) + c.aspect * bank * (
        0.20 * np.sin(5.2 * np.sqrt(t) + phase) * (0.35 + 0.5 * t)
    )
    breadth = (0.008 + 0.27 * t**1.45) * c.aspect**0.6
    shore_noise = (c.noise(rng, 14, 14, 2) - 0.5) * 0.06 * t
    inside = np.abs(x - middle) + shore_noise
    mask = smooth(breadth - inside, -0.002, 0.003) * (t > 0)
    trees_x = np.sort(rng.uniform(0.03, 0.44, 8)) * c.aspect
    trees_x = trees_x if bank > 0 else c.aspect - trees_x
    for k, px in enumerate(trees_x):
        foot = horizon + 0.035 + 0.045 * k / 8
        poplar(c, rng, light, px, foot, (0.20 + 0.03 * k) * rng.uniform(0.85, 1.15), mix(_GREEN, _OLIVE, rng.random()))
    banks = smooth(breadth + 0.016 + 0.05 * t - inside, 0, 0.006) * (t > 0)
    c.cover(light.on(_OLIVE, -0.55), banks * 0.75, 0.15, 0.6)
    water(c, rng, light, mask, horizon + 0.06, mix(light.middle, colour("5f8a9a"), 0.35), 0.75)
    if abs(sun_x - 0.5 * c.aspect) < 0.25 * c.aspect and light.sun_height < 0.3:
        c.glow(sun_x, horizon + 0.2, 0.2, light.sun, 0.35)
    big_x = c.aspect * (0.87 if bank > 0 else 0.13)
    c.ellipse(big_x - light.side * 0.06, 0.80, 0.15, 0.025, light.on(_GREEN, -0.9), 0.0, 0.7)
    tree(c, rng, light, big_x, 0.80, 0.62 + 0.1 * rng.random(), mix(_GREEN, colour("4f7a4a"), 0.5), 0.62)
    c.drawn |= {"river", "poplars", "grass", "flowers", scene.choice("flowers")}

    def dry(px, py):
        row, column = min(c.height - 1, int(py * c.height)), min(c.width - 1, int(px * c.height))
        return 1 - banks[row, column]

    tint = colour(_FLOWERS[scene.choice("flowers")])
    flowers(c, rng, light, horizon + 0.14, 700, [tint, mix(tint, colour("ffffff"), 0.3)], 0.0085, dry)


def _poppies(c: Canvas, scene: Scene, light: Light, rng) -> None:
    horizon = rng.uniform(0.40, 0.48)
    sky(c, light, rng, horizon, rng.uniform(0.55, 0.9))
    _hills(c, rng, light, horizon, 2, 0.05)
    hedge(c, rng, light, -0.05, c.aspect + 0.05, horizon + 0.02, 0.075, mix(_GREEN, colour("5f7f86"), 0.4))
    side = 1 if rng.random() < 0.5 else -1
    home = c.aspect * (0.5 + 0.2 * side)
    house(c, light, home - 0.06, horizon + 0.02, 0.13, 0.055, colour("efe3cf"), colour("c4654a"))
    for px in np.sort(rng.uniform(0.02, 0.98, 7)) * c.aspect:
        if abs(px - home) > 0.11:
            foliage(
                c, rng, light, px, horizon - 0.035, 0.055, 0.075, mix(_GREEN, colour("4f7a5a"), rng.random()), 60, 0.014
            )
    meadow(c, rng, light, horizon + 0.02, mix(_FAR_GREEN, _STRAW, 0.35), mix(_GREEN, _OLIVE, 0.4), 0.03)
    reds = [colour("d8392b"), colour("e8583a"), colour("c92f38"), colour("ef7d5a")]
    slope = rng.uniform(0.2, 0.45) * side

    def drift(px, py):
        return float((py - horizon) + slope * (px / c.aspect - 0.5) > 0.02 + 0.10 * np.sin(px * 6 + 2) ** 2)

    flowers(c, rng, light, horizon + 0.05, 260, [colour("f6f1e4"), colour("8fa0d8")], 0.006)
    flowers(c, rng, light, horizon + 0.035, 2600, reds, 0.0125, drift)
    walker = c.aspect * (0.5 - 0.17 * side)
    foot, tall = horizon + 0.30, 0.25
    c.ellipse(walker - 0.09 * light.side, foot, 0.10, 0.016, light.on(_GREEN, -1.0), 0.0, 0.5)
    figure(c, light, walker, foot, tall, colour("7f86b8"), colour("e8cf8a"))
    tint = {"white": "fbf4e6", "yellow": "efca5a", "blue": "6f93cf"}[scene.choice("parasol")]
    parasol(c, light, walker + 0.02 * side, foot - tall * 1.02, 0.105, colour(tint), 0.2 * side)
    figure(c, light, walker - 0.13 * side, foot + 0.01, tall * 0.6, colour("f2e6da"), colour("e0b95a"))
    flowers(c, rng, light, foot - 0.03, 420, reds, 0.0125, drift)
    grasses(c, rng, light, 0.82, 130, _OLIVE)
    c.drawn |= {"poppies", "parasol", "woman", "child", "house", "trees", scene.choice("parasol")}


def _haystack(c: Canvas, light: Light, x: float, foot: float, width: float) -> None:
    tall = 0.80 * width
    shadow = light.on(mix(_STRAW, colour("8d86b8"), 0.55), -0.75)
    reach = -light.side * width * (1.2 + 1.2 * (1 - light.sun_height))
    ground = [(x - 0.48 * width, foot - 0.015), (x + 0.48 * width, foot - 0.015)]
    far = [(x + 0.35 * width + reach, foot + 0.14 * width), (x - 0.1 * width + reach, foot + 0.17 * width)]
    c.polygon([*ground, *far], shadow, 0.12 * light.side, 0.8)
    wall = placed("-45,0 -49,-20 -51,-36 51,-36 49,-20 45,0", x, foot, width)
    dome = placed(
        "-53,-32 -50,-39 -43,-49 -33,-60 -21,-70 -10,-77 0,-80 10,-77 21,-70 33,-60 43,-49 50,-39 53,-32",
        x,
        foot,
        width,
    )
    lit, half, dark = light.on(colour("e8c172"), 0.9), light.on(colour("cf9b62"), 0), light.on(colour("b98a78"), -1)

    def shading(px, py, eave=0.0):
        around = np.clip((px - x) / (0.56 * width), -1, 1) * light.side
        straw = 0.16 * np.sin(px * 300 + 9 * np.sin(py * 60)) * np.sin(py * 210)
        under = np.exp(-np.clip(py - foot + 0.40 * tall, 0, 1) / (0.10 * tall))
        t = (around + straw + 0.1 - eave * under)[..., None]
        return np.where(
            t > 0, half + (lit - half) * np.clip(t * 1.6, 0, 1), half + (dark - half) * np.clip(-t * 1.8, 0, 1)
        )

    c.shade(wall, lambda px, py: shading(px, py, 0.5), 1.5, 0.7, 0.004)
    c.shade(dome, shading, lambda px, py: np.pi / 2 + np.clip((px - x) / width * 2.2, -1, 1), 0.7, 0.004)


def _haystacks(c: Canvas, scene: Scene, light: Light, rng) -> None:
    horizon = rng.uniform(0.36, 0.44)
    sky(c, light, rng, horizon, rng.uniform(0.25, 0.55))
    _hills(c, rng, light, horizon - 0.01, 2, 0.07)
    hedge(c, rng, light, -0.05, c.aspect + 0.05, horizon + 0.02, 0.07, mix(colour("6a8a6a"), colour("7f86b8"), 0.45))
    meadow(c, rng, light, horizon + 0.02, mix(_STRAW, light.horizon, 0.3), mix(_STRAW, colour("b98f6a"), 0.35))
    side = 1 if rng.random() < 0.5 else -1
    spread = min(1.0, c.aspect)
    stacks = [(0.5 + 0.19 * side, 0.80, 0.44), (0.5 - 0.25 * side, 0.62, 0.23), (0.5 - 0.02 * side, 0.515, 0.12)]
    number = 2 if scene.choice("number") == "two" else 3
    for px, foot, width in reversed(stacks[:number]):
        _haystack(c, light, (px + rng.uniform(-0.03, 0.03)) * c.aspect, foot, width * spread)
    grasses(c, rng, light, 0.84, 150, mix(_STRAW, _OLIVE, 0.4))
    c.drawn |= {"haystacks", "shadows", "trees", "hills", scene.choice("number")}


def _thicket(c: Canvas, rng, light: Light, shore: float, deep: Colour, fresh: Colour) -> None:
    """The green far bank of a pond, down to `shore`."""
    mid = mix(deep, fresh, 0.45)
    _, y = c.grid()
    leaves = c.noise(rng, 9, 12, 4)
    dark, lit = light.on(deep, -0.6), light.on(mid, 0.4)
    bank = dark + (lit - dark) * smooth(leaves, 0.2, 0.8)[..., None]
    c.cover(bank, smooth(y + 0.10 * (leaves - 0.5), 0.07, 0.12), 1.4 + (leaves - 0.5), 0.8)
    for _ in range(16):
        px, py = rng.uniform(0, c.aspect), rng.uniform(0.10, shore - 0.03)
        rx, ry = rng.uniform(0.07, 0.15), rng.uniform(0.05, 0.1)
        foliage(c, rng, light, px, py, rx, ry, mix(deep, fresh, rng.random()), 55, 0.019)
    foliage(c, rng, light, c.aspect * 0.5, shore - 0.01, c.aspect * 0.55, 0.03, mid, 160, 0.015)


def _arched_footbridge(c: Canvas, light: Light, shore: float, tint: Colour) -> None:
    """A wooden bridge in one low arch across the pond, with its reflection."""
    xs = np.linspace(-0.02, c.aspect + 0.02, 40)

    def arch(px):
        return shore - 0.015 - 0.17 * np.sqrt(np.clip(1 - ((px - 0.5 * c.aspect) / (0.62 * c.aspect)) ** 2, 0, 1))

    rail, dark = light.on(tint, 0.45), light.on(mix(tint, colour("2f5f70"), 0.45), -0.4)
    echo = mix(dark, colour("6f93a0"), 0.4)
    for level, thick in ((0.0, 0.03), (-0.085, 0.016)):
        c.line([(px, 2 * shore - arch(px) - level) for px in xs], thick, echo, 0.6)
    c.line([(px, arch(px) + 0.014) for px in xs], 0.030, dark, 0.55)
    c.line([(px, arch(px)) for px in xs], 0.020, rail, 0.5)
    for px in np.linspace(0.02, c.aspect - 0.02, max(8, round(9 * c.aspect))):
        c.line([(px, arch(px)), (px, arch(px) - 0.09)], 0.009, dark, 0.4)
    for level in (-0.045, -0.09):
        c.line([(px, arch(px) + level) for px in xs], 0.012, rail, 0.45)


def _water_lilies(c: Canvas, rng, light: Light, shore: float, leaf: Colour, petal: Colour) -> None:
    """Rafts of round leaves with flowers, larger towards the viewer."""
    for level in np.sort(shore + 0.05 + (0.98 - shore - 0.05) * rng.random(34)):
        near = (level - shore) / (1 - shore)
        px = rng.uniform(0, c.aspect)
        for _ in range(9):
            wide = (0.016 + 0.034 * near) * rng.uniform(0.7, 1.2)
            lx, ly = px + rng.normal(0, 0.035 + 0.05 * near), level + rng.normal(0, 0.004 + 0.012 * near)
            tint = light.on(mix(leaf, colour("6f9f86"), rng.random()), rng.uniform(-0.6, 0.8))
            c.ellipse(lx, ly, wide, wide * 0.33, tint, 0.0, 0.5)
        for _ in range(int(rng.integers(1, 4))):
            bloom = 0.006 + 0.013 * near
            bx, by = px + rng.normal(0, 0.03 + 0.04 * near), level - 0.4 * bloom
            for a in (0.2, 0.9, 1.6, 2.3, 2.9):
                tip = light.on(petal, 0.9 - 0.5 * abs(a - 1.6))
                c.dab(
                    bx + 0.7 * bloom * np.cos(a), by - 0.5 * bloom * np.sin(a), bloom * 0.7, bloom * 0.32, tip, -a, 0.32
                )


def _lily_pond(c: Canvas, scene: Scene, light: Light, rng) -> None:
    shore = rng.uniform(0.44, 0.50)
    sky(c, light, rng, shore, 0.4)
    deep, fresh = colour("4c7358"), colour("9dbb62")
    _thicket(c, rng, light, shore, deep, fresh)
    x, y = c.grid()
    water(c, rng, light, smooth(y + 0 * x, shore, shore + 0.004), shore, colour("6f93a0"), 0.74, 0.8)
    sheen = smooth(c.noise(rng, 3, 4, 2), 0.45, 0.8) * smooth(y, shore + 0.12, 0.95)
    c.cover(mix(light.middle, light.zenith, 0.3), 0.6 * sheen, 1.57, 0.9)
    _arched_footbridge(c, light, shore, colour("7fae9a"))
    _water_lilies(c, rng, light, shore, fresh, colour(_FLOWERS[scene.choice("lilies")]))
    for left, right in ((0, 0.24), (0.80, 1)):
        for px in rng.uniform(left, right, 34) * c.aspect:
            start, long, sway = rng.uniform(-0.1, 0.12), rng.uniform(0.18, 0.42), rng.normal(0, 0.015)
            tint = light.on(mix(deep, fresh, 0.4 + 0.6 * rng.random()), rng.uniform(-0.5, 0.9))
            c.line([(px, start), (px + sway, start + 0.6 * long), (px + 1.6 * sway, start + long)], 0.007, tint, 0.55)
    c.drawn |= {"footbridge", "pond", "water lilies", "willows", scene.choice("lilies")}


def _bare_tree(c: Canvas, rng, light: Light, x: float, foot: float, height: float) -> None:
    bark = light.on(colour("7f6a76"), -0.3)

    def branch(px, py, angle, length, width, depth):
        ex, ey = px + length * np.cos(angle), py + length * np.sin(angle)
        c.line([(px, py), (ex, ey)], width, bark, 0.45)
        if depth:
            for turn in (-0.5, 0.08, 0.55):
                branch(
                    ex, ey, angle + turn + rng.normal(0, 0.15), length * rng.uniform(0.55, 0.75), width * 0.6, depth - 1
                )

    branch(x, foot, -np.pi / 2 + rng.normal(0, 0.06), 0.36 * height, 0.035 * height, 3)


def _snow(c: Canvas, scene: Scene, light: Light, rng) -> None:
    horizon = rng.uniform(0.40, 0.46)
    sky(c, light, rng, horizon, rng.uniform(0.5, 0.8))
    white, blue = light.on(colour("f6f1ec"), 0.55), light.on(colour("bccbe8"), -0.3)
    hill(
        c, rng, horizon - 0.05, 0.09, 3, mix(light.horizon, light.on(colour("a9b2d4"), -0.2), 0.7), light.horizon, 0.12
    )
    side = 1 if rng.random() < 0.5 else -1
    wood = light.on(mix(colour("77789c"), colour("8a7a86"), rng.random()), -0.15)
    hedge(c, rng, light, -0.05, c.aspect + 0.05, horizon + 0.02, 0.10, wood)
    _snowfield(c, rng, horizon, white, blue)

    # The lane swings once on its way to the village.
    x, y = c.grid()
    t = np.clip((y - horizon - 0.03) / (1 - horizon - 0.03), 0, 1)
    middle = _lane(c, side, t)
    rough = (c.noise(rng, 16, 20, 2) - 0.5) * 0.10 * t
    breadth = 0.010 + 0.22 * t**1.3
    trodden = light.on(mix(colour("cdbfc6"), colour("d8c6b4"), rng.random()), -0.1)
    inside = smooth(breadth - np.abs(x - middle) + rough, 0, 0.02) * (t > 0)
    c.cover(trodden, inside * 0.8, 1.35, 0.8)
    for rut in (-0.45, 0.42):
        band = np.exp(-(((x - middle - rut * breadth + 0.3 * rough) / (0.004 + 0.02 * t)) ** 2)) * (t > 0)
        c.cover(light.on(colour("9a93ba"), -0.45), band * 0.75, 1.35, 0.6)

    for k in range(6):
        px = c.aspect * 0.5 + side * (0.02 + 0.125 * k)
        foot, size = horizon + 0.035 + 0.022 * k, 0.10 + 0.026 * k
        wall = mix(colour("e2b884"), colour("c07f6c"), rng.random())
        house(c, light, px - size / 2, foot, size, size * 0.52, wall, mix(colour("f6f3f2"), colour("d4def4"), 0.35))
    for px, foot, tall in ((0.10, 0.80, 0.66), (0.25, 0.64, 0.38), (0.34, 0.545, 0.22), (0.97, 0.80, 0.5)):
        place = c.aspect * (px if side > 0 else 1 - px)
        reach = -light.side * 0.55 * tall
        c.line(
            [(place, foot), (place + reach, foot + 0.075)], 0.02 * tall + 0.006, light.on(colour("a3aedb"), -0.35), 0.6
        )
        _bare_tree(c, rng, light, place, foot, tall)
    number = 1 if scene.choice("figures") == "one person" else 2
    for k in range(number):
        level = 0.735 + 0.01 * k
        px = float(_lane(c, side, (level - horizon) / (1 - horizon))) + 0.075 * (k - 0.3)
        c.line([(px, level), (px - 0.12 * light.side, level + 0.02)], 0.012, light.on(colour("9f98c4"), -0.5), 0.5)
        figure(c, light, px, level, 0.185 - 0.015 * k, colour(("5f5474", "94524a")[k]), colour("4f4a66"), k == 1)
    c.drawn |= {"snow", "lane", "village", "bare trees", "houses", "roofs", scene.choice("figures")}


def _snowfield(c: Canvas, rng, horizon: float, white: Colour, blue: Colour) -> None:
    """Snow down to the lower edge: warm where the light falls, blue in the hollows."""
    drifts = c.noise(rng, 4, 11, 3)
    _, y = c.grid()
    t = smooth(drifts + 0.2 * (y - 0.7), 0.25, 0.68)[..., None]
    c.cover(blue + (white - blue) * t, smooth(y + 0 * drifts, horizon + 0.008, horizon + 0.014), 0.1 - 0.3 * drifts)


def _lane(c: Canvas, side: int, t):
    """The x of the lane's middle, t from the village (0) to the lower edge (1)."""
    return c.aspect * (0.5 + 0.02 * side) - side * (0.14 * c.aspect * t - 0.09 * np.sin(3.0 * t))


_COMPOSITIONS = {
    "river": _river,
    "poppies": _poppies,
    "haystacks": _haystacks,
    "sailboats": coasts.sailboats,
    "lily pond": _lily_pond,
    "snow": _snow,
    "cliffs": coasts.cliffs,
}
