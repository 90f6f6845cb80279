"""Town views: streets in perspective, canals and bridges, with people as a few touches of the brush."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .canvas import Canvas, Point, placed
from .colour import Colour, colour, mix
from .nature import Light, figure, foliage, hedge, light_of, parasol, sky, smooth, water
from .scenes import Scene

_WALLS = {
    "pink and ochre": ("e0a48c", "e3bd7c", "d98f7a", "edd0a0", "cf9a6a"),
    "red brick": ("b86a54", "a85f50", "c58068", "9c5a52", "cf9478"),
    "pale": ("efe6d4", "e2dccb", "d8d4d2", "f2ead8", "d9cdb8"),
    "street": ("e9dcc2", "dccbb0", "e6d2b4", "cfc0b0", "efe2cc"),
}
_COATS = ("4f4a6a", "6a4f5c", "5c5a7a", "7a5a4c", "4f6478", "8a5a5a", "5f6a5c")


def draw(c: Canvas, scene: Scene) -> None:
    """Draw a cityscape scene."""
    rng = scene.random()
    light = light_of(scene.light, -1.0 if rng.random() < 0.5 else 1.0)
    _COMPOSITIONS[scene.composition](c, scene, light, rng)


class _Street:
    """A street or canal seen from its middle: maps each side's house line to the picture by one vanishing point."""

    def __init__(self, c: Canvas, x: float, y: float):
        self.x, self.y, self.aspect = x, y, c.aspect
        self.reach = c.aspect * 0.5 + abs(x - c.aspect / 2) + 0.02  # from the middle to the picture's farther edge

    def at(self, side: int, t: float, level: float) -> Point:
        """A point of the house line on `side` (-1, 1); t runs from 0 (picture's edge) to 1 (vanishing point) and
        `level` is the height under the vanishing point's level at the edge (negative is above)."""
        edge = self.x + side * self.reach
        return edge + (self.x - edge) * t, self.y + level * (1 - t)

    def panel(self, side: int, near: float, far: float, top: float, bottom: float) -> list[Point]:
        """The corners of an upright rectangle in the house line."""
        return [self.at(side, t, level) for t, level in ((near, top), (far, top), (far, bottom), (near, bottom))]

    def line(self, x: np.ndarray, level: float) -> np.ndarray:
        """The y of the house line's foot over every x."""
        return self.y + level * np.abs(x - self.x) / self.reach


@dataclass(frozen=True)
class _House:
    """One house of a street: where it stands along its side, its roof's level, its light (-1..1) its haze (0..1)."""

    side: int
    near: float
    far: float
    top: float
    foot: float
    toward: float
    haze: float

    def part(self, start: float, end: float) -> tuple[float, float]:
        """A stretch of the front, in fractions of its breadth."""
        return self.near + (self.far - self.near) * start, self.near + (self.far - self.near) * end

    def level(self, down: float) -> float:
        """A height on the front, in fractions from the roof (0) to the street (1)."""
        return self.top + (self.foot - self.top) * down

    def tint(self, light: Light, local: Colour, share: float = 1.0) -> Colour:
        return mix(light.on(local, self.toward * share), light.horizon, self.haze)


def _front(c: Canvas, light: Light, street: _Street, house: _House, wall: Colour, roof: Colour, height: float) -> None:
    """A house's wall, darker towards the street, and its roof of this height."""
    body = house.tint(light, wall)
    shade = mix(body, light.on(colour("8a7f9a"), -0.55), 0.26)
    corners = street.panel(house.side, house.near, house.far, house.top, house.foot)
    low, high = corners[3][1], corners[0][1]

    def shading(px, py):
        return body + (shade - body) * np.clip((py - high) / (low - high), 0, 1)[..., None]

    c.shade(corners, shading, 1.57, 0.55)
    left, right = house.part(0.12, 0.88)
    ridge = [
        street.at(house.side, house.near, house.top + 0.004),
        street.at(house.side, left, house.top - height),
        street.at(house.side, right, house.top - height),
        street.at(house.side, house.far, house.top + 0.004),
    ]
    c.polygon(ridge, house.tint(light, roof, 0.5), 0.7 * house.side, 0.5)


def _windows(
    c: Canvas, rng, light: Light, street: _Street, house: _House, lit: float, shutter: Colour | None = None
) -> None:
    """Four floors of three windows, `lit` of them (0..1) by lamps, with shutters or a ledge."""
    for floor in range(4):
        upper, lower = house.level(0.08 + 0.185 * floor), house.level(0.20 + 0.185 * floor)
        for bay in range(3):
            glass = colour("ffd27a") if rng.random() < lit else light.on(colour("66759a"), -0.3)
            a, b = house.part((bay + 0.30) / 3, (bay + 0.68) / 3)
            if shutter is not None:
                wide = street.panel(house.side, a - 0.35 * (b - a), b + 0.35 * (b - a), upper, lower)
                c.polygon(wide, house.tint(light, shutter, 0.5), 1.57, 0.4)
            c.polygon(street.panel(house.side, a, b, upper, lower), mix(glass, light.horizon, house.haze), 1.57, 0.38)
        if shutter is None:
            ledge = [street.at(house.side, house.near, lower + 0.006), street.at(house.side, house.far, lower + 0.006)]
            c.line(ledge, 0.004, house.tint(light, colour("a39aa8"), 0.6), 0.4)


def _facades(
    c: Canvas, rng, light: Light, street: _Street, side: int, roof: float, ground: float, lit_windows: float
) -> None:
    """A row of houses along one side of the street, with windows, shops and roofs of slate."""
    edges = 1 - 1 / (1 + 0.42 * np.arange(0, 11))
    edges = edges / edges[-1] * 0.87
    for k in range(len(edges) - 2, -1, -1):
        top = -roof * rng.uniform(0.86, 1.1)
        toward = 0.75 if side != light.side else -0.85
        house = _House(side, float(edges[k]), float(edges[k + 1]), top, ground, toward, 0.055 * k)
        _front(c, light, street, house, colour(_WALLS["street"][int(rng.integers(5))]), colour("7f8aa6"), 0.16 * roof)
        a, b = house.part(0.36, 0.48)
        chimney = street.panel(side, a, b, top - 0.26 * roof, top - 0.14 * roof)
        c.polygon(chimney, house.tint(light, colour("b5705a"), 0.6), 1.57, 0.4)
        _windows(c, rng, light, street, house, lit_windows)
        shop = house.level(0.80)
        front = colour("ffcf80") if lit_windows > 0.2 else light.on(colour("6a6478"), -0.3)
        glass = street.panel(side, house.near, house.far, shop, ground)
        c.polygon(glass, mix(front, light.horizon, house.haze), 1.57, 0.45)
        awning = colour(("c9604c", "5f7fae", "6f9a72", "d9b060")[int(rng.integers(4))])
        c.polygon(
            street.panel(side, house.near, house.far, shop - 0.02, shop + 0.035),
            house.tint(light, awning, 0.5),
            0.1,
            0.4,
        )


def _mirror(
    c: Canvas, rng, light: Light, street: _Street, level: float, tint: Colour, clarity: float, angle: float
) -> None:
    """What stands on both sides of a wet street or a canal, mirrored in it column by column.

    The foot of the house line rises to both sides, so each column has its own mirror line.
    """
    x, y = c.grid()
    foot = np.maximum(street.line(x, level), street.y + 0.006)
    depth = np.clip(y - foot, 0, 1)
    broken = c.noise(rng, 6, 64, 2) - 0.5
    mirrored = c.sample(c.pixels(), x + broken * (0.010 + 0.05 * depth), foot - depth * 0.96 + broken * 0.10 * depth)
    deep = tint * light.ambient / 255
    surface = deep + (mirrored - deep) * clarity
    surface = surface + (light.middle - surface) * (smooth(broken, 0.14, 0.34) * 0.45)[..., None]
    c.cover(surface, smooth(y, foot - 0.001, foot + 0.003), angle, 0.85)


def _carriage(c: Canvas, light: Light, x: float, foot: float, h: float, way: int) -> None:
    """A cab and its horse, going to the left (-1) or the right (1)."""
    horse = light.on(colour("7a5544"), -0.1)
    c.ellipse(x, foot, 0.75 * h, 0.05 * h, light.on(colour("8a84a0"), -0.7), 0, 0.4)
    c.polygon(placed("-32,-28 -36,-95 30,-95 34,-28", x, foot, h), light.on(colour("54506e"), -0.1), 1.57, 0.4)
    c.polygon(placed("-20,-60 -20,-86 16,-86 16,-60", x, foot, h), light.on(colour("b9c2d6"), 0.2), 1.57, 0.35)
    for wheel in (-0.24, 0.26):
        c.ellipse(x + wheel * h, foot - 0.16 * h, 0.17 * h, 0.17 * h, light.on(colour("4f4858"), -0.2), 0.5, 0.35)
        c.ellipse(x + wheel * h, foot - 0.16 * h, 0.11 * h, 0.11 * h, light.on(colour("b49a86"), 0), 0.5, 0.35)
    hx = x + way * 0.72 * h
    c.ellipse(hx, foot - 0.52 * h, 0.28 * h, 0.16 * h, horse, 0, 0.38)
    c.polygon(placed("12,-56 34,-92 44,-80 26,-46", hx, foot, h, way), horse, 1.1, 0.36)
    for leg in (-0.2, -0.1, 0.12, 0.22):
        c.line([(hx + leg * h, foot - 0.45 * h), (hx + leg * 1.1 * h, foot)], 0.045 * h, horse, 0.35)
    c.ellipse(x + way * 0.3 * h, foot - 1.04 * h, 0.09 * h, 0.15 * h, light.on(colour("4a4560"), 0), 1.5, 0.35)


def _crowd(
    c: Canvas, rng, light: Light, street: _Street, number: int, tall: float, where, umbrella=None, wet=False
) -> None:
    """People at several distances; `where(rng, t)` gives how far from the middle (-1..1) one at depth t walks."""
    for depth in np.sort(1 - 0.05 - 0.62 * rng.random(number) ** 1.4)[::-1]:
        x = street.x + where(rng, depth) * (1 - depth) * street.aspect * 0.62
        ground = street.y + (1.0 - street.y) * 0.92 * (1 - depth)
        h = tall * (1 - depth) * rng.uniform(0.92, 1.08)
        if h < 0.012:
            continue
        coat = colour(_COATS[int(rng.integers(len(_COATS)))])
        if wet:
            for part in range(5):
                c.ellipse(
                    x,
                    ground + (0.08 + 0.15 * part) * h,
                    0.10 * h * (1 - 0.12 * part),
                    0.045 * h,
                    mix(light.on(coat, -0.2), light.middle, 0.3 + 0.12 * part),
                    0,
                    0.4,
                )
        else:
            c.polygon(
                [
                    (x - 0.07 * h, ground),
                    (x + 0.07 * h, ground),
                    (x - light.side * 0.5 * h, ground + 0.14 * h),
                    (x - light.side * 0.62 * h, ground + 0.13 * h),
                ],
                light.on(colour("8f86a6"), -0.65),
                0.2,
                0.4,
            )
        figure(c, light, x, ground, h, coat, mix(coat, colour("d8b98a"), 0.35), rng.random() < 0.55)
        if umbrella is not None and rng.random() < 0.8:
            parasol(
                c,
                light,
                x + 0.04 * h,
                ground - h * 0.98,
                0.30 * h,
                mix(umbrella, coat, 0.35 * rng.random()),
                rng.normal(0, 0.1),
            )


def _street_tree(c: Canvas, rng, light: Light, x: float, foot: float, h: float, leaf: Colour, haze: float) -> None:
    bark = mix(light.on(colour("7a6660"), -0.3), light.horizon, haze)
    c.line([(x, foot), (x, foot - 0.6 * h)], 0.05 * h, bark, 0.4)
    for _ in range(4):
        px, py = x + rng.normal(0, 0.12) * h, foot - (0.78 + rng.normal(0, 0.13)) * h
        foliage(c, rng, light, px, py, 0.28 * h, 0.22 * h, mix(leaf, light.horizon, 0.9 * haze), 34, 0.045 * h, 0.5)
    c.ellipse(x - light.side * 0.2 * h, foot, 0.32 * h, 0.03 * h, light.on(colour("a59ab4"), -0.5), 0.1, 0.5)


def _boulevard(c: Canvas, scene: Scene, light: Light, rng) -> None:
    street = _Street(c, c.aspect * rng.uniform(0.40, 0.60), rng.uniform(0.50, 0.56))
    sky(c, light, rng, street.y, 0.6)
    x, y = c.grid()
    patches = c.noise(rng, 4, 18, 3)
    stone = colour("d6c8b8")
    ground = (
        light.on(stone, -0.5) + (light.on(stone, 0.6) - light.on(stone, -0.5)) * smooth(patches, 0.15, 0.75)[..., None]
    )
    ground = ground + (light.horizon - ground) * (0.55 * np.exp(-(y - street.y) * 9))[..., None]
    c.cover(ground, smooth(y + 0 * x, street.y, street.y + 0.004), 0.05, 0.9)
    for side in (-1, 1):
        _facades(c, rng, light, street, side, 0.52, 0.30, 0.05)
        curb = [street.at(side, t, level) for t, level in ((0, 0.30), (0.9, 0.30), (0.9, 0.35), (0, 0.42))]
        c.polygon(curb, light.on(colour("c9bfc0"), -0.1), 0.3 * side, 0.6)
    leaf = colour("86a556") if scene.choice("trees") == "green" else colour("dda544")
    for t in (0.84, 0.76, 0.66, 0.54, 0.38):
        for side in (-1, 1):
            edge, level = street.at(side, t, 0.36)
            _street_tree(c, rng, light, street.x + (edge - street.x) * 0.72, level, 0.50 * (1 - t), leaf, 0.4 * t)
    _crowd(c, rng, light, street, 46, 0.30, lambda r, t: r.choice((-1, 1)) * r.uniform(0.45, 0.95))
    for t, place, way in ((0.82, -0.1, 1), (0.72, 0.2, -1), (0.56, -0.26, 1), (0.36, 0.3, -1)):
        _carriage(c, light, street.x + place * (1 - t) * c.aspect, street.y + 0.40 * (1 - t), 0.19 * (1 - t), way)
    _crowd(c, rng, light, street, 9, 0.30, lambda r, t: r.uniform(-0.5, 0.5))
    c.drawn |= {"boulevard", "houses", "trees", "people", "carriages", "street", scene.choice("trees")}


def _lamp(c: Canvas, light: Light, x: float, foot: float, h: float) -> None:
    post = light.on(colour("4f4a68"), -0.2)
    c.line([(x, foot), (x, foot - 0.88 * h)], max(0.004, 0.026 * h), post, 0.35)
    c.polygon(placed("-4,-100 4,-100 2.5,-87 -2.5,-87", x, foot, h), colour("fff0b8"), 1.57, 0.35)
    c.polygon(placed("-5,-100 5,-100 0,-106", x, foot, h), post, 0.0, 0.35)


def _lamp_glow(c: Canvas, rng, light: Light, x: float, foot: float, h: float) -> None:
    """A lamp's halo, and its light on the wet ground."""
    for part in range(16):
        t = (part + 0.5) / 16
        wide = (0.055 - 0.025 * t) * h * rng.uniform(0.5, 1.3)
        tint = mix(colour("ffd88a"), light.middle, 0.25 + 0.6 * t)
        c.ellipse(x + rng.normal(0, 0.02) * h, foot + t * 1.1 * h, wide, 0.018 * h, tint, 0.0, 0.45)
    c.glow(x, foot - 0.94 * h, 0.24 * h, colour("ffd58a"), 0.9)


def _rain(c: Canvas, scene: Scene, light: Light, rng) -> None:
    street = _Street(c, c.aspect * rng.uniform(0.36, 0.64), rng.uniform(0.48, 0.54))
    sky(c, light, rng, street.y, 0.9)
    for side in (-1, 1):
        _facades(c, rng, light, street, side, 0.52, 0.20, 0.42)
    c.glow(street.x, street.y - 0.02, 0.22, colour("ffd9a0"), 0.5)
    lamps = []
    for t in (0.86, 0.78, 0.66, 0.46, 0.14):
        for side in (-1, 1):
            edge, level = street.at(side, t, 0.26)
            lamps.append((street.x + (edge - street.x) * 0.80, level, 0.46 * (1 - t)))
    for px, foot, h in lamps:
        _lamp(c, light, px, foot, h)
    _mirror(c, rng, light, street, 0.20, colour("6f6a94"), 0.62, 1.57)
    for px, foot, h in lamps:
        _lamp_glow(c, rng, light, px, foot, h)
    tint = colour({"dark blue": "46549a", "red": "c9503f", "violet": "8a6ab4"}[scene.choice("umbrellas")])
    _crowd(c, rng, light, street, 20, 0.40, lambda r, t: r.uniform(-0.75, 0.75), tint, True)
    near = street.x + (0.22 if street.x < c.aspect / 2 else -0.22) * c.aspect
    for offset, name in ((0.0, "544f78"), (0.075, "7a4f5c")):
        foot, coat = 0.93 + 0.3 * offset, colour(name)
        for part in range(6):
            echo = mix(light.on(coat, -0.2), light.middle, 0.25 + 0.1 * part)
            c.ellipse(near + offset, foot + 0.01 + 0.016 * part, 0.04 - 0.003 * part, 0.008, echo, 0, 0.45)
        figure(c, light, near + offset, foot, 0.36, coat, colour("4a4560"), offset > 0)
    parasol(c, light, near + 0.035, 0.93 - 0.35, 0.125, tint, 0.1)
    c.drawn |= {"people", "umbrellas", "wet street", "windows", "street lamps", "reflected", scene.choice("umbrellas")}


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
        wall = colour(_WALLS[palette][int(rng.integers(5))])
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
        coat = colour(_COATS[int(rng.integers(len(_COATS)))])
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


def _quay(c: Canvas, rng, light: Light, street: _Street, side: int, walls: list[Colour], lit: float) -> None:
    """Tall houses with shutters and flower boxes along one side of a canal."""
    edges = (0.0, 0.17, 0.31, 0.43, 0.53, 0.615, 0.69, 0.75, 0.80)
    for k in range(len(edges) - 2, -1, -1):
        toward = 0.75 if side != light.side else -0.7
        house = _House(side, edges[k], edges[k + 1], -0.40 * rng.uniform(0.8, 1.2), 0.16, toward, 0.05 * k)
        _front(c, light, street, house, walls[(k + int(rng.integers(2))) % 5], colour("b8694e"), 0.075)
        shutter = colour(("6f9a8c", "5f7fae", "8a9a5c", "a8685a")[int(rng.integers(4))])
        _windows(c, rng, light, street, house, lit, shutter)
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
    street = _Street(c, c.aspect * rng.uniform(0.40, 0.60), rng.uniform(0.48, 0.53))
    sky(c, light, rng, street.y, 0.5)
    facades = scene.choice("facades")
    lit = 0.12 if scene.light == "sunset" else 0.0
    _town(c, rng, light, street.y + 0.02, 0.12, 0.45, facades, lit)
    for side in (-1, 1):
        _quay(c, rng, light, street, side, [colour(name) for name in _WALLS[facades]], lit)
    # The footbridge stands before the water is painted, so that it finds its reflection.
    _footbridge(c, light, street.x, street.y + 0.022)
    _mirror(c, rng, light, street, 0.172, colour("5f8a94"), 0.70, 0.0)
    side = -1 if street.x > c.aspect / 2 else 1
    _moored_boat(c, light, street.x + side * 0.26 * c.aspect, rng.uniform(0.76, 0.84), side)
    c.drawn |= {"canal", "houses", "reflections", "boat", "footbridge", facades}


_COMPOSITIONS = {"boulevard": _boulevard, "rain": _rain, "bridge": _bridge, "canal": _canal}
