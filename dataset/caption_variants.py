"""The texts that one caption can become in training: chosen lines, wildcards, shuffled and dropped parts.

kohya-ss/sd-scripts draws a new text every time it shows a picture (`library/train_util.py`, process_caption). Here
texts are encoded once, so a stated number of them is drawn beforehand, by hashes, the same on every machine.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from dataclasses import dataclass
from typing import Any

from .config_schema import acted_on
from .schema_key import CAPTIONS, SUBSET, frozen_fields

DEFAULT_VARIANTS = 4  # T5's embedding of a text takes 4 MB with the real FLUX
MOST_VARIANTS = 16
_WILDCARD = re.compile(r"\{([^}]+)\}")
_BRACES = (("{{", "\ufdd0", "{"), ("}}", "\ufdd1", "}"))  # noncharacters of Unicode, which no text holds


_CaptionFields: Any = frozen_fields("_CaptionFields", acted_on(SUBSET, part=CAPTIONS))


@dataclass(frozen=True)
class CaptionRules(_CaptionFields):
    """What a subset asks to be done with its captions: the keys of the schema that are part of CAPTIONS.

    Attributes:
        shuffle_caption: put the parts in another order.
        caption_separator: between the parts of a caption.
        keep_tokens: how many parts at the beginning stay where they are.
        keep_tokens_separator: what stands before it in a caption stays, and what stands after a second one; in place of
            `keep_tokens`.
        secondary_separator: replaced by `caption_separator` in the end, so that what it joins is one part until then.
        enable_wildcard: one of several lines is chosen, and one of `{a|b}`; `{{` and `}}` are braces.
        caption_tag_dropout_rate: chance of each part to be left out.
    """

    @property
    def random_parts(self) -> bool:
        return self.shuffle_caption or self.caption_tag_dropout_rate > 0


def variants(caption: str, rules: CaptionRules, seed: str, count: int) -> tuple[str, ...]:
    """The equally likely texts of `caption`: one where nothing varies it.

    Args:
        caption: one line, or several where a line is to be chosen.
        seed: what the texts are drawn by, besides their number.
        count: how many texts there are where they are drawn; where fewer are possible (lines, wildcards), all of them,
            and each line at least once.
    """
    seed = f"{seed} 1.0"  # what the texts of training data on disk were drawn by
    lines = caption.split("\n") if rules.enable_wildcard else caption.split("\n")[:1]
    each = math.ceil(count / len(lines))
    of_lines = [_of_line(line, rules, f"{seed} {number}", each) for number, line in enumerate(lines)]
    # Every line is as likely as another, however many texts it can become.
    common = math.lcm(*(len(texts) for texts in of_lines))
    texts = tuple(text for texts in of_lines for text in texts * (common // len(texts)))
    return texts if len(set(texts)) > 1 else texts[:1]


def _of_line(line: str, rules: CaptionRules, seed: str, count: int) -> list[str]:
    """Equally likely texts of one line: all there are if they are at most `count` and only wildcards vary it."""
    for doubled, mark, _ in _BRACES if rules.enable_wildcard else ():
        line = line.replace(doubled, mark)
    # Odd pieces are what stood in braces.
    pieces = _WILDCARD.split(line) if rules.enable_wildcard else [line]
    options = [piece.split("|") if number % 2 else [piece] for number, piece in enumerate(pieces)]
    if not rules.random_parts and math.prod(map(len, options)) <= count:
        chosen = list(itertools.product(*options))
    else:
        chosen = [
            tuple(_pick(choices, f"{seed} {variant} {place}") for place, choices in enumerate(options))
            for variant in range(count)
        ]
    texts = ["".join(pieces) for pieces in chosen]
    for _, mark, brace in _BRACES:
        texts = [text.replace(mark, brace) for text in texts]
    return [_arranged(text, rules, f"{seed} {variant}") for variant, text in enumerate(texts)]


def _arranged(text: str, rules: CaptionRules, seed: str) -> str:
    """The text with its parts shuffled and dropped."""
    if rules.random_parts:
        before, moving, after = _parts(text, rules)
        if rules.shuffle_caption:
            order = sorted(range(len(moving)), key=lambda place: share(f"{seed} order {place}"))
            moving = [moving[place] for place in order]
        kept = [
            part for place, part in enumerate(moving) if share(f"{seed} drop {place}") >= rules.caption_tag_dropout_rate
        ]
        text = ", ".join(before + kept + after)  # with a comma whatever the separator is, as sd-scripts does
    return text.replace(rules.secondary_separator, rules.caption_separator) if rules.secondary_separator else text


def _parts(text: str, rules: CaptionRules) -> tuple[list[str], list[str], list[str]]:
    """The parts that stay in front, those that move, and those that stay behind."""
    if rules.keep_tokens_separator and rules.keep_tokens_separator in text:
        before, _, rest = text.partition(rules.keep_tokens_separator)
        moving, _, after = rest.partition(rules.keep_tokens_separator)
        stripped = ([part.strip() for part in side.split(rules.caption_separator)] for side in (before, moving, after))
        before, moving, after = ([part for part in side if part] for side in stripped)
        return before, moving, after
    parts = [part.strip() for part in text.strip().split(rules.caption_separator)]
    return parts[: rules.keep_tokens], parts[rules.keep_tokens :], []


def _pick(choices: list[str], seed: str) -> str:
    return choices[int(share(seed) * len(choices))]


def share(seed: str) -> float:
    """A number from 0 up to but not including 1, by the SHA-256 of `seed`; its 53 bits are what a float holds."""
    return (int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big") >> 11) / 2**53
