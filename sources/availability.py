"""How many paintings of each label a source had for a dataset: kept with it, for whoever composes further on."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..dataset.labels import artist_name, label_key
from ..files import parsed_json, write_changed
from .plan import Cell
from .quotas import Quota

AVAILABLE = "available.json"  # in the dataset's folder


def write_available(folder: Path, cells: Sequence[Cell]) -> None:
    """Keep how many paintings of each style, genre and artist the source had to offer."""
    counts = Counter((row.style, row.genre, artist_name(row.artist)) for row in {row for c in cells for row in c.pool})
    content = json.dumps(sorted([*labels, count] for labels, count in counts.items()))
    write_changed(folder / AVAILABLE, content)


def available_in_source(folder: Path, quota: Quota) -> int | None:
    """How many paintings the source of a dataset had for a quota; None where nobody knows (captions, other loaders)."""
    if quota.kind == "caption":
        return None
    place = ("style", "genre", "artist").index(quota.kind)
    with contextlib.suppress(FileNotFoundError, ValueError):  # never written, or damaged: nobody knows
        cells = parsed_json((folder / AVAILABLE).read_bytes())
        return sum(cell[3] for cell in cells if label_key(cell[place]) == label_key(quota.label))
    return None
