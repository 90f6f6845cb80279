"""How far a step's pictures as a whole lie from the set's, by an image network: KID and CMMD, where there are enough.

Never FID: it fits a covariance to the pictures, is biased by their count, and under as many pictures as the network has
numbers that covariance has not even full rank (Binkowski et al., "Demystifying MMD GANs", 2018).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy

from .calibration import unit

LEAST_COUNT = 50
"""Pictures of a step, and of the set, from which on a distance is told.

Both estimates are unbiased at any count (Gretton et al., "A Kernel Two-Sample Test", 2012, lemma 6), so that the count
decides their spread alone. Papers have thousands of pictures (KID: subsets of 1,000; CMMD: Jayasumana et al.,
"Rethinking FID", 2024). 50 is a judgement, not from a paper: on vectors of two styles, 60 beside 80, the distance was
five and more times its spread, and of one style within three (`tests/evaluation/test_network_measures.py`).
"""
SUBSETS = 100  # for the spread, as in the KID's paper
SIGMA, SCALE = 10.0, 1000.0  # of CMMD, as in its paper

Kernel = Callable[[numpy.ndarray, numpy.ndarray], numpy.ndarray]


@dataclass(frozen=True)
class Distance:
    """Between each column's pictures and the set's, by one kernel.

    Attributes:
        name: as people read it.
        columns: of each, the estimate and its spread (one standard error); an estimate may be below 0.
    """

    name: str
    columns: tuple[tuple[float, float], ...]


def polynomial(one: numpy.ndarray, other: numpy.ndarray) -> numpy.ndarray:
    """KID's kernel, (x·y / width + 1)³."""
    return (one @ other.T / one.shape[1] + 1) ** 3


def gaussian(one: numpy.ndarray, other: numpy.ndarray) -> numpy.ndarray:
    """CMMD's kernel on vectors of unit length, times its scale."""
    squares = 2 - 2 * unit(one) @ unit(other).T
    return SCALE * numpy.exp(-squares / (2 * SIGMA**2))


KERNELS: dict[str, Kernel] = {"KID": polynomial, "CMMD": gaussian}


def enough(pictures: int, of_set: int) -> bool:
    return min(pictures, of_set) >= LEAST_COUNT


def distances_from_set(
    name: str, columns: Sequence[numpy.ndarray], prompts: Sequence[int], of_set: numpy.ndarray
) -> list[Distance]:
    """Both distances of each column from the set.

    Args:
        name: of the network.
        columns: rows of an image network for each picture.
        prompts: of each picture.
        of_set: rows for the set's pictures.
    """
    asked, vectors = numpy.asarray(prompts), [rows.astype(numpy.float64) for rows in (*columns, of_set)]
    return [
        Distance(f"{kind}, {name}", tuple(_estimated(kernel, rows, asked, vectors[-1]) for rows in vectors[:-1]))
        for kind, kernel in KERNELS.items()
    ]


def _estimated(kernel: Kernel, rows: numpy.ndarray, asked: numpy.ndarray, of_set: numpy.ndarray) -> tuple[float, float]:
    """The unbiased squared discrepancy, and its spread over halves.

    Pictures of one prompt are alike without being of one style, so that pairs of them are left out. The spread over
    halves drawn without replacement is the standard error of the whole (the delete-half jackknife, Shao and Wu, 1989);
    of the painted pictures it is half of the prompts.
    """
    within, across, beyond = kernel(rows, rows), kernel(rows, of_set), kernel(of_set, of_set)
    others, unlike = asked[:, None] != asked, ~numpy.eye(len(of_set), dtype=bool)

    def discrepancy(ours: numpy.ndarray, theirs: numpy.ndarray) -> float:
        painted, known = numpy.ix_(ours, ours), numpy.ix_(theirs, theirs)
        alike = within[painted][others[painted]].mean() + beyond[known][unlike[known]].mean()
        return float(alike - 2 * across[numpy.ix_(ours, theirs)].mean())

    random = numpy.random.default_rng(0)
    count = int(asked.max()) + 1
    halves = []
    for _ in range(SUBSETS):
        ours = numpy.flatnonzero(numpy.isin(asked, random.permutation(count)[: -(-count // 2)]))
        halves.append(discrepancy(ours, random.permutation(len(of_set))[: -(-len(of_set) // 2)]))
    return discrepancy(numpy.arange(len(rows)), numpy.arange(len(of_set))), float(numpy.std(halves))
