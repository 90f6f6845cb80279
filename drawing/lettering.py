"""Text on pictures: readable at a given size, wrapped into a box, cut only with an ellipsis, in any script that some
installed font can draw. Where no font has a character, its empty box is drawn, as everywhere else, and `unreadable`
names the script.
"""

from __future__ import annotations

import importlib.util
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from PIL import ImageDraw, ImageFont, features

LINE_HEIGHT = 1.32  # of the letter size
ELLIPSIS = "…"

_NOWHERE = "\U0010ffff"  # a code point that no font draws
_CJK = "\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"  # a line may break before each
_WORD = re.compile(rf"[{_CJK}]|[^\s{_CJK}]+|\s+")

# Looked for by file name, in this order, for a character that Pillow's own font lacks: Linux, Windows, macOS.
_SYSTEM_FONTS = (
    "NotoSansCJK-Regular.ttc",
    "wqy-microhei.ttc",
    "DroidSansFallbackFull.ttf",
    "msyh.ttc",
    "YuGothM.ttc",
    "malgun.ttf",
    "seguiemj.ttf",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "AppleSDGothicNeo.ttc",
    "Arial Unicode.ttf",
    "NotoEmoji-Regular.ttf",
)
# First words of characters' names in Unicode -> what their script is called, where that is not the word itself.
_SCRIPTS = {"CJK": "Chinese characters", "KATAKANA-HIRAGANA": "Katakana", "HALFWIDTH": "Katakana"}
_RIGHT_TO_LEFT = ("R", "AL")  # Unicode's classes of letters that are written so


HOUSE_FONT, CHART_FONT = 0, 1  # which is asked first for a character: Pillow's own, or that of matplotlib's letters


def text_width(text: str, size: int, first: int = HOUSE_FONT) -> float:
    """Width of one line in pixels."""
    return sum(font.getlength(part) for font, part in _runs(_clean(text), size, first))


def draw_text(
    draw: ImageDraw.ImageDraw,
    position: tuple[float, float],
    text: str,
    size: int,
    color: str,
    first: int = HOUSE_FONT,
) -> None:
    """Draw one line whose box of `LINE_HEIGHT` starts at `position` (left, top, pixels)."""
    left, top = position
    baseline = top + size * (LINE_HEIGHT + 0.72) / 2  # capitals, 0.72 of the size high, in the middle of the line
    runs = list(_runs(_clean(text), size, first))
    for font, part in reversed(runs) if _begins_at_the_right(text) else runs:
        draw.text((left, baseline), part, font=font, fill=color, anchor="ls")
        left += font.getlength(part)


def wrap(text: str, size: int, width: float, max_lines: int) -> list[str]:
    """Break `text` into lines no wider than `width` pixels; what does not fit in `max_lines` ends in an ellipsis."""
    lines = [""]
    for word in _breakable(_clean(text), size, width):
        if text_width((lines[-1] + word).rstrip(), size) <= width:
            lines[-1] += word
        elif word.strip():
            lines.append(word)
    lines = [line.strip() for line in lines]
    if len(lines) <= max_lines:
        return lines
    return [*lines[: max_lines - 1], shortened(lines[max_lines - 1], size, width, always=True)]


def shortened(text: str, size: int, width: float, always: bool = False, first: int = HOUSE_FONT) -> str:
    """`text` as one line no wider than `width` pixels, cut with an ellipsis if it is wider (or `always`)."""
    if not always and text_width(text, size, first) <= width:
        return text
    room = width - text_width(ELLIPSIS, size, first)
    return text[: _fitting(text, size, room, first)].rstrip(" ,.;:-") + ELLIPSIS


def unreadable(text: str) -> list[str]:
    """What of `text` cannot be read on a picture drawn here: scripts without an installed font, "emoji", and scripts
    written from the right where Pillow cannot lay them out. Each once, in the order in which they come."""
    found = dict.fromkeys(_script(each) for each in _clean(text) if not _is_drawn(each))
    if not _lays_out() and any(unicodedata.bidirectional(each) in _RIGHT_TO_LEFT for each in text):
        found["right-to-left order (Pillow without Raqm and FriBiDi)"] = None
    return list(found)


def _is_drawn(character: str) -> bool:
    if unicodedata.category(character)[0] in "ZCM":  # spaces, joiners and marks follow the letter before them
        return True
    return _font_index(character) != 0 or _covers(0, character)


def _script(character: str) -> str:
    name = unicodedata.name(character, "")
    if unicodedata.category(character)[0] == "S":
        return "emoji"
    first = name.partition(" ")[0]
    return _SCRIPTS.get(first, first.capitalize()) or f"U+{ord(character):04X}"


@lru_cache(maxsize=1)
def _lays_out() -> bool:
    return bool(features.check("raqm") and features.check("fribidi"))


def _begins_at_the_right(text: str) -> bool:
    """Whether a line's first letter is of a script that is written from the right (Unicode's rules P2 and P3)."""
    directions = (unicodedata.bidirectional(each) for each in text)
    return next((each for each in directions if each in ("L", *_RIGHT_TO_LEFT)), "L") != "L"


def _breakable(text: str, size: int, width: float) -> Iterator[str]:
    """The words and spaces of `text`, a word wider than `width` in pieces that are not."""
    for word in _WORD.findall(text):
        while text_width(word, size) > width and (end := max(1, _fitting(word, size, width))) < len(word):
            yield word[:end]
            word = word[end:]
        yield word


def _fitting(text: str, size: int, width: float, first: int = HOUSE_FONT) -> int:
    """How many of the first characters of `text` are together no wider than `width`."""
    counts = range(len(text) + 1)
    return max(0, bisect_right(counts, width, key=lambda count: text_width(text[:count], size, first)) - 1)


def _clean(text: str) -> str:
    return "".join(" " if unicodedata.category(character) == "Cc" else character for character in text)


def _runs(text: str, size: int, first: int = HOUSE_FONT) -> Iterator[tuple[ImageFont.FreeTypeFont, str]]:
    """`text` in parts, each with the first font that has its characters."""
    current, part = _font_index("x", first), ""
    for character in text:
        # Spaces, accents and joiners stay with the letters they belong to.
        if unicodedata.category(character) in ("Zs", "Mn", "Me", "Cf"):
            part += character
            continue
        chosen = _font_index(character, first)
        if chosen != current and part:
            yield _font(current, size), part
            part = ""
        current = chosen
        part += character
    if part:
        yield _font(current, size), part


@lru_cache(maxsize=4096)
def _font_index(character: str, first: int = HOUSE_FONT) -> int:
    """Which font draws `character`: 0 is Pillow's own, which also draws the empty box where none does."""
    return next((n for n in (first, *range(len(_SYSTEM_FONTS) + 2)) if _covers(n, character)), 0)


def _covers(index: int, character: str) -> bool:
    if not _installed(index):
        return False
    font = _font(index, 24)
    box, drawn = font.getmask(_NOWHERE), font.getmask(character)
    return (drawn.size, bytes(drawn)) != (box.size, bytes(box))


@lru_cache(maxsize=len(_SYSTEM_FONTS) + 2)
def _installed(index: int) -> bool:
    try:
        _font(index, 24)
    except OSError:
        return False
    return True


@lru_cache(maxsize=256)
def _font(index: int, size: int) -> ImageFont.FreeTypeFont:
    if index == 0:
        return ImageFont.load_default(size)
    if index == 1:
        return ImageFont.truetype(_dejavu_file(), size)
    return ImageFont.truetype(_SYSTEM_FONTS[index - 2], size)


@lru_cache(maxsize=1)
def _dejavu_file() -> str:
    """The font that matplotlib carries (Latin, Greek, Cyrillic, symbols), found without importing matplotlib."""
    package = importlib.util.find_spec("matplotlib")
    if package is None or package.origin is None:
        return "DejaVuSans.ttf"
    return str(Path(package.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf")
