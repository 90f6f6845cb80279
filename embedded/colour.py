"""Colour as a painter mixes it: hex names, blends, and OKLab, in which equal steps look equal.

Colours are sRGB floats 0..255; OKLab is Björn Ottosson, "A perceptual color space for image processing", 2020.
"""

from __future__ import annotations

import numpy as np

Colour = np.ndarray  # (3,) float32, sRGB 0..255

_TO_CONES = np.array(
    [[0.4122214708, 0.5363325363, 0.0514459929],
     [0.2119034982, 0.6806995451, 0.1073969566],
     [0.0883024619, 0.2817188376, 0.6299787005]], dtype=np.float32)  # fmt: skip
_TO_LAB = np.array(
    [[0.2104542553, 0.7936177850, -0.0040720468],
     [1.9779984951, -2.4285922050, 0.4505937099],
     [0.0259040371, 0.7827717662, -0.8086757660]], dtype=np.float32)  # fmt: skip
_FROM_LAB = np.linalg.inv(_TO_LAB).astype(np.float32)
_FROM_CONES = np.linalg.inv(_TO_CONES).astype(np.float32)
# Gamma curves as tables: a power function over a million pixels costs more than all the painting.
_LINEAR = np.where(
    np.arange(256) / 255 <= 0.04045, np.arange(256) / 255 / 12.92, ((np.arange(256) / 255 + 0.055) / 1.055) ** 2.4
).astype(np.float32)


def colour(name: str) -> Colour:
    """The colour of a six-digit hex name such as ``"f4e3c1"``."""
    return np.array([int(name[i : i + 2], 16) for i in (0, 2, 4)], dtype=np.float32)


def mix(first: Colour, second: Colour, amount: float) -> Colour:
    """`first` at amount 0, `second` at 1."""
    return first + (second - first) * amount


def to_oklab(rgb: np.ndarray) -> np.ndarray:
    """sRGB 0..255 of shape (..., 3) to OKLab of the same shape: lightness 0..1, then a and b, about -0.4..0.4."""
    linear = _LINEAR[np.clip(rgb, 0, 255).astype(np.uint8)]
    return np.cbrt(linear @ _TO_CONES.T) @ _TO_LAB.T


def from_oklab(lab: np.ndarray) -> np.ndarray:
    """OKLab of shape (..., 3) to sRGB floats 0..255, clipped to what a screen can show."""
    linear = np.clip((lab @ _FROM_LAB.T) ** 3 @ _FROM_CONES.T, 0, 1)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055).astype(np.float32) * 255
