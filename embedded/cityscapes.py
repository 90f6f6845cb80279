"""Town views: streets, canals and bridges, with people as a few touches of the brush."""

from __future__ import annotations

import numpy as np

from . import streets
from .canvas import Canvas, placed
from .colour import Colour, colour, mix
from .nature import Light, figure, hedge, light_of, sky, smooth, water
from .scenes import Scene


def draw(c: Canvas, scene: Scene) -> None:
    """Draw a cityscape scene."""
    rng = scene.random()
    light = light_of(scene.light, -1.0 if rng.random() < 0.5 else 1.0)
    _COMPOSITIONS[scene.composition](c, scene, light, rng)


def _tower(c: Canvas, light: Light, x: float, foot: float, height: float, haze: float) -> None:
    def seen(name: str, amount: float) -> Colour:
        return mix(light.on(colour(name), amount), light.horizon, haze)

    c.polygon(placed("-10,0 -10,-62 0,-62 0,0", x, foot, height), seen("e2d0b2", -0.5 * light.side), 1.57, 0.5)
    c.polygon(placed("10,0 10,-62 0,-62 0,0", x, foot, height), seen("e2d0b2", 0.6 * light.side), 1.57, 0.5)
    c.polygon(placed("-12,-61 0,-100 12,-61", x, foot, height), seen("7584a8", 0.1), 1.4, 0.45)
    for level in (0.30, 0.50):
        for side in (-0.045, 0.045):
            c.ellipse(
                x + side * height,
                foot - level * height,
                0.015 * height,
                0.035 * height,
                seen("6f6a86", -0.4),
                1.57,
                0.35,
            )


def _town(c: Canvas, rng, light: Light, line: float, tall: float, haze: float, palette: str, lit: float) -> None:
    """A row of houses seen from the front, standing on `line`."""

    def seen(local: Colour, amount: float) -> Colour:
        return mix(light.on(local, amount), light.horizon, haze)

    left = -0.03
    while left < c.aspect:
        width, height = tall * rng.uniform(0.55, 0.95), tall * rng.uniform(0.75, 1.15)
        wall = colour(streets.WALLS[palette][int(rng.integers(5))])
        right, top = left + width, line - height
        c.polygon(
            [(left, line), (left, top), (right, top), (right, line)], seen(wall, rng.uniform(-0.1, 0.6)), 1.57, 0.55
        )
        slope = [
            (left - 0.004, top),
            (left + 0.18 * width, top - 0.25 * height),
            (right - 0.18 * width, top - 0.25 * height),
        ]
        c.polygon(
            [*slope, (right + 0.004, top)], seen(mix(colour("b0654e"), colour("7f86a4"), rng.random()), 0.2), 0.9, 0.45
        )
        columns = max(2, round(width / tall * 4))
        wide, high = 0.36 * width / columns, 0.13 * height
        for row in range(4):
            for column in range(columns):
                px, py = left + width * (column + 0.32) / columns, line - height * (0.93 - 0.23 * row)
                glass = colour("ffd27a") if rng.random() < lit else light.on(colour("66759a"), -0.2)
                pane = [(px, py), (px + wide, py), (px + wide, py + high), (px, py + high)]
                c.polygon(pane, mix(glass, light.horizon, haze), 1.57, 0.36)
        c.line([(right, line), (right, top)], 0.006, seen(wall, -0.8), 0.4)
        left = right


def _stone_bridge(c: Canvas, rng, light: Light, shore: float, foot: float, bright: float) -> np.ndarray:
    """A bridge on arches across the whole picture, standing at `foot`; return its openings (height, width), 0..1."""
    stone = colour("d9c6a6")
    face, dark, under = light.on(stone, bright), light.on(stone, bright - 0.6), light.on(colour("8a7f9c"), -0.75)
    courses = c.noise(rng, 10, 40, 2)

    def deck(px):
        return shore - 0.045 - 0.05 * np.sin(np.pi * np.clip(px / c.aspect, 0, 1))

    def masonry(px, py):
        return face + (dark - face) * smooth(c.sample(courses, px, py), 0.4, 0.9)[..., None]

    behind = c.pixels()
    rise = [(px, float(deck(px))) for px in np.linspace(-0.05, c.aspect + 0.05, 30)]
    c.shade([*rise, (c.aspect + 0.05, foot), (-0.05, foot)], masonry, 0.03, 0.55)
    x, y = c.grid()
    vault, opening = np.zeros((2, c.height, c.width), dtype=np.float32)
    arches = 4 if c.aspect > 1 else 3
    span = (c.aspect + 0.1) / arches
    for k in range(arches):
        middle = -0.05 + span * (k + 0.5)
        for mask, grow, slip in ((vault, 1.0, 0.0), (opening, 0.93, -0.012 * light.side)):
            tall = (foot - deck(middle) - 0.042) * grow
            r = ((x - middle - slip) / (0.40 * span * grow)) ** 2 + ((y - foot) / tall) ** 2
            np.maximum(mask, smooth(-r, -1.03, -0.97) * (y < foot), out=mask)
    c.cover(np.broadcast_to(under, behind.shape), vault, 1.3, 0.5)
    c.cover(behind, opening, 1.57, 0.5)
    c.line(rise, 0.014, light.on(stone, bright + 0.5), 0.45)
    c.line([(px, py + 0.02) for px, py in rise], 0.006, light.on(stone, -0.6), 0.4)
    for px in rng.uniform(0.05, 0.95, 9) * c.aspect:
        coat = colour(streets.COATS[int(rng.integers(len(streets.COATS)))])
        figure(c, light, px, float(deck(px)), 0.045, coat, colour("5a5470"), rng.random() < 0.5)
    return opening


def _barge(c: Canvas, light: Light, x: float, y: float) -> None:
    hull = light.on(colour("6a4f50"), -0.2)
    c.ellipse(x, y + 0.045, 0.25, 0.018, mix(hull, light.middle, 0.35), 0, 0.5)
    figure(c, light, x - 0.10, y + 0.005, 0.12, colour("4f5f86"), colour("d8b25a"), False)
    c.polygon(placed("-26,-3.5 26,-3.5 22,3.5 -22,3.5", x, y), hull, 0.0, 0.5)
    c.polygon(placed("-24,-3.5 25,-3.5 24.5,-1.5 -24,-1.5", x, y), light.on(colour("c9604c"), 0.2), 0, 0.4)
    c.polygon(placed("5,-3.5 5,-8.5 17,-8.5 17,-3.5", x, y), light.on(colour("ddb878"), 0.4), 1.57, 0.45)


def _rowing_boat(c: Canvas, light: Light, x: float, y: float, size: float) -> None:
    hull = light.on(colour("6a4f50"), -0.2)
    c.ellipse(x, y + 0.3 * size, 1.1 * size, 0.09 * size, mix(hull, light.middle, 0.35), 0, 0.5)
    figure(c, light, x, y + 0.12 * size, 0.95 * size, colour("c2574a"), colour("e2c070"), False)
    c.polygon(placed("-120,-14 125,-18 90,20 -90,20", x, y, size), hull, 0, 0.45)
    c.polygon(placed("-110,-14 115,-17 110,-6 -105,-4", x, y, size), light.on(colour("c98f6a"), 0.4), 0, 0.4)


def _bridge(c: Canvas, scene: Scene, light: Light, rng) -> None:
    shore = rng.uniform(0.52, 0.57)
    sky(c, light, rng, shore, 0.6)
    night = scene.light == "dusk"
    tower_x = c.aspect * rng.choice((0.24, 0.76))
    hedge(c, rng, light, -0.05, c.aspect + 0.05, shore - 0.07, 0.08, mix(colour("7f93a8"), light.horizon, 0.3))
    _town(c, rng, light, shore - 0.045, 0.13, 0.45, "pink and ochre", 0.45 * night)
    _tower(c, light, tower_x, shore - 0.04, 0.42, 0.28)
    _town(c, rng, light, shore, 0.135, 0.18, "pale", 0.45 * night)
    hedge(c, rng, light, -0.05, c.aspect + 0.05, shore + 0.005, 0.04, colour("6f8f62"))
    foot = shore + 0.075
    # At night the bridge stands dark before the town's lights.
    opening = _stone_bridge(c, rng, light, shore, foot, -0.3 if night else 0.35)
    _, y = c.grid()
    water(c, rng, light, opening * (y > shore + 0.004), shore, colour("6f8fa8"), 0.7, 0.8)
    water(c, rng, light, smooth(y + 0 * opening, foot - 0.001, foot + 0.002), foot, colour("6a8ea4"), 0.72, 1.1)
    if scene.choice("boats") == "a barge":
        _barge(c, light, c.aspect * rng.uniform(0.4, 0.65), 0.82)
    else:
        _rowing_boat(c, light, c.aspect * 0.70, 0.75, 0.085)
        _rowing_boat(c, light, c.aspect * 0.34, 0.86, 0.13)
    c.drawn |= {"bridge", "arches", "river", "houses", "church tower", scene.choice("boats")}


def _quay(c: Canvas, rng, light: Light, street: streets.Street, side: int, walls: list[Colour], lit: float) -> None:
    """Tall houses with shutters and flower boxes along one side of a canal."""
    edges = (0.0, 0.17, 0.31, 0.43, 0.53, 0.615, 0.69, 0.75, 0.80)
    for k in range(len(edges) - 2, -1, -1):
        toward = 0.75 if side != light.side else -0.7
        house = streets.House(side, edges[k], edges[k + 1], -0.40 * rng.uniform(0.8, 1.2), 0.16, toward, 0.05 * k)
        streets.house_front(c, light, street, house, walls[(k + int(rng.integers(2))) % 5], colour("b8694e"), 0.075)
        shutter = colour(("6f9a8c", "5f7fae", "8a9a5c", "a8685a")[int(rng.integers(4))])
        streets.windows(c, rng, light, street, house, lit, shutter)
        px, py = street.at(side, (house.near + house.far) / 2, 0.02)
        for _ in range(8):
            petal, grow = colour(("d8483f", "6f9a52", "e58a9a")[int(rng.integers(3))]), 0.009 * (1 - house.near)
            c.dab(
                px + rng.normal(0, 0.012), py + rng.normal(0, 0.006), grow, 0.9 * grow, light.on(petal, 0.3), 1.0, 0.35
            )


def _footbridge(c: Canvas, light: Light, x: float, y: float) -> None:
    """A small arched bridge whose middle is at x, its ends on the level y."""
    for level, thick, tone in ((0.016, 0.022, -0.9), (0.0, 0.022, 0.7), (-0.040, 0.010, -0.2)):
        arch = [(x + px, y + level - 0.060 * (1 - (px / 0.17) ** 2)) for px in np.linspace(-0.17, 0.17, 21)]
        c.line(arch, thick, light.on(colour("cdb08a"), tone), 0.4)
        if level < 0:
            for px, py in arch[::2]:
                c.line([(px, py), (px, py + 0.04)], 0.006, light.on(colour("a88a70"), -0.4), 0.35)


def _moored_boat(c: Canvas, light: Light, x: float, y: float, side: int) -> None:
    hull = light.on(colour("4f5a7a"), -0.1)
    c.ellipse(x, y + 0.045, 0.16, 0.016, mix(hull, light.middle, 0.4), 0, 0.5)
    c.polygon(placed("-19,-3.5 19,-3.5 14,3.2 -14,3.2", x, y), hull, 0, 0.45)
    c.polygon(placed("-19,-3.5 19,-3.5 17.5,-1.2 -17.5,-1.2", x, y), light.on(colour("d0654e"), 0.4), 0, 0.4)
    c.polygon(placed("-10,-3.5 -6,-7.5 7,-7.5 10,-3.5", x, y), light.on(colour("d9c9a6"), 0.5), 0, 0.45)
    c.line([(x + side * 0.17, y - 0.03), (x + side * 0.24, y - 0.20)], 0.010, light.on(colour("6f5a4c"), 0), 0.35)


def _canal(c: Canvas, scene: Scene, light: Light, rng) -> None:
    street = streets.Street(c, c.aspect * rng.uniform(0.40, 0.60), rng.uniform(0.48, 0.53))
    sky(c, light, rng, street.y, 0.5)
    facades = scene.choice("facades")
    lit = 0.12 if scene.light == "sunset" else 0.0
    _town(c, rng, light, street.y + 0.02, 0.12, 0.45, facades, lit)
    for side in (-1, 1):
        _quay(c, rng, light, street, side, [colour(name) for name in streets.WALLS[facades]], lit)
    # The footbridge stands before the water is painted, so that it finds its reflection.
    _footbridge(c, light, street.x, street.y + 0.022)
    streets.mirror(c, rng, light, street, 0.172, colour("5f8a94"), 0.70, 0.0)
    side = -1 if street.x > c.aspect / 2 else 1
    _moored_boat(c, light, street.x + side * 0.26 * c.aspect, rng.uniform(0.76, 0.84), side)
    c.drawn |= {"canal", "houses", "reflections", "boat", "footbridge", facades}


_COMPOSITIONS = {"boulevard": streets.boulevard, "rain": streets.rain, "bridge": _bridge, "canal": _canal}
