"""A grid of pictures as pages: prompts down, training steps across, the base model first. It draws what it is given,
one picture at a time; which pictures there are, and how they come to be, is for `cells` and `samples` to know.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from ..drawing.lettering import LINE_HEIGHT, draw_text, shortened, text_width, wrap
from ..drawing.palette import LIGHT, Theme

MIN_LETTER = 13  # pixels: smaller is hard to read
MAX_SIDE = 8192  # pixels of a whole page; as a ComfyUI IMAGE a square one then takes 0.8 GB
SEAM = 2  # pixels between the pictures of several seeds in one cell


@dataclass(frozen=True)
class Label:
    """What is written beside something: the text, and a note below it that is read second; `marked` sets it apart."""

    text: str
    note: str = ""
    marked: bool = False


@dataclass(frozen=True)
class _Layout:
    """Where everything lies, in pixels. All distances follow the letter size, which follows the cells."""

    letter: int
    cell: tuple[int, int]
    row_height: int
    label_width: int
    margin: int
    gap: int
    left: int  # of the first column
    top: int  # of the first row
    size: tuple[int, int]

    def box(self, row: int, column: int) -> tuple[int, int]:
        return self.left + column * (self.cell[0] + self.gap), self.top + row * (self.row_height + self.gap)


class GridPage:
    """A page with its labels, every cell hatched until a picture is put there; nothing ever changes its place.

    Args:
        title: name of the run, and a line about how the pictures were made.
        rows: one label a prompt, wrapped at the left.
        columns: one label a checkpoint.
        cell_size: width and height of a cell in pixels; shrunk if the whole would exceed 8,192 pixels a side.
        theme: the colours.

    Attributes:
        picture: RGB.
    """

    def __init__(
        self,
        title: Label,
        rows: Sequence[Label],
        columns: Sequence[Label],
        cell_size: tuple[int, int],
        theme: Theme = LIGHT,
    ) -> None:
        self._layout = _layout(rows, columns, _fitting(cell_size, len(rows), len(columns)))
        self._theme = theme
        self.picture = Image.new("RGB", self._layout.size, theme.paper)
        draw = ImageDraw.Draw(self.picture)
        _draw_title(draw, self._layout, title, theme)
        for index, label in enumerate(columns):
            _draw_column_label(draw, self._layout, index, label, theme)
        absent = hatched(self._layout.cell, self._layout.letter, theme)
        for row, label in enumerate(rows):
            _draw_row_label(draw, self._layout, row, label, theme)
            for column in range(len(columns)):
                self.picture.paste(absent, self._layout.box(row, column))

    def put(self, place: tuple[int, int], cell: Image.Image, part: int = 0, parts: int = 1) -> None:
        """Draw a picture at (row, column), fitted into its cell; of several `parts`, in the `part`-th field of it."""
        left, top = self._layout.box(*place)
        across, down = mosaic(parts)
        width, height = (
            (side - SEAM * (count - 1)) // count for side, count in zip(self._layout.cell, (across, down), strict=True)
        )
        left += part % across * (width + SEAM)
        top += part // across * (height + SEAM)
        shown = fitted(cell, (max(1, width), max(1, height)))
        self.picture.paste(self._theme.paper, (left, top, left + max(1, width), top + max(1, height)))
        self.picture.paste(shown, (left + (width - shown.width) // 2, top + (height - shown.height) // 2))


def progress_grid(
    title: Label,
    rows: Sequence[Label],
    columns: Sequence[Label],
    cells: Mapping[tuple[int, int], Image.Image],
    cell_size: tuple[int, int],
    theme: Theme = LIGHT,
) -> Image.Image:
    """A page with the pictures by (row, column); a place without one stays hatched. The rest as of `Page`."""
    page = GridPage(title, rows, columns, cell_size, theme)
    for place, cell in cells.items():
        page.put(place, cell)
    return page.picture


def mosaic(parts: int) -> tuple[int, int]:
    """Across and down: the fields of a nearly square arrangement of so many pictures."""
    across = math.ceil(math.sqrt(parts))
    return across, math.ceil(parts / across)


def fitted(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """`picture` as large as fits into `size`, not stretched; the same object where that is its size already."""
    share = min(size[0] / picture.width, size[1] / picture.height)
    wanted = max(1, round(picture.width * share)), max(1, round(picture.height * share))
    return picture if wanted == picture.size else picture.resize(wanted, Image.Resampling.LANCZOS)


def page_size(rows: Sequence[Label], columns: Sequence[Label], cell_size: tuple[int, int]) -> tuple[int, int]:
    """Width and height in pixels that a page of these would have."""
    return _layout(rows, columns, _fitting(cell_size, len(rows), len(columns))).size


def _fitting(cell_size: tuple[int, int], rows: int, columns: int) -> tuple[int, int]:
    width, height = cell_size
    share = min(1.0, MAX_SIDE / ((columns + 3) * width), MAX_SIDE / ((rows + 2) * height))  # + labels and gaps
    return max(1, round(width * share)), max(1, round(height * share))


def _layout(rows: Sequence[Label], columns: Sequence[Label], cell: tuple[int, int]) -> _Layout:
    letter = max(MIN_LETTER, round(min(cell) / 13))
    margin, gap, label_width = round(1.8 * letter), max(4, round(0.45 * letter)), round(12.5 * letter)
    row_height = max(cell[1], *(_row_label_height(label, letter, label_width) for label in rows), 1)
    left = margin + label_width + letter
    heading = max((_column_height(label, letter, cell[0]) for label in columns), default=0)
    top = margin + _title_height(letter) + heading + round(0.35 * letter)
    width = left + len(columns) * (cell[0] + gap) - gap + margin
    height = top + len(rows) * (row_height + gap) - gap + margin
    return _Layout(letter, cell, row_height, label_width, margin, gap, left, top, (width, height))


def _height(letter: int, lines: int = 1) -> int:
    return round(letter * LINE_HEIGHT * lines)


def _small(letter: int) -> int:
    return max(MIN_LETTER - 1, round(0.8 * letter))


def _large(letter: int) -> int:
    return round(1.75 * letter)


def _title_height(letter: int) -> int:
    return _height(_large(letter)) + _height(_small(letter)) + round(1.6 * letter)


def _draw_title(draw: ImageDraw.ImageDraw, layout: _Layout, title: Label, theme: Theme) -> None:
    left, top, width = layout.margin, layout.margin, layout.size[0] - 2 * layout.margin
    large, small = _large(layout.letter), _small(layout.letter)
    top -= round(0.25 * large)  # the capitals, not their line, align with the margin
    draw_text(draw, (left, top), shortened(title.text, large, width), large, theme.ink)
    top += _height(large)
    draw_text(draw, (left, top), shortened(title.note, small, width), small, theme.quiet)
    rule = top + _height(small) + round(0.55 * layout.letter)
    draw.line((left, rule, left + width - 1, rule), fill=theme.hairline, width=max(1, layout.letter // 14))


def _column_lines(label: Label, letter: int, width: int) -> tuple[list[str], list[str]]:
    note = wrap(label.note, _small(letter), width, max_lines=2) if label.note else []
    return wrap(label.text, letter, width, max_lines=2), note


def _column_height(label: Label, letter: int, width: int) -> int:
    text, note = _column_lines(label, letter, width)
    return _height(letter, len(text)) + _height(_small(letter), len(note))


def _draw_column_label(draw: ImageDraw.ImageDraw, layout: _Layout, column: int, label: Label, theme: Theme) -> None:
    text, note = _column_lines(label, layout.letter, layout.cell[0])
    left, first_row = layout.box(0, column)
    top = first_row - round(0.35 * layout.letter) - _column_height(label, layout.letter, layout.cell[0])
    if label.marked:
        bar = max(2, round(layout.letter / 8))
        above = first_row - max(3, round(0.22 * layout.letter))
        draw.rectangle((left, above, left + layout.cell[0] - 1, above + bar - 1), fill=theme.rust)
    colours = (theme.rust, theme.rust) if label.marked else (theme.ink, theme.quiet)
    for lines, letter, color in ((text, layout.letter, colours[0]), (note, _small(layout.letter), colours[1])):
        for number, line in enumerate(lines):
            draw_text(draw, (left, top + _height(letter, number)), line, letter, color)
        top += _height(letter, len(lines))


def _row_label_height(label: Label, letter: int, width: int) -> int:
    """What a label needs beside a small picture: at most three lines of its text, and its note."""
    lines = len(wrap(label.text, letter, width, max_lines=3))
    return _height(letter, lines) + (_height(_small(letter)) if label.note else 0)


def _draw_row_label(draw: ImageDraw.ImageDraw, layout: _Layout, row: int, label: Label, theme: Theme) -> None:
    _, top = layout.box(row, 0)
    small = _small(layout.letter)
    room = layout.row_height - (_height(small) if label.note else 0) + 1  # heights are rounded
    lines = wrap(label.text, layout.letter, layout.label_width, max_lines=int(room / (layout.letter * LINE_HEIGHT)))
    draw_top = top - round(0.2 * layout.letter)  # the capitals align with the picture's edge
    for number, line in enumerate(lines):
        draw_text(draw, (layout.margin, draw_top + _height(layout.letter, number)), line, layout.letter, theme.ink)
    if label.note:
        note = shortened(label.note, small, layout.label_width)
        draw_text(draw, (layout.margin, draw_top + _height(layout.letter, len(lines))), note, small, theme.quiet)


def hatched(size: tuple[int, int], letter: int, theme: Theme) -> Image.Image:
    """A place that says that there is no picture (where the words fit)."""
    width, height = size
    fine = 2  # drawn larger and reduced, so that the slanted lines are smooth
    cell = Image.new("RGB", (width * fine, height * fine), theme.absent)
    draw = ImageDraw.Draw(cell)
    stride = max(6, round(0.55 * letter)) * fine
    for start in range(-height * fine, width * fine, stride):
        line = (start, height * fine, start + height * fine, 0)
        draw.line(line, fill=theme.hatching, width=max(2, letter // 10))
    cell = cell.resize(size, Image.Resampling.BOX)
    words, small = "no picture", _small(letter)
    if text_width(words, small) + letter <= width:
        _draw_centred(cell, words, small, theme)
    return cell


def _draw_centred(cell: Image.Image, words: str, small: int, theme: Theme) -> None:
    draw = ImageDraw.Draw(cell)
    length, line = text_width(words, small), _height(small)
    left, top = (cell.width - length) / 2, (cell.height - line) / 2
    draw.rectangle((left - small / 2, top, left + length + small / 2, top + line), fill=theme.absent)
    draw_text(draw, (left, top), words, small, theme.quiet)
