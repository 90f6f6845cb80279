"""The trials of a sweep as parallel coordinates: an axis for each setting, a line for each trial, the best last."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

from PIL import Image

from ..drawing.charts import as_picture, calm, new_figure, plain
from ..drawing.palette import LIGHT, Theme

SIZE = (1400, 700)  # width and height, pixels
WIDE = 8  # times the smallest is the largest, from which on an axis is logarithmic
LEAST_GAP = 0.045  # of an axis, between two labels: nearer ones would be written over each other


class TrialToDraw(Protocol):
    """What `trainers.sweep.Trial` looks like from here."""

    @property
    def chosen(self) -> Mapping[str, int | float | str | bool]: ...
    @property
    def loss(self) -> float: ...
    @property
    def steps(self) -> int: ...


class CriterionToDraw(Protocol):
    """What `trainers.sweep.Criterion` looks like from here."""

    @property
    def axis(self) -> str: ...
    def value(self, loss: float) -> float: ...


def sweep_chart(
    trials: Sequence[TrialToDraw], criterion: CriterionToDraw, title: str, theme: Theme = LIGHT
) -> Image.Image:
    """Lines that go further in training are darker; the last axes are how far, and what they are compared by there.

    Args:
        trials: the best first; those that failed are left out.
    """
    drawn = [trial for trial in trials if math.isfinite(trial.loss)]
    settings = list(drawn[0].chosen)
    names = [*settings, "steps trained", criterion.axis]
    columns = [_heights([trial.chosen[name] for trial in drawn]) for name in settings]
    columns += [_heights([trial.steps for trial in drawn]), _heights([criterion.value(trial.loss) for trial in drawn])]
    figure = new_figure(*SIZE, title, theme)
    axes = figure.add_axes((0.06, 0.1, 0.88, 0.72))
    calm(axes, "each line a trial; dark ones were trained longer, the best is marked", grid="x", theme=theme)
    axes.set_yticks([])
    axes.set_xlim(-0.2, len(names) - 0.6)
    axes.set_ylim(-0.06, 1.1)
    axes.set_xticks(range(len(names)), [plain(name.replace("_", " ")) for name in names], fontsize=10, color=theme.ink)
    longest = max(trial.steps for trial in drawn)
    for place in reversed(range(len(drawn))):
        heights = [column[place] for column, _ in columns]
        best = place == 0
        axes.plot(
            range(len(names)),
            heights,
            color=theme.rust if best else theme.blue,
            alpha=1.0 if best else 0.2 + 0.6 * drawn[place].steps / longest,
            linewidth=2.6 if best else 1.2,
            marker="o",
            markersize=6 if best else 3,
        )
    for across, (_, ticks) in enumerate(columns):
        for height, label in ticks:
            axes.annotate(
                plain(label),
                (across, height),
                (6, 7),  # above the line, which often goes on level
                textcoords="offset points",
                fontsize=10,
                color=theme.ink,
                bbox={"boxstyle": "square,pad=0", "facecolor": theme.paper, "edgecolor": "none", "alpha": 0.6},
                zorder=3,
            )
    return as_picture(figure)


def _heights(values: Sequence[int | float | str | bool]) -> tuple[list[float], list[tuple[float, str]]]:
    """Where each value stands between 0 and 1, and what stands beside the axis: numbers in order, logarithms where they
    differ widely; words one above the other.
    """
    numbers = [float(value) for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) < len(values):
        words = sorted({str(value) for value in values})
        at = {word: index / max(1, len(words) - 1) for index, word in enumerate(words)}
        return [at[str(value)] for value in values], [(height, word) for word, height in at.items()]
    low, high = min(numbers), max(numbers)
    scale = math.log if low > 0 and high / low >= WIDE else float
    span = scale(high) - scale(low) or 1.0
    heights = [(scale(number) - scale(low)) / span for number in numbers]
    shown: list[tuple[float, str]] = []
    for height, number in sorted(zip(heights, numbers, strict=True)):
        if not shown or height - shown[-1][0] >= LEAST_GAP:
            shown.append((height, f"{number:.4g}"))
    return heights, shown
