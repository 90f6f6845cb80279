"""An evaluation on disk: its figures as JSON, and a page of HTML that holds all it shows, to send to somebody."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from PIL import Image

from ..drawing.page import escaped, image, table, whole
from .scores import Interval, Scores
from .verdict import StepVerdict, share

COPIES_SHOWN = 12
SHOWN_SIDE = 192  # pixels of a copy and its original on the page


def as_json(scores: Scores, judged: StepVerdict, settings: dict[str, Any]) -> dict[str, Any]:
    """Every figure of an evaluation, as plain values."""
    painted = scores.painted
    return {
        "verdict": {"keep": judged.keep, "equal": list(judged.equal), "why": list(judged.sentences)},
        "settings": settings,
        "prompts": [painted.texts[row] for row in painted.rows],
        "measures": [
            {"name": style.name, "auc": round(style.calibration.auc, 4), "trusted": style.calibration.trusted}
            for style in scores.style
        ],
        "copy_limit": round(scores.limit, 4),
        "steps": [
            {
                "step": step,
                "style": {style.name: _interval(scores.interval(style.placed[column])) for style in scores.style},
                "content": _interval(scores.interval(scores.content[column])),
                "diversity": scores.diversity[column],
                "copies": [
                    {
                        "prompt": painted.texts[painted.rows[copy.picture]],
                        "training_picture": copy.training,
                        "likeness": round(copy.likeness, 4),
                    }
                    for copy in scores.copies[column]
                ],
            }
            for column, step in enumerate(painted.steps)
        ],
    }


def _interval(found: Interval) -> dict[str, float]:
    return {"mean": round(found.mean, 4), "low": round(found.low, 4), "high": round(found.high, 4)}


def page(
    title: str,
    scores: Scores,
    judged: StepVerdict,
    pictures: Iterable[tuple[str, Image.Image]],
    training: Sequence[Image.Image],
    settings: dict[str, Any],
    more: Sequence[str] = (),
) -> str:
    """The evaluation as one file of HTML that needs nothing beside it and loads nothing.

    Args:
        title: whose evaluation it is.
        pictures: shown large, each with its heading.
        training: the training pictures that `Copy.training` counts.
        settings: names and values, told in a table.
        more: further parts, as HTML.
    """
    parts = [f"<p>{escaped(sentence)}</p>" for sentence in judged.sentences]
    for heading, picture in pictures:
        parts.append(f"<h2>{escaped(heading)}</h2>{image(picture, heading)}")
    parts += [f"<h2>Scores</h2>{_table(scores)}", _explanation(scores), _copies(scores, training)]
    parts.append(f"<h2>Settings of the pictures</h2>{table(settings)}")
    return whole(title, [*parts, *more])


def _table(scores: Scores) -> str:
    names = [style.name for style in scores.style]
    head = "".join(f"<th>{escaped(name)}</th>" for name in ("step", *names, "composition kept", "diversity", "copies"))
    rows = []
    for column, step in enumerate(scores.painted.steps):
        diversity = scores.diversity[column]
        cells = [
            str(step) if column else "base model",
            *(share(scores.interval(style.placed[column])) for style in scores.style),
            share(scores.interval(scores.content[column])),
            "one seed" if diversity is None else f"{100 * diversity:.0f} %",
            str(len(scores.copies[column])),
        ]
        rows.append("<tr>" + "".join(f"<td>{escaped(cell)}</td>" for cell in cells) + "</tr>")
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _explanation(scores: Scores) -> str:
    told = "; ".join(
        f"{style.name} {style.calibration.auc:.2f}" + ("" if style.calibration.trusted else ", not to be believed")
        for style in scores.style
    )
    return (
        '<p class="quiet">A measure of style places a picture between the base model (0 %) and the training set '
        "(100 %), by a direction fitted on other pictures of both. In brackets: between which values the mean lies "
        "with a certainty of 98 %, as far as these prompts tell. How often each measure tells a picture of the set "
        f"from one of the base model (AUC; 0.5 is guessing, under 0.7 its scores mean nothing): {escaped(told)}.</p>"
    )


def _copies(scores: Scores, training: Sequence[Image.Image]) -> str:
    found = [(column, copy) for column, copies in enumerate(scores.copies) for copy in copies if column]
    if not found:
        return "<h2>Copies</h2><p>No picture repeats one of the training set.</p>"
    shown = []
    for column, copy in sorted(found, key=lambda pair: -pair[1].likeness)[:COPIES_SHOWN]:
        picture = scores.painted.pictures[scores.painted.rows[copy.picture], column]
        prompt = scores.painted.texts[scores.painted.rows[copy.picture]]
        caption = f"step {scores.painted.steps[column]}, likeness {copy.likeness:.2f}: {prompt}"
        pair = image(_small(picture), caption) + " " + image(_small(training[copy.training]), "the training picture")
        shown.append(f"<figure>{pair}<figcaption>{escaped(caption)}</figcaption></figure>")
    return f"<h2>Copies: painted left, training picture right ({len(found)})</h2>{''.join(shown)}"


def _small(picture: Image.Image) -> Image.Image:
    small = picture.convert("RGB")
    small.thumbnail((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.LANCZOS)
    return small


def dumped(figures: dict[str, Any]) -> str:
    return json.dumps(figures, ensure_ascii=False, indent=1) + "\n"
