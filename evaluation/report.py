"""An evaluation on disk: its figures as JSON, and a page of HTML that holds all it shows, to send to somebody."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Iterable, Sequence
from typing import Any

from PIL import Image

from .scores import Interval, Scores
from .verdict import StepVerdict, share

COPIES_SHOWN = 12
SHOWN_SIDE = 192  # pixels of a copy and its original on the page
QUALITY = 88  # of JPEG

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title><style>
:root {{ color-scheme: light dark; --paper: #f5f4f1; --ink: #262422; --quiet: #6b655d; --line: #dedad2; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --paper: #1d1c1a; --ink: #eceae5; --quiet: #a8a196; --line: #3a3733; }} }}
body {{ background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto;
  max-width: 70rem; padding: 0 1rem; }}
h1 {{ font-size: 1.5rem; }} h2 {{ font-size: 1.1rem; margin-top: 2.5rem; }}
img {{ max-width: 100%; height: auto; }} figure {{ display: inline-block; margin: 0 1rem 1rem 0; }}
figcaption, .quiet {{ color: var(--quiet); font-size: .875rem; }}
table {{ border-collapse: collapse; }} th, td {{ text-align: right; padding: .25rem .9rem .25rem 0;
  border-bottom: 1px solid var(--line); font-variant-numeric: tabular-nums; }} 
th:first-child, td:first-child {{ text-align: left; }}
</style></head><body>
{body}
</body></html>
"""


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
) -> str:
    """The evaluation as one file of HTML that needs nothing beside it and loads nothing.

    Args:
        title: whose evaluation it is.
        pictures: shown large, each with its heading.
        training: the training pictures that `Copy.training` counts.
        settings: names and values, told in a table.
    """
    parts = [f"<h1>{_text(title)}</h1>", *(f"<p>{_text(sentence)}</p>" for sentence in judged.sentences)]
    for heading, picture in pictures:
        parts.append(f"<h2>{_text(heading)}</h2>{_image(picture, heading)}")
    parts += [f"<h2>Scores</h2>{_table(scores)}", _explanation(scores), _copies(scores, training), _settings(settings)]
    return _PAGE.format(title=_text(title), body="\n".join(parts))


def _table(scores: Scores) -> str:
    names = [style.name for style in scores.style]
    head = "".join(f"<th>{_text(name)}</th>" for name in ("step", *names, "composition kept", "diversity", "copies"))
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
        rows.append("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in cells) + "</tr>")
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
        f"from one of the base model (AUC; 0.5 is guessing, under 0.7 its scores mean nothing): {_text(told)}.</p>"
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
        pair = _image(_small(picture), caption) + " " + _image(_small(training[copy.training]), "the training picture")
        shown.append(f"<figure>{pair}<figcaption>{_text(caption)}</figcaption></figure>")
    return f"<h2>Copies: painted left, training picture right ({len(found)})</h2>{''.join(shown)}"


def _settings(settings: dict[str, Any]) -> str:
    rows = "".join(f"<tr><td>{_text(name)}</td><td>{_text(str(value))}</td></tr>" for name, value in settings.items())
    return f"<h2>Settings</h2><table>{rows}</table>"


def _small(picture: Image.Image) -> Image.Image:
    small = picture.convert("RGB")
    small.thumbnail((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.LANCZOS)
    return small


def _image(picture: Image.Image, words: str) -> str:
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=QUALITY)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img src="data:image/jpeg;base64,{data}" alt="{_text(words)}" width="{picture.width}">'


def _text(words: str) -> str:
    return html.escape(words, quote=True)


def dumped(figures: dict[str, Any]) -> str:
    return json.dumps(figures, ensure_ascii=False, indent=1) + "\n"
