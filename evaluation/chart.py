"""The scores of all checkpoints as a picture: style gained, content kept, and how sure that is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy
from PIL import Image

from ..drawing.charts import as_picture, calm, new_figure
from ..drawing.palette import LIGHT, Theme
from .scores import Scores
from .verdict import StepVerdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = (1400, 760)  # width and height, pixels
MARKERS = ("o", "s", "^", "D")


def chart(scores: Scores, judged: StepVerdict, title: str, theme: Theme = LIGHT) -> Image.Image:
    """Charts over the steps: where each measure of style places them, how much of the composition they keep, and, where
    a CLIP tells, how well they fit their prompts."""
    figure = new_figure(*SIZE, title, theme)
    fitting = scores.adherence
    style, content, *further = figure.subplots(1, 3 if fitting else 2)
    figure.subplots_adjust(left=0.06, right=0.975, top=0.8, bottom=0.1, wspace=0.16)
    steps = list(scores.painted.steps)
    calm(style, "style: 0 the base model, 1 the training set", theme=theme)
    for number, measure in enumerate(scores.style):
        believed = measure.calibration.trusted
        name = (
            f"{measure.name} (AUC {measure.calibration.auc:.2f})"
            if believed
            else f"{measure.name}: not to be believed here (AUC {measure.calibration.auc:.2f})"
        )
        _line(
            style,
            scores,
            measure.placed,
            steps,
            theme,
            (theme.blue, theme.rust, *theme.more)[number % 6] if believed else theme.thin,
            name,
            number,
        )
    for value in (0, 1):
        style.axhline(value, color=theme.quiet, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    calm(content, "the base model's composition kept: 1 all of it, 0 none", theme=theme)
    _line(content, scores, scores.content, steps, theme, theme.blue, "composition", 0)
    content.set_ylim(min(-0.05, content.get_ylim()[0]), 1.05)
    if fitting:
        name = f"fits its prompt: cosine by CLIP (AUC {fitting.auc:.2f})"
        calm(further[0], name if fitting.trusted else f"{name}: not to be believed here", theme=theme)
        _line(further[0], scores, fitting.columns, steps, theme, theme.blue if fitting.trusted else theme.thin, name, 0)
    for axes in (style, content, *further):
        axes.set_xlabel("step", color=theme.quiet, fontsize=9)
        axes.set_xticks(steps)
        if judged.keep is not None:
            axes.axvline(judged.keep, color=theme.ink, linewidth=0.9, zorder=1)
            axes.annotate(
                "keep", (judged.keep, 1), xycoords=("data", "axes fraction"), xytext=(4, -4), fontsize=9,
                color=theme.ink, textcoords="offset points", va="top",
            )  # fmt: skip
    style.legend(
        loc="lower left", bbox_to_anchor=(0, 1.07), borderaxespad=0, ncols=min(3, len(scores.style)), frameon=False,
        fontsize=9, labelcolor=theme.quiet,
    )  # fmt: skip
    return as_picture(figure)


def _line(
    axes: Axes,
    scores: Scores,
    columns: tuple[numpy.ndarray, ...],
    steps: list[int],
    theme: Theme,
    colour: str,
    name: str,
    number: int,
) -> None:
    found = [scores.interval(values) for values in columns]
    axes.fill_between(steps, [one.low for one in found], [one.high for one in found], color=colour, alpha=0.14, lw=0)
    marker = {"marker": MARKERS[number % len(MARKERS)], "markersize": 6, "markeredgecolor": theme.paper}
    axes.plot(steps, [one.mean for one in found], color=colour, linewidth=2, label=name, **marker)
