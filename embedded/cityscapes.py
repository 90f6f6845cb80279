"""Town views: streets in perspective, canals and bridges, with people as a few touches of the brush."""

from __future__ import annotations

import numpy as np

from .canvas import Canvas
from .colour import colour, mix
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
    """A street seen from its middle: maps distance along one side to the picture by one vanishing point."""

    def __init__(self, c: Canvas, x: float, y: float):
        self.x, self.y, self.aspect = x, y, c.aspect

    def at(self, side: int, t: float, level: float) -> tuple[float, float]:
        """A point of the house line on `side` (-1, 1); t runs from 0 (picture's edge) to 1 (vanishing point) and
        `level` is the height over the vanishing point's level at the edge (negative is up)."""
        edge = self.x + side * (self.aspect * 0.5 + abs(self.x - self.aspect / 2) + 0.02)
        return edge + (self.x - edge) * t, self.y + level * (1 - t)


def _facades(
    c: Canvas, rng, light: Light, street: _Street, side: int, roof: float, ground: float, lit_windows: float
) -> None:
    """A row of houses along one side of the street, windows and shops, roofs of slate."""
    toward = 0.75 if side != light.side else -0.85
    edges = 1 - 1 / (1 + 0.42 * np.arange(0, 11))
    edges = edges / edges[-1] * 0.87
    palette = [colour(name) for name in _WALLS["street"]]
    for k in range(len(edges) - 2, -1, -1):
        near, far = float(edges[k]), float(edges[k + 1])
        top = -roof * rng.uniform(0.86, 1.1)
        haze = 0.55 * k / 10
        wall = mix(light.on(palette[int(rng.integers(5))], toward), light.horizon, haze)
        slate = mix(light.on(colour("7f8aa6"), 0.5 * toward), light.horizon, haze)
        corners = [
            street.at(side, near, top),
            street.at(side, far, top),
            street.at(side, far, ground),
            street.at(side, near, ground),
        ]
        shade = mix(wall, light.on(colour("8a7f9a"), -0.5), 0.22)
        low, high = street.at(side, near, ground)[1], street.at(side, near, top)[1]

        def shading(px, py, wall=wall, shade=shade, low=low, high=high):
            return wall + (shade - wall) * np.clip((py - high) / (low - high), 0, 1)[..., None]

        c.shade(corners, shading, 1.57, 0.55)
        inward = 0.12 * (far - near)
        c.polygon(
            [
                street.at(side, near, top),
                street.at(side, near + inward, top - 0.16 * roof),
                street.at(side, far - inward, top - 0.16 * roof),
                street.at(side, far, top),
            ],
            slate,
            1.2,
            0.5,
        )
        c.polygon(
            [
                street.at(side, near + 3 * inward, top - 0.14 * roof),
                street.at(side, near + 3 * inward, top - 0.26 * roof),
                street.at(side, near + 4 * inward, top - 0.26 * roof),
                street.at(side, near + 4 * inward, top - 0.14 * roof),
            ],
            mix(light.on(colour("b5705a"), 0.6 * toward), light.horizon, haze),
            1.57,
            0.4,
        )
        floors, bays = 4, 3
        for floor in range(floors):
            upper = top + (ground - top) * (0.07 + 0.18 * floor)
            lower = upper + (ground - top) * 0.115
            for bay in range(bays):
                a = near + (far - near) * (bay + 0.28) / bays
                b = near + (far - near) * (bay + 0.68) / bays
                glass = light.on(colour("6f7f9c"), -0.3) if rng.random() > lit_windows else colour("ffd27a")
                glass = mix(glass, light.horizon, haze)
                c.polygon(
                    [
                        street.at(side, a, upper),
                        street.at(side, b, upper),
                        street.at(side, b, lower),
                        street.at(side, a, lower),
                    ],
                    glass,
                    1.57,
                    0.4,
                )
            c.line([street.at(side, near, lower + 0.006), street.at(side, far, lower + 0.006)], 0.004, shade, 0.4)
        shop = top + (ground - top) * 0.80
        awning = colour(("c9604c", "5f7fae", "6f9a72", "d9b060")[int(rng.integers(4))])
        front = colour("ffcf80") if lit_windows > 0.2 else light.on(colour("6a6478"), -0.3)
        c.polygon(
            [
                street.at(side, near, shop),
                street.at(side, far, shop),
                street.at(side, far, ground),
                street.at(side, near, ground),
            ],
            mix(front, light.horizon, haze),
            1.57,
            0.45,
        )
        c.polygon(
            [
                street.at(side, near, shop - 0.02),
                street.at(side, far, shop - 0.02),
                street.at(side, far, shop + 0.035),
                street.at(side, near, shop + 0.035),
            ],
            mix(light.on(awning, 0.5 * toward), light.horizon, haze),
            0.1,
            0.4,
        )


def _carriage(c: Canvas, light: Light, x: float, foot: float, h: float, way: int) -> None:
    """A cab and its horse, going to the left (-1) or the right (1)."""
    body, horse = light.on(colour("54506e"), -0.1), light.on(colour("7a5544"), -0.1)
    c.ellipse(x, foot, 0.75 * h, 0.05 * h, light.on(colour("8a84a0"), -0.7), 0, 0.4)
    c.polygon(
        [
            (x - 0.32 * h, foot - 0.28 * h),
            (x - 0.36 * h, foot - 0.95 * h),
            (x + 0.30 * h, foot - 0.95 * h),
            (x + 0.34 * h, foot - 0.28 * h),
        ],
        body,
        1.57,
        0.4,
    )
    c.polygon(
        [
            (x - 0.2 * h, foot - 0.60 * h),
            (x - 0.2 * h, foot - 0.86 * h),
            (x + 0.16 * h, foot - 0.86 * h),
            (x + 0.16 * h, foot - 0.60 * h),
        ],
        light.on(colour("b9c2d6"), 0.2),
        1.57,
        0.35,
    )
    for wheel in (-0.24, 0.26):
        c.ellipse(x + wheel * h, foot - 0.16 * h, 0.17 * h, 0.17 * h, light.on(colour("4f4858"), -0.2), 0.5, 0.35)
        c.ellipse(x + wheel * h, foot - 0.16 * h, 0.11 * h, 0.11 * h, light.on(colour("b49a86"), 0), 0.5, 0.35)
    hx = x + way * 0.72 * h
    c.ellipse(hx, foot - 0.52 * h, 0.28 * h, 0.16 * h, horse, 0, 0.38)
    c.polygon(
        [
            (hx + way * 0.12 * h, foot - 0.56 * h),
            (hx + way * 0.34 * h, foot - 0.92 * h),
            (hx + way * 0.44 * h, foot - 0.80 * h),
            (hx + way * 0.26 * h, foot - 0.46 * h),
        ],
        horse,
        1.1,
        0.36,
    )
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
        curb = [
            street.at(side, 0.0, 0.30),
            street.at(side, 0.9, 0.30),
            street.at(side, 0.9, 0.35),
            street.at(side, 0.0, 0.42),
        ]
        c.polygon(curb, light.on(colour("c9bfc0"), -0.1), 0.3 * side, 0.6)
    leaf = colour("86a556") if scene.choice("trees") == "green" else colour("dda544")
    for t in (0.84, 0.76, 0.66, 0.54, 0.38):
        for side in (-1, 1):
            edge, level = street.at(side, t, 0.36)
            px = street.x + (edge - street.x) * 0.72
            h = 0.50 * (1 - t)
            c.line(
                [(px, level), (px, level - 0.6 * h)],
                0.05 * h,
                mix(light.on(colour("7a6660"), -0.3), light.horizon, 0.4 * t),
                0.4,
            )
            for _ in range(4):
                foliage(
                    c,
                    rng,
                    light,
                    px + rng.normal(0, 0.12) * h,
                    level - (0.78 + rng.normal(0, 0.13)) * h,
                    0.28 * h,
                    0.22 * h,
                    mix(leaf, light.horizon, 0.35 * t),
                    34,
                    0.045 * h,
                    0.5,
                )
            c.ellipse(px - light.side * 0.2 * h, level, 0.32 * h, 0.03 * h, light.on(colour("a59ab4"), -0.5), 0.1, 0.5)
    _crowd(c, rng, light, street, 46, 0.30, lambda r, t: r.choice((-1, 1)) * r.uniform(0.45, 0.95))
    for t, place, way in ((0.82, -0.1, 1), (0.72, 0.2, -1), (0.56, -0.26, 1), (0.36, 0.3, -1)):
        _carriage(c, light, street.x + place * (1 - t) * c.aspect, street.y + 0.40 * (1 - t), 0.19 * (1 - t), way)
    _crowd(c, rng, light, street, 9, 0.30, lambda r, t: r.uniform(-0.5, 0.5))
    c.drawn |= {"boulevard", "houses", "trees", "people", "carriages", "street", scene.choice("trees")}


def _lamp(c: Canvas, light: Light, x: float, foot: float, h: float) -> None:
    post = light.on(colour("4f4a68"), -0.2)
    c.line([(x, foot), (x, foot - 0.88 * h)], max(0.004, 0.026 * h), post, 0.35)
    c.polygon(
        [
            (x - 0.04 * h, foot - h),
            (x + 0.04 * h, foot - h),
            (x + 0.025 * h, foot - 0.87 * h),
            (x - 0.025 * h, foot - 0.87 * h),
        ],
        colour("fff0b8"),
        1.57,
        0.35,
    )
    c.polygon([(x - 0.05 * h, foot - h), (x + 0.05 * h, foot - h), (x, foot - 1.06 * h)], post, 0.0, 0.35)


def _rain(c: Canvas, scene: Scene, light: Light, rng) -> None:
    street = _Street(c, c.aspect * rng.uniform(0.36, 0.64), rng.uniform(0.48, 0.54))
    sky(c, light, rng, street.y, 0.9)
    for side in (-1, 1):
        _facades(c, rng, light, street, side, 0.52, 0.20, 0.42)
    x, y = c.grid()
    c.glow(street.x, street.y - 0.02, 0.22, colour("ffd9a0"), 0.5)
    lamps = [(side, t) for t in (0.86, 0.78, 0.66, 0.46, 0.14) for side in (-1, 1)]
    spots = []
    for side, t in lamps:
        edge, level = street.at(side, t, 0.26)
        spots.append((street.x + (edge - street.x) * 0.80, level, 0.46 * (1 - t)))
    pavement = smooth(y + 0 * x, street.y + 0.004, street.y + 0.01)
    for px, foot, h in spots:
        _lamp(c, light, px, foot, h)
    slope_line = street.y + 0.20 * np.abs(x - street.x) / (0.5 * c.aspect + abs(street.x - c.aspect / 2) + 0.02)
    wet = pavement * smooth(y, slope_line - 0.002, slope_line + 0.002)
    # The house line rises to both sides, so each column of the wet street mirrors about its own foot.
    broken = c.noise(rng, 6, 70, 2) - 0.5
    depth = np.clip(y - slope_line, 0, 1)
    rows = np.clip((slope_line - depth * 0.95 + broken * 0.10 * depth) * c.height, 0, c.height - 1).astype(int)
    columns = np.clip((x + broken * (0.008 + 0.05 * depth)) * c.height, 0, c.width - 1).astype(int)
    mirrored = c.pixels()[rows, columns]
    stone = colour("6f6a94") * light.ambient / 255
    shine = stone + (mirrored - stone) * 0.62
    shine = shine + (light.middle - shine) * (smooth(broken, 0.12, 0.3) * 0.4)[..., None]
    c.cover(shine, wet, 1.57, 0.85)
    for px, foot, h in spots:
        for part in range(16):
            t = (part + 0.5) / 16
            c.ellipse(
                px + rng.normal(0, 0.02) * h,
                foot + t * 1.1 * h,
                (0.055 - 0.025 * t) * h * rng.uniform(0.5, 1.3),
                0.018 * h,
                mix(colour("ffd88a"), light.middle, 0.25 + 0.6 * t),
                0.0,
                0.45,
            )
        c.glow(px, foot - 0.94 * h, 0.24 * h, colour("ffd58a"), 0.9)
    tint = colour({"dark blue": "46549a", "red": "c9503f", "violet": "8a6ab4"}[scene.choice("umbrellas")])
    _crowd(c, rng, light, street, 20, 0.40, lambda r, t: r.uniform(-0.75, 0.75), tint, True)
    near = street.x + (0.22 if street.x < c.aspect / 2 else -0.22) * c.aspect
    for offset, coat in ((0.0, "544f78"), (0.075, "7a4f5c")):
        foot = 0.93 + 0.3 * offset
        for part in range(6):
            c.ellipse(
                near + offset,
                foot + 0.01 + 0.016 * part,
                0.04 - 0.003 * part,
                0.008,
                mix(light.on(colour(coat), -0.2), light.middle, 0.25 + 0.1 * part),
                0,
                0.45,
            )
        figure(c, light, near + offset, foot, 0.36, colour(coat), colour("4a4560"), offset > 0)
    parasol(c, light, near + 0.035, 0.93 - 0.35, 0.125, tint, 0.1)
    c.drawn |= {"people", "umbrellas", "wet street", "windows", "street lamps", "reflected", scene.choice("umbrellas")}


def _tower(c: Canvas, light: Light, x: float, foot: float, width: float, height: float, haze: float) -> None:
    stone = mix(light.on(colour("e2d0b2"), 0.4 * -light.side), light.horizon, haze)
    other = mix(light.on(colour("e2d0b2"), 0.6 * light.side), light.horizon, haze)
    c.polygon(
        [(x - width / 2, foot), (x - width / 2, foot - 0.62 * height), (x, foot - 0.62 * height), (x, foot)],
        stone,
        1.57,
        0.5,
    )
    c.polygon(
        [(x, foot), (x, foot - 0.62 * height), (x + width / 2, foot - 0.62 * height), (x + width / 2, foot)],
        other,
        1.57,
        0.5,
    )
    slate = mix(light.on(colour("7584a8"), 0.1), light.horizon, haze)
    c.polygon(
        [(x - 0.6 * width, foot - 0.61 * height), (x, foot - height), (x + 0.6 * width, foot - 0.61 * height)],
        slate,
        1.4,
        0.45,
    )
    dark = mix(light.on(colour("6f6a86"), -0.4), light.horizon, haze)
    for level in (0.30, 0.50):
        c.ellipse(x - 0.22 * width, foot - level * height, 0.07 * width, 0.035 * height, dark, 1.57, 0.35)
        c.ellipse(x + 0.22 * width, foot - level * height, 0.07 * width, 0.035 * height, dark, 1.57, 0.35)


def _town(c: Canvas, rng, light: Light, line: float, tall: float, haze: float, palette: str, lit: float) -> None:
    """A row of houses seen from the front, standing on `line`."""
    left = -0.03
    while left < c.aspect:
        width = tall * rng.uniform(0.55, 0.95)
        height = tall * rng.uniform(0.75, 1.15)
        wall = colour(_WALLS[palette][int(rng.integers(5))])
        body = mix(light.on(wall, rng.uniform(-0.1, 0.6)), light.horizon, haze)
        c.polygon(
            [(left, line), (left, line - height), (left + width, line - height), (left + width, line)], body, 1.57, 0.55
        )
        roof = mix(light.on(mix(colour("b0654e"), colour("7f86a4"), rng.random()), 0.2), light.horizon, haze)
        c.polygon(
            [
                (left - 0.004, line - height),
                (left + 0.18 * width, line - 1.25 * height),
                (left + 0.82 * width, line - 1.25 * height),
                (left + width + 0.004, line - height),
            ],
            roof,
            0.9,
            0.45,
        )
        rows, columns = 4, max(2, round(width / tall * 4))
        for row in range(rows):
            for column in range(columns):
                px = left + width * (column + 0.32) / columns
                py = line - height * (0.93 - 0.23 * row)
                glass = colour("ffd27a") if rng.random() < lit else light.on(colour("66759a"), -0.2)
                c.polygon(
                    [
                        (px, py),
                        (px + 0.36 * width / columns, py),
                        (px + 0.36 * width / columns, py + 0.13 * height),
                        (px, py + 0.13 * height),
                    ],
                    mix(glass, light.horizon, haze),
                    1.57,
                    0.36,
                )
        shade = mix(light.on(wall, -0.8), light.horizon, haze)
        c.line([(left + width, line), (left + width, line - height)], 0.006, shade, 0.4)
        left += width


def _bridge(c: Canvas, scene: Scene, light: Light, rng) -> None:
    shore = rng.uniform(0.52, 0.57)
    sun_x, _ = sky(c, light, rng, shore, 0.6)
    lit = 0.4 if scene.light == "dusk" else 0.0
    tower_x = c.aspect * rng.choice((0.24, 0.76))
    hedge(c, rng, light, -0.05, c.aspect + 0.05, shore - 0.07, 0.08, mix(colour("7f93a8"), light.horizon, 0.3))
    _town(c, rng, light, shore - 0.045, 0.13, 0.45, "pink and ochre", lit)
    _tower(c, light, tower_x, shore - 0.04, 0.085, 0.42, 0.28)
    _town(c, rng, light, shore, 0.135, 0.18, "pale", lit)
    hedge(c, rng, light, -0.05, c.aspect + 0.05, shore + 0.005, 0.04, colour("6f8f62"))
    stone = colour("d9c6a6")
    deck = shore - 0.045
    arches = 4 if c.aspect > 1 else 3
    span = (c.aspect + 0.1) / arches
    foot = shore + 0.075
    bright = -0.55 if scene.light == "dusk" else 0.35  # at night the bridge stands dark before the town's lights
    face, under = light.on(stone, bright), light.on(colour("8a7f9c"), -0.75)
    rise = [(px, deck - 0.05 * np.sin(np.pi * px / c.aspect)) for px in np.linspace(-0.05, c.aspect + 0.05, 30)]
    courses = c.noise(rng, 10, 40, 2)

    def masonry(px, py):
        rows = np.clip((py * c.height).astype(int), 0, c.height - 1)
        columns = np.clip((px * c.height).astype(int), 0, c.width - 1)
        return face + (light.on(stone, bright - 0.6) - face) * smooth(courses[rows, columns], 0.4, 0.9)[..., None]

    hollow = []
    for k in range(arches):
        middle = -0.05 + span * (k + 0.5)
        half = 0.40 * span
        crown = deck - 0.05 * np.sin(np.pi * np.clip(middle / c.aspect, 0, 1)) + 0.042
        hollow.append((middle, half, crown))
    behind = c.image.copy()
    c.shade([*rise, (c.aspect + 0.05, foot), (-0.05, foot)], masonry, 0.03, 0.55)
    x, y = c.grid()
    opening = np.zeros((c.height, c.width), dtype=np.float32)
    inner = np.zeros_like(opening)
    for middle, half, crown in hollow:
        for mask, grow, slip in ((inner, 1.0, 0.0), (opening, 0.93, -0.012 * light.side)):
            r = ((x - middle - slip) / (half * grow)) ** 2 + ((y - foot) / ((foot - crown) * grow)) ** 2
            np.maximum(mask, smooth(-r, -1.03, -0.97) * (y < foot), out=mask)
    c.cover(np.broadcast_to(under, (c.height, c.width, 3)), inner, 1.3, 0.5)
    c.cover(np.asarray(behind, dtype=np.float32), opening, 1.57, 0.5)
    c.line([(px, py) for px, py in rise], 0.014, light.on(stone, bright + 0.5), 0.45)
    c.line([(px, py + 0.02) for px, py in rise], 0.006, light.on(stone, -0.6), 0.4)
    for px in rng.uniform(0.05, 0.95, 9) * c.aspect:
        top = deck - 0.05 * np.sin(np.pi * px / c.aspect)
        figure(
            c,
            light,
            px,
            top,
            0.045,
            colour(_COATS[int(rng.integers(len(_COATS)))]),
            colour("5a5470"),
            rng.random() < 0.5,
        )
    # Between the arches' feet the far water already shows.
    water(c, rng, light, opening * (y > shore + 0.004), shore, colour("6f8fa8"), 0.7, 0.8)
    water(c, rng, light, smooth(y + 0 * x, foot - 0.001, foot + 0.002), foot, colour("6a8ea4"), 0.72, 1.1)
    hull = light.on(colour("6a4f50"), -0.2)
    if scene.choice("boats") == "a barge":
        bx, by = c.aspect * 0.60, 0.82
        c.ellipse(bx, by + 0.045, 0.25, 0.018, mix(hull, light.middle, 0.35), 0, 0.5)
        c.polygon(
            [(bx - 0.26, by - 0.035), (bx + 0.26, by - 0.035), (bx + 0.22, by + 0.035), (bx - 0.22, by + 0.035)],
            hull,
            0.0,
            0.5,
        )
        c.polygon(
            [(bx - 0.24, by - 0.035), (bx + 0.25, by - 0.035), (bx + 0.245, by - 0.015), (bx - 0.24, by - 0.015)],
            light.on(colour("c9604c"), 0.2),
            0,
            0.4,
        )
        c.polygon(
            [(bx + 0.05, by - 0.035), (bx + 0.05, by - 0.085), (bx + 0.17, by - 0.085), (bx + 0.17, by - 0.035)],
            light.on(colour("ddb878"), 0.4),
            1.57,
            0.45,
        )
        figure(c, light, bx - 0.10, by - 0.03, 0.10, colour("4f5f86"), colour("d8b25a"), False)
    else:
        for bx, by, size in ((0.34, 0.86, 0.13), (0.70, 0.75, 0.085)):
            px = c.aspect * bx
            c.ellipse(px, by + 0.3 * size, 1.1 * size, 0.09 * size, mix(hull, light.middle, 0.35), 0, 0.5)
            c.polygon(
                [
                    (px - 1.2 * size, by - 0.14 * size),
                    (px + 1.25 * size, by - 0.18 * size),
                    (px + 0.9 * size, by + 0.2 * size),
                    (px - 0.9 * size, by + 0.2 * size),
                ],
                hull,
                0,
                0.45,
            )
            c.polygon(
                [
                    (px - 1.1 * size, by - 0.14 * size),
                    (px + 1.15 * size, by - 0.17 * size),
                    (px + 1.1 * size, by - 0.06 * size),
                    (px - 1.05 * size, by - 0.04 * size),
                ],
                light.on(colour("c98f6a"), 0.4),
                0,
                0.4,
            )
            figure(c, light, px, by + 0.02 * size, 0.85 * size, colour("c2574a"), colour("e2c070"), False)
    c.drawn |= {"bridge", "arches", "river", "houses", "church tower", scene.choice("boats")}


def _canal(c: Canvas, scene: Scene, light: Light, rng) -> None:
    street = _Street(c, c.aspect * rng.uniform(0.44, 0.56), rng.uniform(0.48, 0.53))
    sky(c, light, rng, street.y, 0.5)
    palette = [colour(name) for name in _WALLS[scene.choice("facades")]]
    lit = 0.12 if scene.light == "sunset" else 0.0
    edges = np.array([0.0, 0.17, 0.31, 0.43, 0.53, 0.615, 0.69, 0.75, 0.80])
    _town(c, rng, light, street.y + 0.02, 0.12, 0.45, scene.choice("facades"), lit)
    for side in (-1, 1):
        toward = 0.75 if side != light.side else -0.7
        for k in range(len(edges) - 2, -1, -1):
            near, far = float(edges[k]), float(edges[k + 1])
            top, haze = -0.40 * rng.uniform(0.8, 1.2), 0.05 * k
            wall = mix(light.on(palette[(k + int(rng.integers(2))) % 5], toward), light.horizon, haze)
            shade = mix(wall, light.on(colour("8a7f9a"), -0.6), 0.30)
            high, low = street.at(side, near, top)[1], street.at(side, near, 0.16)[1]

            def shading(px, py, wall=wall, shade=shade, low=low, high=high):
                return wall + (shade - wall) * np.clip((py - high) / (low - high), 0, 1)[..., None] ** 2

            c.shade(
                [
                    street.at(side, near, top),
                    street.at(side, far, top),
                    street.at(side, far, 0.16),
                    street.at(side, near, 0.16),
                ],
                shading,
                1.57,
                0.6,
            )
            roof = mix(light.on(colour("b8694e"), 0.5 * toward), light.horizon, haze)
            c.polygon(
                [
                    street.at(side, near, top + 0.004),
                    street.at(side, near + 0.1 * (far - near), top - 0.075),
                    street.at(side, far - 0.1 * (far - near), top - 0.075),
                    street.at(side, far, top + 0.004),
                ],
                roof,
                0.6 * side,
                0.5,
            )
            shutter = mix(
                light.on(colour(("6f9a8c", "5f7fae", "8a9a5c", "a8685a")[int(rng.integers(4))]), 0.4 * toward),
                light.horizon,
                haze,
            )
            for floor in range(4):
                upper = top + (0.16 - top) * (0.10 + 0.225 * floor)
                lower = upper + (0.16 - top) * 0.125
                for bay in range(3):
                    a = near + (far - near) * (bay + 0.34) / 3
                    b = near + (far - near) * (bay + 0.66) / 3
                    gap = 0.3 * (b - a)
                    glass = colour("ffd27a") if rng.random() < lit else light.on(colour("5f6f92"), -0.3)
                    c.polygon(
                        [
                            street.at(side, a - gap, upper),
                            street.at(side, b + gap, upper),
                            street.at(side, b + gap, lower),
                            street.at(side, a - gap, lower),
                        ],
                        shutter,
                        1.57,
                        0.4,
                    )
                    c.polygon(
                        [
                            street.at(side, a, upper),
                            street.at(side, b, upper),
                            street.at(side, b, lower),
                            street.at(side, a, lower),
                        ],
                        mix(glass, light.horizon, haze),
                        1.57,
                        0.36,
                    )
            if rng.random() < 0.7:
                bx, by = street.at(side, (near + far) / 2, 0.02)
                for _ in range(8):
                    c.ellipse(
                        bx + rng.normal(0, 0.012),
                        by + rng.normal(0, 0.006),
                        0.009 * (1 - near),
                        0.008 * (1 - near),
                        light.on(colour(("d8483f", "6f9a52", "e58a9a")[int(rng.integers(3))]), 0.3),
                        1.0,
                        0.35,
                    )
    x, y = c.grid()
    slope = street.y + 0.16 * np.abs(x - street.x) / (0.5 * c.aspect + abs(street.x - c.aspect / 2) + 0.02) + 0.012
    # The footbridge stands before the water is painted, so that it finds its reflection.
    bx = np.linspace(-0.16, 0.16, 21)
    for level, thick, tone in ((0.0, 0.026, 0.35), (-0.032, 0.007, 0.0)):
        c.line(
            [(street.x + px, street.y + 0.012 + level - 0.055 * (1 - (px / 0.16) ** 2)) for px in bx],
            thick,
            light.on(colour("c9b49a"), tone),
            0.4,
        )
    depth = np.clip(y - slope, 0, 1)
    broken = c.noise(rng, 6, 60, 2) - 0.5
    rows = np.clip((slope - depth * 0.98 + broken * 0.10 * depth) * c.height, 0, c.height - 1).astype(int)
    columns = np.clip((x + broken * (0.010 + 0.055 * depth)) * c.height, 0, c.width - 1).astype(int)
    mirrored = c.pixels()[rows, columns]
    deep = colour("5f8a94") * light.ambient / 255
    surface = deep + (mirrored - deep) * 0.70
    glint = smooth(c.noise(rng, 7, 80, 1), 0.76, 0.97)[..., None]
    surface = surface + (light.middle - surface) * glint * 0.6
    c.cover(surface, smooth(y, slope - 0.001, slope + 0.003), 0.0, 0.85)
    side = -1 if rng.random() < 0.5 else 1
    px, py = street.x + side * 0.24 * c.aspect, 0.80
    hull = light.on(colour("4f5a7a"), -0.1)
    c.ellipse(px, py + 0.045, 0.16, 0.016, mix(hull, deep, 0.5), 0, 0.5)
    c.polygon(
        [(px - 0.19, py - 0.035), (px + 0.19, py - 0.035), (px + 0.14, py + 0.032), (px - 0.14, py + 0.032)],
        hull,
        0,
        0.45,
    )
    c.polygon(
        [(px - 0.19, py - 0.035), (px + 0.19, py - 0.035), (px + 0.175, py - 0.012), (px - 0.175, py - 0.012)],
        light.on(colour("d0654e"), 0.4),
        0,
        0.4,
    )
    c.polygon(
        [(px - 0.10, py - 0.035), (px - 0.06, py - 0.075), (px + 0.07, py - 0.075), (px + 0.10, py - 0.035)],
        light.on(colour("d9c9a6"), 0.5),
        0,
        0.45,
    )
    c.line([(px + side * 0.17, py - 0.03), (px + side * 0.24, py - 0.20)], 0.010, light.on(colour("6f5a4c"), 0), 0.35)
    c.drawn |= {"canal", "houses", "reflections", "boat", "footbridge", scene.choice("facades")}


_COMPOSITIONS = {"boulevard": _boulevard, "rain": _rain, "bridge": _bridge, "canal": _canal}
