"""Fixed prompts with their seeds: what samples, grids and evaluation render again while only the weights differ."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from ..errors import SettingsError
from .dynamic import Check, Wildcards, combinations, expand, never
from .seeds import MAX_SEED, listed_seeds

EXPAND_NOT, EXPAND_AT_RANDOM, EXPAND_ALL = "as written", "at random", "every combination"
EXPANSIONS = (EXPAND_NOT, EXPAND_AT_RANDOM, EXPAND_ALL)

# The options of kohya sd-scripts' sample prompts: " --d 7", " --w 512". A longer word after two dashes is prose.
_OPTION = re.compile(r"\s--([a-z]{1,3})(?=\s|$)\s*(.*?)(?=\s--[a-z]{1,3}(?:\s|$)|$)")


# What people paint in WikiArt's genres, in words that captions of single paintings rarely have.
_SUBJECTS = {
    "landscape": ("hills under a wide sky", "a river through a valley", "a lone tree on a plain", "mountains in mist"),
    "portrait": ("a portrait of an old fisherman", "a portrait of a young woman", "a portrait of a child with a cat"),
    "self_portrait": ("a painter before a mirror", "a self-portrait with a hat"),
    "still_life": ("apples and a jug on a table", "a vase of dry flowers", "bread and a knife on a board"),
    "cityscape": ("a market square after rain", "rooftops in the morning", "a street with trams at night"),
    "genre_painting": ("people talking in a tavern", "a family at supper", "children playing in a yard"),
    "marina": ("fishing boats in a storm", "a harbour at low tide"),
    "flower_painting": ("sunflowers in a jar", "a meadow full of poppies"),
    "animal_painting": ("a sleeping dog", "horses at a trough"),
    "abstract_painting": ("overlapping circles and bars", "an abstract composition in two colours"),
    "religious_painting": ("a saint in a cave", "angels above a village"),
    "sketch_and_study": ("a study of two hands", "a quick sketch of a dancer"),
    "illustration": ("a fox reading a book", "a castle on a cloud"),
}


@dataclass(frozen=True)
class Prompt:
    """One text and the seed of its noise (0 … 2^64 - 1)."""

    text: str
    seed: int


def prompt_set(text: str, seed: int, may_be_empty: bool = False) -> tuple[Prompt, ...]:
    """Read one prompt per line, in kohya's sample-prompt form: empty lines and lines starting with '#' are left out.

    Every prompt gets the same `seed`, so that adding or moving a line changes no other line's noise; a line ending in
    ``--d 123`` has its own.

    Raises:
        SettingsError: there is no prompt (unless it may be empty), a seed is not in 0 … 2^64 - 1, or a line has an
            option other than ``--d``.
    """
    _checked_seed(seed, "The seed")
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1)]
    prompts = tuple(_prompt(line, number, seed) for number, line in lines if line and not line.startswith("#"))
    if not prompts and not may_be_empty:
        raise SettingsError("The prompt set is empty. Write one prompt per line, for example 'a harbour at dawn'.")
    return prompts


def crossed(prompts: Sequence[Prompt], seeds: str) -> tuple[Prompt, ...]:
    """Every prompt with every seed, or with its own where `seeds` is empty.

    Raises:
        SettingsError: `seeds` is not a list of seeds.
    """
    if not seeds.strip():
        return tuple(prompts)
    return tuple(replace(prompt, seed=seed) for prompt in prompts for seed in listed_seeds(seeds))


def expanded_set(
    prompts: Sequence[Prompt], expansion: str, wildcards: Wildcards, check: Check = never
) -> tuple[Prompt, ...]:
    """The prompts with their choices and wildcards taken: one of each by its own seed, or every combination.

    Args:
        check: called many times a second; ends this by raising.

    Raises:
        SettingsError: a prompt cannot be read as a dynamic one, or has too many combinations.
    """
    if expansion == EXPAND_NOT:
        return tuple(prompts)
    if expansion == EXPAND_AT_RANDOM:
        return tuple(replace(prompt, text=expand(prompt.text, prompt.seed, wildcards, check)) for prompt in prompts)
    return tuple(
        replace(prompt, text=text) for prompt in prompts for text in combinations(prompt.text, wildcards, check)
    )


def held_out_prompts(
    genres: Iterable[str], captions: Collection[str], count: int, seed: int, trigger: str = ""
) -> tuple[Prompt, ...]:
    """Prompts in the genres of a dataset that are no caption of it: what the LoRA must do without having seen it.

    Args:
        genres: of every picture, as labels ("still_life"; "" when unknown); frequent ones come first, in turn.
        captions: the dataset's, which no prompt repeats.
        count: how many prompts.
        seed: of each.
        trigger: words that every caption begins with; put before every prompt.

    Raises:
        SettingsError: no picture has a genre, or the genres give fewer prompts than `count`.
    """
    ranked = [genre for genre, _ in Counter(filter(None, genres)).most_common()]
    if not ranked:
        raise SettingsError("The dataset knows no genres, so that no held-out prompts can be made. Write them instead.")
    known = {_plain(caption) for caption in captions}
    ways = [[text for text in _written(genre, trigger) if _plain(text) not in known] for genre in ranked]
    rounds = max(map(len, ways))
    texts = [texts[turn] for turn in range(rounds) for texts in ways if turn < len(texts)]
    if len(texts) < count:
        raise SettingsError(
            f"The dataset's {len(ranked)} genres give {len(texts)} held-out prompts, not {count}. Ask for at most "
            f"{len(texts)}, or write more."
        )
    return tuple(Prompt(text, seed) for text in texts[:count])


def _written(genre: str, trigger: str) -> list[str]:
    words = genre.replace("_", " ").lower()
    subjects = _SUBJECTS.get(genre.lower(), (words, f"{words} in the evening", f"{words} seen from far away"))
    return [", ".join(filter(None, (trigger.strip().strip(","), subject))) for subject in subjects]


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def _prompt(line: str, number: int, seed: int) -> Prompt:
    for name, value in _OPTION.findall(line):
        if name != "d":
            raise SettingsError(
                f"Line {number} of the prompt set has the option '--{name} {value}'. A prompt carries only its seed, "
                "'--d 123'; set size, steps and guidance on the node that samples."
            )
        if not re.fullmatch(r"[0-9]{1,20}", value):  # Python itself refuses to read thousands of digits
            raise SettingsError(
                f"Line {number} of the prompt set has the seed '{value[:40]}'. Write a whole number of at most 20 "
                "digits, for example '--d 123'."
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
