"""Pictures that a person keeps whatever a filter says of them, named by the first digits of their hashes."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence

from ..dataset.records import Record
from ..errors import SettingsError

SHORTEST_HASH = 6  # hexadecimal digits by which a picture may be named
MOST_KEPT = 10_000


def read_keep(text: str) -> tuple[str, ...]:
    """The hashes' first digits, one picture a line; what stands behind them is for people.

    Raises:
        SettingsError: a line does not begin with 6 to 64 hexadecimal digits, or there are too many.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) > MOST_KEPT:
        raise SettingsError(f"keep has {len(lines)} lines. Use at most {MOST_KEPT}.")
    for line in lines:
        if not re.fullmatch(rf"[0-9a-f]{{{SHORTEST_HASH},64}}", line.split()[0].lower()):
            raise SettingsError(
                f"The line '{line[:60]}' of keep does not begin with a picture's hash. The sheet of refused pictures "
                f"and the file names show it; its first {SHORTEST_HASH} digits are enough."
            )
    return tuple(line.split()[0].lower() for line in lines)


def kept_pictures(records: Sequence[Record], digits: Sequence[str]) -> tuple[frozenset[str], list[str]]:
    """The hashes of the pictures that are named, and what names none of these records.

    Raises:
        SettingsError: digits fit several pictures.
    """
    hashes = sorted({record.sha256 for record in records}) if digits else []
    kept, unknown = set(), []
    for beginning in digits:
        # "g" comes behind every hexadecimal digit.
        named = hashes[bisect_left(hashes, beginning) : bisect_left(hashes, f"{beginning}g")]
        if len(named) > 1:
            raise SettingsError(f"'{beginning}' in keep fits {len(named)} pictures. Type more digits of the hash.")
        if named:
            kept.add(named[0])
        else:
            unknown.append(beginning)
    return frozenset(kept), unknown
