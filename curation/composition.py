"""From the pictures that passed to exactly the ones wanted: so many of each kind, at most so many of one artist.

How pictures come here is for the sources; going back for more of them is for the graph, since filters stand between.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..dataset.labels import label_key
from ..dataset.records import Dataset, Record, write_manifest
from ..errors import DatasetError, SettingsError
from ..sources.availability import available_in_source
from ..sources.quotas import Filled, Quota, parse_quotas, table
from ..sources.selection import in_turn


@dataclass(frozen=True)
class Composition:
    """What a person wants of a dataset."""

    quotas: str  # lines of "label: count", see quotas.parse_quotas
    kind: str = "genre"  # of the lines that do not say
    max_per_artist: int = 0  # 0 for any number; pictures whose artist is not known are not counted
    seed: int = 0


@dataclass(frozen=True)
class Composed:
    """The pictures chosen, not yet written as a dataset."""

    source: Dataset
    records: tuple[Record, ...]  # cell by cell, in the order of the quotas
    cells: tuple[Filled, ...]

    @property
    def missing(self) -> int:
        """How many pictures fewer than asked for."""
        return sum(cell.asked - (cell.taken or 0) for cell in self.cells)

    @property
    def may_gain(self) -> bool:
        """Whether more pictures from the source could fill what is missing, as far as is known."""
        return any(
            (cell.taken or 0) < cell.asked and (cell.available is None or cell.available > (cell.passed or 0))
            for cell in self.cells
        )

    def write(self) -> Dataset:
        """Write the revision that holds these pictures.

        Raises:
            DatasetError: there are none.
        """
        if not self.records:
            raise DatasetError(
                f"No picture of dataset '{self.source.name}' fits the quotas.\n{table(self.cells)}\n"
                "Change the labels, or load and pass pictures of these kinds."
            )
        return write_manifest(self.source.folder, self.records, self.source.refusals())

    def report(self) -> str:
        """The cells as a table, and what to do about those that are short."""
        asked = sum(cell.asked for cell in self.cells)
        lines = [f"Dataset '{self.source.name}': {len(self.records)} of {asked} asked for.", table(self.cells)]
        for cell in self.cells:
            if (short := cell.asked - (cell.taken or 0)) > 0:
                lines.append(f"{cell.name}: {short} short. {_remedy(cell)}")
        return "\n".join(lines)


def compose(dataset: Dataset, wanted: Composition) -> Composed:
    """Choose pictures of each kind, spread evenly over artists; the same seed and pictures give the same choice.

    A picture is taken once, for the kind that has least choice. Where too few fit, all of them are taken.

    Raises:
        SettingsError: there is no quota, or a line has another form.
        DatasetError: the dataset's manifest is gone.
    """
    quotas = parse_quotas(wanted.quotas, wanted.kind)
    if not quotas:
        raise SettingsError("The quotas are empty. Write one per line, for example 'landscape: 300'.")
    records = dataset.records()
    fitting = {quota: [record for record in records if quota.holds(record)] for quota in quotas}
    choice = _Choice({quota: _spread(fitting[quota], wanted.seed) for quota in quotas}, wanted.max_per_artist)
    for quota in sorted(quotas, key=lambda quota: len(fitting[quota]) - quota.count):
        while len(choice.chosen[quota]) < quota.count and choice.one_more(quota):
            pass
    cells = tuple(
        Filled(
            quota.name,
            quota.count,
            available_in_source(Path(dataset.folder), quota),
            len(fitting[quota]),
            len(choice.chosen[quota]),
        )
        for quota in quotas
    )
    return Composed(dataset, tuple(record for quota in quotas for record in choice.chosen[quota]), cells)


class _Choice:
    """Pictures being chosen for several kinds at once, under a cap per artist that all kinds share."""

    def __init__(self, candidates: Mapping[Quota, Sequence[Record]], cap: int) -> None:
        self.chosen: dict[Quota, list[Record]] = {quota: [] for quota in candidates}
        self._waiting = {quota: deque(records) for quota, records in candidates.items()}
        self._cap = cap
        self._taken: set[str] = set()
        self._by_artist: Counter[str] = Counter()
        self._full: dict[Quota, dict[str, list[Record]]] = {quota: {} for quota in candidates}  # passed over, by artist

    def one_more(self, quota: Quota) -> bool:
        """Choose the next picture of a kind; False where none can be had, not even by exchange with another kind."""
        return self._unused(quota) or self._exchange(quota, set())

    def _exchange(self, quota: Quota, asked: set[Quota]) -> bool:
        """Take a picture of an artist who is full from another kind that can do with one of another artist.

        This is an augmenting path in the graph of kinds and artists (Ford and Fulkerson): where no picture fits two
        kinds, a quota is short only if no choice at all fills more.
        """
        asked.add(quota)
        for artist, records in self._full[quota].items():
            record = next((record for record in records if record.sha256 not in self._taken), None)
            for other in self.chosen if record else ():
                given = next((had for had in reversed(self.chosen[other]) if label_key(had.artist) == artist), None)
                if other not in asked and given and (self._unused(other) or self._exchange(other, asked)):
                    self._give_up(other, given)
                    self._take(quota, record)
                    return True
        return False

    def _unused(self, quota: Quota) -> bool:
        """Let a kind have one picture more whose artist is not full."""
        while self._waiting[quota]:
            record = self._waiting[quota].popleft()
            artist = label_key(record.artist)
            if record.sha256 not in self._taken:
                if self._may_have(artist):
                    self._take(quota, record)
                    return True
                self._full[quota].setdefault(artist, []).append(record)
        return False

    def _may_have(self, artist: str) -> bool:
        return not self._cap or not artist or self._by_artist[artist] < self._cap

    def _take(self, quota: Quota, record: Record) -> None:
        self._taken.add(record.sha256)
        self._by_artist[label_key(record.artist)] += 1
        self.chosen[quota].append(record)

    def _give_up(self, quota: Quota, record: Record) -> None:
        self._taken.discard(record.sha256)
        self._by_artist[label_key(record.artist)] -= 1
        self.chosen[quota].remove(record)
        self._full[quota].setdefault(label_key(record.artist), []).append(record)


def _spread(records: Iterable[Record], seed: int) -> Sequence[Record]:
    """In an order that depends on the seed and the pictures, artists in turn."""
    by_artist: dict[str, list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda record: hashlib.sha256(f"{seed}/{record.sha256}".encode()).digest()):
        by_artist[label_key(record.artist)].append(record)
    return in_turn(by_artist.values())


def _remedy(cell: Filled) -> str:
    if cell.passed is not None and cell.available is not None and cell.available <= cell.passed:
        return "All that the source has passed the filter already: ask for fewer, or raise max_per_artist."
    if cell.passed is not None and cell.passed >= cell.asked:
        return "Raise max_per_artist, or ask for fewer."
    return "Raise 'spare' in WikiArt Loader or 'top_up' here, or loosen the filter."
