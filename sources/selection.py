"""Which paintings to take: those that match the labels asked for, in a seeded order spread over artists and shards."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence, Set
from typing import Any, TypeVar

from ..dataset.labels import ANY, is_unknown, label_key
from ..errors import DatasetError
from .source import Row

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


def few_groups_first(
    order: Sequence[Row],
    count: int,
    group_of: Callable[[Row], Hashable],
    cost_of: Callable[[Any], int],
    planned: Set[Hashable],
    limits: Mapping[str, int],
) -> list[Row]:
    """`order` rearranged so that its first `count` rows lie in few and cheap row groups, found greedily.

    A row group of the Hub's WikiArt has a hundred paintings and weighs 45 MB; a thousand paintings chosen without
    regard to them would lie in most of the eight hundred groups. After the first `count` come the other rows of the
    same groups, which cost nothing more, then the rest group by group.

    Args:
        order: candidates, the seeded spread order.
        group_of: the row group of a row.
        cost_of: bytes of a row group.
        planned: row groups that other cells fetch anyway; they are used first.
        limits: how many of the first `count` each `artist_key` may have; those not named have none.
    """
    groups: dict[Any, list[Row]] = defaultdict(list)
    place = {}
    for position, row in enumerate(order):
        groups[group_of(row)].append(row)
        place.setdefault(group_of(row), position)
    left = Counter(limits)
    first: list[Row] = []
    used: list[Hashable] = []

    def worth(group: Hashable) -> tuple[float, int]:
        offers = Counter(artist_key(row) for row in groups[group])
        gain = min(count - len(first), sum(min(number, left[artist]) for artist, number in offers.items()))
        chance = 1 - 0.5 * place[group] / len(order)  # so that another seed takes other groups, not the same best
        return (-gain * chance / (1 if group in planned else cost_of(group)), place[group])

    heap = [(worth(group), group) for group in groups]
    heapq.heapify(heap)
    while heap and len(first) < count:
        _, group = heapq.heappop(heap)
        now = worth(group)  # what a group is worth only falls while others are taken
        if not now[0]:
            continue
        if heap and now > heap[0][0]:
            heapq.heappush(heap, (now, group))
            continue
        used.append(group)
        for row in groups[group]:
            if left[artist_key(row)] > 0 and len(first) < count:
                left[artist_key(row)] -= 1
                first.append(row)
    chosen, paid = set(first), set(used) | set(planned)
    rest = sorted((group for group in groups if group not in paid), key=lambda group: place[group])
    same = in_turn(_by_artist(row for group in groups if group in paid for row in groups[group] if row not in chosen))
    return first + same + [row for group in rest for row in groups[group]]


def artist_key(row: Row) -> str:
    """What the rows of one artist have in common; "" for all whose artist is not known."""
    return "" if is_unknown(row.artist) else label_key(row.artist)


def _by_artist(rows: Iterable[Row]) -> list[list[Row]]:
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[artist_key(row)].append(row)
    return list(found.values())


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
