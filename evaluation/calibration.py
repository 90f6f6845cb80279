"""Whether a measure tells a set's own pictures from the base model's, found out before any score of it is shown.

A direction from the base's pictures to the set's is fitted on a part of both and tried on the rest, part by part, so
that every picture is placed by a direction that has not seen it. On it the base model stands at 0 and the set at 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy

FOLDS = 5
SHRINKAGE = 0.5  # of the covariance towards equal variances: there are more numbers than pictures
TRUSTED = 0.7  # least AUC of a measure whose scores may be believed
FEWEST = 4  # pictures of each kind


@dataclass(frozen=True)
class Direction:
    """From one kind of pictures to another: 0 at the first's mean, 1 at the second's."""

    centre: numpy.ndarray
    scale: numpy.ndarray
    weights: numpy.ndarray
    offset: float

    def place(self, vectors: numpy.ndarray) -> numpy.ndarray:
        return (vectors - self.centre) / self.scale @ self.weights + self.offset


def direction(base: numpy.ndarray, of_set: numpy.ndarray) -> Direction:
    """Fisher's linear discriminant with a shrunk covariance, from rows of `base` to rows of `of_set`."""
    both = numpy.concatenate([base, of_set]).astype(numpy.float64)
    centre, scale = both.mean(axis=0), both.std(axis=0) + 1e-9
    one, other = ((rows - centre) / scale for rows in (base, of_set))
    within = numpy.concatenate([one - one.mean(axis=0), other - other.mean(axis=0)])
    covariance = within.T @ within / max(1, len(within) - 2)
    even = numpy.trace(covariance) / len(covariance) + 1e-9
    shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * even * numpy.eye(len(covariance))
    apart = other.mean(axis=0) - one.mean(axis=0)
    weights = numpy.linalg.solve(shrunk, apart)
    weights /= max(float(apart @ weights), 1e-12)
    return Direction(centre, scale, weights, -float(one.mean(axis=0) @ weights))


@dataclass(frozen=True)
class Calibration:
    """A measure on one set, and how far it can be believed.

    Attributes:
        auc: how likely a held-out picture of the set lies farther along than a held-out one of the base: 0.5 is
            guessing, 1 tells them always apart. From pictures that the direction was not fitted on.
        base: where each picture of the base lies, by a direction that has not seen it nor its prompt.
        of_set: the same of the set's pictures.
        folds: the directions, each fitted without a part of the prompts, and `fold_of_prompt` which without which.
        zero, one: where the base's and the set's held-out pictures lie on them, on the mean.
    """

    auc: float
    base: numpy.ndarray
    of_set: numpy.ndarray
    folds: tuple[Direction, ...]
    fold_of_prompt: numpy.ndarray
    zero: float
    one: float

    @property
    def trusted(self) -> bool:
        return self.auc >= TRUSTED

    def place(self, vectors: numpy.ndarray, prompts: Sequence[int]) -> numpy.ndarray:
        """Where other pictures lie, each by the direction that has not seen the base's pictures of its prompt."""
        placed = numpy.empty(len(vectors))
        folds = self.fold_of_prompt[numpy.asarray(prompts)]
        for number, fitted in enumerate(self.folds):
            placed[folds == number] = fitted.place(vectors[folds == number])
        return (placed - self.zero) / (self.one - self.zero)


def calibrate(base: numpy.ndarray, prompts: Sequence[int], of_set: numpy.ndarray) -> Calibration:
    """Try a measure on a set.

    Args:
        base: a row for each picture of the base model.
        prompts: which prompt each of those is of, counted from 0; at least 2 different ones.
        of_set: a row for each picture of the set, in an order that means nothing; at least 4.
    """
    asked = numpy.asarray(prompts)
    count = min(FOLDS, len(set(asked.tolist())), len(of_set))
    fold_of_prompt = numpy.arange(asked.max() + 1) % count
    base_folds, set_folds = fold_of_prompt[asked], numpy.arange(len(of_set)) % count
    fitted, placed_base, placed_set = [], numpy.empty(len(base)), numpy.empty(len(of_set))
    for fold in range(count):
        fitted.append(direction(base[base_folds != fold], of_set[set_folds != fold]))
        placed_base[base_folds == fold] = fitted[-1].place(base[base_folds == fold])
        placed_set[set_folds == fold] = fitted[-1].place(of_set[set_folds == fold])
    zero, one = placed_base.mean(), placed_set.mean()
    if one - zero < 1e-6:  # the held-out ones lie the other way round: the measure is worth nothing
        one = zero + 1.0
    of_base, of_the_set = ((placed - zero) / (one - zero) for placed in (placed_base, placed_set))
    return Calibration(
        auc(of_base, of_the_set), of_base, of_the_set, tuple(fitted), fold_of_prompt, float(zero), float(one)
    )


def auc(lower: numpy.ndarray, higher: numpy.ndarray) -> float:
    """How likely one of `higher` is above one of `lower`; a tie counts half."""
    above = (higher[:, None] > lower).mean()
    return float(above + 0.5 * (higher[:, None] == lower).mean())
