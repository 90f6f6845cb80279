"""Which paintings to take, and in which order, to fill every quota: decided from labels alone, before any is fetched.

The order of a single kind is for `selection`; fetching and storing for `wikiart`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..dataset.labels import ANY
from ..dataset.records import Record
from ..errors import DatasetError
from .quotas import Quota, parse_quotas
from .selection import artist_key, few_groups_first, matching, spread_order
from .source import Row, RowGroups

AUTO, EVEN, CHEAP = "automatic", "even artists", "few megabytes"
SPARE_STEP = 50  # percent


def more_spare(spare: int) -> int:
    """Percent of spare pictures after `spare` were too few: from none on 50, 150, 350 …"""
    return 2 * spare + SPARE_STEP


@dataclass(frozen=True)
class Request:
    """What a person asks the source for."""

    source: str  # a folder under the datasets root, or "owner/name" on the Hub, with "@revision" or without
    name: str  # of the dataset to make
    style: str = ANY
    genre: str = ANY
    artist: str = ANY
    count: int = 100  # without quotas
    seed: int = 0
    quotas: str = ""  # lines of "label: count", see quotas.parse_quotas
    max_per_artist: int = 0  # 0 for any number; artists that nobody knows are not counted
    spare: int = 0  # percent more than asked, per cell, to survive a filter
    prefer: str = AUTO  # on the Hub: as many of each artist, or as little to fetch as possible; see `way`
    columns: str = ""  # lines of "ours: theirs", see parquet.parse_columns
    keep_metadata: bool = False  # store the source's bytes, whatever they say beside the picture; see `private_data`

    @property
    def way(self) -> str:
        """`EVEN` or `CHEAP`. Where a person said how many of one artist may come, more evenness is not worth what it
        costs: a thousand Impressionists of huggan/wikiart, 40 of one artist at most, lie in 19 GB or in 7."""
        if self.prefer == AUTO:
            return CHEAP if self.max_per_artist else EVEN
        return self.prefer

    def labels(self) -> dict[str, str]:
        return {"style": self.style, "genre": self.genre, "artist": self.artist}


@dataclass
class Cell:
    """What is wanted of one kind, and how far it has come."""

    name: str
    asked: int
    spare: int  # percent
    pool: list[Row]
    order: list[Row] = field(default_factory=list)  # in which to take them
    position: int = 0
    records: list[Record] = field(default_factory=list)

    @property
    def wanted(self) -> int:
        return self.goal(self.spare)

    def goal(self, percent: int) -> int:
        """How many with so many percent spare ones."""
        return self.asked + math.ceil(self.asked * percent / 100)


def plan_cells(
    request: Request, rows: Sequence[Row], shard_names: Sequence[str], fetched: RowGroups | None
) -> list[Cell]:
    """The cells in the order in which they were asked for, each with the order in which to take its paintings.

    The order does not depend on how many are spare, so that more of them come on top of what fewer fetched.

    Args:
        rows: every painting of the source.
        fetched: which paintings come together, where it matters.

    Raises:
        SettingsError: a quota line has another form.
        DatasetError: nothing matches the labels, or a quota's label is not in the source at all.
    """
    available = matching(rows, request.source, request.labels())
    cells = _cells(request, rows, available)
    cap = request.max_per_artist
    used: set[Row] = set()
    groups: set[tuple[int, int]] = set()
    by_artist: Counter[str] = Counter()
    for cell in _scarcest_first(cells):
        candidates = [row for row in cell.pool if row not in used]
        cell.order = spread_order(candidates, request.seed, shard_names)
        if fetched and cell.order:
            limits = _limits(cell, request, by_artist)
            cell.order = few_groups_first(cell.order, cell.asked, fetched.group_of, fetched.weight_of, groups, limits)
            groups |= {fetched.group_of(row) for row in _first(cell, cap, by_artist)}
        first = _first(cell, cap, by_artist)
        used.update(first)
        by_artist.update(map(artist_key, first))
    return cells


def _cells(request: Request, rows: Sequence[Row], available: list[Row]) -> list[Cell]:
    quotas = parse_quotas(request.quotas)
    if not quotas:
        return [Cell("all", request.count, request.spare, available)]
    cells = []
    for quota in quotas:
        pool = [row for row in available if quota.holds(row)]
        if not pool and quota.kind != "caption" and not any(quota.holds(row) for row in rows):
            raise DatasetError(_unknown(quota, request, rows))
        cells.append(Cell(quota.name, quota.count, request.spare, pool))
    return cells


def _unknown(quota: Quota, request: Request, rows: Iterable[Row]) -> str:
    there = Counter(getattr(row, quota.kind) for row in rows)
    listed = ", ".join(f"{label} ({count})" for label, count in there.most_common(40) if label)
    return (
        f"No painting of '{request.source}' has the {quota.kind} '{quota.label}' of the quotas. "
        f"There are: {listed or 'none that is known'}."
    )


def _scarcest_first(cells: Iterable[Cell]) -> list[Cell]:
    """Where a painting fits several cells, the one with the least choice gets it."""
    return sorted(cells, key=lambda cell: len(cell.pool) - cell.asked)


def _first(cell: Cell, cap: int, by_artist: Counter[str]) -> list[Row]:
    """The rows that the cell takes if every picture is good, without spare ones."""
    counts, rows = Counter(by_artist), []
    for row in cell.order:
        if len(rows) < cell.asked and _may_have(counts, row, cap):
            counts[artist_key(row)] += 1
            rows.append(row)
    return rows


def _may_have(by_artist: Mapping[str, int], row: Row, cap: int) -> bool:
    artist = artist_key(row)
    return not cap or not artist or by_artist[artist] < cap


def _limits(cell: Cell, request: Request, by_artist: Counter[str]) -> dict[str, int]:
    """How many of each artist the cheapest selection may have: as many as the even one has, or what the cap leaves."""
    if request.way == EVEN:
        return Counter(map(artist_key, _first(cell, request.max_per_artist, by_artist)))
    cap = request.max_per_artist or cell.asked
    artists = {artist_key(row) for row in cell.order}
    return {artist: max(0, cap - by_artist[artist]) if artist else cell.asked for artist in artists}


def planned(cells: Sequence[Cell], cap: int) -> dict[str, list[Row]]:
    """The rows of each cell, by name, that will be taken if every picture is good."""
    planned = pick(cells, cap, Counter(), set())
    for cell in cells:
        cell.position = 0
    return planned


def pick(cells: Sequence[Cell], cap: int, by_artist: Counter[str], taken: set[Row]) -> dict[str, list[Row]]:
    """The next rows of each cell, by name, as many as it lacks.

    What was asked for comes first and then the spare ones in steps, so that no cell's spare paintings use up an artist
    whom another cell needs, and a larger share of spare ones keeps what a smaller one took.
    """
    picked: dict[str, list[Row]] = {cell.name: [] for cell in cells}
    spare = max(cell.spare for cell in cells)
    for percent in [*range(0, spare, SPARE_STEP), spare]:
        for cell in _scarcest_first(cells):
            missing = cell.goal(percent) - len(cell.records) - len(picked[cell.name])
            picked[cell.name] += _next_rows(cell, missing, cap, by_artist, taken)
    return picked


def _next_rows(cell: Cell, number: int, cap: int, by_artist: Counter[str], taken: set[Row]) -> list[Row]:
    """Advance in the cell's order by `number` rows that no other cell has and whose artist is not full."""
    rows: list[Row] = []
    while len(rows) < number and cell.position < len(cell.order):
        row = cell.order[cell.position]
        cell.position += 1
        if row not in taken and _may_have(by_artist, row, cap):
            taken.add(row)
            by_artist[artist_key(row)] += 1
            rows.append(row)
    return rows
