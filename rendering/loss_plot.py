"""The loss curve of a run as a picture: every step thin, its trend bold, the held-out loss as marked points."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw

from ..drawing.charts import as_picture, bare_figure, calm
from ..drawing.lettering import draw_text, shortened
from ..drawing.palette import BLUE, HAIRLINE, INK, PAPER, QUIET, RUST, THIN
from ..errors import TrainingError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TREND_SHARE = 1 / 25  # of the run's length: the time constant of the trend
LOGARITHMIC_FROM = 10.0  # ratio of the highest to the lowest trend value
SIZE = (1600, 1000)  # width and height, pixels
DOTS_PER_INCH = 160
MARGIN = 0.035  # of the width

Series = tuple[list[int], list[float]]  # steps, values


def loss_plot(metrics: Sequence[Mapping[str, Any]], title: str) -> Image.Image:
    """Plot the metrics of a run.

    Args:
        metrics: a record for each step, in order: `step` and, where measured, `loss`, `held_out_loss` and
            `learning_rate`.
        title: name of the run.

    Returns:
        An RGB picture of `SIZE`. The loss axis is logarithmic if the trend spans more than a factor of ten.

    Raises:
        TrainingError: no step has been measured yet.
    """
    losses, held_out, rates = (_series(metrics, key) for key in ("loss", "held_out_loss", "learning_rate"))
    if not losses[0]:
        raise TrainingError(
            f"The run '{title}' has no measured step yet, so there is no loss to plot. Let it train for a few steps."
        )
    smooth = trend(losses[1], max(2.0, TREND_SHARE * len(losses[1])))
    picture = _charts(losses, smooth, held_out, rates)
    _draw_heading(picture, title, losses[0][-1], smooth[-1], held_out[1])
    return picture


def trend(values: Sequence[float], time_constant: float) -> list[float]:
    """Average around each value with weights that fall by e in `time_constant` steps, into the past and the future.

    Unlike an exponential moving average it neither lags behind nor starts at the first, noisy value.
    """
    keep = math.exp(-1 / time_constant)
    ahead = reversed(_running_sums(reversed(values), keep))
    behind = _running_sums(values, keep)
    # Both sums hold the value itself; it is to count once.
    return [
        (past + future - value) / (past_weight + future_weight - 1)
        for (past, past_weight), (future, future_weight), value in zip(behind, ahead, values, strict=True)
    ]


def _running_sums(values: Iterable[float], keep: float) -> list[tuple[float, float]]:
    """After each value: the sum of all so far, weighted by `keep` to the power of their age, and of those weights."""
    weighted, weight, sums = 0.0, 0.0, []
    for value in values:
        weighted, weight = keep * weighted + value, keep * weight + 1
        sums.append((weighted, weight))
    return sums


def _series(records: Sequence[Mapping[str, Any]], key: str) -> Series:
    """Steps and values of `key`, finite ones only: a run stops at a loss that is not."""
    found = [(record["step"], float(record[key])) for record in records if isinstance(record.get(key), (int, float))]
    finite = [(step, value) for step, value in found if math.isfinite(value)]
    return [step for step, _ in finite], [value for _, value in finite]


def _charts(losses: Series, smooth: list[float], held_out: Series, rates: Series) -> Image.Image:
    figure = bare_figure(*SIZE, DOTS_PER_INCH)
    ratios = (6, 1) if rates[0] else (1,)
    axes = figure.subplots(len(ratios), 1, sharex=True, squeeze=False, height_ratios=ratios)[:, 0]
    figure.subplots_adjust(left=0.075, right=1 - MARGIN, top=0.8, bottom=0.1, hspace=0.24)
    for part, name in zip(axes, ("loss", "learning rate"), strict=False):
        calm(part, name, name_size=9, label_size=9)
    _draw_losses(axes[0], losses, smooth, held_out)
    if rates[0]:
        _draw_rates(axes[1], rates)
    axes[-1].set_xlabel("step", color=QUIET, fontsize=9)
    first, last = min(losses[0][:1] + held_out[0][:1]), losses[0][-1]  # the base model alone is measured as step 0
    axes[-1].set_xlim(*((first, last) if first < last else (first - 1, last + 1)))
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    return as_picture(figure)


def _draw_losses(axes: Axes, losses: Series, smooth: list[float], held_out: Series) -> None:
    steps, values = losses
    line = 0.9 if len(steps) <= 500 else 0.5
    axes.plot(steps, values, color=THIN, linewidth=line, label="each step")
    axes.plot(steps, smooth, color=BLUE, linewidth=2.2, solid_capstyle="round", label="trend")
    if len(steps) == 1:
        axes.plot(steps, values, color=BLUE, marker="o", markersize=5.5)
    if held_out[0]:
        style = {"linewidth": 1.2, "marker": "o", "markersize": 5.5, "markeredgecolor": PAPER, "clip_on": False}
        axes.plot(*held_out, color=RUST, label="held out", zorder=3, **style)
    if min(values) > 0 and max(smooth) / min(smooth) > LOGARITHMIC_FROM:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    else:
        axes.set_ylim(*_range(values, smooth + held_out[1]))
    place = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.015), "borderaxespad": 0, "ncols": 3}
    axes.legend(**place, frameon=False, fontsize=9, handlelength=1.4, columnspacing=1.6, labelcolor=QUIET)


def _range(values: list[float], always: list[float]) -> tuple[float, float]:
    """Limits that hold the middle 98 % of the single steps and all of `always`: no outlier flattens the rest."""
    ordered = sorted(values)
    cut = len(ordered) // 100
    low, high = min(ordered[cut], *always), max(ordered[-1 - cut], *always)
    room = 0.06 * (high - low) or 0.1 * abs(high) or 0.1
    return low - room, high + room


def _draw_rates(axes: Axes, rates: Series) -> None:
    axes.plot(*rates, color=QUIET, linewidth=1.4)
    axes.fill_between(*rates, color=HAIRLINE, linewidth=0)
    top = max(rates[1]) or 1.0
    axes.set_ylim(0, 1.15 * top)
    axes.set_yticks([0, top], ["0", f"{top:.2g}".replace("e-0", "e-")])


def _draw_heading(picture: Image.Image, title: str, last: int, now: float, held_out: list[float]) -> None:
    """Written like the grid's title, and not by matplotlib, which would let a long name run out of the picture."""
    draw = ImageDraw.Draw(picture)
    left, large, small = round(MARGIN * picture.width), round(0.046 * picture.height), round(0.022 * picture.height)
    note = f"step {last},  trend {now:.4f}"
    if len(held_out) > 1:
        note += f",  held-out loss {held_out[0]:.4f} at first and {held_out[-1]:.4f} now"
    draw_text(draw, (left, left - 0.25 * large), shortened(title, large, picture.width - 2 * left), large, INK)
    draw_text(draw, (left, left + 1.1 * large), shortened(note, small, picture.width - 2 * left), small, QUIET)
