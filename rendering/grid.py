"""The progress grid as a picture: prompts down, training steps across, the base model first. It draws what it is given;
which pictures there are, and how they come to be, is for `cells` to know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from ..drawing.lettering import LINE_HEIGHT, draw_text, shortened, text_width, wrap
from ..drawing.palette import ABSENT, HAIRLINE, HATCHING, INK, PAPER, QUIET

MIN_LETTER = 13  # pixels: smaller is hard to read
MAX_SIDE = 8192  # pixels of a whole grid; as a ComfyUI IMAGE a square one then takes 0.8 GB


@dataclass(frozen=True)
class Label:
    """What is written beside something: the text, and a note below it that is read second."""

    text: str
    note: str = ""


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


def progress_grid(
    title: Label,
    rows: Sequence[Label],
    columns: Sequence[Label],
    cells: Mapping[tuple[int, int], Image.Image],
    cell_size: tuple[int, int],
) -> Image.Image:
    """Draw the grid; a place without a picture is hatched, and everything else stays where it is.

    Args:
        title: name of the run, and a line about how the pictures were made.
        rows: one label a prompt, wrapped at the left.
        columns: one label a checkpoint.
        cells: the pictures by (row, column); a picture of another size is fitted into its cell.
        cell_size: width and height of a cell in pixels; shrunk if the whole would exceed 8,192 pixels a side.

    Returns:
        An RGB picture.
    """
    layout = _layout(rows, columns, _fitting(cell_size, len(rows), len(columns)))
    picture = Image.new("RGB", layout.size, PAPER)
    draw = ImageDraw.Draw(picture)
    _draw_title(draw, layout, title)
    for index, label in enumerate(columns):
        _draw_column_label(draw, layout, index, label)
    absent = _absent(layout)
    for row, label in enumerate(rows):
        _draw_row_label(draw, layout, row, label)
        for column in range(len(columns)):
            cell = cells.get((row, column))
            _paste(picture, layout, (row, column), absent if cell is None else cell)
    return picture


def _fitting(cell_size: tuple[int, int], rows: int, columns: int) -> tuple[int, int]:
    width, height = cell_size
    share = min(1.0, MAX_SIDE / ((columns + 3) * width), MAX_SIDE / ((rows + 2) * height))  # + labels and gaps
    return max(1, round(width * share)), max(1, round(height * share))


def _layout(rows: Sequence[Label], columns: Sequence[Label], cell: tuple[int, int]) -> _Layout:
    letter = max(MIN_LETTER, round(min(cell) / 13))
    margin, gap, label_width = round(1.8 * letter), max(4, round(0.45 * letter)), round(12.5 * letter)
    row_height = max(cell[1], _height(letter, 3) + _height(_small(letter)))
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


def _draw_title(draw: ImageDraw.ImageDraw, layout: _Layout, title: Label) -> None:
    left, top, width = layout.margin, layout.margin, layout.size[0] - 2 * layout.margin
    large, small = _large(layout.letter), _small(layout.letter)
    top -= round(0.25 * large)  # the capitals, not their line, align with the margin
    draw_text(draw, (left, top), shortened(title.text, large, width), large, INK)
    top += _height(large)
    draw_text(draw, (left, top), shortened(title.note, small, width), small, QUIET)
    rule = top + _height(small) + round(0.55 * layout.letter)
    draw.line((left, rule, left + width - 1, rule), fill=HAIRLINE, width=max(1, layout.letter // 14))


def _column_lines(label: Label, letter: int, width: int) -> tuple[list[str], list[str]]:
    note = wrap(label.note, _small(letter), width, max_lines=2) if label.note else []
    return wrap(label.text, letter, width, max_lines=2), note


def _column_height(label: Label, letter: int, width: int) -> int:
    text, note = _column_lines(label, letter, width)
    return _height(letter, len(text)) + _height(_small(letter), len(note))


def _draw_column_label(draw: ImageDraw.ImageDraw, layout: _Layout, column: int, label: Label) -> None:
    text, note = _column_lines(label, layout.letter, layout.cell[0])
    left, first_row = layout.box(0, column)
    top = first_row - round(0.35 * layout.letter) - _column_height(label, layout.letter, layout.cell[0])
    for lines, letter, color in ((text, layout.letter, INK), (note, _small(layout.letter), QUIET)):
        for number, line in enumerate(lines):
            draw_text(draw, (left, top + _height(letter, number)), line, letter, color)
        top += _height(letter, len(lines))


def _draw_row_label(draw: ImageDraw.ImageDraw, layout: _Layout, row: int, label: Label) -> None:
    _, top = layout.box(row, 0)
    small = _small(layout.letter)
    room = layout.row_height - (_height(small) if label.note else 0) + 1  # heights are rounded
    lines = wrap(label.text, layout.letter, layout.label_width, max_lines=int(room / (layout.letter * LINE_HEIGHT)))
    draw_top = top - round(0.2 * layout.letter)  # the capitals align with the picture's edge
    for number, line in enumerate(lines):
        draw_text(draw, (layout.margin, draw_top + _height(layout.letter, number)), line, layout.letter, INK)
    if label.note:
        note = shortened(label.note, small, layout.label_width)
        draw_text(draw, (layout.margin, draw_top + _height(layout.letter, len(lines))), note, small, QUIET)


def _absent(layout: _Layout) -> Image.Image:
    """A hatched cell that says that there is no picture (where the words fit)."""
    width, height = layout.cell
    fine = 2  # drawn larger and reduced, so that the slanted lines are smooth
    cell = Image.new("RGB", (width * fine, height * fine), ABSENT)
    draw = ImageDraw.Draw(cell)
    stride = max(6, round(0.55 * layout.letter)) * fine
    for start in range(-height * fine, width * fine, stride):
        draw.line((start, height * fine, start + height * fine, 0), fill=HATCHING, width=max(2, layout.letter // 10))
    cell = cell.resize(layout.cell, Image.Resampling.BOX)
    words, small = "no picture", _small(layout.letter)
    if text_width(words, small) + 2 * layout.gap <= width:
        _draw_centred(cell, words, small)
    return cell


def _draw_centred(cell: Image.Image, words: str, small: int) -> None:
    draw = ImageDraw.Draw(cell)
    length, line = text_width(words, small), _height(small)
    left, top = (cell.width - length) / 2, (cell.height - line) / 2
    draw.rectangle((left - small / 2, top, left + length + small / 2, top + line), fill=ABSENT)
    draw_text(draw, (left, top), words, small, QUIET)


def _paste(picture: Image.Image, layout: _Layout, place: tuple[int, int], cell: Image.Image) -> None:
    width, height = layout.cell
    if cell.size != layout.cell:
        share = min(width / cell.width, height / cell.height)
        size = max(1, round(cell.width * share)), max(1, round(cell.height * share))
        cell = cell.resize(size, Image.Resampling.LANCZOS)
    left, top = layout.box(*place)
    picture.paste(cell, (left + (width - cell.width) // 2, top + (height - cell.height) // 2))
