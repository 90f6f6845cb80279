"""Whether a measure tells a set's own pictures from the base model's, found out before any score of it is shown.

A direction from the base's pictures to the set's is fitted on a part of both and tried on the rest, part by part, so
that every picture is placed by a direction that has not seen it; or a picture is placed by its neighbours among both.
The base model then stands at 0 and the set at 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy

FOLDS = 5
SHRINKAGE = 0.5  # of the covariance towards equal variances: there are more numbers than pictures
TRUSTED = 0.7  # least AUC of a measure whose scores may be believed
FEWEST = 4  # pictures of each kind
NEAREST = 10  # K of CSLS, as in its paper

Placing = Callable[[numpy.ndarray, numpy.ndarray], numpy.ndarray]  # rows, and the prompt of each, to places


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
            guessing, 1 tells them always apart.
        base: where each picture of the base lies, held out: 0 on the mean.
        of_set: the same of the set's pictures: 1 on the mean.
        raw: where other pictures lie, each by what has not seen the base's pictures of its prompt, not yet scaled so.
        zero, one: where the base's and the set's held-out pictures lie before they are scaled, on the mean.
    """

    auc: float
    base: numpy.ndarray
    of_set: numpy.ndarray
    raw: Placing
    zero: float
    one: float

    @property
    def trusted(self) -> bool:
        return self.auc >= TRUSTED

    def place(self, vectors: numpy.ndarray, prompts: Sequence[int]) -> numpy.ndarray:
        """Where other pictures lie, rows of vectors with the prompt of each."""
        return (self.raw(vectors, numpy.asarray(prompts)) - self.zero) / (self.one - self.zero)


def calibrate(base: numpy.ndarray, prompts: Sequence[int], of_set: numpy.ndarray) -> Calibration:
    """Try a measure on a set, by a direction from the one to the other.

    Args:
        base: a row for each picture of the base model.
        prompts: which prompt each of those is of, counted from 0; at least 2 different ones.
        of_set: a row for each picture of the set, in an order that means nothing; at least 4.
    """
    asked = numpy.asarray(prompts)
    count = min(FOLDS, len(set(asked.tolist())), len(of_set))
    fold_of_prompt = numpy.arange(asked.max() + 1) % count
    base_folds, set_folds = fold_of_prompt[asked], numpy.arange(len(of_set)) % count
    fitted = [direction(base[base_folds != fold], of_set[set_folds != fold]) for fold in range(count)]

    def by_folds(vectors: numpy.ndarray, folds: numpy.ndarray) -> numpy.ndarray:
        placed = numpy.empty(len(vectors))
        for number, one in enumerate(fitted):
            placed[folds == number] = one.place(vectors[folds == number])
        return placed

    return _scaled(
        by_folds(base, base_folds),
        by_folds(of_set, set_folds),
        lambda vectors, others: by_folds(vectors, fold_of_prompt[others]),
    )


def calibrate_by_neighbours(base: numpy.ndarray, prompts: Sequence[int], of_set: numpy.ndarray) -> Calibration:
    """Try an embedding on a set, by the neighbourhood-corrected likeness of each picture to the set's nearest ones.

    CSLS (Conneau et al., "Word Translation Without Parallel Data", 2018): of a picture x and one of the set, y, twice
    their cosine, less the mean cosine of each to its K nearest pictures of the base. What is near to everything, as a
    few points of such a space are, counts less for that. A picture's place is the mean over its K nearest of the set.
    The base's pictures of x's own prompt are none of its neighbours, and a picture of the set is none of its own.

    Args:
        base, prompts, of_set: as of `calibrate`, rows of an image network.
    """
    of_length_1, set_of_length_1 = unit(base), unit(of_set)
    asked = numpy.asarray(prompts)
    count = int(asked.max()) + 1
    hubs = [_nearest(set_of_length_1 @ of_length_1[asked != prompt].T) for prompt in range(count)]

    def by_neighbours(
        vectors: numpy.ndarray, left_out: numpy.ndarray, own: numpy.ndarray | None = None
    ) -> numpy.ndarray:
        placed = numpy.empty(len(vectors))
        for row, (vector, prompt) in enumerate(zip(unit(vectors), left_out, strict=True)):
            corrected = 2 * set_of_length_1 @ vector - hubs[prompt]
            known = corrected if own is None else numpy.delete(corrected, own[row])
            placed[row] = _nearest(known) - _nearest(of_length_1[asked != prompt] @ vector)
        return placed

    places = numpy.arange(len(of_set))
    return _scaled(by_neighbours(base, asked), by_neighbours(of_set, places % count, places), by_neighbours)


def unit(rows: numpy.ndarray) -> numpy.ndarray:
    """Rows of length 1, so that their products are cosines."""
    return rows / numpy.maximum(numpy.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _nearest(likeness: numpy.ndarray) -> numpy.ndarray:
    """Mean of the `NEAREST` highest, over the last axis."""
    count = min(NEAREST, likeness.shape[-1])
    return numpy.sort(likeness, axis=-1)[..., -count:].mean(axis=-1)


def _scaled(base: numpy.ndarray, of_set: numpy.ndarray, raw: Placing) -> Calibration:
    """Of where held-out pictures lie, 0 at the base's mean and 1 at the set's."""
    zero, one = float(base.mean()), float(of_set.mean())
    if one - zero < 1e-6:  # the held-out ones lie the other way round: the measure is worth nothing
        one = zero + 1.0
    of_base, of_the_set = ((placed - zero) / (one - zero) for placed in (base, of_set))
    return Calibration(auc(of_base, of_the_set), of_base, of_the_set, raw, zero, one)


def auc(lower: numpy.ndarray, higher: numpy.ndarray) -> float:
    """How likely one of `higher` is above one of `lower`; a tie counts half."""
    above = (higher[:, None] > lower).mean()
    return float(above + 0.5 * (higher[:, None] == lower).mean())
