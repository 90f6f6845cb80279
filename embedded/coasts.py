"""By the sea: sailboats on calm water, and white cliffs above a beach."""

from __future__ import annotations

import numpy as np

from .canvas import Canvas, Point, outline
from .colour import Colour, colour, mix
from .nature import (
    Light,
    glitter,
    sailboat,
    sky,
    smooth,
    water,
)
from .scenes import Scene

# From the picture's edge to the arch and back along the water; y from 100 on counts from the water's level.
_CLIFF = (
    "105,17 88,19 74,23 66,23.5 58,27 52,27.5 47.5,31 44.5,40 42.5,100 47.5,100 48.5,46 51,40.5 54.5,40 57.5,45 60,100 "
    "75,104 90,111 105,118"
)
_TURF = "105,17 88,19 74,23 66,23.5 58,27 55,29 64,27.5 74,26.5 88,23.5 105,23"


def sailboats(c: Canvas, scene: Scene, light: Light, rng) -> None:
    horizon = rng.uniform(0.40, 0.50)
    sun_x, _ = sky(c, light, rng, horizon, rng.uniform(0.3, 0.7))
    coast = mix(light.on(colour("7d8fb0"), -0.2), light.horizon, 0.35)
    side = 1 if rng.random() < 0.5 else -1
    edge = c.aspect * (0.5 + 0.5 * side)
    reach = c.aspect * rng.uniform(0.5, 0.7)
    steps = np.linspace(0, 1, 24)
    line = [(edge - side * reach * s, horizon - 0.055 * (1 - s) ** 0.8 * (1 + 0.3 * np.sin(9 * s + 3))) for s in steps]
    c.polygon([*line, (edge - side * reach, horizon + 0.004), (edge, horizon + 0.004)], coast, 0.0, 0.6)
    x, y = c.grid()
    deep = {"morning": "7fa6b0", "noon": "3f86b4", "sunset": "8b6f9c", "dusk": "40569c"}[scene.light]
    water(c, rng, light, smooth(y + 0 * x, horizon - 0.001, horizon + 0.002), horizon, colour(deep), 0.62, 1.3)
    glitter(c, rng, light, sun_x, horizon)
    sail = colour({"white": "fbf1df", "red": "cf5a42", "ochre": "dd9f4a"}[scene.choice("sails")])
    far = [(0.12, 0.035, 0.10), (0.34, 0.02, 0.07), (0.80, 0.03, 0.085), (0.93, 0.05, 0.11)]
    for px, below, tall in far[: 2 + int(rng.integers(3))]:
        sailboat(c, light, c.aspect * px, horizon + below, tall, mix(sail, light.horizon, 0.35), side)
    sailboat(c, light, c.aspect * (0.5 - 0.14 * side), horizon + 0.18, 0.40 * min(1, c.aspect**0.5), sail, side)
    sailboat(c, light, c.aspect * (0.5 + 0.24 * side), horizon + 0.09, 0.22, sail, side)
    c.drawn |= {"sailboats", "sails", "water", "reflections", "coast", scene.choice("sails")}


def _cliff(c: Canvas, rng, light: Light, base: float, side: int, sea: Colour) -> None:
    """A chalk cliff with a natural arch, rising from the sea at `base` on `side` (-1, 1)."""

    def at(numbers: str) -> list[Point]:
        # The cliff's feet (100 and more) follow the sea's level; the rest keeps its place in the picture.
        points = [(px, base + py - 1 if py >= 1 else py) for px, py in outline(numbers)]
        return [(c.aspect * (0.5 + side * (px - 0.5)), py) for px, py in points]

    lit = light.side * side < 0
    chalk, cool = light.on(colour("efe4d2"), 0.55 if lit else 0.0), light.on(colour("c2b8cc"), -0.45)
    strata = c.noise(rng, 5, 30, 3)

    def shading(px, py):
        return cool + (chalk - cool) * smooth(c.sample(strata, px, py), 0.3, 0.62)[..., None]

    c.shade(at(_CLIFF), shading, 1.45, 0.7)
    c.polygon(at(_TURF), light.on(colour("8aa75e"), 0.4), 0.25, 0.6)
    for depth in range(5):
        (left, level), (right, _) = at(f"{43 + 1.2 * depth},{101.4 + 2.2 * depth} {62 + 10 * depth},100")
        echo = mix(chalk, sea * light.ambient / 255, 0.35 + 0.1 * depth)
        c.ellipse((left + right) / 2, level, abs(right - left) / 2, 0.006, echo, 0, 0.6)


def _beach(c: Canvas, rng, light: Light, side: int) -> None:
    """Foam and pebbles along the lower edge."""

    def line(px):
        t = 0.5 + side * (px / c.aspect - 0.5)
        return 0.80 + 0.10 * (1 - t) + 0.012 * np.sin(t * 17)

    edge = [(float(px), float(line(px))) for px in np.linspace(-0.05, c.aspect + 0.05, 40)]
    corners = [(c.aspect + 0.05, 1.02), (-0.05, 1.02)]
    c.polygon([*((px, py - 0.02) for px, py in edge), *corners], light.on(colour("f2f2ee"), 0.5), 0.08, 0.6)
    c.polygon([*edge, *corners], light.on(colour("d2b896"), 0.1), 0.08, 0.7)
    for _ in range(420):
        px = rng.uniform(0, c.aspect)
        stone = light.on(mix(colour("b59c8c"), colour("d9cbb8"), rng.random()), rng.uniform(-0.7, 0.6))
        c.ellipse(px, rng.uniform(line(px) + 0.01, 1.0), 0.008, 0.004, stone, 0, 0.45)


def cliffs(c: Canvas, scene: Scene, light: Light, rng) -> None:
    horizon = rng.uniform(0.46, 0.52)
    sun_x, _ = sky(c, light, rng, horizon, rng.uniform(0.35, 0.7))
    x, y = c.grid()
    sea = colour({"morning": "77a7ad", "noon": "3f8fae", "afternoon": "4f96a4", "sunset": "7f7aa6"}[scene.light])
    water(c, rng, light, smooth(y + 0 * x, horizon - 0.001, horizon + 0.002), horizon, sea, 0.42, 1.4)
    glitter(c, rng, light, sun_x, horizon, 0.8)
    side = 1 if rng.random() < 0.5 else -1
    _cliff(c, rng, light, horizon + 0.075, side, sea)
    for level in np.sort(horizon + 0.06 + (0.80 - horizon - 0.06) * rng.random(70) ** 0.7):
        near = (level - horizon) / 0.35
        crest = light.on(mix(colour("dfeef0"), sea, 0.25 * rng.random()), 0.4)
        wide = 0.012 + 0.05 * near * rng.random()
        c.ellipse(rng.uniform(0, c.aspect), level, wide, 0.0015 + 0.0035 * near, crest, 0, 0.5)
    _beach(c, rng, light, side)
    number = 1 if scene.choice("boats") == "a single sailboat" else 3
    for px, below, tall in ((0.20, 0.06, 0.16), (0.33, 0.025, 0.085), (0.08, 0.02, 0.07))[:number]:
        place = c.aspect * (0.5 + side * (px - 0.5))
        sailboat(c, light, place, horizon + below, tall, colour("f6ead2"), side)
    c.drawn |= {"cliffs", "arch", "sea", "beach", "sailboat", scene.choice("boats")}
