"""How many paintings of what: quotas as people write them, and how well each was filled."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..dataset.labels import label_key
from ..errors import SettingsError

KINDS = ("genre", "style", "artist", "caption")


class Labelled(Protocol):
    """A row of a source or a record of a dataset."""

    @property
    def artist(self) -> str: ...
    @property
    def genre(self) -> str: ...
    @property
    def style(self) -> str: ...
    @property
    def text(self) -> str: ...


@dataclass(frozen=True)
class Quota:
    """A cell of a composition: `count` paintings whose `kind` is `label`."""

    kind: str  # one of KINDS; "caption" holds where the caption has the label's words, in their order
    label: str
    count: int

    @property
    def name(self) -> str:
        return self.label if self.kind == "genre" else f"{self.kind} {self.label}"

    def holds(self, painting: Labelled) -> bool:
        wanted = label_key(self.label)
        if self.kind == "caption":
            return f" {wanted} " in f" {label_key(painting.text)} "
        return label_key(getattr(painting, self.kind)) == wanted


@dataclass(frozen=True)
class Filled:
    """How one cell came out. None where it is not known, or makes no sense."""

    name: str
    asked: int
    available: int | None = None  # in the source
    passed: int | None = None  # in the dataset that came in, after filters
    taken: int | None = None
    spare: int | None = None  # of those taken, over what was asked for


def parse_quotas(lines: str, kind: str = "genre") -> tuple[Quota, ...]:
    """Quotas written as lines of `label: count`, or `kind=label: count` for another kind than `kind`.

    Raises:
        SettingsError: a line has another form, a count is below 1, or a cell is there twice.
    """
    quotas: dict[tuple[str, str], Quota] = {}
    for line in filter(None, map(str.strip, lines.splitlines())):
        label, _, count = (part.strip() for part in line.rpartition(":"))
        named, equals, rest = (part.strip() for part in label.partition("="))
        quota_kind, label = (named.casefold(), rest) if equals else (kind, label)
        if not label_key(label) or quota_kind not in KINDS or not re.fullmatch(r"[0-9]{1,6}", count) or not int(count):
            raise SettingsError(
                f"The quota '{line}' is not of the form 'landscape: 300' or 'artist=Claude Monet: 40'. "
                f"Write one per line; before '=' stands one of {', '.join(KINDS)}, after ':' a number from 1 on."
            )
        if (key := (quota_kind, label_key(label))) in quotas:
            raise SettingsError(f"The quota '{line}' is there twice. Keep one of the lines, with the sum of both.")
        quotas[key] = Quota(quota_kind, label, int(count))
    return tuple(quotas.values())


def table(cells: Sequence[Filled]) -> str:
    """The cells as a plain-text table, with only the columns that are known, and a total where there are several."""
    names = [
        name for name in ("available", "asked", "passed", "taken", "spare") if any(_known(cell, name) for cell in cells)
    ]
    rows = [["", *names]] + [[cell.name, *(_shown(getattr(cell, name)) for name in names)] for cell in cells]
    if len(cells) > 1:
        rows.append(["together", *(_shown(_sum(getattr(cell, name) for cell in cells)) for name in names)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    )


def _known(cell: Filled, name: str) -> bool:
    return getattr(cell, name) is not None


def _shown(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _sum(values: Iterable[int | None]) -> int | None:
    known = list(values)
    return None if None in known else sum(value for value in known if value is not None)
