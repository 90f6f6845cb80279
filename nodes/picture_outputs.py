"""What the nodes that make grids of pictures give: pages as a batch and as files, the pictures alone, and a report."""

from __future__ import annotations

from pathlib import Path

from comfy_api.latest import io
from PIL.Image import Image, new

from ..drawing.palette import theme_of
from ..errors import ModelError
from ..rendering.picture_grid import PictureGrid, pictures, save_pages
from . import sockets
from .host import execution, sampling


def grid_outputs() -> list[io.Output]:
    return [
        sockets.PictureGrid.Output("picture_grid", tooltip="What is shown where, for Step Animation."),
        io.String.Output("report", tooltip="Which places are empty; and the files of the pages, which hold the graph."),
    ]


def drawn(grid: PictureGrid, folder: Path, name: str, hidden, *notes: str):
    """The pages as one batch, the pictures as another, and the report.

    Args:
        folder, name: where the pages are kept.
        hidden: the node's, for the graph that is written into them.
        notes: sentences for the report.

    Raises:
        ModelError: not one picture of the grid is there.
    """
    progress = execution.progress()
    files, pages = [], []
    for file, page in save_pages(grid, folder, name, execution.graph_texts(hidden), progress):
        files.append(file)
        pages.append(page)
    size = max(page.width for page in pages), max(page.height for page in pages)
    shown = sampling.image_batch([_widened(page, size, grid.theme) for page in pages])
    alone = list(pictures(grid, progress))
    if not alone:
        raise ModelError(f"Not one picture of '{grid.title.text}' can be read any more. Queue again to make them anew.")
    total = sum(len(cell) for row in grid.cells for cell in row)
    said = [f"{len(alone)} pictures."]
    if len(alone) < total:
        said = [f"{len(alone)} of {total} pictures; {total - len(alone)} places are empty."]
    said += [*notes, grid.said_unreadable(), f"Kept as {', '.join(map(str, files))}"]
    return shown, sampling.image_batch(alone), " ".join(filter(None, said))


def _widened(page: Image, size: tuple[int, int], theme: str) -> Image:
    """A page on paper of the largest one's size: a batch has one size."""
    if page.size == size:
        return page
    paper = new("RGB", size, theme_of(theme).paper)
    paper.paste(page, (0, 0))
    return paper
