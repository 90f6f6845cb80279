"""The prompt library: prompts with names, tags and favourites, found by their words, and what was queued."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import SettingsError
from ..files import parsed_json, write_whole
from ..texts import cleaned, one_line
from .database import reading, writing
from .recovery import Repaired, repair
from .seeds import MAX_SEED
from .text_file import read_text

FORMATS = ("json", "csv")
MAX_TAG_LENGTH = 60
YEAR_10000 = 253_402_300_800  # in seconds since 1970: no later time can be shown

_COLUMNS = ("name", "text", "tags", "favourite", "created", "seed", "lora", "queued")
_TABLES = ("prompts", "history")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS prompts (
    id INTEGER PRIMARY KEY,
    text TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    tags TEXT NOT NULL,         -- ',light,sea,' in lower case, sorted
    favourite INTEGER NOT NULL,
    created REAL NOT NULL       -- seconds since 1970
);
CREATE INDEX IF NOT EXISTS favourites ON prompts (favourite) WHERE favourite;
CREATE TABLE IF NOT EXISTS history (
    id INTEGER PRIMARY KEY,
    text TEXT NOT NULL,
    seed TEXT NOT NULL,         -- text, as SQLite's integers are signed
    lora TEXT NOT NULL,
    at REAL NOT NULL
);
CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5 (
    name, text, tags, content = 'prompts', content_rowid = 'id', tokenize = 'unicode61 remove_diacritics 2',
    prefix = '2 3'
);
CREATE TRIGGER IF NOT EXISTS added AFTER INSERT ON prompts BEGIN
    INSERT INTO words (rowid, name, text, tags) VALUES (new.id, new.name, new.text, new.tags);
END;
CREATE TRIGGER IF NOT EXISTS removed AFTER DELETE ON prompts BEGIN
    INSERT INTO words (words, rowid, name, text, tags) VALUES ('delete', old.id, old.name, old.text, old.tags);
END;
CREATE TRIGGER IF NOT EXISTS changed AFTER UPDATE ON prompts BEGIN
    INSERT INTO words (words, rowid, name, text, tags) VALUES ('delete', old.id, old.name, old.text, old.tags);
    INSERT INTO words (rowid, name, text, tags) VALUES (new.id, new.name, new.text, new.tags);
END;
CREATE VIRTUAL TABLE IF NOT EXISTS queued_words USING fts5 (
    text, content = 'history', content_rowid = 'id', tokenize = 'unicode61 remove_diacritics 2', prefix = '2 3'
);
CREATE TRIGGER IF NOT EXISTS queued AFTER INSERT ON history BEGIN
    INSERT INTO queued_words (rowid, text) VALUES (new.id, new.text);
END;
INSERT INTO queued_words (queued_words) VALUES ('rebuild') -- for a history that was there before them
"""


@dataclass(frozen=True)
class SavedPrompt:
    """A prompt of the library. Its text is its identity: there are no two with the same."""

    text: str
    name: str = ""
    tags: tuple[str, ...] = ()
    favourite: bool = False
    created: float = 0.0  # seconds since 1970; 0: now


@dataclass(frozen=True)
class Queued:
    """A prompt as it was queued."""

    text: str
    seed: int
    lora: str
    at: float  # seconds since 1970


class Library:
    """The library in one SQLite file. Several may be open at once, in several processes."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def save(self, prompts: Iterable[SavedPrompt]) -> int:
        """Add prompts, all or none. One whose text is there gets the new name, tags and mark instead.

        Returns:
            How many were new.

        Raises:
            SettingsError: a prompt is empty, or a tag is too long.
            DatabaseError: the file cannot be used.
        """
        prompts = tuple(prompts)
        with writing(self.path, _SCHEMA) as database:
            return _save(database, prompts)

    def holds(self, prompt: SavedPrompt) -> bool:
        """Whether the prompt is there with this name, these tags and this mark.

        Raises:
            SettingsError: the prompt is empty, or a tag is too long.
        """
        text, *rest, _ = _row(prompt)
        with reading(self.path, _SCHEMA) as database:
            found = database.execute("SELECT name, tags, favourite FROM prompts WHERE text = ?", [text]).fetchone()
        return found is not None and list(found) == rest

    def remove(self, text: str) -> bool:
        """Whether there was such a prompt; it is gone now."""
        with writing(self.path, _SCHEMA) as database:
            return database.execute("DELETE FROM prompts WHERE text = ?", [text.strip()]).rowcount > 0

    def search(
        self, words: str = "", tag: str = "", favourites: bool = False, limit: int = 50, offset: int = 0
    ) -> list[SavedPrompt]:
        """Prompts that hold all `words` or their beginnings, in text, name or tags; the newest first.

        Accents and capitals make no difference. Without words, all prompts with the tag and the mark.
        """
        conditions, values = [], []
        source = "prompts"
        if query := _query(words):
            source = "words JOIN prompts ON prompts.id = words.rowid"
            conditions.append("words MATCH ?")
            values.append(query)
        if tag.strip():
            conditions.append("instr(prompts.tags, ?)")
            values.append(f",{_tag(tag)},")
        if favourites:
            conditions.append("prompts.favourite")
        # The words' own rowid: FTS5 then reads from the newest back, and stops at the limit.
        order = "words.rowid" if query else "prompts.id"
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        command = f"SELECT prompts.* FROM {source} {where} ORDER BY {order} DESC LIMIT ? OFFSET ?"
        with reading(self.path, _SCHEMA) as database:
            return [_saved(row) for row in database.execute(command, [*values, limit, offset])]

    def count(self) -> int:
        with reading(self.path, _SCHEMA) as database:
            return _count(database)

    def record(self, text: str, seed: int, lora: str = "") -> None:
        """Add a queued prompt to the history, unless it is the same as the last one."""
        last = self.queued(limit=1)
        if last and (last[0].text, last[0].seed, last[0].lora) == (text, seed, lora):
            return
        with writing(self.path, _SCHEMA) as database:
            database.execute(
                "INSERT INTO history (text, seed, lora, at) VALUES (?, ?, ?, ?)", [text, str(seed), lora, time.time()]
            )

    def queued(self, words: str = "", limit: int = 50, offset: int = 0) -> list[Queued]:
        """What was queued with all `words` or their beginnings in its text, the last first."""
        command, values = "SELECT * FROM history ORDER BY id DESC LIMIT ? OFFSET ?", [limit, offset]
        if query := _query(words):
            command = (
                "SELECT history.* FROM queued_words JOIN history ON history.id = queued_words.rowid "
                "WHERE queued_words MATCH ? ORDER BY queued_words.rowid DESC LIMIT ? OFFSET ?"
            )
            values = [query, *values]
        with reading(self.path, _SCHEMA) as database:
            return [_queued(row) for row in database.execute(command, values)]

    def fingerprint(self) -> str:
        """Changes with every change of the library, by any process."""
        files = (self.path, Path(f"{self.path}-wal"))
        return " ".join(f"{file.stat().st_mtime_ns}:{file.stat().st_size}" for file in files if file.exists())

    def repair(self) -> Repaired:
        """Put the newest good daily copy in place of a damaged library; see `recovery.repair`."""
        return repair(self.path, _SCHEMA, _TABLES)

    def write_to(self, path: Path) -> tuple[int, int]:
        """Write the whole library and its history to a .json or .csv file, oldest first.

        An entry of the history is one with 'queued', the time; its seed is text, as other programs round numbers.

        Returns:
            How many prompts and how many entries of the history it has.
        """
        with reading(self.path, _SCHEMA) as database:
            prompts = [_saved(row) for row in database.execute("SELECT * FROM prompts ORDER BY id")]
            history = [_queued(row) for row in database.execute("SELECT * FROM history ORDER BY id")]
        entries = [asdict(prompt) for prompt in prompts]
        entries += [
            {"text": each.text, "seed": str(each.seed), "lora": each.lora, "queued": each.at} for each in history
        ]
        write_whole(path, _as_json(entries) if _format(path) == "json" else _as_csv(entries))
        return len(prompts), len(history)

    def read_from(self, path: Path) -> tuple[int, int, int]:
        """Add the entries of a .json or .csv file, all or none.

        Half characters and control characters are taken out of their texts, as out of all texts (`texts.cleaned`).

        Returns:
            How many were new, how many there were, and how many had something taken out.

        Raises:
            SettingsError: the file is not there, or one of its entries cannot be read; nothing is added then.
        """
        content = read_text(path)
        entries = _json_entries(content, path) if _format(path) == "json" else _csv_entries(content, path)
        clean = [_cleaned(entry) for entry in entries]
        mended = sum(new != old for new, old in zip(clean, entries, strict=True))
        read = [_from_entry(entry, number, path) for number, entry in enumerate(clean, start=1)]
        prompts = [entry for entry in read if isinstance(entry, SavedPrompt)]
        queued = [entry for entry in read if isinstance(entry, Queued)]
        with writing(self.path, _SCHEMA) as database:
            return _save(database, prompts) + _add_queued(database, queued), len(read), mended


def chosen(found: Sequence[SavedPrompt | Queued], place: int, words: str) -> tuple[SavedPrompt | Queued, str]:
    """The first of the found prompts, and a list of them all.

    Args:
        place: of the first among all that the search would find; 0 is the newest.

    Raises:
        SettingsError: nothing was found at that place.
    """
    if not found:
        asked = f" with '{words.strip()}'" if words.strip() else ""
        raise SettingsError(f"There is no prompt{asked} at place {place}. Use fewer words, or a smaller place.")
    return found[0], "\n".join(f"{number}: {_line(each)}" for number, each in enumerate(found, start=place))


def _line(prompt: SavedPrompt | Queued) -> str:
    if isinstance(prompt, Queued):
        return f"{prompt.text} (seed {prompt.seed}{f', LoRA {prompt.lora}' if prompt.lora else ''})"
    about = ", ".join(filter(None, (prompt.name, *prompt.tags, "favourite" if prompt.favourite else "")))
    return f"{prompt.text}{f' ({about})' if about else ''}"


def _save(database: sqlite3.Connection, prompts: Iterable[SavedPrompt]) -> int:
    before = _count(database)
    database.executemany(
        "INSERT INTO prompts (text, name, tags, favourite, created) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (text) DO UPDATE SET name = excluded.name, tags = excluded.tags, favourite = excluded.favourite",
        map(_row, prompts),
    )
    return _count(database) - before


def _add_queued(database: sqlite3.Connection, history: Sequence[Queued]) -> int:
    """Add entries to the history but those that are there."""
    known = {_queued(row) for row in database.execute("SELECT * FROM history")} if history else set()
    new = [each for each in dict.fromkeys(history) if each not in known]
    database.executemany(
        "INSERT INTO history (text, seed, lora, at) VALUES (?, ?, ?, ?)",
        [(each.text, str(each.seed), each.lora, each.at) for each in new],
    )
    return len(new)


def split_tags(text: str) -> tuple[str, ...]:
    """Tags written with commas between them, in lower case, sorted, each once.

    Raises:
        SettingsError: a tag is longer than 60 characters.
    """
    tags = sorted({_tag(tag) for tag in text.split(",") if tag.strip()})
    if long := next((tag for tag in tags if len(tag) > MAX_TAG_LENGTH), None):
        raise SettingsError(f"The tag '{long[:40]}…' has {len(long)} characters. Use at most {MAX_TAG_LENGTH}.")
    return tuple(tags)


def _tag(tag: str) -> str:
    return one_line(tag.lower())


def _query(words: str) -> str:
    """An FTS5 query for all words as beginnings; quoted, so that no word is taken for an operator."""
    return " ".join(f'"{word}"*' for word in re.findall(r"\w+", words))


def _row(prompt: SavedPrompt) -> tuple:
    text = prompt.text.strip()
    if not text:
        raise SettingsError("The prompt to save is empty. Write its text.")
    tags = split_tags(",".join(prompt.tags))
    stored = f",{','.join(tags)}," if tags else ""
    return text, prompt.name.strip(), stored, int(prompt.favourite), prompt.created or time.time()


def _saved(row: sqlite3.Row) -> SavedPrompt:
    tags = tuple(tag for tag in row["tags"].split(",") if tag)
    return SavedPrompt(row["text"], row["name"], tags, bool(row["favourite"]), row["created"])


def _queued(row: sqlite3.Row) -> Queued:
    return Queued(row["text"], int(row["seed"]), row["lora"], row["at"])


def _count(database: sqlite3.Connection) -> int:
    return database.execute("SELECT count(*) FROM prompts").fetchone()[0]


def _format(path: Path) -> str:
    ending = path.suffix.lower().lstrip(".")
    if ending not in FORMATS:
        raise SettingsError(f"The file name '{path.name}' does not end in .json or .csv. Choose one of these.")
    return ending


def _as_json(entries: list[dict[str, Any]]) -> str:
    return json.dumps(entries, ensure_ascii=False, indent=1) + "\n"


def _as_csv(entries: list[dict[str, Any]]) -> str:
    content = io.StringIO()
    writer = csv.DictWriter(content, _COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for entry in entries:
        if "tags" in entry:
            entry = {**entry, "tags": ", ".join(entry["tags"]), "favourite": int(entry["favourite"])}
        writer.writerow(entry)
    return content.getvalue()


def _json_entries(content: str, path: Path) -> list[Any]:
    try:
        entries = parsed_json(content)
    except ValueError as error:
        raise SettingsError(f"{path} is not JSON: {error}. Write a list of objects with 'text'.") from None
    if not isinstance(entries, list):
        raise SettingsError(f"{path} does not hold a list. Write a list of objects with 'text'.")
    return entries


def _csv_entries(content: str, path: Path) -> list[Any]:
    reader = csv.DictReader(io.StringIO(content, newline=""))
    entries: list[Any] = []
    try:
        names = reader.fieldnames or ()
        entries.extend(reader)
    except csv.Error as error:
        raise SettingsError(
            f"Entry {len(entries) + 1} of {path} cannot be read ({error}). Correct or remove it; nothing was added."
        ) from None
    if "text" not in names:
        raise SettingsError(f"{path} has no column 'text' in its first line. Name the columns: {', '.join(_COLUMNS)}.")
    return entries


def _cleaned(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _cleaned(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_cleaned(part) for part in value]
    return cleaned(value) if isinstance(value, str) else value


def _from_entry(entry: Any, number: int, path: Path) -> SavedPrompt | Queued:
    if not isinstance(entry, dict) or not isinstance(entry.get("text"), str) or not entry["text"].strip():
        raise SettingsError(f"Entry {number} of {path} has no text. Give every entry one; nothing was added.")
    if queued := _seconds(entry, "queued", number, path):
        seed = str(entry.get("seed") or "0")
        if not (seed.isascii() and seed.isdigit() and len(seed) <= 20 and int(seed) <= MAX_SEED):
            raise SettingsError(
                f"Entry {number} of {path} has the seed '{seed[:40]}'. Use a whole number from 0 to {MAX_SEED}; "
                "nothing was added."
            )
        return Queued(entry["text"], int(seed), str(entry.get("lora") or ""), queued)
    tags = entry.get("tags") or ()
    return SavedPrompt(
        *(entry["text"], str(entry.get("name") or "")),
        split_tags(tags if isinstance(tags, str) else ",".join(map(str, tags))),
        str(entry.get("favourite")).strip().lower() in {"1", "true", "yes"},
        _seconds(entry, "created", number, path),
    )


def _seconds(entry: dict[str, Any], name: str, number: int, path: Path) -> float:
    try:
        seconds = float(entry.get(name) or 0)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not 0 <= seconds < YEAR_10000:  # nor is NaN, which JSON as Python reads it may hold
        raise SettingsError(
            f"Entry {number} of {path} was {name} at '{str(entry[name])[:40]}', which is no number of seconds since "
            "1970. Remove it; nothing was added."
        )
    return seconds
