"""What our charts share: a figure without global state on warm paper, calm axes, the picture of it."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The colours of drawing/palette.py, which this package does not import.
PAPER, INK, QUIET, HAIRLINE = "#f5f4f1", "#262422", "#837d74", "#dedad2"
BLUE, RUST = "#2f5d7c", "#c2562d"
DOTS_PER_INCH = 110
LONGEST_LABEL = 30  # characters


def new_figure(width: int, height: int, title: str) -> Figure:
    """An empty figure of `width` x `height` pixels with its title at the top left."""
    # Figure and canvas without pyplot: no global state, so that several graphs can plot at once.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / DOTS_PER_INCH, height / DOTS_PER_INCH), dpi=DOTS_PER_INCH, facecolor=PAPER)
    FigureCanvasAgg(figure)
    margin = 36 / width
    figure.text(margin, 1 - 28 / height, plain(title), color=INK, fontsize=17, va="top", ha="left")
    return figure


def calm(axes: Axes, name: str, grid: str = "y") -> None:
    """Name above the left corner, no frame, hairlines across the values."""
    axes.set_title(plain(name), loc="left", color=QUIET, fontsize=10)
    axes.set_facecolor(PAPER)
    axes.grid(axis=grid, color=HAIRLINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=QUIET, labelsize=8.5, length=0)
    for side in axes.spines.values():
        side.set_visible(False)


def plain(text: str) -> str:
    """A label as it stands: matplotlib would read what is between two dollar signs as mathematics."""
    short = text if len(text) <= LONGEST_LABEL * 3 else text[: LONGEST_LABEL * 3] + "…"
    return short.replace("$", r"\$")


def as_picture(figure: Figure) -> Image.Image:
    content = io.BytesIO()
    figure.savefig(content, format="png", facecolor=PAPER)
    return Image.open(content).convert("RGB")
