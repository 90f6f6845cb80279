"""Repairing a damaged database: its newest good daily copy is put in its place, and the damaged file is kept."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import DiskError, SettingsError
from ..files import appearing
from .database import DatabaseError, copies_of, damage_of, day_of, reading


@dataclass(frozen=True)
class Repaired:
    """What was done, and how many entries there are now."""

    entries: int
    kept: Path | None  # the damaged file; None: there was no damage, and nothing was done
    copy: Path | None = None  # that was put in its place; None: no good one was there

    def __str__(self) -> str:
        if not self.kept:
            return f"It is sound and was left as it is: {self.entries:,} entries."
        if self.copy:
            told = (
                f"The newest good daily copy, of {day_of(self.copy)}, was put in its place: {self.entries:,} entries. "
                "What came after that copy is not in it."
            )
        else:
            told = "There is no good daily copy, so that it begins anew, empty."
        return f"{told} The damaged file is kept in {self.kept}."


def repair(path: Path, schema: str, tables: Iterable[str]) -> Repaired:
    """Put the newest good daily copy in place of a damaged database, or a new one where there is none.

    Args:
        path: of the database; no other program may be writing to it.
        schema: its own.
        tables: whose rows are its entries.

    Raises:
        SettingsError: there is no such file.
        DatabaseError: the folder cannot be written.
    """
    if not path.exists():
        raise SettingsError(f"There is no file {path} to repair.")
    copy = None
    try:
        kept = _keep(path)
        try:
            damage = damage_of(path)
        except DatabaseError:
            _remove(kept)
            raise
        if damage:
            copy = next((each for each in copies_of(path) if not damage_of(each, alone=True)), None)
            _replace(path, copy)
        else:
            _remove(kept)
            kept = None
    except (OSError, DiskError) as error:
        raise DatabaseError(
            f"{path} could not be repaired ({error}). Close other programs that have it open, and see that the folder "
            "can be written."
        ) from error
    with reading(path, schema) as database:
        entries = sum(database.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables)
    return Repaired(entries, kept, copy)


def _keep(path: Path) -> Path:
    """Copy a database as it is, with its write-ahead log: SQLite works that into the file, or away, when it looks."""
    kept = path.with_name(f"{path.stem}.damaged-{time.strftime('%Y%m%d-%H%M%S')}{path.suffix}")
    for side in ("", "-wal"):
        if Path(f"{path}{side}").exists():
            with appearing(f"{kept}{side}") as temporary:
                shutil.copyfile(f"{path}{side}", temporary)
    return kept


def _replace(path: Path, copy: Path | None) -> None:
    """Put `copy` in place of a database, whose log belongs to it alone, or remove it."""
    for side in ("-wal", "-shm"):
        Path(f"{path}{side}").unlink(missing_ok=True)
    if copy:
        with appearing(path) as temporary:
            shutil.copyfile(copy, temporary)
    else:
        path.unlink()


def _remove(kept: Path) -> None:
    for side in ("", "-wal"):
        Path(f"{kept}{side}").unlink(missing_ok=True)
