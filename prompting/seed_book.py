"""The seed book: where each sequence of seeds stands, favourites, notes, and which seeds made which files."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import SettingsError
from ..files import content_hash
from .database import reading, writing
from .recovery import Repaired, repair
from .seeds import FAVOURITE, LAST, STEPPING, SeedSettings, listed_seeds, seeds_at, wrapped, written

_SCHEMA = """
CREATE TABLE IF NOT EXISTS sequences (key TEXT PRIMARY KEY, position INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS favourites (name TEXT PRIMARY KEY, seed TEXT NOT NULL, at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS notes (seed TEXT PRIMARY KEY, note TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS history (
    id INTEGER PRIMARY KEY,
    sequence TEXT NOT NULL,
    profile TEXT NOT NULL,
    seeds TEXT NOT NULL,
    queued TEXT NOT NULL,             -- ComfyUI's id of the queued prompt
    files TEXT NOT NULL DEFAULT '[]', -- JSON: what that prompt saved
    at REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS by_sequence ON history (sequence, id);
CREATE INDEX IF NOT EXISTS by_prompt ON history (queued)
"""

MOST_COUNTED = 200_000  # seeds of statistics, which are made at each queueing
_TABLES = ("sequences", "favourites", "notes", "history")


@dataclass(frozen=True)
class Taken:
    """Seeds as they were given out, and the files they made as far as known."""

    profile: str
    seeds: tuple[int, ...]
    queued: str
    files: tuple[str, ...]
    at: float  # seconds since 1970

    def __str__(self) -> str:
        made = f" → {', '.join(self.files)}" if self.files else ""
        return f"{time.strftime('%Y-%m-%d %H:%M', time.localtime(self.at))} {self.profile}: {written(self.seeds)}{made}"


@dataclass(frozen=True)
class Used:
    """The seeds that were given out: how many, how many different ones, and between which."""

    count: int
    different: int
    least: int
    greatest: int
    whole: bool  # False: of the newest `MOST_COUNTED` alone

    @classmethod
    def of(cls, seeds: Sequence[int], whole: bool) -> Used:
        return cls(len(seeds), len(set(seeds)), min(seeds, default=0), max(seeds, default=0), whole)

    def __str__(self) -> str:
        if not self.count:
            return "none"
        last = "" if self.whole else "the last "
        return (
            f"{last}{self.count:,}, {self.different:,} of them different, from {self.least} to {self.greatest} (a span "
            f"of {self.greatest - self.least})"
        )


class SeedBook:
    """The book in one SQLite file. Several may be open at once, in several processes."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def repair(self) -> Repaired:
        """Put the newest good daily copy in place of a damaged book; see `recovery.repair`."""
        return repair(self.path, _SCHEMA, _TABLES)

    def take(self, settings: SeedSettings, sequence: str, queued: str) -> tuple[int, ...]:
        """The next seeds of a profile, written to the history.

        A stepping profile begins anew when its settings change, and goes on where it stood when they change back.

        Args:
            sequence: a name; two of them step and remember apart.
            queued: ComfyUI's id of the queued prompt.

        Raises:
            SettingsError: there is no such favourite, nothing was queued before, or a list cannot be read.
            DatabaseError: the book cannot be used.
        """
        if settings.profile == LAST:
            seeds = self._last(settings, sequence)
        elif settings.profile == FAVOURITE:
            start = self._favourite(settings.text.strip())
            seeds = tuple(wrapped(start + place) for place in range(settings.count))
        elif settings.profile not in STEPPING:
            seeds = seeds_at(settings, 0)
        else:
            seeds = self._step(settings, sequence)
        self._record(settings.profile, seeds, sequence, queued)
        return seeds

    def _step(self, settings: SeedSettings, sequence: str) -> tuple[int, ...]:
        key = content_hash([sequence, settings.profile, settings.seed, settings.text])
        with writing(self.path, _SCHEMA) as database:
            row = database.execute("SELECT position FROM sequences WHERE key = ?", [key]).fetchone()
            position = row["position"] if row else 0
            seeds = seeds_at(settings, position)
            database.execute("REPLACE INTO sequences VALUES (?, ?)", [key, position + settings.count])
        return seeds

    def _record(self, profile: str, seeds: Sequence[int], sequence: str, queued: str) -> None:
        with writing(self.path, _SCHEMA) as database:
            database.execute(
                "INSERT INTO history (sequence, profile, seeds, queued, at) VALUES (?, ?, ?, ?, ?)",
                [sequence, profile, written(seeds), queued, time.time()],
            )

    def _last(self, settings: SeedSettings, sequence: str) -> tuple[int, ...]:
        last = self.history(sequence, 1)
        if not last:
            raise SettingsError(
                f"Nothing was queued yet in the sequence '{sequence}'. Queue with another profile first."
            )
        if len(last[0].seeds) < settings.count:
            raise SettingsError(
                f"The last queued seeds are {written(last[0].seeds)}. Set the count to {len(last[0].seeds)} or less."
            )
        return last[0].seeds[: settings.count]

    def _favourite(self, name: str) -> int:
        favourites = self.favourites()
        if name not in favourites:
            known = ", ".join(f"'{known}'" for known in sorted(favourites)) or "none yet"
            raise SettingsError(f"There is no favourite seed '{name}'. Write one of these as the text: {known}.")
        return favourites[name]

    def favourites(self) -> dict[str, int]:
        """Name -> seed."""
        with reading(self.path, _SCHEMA) as database:
            return {row["name"]: int(row["seed"]) for row in database.execute("SELECT * FROM favourites")}

    def keep(self, name: str, seed: int) -> None:
        """Give a seed a name, taking the name from any other."""
        with writing(self.path, _SCHEMA) as database:
            database.execute("REPLACE INTO favourites VALUES (?, ?, ?)", [name.strip(), str(seed), time.time()])

    def note(self, seed: int) -> str:
        """What was written about a seed; empty where nothing was."""
        with reading(self.path, _SCHEMA) as database:
            row = database.execute("SELECT note FROM notes WHERE seed = ?", [str(seed)]).fetchone()
            return row["note"] if row else ""

    def write_note(self, seed: int, note: str) -> None:
        with writing(self.path, _SCHEMA) as database:
            database.execute("REPLACE INTO notes VALUES (?, ?)", [str(seed), note.strip()])

    def knows(self, seed: int, name: str, note: str) -> bool:
        """Whether a seed has this name and this note; an empty one is not asked about."""
        named = not name.strip() or self.favourites().get(name.strip()) == seed
        return named and (not note.strip() or self.note(seed) == note.strip())

    def history(self, sequence: str, limit: int = 20) -> list[Taken]:
        """What a sequence gave, the last first."""
        with reading(self.path, _SCHEMA) as database:
            rows = database.execute(
                "SELECT * FROM history WHERE sequence = ? ORDER BY id DESC LIMIT ?", [sequence, limit]
            )
            return [
                Taken(
                    row["profile"],
                    listed_seeds(row["seeds"]),
                    row["queued"],
                    tuple(json.loads(row["files"])),
                    row["at"],
                )
                for row in rows
            ]

    def used(self, sequence: str | None = None) -> Used:
        """The seeds that a sequence, or all together, have given out."""
        where, values = ("WHERE sequence = ?", [sequence]) if sequence is not None else ("", [])
        seeds: list[int] = []
        with reading(self.path, _SCHEMA) as database:
            for row in database.execute(f"SELECT seeds FROM history {where} ORDER BY id DESC", values):
                seeds += map(int, reversed(row["seeds"].split(", ")))
                if len(seeds) > MOST_COUNTED:
                    return Used.of(seeds[:MOST_COUNTED], whole=False)
        return Used.of(seeds, whole=True)

    def statistics(self, sequence: str) -> str:
        """How many seeds the sequence and all sequences have given out, a line each."""
        return f"Seeds used in '{sequence}': {self.used(sequence)}.\nIn all sequences: {self.used()}."

    def add_files(self, queued: str, files: Sequence[str]) -> None:
        """Write down what a queued prompt saved."""
        with writing(self.path, _SCHEMA) as database:
            database.execute("UPDATE history SET files = ? WHERE queued = ?", [json.dumps(list(files)), queued])

    def complete(self, sequence: str, files_of: Callable[[str], Sequence[str]]) -> None:
        """Write down what the last queued prompts of a sequence have saved meanwhile.

        Args:
            files_of: gives the files that a queued prompt saved, as far as they are known.
        """
        for taken in self.history(sequence):
            if taken.queued and not taken.files and (files := files_of(taken.queued)):
                self.add_files(taken.queued, files)

    def report(self, seeds: Sequence[int], sequence: str, entries: int) -> str:
        """The seeds, what was noted about the first, and the last entries of the history before them."""
        lines = [f"Seeds: {written(seeds[:20])}{f' … {len(seeds)} in all' if len(seeds) > 20 else ''}"]
        if note := self.note(seeds[0]):
            lines.append(f"Note: {note}")
        names = sorted(name for name, seed in self.favourites().items() if seed == seeds[0])
        lines += [f"Favourite: {', '.join(names)}"] if names else []
        return "\n".join([*lines, *map(str, self.history(sequence, entries))])
