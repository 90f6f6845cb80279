"""Histograms of what was measured, each with its threshold, so that a person sees where to put it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from .charts import ChartsMissing, as_picture, calm, draw_limit, draw_single, new_figure
from .lettering import LINE_HEIGHT, draw_text, wrap
from .palette import LIGHT, Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BINS = 32
COLUMNS = 4
CELL_WIDTH, CELL_HEIGHT = 400, 300  # pixels
TOP = 90  # pixels above the first row
WORDS_SIZE, WORDS_LINES = 22, 4  # pixels, and lines of a paragraph, where there is nothing to draw with


@dataclass(frozen=True)
class Histogram:
    name: str
    values: Sequence[float]
    threshold: float
    at_most: bool  # values over the threshold are refused, else those under it
    widget: str  # that sets the threshold, as the page calls it


def histograms(title: str, shown: Sequence[Histogram], theme: Theme = LIGHT) -> Image.Image:
    """Draw each histogram, what the threshold refuses in another colour; with none of them, the title alone.

    Without matplotlib the title and what installs it: what was measured and refused does not depend on a chart.
    """
    rows = max(1, math.ceil(len(shown) / COLUMNS))
    width, height = COLUMNS * CELL_WIDTH, TOP + rows * CELL_HEIGHT
    try:
        figure = new_figure(width, height, title, theme)
    except ChartsMissing as missing:
        return _words(width, theme, title, str(missing))
    figure.subplots_adjust(
        left=60 / width, right=1 - 30 / width, top=1 - (TOP + 20) / height, bottom=56 / height, wspace=0.28, hspace=0.55
    )
    cells = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axes, histogram in zip(cells, shown, strict=False):
        _draw(axes, histogram, theme)
    for axes in cells[len(shown) :]:
        axes.set_visible(False)
    return as_picture(figure)


def _words(width: int, theme: Theme, *paragraphs: str) -> Image.Image:
    """A strip of paper with what there is to say, a picture `width` pixels wide."""
    lines = [line for text in paragraphs for line in wrap(text, WORDS_SIZE, width - 2 * WORDS_SIZE, WORDS_LINES)]
    step = round(WORDS_SIZE * LINE_HEIGHT)
    picture = Image.new("RGB", (width, 2 * WORDS_SIZE + step * len(lines)), theme.paper)
    draw = ImageDraw.Draw(picture)
    for number, line in enumerate(lines):
        draw_text(draw, (WORDS_SIZE, WORDS_SIZE + number * step), line, WORDS_SIZE, theme.ink)
    return picture


def _draw(axes: Axes, histogram: Histogram, theme: Theme) -> None:
    values, threshold = histogram.values, histogram.threshold
    refused = sum(value > threshold if histogram.at_most else value < threshold for value in values)
    calm(axes, histogram.name, theme=theme)
    said = f"{histogram.widget} = {threshold:g}: {refused} of {len(values)} refused"
    axes.set_xlabel(said, color=theme.rust if refused else theme.quiet, fontsize=9)
    low, high = min(values), max(values)
    axes.spines["bottom"].set_visible(True)
    axes.spines["bottom"].set_color(theme.hairline)
    if low == high:
        draw_single(axes, low, len(values), theme.rust if refused else theme.blue)
        draw_limit(axes, threshold, low - 0.5, high + 0.5, theme.ink)
        return
    edges: list[float] | int = BINS
    if low <= threshold <= high:
        # a bin ends at the threshold, so that no bar is refused by half
        edges = [threshold + (high - low) / BINS * step for step in range(-BINS, BINS + 1)]
        edges = [edge for edge in edges if low - (high - low) / BINS < edge < high + (high - low) / BINS]
    _, bounds, bars = axes.hist(values, bins=edges, color=theme.blue)
    for left, bar in zip(bounds, bars, strict=False):
        middle = left + bar.get_width() / 2
        if middle > threshold if histogram.at_most else middle < threshold:
            bar.set_facecolor(theme.rust)
    draw_limit(axes, threshold, bounds[0], bounds[-1], theme.ink)
    axes.yaxis.get_major_locator().set_params(integer=True, nbins=4)
