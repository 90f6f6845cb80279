"""Light, and the things under it that more than one kind of scene needs: sky, hills, trees, water, figures, houses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .canvas import Canvas, Point, placed
from .colour import Colour, colour, mix


@dataclass(frozen=True)
class Light:
    """The colours that a time of day gives to everything; `sun` is None where no sun or moon is seen."""

    zenith: Colour
    middle: Colour
    horizon: Colour
    cloud: Colour
    cloud_shadow: Colour
    key: Colour  # of what the light falls on
    shade: Colour  # multiplies what it does not reach
    ambient: Colour  # multiplies everything
    sun: Colour | None
    sun_height: float  # 0 at the horizon, 1 at the top
    side: float  # -1: light comes from the left, 1: from the right

    def on(self, local: Colour, amount: float) -> Colour:
        """A thing's colour in full light (1), half light (0) or shadow (-1)."""
        base = local * self.ambient / 255
        if amount >= 0:
            return mix(base, 255 - (255 - base) * (255 - self.key) / 255, 0.42 * min(1.0, amount))
        return mix(base, base * self.shade / 255, min(1.0, -amount))


_LIGHTS = {
    # zenith, middle, horizon, cloud, cloud shadow, key, shade, ambient, sun, sun height
    "morning": ("8fb4d6", "c3d3dc", "f6dcc4", "fff1e4", "c9bfd4", "ffe9c4", "8f96c8", "eef0f2", "fff3d0", 0.34),
    "noon": ("4f8fd0", "86b7e2", "d2e6ee", "ffffff", "b3c0dc", "fff8dc", "7c86c4", "ffffff", None, 0.9),
    "afternoon": ("5b97cc", "a3c6da", "f7e6bf", "fff6de", "c3b6cd", "ffe2a0", "8074b4", "fff6e6", None, 0.6),
    "sunset": ("6a70b2", "d38fa0", "ffbf6b", "ffd09a", "a06f9c", "ffb765", "6f5fa8", "f2d6cc", "fff0b4", 0.1),
    "dusk": ("2f4a8c", "5a74b4", "c9a9bd", "9fa6d4", "51609f", "dcd2e6", "5a62b0", "93a0d0", "fff6dc", 0.55),
    "lamplight": ("8a7a86", "b29a8e", "d9b48e", "f0cfa6", "a08a9c", "ffce84", "86608e", "eacdb0", None, 0.3),
    "evening": ("4a4f8e", "8b79ad", "e0a78f", "c7a3bb", "6a629c", "ffd08a", "6a5f9e", "cdbdcb", None, 0.3),
}


def light_of(name: str, side: float) -> Light:
    """The named light, coming from the left (side -1) or the right (1)."""
    *colours, sun, height = _LIGHTS[name]
    return Light(*(colour(c) for c in colours), colour(sun) if sun else None, height, side)


def smooth(value: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below `low`, 1 above `high`, an S between."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def sky(c: Canvas, light: Light, rng: np.random.Generator, horizon: float, cloudiness: float = 0.5) -> Point:
    """Paint the sky down to `horizon` and a little below; return where the sun or moon stands."""
    x, y = c.grid()
    t = np.clip(y / horizon, 0, 1)[..., None]
    low, high = np.clip(t / 0.55, 0, 1), np.clip((t - 0.55) / 0.45, 0, 1)
    wash = light.zenith + (light.middle - light.zenith) * low + (light.horizon - light.middle) * high
    drift = c.noise(rng, 2, 3, 2)
    wash = wash + (drift[..., None] - 0.5) * 22
    c.cover(wash, np.ones((c.height, c.width), dtype=np.float32), (drift - 0.5) * 1.5, 1.15)

    sun_x = c.aspect * (0.5 + light.side * rng.uniform(0.08, 0.3))
    sun_y = horizon * (1 - light.sun_height) * 0.96
    if light.sun is not None:
        c.glow(sun_x, sun_y, 0.42, light.sun, 0.55)
        c.glow(sun_x, sun_y, 0.13, light.sun, 0.75)

    billow = c.noise(rng, 3, max(3, round(6 * horizon / 0.5)), 4)
    lift = max(1, int(0.035 * c.height))
    lit = billow - np.roll(billow, -lift, axis=0) + 0.4 * light.side * (np.roll(billow, lift, axis=1) - billow)
    density = smooth(billow, 0.70 - 0.32 * cloudiness, 0.95 - 0.32 * cloudiness) * (
        1 - smooth(y, horizon, horizon + 0.02)
    )
    body = light.cloud_shadow + (light.cloud - light.cloud_shadow) * smooth(lit, -0.16, 0.13)[..., None]
    slope_y, slope_x = np.gradient(billow)
    c.cover(body, density * 0.92, 0.55 * np.arctan2(slope_x * 3, np.abs(slope_y) + 0.004), 1.0)
    if light.sun is not None:
        c.ellipse(sun_x, sun_y, 0.030, 0.030, mix(light.sun, colour("ffffff"), 0.3), 0.6, 0.45)
        c.glow(sun_x, sun_y, 0.06, light.sun, 0.6)
    return sun_x, sun_y


def ridge(rng: np.random.Generator, aspect: float, y: float, height: float, waves: float) -> list[Point]:
    """A skyline around `y`, up to `height` above and below, from edge to edge."""
    xs = np.linspace(-0.05, aspect + 0.05, 60)
    line = sum(np.sin(xs * waves * k + rng.uniform(0, 6.28)) * rng.uniform(0.5, 1) / k for k in (1.0, 1.9, 3.7, 7.3))
    return [(float(px), float(y - height * py / 2)) for px, py in zip(xs, line, strict=True)]


def hill(c: Canvas, rng, y: float, height: float, waves: float, top: Colour, foot: Colour, depth: float, size=0.9):
    """A hill whose colour goes from `top` to `foot` over `depth` below its skyline."""
    line = ridge(rng, c.aspect, y, height, waves)
    heights = np.array([p[1] for p in line])
    xs = np.array([p[0] for p in line])
    slope = np.gradient(heights, xs)

    def shading(px, py):
        below = np.clip((py - np.interp(px, xs, heights)) / depth, 0, 1)[..., None]
        return top + (foot - top) * below

    c.shade(
        [*line, (c.aspect + 0.05, 1.02), (-0.05, 1.02)], shading, lambda px, py: np.interp(px, xs, slope) * 1.2, size
    )


def meadow(c: Canvas, rng, light: Light, y: float, far: Colour, near: Colour, wave: float = 0.02) -> None:
    """Grass from a soft line at `y` down to the lower edge, in streaks that widen towards the viewer."""
    line = ridge(rng, c.aspect, y, wave, 2.2)
    streaks = c.noise(rng, 3, 16, 3)

    def shading(px, py):
        t = np.clip((py - y) / (1 - y), 0, 1)[..., None]
        patch = (c.sample(streaks, px, py) - 0.5)[..., None]
        base = light.on(far, 0.3) * (1 - t) + light.on(near, 0.0) * t
        lit, dark = light.on(near, 0.9), light.on(near, -0.8)
        return base + np.maximum(patch, 0) * (lit - base) * 1.5 + np.maximum(-patch, 0) * (dark - base) * 1.6

    c.shade([*line, (c.aspect + 0.05, 1.02), (-0.05, 1.02)], shading, lambda px, py: -0.12 + 0.2 * np.sin(px * 5), 0.95)


def foliage(
    c: Canvas,
    rng,
    light: Light,
    x: float,
    y: float,
    rx: float,
    ry: float,
    base: Colour,
    count: int,
    dab: float,
    size=0.6,
) -> None:
    """A crown of leaves filling an ellipse: shadowed dabs first, lit ones last and towards the light."""
    radius = np.sqrt(rng.random(count))
    around = rng.uniform(0, 2 * np.pi, count)
    px, py = radius * np.cos(around), radius * np.sin(around)
    lit = np.clip(-0.75 * py + 0.6 * light.side * px + rng.normal(0, 0.28, count), -1, 1)
    warm = colour("c9b44a")
    for i in np.argsort(lit):
        tint = mix(base, warm, 0.22 * max(0.0, float(lit[i])) + 0.08 * rng.random())
        grow = dab * (1.15 - 0.35 * lit[i]) * rng.uniform(0.7, 1.2)
        angle = rng.uniform(0, np.pi)
        c.dab(x + px[i] * rx, y + py[i] * ry, grow * 1.15, grow * 0.7, light.on(tint, float(lit[i])), angle, size)


def tree(c: Canvas, rng, light: Light, x: float, foot: float, height: float, base: Colour, spread: float = 0.5) -> None:
    """A broad tree standing at (x, foot)."""
    bark = light.on(colour("7a6152"), -0.4)
    c.line([(x, foot), (x + 0.01 * height, foot - 0.5 * height)], 0.06 * height, bark)
    for lean in (-0.22, 0.2):
        c.line([(x, foot - 0.3 * height), (x + lean * height, foot - 0.6 * height)], 0.03 * height, bark)
    for _ in range(5):
        dx, dy = rng.uniform(-0.5, 0.5) * spread, rng.uniform(-0.22, 0.2)
        foliage(
            c,
            rng,
            light,
            x + dx * height,
            foot - (0.66 + dy) * height,
            0.34 * spread * height * 1.3,
            0.22 * height,
            base,
            46,
            0.034 * height,
        )


def poplar(c: Canvas, rng, light: Light, x: float, foot: float, height: float, base: Colour) -> None:
    """A slender tree of upward strokes."""
    c.line([(x, foot), (x, foot - 0.2 * height)], max(0.004, 0.03 * height), light.on(colour("7a6152"), -0.4))
    count = 60
    rise = rng.random(count)
    across = rng.uniform(-1, 1, count)
    girth = 0.085 * height * np.sin(np.pi * np.clip(rise * 0.9 + 0.1, 0, 1)) ** 0.7
    lit = np.clip(0.8 * light.side * across + rng.normal(0, 0.25, count), -1, 1)
    for i in np.argsort(lit):
        tint = mix(base, colour("c9b44a"), 0.2 * max(0.0, float(lit[i])))
        px, py = x + across[i] * girth[i], foot - (0.12 + 0.88 * rise[i]) * height
        c.dab(px, py, 0.055 * height, 0.021 * height, light.on(tint, float(lit[i])), 1.57 + 0.25 * across[i], 0.55)


def hedge(c: Canvas, rng, light: Light, left: float, right: float, foot: float, height: float, base: Colour) -> None:
    """A row of bushes and small trees, so far away that they touch."""
    step = height * 0.55
    for x in np.arange(left, right, step):
        tall = height * rng.uniform(0.6, 1.25)
        foliage(c, rng, light, x, foot - tall * 0.45, tall * 0.5, tall * 0.5, base, 22, tall * 0.16)


def flowers(
    c: Canvas, rng, light: Light, top: float, count: int, tints: Sequence[Colour], dab: float, where=None
) -> None:
    """Flowers strewn over the ground below `top`, larger towards the viewer; `where(x, y)` (0..1) thins them."""
    depth = rng.random(count) ** 0.75
    y = top + (1 - top) * depth
    x = rng.uniform(0, c.aspect, count)
    clump = c.noise(rng, 5, 7, 2)
    for i in np.argsort(y):
        row, column = min(c.height - 1, int(y[i] * c.height)), min(c.width - 1, int(x[i] * c.height))
        grow = dab * (0.22 + depth[i]) * rng.uniform(0.7, 1.3)
        tint = tints[int(rng.integers(len(tints)))]
        amount = rng.uniform(-0.5, 0.9)
        if clump[row, column] < 0.47 or (where is not None and where(x[i], y[i]) < 0.5):
            continue
        c.dab(x[i], y[i], grow * 1.1, grow * 0.75, light.on(tint, amount), rng.uniform(-0.7, 0.7), 0.42)


def grasses(c: Canvas, rng, light: Light, top: float, count: int, base: Colour) -> None:
    """Single blades near the viewer."""
    y = np.sort(top + (1.05 - top) * rng.random(count) ** 0.6)
    for level in y:
        x = rng.uniform(0, c.aspect)
        tall = 0.012 + 0.075 * (level - top) / (1 - top)
        lean = rng.normal(0.1, 0.35) * tall
        c.line([(x, level), (x + lean, level - tall)], 0.0035, light.on(base, rng.uniform(-0.7, 1)), 0.45)


def water(
    c: Canvas,
    rng,
    light: Light,
    mask: np.ndarray,
    shore: float,
    tint: Colour,
    clarity: float = 0.72,
    ripple: float = 1.0,
) -> None:
    """Fill `mask` (height, width; 0..1) with what stands above `shore`, upside down, in ripples, mixed with `tint`."""
    x, y = c.grid()
    depth = np.clip(y - shore, 0, 1)
    broken = c.noise(rng, 5, 60, 2) - 0.5
    source_y = np.clip((shore - depth * 0.92 + broken * depth * 0.11 * ripple) * c.height, 0, c.height - 1).astype(int)
    source_x = np.clip((x + broken * (0.010 + 0.055 * depth) * ripple) * c.height, 0, c.width - 1).astype(int)
    mirrored = c.pixels()[source_y, source_x]
    deep = tint * light.ambient / 255
    colours = deep + (mirrored - deep) * clarity
    glint = smooth(c.noise(rng, 7, 90, 1), 0.78, 0.97)[..., None] * (0.25 + 0.5 * np.clip(depth * 2, 0, 1))[..., None]
    sky_light = mix(light.horizon, light.cloud, 0.4)
    colours = colours + (sky_light - colours) * glint * 0.55
    c.cover(colours, mask, 0.0, 0.85)


def glitter(c: Canvas, rng, light: Light, x: float, shore: float, reach: float = 1.0) -> None:
    """The sun's path on the water: short horizontal dabs under (x, shore)."""
    if light.sun is None:
        return
    for level in np.sort(shore + 0.008 + (reach - shore) * rng.random(130) ** 1.2):
        depth = (level - shore) / (1 - shore)
        away = rng.normal(0, 0.018 + 0.05 * depth)
        tint = mix(light.sun, light.horizon, rng.random() * 0.6)
        c.ellipse(
            x + away, level, (0.012 + 0.034 * depth) * rng.uniform(0.5, 1.3), 0.003 + 0.006 * depth, tint, 0.0, 0.6
        )


def sailboat(c: Canvas, light: Light, x: float, line: float, height: float, sail: Colour, lean: float = 1.0) -> None:
    """A boat with its waterline at `line`, and its broken reflection; `lean` (-1, 1) is where the sails point."""
    hull = light.on(colour("5c4a52"), -0.2)
    echo = mix(light.middle, light.on(sail, 0), 0.55)
    for part in range(7):
        t = (part + 0.5) / 7
        wide = 0.17 * height * (1 - t) * (1 if part % 2 else 1.35)
        c.ellipse(
            x + 0.05 * height * lean * (1 - t), line + (0.05 + 0.75 * t) * height, wide, 0.042 * height, echo, 0, 0.5
        )
    c.ellipse(x, line + 0.045 * height, 0.3 * height, 0.035 * height, mix(hull, light.middle, 0.35), 0, 0.5)
    mast = x - 0.02 * height * lean
    c.line([(mast, line), (mast, line - height)], max(0.003, 0.016 * height), hull)
    c.polygon(placed("2,-97 40,-13 2,-10", mast, line, height, lean), light.on(sail, 0.75), 1.3, 0.5)
    c.polygon(placed("-2,-85 -22,-12 -2,-12", mast, line, height, lean), light.on(sail, -0.35), 1.3, 0.5)
    c.polygon(placed("-30,-9 36,-9 26,2 -22,2", x, line, height), hull, 0.0, 0.5)


def house(
    c: Canvas, light: Light, x: float, foot: float, width: float, height: float, wall: Colour, roof: Colour
) -> None:
    """A gabled house with its left lower corner at (x, foot); one side lies in shadow."""
    front = 0.62 if light.side > 0 else 0.38
    tones = (0.7, -0.75) if light.side < 0 else (-0.75, 0.7)

    def block(left: float, right: float, low: float, high: float, tint: Colour, size: float) -> None:
        near, far = x + left * width, x + right * width
        bottom, top = foot - low * height, foot - high * height
        c.polygon([(near, bottom), (near, top), (far, top), (far, bottom)], tint, 1.57, size)

    block(0, front, 0, 1, light.on(wall, tones[0]), 0.55)
    block(front, 1, 0, 1, light.on(wall, tones[1]), 0.55)
    slope = ((-0.05, 0.95), (0.22, 1.6), (0.85, 1.6), (1.05, 0.95))
    c.polygon([(x + px * width, foot - py * height) for px, py in slope], light.on(roof, 0.35), 0.9, 0.5)
    block(0.66, 0.74, 1.5, 1.9, light.on(roof, -0.6), 0.4)
    for left in (0.16 * front, 0.66 * front, front + 0.4 * (1 - front)):
        block(left, left + 0.1, 0.35, 0.7, light.on(colour("5d6b8c"), -0.3), 0.35)


def figure(
    c: Canvas, light: Light, x: float, foot: float, height: float, dress: Colour, hat: Colour, skirt: bool = True
) -> None:
    """A small standing person, a few touches of the brush; in a long skirt, or a coat over legs."""
    h = height
    hem, low = (0.17, 0.0) if skirt else (0.125, 0.36)
    toward, away = (-1, 1) if light.side < 0 else (1, -1)
    if not skirt:
        for leg in (-0.045, 0.05):
            c.line([(x + leg * h, foot - 0.4 * h), (x + leg * 1.2 * h, foot)], 0.07 * h, light.on(dress, -0.9), 0.4)
    for way, tone in ((away, -0.75), (toward, 0.55)):
        half = [(0, low), (hem, low), (0.085, 0.52), (0.12, 0.70), (0.10, 0.79), (0.035, 0.83), (0, 0.83)]
        c.polygon(
            [(x + way * px * h, foot - py * h) for px, py in half], light.on(dress, tone), 1.57 - 0.15 * way, 0.42
        )
        arm = [
            (x + way * 0.11 * h, foot - 0.76 * h),
            (x + way * 0.155 * h, foot - 0.60 * h),
            (x + way * 0.10 * h, foot - 0.47 * h),
        ]
        c.line(arm, 0.055 * h, light.on(dress, tone - 0.3), 0.4)
    c.ellipse(x, foot - 0.90 * h, 0.052 * h, 0.066 * h, light.on(colour("e2b597"), 0.2), 0.0, 0.35)
    c.ellipse(x, foot - 0.95 * h, (0.115 if skirt else 0.085) * h, 0.024 * h, light.on(hat, 0.3), 0.0, 0.35)
    c.ellipse(x, foot - 0.98 * h, 0.060 * h, 0.042 * h, light.on(hat, 0.1), 0.0, 0.35)


def parasol(
    c: Canvas, light: Light, x: float, y: float, radius: float, tint: Colour, tilt: float = 0.3, stick: float = 1.7
) -> None:
    """An open parasol whose crown is centred at (x, y), leaning by `tilt` radians, its stick so many radii long."""
    cos, sin = np.cos(tilt), np.sin(tilt)

    def turned(points):
        return [(x + px * cos - py * sin, y + px * sin + py * cos) for px, py in points]

    arc = np.linspace(np.pi, 2 * np.pi, 15)
    dome = [(radius * np.cos(a), 0.62 * radius * np.sin(a)) for a in arc]
    c.line(turned([(0, 0), (0, stick * radius)]), max(0.004, 0.05 * radius), light.on(colour("6b5448"), 0))
    hem = [(radius * (1 - 2 * k / 8), 0.10 * radius * (k % 2)) for k in range(9)]
    c.polygon(turned([*dome, *hem]), light.on(tint, -0.5), tilt, 0.5)
    for k in range(5):
        left, right = -1 + 0.4 * k, -0.6 + 0.4 * k
        edge = [
            (radius * np.cos(a), 0.62 * radius * np.sin(a)) for a in np.linspace(np.arccos(left), np.arccos(right), 5)
        ]
        panel = [
            (0.0, -0.62 * radius),
            *[(px, -abs(py)) for px, py in edge],
            (right * radius, 0.0),
            (left * radius, 0.0),
        ]
        facing = 1 - 2 * abs((left + right) / 2 - light.side * 0.5)
        c.polygon(
            turned(panel), light.on(tint, float(np.clip(facing, -0.7, 1))), tilt + 1.57 + 0.5 * (left + right), 0.45
        )
