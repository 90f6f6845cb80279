"""Whether pictures show what their prompts say, by a CLIP that knows both; believed only where it tells them apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy

from .calibration import TRUSTED, unit


@dataclass(frozen=True)
class Adherence:
    """How well each picture fits its prompt.

    Attributes:
        auc: how likely a picture of the base model fits its own prompt better than one of the others: 0.5 is guessing.
        columns: of each column, the cosine of each picture and its prompt.
    """

    auc: float
    columns: tuple[numpy.ndarray, ...]

    @property
    def trusted(self) -> bool:
        return self.auc >= TRUSTED


def adherence(columns: Sequence[numpy.ndarray], texts: numpy.ndarray, prompts: Sequence[int]) -> Adherence:
    """Compare pictures with prompts.

    Cosines as in CLIPScore (Hessel et al., 2021), neither scaled nor cut off. They lie close together, around 0.3 for
    CLIP's models, so that only the difference to the base model's tells something.

    Args:
        columns: of each column, a row for each picture, the base model's first.
        texts: a row for each different prompt, of the same width.
        prompts: which of them each picture is of.
    """
    asked = numpy.asarray(prompts)
    directions = unit(texts).T
    cosines = [unit(column) @ directions for column in columns]
    own = numpy.arange(len(asked)), asked
    return Adherence(_own_before_others(cosines[0], asked), tuple(found[own] for found in cosines))


def _own_before_others(cosines: numpy.ndarray, asked: numpy.ndarray) -> float:
    """Over pictures, the share of other prompts that lie below its own; a tie counts half."""
    own = cosines[numpy.arange(len(asked)), asked][:, None]
    below = (cosines < own) + 0.5 * (cosines == own)
    others = numpy.arange(cosines.shape[1]) != asked[:, None]
    return float(below[others].mean())
