"""Near-duplicates among many pictures: all pairs of 64-bit hashes within a distance, without comparing every pair."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy

BANDS = 4
BAND_BITS = 16
# Two hashes together, by one: turned by 2 degrees 6 and 9 bits, cropped by 5 % 6 and 8; of 254 painted scenes, the
# nearest two that differ 10 and 10.
TOGETHER = 1.5
PAIRS_AT_ONCE = 1_000_000
GREATEST_DISTANCE = 16  # bits; beyond it the index would be slower than comparing every pair


Hashes = tuple[int, int]  # perceptual and gradient hash, 64 bits each


def near_duplicates(hashes: Sequence[Hashes], distance: int, tick: Callable[[], object] = int) -> dict[int, int]:
    """Which pictures are near an earlier one that stays, and near which.

    Near are two whose perceptual hashes differ in at most `distance` bits, and whose perceptual and gradient hashes
    together in at most one and a half times as many: two hashes of the same painting agree, while two paintings of the
    same composition may be alike in one.

    The first in order stays; a picture near one that stays goes. So no two that stay are near each other, and a chain
    of small changes does not take its far ends along.

    Args:
        hashes: the picture to keep before the one to drop.
        distance: 0 to 16 bits.
        tick: called between units of work; it stops the work by raising.

    Returns:
        Index of each that goes -> index of the one that stays.
    """
    first: dict[Hashes, int] = {}  # of each different pair: a thousand equal ones must not become half a million pairs
    gone = {}
    for index, value in enumerate(hashes):
        if first.setdefault(value, index) != index:
            gone[index] = first[value]
    different = list(first.values())
    nearer: dict[int, list[int]] = defaultdict(list)
    for earlier, later in _pairs(numpy.array(list(first), numpy.uint64).reshape(-1, 2), distance, tick):
        nearer[different[later]].append(different[earlier])
    for later in sorted(nearer):
        stays = [earlier for earlier in nearer[later] if earlier not in gone]
        if stays:
            gone[later] = min(stays, key=lambda earlier: (bits_apart(hashes[earlier], hashes[later]), earlier))
    return {index: gone.get(nearest, nearest) for index, nearest in gone.items()}


def bits_apart(one: Hashes, other: Hashes) -> tuple[int, int]:
    """In how many bits the perceptual and the gradient hashes differ."""
    return (one[0] ^ other[0]).bit_count(), (one[1] ^ other[1]).bit_count()


def _pairs(hashes: numpy.ndarray, distance: int, tick: Callable[[], object]) -> set[tuple[int, int]]:
    """Pairs of indices (smaller first) that are near.

    Multi-index hashing (Norouzi et al., 2012): of four bands of 16 bits, one differs in at most a quarter of the bits.
    So each band is looked up in a table of its own, with up to that many of its bits turned over.
    """
    found: set[tuple[int, int]] = set()
    perceptual, gradient = hashes.T.copy()
    masks = [
        sum(1 << bit for bit in bits)
        for count in range(distance // BANDS + 1)
        for bits in itertools.combinations(range(BAND_BITS), count)
    ]
    for band in range(BANDS):
        keys = ((perceptual >> numpy.uint64(band * BAND_BITS)) & numpy.uint64(0xFFFF)).astype(numpy.int64)
        order = numpy.argsort(keys, kind="stable")
        counts = numpy.bincount(keys, minlength=1 << BAND_BITS)
        starts = numpy.cumsum(counts) - counts
        for mask in masks:
            tick()
            for left, right in _candidates(keys ^ mask, order, starts, counts):
                ahead = left < right  # each pair once, and none with itself
                left, right = left[ahead], right[ahead]
                apart = _bit_counts(perceptual[left] ^ perceptual[right])
                left, right, apart = (values[apart <= distance] for values in (left, right, apart))
                near = apart + _bit_counts(gradient[left] ^ gradient[right]) <= distance * TOGETHER
                found.update(zip(left[near].tolist(), right[near].tolist(), strict=True))
    return found


def _candidates(
    sought: numpy.ndarray, order: numpy.ndarray, starts: numpy.ndarray, counts: numpy.ndarray
) -> Iterator[tuple[numpy.ndarray, numpy.ndarray]]:
    """Every pair of an index and one of the indices whose key is sought for it, about `PAIRS_AT_ONCE` at a time."""
    ends = numpy.cumsum(counts[sought])
    parts = numpy.searchsorted(ends, numpy.arange(PAIRS_AT_ONCE, ends[-1:].sum(), PAIRS_AT_ONCE))
    for part in numpy.split(numpy.arange(len(sought)), numpy.unique(parts)):
        lengths = counts[sought[part]]
        left = numpy.repeat(part, lengths)
        within = numpy.arange(len(left)) - numpy.repeat(numpy.cumsum(lengths) - lengths, lengths)
        yield left, order[numpy.repeat(starts[sought[part]], lengths) + within]


def _bit_counts(values: numpy.ndarray) -> numpy.ndarray:
    table = numpy.array([byte.bit_count() for byte in range(256)], numpy.uint8)
    return table[values.view(numpy.uint8).reshape(-1, 8)].sum(axis=1, dtype=numpy.int64)
