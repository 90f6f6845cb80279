"""Seeds: 64-bit numbers by profile, each the same function of its settings and of how often it was asked before."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from ..errors import SettingsError

MAX_SEED = 2**64 - 1  # what ComfyUI's noise accepts
GOLDEN_STEP = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, made odd: a Weyl sequence, spread evenly over all 64 bits
MAX_COUNT = 1000
MOST_IN_RANGES = 100_000  # seeds of a list that has ranges
_RANGE = re.compile(r"([0-9]{1,20})(?:[-\u2013]([0-9]{1,20})(?::([0-9]{1,20}))?)?")  # U+2013: as texts are typeset

FIXED = "fixed"
RANDOM = "random"
INCREMENT = "increment"
DECREMENT = "decrement"
GOLDEN = "golden-ratio walk"
TEXT = "from text"
DATE = "from date"
LIST = "list"
NEIGHBOURHOOD = "neighbourhood"
LAST = "last queued"
FAVOURITE = "favourite"
PROFILES = (FIXED, RANDOM, INCREMENT, DECREMENT, GOLDEN, TEXT, DATE, LIST, NEIGHBOURHOOD, LAST, FAVOURITE)
STEPPING = (INCREMENT, DECREMENT, GOLDEN, LIST, NEIGHBOURHOOD)  # the next queueing gives the next seeds
LOOKED_UP = (LAST, FAVOURITE)  # in the seed book
CHANGING = (RANDOM, DATE, *STEPPING, *LOOKED_UP)  # may differ at the next queueing though no widget does


@dataclass(frozen=True)
class SeedSettings:
    """A profile with what it needs: a start for most, a text for 'from text' and 'list', and how many seeds."""

    profile: str
    seed: int
    text: str
    count: int

    def __post_init__(self) -> None:
        if self.profile not in PROFILES:
            raise SettingsError(f"The seed profile is '{self.profile}'. Use one of: {', '.join(PROFILES)}.")
        if not 0 <= self.seed <= MAX_SEED:
            raise SettingsError(f"The seed is {self.seed}. Use a whole number from 0 to {MAX_SEED}.")
        if not 1 <= self.count <= MAX_COUNT:
            raise SettingsError(f"The count of seeds is {self.count}. Use 1 to {MAX_COUNT}.")


def seeds_at(settings: SeedSettings, position: int, today: date | None = None) -> tuple[int, ...]:
    """`settings.count` seeds, all different unless a list repeats one, from place `position` of the profile's sequence.

    A step over either end of the 64 bits goes on at the other.

    Args:
        settings: not of a profile that is looked up.
        position: how many seeds of this sequence were given before; 0 for the profiles that do not step.
        today: for 'from date'; the local day if None.

    Raises:
        SettingsError: a list has no seed, or one out of range.
    """
    start, places = settings.seed, range(position, position + settings.count)
    if settings.profile == RANDOM:
        drawn: set[int] = set()
        while len(drawn) < settings.count:
            drawn.add(secrets.randbits(64))
        return tuple(drawn)
    if settings.profile == LIST:
        listed = listed_seeds(settings.text)
        return tuple(listed[place % len(listed)] for place in places)
    if settings.profile == TEXT:
        start = seed_of_text(settings.text)
    if settings.profile == DATE:
        start = int(f"{today or date.today():%Y%m%d}")
    if settings.profile == NEIGHBOURHOOD:
        return tuple(wrapped(start + _outwards(place)) for place in places)
    step = {DECREMENT: -1, GOLDEN: GOLDEN_STEP}.get(settings.profile, 1)
    return tuple(wrapped(start + place * step) for place in places)


def seed_of_text(text: str) -> int:
    """The first 64 bits of SHA-256 of the text in UTF-8, without spaces around it."""
    return int.from_bytes(hashlib.sha256(text.strip().encode()).digest()[:8], "big")


def listed_seeds(text: str) -> tuple[int, ...]:
    """Seeds and ranges of seeds, separated by commas, spaces or line ends; what follows '#' on a line is a note.

    A range has both its ends: "100-120" are 21 seeds, "100-120:5" every fifth of them, "120-100" the same backwards.

    Raises:
        SettingsError: there is none, one is no whole number or out of range, or ranges have too many.
    """
    written = [part for part in re.split(r"[\s,;]+", re.sub(r"#.*", "", text)) if part]
    if not written:
        raise SettingsError("The list of seeds is empty. Write whole numbers, separated by commas or line ends.")
    seeds: list[int] = []
    for part in written:
        seeds += _range(part, MOST_IN_RANGES - len(seeds))
    return tuple(seeds)


def _range(part: str, most: int) -> Sequence[int]:
    """One part of a list: a seed, or the seeds of a range, of which there may be `most`."""
    found = _RANGE.fullmatch(part)
    first, last, step = (int(number) if number else None for number in found.groups()) if found else (None, None, None)
    if first is None or max(first, last or 0) > MAX_SEED or step == 0:
        raise SettingsError(
            f"The list of seeds has '{part[:60]}'. Use whole numbers from 0 to {MAX_SEED}, or ranges of them like "
            "100-120 or 100-120:5."
        )
    if last is None:
        return [first]
    step = step or 1
    if abs(last - first) // step + 1 > most:
        raise SettingsError(
            f"The range {part} of the list of seeds is too long: ranges may have {MOST_IN_RANGES:,} seeds in all. "
            "Make it shorter, or its step greater. The profile increment takes one seed after another without end."
        )
    return range(first, last + 1, step) if first <= last else range(first, last - 1, -step)


def further_seed(seed: int, index: int) -> int:
    """The `index`-th companion of a seed, for further samplers: no two indices give the same.

    splitmix64 (Steele, Lea and Flood 2014), which takes different numbers to different numbers.
    """
    mixed = wrapped(seed + index * GOLDEN_STEP)
    mixed = wrapped((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9)
    mixed = wrapped((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB)
    return mixed ^ (mixed >> 31)


def replayed(text: str, count: int) -> tuple[int, ...]:
    """The seeds that a saved graph carries.

    Raises:
        SettingsError: it carries another number of them than is asked for, or they are no seeds.
    """
    seeds = listed_seeds(text)
    if len(seeds) != count:
        raise SettingsError(
            f"'replay' holds {len(seeds)} seeds and the count is {count}. Set the count to {len(seeds)}, or clear "
            "'replay' for new seeds."
        )
    return seeds


def written(seeds: Sequence[int]) -> str:
    """Seeds as text, because a browser rounds numbers above 2^53."""
    return ", ".join(map(str, seeds))


def wrapped(number: int) -> int:
    return number & MAX_SEED


def _outwards(place: int) -> int:
    """0, 1, -1, 2, -2, …"""
    return (place + 1) // 2 if place % 2 else -(place // 2)
