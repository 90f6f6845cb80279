"""Streets in perspective: house fronts, carriages and crowds, on a boulevard and in the rain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .canvas import Canvas, Point, placed
from .colour import Colour, colour, mix
from .nature import Light, figure, foliage, parasol, sky, smooth
from .scenes import Scene

WALLS = {
    "pink and ochre": ("e0a48c", "e3bd7c", "d98f7a", "edd0a0", "cf9a6a"),
    "red brick": ("b86a54", "a85f50", "c58068", "9c5a52", "cf9478"),
    "pale": ("efe6d4", "e2dccb", "d8d4d2", "f2ead8", "d9cdb8"),
    "street": ("e9dcc2", "dccbb0", "e6d2b4", "cfc0b0", "efe2cc"),
}
COATS = ("4f4a6a", "6a4f5c", "5c5a7a", "7a5a4c", "4f6478", "8a5a5a", "5f6a5c")


class Street:
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
class House:
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


def house_front(
    c: Canvas, light: Light, street: Street, house: House, wall: Colour, roof: Colour, height: float
) -> None:
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


def windows(
    c: Canvas, rng, light: Light, street: Street, house: House, lit: float, shutter: Colour | None = None
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
    c: Canvas, rng, light: Light, street: Street, side: int, roof: float, ground: float, lit_windows: float
) -> None:
    """A row of houses along one side of the street, with windows, shops and roofs of slate."""
    edges = 1 - 1 / (1 + 0.42 * np.arange(0, 11))
    edges = edges / edges[-1] * 0.87
    for k in range(len(edges) - 2, -1, -1):
        top = -roof * rng.uniform(0.86, 1.1)
        toward = 0.75 if side != light.side else -0.85
        house = House(side, float(edges[k]), float(edges[k + 1]), top, ground, toward, 0.055 * k)
        wall = colour(WALLS["street"][int(rng.integers(5))])
        house_front(c, light, street, house, wall, colour("7f8aa6"), 0.16 * roof)
        a, b = house.part(0.36, 0.48)
        chimney = street.panel(side, a, b, top - 0.26 * roof, top - 0.14 * roof)
        c.polygon(chimney, house.tint(light, colour("b5705a"), 0.6), 1.57, 0.4)
        windows(c, rng, light, street, house, lit_windows)
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


def mirror(
    c: Canvas, rng, light: Light, street: Street, level: float, tint: Colour, clarity: float, angle: float
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
    c: Canvas, rng, light: Light, street: Street, number: int, tall: float, where, umbrella=None, wet=False
) -> None:
    """People at several distances; `where(rng, t)` gives how far from the middle (-1..1) one at depth t walks."""
    for depth in np.sort(1 - 0.05 - 0.62 * rng.random(number) ** 1.4)[::-1]:
        x = street.x + where(rng, depth) * (1 - depth) * street.aspect * 0.62
        ground = street.y + (1.0 - street.y) * 0.92 * (1 - depth)
        h = tall * (1 - depth) * rng.uniform(0.92, 1.08)
        if h < 0.012:
            continue
        coat = colour(COATS[int(rng.integers(len(COATS)))])
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


def boulevard(c: Canvas, scene: Scene, light: Light, rng) -> None:
    street = Street(c, c.aspect * rng.uniform(0.40, 0.60), rng.uniform(0.50, 0.56))
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


def rain(c: Canvas, scene: Scene, light: Light, rng) -> None:
    street = Street(c, c.aspect * rng.uniform(0.36, 0.64), rng.uniform(0.48, 0.54))
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
    mirror(c, rng, light, street, 0.20, colour("6f6a94"), 0.62, 1.57)
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
