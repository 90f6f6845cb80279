"""Text on pictures: readable at a given size, wrapped into a box, cut only with an ellipsis, in any script that some
installed font can draw. Where no font has a character, its empty box is drawn, as everywhere else.
"""

from __future__ import annotations

import importlib.util
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from PIL import ImageDraw, ImageFont

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


def text_width(text: str, size: int) -> float:
    """Width of one line in pixels."""
    return sum(font.getlength(part) for font, part in _runs(_clean(text), size))


def draw_text(draw: ImageDraw.ImageDraw, position: tuple[float, float], text: str, size: int, color: str) -> None:
    """Draw one line whose box of `LINE_HEIGHT` starts at `position` (left, top, pixels)."""
    left, top = position
    baseline = top + size * (LINE_HEIGHT + 0.72) / 2  # capitals, 0.72 of the size high, in the middle of the line
    for font, part in _runs(_clean(text), size):
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


def shortened(text: str, size: int, width: float, always: bool = False) -> str:
    """`text` as one line no wider than `width` pixels, cut with an ellipsis if it is wider (or `always`)."""
    if not always and text_width(text, size) <= width:
        return text
    return text[: _fitting(text, size, width - text_width(ELLIPSIS, size))].rstrip(" ,.;:-") + ELLIPSIS


def _breakable(text: str, size: int, width: float) -> Iterator[str]:
    """The words and spaces of `text`, a word wider than `width` in pieces that are not."""
    for word in _WORD.findall(text):
        while text_width(word, size) > width and (end := max(1, _fitting(word, size, width))) < len(word):
            yield word[:end]
            word = word[end:]
        yield word


def _fitting(text: str, size: int, width: float) -> int:
    """How many of the first characters of `text` are together no wider than `width`."""
    return max(0, bisect_right(range(len(text) + 1), width, key=lambda count: text_width(text[:count], size)) - 1)


def _clean(text: str) -> str:
    return "".join(" " if unicodedata.category(character) == "Cc" else character for character in text)


def _runs(text: str, size: int) -> Iterator[tuple[ImageFont.FreeTypeFont, str]]:
    """`text` in parts, each with the first font that has its characters."""
    current, part = 0, ""
    for character in text:
        # Spaces, accents and joiners stay with the letters they belong to.
        if unicodedata.category(character) in ("Zs", "Mn", "Me", "Cf"):
            part += character
            continue
        chosen = _font_index(character)
        if chosen != current and part:
            yield _font(current, size), part
            part = ""
        current = chosen
        part += character
    if part:
        yield _font(current, size), part


@lru_cache(maxsize=4096)
def _font_index(character: str) -> int:
    """Which font draws `character`: 0 is Pillow's own, which also draws the empty box where none does."""
    return next((n for n in range(len(_SYSTEM_FONTS) + 2) if _covers(n, character)), 0)


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
