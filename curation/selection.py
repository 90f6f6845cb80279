"""Which paintings to take: those that match the labels asked for, in a seeded order spread over artists and shards."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from ..errors import DatasetError
from .labels import ANY, label_key
from .parquet import Row

T = TypeVar("T")
MOST_LABELS_LISTED = 40  # in an error; WikiArt has 129 artists


def matching(rows: Sequence[Row], source: str, asked: Mapping[str, str]) -> list[Row]:
    """The rows whose labels are those asked for.

    Args:
        rows: every painting of the source.
        source: how errors call the source.
        asked: label wanted per column ("style", "genre", "artist"); `ANY` or "" for whichever.

    Raises:
        DatasetError: nothing matches. The text lists what there is.
    """
    keys = {column: label_key(label) for column, label in asked.items() if label_key(label) not in ("", ANY)}
    found = [row for row in rows if all(label_key(getattr(row, column)) == key for column, key in keys.items())]
    if not found:
        raise DatasetError(_nothing_matches(rows, source, {column: asked[column] for column in keys}))
    return found


def spread_order(rows: Iterable[Row], seed: int, shard_names: Sequence[str]) -> list[Row]:
    """All rows in the order in which to take them: artists in turn, and each artist's shards in turn.

    The order depends on the seed, the shards' names and the rows, on nothing of the machine; taking more keeps what a
    smaller count took.
    """

    def chance(row: Row) -> bytes:
        return hashlib.sha256(f"{seed}/{shard_names[row.shard]}#{row.row}".encode()).digest()

    by_artist: dict[str, dict[int, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in sorted(rows, key=chance):
        by_artist[label_key(row.artist)][row.shard].append(row)
    # dicts keep the order of first appearance, which is a matter of chance too
    return in_turn(in_turn(by_shard.values()) for by_shard in by_artist.values())


def in_turn(sequences: Iterable[Sequence[T]]) -> list[T]:
    """One of each sequence, then a second of each, until all are used up."""
    waiting = deque(iter(sequence) for sequence in sequences)
    taken: list[T] = []
    while waiting:
        iterator = waiting.popleft()
        for item in iterator:
            taken.append(item)
            waiting.append(iterator)
            break
    return taken


def _nothing_matches(rows: Sequence[Row], source: str, asked: Mapping[str, str]) -> str:
    if not rows:
        return f"The source '{source}' has no rows. Choose another source."
    for column, label in asked.items():
        counts = Counter(getattr(row, column) for row in rows)
        if label_key(label) not in map(label_key, counts):
            return (
                f"No painting in '{source}' has the {column} '{label}'. "
                f"Choose '{ANY}' or one of the {column}s there: {_listed(counts)}."
            )
    wanted = " and ".join(f"{column} '{label}'" for column, label in asked.items())
    others = {
        column: Counter(
            getattr(row, column)
            for row in rows
            if all(label_key(getattr(row, other)) == label_key(asked[other]) for other in asked if other != column)
        )
        for column in asked
    }
    instead = "; ".join(f"{column}s with the rest as asked: {_listed(counts)}" for column, counts in others.items())
    return f"No painting in '{source}' has {wanted} together. Change one of them ({instead})."


def _listed(counts: Counter[str]) -> str:
    known = [f"{label} ({count})" for label, count in counts.most_common() if label]
    more = f" and {len(known) - MOST_LABELS_LISTED} more" if len(known) > MOST_LABELS_LISTED else ""
    return (", ".join(known[:MOST_LABELS_LISTED]) + more) or "none"
