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
        **_told_of_networks(scores),
        "copy_limit": round(scores.limit, 4),
        "steps": [
            {
                "step": step,
                "style": {style.name: _interval(scores.interval(style.placed[column])) for style in scores.style},
                "content": _interval(scores.interval(scores.content[column])),
                "diversity": scores.diversity[column],
                **_by_networks(scores, column),
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


def _told_of_networks(scores: Scores) -> dict[str, Any]:
    """What only an image network tells; nothing where there is none."""
    told: dict[str, Any] = {}
    if fitting := scores.adherence:
        told["adherence"] = {"auc": round(fitting.auc, 4), "trusted": fitting.trusted}
    return told | ({"too_few_for_distances": scores.too_few} if scores.too_few else {})


def _by_networks(scores: Scores, column: int) -> dict[str, Any]:
    told: dict[str, Any] = {}
    if fitting := scores.adherence:
        told["adherence"] = _interval(scores.interval(fitting.columns[column]))
    if scores.distances:
        told["distances"] = {
            one.name: dict(zip(("estimate", "spread"), map(_four_digits, one.columns[column]), strict=True))
            for one in scores.distances
        }
    return told


def _four_digits(value: float) -> float:
    return float(f"{value:.4g}")


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
    fitting = scores.adherence
    names = [
        *((style.name, style.calibration.trusted) for style in scores.style),
        ("composition kept", True),
        *([("fits its prompt", fitting.trusted)] if fitting else []),
        *((distance.name, True) for distance in scores.distances),
        ("diversity", True),
        ("copies", True),
    ]
    head = "".join(_cell(name, believed, "th") for name, believed in [("step", True), *names])
    rows = []
    for column, step in enumerate(scores.painted.steps):
        diversity = scores.diversity[column]
        cells = [
            *(share(scores.interval(style.placed[column])) for style in scores.style),
            share(scores.interval(scores.content[column])),
            *([_cosine(scores.interval(fitting.columns[column]))] if fitting else []),
            *("{:.3g} ± {:.1g}".format(*distance.columns[column]) for distance in scores.distances),
            "one seed" if diversity is None else f"{100 * diversity:.0f} %",
            str(len(scores.copies[column])),
        ]
        told = "".join(_cell(cell, believed) for cell, (_, believed) in zip(cells, names, strict=True))
        rows.append(f"<tr>{_cell(str(step) if column else 'base model')}{told}</tr>")
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _cell(words: str, believed: bool = True, kind: str = "td") -> str:
    """What is not to be believed is grey, and says so to those who do not see it."""
    quiet = "" if believed else ' class="quiet" title="not to be believed here"'
    return f"<{kind}{quiet}>{escaped(words)}</{kind}>"


def _cosine(found: Interval) -> str:
    return f"{found.mean:.3f} ({found.low:.3f} to {found.high:.3f})"


def _explanation(scores: Scores) -> str:
    told = "; ".join(_believed(style.name, style.calibration.auc, style.calibration.trusted) for style in scores.style)
    said = [
        "A measure of style places a picture between the base model (0 %) and the training set (100 %), by a direction "
        "fitted on other pictures of both, or, with CSLS, by its nearest neighbours among both. In brackets: between "
        "which values the mean lies with a certainty of 98 %, as far as these prompts tell. How often each measure "
        "tells a picture of the set from one of the base model (AUC; 0.5 is guessing, under 0.7 its scores mean "
        f"nothing and are grey): {told}."
    ]
    if fitting := scores.adherence:
        said.append(
            "How well a picture fits its prompt is the cosine of the two in CLIP's space; compare it with the base "
            "model's. How often CLIP tells the base model's pictures' own prompts from the others: "
            f"{_believed('AUC', fitting.auc, fitting.trusted)}."
        )
    if scores.distances:
        said.append(
            "KID and CMMD are distances of all pictures of a step from the set's, 0 where they cannot be told apart, "
            "with one standard error; what the pictures show counts in them as their style does."
        )
    return "".join(f'<p class="quiet">{escaped(sentence)}</p>' for sentence in [*said, *filter(None, [scores.too_few])])


def _believed(name: str, auc: float, trusted: bool) -> str:
    return f"{name} {auc:.2f}" + ("" if trusted else ", not to be believed")


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
