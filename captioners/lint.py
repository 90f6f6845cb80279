"""What a person should look at in the captions of a dataset: words of style, artists, titles, refusals, lengths."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from .. import token_limits
from .caption_patterns import BARE_ARTIST, QUOTED_TITLE, REFUSALS, STYLE_SENTENCE
from .captions import without_trigger

LISTED = 5  # captions that the report lists under each heading
# CLIP's own first cut of a text (openai/CLIP simple_tokenizer.py): each piece is at least one token.
_PIECES = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|[^\s\w]+")

CountTokens = Callable[[str], tuple[int, int]]  # tokens of a text for CLIP-L and for T5, start and end included


@dataclass(frozen=True)
class Lint:
    """What a person should look at, as sha256s."""

    count: int
    empty: tuple[str, ...] = ()
    duplicates: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by caption
    style_words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by sha256: the words
    artists: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    titles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # quoted: captioners make them up
    refusals: tuple[str, ...] = ()
    too_long_for_clip: tuple[str, ...] = ()
    too_long_for_t5: tuple[str, ...] = ()


def least_tokens(text: str) -> tuple[int, int]:
    """At least so many tokens has a text, where no tokenizer is at hand: a piece or a word is never less than one."""
    return len(_PIECES.findall(text)) + 2, len(text.split()) + 1


def flags(text: str, count_tokens: CountTokens = least_tokens, trigger_word: str = "") -> dict[str, tuple[str, ...]]:
    """What is doubtful about one caption, by kind; an empty dictionary where nothing is.

    Args:
        trigger_word: stands before the caption, and counts as tokens alone: it may be a word of style.
    """
    clip, t5 = count_tokens(text)
    text = without_trigger(text, trigger_word)
    found = {
        "empty": () if text.strip() else ("no caption",),
        "style words": _matches(STYLE_SENTENCE, text) + _matches(re.compile(r"\b(?:oil )?paintings?\b", re.I), text),
        "artists": _matches(BARE_ARTIST, text),
        "titles": _matches(QUOTED_TITLE, text),
        "refusal": _matches(REFUSALS, text),
        "too long for CLIP": (f"{clip} tokens",) if clip > token_limits.CLIP_L else (),
        "too long for T5": (f"{t5} tokens",) if t5 > token_limits.T5_DEV else (),
    }
    return {kind: words for kind, words in found.items() if words}


def _matches(pattern: re.Pattern[str], text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(match.group().strip() for match in pattern.finditer(text)))


def lint(
    captions: Mapping[str, str],
    count_tokens: CountTokens = least_tokens,
    check: Callable[[], None] = lambda: None,
    trigger_word: str = "",
) -> Lint:
    """Look over captions by sha256.

    Args:
        count_tokens: by default the least number there can be, so that "too long" is never a false alarm.
        check: called before each caption; ends this by raising.
        trigger_word: that stands before every caption.
    """
    by_kind: dict[str, dict[str, tuple[str, ...]]] = {}
    alike: dict[str, list[str]] = {}
    for sha256, text in captions.items():
        check()
        alike.setdefault(text, []).append(sha256)
        for kind, words in flags(text, count_tokens, trigger_word).items():
            by_kind.setdefault(kind, {})[sha256] = words
    return Lint(
        count=len(captions),
        empty=tuple(by_kind.get("empty", ())),
        duplicates={text: tuple(sha256s) for text, sha256s in alike.items() if len(sha256s) > 1},
        style_words=by_kind.get("style words", {}),
        artists=by_kind.get("artists", {}),
        titles=by_kind.get("titles", {}),
        refusals=tuple(by_kind.get("refusal", ())),
        too_long_for_clip=tuple(by_kind.get("too long for CLIP", ())),
        too_long_for_t5=tuple(by_kind.get("too long for T5", ())),
    )


def lint_report(found: Lint) -> str:
    """The findings as text, a line for each kind that has any."""
    lines = []
    if found.empty:
        lines.append(f"  {len(found.empty)} empty")
    repeated = sorted(found.duplicates.items(), key=lambda item: -len(item[1]))
    if repeated:
        pictures = sum(len(sha256s) for _, sha256s in repeated)
        lines.append(f"  {pictures} pictures share {len(repeated)} captions:")
        lines += [f"    {len(sha256s)} × {text[:80]}" for text, sha256s in repeated[:LISTED]]
    for kind, by_picture in (
        ("style words", found.style_words),
        ("artist names", found.artists),
        ("titles in quotes", found.titles),
    ):
        if by_picture:
            words = Counter(word for words in by_picture.values() for word in words)
            listed = ", ".join(f"{word} ({count})" for word, count in words.most_common(LISTED))
            lines.append(f"  {len(by_picture)} with {kind}: {listed}")
    for what, sha256s in (
        ("that read like a refusal", found.refusals),
        (f"longer than CLIP's {token_limits.CLIP_L} tokens; T5 reads them whole", found.too_long_for_clip),
        (f"longer than T5's {token_limits.T5_DEV} tokens: training cuts them", found.too_long_for_t5),
    ):
        if sha256s:
            lines.append(f"  {len(sha256s)} {what}")
    if not lines:
        return f"{found.count} captions, nothing doubtful in them."
    return "\n".join([f"{found.count} captions. To look at:", *lines])
