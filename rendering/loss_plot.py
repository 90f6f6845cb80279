"""The loss curve of a run as a picture: every step thin, its trend bold, the held-out loss as marked points; beneath,
learning rate and gradient norm; beside, which sigmas were trained on and how well each does. Other runs are laid over.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw

from ..drawing.charts import as_picture, bare_figure, calm, plain
from ..drawing.lettering import CHART_FONT, draw_text, shortened
from ..drawing.palette import Theme, theme_of
from ..errors import TrainingError
from .loss_series import BINS, Curve, Series, by_sigma, series, sigma_bins, trend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TREND_SHARE = 1 / 25  # of the run's length: the time constant of the trend
LOGARITHMIC_FROM = 10.0  # ratio of the highest to the lowest trend value
SIZE = (1600, 1000)  # width and height, pixels
DOTS_PER_INCH = 160
MARGIN = 0.035  # of the width
HEIGHTS = {"loss": 6.0, "learning rate": 1.0, "gradient norm": 1.0}
LEGEND_COLUMNS = 4
OWN_ENTRIES = 6  # of the legend, of the run itself
LONGEST_NAME = 20  # characters of another run's name in it
MOST_OTHERS = 12  # runs laid over another: more cannot be told apart
MOST_MARKS = 400  # checkpoints or pictures that are marked: more would be a bar


@dataclass(frozen=True)
class _Shown:
    """The series of the run that the plot is of."""

    losses: Series
    smooth: list[float]
    held_out: Series
    rates: Series
    norms: Series
    best: tuple[int, float] | None  # step and held-out loss
    checkpoints: Sequence[int]
    pictures: Sequence[int]

    @property
    def limits(self) -> tuple[int, int]:
        """First and last step: the base model alone is measured as step 0."""
        first, last = min(self.losses[0][:1] + self.held_out[0][:1]), self.losses[0][-1]
        return (first, last) if first < last else (first - 1, last + 1)


def loss_plot(
    metrics: Sequence[Mapping[str, Any]],
    title: str,
    run: str = "",
    checkpoints: Sequence[int] = (),
    pictures: Sequence[int] = (),
    others: Sequence[Curve] = (),
    theme: str = "light",
) -> Image.Image:
    """Plot the metrics of a run.

    Args:
        metrics: a record for each step, in order: `step` and, where measured, `loss`, `held_out_loss`,
            `held_out_by_sigma`, `learning_rate`, `grad_norm` and `sigma`.
        title: name of the run.
        run: its id, written small beside the figures.
        checkpoints, pictures: the steps at which they were made, marked below the curve.
        others: runs laid over it: their trend and held-out loss.
        theme: "light" or "dark".

    Returns:
        An RGB picture of `SIZE`. The loss axis is logarithmic if the trend spans more than a factor of ten.

    Raises:
        TrainingError: no step has been measured yet.
        ChartsMissing: matplotlib is not installed.
    """
    losses, held_out, rates, norms = (
        series(metrics, key) for key in ("loss", "held_out_loss", "learning_rate", "grad_norm")
    )
    if not losses[0]:
        raise TrainingError(
            f"The run '{title}' has no measured step yet, so there is no loss to plot. Let it train for a few steps."
        )
    smooth = trend(losses[1], max(2.0, TREND_SHARE * len(losses[1])))
    trained = [(step, loss) for step, loss in zip(*held_out, strict=True) if step > 0]
    best = min(trained, key=lambda each: each[1]) if len(trained) > 1 else None
    shown = _Shown(losses, smooth, held_out, rates, norms, best, checkpoints, pictures)
    colours = theme_of(theme)
    picture = _charts(shown, metrics, others[:MOST_OTHERS], colours)
    _draw_heading(picture, title, run, shown, colours)
    return picture


def _charts(shown: _Shown, metrics: Sequence[Mapping[str, Any]], others: Sequence[Curve], theme: Theme) -> Image.Image:
    figure = bare_figure(*SIZE, DOTS_PER_INCH, theme)
    counts, means = sigma_bins(metrics)
    at_sigmas = by_sigma(metrics)
    beside = bool(any(counts) or at_sigmas)
    names = [name for name, there in (("learning rate", shown.rates), ("gradient norm", shown.norms)) if there[0]]
    ratios = [HEIGHTS[name] for name in ("loss", *names)]
    right = 0.735 if beside else 1 - MARGIN
    legend_rows = math.ceil((OWN_ENTRIES + len(others)) / LEGEND_COLUMNS)
    room = _ROOM | {"top": _ROOM["top"] - 0.03 * max(0, legend_rows - 2)}
    below = figure.add_gridspec(len(ratios), 1, height_ratios=ratios, left=0.075, right=right, **room)
    axes = [figure.add_subplot(below[0])]
    axes += [figure.add_subplot(below[row + 1], sharex=axes[0]) for row in range(len(names))]
    for part, name in zip(axes, ("loss", *names), strict=True):
        calm(part, name, name_size=9, label_size=9, theme=theme)
        part.tick_params(labelbottom=part is axes[-1])
    _draw_losses(axes[0], shown, others, theme)
    for part, name in zip(axes[1:], names, strict=True):
        (_draw_rates if name == "learning rate" else _draw_norms)(part, shown, theme)
    axes[-1].set_xlabel("step", color=theme.quiet, fontsize=9)
    axes[-1].set_xlim(*_across(shown.limits, others))
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    if beside:
        _draw_sigmas(figure, counts, means, at_sigmas, theme)
    return as_picture(figure)


_ROOM = {"top": 0.8, "bottom": 0.1, "hspace": 0.34}


def _across(limits: tuple[int, int], others: Sequence[Curve]) -> tuple[int, int]:
    ends = [steps[-1] for curve in others if (steps := series(curve.metrics, "loss")[0])]
    return limits[0], max([limits[1], *ends])


def _draw_losses(axes: Axes, shown: _Shown, others: Sequence[Curve], theme: Theme) -> None:
    (steps, values), smooth, held_out = shown.losses, shown.smooth, shown.held_out
    line = 1.0 if len(steps) <= 500 else 0.6
    axes.plot(steps, values, color=theme.thin, linewidth=line, label="each step")
    axes.plot(steps, smooth, color=theme.blue, linewidth=2.2, solid_capstyle="round", label="trend")
    if len(steps) == 1:
        axes.plot(steps, values, color=theme.blue, marker="o", markersize=5.5)
    style = {"linewidth": 1.2, "marker": "o", "markersize": 5.5, "markeredgecolor": theme.paper, "clip_on": False}
    if held_out[0]:
        axes.plot(*held_out, color=theme.rust, label="held out", zorder=3, **style)
    always = smooth + held_out[1]
    for number, curve in enumerate(others):
        always += _draw_other(axes, curve, theme.more[number % len(theme.more)], theme)
    if min(values) > 0 and max(smooth) / min(smooth) > LOGARITHMIC_FROM:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    else:
        axes.set_ylim(*_range(values, always))
    _draw_marks(axes, shown, theme)
    place = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.015), "borderaxespad": 0, "ncols": LEGEND_COLUMNS}
    legend = axes.legend(
        **place, frameon=False, fontsize=9, handlelength=1.4, columnspacing=1.4, labelcolor=theme.quiet
    )
    legend.set_in_layout(False)


def _draw_other(axes: Axes, curve: Curve, colour: str, theme: Theme) -> list[float]:
    """Another run's trend and held-out loss; gives back what has to lie within the axes."""
    losses, held_out = series(curve.metrics, "loss"), series(curve.metrics, "held_out_loss")
    if not losses[0]:
        return []
    smooth = trend(losses[1], max(2.0, TREND_SHARE * len(losses[1])))
    axes.plot(losses[0], smooth, color=colour, linewidth=1.7, label=plain(_named(curve.name)))
    if held_out[0]:
        style = {"linewidth": 1.0, "linestyle": (0, (3, 2)), "marker": "o", "markersize": 4}
        axes.plot(*held_out, color=colour, markeredgecolor=theme.paper, clip_on=False, zorder=3, **style)
    return smooth + held_out[1]


def _named(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…"


def _draw_marks(axes: Axes, shown: _Shown, theme: Theme) -> None:
    """Where checkpoints and pictures were made, on the lower edge; and the best step as a line."""
    at_edge = {"transform": axes.get_xaxis_transform(), "linestyle": "none", "clip_on": False, "zorder": 4}
    for steps, marker, height, name in (
        (shown.checkpoints, "^", 0.0, "checkpoint"),
        (shown.pictures, "s", 0.035, "pictures"),
    ):
        if 0 < len(steps) <= MOST_MARKS:
            marks = {"marker": marker, "markersize": 4.5, "color": theme.quiet, "markeredgewidth": 0}
            axes.plot(steps, [height] * len(steps), label=name, **marks, **at_edge)
    if shown.best:
        axes.axvline(shown.best[0], color=theme.rust, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        axes.plot([shown.best[0]], [1.0], marker="v", markersize=6, color=theme.rust, label="best", **at_edge)


def _range(values: list[float], always: list[float]) -> tuple[float, float]:
    """Limits that hold the middle 98 % of the single steps and all of `always`: no outlier flattens the rest."""
    ordered = sorted(values)
    cut = len(ordered) // 100
    low, high = min(ordered[cut], *always), max(ordered[-1 - cut], *always)
    room = 0.06 * (high - low) or 0.1 * abs(high) or 0.1
    return low - room, high + room


def _draw_rates(axes: Axes, shown: _Shown, theme: Theme) -> None:
    axes.plot(*shown.rates, color=theme.quiet, linewidth=1.4)
    axes.fill_between(*shown.rates, color=theme.hairline, linewidth=0)
    top = max(shown.rates[1]) or 1.0
    axes.set_ylim(0, 1.15 * top)
    axes.set_yticks([0, top], ["0", _short(top)])


def _draw_norms(axes: Axes, shown: _Shown, theme: Theme) -> None:
    steps, values = shown.norms
    smooth = trend(values, max(2.0, TREND_SHARE * len(values)))
    axes.plot(steps, values, color=theme.thin, linewidth=0.6)
    axes.plot(steps, smooth, color=theme.quiet, linewidth=1.4)
    low, high = _range(values, smooth)
    axes.set_ylim(max(0.0, low), high)
    top = max(smooth) or 1.0
    axes.set_yticks([0, top] if low <= 0 else [top], ["0", _short(top)] if low <= 0 else [_short(top)])


def _short(value: float) -> str:
    return f"{value:.2g}".replace("e-0", "e-")


def _draw_sigmas(
    figure: Figure, counts: list[int], means: list[float], at_sigmas: Mapping[float, Series], theme: Theme
) -> None:
    """Which sigmas were trained on, and beneath, how well each does: held out where that was measured, else trained."""
    beside = figure.add_gridspec(2, 1, left=0.795, right=1 - MARGIN, **_ROOM)
    upper, lower = figure.add_subplot(beside[0]), figure.add_subplot(beside[1])
    middles = [(place + 0.5) / BINS for place in range(BINS)]
    if any(counts):
        calm(upper, "steps by sigma", name_size=9, label_size=9, theme=theme)
        upper.bar(middles, counts, width=0.9 / BINS, color=theme.blue)
        upper.set_xlim(0, 1)
        upper.yaxis.get_major_locator().set_params(integer=True, nbins=4)
    else:
        upper.set_visible(False)
    if at_sigmas:
        calm(lower, "held out, by sigma", name_size=9, label_size=9, theme=theme)
        shades = (theme.blue, *theme.more, theme.rust)
        for number, (sigma, (steps, losses)) in enumerate(at_sigmas.items()):
            colour = shades[number % len(shades)]
            lower.plot(steps, losses, color=colour, linewidth=1.5, marker="o", markersize=3, label=f"{sigma:g}")
        lower.xaxis.get_major_locator().set_params(integer=True, nbins=4)
        every = [loss for _, losses in at_sigmas.values() for loss in losses]
        span = max(every) - min(every) or 0.1 * abs(every[0]) or 0.1
        lower.set_ylim(min(every) - 0.1 * span, max(every) + 0.6 * span)  # room for the legend
        place = {"loc": "upper right", "ncols": 2, "borderaxespad": 0, "columnspacing": 1.0, "handlelength": 1.0}
        lower.legend(**place, frameon=False, fontsize=8, labelcolor=theme.quiet)
        lower.set_xlabel("step", color=theme.quiet, fontsize=9)
    else:
        calm(lower, "loss by sigma", name_size=9, label_size=9, theme=theme)
        found = [(at, mean) for at, mean in zip(middles, means, strict=True) if math.isfinite(mean)]
        lower.plot(*zip(*found, strict=True), color=theme.blue, linewidth=1.7, marker="o", markersize=3.5)
        lower.set_xlim(0, 1)
        lower.set_xlabel("sigma", color=theme.quiet, fontsize=9)


def _draw_heading(picture: Image.Image, title: str, run: str, shown: _Shown, theme: Theme) -> None:
    """Written like the grid's title, and not by matplotlib, which would let a long name run out of the picture; in the
    font of its letters."""
    draw = ImageDraw.Draw(picture)
    left, large, small = round(MARGIN * picture.width), round(0.042 * picture.height), round(0.02 * picture.height)
    note = f"step {shown.losses[0][-1]},  trend {shown.smooth[-1]:.4f}"
    held_out = shown.held_out[1]
    if len(held_out) > 1:
        note += f",  held-out loss {held_out[0]:.4f} at first and {held_out[-1]:.4f} now"
    if shown.best:
        note += f",  best {shown.best[1]:.4f} at step {shown.best[0]}"
    if run and run != title:
        note += f",  run {run}"
    room = picture.width - 2 * left
    for text, top, size, colour in ((title, -0.25, large, theme.ink), (note, 1.1, small, theme.quiet)):
        line = shortened(text, size, room, first=CHART_FONT)
        draw_text(draw, (left, left + top * large), line, size, colour, CHART_FONT)
