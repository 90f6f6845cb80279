"""A dataset repository on the Hugging Face Hub as a source: labels without pictures, then only the row groups wanted.

Everything read is kept under `<datasets root>/.sources/<owner>--<name>/`: the list of files per revision, each shard's
labels and footer by the shard's hash, and row groups as far as they were received. Which pictures of a row group a
dataset has is in that dataset's `fetched.jsonl`. The HTTP side is `hub`.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..dataset.pictures import Outcome, stored_or_refused
from ..errors import DatasetError
from ..files import content_hash, is_old, parsed_json, remove_partials, write_whole
from ..parquet_limits import check_labels
from ..paths import Roots
from ..progress import Progress, duration
from ..texts import megabytes
from .download_log import DownloadLog
from .hub import WORKERS, Connection, Hub, RemoteFile, Revision, hub_from_environment, parse_repository
from .parallel import in_parallel
from .parquet import (
    COLUMNS,
    check_rows_of_source,
    label_columns,
    opened,
    parse_columns,
    picture_column,
    read_group,
    read_labels,
)
from .plan import Request
from .shard_index import Group, Ranges, ShardIndex, check_lengths, chunks, joined, read_index
from .source import NOTHING_TO_FETCH, Cost, Row, RowGroups, cache_folder

FIRST_TAIL = 24 * 1024  # bytes; the footer of a shard of huggan/wikiart, which names 129 artists, has about 20,000
MAGIC = b"PAR1"
LARGEST_FOOTER = 64_000_000  # bytes
LARGEST_LABELS = 256_000_000  # bytes of the label columns of a shard as they are stored
LARGEST_GROUP = 2_000_000_000  # bytes of the pictures of a row group, which are in memory together while unpacked


def recognises(source: str) -> bool:
    """Whether the name is a repository's, with or without a revision."""
    return parse_repository(source) is not None


def fingerprint(datasets_root: Roots, source: str, hub: Hub | None = None) -> str:
    """The commit that the repository's revision stands for. Raises what `HubRepository.current_sha` raises."""
    # asked at every queueing, so not for long: where the Hub does not answer, loading will say so
    once = replace(hub or hub_from_environment(), attempts=1)
    return HubRepository.current_sha(datasets_root, once, *_parsed(source))


def open_source(datasets_root: Roots, request: Request, hub: Hub | None = None) -> HubRepository:
    """The repository that a request names.

    Args:
        hub: where it is looked for; the one of the environment where it is None.

    Raises:
        SettingsError: a column line has another form.
        DatasetError: there is no such repository, or the Hub fails.
    """
    columns = parse_columns(request.columns)
    repository, revision = _parsed(request.source)
    return HubRepository(
        datasets_root, hub or hub_from_environment(), repository, revision, columns, request.keep_metadata
    )


def _parsed(source: str) -> tuple[str, str]:
    found = parse_repository(source)
    if found is None:
        raise DatasetError(f"'{source}' names no repository. Write owner/name, or owner/name@revision.")
    return found


class HubRepository:
    """The parquet shards of one revision of a repository."""

    def __init__(
        self,
        datasets_root: Roots,
        hub: Hub,
        repository: str,
        revision: str,
        columns: Mapping[str, str],
        keep_metadata: bool = False,
    ) -> None:
        self._hub, self._keep_metadata = hub, keep_metadata
        self._cache = cache_folder(datasets_root, repository.replace("/", "--"))
        self._columns = dict(columns)
        self._revision = self._listed(repository, self.current_sha(datasets_root, hub, repository, revision))
        self._shards = [file for file in self._revision.files if file.path.endswith(".parquet")]
        if not self._shards:
            raise DatasetError(
                f"The repository '{repository}' has no parquet files at revision '{revision}'. Where the Hub has "
                f"converted it, '{repository}@refs/convert/parquet' has them."
            )
        self._indexes: list[ShardIndex] = []
        self.notes: Sequence[str] = ()
        self._tail = FIRST_TAIL
        self.name = repository
        self.shard_names = [shard.path for shard in self._shards]

    @staticmethod
    def current_sha(datasets_root: Roots, hub: Hub, repository: str, revision: str) -> str:
        """The commit that a revision's name stands for; offline, the one it stood for when it was last asked.

        Raises:
            DatasetError: the Hub knows no such repository or revision, or offline and never asked before.
        """
        names = cache_folder(datasets_root, repository.replace("/", "--")) / "revisions.json"
        known = _json_if_any(names) or {}
        if not hub.offline:
            sha = Connection(hub).sha_of(repository, revision)
            if known.get(revision) != sha:
                write_whole(names, json.dumps(known | {revision: sha}))
            return sha
        if revision not in known:
            raise DatasetError(
                f"HF_HUB_OFFLINE is set, and '{repository}' at revision '{revision}' was never read. Unset it once."
            )
        return str(known[revision])

    def rows(self, progress: Progress) -> list[Row]:
        """The labels of every shard; shards read before, at whatever revision, are not read again."""
        missing = {
            number: shard
            for number, shard in enumerate(self._shards)
            if read_index(self._index_path(shard)) is None or not self._tail_path(shard).exists()
        }
        self._require_online(missing, "labels of")
        connection, began, done = Connection(self._hub), time.monotonic(), len(self._shards) - len(missing)

        def tick() -> None:
            text = connection.countdown() or f"Reading labels of shard {done} of {len(self._shards)}"
            progress(done, len(self._shards), text)

        for _ in in_parallel(
            connection, lambda number: self._index_shard(connection, missing[number]), missing, tick, WORKERS
        ):
            done += 1
            tick()
        if missing and self._speed() is None:
            self._keep_speed(connection, began)
        self._indexes = []
        known: dict[str, str] = {}
        rows: list[Row] = []
        for number, shard in enumerate(self._shards):
            index = self._index(shard)
            rows += [
                Row(number, row, *(known.setdefault(label, label) for label in labels))
                for row, labels in enumerate(zip(*index.labels, strict=True))
            ]
            check_rows_of_source(len(rows), self.name)
            self._indexes.append(index)
        return rows

    def place(self, row: Row) -> str:
        return f"{self.name}@{self._revision.sha[:12]}/{self._shards[row.shard].path}#{row.row}"

    @property
    def groups(self) -> RowGroups:
        """The shards' row groups: pictures of one are fetched together."""
        return self

    def group_of(self, row: Row) -> tuple[int, int]:
        """Shard and row group of a row."""
        groups = self._indexes[row.shard].groups
        return row.shard, bisect_right(groups, row.row, key=lambda group: group.first) - 1

    def weight_of(self, group: tuple[int, int]) -> int:
        """Bytes to fetch for a row group."""
        return self._group(group).length

    def cost(self, folder: Path, rows: Iterable[Row]) -> Cost:
        """What it will take to have these pictures, beyond what the dataset has already."""
        fetched = DownloadLog(folder, self._keep_metadata)
        groups = {self.group_of(row) for row in rows if fetched.get(self._key(row)) is None}
        size = sum(self.weight_of(group) for group in groups)
        speed = self._speed()
        if not groups:
            return NOTHING_TO_FETCH
        lasting = f"about {duration(size / speed)} at the speed last measured" if speed else "speed unknown"
        return Cost(f"To fetch: {megabytes(size)} in {len(groups):,} requests, {lasting}.", size)

    def store(
        self, folder: Path, rows: Sequence[Row], pool: Collection[Row], tick: Callable[[str], None]
    ) -> Iterator[tuple[Row, Outcome]]:
        """Put the pictures of `rows` into the dataset's folder, in any order, fetching whole row groups.

        Of each row group fetched, the pictures of all rows of `pool` are kept: they are paid for, and the next in line.

        Raises:
            DatasetError: the Hub fails for good, or gives something else than the revision lists.
        """
        fetched = DownloadLog(folder, self._keep_metadata)
        wanted: dict[tuple[int, int], list[Row]] = defaultdict(list)
        for row in rows:
            if (outcome := fetched.verified(self._key(row))) is not None:
                yield row, outcome
                tick("")
            else:
                wanted[self.group_of(row)].append(row)
        self._require_online(wanted, "row groups of")
        keep: dict[tuple[int, int], set[int]] = {group: {row.row for row in asked} for group, asked in wanted.items()}
        for row in pool:
            if (group := self.group_of(row)) in keep:
                keep[group].add(row.row)
        self._forget_other_parts(wanted)
        connection, began, done = Connection(self._hub), time.monotonic(), 0
        size = sum(map(self.weight_of, wanted))

        def fetch(group: tuple[int, int]) -> dict[int, Outcome]:
            return self._fetch(connection, folder, group, keep[group], fetched)

        def look() -> None:
            got = f"{connection.received / 1e6:,.1f} of {megabytes(size)}, row group {done} of {len(wanted)}"
            tick(connection.countdown() or f"Fetching from the Hub: {got}")

        for group, outcomes in in_parallel(connection, fetch, wanted, look, WORKERS):
            done += 1
            for row in wanted[group]:
                yield row, outcomes[row.row]
        if connection.received:
            self._keep_speed(connection, began)

    def _fetch(
        self, connection: Connection, folder: Path, group: tuple[int, int], keep: set[int], fetched: DownloadLog
    ) -> dict[int, Outcome]:
        shard, place = self._shards[group[0]], self._group(group)
        part = self._part(group)
        begun = part.exists()
        connection.download(self._revision, shard, place.start, place.length, part)
        try:
            outcomes = self._unpack(connection, folder, group, keep, part)
        except DatasetError:
            part.unlink()
            if not begun:
                raise
            # the beginning dates from before a crash of the machine, which can leave a hole in a file
            connection.download(self._revision, shard, place.start, place.length, part)
            outcomes = self._unpack(connection, folder, group, keep, part)
        fetched.add(shard.oid, {str(row): outcome for row, outcome in outcomes.items()})
        part.unlink()
        return outcomes

    def _unpack(
        self, connection: Connection, folder: Path, group: tuple[int, int], keep: set[int], part: Path
    ) -> dict[int, Outcome]:
        shard, place = self._shards[group[0]], self._group(group)
        outcomes: dict[int, Outcome] = {}
        with self._opened(shard, self._tail_path(shard).read_bytes(), [(place.start, part.read_bytes())]) as file:
            column = self._indexes[group[0]].column
            for row, data in read_group(file, group[1], place.first, column, keep):
                connection.raise_if_stopped()
                outcomes[row] = stored_or_refused(folder, data, self._keep_metadata)
        return outcomes

    def _index_shard(self, connection: Connection, shard: RemoteFile) -> None:
        """Read a shard's footer and its label columns, and keep both."""
        tail = self._read_tail(connection, shard)
        with self._opened(shard, tail) as file:
            names = {theirs for theirs, _ in label_columns(file, shard.path, self._columns).values()}
            spans = joined(chunks(file, shard, lambda path: path.split(".")[0] in names))
            column = picture_column(file, shard.path, self._columns)
            pictures = chunks(file, shard, lambda path: path == column)
            check_labels(file.metadata, names)
            lengths = [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]
        check_lengths(shard, [sum(length for _, length in spans)], LARGEST_LABELS, "labels")
        check_lengths(shard, [length for _, length in pictures], LARGEST_GROUP, "row groups")
        pieces = [(start, connection.read(self._revision, shard, start, length)) for start, length in spans]
        with self._opened(shard, tail, pieces) as file:
            labels = read_labels(file, shard.path, self._columns)
        firsts = [sum(lengths[:number]) for number in range(len(lengths))]
        groups = [[first, rows, *span] for first, rows, span in zip(firsts, lengths, pictures, strict=True)]
        index = json.dumps({"column": column, "groups": groups, "labels": labels})
        write_whole(self._tail_path(shard), tail)
        write_whole(self._index_path(shard), gzip.compress(index.encode(), mtime=0))

    def _read_tail(self, connection: Connection, shard: RemoteFile) -> bytes:
        """The footer: its length and the magic number stand in the file's last eight bytes (parquet-format, README)."""
        guess = min(self._tail, shard.size)
        tail = connection.read(self._revision, shard, shard.size - guess, guess)
        if tail[-4:] != MAGIC:
            raise DatasetError(f"{shard.path} of '{self.name}' is not a whole parquet file. Choose another revision.")
        needed = int.from_bytes(tail[-8:-4], "little") + 8
        check_lengths(shard, [needed], min(LARGEST_FOOTER, shard.size), "footer")
        if needed > len(tail):
            tail = connection.read(self._revision, shard, shard.size - needed, needed - len(tail)) + tail
        self._tail = needed + needed // 16  # the shards of a dataset are much alike
        return tail[-needed:]

    def _listed(self, repository: str, sha: str) -> Revision:
        path = self._cache / "revisions" / f"{content_hash(sha)}.json"
        if (known := _json_if_any(path)) is not None:
            return Revision(repository, sha, tuple(RemoteFile(*entry) for entry in known))
        self._require_online([sha], "the list of files at")
        revision = Connection(self._hub).list_revision(repository, sha)
        write_whole(path, json.dumps([[file.path, file.size, file.oid] for file in revision.files]))
        return revision

    def _require_online(self, missing: Collection[object], what: str) -> None:
        if missing and self._hub.offline:
            raise DatasetError(
                f"HF_HUB_OFFLINE is set, and {what} {len(missing)} of '{self._cache.name}' are not here. Unset it once."
            )

    def _opened(self, shard: RemoteFile, tail: bytes, pieces: Sequence[tuple[int, bytes]] = ()) -> Any:
        where = f"{self._cache.name}/{shard.path}"
        return opened(Ranges(shard.size, [(shard.size - len(tail), tail), *pieces]), where, self._columns)

    def _index(self, shard: RemoteFile) -> ShardIndex:
        index = read_index(self._index_path(shard))
        assert index is not None  # `rows` has just read it
        return index

    def _group(self, group: tuple[int, int]) -> Group:
        return self._indexes[group[0]].groups[group[1]]

    def _key(self, row: Row) -> tuple[str, str]:
        return self._shards[row.shard].oid, str(row.row)

    def _index_path(self, shard: RemoteFile) -> Path:
        name = f"{content_hash([shard.oid, self._columns, COLUMNS])}.json.gz"
        return self._cache / "labels" / name

    def _tail_path(self, shard: RemoteFile) -> Path:
        return self._cache / "footers" / content_hash(shard.oid)

    def _part(self, group: tuple[int, int]) -> Path:
        return self._cache / "parts" / f"{content_hash(self._shards[group[0]].oid)}-{self._group(group).start}"

    def _forget_other_parts(self, wanted: Iterable[tuple[int, int]]) -> None:
        """Remove what was half received for another selection, and what a killed process left of the index."""
        current = {self._part(group).name for group in wanted}
        for part in self._cache.glob("parts/*"):
            # Another server may be at work on its own selection.
            with contextlib.suppress(FileNotFoundError):
                if part.name not in current and is_old(part):
                    part.unlink()
        for folder in ("labels", "footers"):
            remove_partials(self._cache / folder)

    def _speed(self) -> float | None:
        """Bytes per second, as last measured from this hub."""
        known = _json_if_any(self._cache.parent / "speed.json") or {}
        return known.get(self._hub.endpoint)

    def _keep_speed(self, connection: Connection, began: float) -> None:
        path = self._cache.parent / "speed.json"
        speed = connection.received / max(time.monotonic() - began, 1e-3)
        write_whole(path, json.dumps((_json_if_any(path) or {}) | {self._hub.endpoint: speed}))


def _json_if_any(path: Path) -> Any:
    with contextlib.suppress(FileNotFoundError, ValueError):
        return parsed_json(path.read_bytes())
    return None
