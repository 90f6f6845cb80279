"""WikiArt's labels: their names, how people write them, and how a typed name finds its label."""

from __future__ import annotations

import re
import unicodedata

ANY = "any"

_UNKNOWN = {"", "unknown", "unknown artist", "unknown genre", "unknown style"}
_PARTICLES = {"da", "de", "del", "den", "der", "di", "du", "la", "of", "the", "van", "von"}
# UTF-8 read as Latin-1 and then put into lower case: what was C3 became E3, before a byte of 80 to BF.
_MOJIBAKE = re.compile("[\u00c3\u00e3]([\u0080-\u00bf])")


def label_key(label: str) -> str:
    """What spellings of one label have in common: "claude-monet" and "Claude Monet", "still_life" and "Still life"."""
    folded = unicodedata.normalize("NFC", repaired(label)).casefold()
    return " ".join(re.findall(r"\w+", folded.replace("_", " ")))


def is_unknown(label: str) -> bool:
    """Whether the label says that nobody knows, as "Unknown Artist" does."""
    return label_key(label) in _UNKNOWN


def artist_name(label: str) -> str:
    """An artist's label as people write it: "vincent-van-gogh" is Vincent van Gogh; "" for an unknown one.

    A label that has spaces or capitals is taken to be written by people, and only repaired.
    """
    if is_unknown(label):
        return ""
    name = repaired(label).strip()
    if " " in name or name != name.lower():
        return name
    words = re.split(r"[-_]", name)
    return " ".join(
        word if place and word in _PARTICLES else _capitalised(word) for place, word in enumerate(words) if word
    )


def repaired(label: str) -> str:
    """Undo UTF-8 read as Latin-1: the Hub's label of Joaquín Sorolla holds U+00E3 U+00AD where the í belongs."""
    return _MOJIBAKE.sub(lambda match: bytes((0xC3, ord(match[1]))).decode("utf-8"), label)


def _capitalised(word: str) -> str:
    return "".join(part.capitalize() for part in re.split(r"(?<=\.)", word))  # "m.c." is M.C.
