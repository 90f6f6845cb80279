"""How many tokens a prompt has for FLUX's two text encoders, and which of its words lie past their limits.

The counting itself is the tokenizers', handed in by the caller: what they count as one token is theirs to say.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from .. import token_limits

# Tokens that a text itself has: without start, end and padding; the weights of "(x:1.2)" cost none.
Counter = Callable[[str], int]

CLIP_L_EXTRA = 2  # start and end
T5_EXTRA = 1  # end


@dataclass(frozen=True)
class TextEncoder:
    """One text encoder: how it counts, how many tokens it takes in, and how many of these it adds itself."""

    name: str
    count: Counter
    limit: int
    extra: int


@dataclass(frozen=True)
class TokenCount:
    """What a text costs an encoder: `tokens` with start and end, and the part of the text that lies past the limit."""

    encoder: str
    tokens: int
    limit: int
    past: str

    def __str__(self) -> str:
        told = f"{self.encoder}: {self.tokens} of {self.limit} tokens"
        return f"{told}; past the limit: '{self.past}'" if self.past else told


def flux_encoders(clip_l: Counter, t5: Counter, t5_limit: int) -> tuple[TextEncoder, TextEncoder]:
    """FLUX's CLIP-L and T5, the latter for schnell (256) or dev (512)."""
    return TextEncoder("CLIP-L", clip_l, token_limits.CLIP_L, CLIP_L_EXTRA), TextEncoder("T5", t5, t5_limit, T5_EXTRA)


def token_count(text: str, encoder: TextEncoder) -> TokenCount:
    """Count `text`, and find the first word that does not fit whole within the limit."""
    tokens = encoder.count(text) + encoder.extra
    past = "" if tokens <= encoder.limit else text[fitting_length(text, encoder) :].strip()
    return TokenCount(encoder.name, tokens, encoder.limit, past)


def fitting_length(text: str, encoder: TextEncoder) -> int:
    """Characters of the longest beginning of `text`, in whole words, that the encoder takes in."""
    ends = [0, *(word.end() for word in re.finditer(r"\S+", text))]
    low, high = 0, len(ends) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if encoder.count(closed(text[: ends[middle]])) + encoder.extra <= encoder.limit:
            low = middle
        else:
            high = middle - 1
    return ends[low]


def closed(beginning: str) -> str:
    """`beginning` with its open parentheses closed, so that they are read as a weight and cost no token."""
    depth = 0
    for bracket in re.findall(r"(?<!\\)[()]", beginning):
        depth = depth + 1 if bracket == "(" else max(0, depth - 1)
    return beginning + ")" * depth
