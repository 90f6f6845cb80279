"""A picture's own labels in what a captioner is told: `{genre}`, `{artist}`, `{title}`, `{style}`, `{date}`."""

from __future__ import annotations

import re

from ..texts import one_line
from .captioner import Picture

NAMES = ("genre", "artist", "title", "style", "date")
LONGEST = 200  # characters of one label: a title from elsewhere may be a page
_NAME = "|".join(NAMES)
_NAMED = re.compile(rf"\{{(?:{_NAME})\}}")
_ANY = re.compile(rf"\{{\{{|\}}\}}|\{{({_NAME})\}}")
_LINKS = "by|of|from|in|at|on|titled|entitled|called|named|dated|painted|made|and|with|as|for"
_GAP = "\0"  # where a label is unknown; of the white space around it few are looked at, so that matching stays quick
_QUOTED_GAP = re.compile(f"[\"'“‘«(]\\s*{_GAP}\\s*[\"'”’»)]")
_GAPS = re.compile(f"{_GAP}(?:\\s{{1,3}}{_GAP})+")
_NAMED_GAP = re.compile(f"(?<![^\\s(,;])\\w+[ ]?:[ ]*{_GAP}[,;]?[ ]*")  # "Artist: …,"
_LINKED_GAP = re.compile(
    f"[,;]?(?:\\s{{1,3}}(?:{_LINKS})\\b)*(?:\\s{{1,3}}(?:an?|the))?\\s{{0,3}}{_GAP}"
    f"(?=\\s{{0,3}}(?:[.,;:!?)]|$|(?:{_LINKS})\\b))",
    re.IGNORECASE,
)
_LOOSE_GAP = re.compile(f"{_GAP}[ ]?")


def identity(template: str, picture: Picture) -> list[dict[str, str]]:
    """What a question's identity holds beside the template: nothing without placeholders, so that it stays as it was.

    Otherwise the labels that the template uses: another label of one picture asks again about that picture alone.
    """
    used = {found[1] for found in _ANY.finditer(template)}
    labels = {name: label(picture, name) for name in NAMES if name in used}
    return [labels] if labels else []


def label(picture: Picture, name: str) -> str:
    """A label as words: "still life" for "still_life"; "" where it is unknown."""
    words = one_line(getattr(picture, name).replace("_", " ").replace(_GAP, " "))[:LONGEST]
    return "" if words.lower().startswith("unknown") and name != "title" else words


def filled(template: str, picture: Picture) -> str:
    """The template with the picture's labels in it; `{{` and `}}` are braces.

    Where a label is unknown, the words that only lead to it go with it ("by {artist}"), so that what is left reads on.
    A template without placeholders is left as it is, braces and all: it may show JSON.
    """
    if not _NAMED.search(template):
        return template
    braces = {"{{": "{", "}}": "}"}
    text = _ANY.sub(lambda found: braces.get(found[0]) or label(picture, found[1]) or _GAP, template)
    if _GAP not in text:
        return text
    text = _GAPS.sub(_GAP, _QUOTED_GAP.sub(_GAP, text))
    text = _LINKED_GAP.sub("", _NAMED_GAP.sub("", text))
    return _LOOSE_GAP.sub("", text).strip()
