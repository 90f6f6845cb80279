"""Contact sheets: many small pictures on one, each with a line or two under it."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

CELL = 224  # pixels, the square in which a picture is shown
GAP = 16  # pixels
TEXT_SIZE = 15  # pixels
LINE = 19  # pixels from one line of text to the next
LINES = 3  # of text under a picture
CHARACTERS = 30  # that fit across a cell at this size
COLUMNS = 5
MOST_CELLS = 60  # more would be too small to see in a preview
PAPER, INK, SHADE = (247, 245, 240), (40, 38, 35), (221, 216, 206)


def contact_sheet(
    title: str, pictures: Sequence[tuple[Path, str]], thumbnail: Callable[[Path, int], Image.Image]
) -> Image.Image:
    """Draw `pictures` (file and text) in a grid under `title`; with none of them, the title alone.

    A file of which `thumbnail` (of a file, its longer side at most so many pixels) raises an error gets a crossed box.
    Beyond 60 pictures the rest is counted under the title.
    """
    shown = pictures[:MOST_CELLS]
    columns = max(2, min(COLUMNS, len(shown)))
    rows = -(-len(shown) // columns)
    heading = [*textwrap.wrap(title, columns * CHARACTERS)]
    if len(pictures) > len(shown):
        heading.append(f"The first {len(shown)} of {len(pictures)} are shown.")
    top = GAP + LINE * len(heading) + GAP
    cell_height = CELL + LINE * LINES + GAP
    sheet = Image.new("RGB", (GAP + columns * (CELL + GAP), top + rows * cell_height), PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(TEXT_SIZE)
    draw.multiline_text((GAP, GAP), "\n".join(heading), INK, font, spacing=LINE - TEXT_SIZE)
    for index, (path, text) in enumerate(shown):
        x = GAP + index % columns * (CELL + GAP)
        y = top + index // columns * cell_height
        _paste(sheet, draw, lambda path=path: thumbnail(path, CELL), x, y)
        lines = textwrap.wrap(text, CHARACTERS, max_lines=LINES, placeholder=" …")
        draw.multiline_text((x, y + CELL + 4), "\n".join(lines), INK, font, spacing=LINE - TEXT_SIZE)
    return sheet


def _paste(sheet: Image.Image, draw: ImageDraw.ImageDraw, thumbnail: Callable[[], Image.Image], x: int, y: int) -> None:
    """Put the picture into the square at `(x, y)`, down on the text under it."""
    try:
        small = thumbnail()
    except Exception:  # whatever a damaged file leads to
        box = (x, y, x + CELL, y + CELL)
        draw.rectangle(box, SHADE)
        draw.line(box, INK)
        draw.line((x, y + CELL, x + CELL, y), INK)
        return
    sheet.paste(small, (x + (CELL - small.width) // 2, y + CELL - small.height))
