"""Shortening a long prompt to what an encoder takes in, the least important words first, and telling what went.

A prompt is cut at commas, semicolons, line ends and ends of sentences, outside pairs of parentheses. Each segment
belongs to a group, found by the words it holds. A person's marks stand at the beginning of a segment and always win:

    ``!a red boat``           is never shortened
    ``~film grain``           goes first
    ``[light] a red boat``    belongs to that group
"""

from __future__ import annotations

import bisect
import re
from dataclasses import dataclass

from ..errors import SettingsError
from .tokens import TextEncoder

# The groups from the most to the least important, and the words that tell them.
GROUPS = {
    "subject": "",
    "setting": (
        "at beside near under behind in inside outside on over by above against among across background foreground "
        "landscape city street village forest field garden room interior harbour harbor beach sea ocean river lake "
        "mountain mountains sky park meadow desert night day spring summer autumn winter season"
    ),
    "light": (
        "light lighting lit sunlight moonlight candlelight backlit glow glowing shadow shadows dawn dusk sunrise "
        "sunset noon golden hour chiaroscuro rim soft ambient luminous overcast bright dim"
    ),
    "composition": (
        "composition close-up closeup portrait-format wide shot angle view viewed perspective framing framed centred "
        "centered symmetrical panorama panoramic bokeh depth focal lens mm macro aerial overhead profile full-body"
    ),
    "style": (
        "style painting painted painterly oil watercolour watercolor gouache acrylic pastel ink sketch drawing "
        "illustration impressionism impressionist expressionist baroque cubism surrealism brushwork brushstrokes "
        "impasto palette canvas photograph photo cinematic anime render"
    ),
    "quality": (
        "masterpiece best quality high-quality highly detailed detail details intricate sharp focus 4k 8k uhd hdr "
        "resolution award-winning trending artstation professional ultra hyperrealistic photorealistic stunning "
        "beautiful"
    ),
}
_RANKS = {"!": 0, **{group: rank for rank, group in enumerate(GROUPS, start=1)}, "~": len(GROUPS) + 1}
_WORDS = {group: frozenset(words.split()) for group, words in GROUPS.items()}
_MARK = re.compile(r"\s*(?:([!~])\s*|\[(\w+)\]\s*)(?=\S)")
_CUT_OR_BRACKET = re.compile(r"\\[()]|[()]|[,;\n]+|(?<=[.!?])\s+")
_WEIGHTED = re.compile(r"\((.*?)(:[0-9.]+)?\)", re.DOTALL)


@dataclass(frozen=True)
class Segment:
    """A piece of a prompt: its words, its group ('!' never to be shortened, '~' first to go), and what follows it."""

    text: str
    group: str
    end: str

    @property
    def rank(self) -> int:
        return _RANKS[self.group]


@dataclass(frozen=True)
class Cut:
    """What fitting took from one segment."""

    group: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{'first to go' if self.group == '~' else self.group}: '{self.before}' → '{self.after}'"


@dataclass(frozen=True)
class Fitted:
    text: str
    cuts: tuple[Cut, ...]


def segments(prompt: str) -> tuple[Segment, ...]:
    """Cut a prompt into its segments. The marks are taken off; put together again, the segments give all the rest.

    Raises:
        SettingsError: a mark names a group that there is not.
    """
    found: list[Segment] = []
    for written, end in _pieces(prompt):
        text, group = _marked(written)
        if not found:
            text = text.lstrip()
        found.append(Segment(text, group or ("subject" if not found else _group(text)), end))
    return tuple(found)


def unmarked(prompt: str) -> str:
    """The prompt without the marks of its segments."""
    return _joined([(segment, segment.text) for segment in segments(prompt)])


def fit(prompt: str, encoder: TextEncoder) -> Fitted:
    """Shorten `prompt` until the encoder takes it in whole; what is left keeps its order.

    Of the least important group the last segment goes first, from its last word on, and so on up to the subject.

    Raises:
        SettingsError: what is marked with '!' alone is too long, or a mark names a group that there is not.
    """
    kept = [(segment, segment.text) for segment in segments(prompt)]
    order = sorted(range(len(kept)), key=lambda index: (kept[index][0].rank, index), reverse=True)
    going = order[: _to_drop(kept, order, encoder)]
    for index in going:
        kept[index] = (kept[index][0], "")
    if going:
        last = going[-1]
        kept[last] = (kept[last][0], _shortened(kept, last, encoder))
    told = ((segment.group, segment.text.strip(), text.strip()) for segment, text in kept)
    cuts = tuple(Cut(group, before, after) for group, before, after in told if before != after)
    return Fitted(_joined(kept), cuts)


def _pieces(prompt: str) -> list[tuple[str, str]]:
    """(text, what it was cut at) in order; never cut inside parentheses."""
    pieces, start, depth = [], 0, 0
    paired = _paired(prompt)
    for found in _CUT_OR_BRACKET.finditer(prompt):
        if found.start() in paired:
            depth += 1 if found[0] == "(" else -1
        elif not depth and found[0][-1] not in "()":
            pieces.append((prompt[start : found.start()], found[0]))
            start = found.end()
    if start < len(prompt):
        pieces.append((prompt[start:], ""))
    return pieces


def _paired(text: str) -> set[int]:
    """Where the parentheses stand that have a partner. One without is a character like any other."""
    opened: list[int] = []
    paired: set[int] = set()
    for found in _CUT_OR_BRACKET.finditer(text):
        if found[0] == "(":
            opened.append(found.start())
        elif found[0] == ")" and opened:
            paired |= {opened.pop(), found.start()}
    return paired


def _marked(written: str) -> tuple[str, str]:
    mark = _MARK.match(written)
    if not mark:
        return written, ""
    group = mark[1] or mark[2].lower()
    if group not in _RANKS:
        raise SettingsError(f"'[{mark[2]}]' marks a group that there is not. Use one of: {', '.join(GROUPS)}.")
    space = " " if written[:1].isspace() else ""
    return space + written[mark.end() :], group


def _group(text: str) -> str:
    """The group with most words in the segment; in a tie the less important, as rarer words tell it."""
    words = re.findall(r"[\w-]+", text.lower())
    votes = {group: sum(word in known for word in words) for group, known in _WORDS.items()}
    best = max(GROUPS, key=lambda group: (votes[group], _RANKS[group]))
    return best if votes[best] else "subject"


def _to_drop(kept: list[tuple[Segment, str]], order: list[int], encoder: TextEncoder) -> int:
    """How many segments, in `order`, must go so that the others fit. Few texts are counted, however many there are."""
    most = sum(kept[index][0].group != "!" for index in order)

    def fits_without(number: int) -> bool:
        gone = set(order[:number])
        left = [(segment, "" if index in gone else text) for index, (segment, text) in enumerate(kept)]
        return _fits(left, encoder)

    if not fits_without(most):
        raise SettingsError(
            f"What is marked with '!' takes more than the {encoder.limit} tokens of {encoder.name}. Mark less."
        )
    return bisect.bisect_left(range(most), True, key=fits_without)


def _fits(kept: list[tuple[Segment, str]], encoder: TextEncoder) -> bool:
    return encoder.count(_joined(kept)) + encoder.extra <= encoder.limit


def _shortened(kept: list[tuple[Segment, str]], index: int, encoder: TextEncoder) -> str:
    """The most words of one segment with which all fits; none where even that is too long."""
    segment = kept[index][0]
    space, opening, words, closing = _inside(segment.text)
    low, high = 0, max(0, len(words) - 1)
    while low < high:
        middle = (low + high + 1) // 2
        tried = [*kept]
        tried[index] = (segment, f"{space}{opening}{' '.join(words[:middle])}{closing}")
        low, high = (middle, high) if _fits(tried, encoder) else (low, middle - 1)
    return f"{space}{opening}{' '.join(words[:low])}{closing}" if low else ""


def _inside(text: str) -> tuple[str, str, list[str], str]:
    """Leading space, "(", the words, ":1.2)". A segment with parentheses of any other form goes whole or not at all."""
    space = text[: len(text) - len(text.lstrip())]
    whole = text.strip()
    weighted = _WEIGHTED.fullmatch(whole)
    if weighted and "(" not in weighted[1]:
        return space, "(", weighted[1].split(), f"{weighted[2] or ''})"
    return space, "", [whole] if _paired(whole) else whole.split(), ""


def _joined(kept: list[tuple[Segment, str]]) -> str:
    """The segments with something left, each with what followed it, and nothing dangling at the end."""
    left = [(text, segment.end) for segment, text in kept if text.strip() or text == segment.text]
    joined = "".join(text + end for text, end in left)
    dropped_last = bool(kept) and kept[-1][1] != kept[-1][0].text
    return (joined.rstrip(" ,;\n") if dropped_last else joined).strip()
