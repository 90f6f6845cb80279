"""Sequences: the pictures of a way from seed to seed, from prompt to prompt, or from strength to strength."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from ..errors import SettingsError, check_finite
from .picture_specs import PictureSpec

SEEDS, PROMPTS, STRENGTHS = WAYS = ("between seeds", "through prompts", "between strengths")
MOST_FRAMES = 1_000
MOST_PIXELS = 200_000_000  # of all frames together: 2.4 GB as ComfyUI's IMAGE
_MOST_STRENGTH = 10.0  # either way


def frames(
    way: str,
    base: PictureSpec,
    seeds: Sequence[int] = (),
    prompts: Sequence[str] = (),
    strengths: Sequence[float] = (),
    between: int = 1,
    closed: bool = False,
) -> tuple[PictureSpec, ...]:
    """The pictures of a sequence, in their order.

    Args:
        way: one of `WAYS`. Between seeds, the noise goes from one to the next on a sphere; through prompts, each is a
            picture of the same noise; between strengths, that of the LoRA changes evenly.
        base: what stays as it is.
        between: steps from one seed or strength to the next.
        closed: go back to the first at the end, whose picture is not repeated.

    Raises:
        SettingsError: too few or too many of what the way leads through, or strengths without a LoRA.
    """
    if way == PROMPTS:
        texts = _at_least(1, prompts, "prompts", "one a line")
        _check_number(len(texts), base)
        return tuple(replace(base, text=text) for text in texts)
    if way == SEEDS:
        stops = _at_least(2, seeds, "seeds", "with commas between them")
    elif way == STRENGTHS:
        stops = _strengths(base, strengths)
    else:
        raise SettingsError(f"There is no way '{way}'. Choose one of: {', '.join(WAYS)}.")
    _check_number(len(stops) * between if closed else (len(stops) - 1) * between + 1, base)
    step_of = _between_seeds if way == SEEDS else _between_strengths
    pairs = pairwise([*stops, stops[0]] if closed else stops)
    made = [step_of(base, *pair, step / between) for pair in pairs for step in range(between)]
    return tuple(made if closed else [*made, step_of(base, stops[-1], stops[-1], 0.0)])


def _between_seeds(base: PictureSpec, first: int, second: int, share: float) -> PictureSpec:
    return replace(base, seed=first, toward=second, share=share) if share else replace(base, seed=first)


def _between_strengths(base: PictureSpec, first: float, second: float, share: float) -> PictureSpec:
    return replace(base, strength=first + (second - first) * share)


def parse_strengths(text: str) -> tuple[float, ...]:
    """Strengths with commas, spaces or line ends between them.

    Raises:
        SettingsError: one is no number from -10 to 10.
    """
    try:
        numbers = tuple(float(part) for part in text.replace(",", " ").replace(";", " ").split())
    except ValueError:
        raise SettingsError(f"The strengths are '{text[:60]}'. Write numbers with commas between them.") from None
    for number in numbers:
        check_finite(strength=number)
        if abs(number) > _MOST_STRENGTH:
            raise SettingsError(f"A strength is {number:g}. Use -{_MOST_STRENGTH:g} to {_MOST_STRENGTH:g}.")
    return numbers


def durations(count: int, frames_per_second: float, hold: float) -> list[int]:
    """Of each frame in milliseconds; the last is held for `hold` seconds more."""
    each = max(20, round(1000 / frames_per_second))  # browsers show what is shorter for a tenth of a second
    return [each] * (count - 1) + [each + round(1000 * hold)]


def _at_least(least: int, given: Sequence, what: str, how: str) -> Sequence:
    if len(given) < least:
        raise SettingsError(f"The sequence has {len(given)} {what}. Give at least {least}, {how}.")
    return given


def _strengths(base: PictureSpec, strengths: Sequence[float]) -> Sequence[float]:
    if base.adapter is None:
        raise SettingsError("A sequence between strengths is of a LoRA. Choose one.")
    return _at_least(2, strengths, "strengths", "with commas between them, such as '-0.5, 0, 1'")


def _check_number(count: int, base: PictureSpec) -> None:
    size = base.sampling.width * base.sampling.height
    most = min(MOST_FRAMES, MOST_PIXELS // size)
    if count > most:
        raise SettingsError(
            f"The sequence would have {count:,} frames. At {base.sampling.width} × {base.sampling.height} pixels use "
            f"at most {most:,}: fewer between two, or smaller ones."
        )
