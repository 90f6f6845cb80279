"""The pack's SQLite files: opened for one piece of work, safe with several writers, copied once a day, and plain words
when one is damaged.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from ..errors import ImpastoError
from ..files import appearing

log = logging.getLogger(__name__)

BUSY_SECONDS = 30  # how long a writer waits for another
COPY_SECONDS = 24 * 3600  # between two copies
VERSION = 2  # of the schemas: raised when one has something new, which older files get when they are opened


class DatabaseError(ImpastoError):
    """A database of the pack cannot be read, or does not take what is written. What it holds is left as it is."""


def copy_of(path: Path) -> Path:
    """Where the last daily copy of a database lies."""
    return path.with_name(f"{path.stem}.copy{path.suffix}")


@contextlib.contextmanager
def reading(path: Path, schema: str) -> Iterator[sqlite3.Connection]:
    """A connection to the database at `path`, which is made with `schema` where there is none, and brought up to it
    where it is older: all that a schema holds must do no harm a second time.

    Raises:
        DatabaseError: the file is damaged, is no database, cannot be written, does not take what is written, or
            another program holds it too long.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _plainly(path):
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            connection.row_factory = sqlite3.Row
            # With a write-ahead log readers never wait, and a killed writer leaves either all of its work or none.
            _use_write_ahead_log(connection)
            connection.execute("PRAGMA synchronous = FULL")
            if connection.execute("PRAGMA user_version").fetchone()[0] < VERSION:
                connection.executescript(f"BEGIN IMMEDIATE; {schema}; PRAGMA user_version = {VERSION}; COMMIT;")
            yield connection
        finally:
            connection.close()


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    """Turn the log on, which a new file does not have yet. SQLite does not wait by itself when two do so at once."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


@contextlib.contextmanager
def writing(path: Path, schema: str) -> Iterator[sqlite3.Connection]:
    """As `reading`, with everything in the block written together at its end, or nothing if it raises."""
    with reading(path, schema) as connection:
        _copy_daily(path, connection)
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            if connection.in_transaction:  # SQLite may have rolled back itself, as when the disk is full
                connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")


def _copy_daily(path: Path, connection: sqlite3.Connection) -> None:
    copy = copy_of(path)
    if copy.exists() and time.time() - copy.stat().st_mtime < COPY_SECONDS:
        return
    found = connection.execute("PRAGMA quick_check").fetchone()[0]
    if found != "ok":  # never copied over a good copy
        raise sqlite3.DatabaseError(found)
    try:
        with appearing(copy) as temporary:
            target = sqlite3.connect(temporary)
            try:
                connection.backup(target)
            finally:
                target.close()
    except OSError as error:  # on Windows for one, while a virus scanner or a backup program holds the last copy
        log.warning("%s was not copied to %s (%s); what is saved is saved all the same.", path, copy, error)


@contextlib.contextmanager
def _plainly(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise DatabaseError(
            f"{path} cannot be used just now ({error}). Close other programs that have it open, and see that the "
            "folder can be written."
        ) from error
    except (sqlite3.IntegrityError, sqlite3.DataError) as error:  # a rule of the tables, or more than a gigabyte
        raise DatabaseError(
            f"{path} does not take what was to be written ({error}). The file is sound and nothing was changed: change "
            "what was to be written."
        ) from error
    except sqlite3.DatabaseError as error:
        if type(error) is not sqlite3.DatabaseError:  # its children are mistakes in using SQLite, not damage
            raise
        copy = copy_of(path)
        kept = (
            f"and what the copy of {time.strftime('%d %B %Y, %H:%M', time.localtime(copy.stat().st_mtime))} has "
            f"besides ({copy})"
            if copy.exists()
            else "though there is no copy of it yet"
        )
        raise DatabaseError(
            f"{path} is damaged ({error}). It is left as it is. Queue Prompt Library File with the action 'repair': it "
            f"makes a new one of all that can be read of this one, {kept}, and keeps the damaged one."
        ) from error
