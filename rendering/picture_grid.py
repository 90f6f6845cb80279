"""A grid of kept pictures as a value that travels on a link: labels, files, and how to draw them, one page at a time,
so that memory holds a page and a picture, however many cells there are.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..dataset.pictures import PictureRefused, seen
from ..drawing.lettering import unreadable
from ..drawing.palette import theme_of
from ..errors import SettingsError
from ..files import appearing, content_hash
from ..progress import Progress
from .grid import MAX_SIDE, GridPage, Label, fitted, page_size

LEAST_CELL = 128  # pixels: a page that would show its pictures smaller is divided
ACROSS, DOWN = MAX_SIDE // LEAST_CELL - 3, MAX_SIDE // LEAST_CELL - 2  # most columns and rows of a page
MOST_PIXELS = 2 * MAX_SIDE**2  # of all pages together, and of all pictures: as a ComfyUI IMAGE 1.6 GB
PREVIEW_CELL, PREVIEW_SIDE = 160, 2048  # pixels, at most, of a cell and of a page in the live preview

log = logging.getLogger(__name__)

MOST_CELLS = 20_000  # of a grid: beyond it, labels alone would fill the memory

Cells = tuple[tuple[tuple[Path, ...], ...], ...]  # row by row, in each column, the file of each seed


@dataclass(frozen=True)
class PictureGrid:
    """What is shown where.

    Attributes:
        title, rows, columns: the labels.
        cells: files; one that is not there leaves its place hatched.
        cell_size: width and height of a cell in pixels, before whatever has to be shrunk.
        theme: "light" or "dark".
        about: what is written into each page beside its place, for example the run's id.
    """

    title: Label
    rows: tuple[Label, ...]
    columns: tuple[Label, ...]
    cells: Cells
    cell_size: tuple[int, int]
    theme: str = "light"
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_number(
            len(self.rows), len(self.columns), max((len(cell) for row in self.cells for cell in row), default=1)
        )

    def key(self) -> str:
        """Names what the grid shows by its labels, its files' names and how they are drawn."""
        files = [[[file.name for file in cell] for cell in row] for row in self.cells]
        labels = [[label.text, label.note, label.marked] for label in (self.title, *self.rows, *self.columns)]
        return content_hash([labels, files, self.cell_size, self.theme])

    def files(self) -> Iterator[Path]:
        """Row by row, in each column, seed by seed."""
        for row in self.cells:
            for cell in row:
                yield from cell

    def said_unreadable(self) -> str:
        """What no font here draws, in a sentence for people; "" where everything can be read."""
        labels = (self.title, *self.rows, *self.columns)
        found = unreadable("".join(f"{label.text} {label.note}" for label in labels))
        return f"No installed font has {', '.join(found)}: boxes stand for it in the labels." if found else ""

    def spans(self) -> list[tuple[range, range]]:
        """The rows and columns of each page, pages of the same rows one behind the other; as even as they come."""
        return [
            (rows, columns)
            for rows in _divided(len(self.rows), DOWN)
            for columns in _divided(len(self.columns), ACROSS)
        ]

    def drawn_cell(self) -> tuple[int, int]:
        """`cell_size`, shrunk so that all pages together have at most `MOST_PIXELS`."""
        width, height = self.cell_size
        spans = self.spans()
        while True:
            pages = [self._page_size(span, (width, height)) for span in spans]
            pixels = max(size[0] for size in pages) * max(size[1] for size in pages) * len(pages)
            if pixels <= MOST_PIXELS or min(width, height) <= 8:
                return width, height
            share = min(0.97, math.sqrt(MOST_PIXELS / pixels))
            width, height = max(8, int(width * share)), max(8, int(height * share))

    def _page_size(self, span: tuple[range, range], cell: tuple[int, int]) -> tuple[int, int]:
        rows, columns = span
        return page_size(self.rows[rows.start : rows.stop], self.columns[columns.start : columns.stop], cell)

    def blank_page(self, span: tuple[range, range], cell: tuple[int, int], number: int, of: int) -> GridPage:
        """A page whose pictures are still to be put."""
        rows, columns = span
        title = self.title if of == 1 else replace(self.title, text=f"{self.title.text}, page {number} of {of}")
        return GridPage(
            title,
            self.rows[rows.start : rows.stop],
            self.columns[columns.start : columns.stop],
            cell,
            theme_of(self.theme),
        )

    def pages(self, progress: Progress) -> Iterator[Image.Image]:
        """Each page with its pictures; what cannot be read any more stays hatched, and the log says so."""
        spans, cell = self.spans(), self.drawn_cell()
        total = len(self.rows) * len(self.columns)
        done = 0
        for number, (rows, columns) in enumerate(spans, start=1):
            page = self.blank_page((rows, columns), cell, number, len(spans))
            for row in rows:
                progress(done, total, f"Drawing page {number} of {len(spans)}")
                for column in columns:
                    _put(page, (row - rows.start, column - columns.start), self.cells[row][column])
                done += len(columns)
            yield page.picture
        progress(total, total)


def check_number(rows: int, columns: int, seeds: int) -> None:
    """
    Raises:
        SettingsError: so many pictures are more than one grid can show.
    """
    if rows * columns * seeds > MOST_CELLS:
        raise SettingsError(
            f"{rows:,} rows, {columns:,} columns and {seeds:,} seeds are {rows * columns * seeds:,} pictures. One grid "
            f"shows at most {MOST_CELLS:,}: ask for fewer, and draw several grids."
        )


def _put(page: GridPage, place: tuple[int, int], files: Sequence[Path]) -> None:
    for part, file in enumerate(files):
        if picture := read(file):
            page.put(place, picture, part, len(files))


def read(file: Path) -> Image.Image | None:
    """The picture in a file; None where there is none that can be read."""
    if not file.is_file():
        return None
    try:
        return seen(file)
    except PictureRefused as refused:
        log.warning("%s stays empty: %s", file, refused)
        return None


def _divided(count: int, most: int) -> list[range]:
    parts = max(1, math.ceil(count / most))
    bounds = [round(count * part / parts) for part in range(parts + 1)]
    return [range(low, high) for low, high in zip(bounds, bounds[1:], strict=False)]


def save_pages(
    grid: PictureGrid, folder: Path, name: str, texts: Mapping[str, str], progress: Progress
) -> Iterator[tuple[Path, Image.Image]]:
    """Draw and keep each page as `<name>-<key>.png`, of several with `-1`, `-2` … before the end; give both back.

    Args:
        texts: PNG texts, for example "workflow"; what the grid is `about` is written beside them as "impasto".
    """
    pages = len(grid.spans())
    for number, picture in enumerate(grid.pages(progress), start=1):
        file = folder / f"{name}-{grid.key()}{f'-{number}' if pages > 1 else ''}.png"
        metadata = PngInfo()
        for key, text in texts.items():
            metadata.add_text(key, text)
        metadata.add_itxt("impasto", json.dumps({**grid.about, "page": number, "pages": pages}))
        with appearing(file) as temporary:
            picture.save(temporary, format="PNG", pnginfo=metadata, compress_level=4)
        yield file, picture


def pictures(grid: PictureGrid, progress: Progress) -> Iterator[Image.Image]:
    """The pictures without labels, row by row, all of one size: the cell's, or smaller where there are very many."""
    files = [file for file in grid.files() if file.is_file()]
    width, height = grid.cell_size
    share = min(1.0, math.sqrt(MOST_PIXELS / max(1, len(files) * width * height)))
    size = max(1, int(width * share)), max(1, int(height * share))
    for number, file in enumerate(files):
        if number % 20 == 0:
            progress(number, len(files))
        if picture := read(file):
            yield on_paper(picture, size, grid.theme)


def on_paper(picture: Image.Image, size: tuple[int, int], theme: str) -> Image.Image:
    """`picture` fitted into exactly `size`."""
    small = fitted(picture, size)
    if small.size == size:
        return small
    paper = Image.new("RGB", size, theme_of(theme).paper)
    paper.paste(small, ((size[0] - small.width) // 2, (size[1] - small.height) // 2))
    return paper


class Preview:
    """The page of a grid that is being painted, small."""

    def __init__(self, grid: PictureGrid) -> None:
        self._grid = grid
        self._spans = grid.spans()
        self._pages: dict[int, GridPage] = {}
        self._shown = 0
        self._places: dict[Path, list[tuple[int, int, int]]] = {}
        for row, cells in enumerate(grid.cells):
            for column, files in enumerate(cells):
                for part, file in enumerate(files):
                    self._places.setdefault(file, []).append((row, column, part))

    def put(self, file: Path, picture: Image.Image) -> None:
        for row, column, part in self._places.get(file, ()):
            number = next(n for n, (rows, columns) in enumerate(self._spans) if row in rows and column in columns)
            rows, columns = self._spans[number]
            page = self._pages.get(number) or self._blank(number)
            place = row - rows.start, column - columns.start
            page.put(place, picture, part, len(self._grid.cells[row][column]))
            self._shown = number

    def picture(self) -> Image.Image:
        """A copy: the page is drawn on while it is being sent."""
        return (self._pages.get(self._shown) or self._blank(self._shown)).picture.copy()

    def _blank(self, number: int) -> GridPage:
        rows, columns = self._spans[number]
        longest = min(PREVIEW_CELL, PREVIEW_SIDE // max(len(rows), len(columns), 1))
        width, height = self._grid.cell_size
        share = min(1.0, longest / max(width, height))
        cell = max(1, round(width * share)), max(1, round(height * share))
        self._pages[number] = self._grid.blank_page(self._spans[number], cell, number + 1, len(self._spans))
        return self._pages[number]
