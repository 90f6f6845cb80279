"""Noise between two noises."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_ALIKE = 1e-6  # radians under which two directions are one


def slerp(first: Tensor, second: Tensor, share: float) -> Tensor:
    """Spherical interpolation of two tensors of one shape (Shoemake 1985), taken as vectors: at 0 the very first, at 1
    the very second, and in between of a length between theirs. A straight line would pass near the origin, where
    noise is too weak for a sampler to begin with.
    """
    if share in (0, 1):
        return second if share else first
    a, b = first.double().flatten(), second.double().flatten()
    cosine = (a @ b / (a.norm() * b.norm())).item()
    angle = math.acos(max(-1.0, min(1.0, cosine)))
    if min(angle, math.pi - angle) < _ALIKE:  # the same direction, or opposite ones, between which any way is as good
        mixed = (1 - share) * a + share * b
    else:
        mixed = (math.sin((1 - share) * angle) * a + math.sin(share * angle) * b) / math.sin(angle)
    return mixed.reshape(first.shape).to(first.dtype)
