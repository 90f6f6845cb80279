"""What a source of paintings is to whoever makes a dataset of it: one Protocol for a folder, a repository, a site.

A new source is a module with a class that satisfies `PaintingSource` and the three functions of `Opener`, and a line in
`opening.OPENERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ..paths import Roots, places

if TYPE_CHECKING:
    from ..dataset.pictures import Outcome
    from ..progress import Progress

CACHES = ".sources"  # under the datasets root, a folder a source; a dataset cannot have a name that starts with a dot


def cache_folder(datasets_root: Roots, name: str) -> Path:
    """Where what was fetched from a source is kept: in the root that has some of it, else in the first."""
    folders = [root / CACHES / name for root in places(datasets_root)]
    return next((folder for folder in folders if folder.is_dir()), folders[0])


class Row(NamedTuple):
    """Where one painting lies and what its label columns say; "" where a column is missing or has no value."""

    shard: int  # index into the source's shard names
    row: int  # within the shard, from 0
    artist: str
    genre: str
    style: str
    title: str
    date: str
    text: str
    rights: str = ""


@dataclass(frozen=True)
class Cost:
    """What fetching will take."""

    text: str  # as a person is told it
    size: int | None = None  # bytes; None where the source does not tell


NOTHING_TO_FETCH = Cost("Nothing needs to be fetched: all of it is here.", 0)


class RowGroups(Protocol):
    """Which pictures can only be fetched together, so that it matters which are chosen."""

    def group_of(self, row: Row) -> tuple[int, int]:
        """What names the group of a row."""

    def weight_of(self, group: tuple[int, int]) -> int:
        """Bytes to fetch for a group."""


class PaintingSource(Protocol):
    """The paintings of one source."""

    @property
    def name(self) -> str:
        """What errors and records call it."""

    @property
    def shard_names(self) -> Sequence[str]:
        """The files or parts it consists of, by what stays when others are added; known once `rows` has been read."""

    @property
    def notes(self) -> Sequence[str]:
        """For the report, what a person should know of the source as it was read."""

    @property
    def groups(self) -> RowGroups | None:
        """None where each picture can be fetched by itself."""

    def rows(self, progress: Progress) -> list[Row]:
        """Where every painting lies and what it is, without reading a picture."""

    def place(self, row: Row) -> str:
        """Where a painting is from, as its record says."""

    def cost(self, folder: Path, rows: Iterable[Row]) -> Cost | None:
        """What these pictures take beyond what the dataset's folder has; None where they are on this machine."""

    def store(
        self, folder: Path, rows: Sequence[Row], pool: Collection[Row], tick: Callable[[str], None]
    ) -> Iterator[tuple[Row, Outcome]]:
        """Put the pictures of `rows` into the dataset's folder, in any order.

        Args:
            pool: all rows that may yet be wanted; what comes along with `rows` for nothing is kept for them.
            tick: called several times a second while this waits, with what it waits for; raises to end it.
        """
