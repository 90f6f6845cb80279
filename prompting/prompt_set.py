"""Fixed prompts with their seeds: what samples, grids and evaluation render again while only the weights differ."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import SettingsError

MAX_SEED = 2**64 - 1  # what ComfyUI's noise accepts

# The options of kohya sd-scripts' sample prompts: " --d 7", " --w 512". A longer word after two dashes is prose.
_OPTION = re.compile(r"\s--([a-z]{1,3})(?=\s|$)\s*(.*?)(?=\s--[a-z]{1,3}(?:\s|$)|$)")


@dataclass(frozen=True)
class Prompt:
    """One text and the seed of its noise (0 … 2^64 - 1)."""

    text: str
    seed: int


def prompt_set(text: str, seed: int) -> tuple[Prompt, ...]:
    """Read one prompt per line, in kohya's sample-prompt form: empty lines and lines starting with '#' are left out.

    Every prompt gets the same `seed`, so that adding or moving a line changes no other line's noise; a line ending in
    ``--d 123`` has its own.

    Raises:
        SettingsError: there is no prompt, a seed is not in 0 … 2^64 - 1, or a line has an option other than ``--d``.
    """
    _checked_seed(seed, "The seed")
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1)]
    prompts = tuple(_prompt(line, number, seed) for number, line in lines if line and not line.startswith("#"))
    if not prompts:
        raise SettingsError("The prompt set is empty. Write one prompt per line, for example 'a harbour at dawn'.")
    return prompts


def _prompt(line: str, number: int, seed: int) -> Prompt:
    for name, value in _OPTION.findall(line):
        if name != "d":
            raise SettingsError(
                f"Line {number} of the prompt set has the option '--{name} {value}'. A prompt carries only its seed, "
                "'--d 123'; set size, steps and guidance on the node that samples."
            )
        if not re.fullmatch(r"[0-9]+", value):
            raise SettingsError(
                f"Line {number} of the prompt set has the seed '{value}'. Write a whole number, for example '--d 123'."
            )
        seed = _checked_seed(int(value), f"The seed on line {number} of the prompt set")
    text = _OPTION.sub("", f" {line}").strip()
    if not text:
        raise SettingsError(f"Line {number} of the prompt set is only options: '{line}'. Write the prompt before them.")
    return Prompt(text, seed)


def _checked_seed(seed: int, what: str) -> int:
    if not 0 <= seed <= MAX_SEED:
        raise SettingsError(f"{what} is {seed}. Use a whole number from 0 to {MAX_SEED}.")
    return seed
