"""Everything from a run's checkpoints to a verdict: paint what is missing, measure, judge, write the page."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy
from PIL import Image, ImageOps

from ..curation.style_similarity import PictureEncoder
from ..dataset.pictures import PictureRefused, seen
from ..dataset.records import Dataset
from ..drawing.palette import theme_of
from ..errors import ModelError
from ..files import content_hash, write_changed
from ..progress import Progress, silent
from ..rendering.cells import Grid, render
from ..rendering.painting import Painter, Sampling
from ..rendering.picture_grid import PictureGrid, read
from . import efficientnet
from .chart import chart
from .measures import WEIGHT_FREE, Measure
from .report import as_json, dumped, page
from .scores import Rows, check_enough, score
from .verdict import StepVerdict, verdict

LARGEST_CELL = 256  # pixels of a cell's longer side on the page

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluated:
    """A verdict, and where it is told.

    Attributes:
        page: a file of HTML; beside it lies one of JSON with the same name.
    """

    verdict: StepVerdict
    chart: Image.Image
    page: Path


def evaluate(
    grid: Grid,
    painter: Painter,
    dataset: Dataset,
    references: int,
    round_trip: Callable[[Image.Image], Image.Image],
    encoder: PictureEncoder | None,
    folder: Path,
    progress: Progress = silent,
    more: Sequence[str] = (),
    embed_texts: Callable[[Sequence[str]], numpy.ndarray] | None = None,
) -> Evaluated:
    """Judge the checkpoints of a grid; what is painted already is not painted again.

    Args:
        grid: prompts by checkpoints, the base model first.
        painter: samples what is missing.
        dataset: the training pictures.
        references: at most so many of them are looked at.
        round_trip: a picture encoded and decoded by the VAE that decodes the painted ones.
        encoder: of CLIP vision, one more measure; None for none.
        embed_texts: prompts to vectors of the encoder's space, `(prompts, width)`; None for none.
        folder: where page and figures are written.
        more: further parts of the page, as HTML.

    Raises:
        TrainingError: there are too few prompts or pictures.
        ModelError: no picture is finite, a LoRA is another model's, or an image network gives no finite numbers.
    """
    check_enough(len({prompt.text for prompt in grid.prompts}), len(dataset.records()))
    shown = render(grid, painter, progress)
    training, round_trips = of_the_set(dataset, references, grid.sampling, round_trip, progress)
    scores = score(rows_of(grid, shown), training, round_trips, measures_with(encoder, embed_texts), progress)
    judged = verdict(scores)
    title = grid.title or grid.name
    drawn = chart(scores, judged, title, theme_of(grid.theme))
    told = {"run": grid.name, **asdict(grid.sampling), "strength": grid.strength, "pictures of the set": len(training)}
    pages = replace(shown, cell_size=fitting(grid.sampling.width, grid.sampling.height)).pages(progress)
    pictures = [("Scores over the steps", drawn), *(("Prompts and checkpoints", drawn_page) for drawn_page in pages)]
    figures = as_json(scores, judged, told)
    file = folder / f"{content_hash([figures, grid.models])}.html"
    write_changed(file, page(title, scores, judged, pictures, training, told, more).encode())
    write_changed(file.with_suffix(".json"), dumped(figures).encode())
    return Evaluated(judged, drawn, file)


def of_the_set(
    dataset: Dataset,
    count: int,
    sampling: Sampling,
    round_trip: Callable[[Image.Image], Image.Image],
    progress: Progress = silent,
) -> tuple[list[Image.Image], list[Image.Image]]:
    """At most `count` of its pictures, cut to the shape that is painted, and the same as the VAE shows them."""
    training = _references(dataset, count, (sampling.width, sampling.height))
    round_trips = []
    for done, picture in enumerate(training):
        progress(done, len(training), f"Seeing the set as the VAE shows it: {done} of {len(training)}")
        round_trips.append(round_trip(picture))
    return training, round_trips


def measures_with(
    encoder: PictureEncoder | None, embed_texts: Callable[[Sequence[str]], numpy.ndarray] | None = None
) -> list[Measure]:
    """All measures of style that there are here, and the encoder's where one is given."""
    measures = [*WEIGHT_FREE]
    if efficientnet.weights_file():
        measures.append(Measure(efficientnet.NAME, efficientnet.statistics, network=True))
    if encoder:
        measures.append(_embedding(encoder, embed_texts))
    return measures


def rows_of(grid: Grid, shown: PictureGrid) -> Rows:
    """The pictures that are there, a row for each prompt and seed."""
    texts, pictures = [], {}
    for prompt, cells in zip(grid.prompts, shown.cells, strict=True):
        for number in range(len(cells[0])):
            for column, files in enumerate(cells):
                if (picture := read(files[number])) is not None:
                    pictures[len(texts), column] = picture
            texts.append(prompt.text)
    return Rows(tuple(texts), tuple(column.step for column in grid.columns), pictures)


def fitting(width: int, height: int) -> tuple[int, int]:
    """A cell of that shape, its longer side at most `LARGEST_CELL` pixels."""
    share = min(1.0, LARGEST_CELL / max(width, height))
    return round(width * share), round(height * share)


def _references(dataset: Dataset, count: int, size: tuple[int, int]) -> list[Image.Image]:
    """Up to `count` pictures, cut to the shape that is painted, in the order of their hashes, which means nothing."""
    records = sorted(dataset.records(), key=lambda record: record.sha256)
    pictures = []
    for record in records[:count]:
        try:
            picture = seen(dataset.image_path(record), (2 * size[0], 2 * size[1]))
        except PictureRefused as error:
            log.warning("A picture of the set is left out: %s", error)
            continue
        pictures.append(ImageOps.fit(picture, size, Image.Resampling.LANCZOS))
    return pictures


def _embedding(encoder: PictureEncoder, embed_texts: Callable[[Sequence[str]], numpy.ndarray] | None) -> Measure:
    def embed(pictures: Sequence[Image.Image]) -> numpy.ndarray:
        side = (encoder.side, encoder.side)
        squares = [ImageOps.fit(picture, side, Image.Resampling.BICUBIC) for picture in pictures]
        rows = numpy.array([encoder.encode([square])[0] for square in squares], numpy.float32)
        if not numpy.isfinite(rows).all():
            raise ModelError(
                f"The image network at clip_vision ({encoder.name}) gives numbers that are not finite. Its file is "
                "damaged, or too coarse for it: load another one with Load CLIP Vision, or disconnect it."
            )
        return rows

    return Measure(encoder.name, embed, network=True, embed_texts=embed_texts)
