"""What is kept of a remote parquet shard: where its row groups lie, its labels, and ranges of its bytes."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DatasetError
from ..files import parsed_json
from .hub import RemoteFile

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

NEAR = 4 * 1024  # bytes; label columns closer than this are read in one request


@dataclass(frozen=True)
class Group:
    """A row group of a shard."""

    first: int  # its first row, counted in the shard
    rows: int
    start: int  # of the picture column's bytes in the shard
    length: int  # bytes of the picture column


@dataclass(frozen=True)
class ShardIndex:
    """What one shard says of its paintings, without the pictures."""

    column: str  # of the pictures, as pyarrow addresses it
    groups: tuple[Group, ...]
    labels: tuple[tuple[str, ...], ...]  # in the order of parquet.COLUMNS, each with one text per row


class Ranges(io.RawIOBase):
    """A file of which only some ranges are here. Reading others is an error, save for what fills up a footer's read."""

    def __init__(self, size: int, pieces: Sequence[tuple[int, bytes]]) -> None:
        super().__init__()
        self._size, self._pieces, self._position = size, pieces, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def read(self, count: int = -1) -> bytes:
        start = self._position
        stop = self._size if count < 0 else min(start + count, self._size)
        self._position = max(start, stop)
        for first, data in self._pieces:
            if first <= start and stop <= first + len(data):
                return data[start - first : stop - first]
        if stop == self._size:  # pyarrow reads the last 64 KB, whatever the footer's length
            first, data = self._pieces[0]
            return bytes(first - start) + data
        raise OSError(f"bytes {start} to {stop} were not fetched")


def check_lengths(shard: RemoteFile, lengths: Iterable[int], limit: int, what: str) -> None:
    """Raise DatasetError where one of a shard's parts has more bytes than it may."""
    if (largest := max(lengths, default=0)) > limit:
        raise DatasetError(
            f"The shard {shard.path} is not fetched: its {what} take {largest:,} bytes, and may take {limit:,}. Choose "
            "another source."
        )


def chunks(file: ParquetFile, shard: RemoteFile, chosen: Callable[[str], bool]) -> list[tuple[int, int]]:
    """Start and length in bytes of the column chunks whose path is chosen, row group by row group.

    Raises:
        ValueError: one lies outside the shard.
    """
    spans = []
    for number in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(number)
        for column in map(group.column, range(group.num_columns)):
            if chosen(column.path_in_schema):
                pages = (column.dictionary_page_offset, column.data_page_offset)
                spans.append((min(page for page in pages if page is not None), column.total_compressed_size))
    if any(start < 0 or length < 0 or start + length > shard.size for start, length in spans):
        raise ValueError("a column lies outside the file")
    return spans


def joined(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans that lie within `NEAR` of each other made one, since a request costs more than these bytes."""
    joined: list[tuple[int, int]] = []
    for start, length in sorted(spans):
        if joined and start - sum(joined[-1]) <= NEAR:
            joined[-1] = (joined[-1][0], max(sum(joined[-1]), start + length) - joined[-1][0])
        else:
            joined.append((start, length))
    return joined


def read_index(path: Path) -> ShardIndex | None:
    """The index in a file; None where it is missing or damaged."""
    try:
        value = parsed_json(gzip.decompress(path.read_bytes()))
        groups = tuple(Group(*group) for group in value["groups"])
        return ShardIndex(value["column"], groups, tuple(tuple(column) for column in value["labels"]))
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None
