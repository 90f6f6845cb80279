"""Reading what a damaged database of the pack still holds into a new one, together with what its daily copy has.

The damaged file is kept. Nothing here knows what the tables mean; where they lie is told by their schema.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import SettingsError
from ..files import appearing
from .database import copy_of, writing

SMALLEST_ROW = 32  # bytes; no table of the pack has smaller ones
PAGE_COUNT, FREE_PAGES, FREE_PAGES_END = 28, 32, 40  # bytes into SQLite's file header (sqlite.org/fileformat2.html)

_KINDS = {"TEXT": str, "INTEGER": int, "REAL": (int, float)}  # SQLite hands out a whole REAL as it was stored


@dataclass(frozen=True)
class Repaired:
    """How many rows of a damaged file were read, and whether all; how many its copy added; where it is kept."""

    rows: int
    whole: bool
    from_copy: int
    kept: Path

    def __str__(self) -> str:
        told = "All of it could be read" if self.whole else "Part of it could not be read"
        added = f" {self.from_copy:,} more came from the daily copy." if self.from_copy else ""
        return f"{told}: {self.rows:,} entries.{added} The file as it was is kept in {self.kept}."


def repair(path: Path, schema: str, tables: Mapping[str, tuple[str, ...]]) -> Repaired:
    """Put a new database in place of a damaged one, with every row that can be read of it.

    Where some cannot, what only the daily copy has is added; that may bring back what was removed since it was made.

    Args:
        path: of the database; no other program may be writing to it.
        schema: its own.
        tables: table -> the columns that tell whether two rows are the same.

    Raises:
        SettingsError: there is no such file.
        DatabaseError: the folder cannot be written.
    """
    if not path.exists():
        raise SettingsError(f"There is no file {path} to repair.")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".repair-") as folder:
        new, damaged = Path(folder, "new.sqlite"), Path(folder, "damaged.sqlite")
        with writing(new, schema):
            pass  # only the empty tables
        _copy_with_log(path, damaged)
        _give_first_page(damaged, new, tables)
        copy = _rows_of_copy(copy_of(path), tables)
        read, whole, added = 0, True, 0
        with writing(new, schema) as database:
            for table, identity in tables.items():
                most = max((row[0] for row in copy[table] if isinstance(row[0], int)), default=0)
                rows, all_read = _rows(damaged, table, most + damaged.stat().st_size // SMALLEST_ROW)
                rows = [row for row in rows if _is_sound(row, _kinds(database, table))]
                read += _add(database, table, identity, rows)
                if not all_read:
                    whole = False
                    added += _add(database, table, identity, copy[table])
        kept = path.with_name(f"{path.stem}.damaged-{time.strftime('%Y%m%d-%H%M%S')}{path.suffix}")
        _copy_with_log(path, kept)
        for side in ("-wal", "-shm"):  # they belong to the damaged file
            Path(f"{path}{side}").unlink(missing_ok=True)
        os.replace(new, path)
    return Repaired(read, whole, added, kept)


def _copy_with_log(path: Path, target: Path) -> None:
    """Copy a database and its write-ahead log, which may hold what was written last."""
    for side in ("-wal", ""):
        if Path(f"{path}{side}").exists():
            with appearing(Path(f"{target}{side}")) as temporary:
                shutil.copyfile(f"{path}{side}", temporary)


def _give_first_page(damaged: Path, new: Path, tables: Mapping[str, tuple[str, ...]]) -> None:
    """Where the first page, which tells where the tables lie, cannot be read, put that of a new database there.

    A table begins on the page that it was given when the file was made, and that is the same in every file.
    """
    with _opened(damaged) as database, contextlib.suppress(sqlite3.DatabaseError):
        named = {row[0] for row in database.execute("SELECT name FROM sqlite_master")}
        if named >= tables.keys():
            return
    with _opened(new) as database:
        size = database.execute("PRAGMA page_size").fetchone()[0]
    page = bytearray(new.read_bytes()[:size])
    page[PAGE_COUNT:FREE_PAGES] = (damaged.stat().st_size // size).to_bytes(4, "big")
    page[FREE_PAGES:FREE_PAGES_END] = bytes(FREE_PAGES_END - FREE_PAGES)  # it is only read: none need be known
    with damaged.open("r+b") as file:
        file.write(page)


@contextlib.contextmanager
def _opened(path: Path):
    connection = sqlite3.connect(path, isolation_level=None)
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    try:
        yield connection
    finally:
        connection.close()


def _rows_of_copy(copy: Path, tables: Mapping[str, tuple[str, ...]]) -> dict[str, list[tuple]]:
    if not copy.exists():
        return {table: [] for table in tables}
    return {table: _rows(copy, table, copy.stat().st_size // SMALLEST_ROW)[0] for table in tables}


def _rows(path: Path, table: str, most: int) -> tuple[list[tuple], bool]:
    """The rows of a table that can be read, and whether these are all; `most`: no row has a higher rowid."""
    rows: list[tuple] = []
    with _opened(path) as database:
        with contextlib.suppress(sqlite3.DatabaseError):
            return database.execute(f"SELECT * FROM {table} NOT INDEXED ORDER BY rowid").fetchall(), True
        with contextlib.suppress(sqlite3.DatabaseError):
            most = database.execute(f"SELECT max(rowid) FROM {table} NOT INDEXED").fetchone()[0] or most
        command = f"SELECT * FROM {table} NOT INDEXED WHERE rowid BETWEEN ? AND ? ORDER BY rowid"
        ranges = [(1, most)]
        while ranges:  # what fails is halved, down to single rows
            first, last = ranges.pop()
            try:
                rows += database.execute(command, [first, last]).fetchall()
            except sqlite3.DatabaseError:
                if first < last:
                    middle = (first + last) // 2
                    ranges += [(middle + 1, last), (first, middle)]
    return rows, False


def _kinds(database: sqlite3.Connection, table: str) -> list:
    return [_KINDS[column["type"]] for column in database.execute(f"PRAGMA table_info({table})")]


def _is_sound(row: tuple, kinds: list) -> bool:
    """Whether each value is of its column's type, which in a damaged page it need not be."""
    return len(row) == len(kinds) and all(isinstance(value, kind) for value, kind in zip(row, kinds, strict=True))


def _add(database: sqlite3.Connection, table: str, identity: tuple[str, ...], rows: Iterable[tuple]) -> int:
    """Add the rows that are not there yet, each at its own place unless another has it; return how many."""
    columns = [column["name"] for column in database.execute(f"PRAGMA table_info({table})")]
    places = [columns.index(name) for name in identity]
    known = {tuple(row) for row in database.execute(f"SELECT {', '.join(identity)} FROM {table}")}
    taken = {row[0] for row in database.execute(f"SELECT rowid FROM {table}")}
    command = f"INSERT INTO {table} VALUES ({', '.join('?' * len(columns))})"
    before = len(known)
    for row in rows:
        if (same := tuple(row[place] for place in places)) in known:
            continue
        known.add(same)
        if columns[0] == "id":
            row = (None if row[0] in taken else row[0], *row[1:])
            taken.add(row[0])
        database.execute(command, row)
    return len(known) - before
