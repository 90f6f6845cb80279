"""The pack's SQLite files: opened for one piece of work, safe with several writers, copied once a day, and plain words
when one is damaged.
"""

from __future__ import annotations

import contextlib
import glob
import logging
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from ..errors import DiskError, ImpastoError
from ..files import appearing, temporary_beside
from ..files import writing as writing_file

log = logging.getLogger(__name__)

BUSY_SECONDS = 30  # how long a writer waits for another
MAKING_SECONDS = 2  # how long a file may be empty, while another process is making it
COPIES = 7  # the daily ones that are kept
EMPTY = "it is empty"
LOG_INDEX = 32768  # bytes, sqlite.org/walformat.html
VERSION = 2  # of the schemas: raised when one has something new, which older files get when they are opened


class DatabaseError(ImpastoError):
    """A database of the pack cannot be read, or does not take what is written. What it holds is left as it is."""


def copies_of(path: Path) -> list[Path]:
    """The daily copies of a database, the newest first; last the one without a date that earlier versions made."""
    dated = path.parent.glob(f"{glob.escape(path.stem)}.copy-????-??-??{glob.escape(path.suffix)}")
    undated = path.with_name(f"{path.stem}.copy{path.suffix}")
    return [*sorted(dated, reverse=True), *([undated] if undated.exists() else [])]


def day_of(copy: Path) -> str:
    """The day of a daily copy, for a person."""
    _, dated, day = copy.stem.partition(".copy-")
    return day if dated else time.strftime("%Y-%m-%d", time.localtime(copy.stat().st_mtime))


def damage_of(path: Path, alone: bool = False) -> str:
    """What is wrong with a database; "" where nothing is.

    Args:
        alone: without a write-ahead log, as copies are, and not to be changed by looking.

    Raises:
        DatabaseError: it cannot be opened just now; of one `alone` that is what is wrong.
    """
    if not path.stat().st_size:
        return EMPTY
    try:
        with contextlib.closing(
            sqlite3.connect(f"{path.absolute().as_uri()}{'?immutable=1' if alone else ''}", uri=True)
        ) as found:
            told = found.execute("PRAGMA quick_check").fetchone()[0]
    except sqlite3.OperationalError as error:
        if alone:
            return str(error)
        raise _unusable(path, error) from error
    except sqlite3.DatabaseError as error:
        return str(error)
    return "" if told == "ok" else told


@contextlib.contextmanager
def reading(path: Path, schema: str) -> Iterator[sqlite3.Connection]:
    """A connection to the database at `path`, which is made with `schema` where there is none, and brought up to it
    where it is older: all that a schema holds must do no harm a second time.

    Raises:
        DatabaseError: the file is damaged, is no database, does not take what is written, or another program holds it
            too long.
        DiskError: it cannot be written.
    """
    with writing_file(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with _plainly(path), _nothing_empty_left(path) if is_new else contextlib.nullcontext():
        _refuse_empty(path)
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


@contextlib.contextmanager
def _nothing_empty_left(path: Path) -> Iterator[None]:
    """A new file that could not even be begun is removed: empty, it would be taken for a damaged one."""
    try:
        yield
    except sqlite3.OperationalError:
        with contextlib.suppress(OSError):
            if not path.stat().st_size:
                path.unlink()
        raise


def _refuse_empty(path: Path) -> None:
    """An empty file is damage, not a new database, unless another process is making one just now."""
    deadline = time.monotonic() + MAKING_SECONDS
    with contextlib.suppress(FileNotFoundError):
        while not path.stat().st_size:
            if time.monotonic() > deadline:
                raise sqlite3.DatabaseError(EMPTY)
            time.sleep(0.01)


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
        is_first = not copies_of(path)  # made in the end, so that it is not of an empty database
        if not is_first:
            _copy_daily(path, connection)
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            if connection.in_transaction:  # SQLite may have rolled back itself, as when the disk is full
                connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
        if is_first:
            _copy_daily(path, connection)


def _copy_daily(path: Path, connection: sqlite3.Connection) -> None:
    copy = path.with_name(f"{path.stem}.copy-{time.strftime('%Y-%m-%d')}{path.suffix}")
    if copy.exists():
        return
    try:
        with appearing(copy) as temporary:
            with contextlib.closing(sqlite3.connect(temporary)) as target:
                connection.backup(target)
            if damage := damage_of(temporary, alone=True):
                raise sqlite3.DatabaseError(damage)
        for old in copies_of(path)[COPIES:]:
            old.unlink(missing_ok=True)
    except (OSError, DiskError) as error:  # on Windows for one, while a virus scanner or a backup program holds a copy
        log.warning("%s has no copy of today: %s What is saved is saved all the same.", path, error)


def _unusable(path: Path, error: sqlite3.OperationalError) -> ImpastoError:
    """SQLite does not say what the disk refuses; a file of the size of its log's index beside it does."""
    probe = temporary_beside(path)
    try:
        with writing_file(path):
            try:
                probe.write_bytes(bytes(LOG_INDEX))
            finally:
                probe.unlink(missing_ok=True)
    except DiskError as told:
        return told
    return DatabaseError(
        f"{path} cannot be used just now ({error}). Close other programs that have it open, and see that the folder "
        "can be written."
    )


@contextlib.contextmanager
def _plainly(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise _unusable(path, error) from error
    except (sqlite3.IntegrityError, sqlite3.DataError) as error:  # a rule of the tables, or more than a gigabyte
        raise DatabaseError(
            f"{path} does not take what was to be written ({error}). The file is sound and nothing was changed: change "
            "what was to be written."
        ) from error
    except sqlite3.DatabaseError as error:
        if type(error) is not sqlite3.DatabaseError:  # its children are mistakes in using SQLite, not damage
            raise
        copies = copies_of(path)
        instead = f"its newest good daily copy (the last is of {day_of(copies[0])})" if copies else "a new, empty one"
        raise DatabaseError(
            f"{path} is damaged ({error}). It is left as it is. Queue Prompt Library File with the action 'repair': it "
            f"puts {instead} in place of this one, and keeps the damaged one."
        ) from error
