"""What our charts share: a figure without global state on warm paper, calm axes, the picture of it."""

from __future__ import annotations

import importlib.util
import io
from typing import TYPE_CHECKING

from PIL import Image

from .. import installation
from ..errors import ImpastoError
from .palette import LIGHT, Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOTS_PER_INCH = 110
LONGEST_LABEL = 30  # characters


class ChartsMissing(ImpastoError):
    """matplotlib is not installed; the text says what installs it."""


def no_charts() -> str:
    """Why no chart can be drawn, in one sentence; "" where matplotlib is installed. It is not imported."""
    if importlib.util.find_spec("matplotlib"):
        return ""
    return (
        f"Charts need matplotlib, which is not installed. Stop ComfyUI, run {installation.command('matplotlib')} and "
        "start it again."
    )


def check() -> None:
    """Raise ChartsMissing where matplotlib is not installed."""
    if said := no_charts():
        raise ChartsMissing(said)


def bare_figure(width: int, height: int, dots_per_inch: int = DOTS_PER_INCH, theme: Theme = LIGHT) -> Figure:
    """An empty figure of `width` x `height` pixels; the sizes of its letters and lines are in 1/72 inch.

    Raises:
        ChartsMissing: matplotlib is not installed.
    """
    check()
    # Figure and canvas without pyplot: no global state, so that several graphs can plot at once.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / dots_per_inch, height / dots_per_inch), dpi=dots_per_inch, facecolor=theme.paper)
    FigureCanvasAgg(figure)
    return figure


def new_figure(width: int, height: int, title: str, theme: Theme = LIGHT) -> Figure:
    """A figure of `width` x `height` pixels with nothing but its title, at the top left."""
    figure = bare_figure(width, height, theme=theme)
    margin = 36 / width
    figure.text(margin, 1 - 28 / height, plain(title), color=theme.ink, fontsize=17, va="top", ha="left")
    return figure


def calm(
    axes: Axes, name: str, grid: str = "y", name_size: float = 10, label_size: float = 8.5, theme: Theme = LIGHT
) -> None:
    """Name above the left corner, no frame, hairlines across the values. Sizes are of the letters, in 1/72 inch."""
    axes.set_title(plain(name), loc="left", color=theme.quiet, fontsize=name_size)
    axes.set_facecolor(theme.paper)
    axes.grid(axis=grid, color=theme.hairline, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=theme.quiet, labelsize=label_size, length=0)
    for side in axes.spines.values():
        side.set_visible(False)


def draw_limit(axes: Axes, limit: float, least: float, greatest: float, color: str) -> None:
    """A line across at `limit`, whatever the values from `least` to `greatest` are.

    Where it lies so far away that the values would be squeezed together, the line stands at the edge, dashed, with an
    arrow to where it is.
    """
    span = greatest - least or 1.0
    low, high = least - 0.04 * span, greatest + 0.04 * span
    if least - span <= limit <= greatest + span:
        axes.axvline(limit, color=color, linewidth=1.2)
        axes.set_xlim(min(low, limit - 0.04 * span), max(high, limit + 0.04 * span))
        return
    below = limit < least
    edge = least - 0.25 * span if below else greatest + 0.25 * span
    axes.axvline(edge, color=color, linewidth=1.2, linestyle=(0, (3, 3)))
    axes.annotate(
        f"← {limit:g}" if below else f"{limit:g} →",
        (edge, 0.97),
        (4 if below else -4, 0),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        color=color,
        fontsize=8,
        va="top",
        ha="left" if below else "right",
    )
    axes.set_xlim(min(low, edge - 0.04 * span), max(high, edge + 0.04 * span))


def draw_single(axes: Axes, value: float, count: int, color: str) -> None:
    """Values that are all the same: one bar that says which, in place of an axis about nothing."""
    axes.bar([value], [count], width=0.2, color=color)
    axes.set_xticks([value], [f"{value:g}"])
    axes.set_xlim(value - 1, value + 1)
    axes.yaxis.get_major_locator().set_params(integer=True, nbins=4)


def plain(text: str) -> str:
    """A label as it stands: matplotlib would read what is between two dollar signs as mathematics."""
    short = text if len(text) <= LONGEST_LABEL * 3 else text[: LONGEST_LABEL * 3] + "…"
    return short.replace("$", r"\$")


def as_picture(figure: Figure) -> Image.Image:
    content = io.BytesIO()
    figure.savefig(content, format="png", facecolor=figure.get_facecolor())
    return Image.open(content).convert("RGB")
