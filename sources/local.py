"""Sources on this machine: folders under the datasets root with parquet shards, or with the ArtGAN archive."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ..dataset.pictures import Outcome, stored_or_refused
from ..errors import DatasetError
from ..files import content_hash
from ..paths import Roots, existing_child, in_a_row, offered, places, told
from ..progress import Progress
from .artgan import find_pictures, find_styles, is_archive, read_archive
from .parquet import find_shards, parse_columns, read_pictures, read_rows
from .plan import Request
from .source import Cost, PaintingSource, Row, RowGroups


class ParquetFolder:
    """Parquet shards in a folder under the datasets root."""

    def __init__(self, folder: Path, columns: Mapping[str, str], keep_metadata: bool = False) -> None:
        self._folder, self._columns, self._keep_metadata = folder, columns, keep_metadata
        self._shards = find_shards(folder)
        self.name = folder.name
        self.notes: Sequence[str] = ()
        self.groups: RowGroups | None = None
        self.shard_names = [shard.relative_to(folder).as_posix() for shard in self._shards]

    def rows(self, progress: Progress) -> list[Row]:
        return read_rows(self._shards, progress, self._columns)

    def place(self, row: Row) -> str:
        return f"{self.name}/{self.shard_names[row.shard]}#{row.row}"

    def cost(self, folder: Path, rows: Iterable[Row]) -> Cost | None:
        """Nothing: the pictures are here."""
        return None

    def store(
        self, folder: Path, rows: Sequence[Row], pool: Collection[Row], tick: Callable[[str], None]
    ) -> Iterator[tuple[Row, Outcome]]:
        """Shard by shard, so that each row group is read once."""
        by_shard: dict[int, dict[int, Row]] = defaultdict(dict)
        for row in rows:
            by_shard[row.shard][row.row] = row
        for shard, wanted in sorted(by_shard.items()):
            for number, data in read_pictures(self._shards[shard], wanted, self._columns):
                yield wanted[number], stored_or_refused(folder, data, self._keep_metadata)


class ArchiveFolder:
    """The ArtGAN archive, unpacked in a folder under the datasets root."""

    def __init__(self, folder: Path, keep_metadata: bool = False) -> None:
        self._folder, self._keep_metadata = folder, keep_metadata
        self._styles = find_styles(folder)
        self.name = folder.name
        self.notes: Sequence[str] = ()
        self.groups: RowGroups | None = None
        self.shard_names = [style.name for style in self._styles]

    def rows(self, progress: Progress) -> list[Row]:
        return read_archive(self._folder)

    def place(self, row: Row) -> str:
        return f"{self.name}/{self.shard_names[row.shard]}#{row.row}"

    def cost(self, folder: Path, rows: Iterable[Row]) -> Cost | None:
        """Nothing: the pictures are here."""
        return None

    def store(
        self, folder: Path, rows: Sequence[Row], pool: Collection[Row], tick: Callable[[str], None]
    ) -> Iterator[tuple[Row, Outcome]]:
        pictures = [find_pictures(style) for style in self._styles]
        for row in rows:
            data = pictures[row.shard][row.row].read_bytes()
            yield row, stored_or_refused(folder, data, self._keep_metadata)


def holds_source(folder: Path) -> bool:
    """Whether a folder under the datasets root is a source, so that no dataset may have its name."""
    return bool(find_shards(folder)) or is_archive(folder)


def find_sources(roots: Roots) -> list[str]:
    """Names of the folders directly under the datasets roots that are sources."""
    return [name for name in offered(roots) if any(_is_source(root / name) for root in places(roots))]


def _is_source(folder: Path) -> bool:
    return folder.is_dir() and holds_source(folder)


def find_source(datasets_root: Roots, source: str) -> Path:
    """The folder of a source.

    Raises:
        NameRefused: it is no name, or leads out of the root.
        DatasetError: it holds neither parquet files nor the ArtGAN archive; the text lists the folders that do.
    """
    folder = existing_child(datasets_root, source, what="source", holds=holds_source)
    if folder is None or not holds_source(folder):
        others = find_sources(datasets_root)
        remedy = (
            f"Choose one of these: {in_a_row(others)}." if others else "No folder there holds any yet: put some in."
        )
        raise DatasetError(
            f"There is no folder '{source}' with parquet files in it under {told(datasets_root)}. {remedy} "
            "A repository on the Hugging Face Hub is written owner/name."
        )
    return folder


def recognises(source: str) -> bool:
    """Any name may be a folder's."""
    return True


def fingerprint(datasets_root: Roots, source: str) -> str:
    """Changes when a shard of the source is added, removed or rewritten. Raises what `find_source` raises."""
    folder = find_source(datasets_root, source)
    files = find_shards(folder) or [path for style in find_styles(folder) for path in find_pictures(style)]
    states = ((str(path), path.stat()) for path in files)
    return content_hash([[path, state.st_size, state.st_mtime_ns] for path, state in states])


def open_source(datasets_root: Roots, request: Request) -> PaintingSource:
    """The folder that a request names. Raises what `find_source` and `parse_columns` raise."""
    columns = parse_columns(request.columns)
    folder = find_source(datasets_root, request.source)
    if find_shards(folder):
        return ParquetFolder(folder, columns, request.keep_metadata)
    return ArchiveFolder(folder, request.keep_metadata)
