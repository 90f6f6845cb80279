"""Contact sheets: many small pictures on one, each with a line or two under it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from .lettering import LINE_HEIGHT, draw_text, wrap
from .palette import LIGHT, Theme

logger = logging.getLogger(__name__)

CELL = 224  # pixels, the square in which a picture is shown
GAP = 16  # pixels
TEXT_SIZE = 15  # pixels
LINE = round(TEXT_SIZE * LINE_HEIGHT)  # pixels from one line of text to the next
LINES = 3  # of text under a picture
HEADING_LINES = 8
COLUMNS = 5
MOST_CELLS = 60  # more would be too small to see in a preview


def contact_sheet(
    title: str,
    pictures: Sequence[tuple[Path, str]],
    thumbnail: Callable[[Path, int], Image.Image],
    theme: Theme = LIGHT,
) -> Image.Image:
    """Draw `pictures` (file and text) in a grid under `title`; with none of them, the title alone.

    A file of which `thumbnail` (of a file, its longer side at most so many pixels) raises an error gets a crossed box.
    Beyond 60 pictures the rest is counted under the title.
    """
    shown = pictures[:MOST_CELLS]
    columns = max(2, min(COLUMNS, len(shown)))
    rows = -(-len(shown) // columns)
    width = GAP + columns * (CELL + GAP)
    heading = wrap(title, TEXT_SIZE, width - 2 * GAP, HEADING_LINES)
    if len(pictures) > len(shown):
        heading.append(f"The first {len(shown)} of {len(pictures)} are shown.")
    top = GAP + LINE * len(heading) + GAP
    cell_height = CELL + LINE * LINES + GAP
    sheet = Image.new("RGB", (width, top + rows * cell_height), theme.paper)
    draw = ImageDraw.Draw(sheet)
    _write(draw, (GAP, GAP), heading, theme)
    for index, (path, text) in enumerate(shown):
        x = GAP + index % columns * (CELL + GAP)
        y = top + index // columns * cell_height
        try:
            small = thumbnail(path, CELL)
        except Exception as error:  # whatever a damaged file leads to
            logger.warning("%s is shown as a crossed box: %s", path, error)
            _cross(draw, x, y, theme)
        else:
            sheet.paste(small, (x + (CELL - small.width) // 2, y + CELL - small.height))  # down on the text
        _write(draw, (x, y + CELL + 4), wrap(text, TEXT_SIZE, CELL, LINES), theme)
    return sheet


def _write(draw: ImageDraw.ImageDraw, place: tuple[int, int], lines: Sequence[str], theme: Theme) -> None:
    left, top = place
    for number, line in enumerate(lines):
        draw_text(draw, (left, top + number * LINE), line, TEXT_SIZE, theme.ink)


def _cross(draw: ImageDraw.ImageDraw, x: int, y: int, theme: Theme) -> None:
    """A crossed box in place of the picture at `(x, y)`."""
    box = (x, y, x + CELL, y + CELL)
    draw.rectangle(box, theme.hairline)
    draw.line(box, theme.ink)
    draw.line((x, y + CELL, x + CELL, y), theme.ink)
