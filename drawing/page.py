"""Pages of HTML that hold all they show and load nothing, to be sent to somebody: their look, and their parts."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping

from PIL import Image

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
<h1>{title}</h1>
{body}
</body></html>
"""


def whole(title: str, parts: Iterable[str]) -> str:
    """A page with this heading; `parts` are HTML."""
    return _PAGE.format(title=escaped(title), body="\n".join(parts))


def table(rows: Mapping[str, object]) -> str:
    """Names and values, a row each."""
    cells = (f"<tr><td>{escaped(name)}</td><td>{escaped(str(value))}</td></tr>" for name, value in rows.items())
    return f"<table>{''.join(cells)}</table>"


def image(picture: Image.Image, words: str) -> str:
    """A picture in the page itself, with the words of those who do not see it."""
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=QUALITY)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img src="data:image/jpeg;base64,{data}" alt="{escaped(words)}" width="{picture.width}">'


def escaped(words: str) -> str:
    """Words as HTML, attributes included."""
    return html.escape(words, quote=True)
