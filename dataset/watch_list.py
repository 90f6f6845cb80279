"""A list of pictures to look at, as text between nodes: a line for each, the first digits of its hash and why.

    3fa94c12d0ab caption: the model errs 95 % more with it than with none

Whoever takes the list does something reversible with the pictures on it; without the list, all is as before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ..errors import SettingsError
from ..texts import one_line

SHORTEST_HASH = 6  # hexadecimal digits by which a picture may be named
MOST_LINES = 10_000
LONGEST_REASON = 300  # characters
_LINE = re.compile(rf"([0-9a-f]{{{SHORTEST_HASH},64}})(?:\s+(.*))?")


def written(pictures: Iterable[tuple[str, str]]) -> str:
    """The list of these hashes and reasons."""
    return "\n".join(f"{digits} {one_line(reason)}" for digits, reason in pictures)


def read(text: str) -> dict[str, str]:
    """First digits of hashes and the reasons; empty lines and those that begin with # are passed over.

    Raises:
        SettingsError: a line does not begin with a picture's hash, or there are too many.
    """
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if len(lines) > MOST_LINES:
        raise SettingsError(f"watched lists {len(lines)} pictures. List at most {MOST_LINES}.")
    found = {}
    for line in lines:
        if not (matched := _LINE.fullmatch(line)):
            raise SettingsError(
                f"The line '{line[:60]}' of watched does not begin with a picture's hash. Connect Loss Watch's output "
                "watched, or write the first 6 digits or more of a picture's file name, a space, and why."
            )
        found[matched[1]] = (matched[2] or "on the list").strip()[:LONGEST_REASON]
    return found


def reasons(listed: Mapping[str, str], hashes: Iterable[str]) -> dict[str, str]:
    """Of these hashes those that are listed, with the reason; who names no picture of these is passed over, for the
    list is of a run, and a set may have lost pictures since."""
    lengths = sorted({len(digits) for digits in listed}, reverse=True)
    found = {}
    for whole in hashes:
        for length in lengths:
            if (reason := listed.get(whole[:length])) is not None:
                found[whole] = reason
                break
    return found
