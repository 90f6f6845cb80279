"""From a source of labelled paintings to a dataset: read labels, plan, fetch what was planned, store it by content.

A source is a folder under the datasets root (parquet shards, or the ArtGAN archive), a repository on the Hugging Face
Hub (`repository`), or WikiArt.org itself (`wikiart_org`). Whether a painting is good enough is for `quality`.
"""

from __future__ import annotations

import io
import itertools
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from ..dataset.labels import ANY, artist_name, is_unknown, label_key
from ..dataset.pictures import Outcome, PictureRefused, StoredPicture, stored_or_refused
from ..dataset.records import Dataset, Record, Refusal, write_manifest
from ..errors import DatasetError, SettingsError
from ..files import content_hash, remove_partials
from ..paths import child_of
from ..progress import Progress, silent
from . import wikiart_org
from .artgan import find_pictures, find_styles, is_archive, read_archive
from .availability import write_available
from .hub import Hub, hub_from_environment, parse_repository
from .hub_repository import SOURCES, HubRepository
from .import_pictures import dataset_folder
from .parquet import Row, find_shards, find_sources, parse_columns, read_pictures, read_rows
from .plan import CHEAP, EVEN, Cell, Request, pick, plan_cells, planned
from .quotas import Filled, parse_quotas, table
from .selection import artist_key
from .wikiart_org import Site, WikiArtOrg

PREVIEW_EVERY = 0.5  # seconds; decoding every painting for a preview would cost more than storing it
PREVIEW_SIZE = 512  # pixels of the longer side
MOST_REFUSALS_TOLD = 50


@dataclass(frozen=True)
class Loaded:
    """A dataset, and how it came about."""

    dataset: Dataset | None  # None where only the plan was asked for
    report: str  # available / asked / taken, what it cost, and what was refused


class ParquetFolder:
    """Parquet shards in a folder under the datasets root."""

    def __init__(self, folder: Path, columns: Mapping[str, str], keep_metadata: bool = False) -> None:
        self._folder, self._columns, self._keep_metadata = folder, columns, keep_metadata
        self._shards = find_shards(folder)
        self.name = folder.name
        self.shard_names = [shard.relative_to(folder).as_posix() for shard in self._shards]

    def rows(self, progress: Progress) -> list[Row]:
        return read_rows(self._shards, progress, self._columns)

    def place(self, row: Row) -> str:
        return f"{self.name}/{self.shard_names[row.shard]}#{row.row}"

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
        self.shard_names = [style.name for style in self._styles]

    def rows(self, progress: Progress) -> list[Row]:
        return read_archive(self._folder)

    def place(self, row: Row) -> str:
        return f"{self.name}/{self.shard_names[row.shard]}#{row.row}"

    def store(
        self, folder: Path, rows: Sequence[Row], pool: Collection[Row], tick: Callable[[str], None]
    ) -> Iterator[tuple[Row, Outcome]]:
        pictures = [find_pictures(style) for style in self._styles]
        for row in rows:
            data = pictures[row.shard][row.row].read_bytes()
            yield row, stored_or_refused(folder, data, self._keep_metadata)


Source = ParquetFolder | ArchiveFolder | HubRepository | WikiArtOrg


def load_paintings(
    datasets_root: Path,
    request: Request,
    progress: Progress = silent,
    hub: Hub | None = None,
    plan_only: bool = False,
    site: Site | None = None,
) -> Loaded:
    """Make the dataset that `request` asks for; the same request on the same source gives the same bytes.

    Pictures already stored are not fetched or written again, so a call that was killed goes on where it stopped. Where
    fewer match than were asked for, all of them are taken and the report says so; a picture that cannot be read is
    refused, recorded, and replaced by the next in order.

    Args:
        hub: where repositories are looked for; the one of the environment where it is None.
        plan_only: stop before the first picture, and report what would be taken and what that would cost.
        site: how WikiArt.org is reached; as from this machine where it is None.

    Raises:
        NameRefused: the name is not plain, or is that of a source.
        SettingsError: the count is below 1, or a quota or column line has another form.
        DatasetError: there is no such source, nothing in it matches, a shard is damaged, or the Hub or the site fails.
    """
    if request.count < 1:
        raise SettingsError(f"count is {request.count}. Ask for at least 1 painting.")
    folder = dataset_folder(datasets_root, request.name)
    source = open_source(datasets_root, request, hub, site)
    rows = source.rows(progress)
    cells = _planned_for(source, request, rows)
    plan = _plan_text(source, request, cells, folder)
    if plan_only:
        other = _other_way(source, request, rows, folder)
        return Loaded(None, f"{plan}{other}\nNothing was fetched: plan_only is on.")
    progress(0, sum(cell.wanted for cell in cells), plan)
    remove_partials(folder / "images")
    refusals = _take(folder, source, cells, request.max_per_artist, progress)
    records = [record for cell in cells for record in cell.records]
    if not records:
        raise DatasetError(
            f"All {sum(len(cell.pool) for cell in cells)} paintings of '{request.source}' that match are unreadable: "
            f"{_counted(refusals)}. Fetch the source again."
        )
    write_available(folder, cells)
    report = "\n".join([_report(request, cells, records, refusals), *_notes(source)])
    return Loaded(write_manifest(folder, records, refusals), report)


def open_source(datasets_root: Path, request: Request, hub: Hub | None = None, site: Site | None = None) -> Source:
    """The source that a request names.

    Raises:
        NameRefused: it is neither a repository's name nor plain, or leads out of the root.
        SettingsError: a column line has another form, or WikiArt.org is asked for no label at all.
        DatasetError: there is no such source.
    """
    keep = request.keep_metadata
    if _is_wikiart_org(request.source):
        labels = [(kind, label) for kind, label in request.labels().items() if label_key(label) not in ("", ANY)]
        lists = wikiart_org.lists_for(labels, parse_quotas(request.quotas))
        return WikiArtOrg(Path(datasets_root) / SOURCES / wikiart_org.NAME, lists, site or Site(), keep)
    columns = parse_columns(request.columns)
    if repository := parse_repository(request.source):
        return HubRepository(datasets_root, hub or hub_from_environment(), *repository, columns, keep)
    folder = find_source(datasets_root, request.source)
    return ParquetFolder(folder, columns, keep) if find_shards(folder) else ArchiveFolder(folder, keep)


def find_source(datasets_root: Path, source: str) -> Path:
    """The folder of a source.

    Raises:
        NameRefused: the name is not plain or leads out of the root.
        DatasetError: it holds neither parquet files nor the ArtGAN archive; the text lists the folders that do.
    """
    folder = child_of(datasets_root, source, what="source")
    if not find_shards(folder) and not is_archive(folder):
        others = sorted({*find_sources(datasets_root), *_archives(datasets_root)})
        remedy = (
            f"Choose one of these: {', '.join(others)}." if others else "No folder there holds any yet: put some in."
        )
        raise DatasetError(
            f"There is no folder '{source}' with parquet files in it under {datasets_root}. {remedy} "
            "A repository on the Hugging Face Hub is written owner/name."
        )
    return folder


def _is_wikiart_org(source: str) -> bool:
    return source.strip().lower() == wikiart_org.NAME


def _archives(datasets_root: Path) -> list[str]:
    return [folder.name for folder in datasets_root.glob("*") if folder.is_dir() and is_archive(folder)]


def source_fingerprint(datasets_root: Path, source: str, hub: Hub | None = None) -> str:
    """Changes when a shard of the source is added, removed or rewritten. Raises what `open_source` raises.

    WikiArt.org's never does: its lists are read once.
    """
    if _is_wikiart_org(source):
        return wikiart_org.NAME
    if repository := parse_repository(source):
        # asked at every queueing, so not for long: where the Hub does not answer, loading will say so
        return HubRepository.current_sha(datasets_root, replace(hub or hub_from_environment(), attempts=1), *repository)
    folder = find_source(datasets_root, source)
    files = find_shards(folder) or [path for style in find_styles(folder) for path in find_pictures(style)]
    states = ((str(path), path.stat()) for path in files)
    return content_hash([[path, state.st_size, state.st_mtime_ns] for path, state in states])


def _planned_for(source: Source, request: Request, rows: Sequence[Row]) -> list[Cell]:
    return plan_cells(request, rows, source.shard_names, source if isinstance(source, HubRepository) else None)


def _plan_text(source: Source, request: Request, cells: Sequence[Cell], folder: Path) -> str:
    rows = planned(cells, request.max_per_artist)
    lines = [_asked(request), _table(cells, {name: len(chosen) for name, chosen in rows.items()})]
    if isinstance(source, HubRepository | WikiArtOrg):
        lines.append(str(source.cost(folder, itertools.chain(*rows.values()))))
    return "\n".join([*lines, *_notes(source)])


def _notes(source: Source) -> list[str]:
    return source.notes if isinstance(source, WikiArtOrg) else []


def _other_way(source: Source, request: Request, rows: Sequence[Row], folder: Path) -> str:
    """What the other way to choose would take."""
    if not isinstance(source, HubRepository):
        return ""
    other = replace(request, prefer=EVEN if request.way == CHEAP else CHEAP)
    chosen = planned(_planned_for(source, other, rows), request.max_per_artist)
    cost = source.cost(folder, itertools.chain(*chosen.values()))
    return f"\nThis is with prefer '{request.way}'; with '{other.prefer}' it would be {cost.size / 1e6:,.1f} MB."


def _take(folder: Path, source: Source, cells: Sequence[Cell], cap: int, progress: Progress) -> list[Refusal]:
    """Fill the cells with pictures that can be read and are not there twice."""
    seen: dict[str, str] = {}  # sha256 -> where it was first found
    refusals: list[Refusal] = []
    by_artist: Counter[str] = Counter()
    taken: set[Row] = set()
    pool = {row for cell in cells for row in cell.pool}
    total = sum(cell.wanted for cell in cells)
    while any((chosen := pick(cells, cap, by_artist, taken)).values()):
        rows = [row for cell in cells for row in chosen[cell.name]]
        outcomes = _store(folder, source, rows, pool, len(seen), total, progress)
        for cell in cells:
            for row in chosen[cell.name]:
                refusal = _keep(cell, row, outcomes[row], source.place(row), seen)
                if refusal:
                    by_artist[artist_key(row)] -= 1
                    refusals.append(refusal)
    return refusals


def _keep(cell: Cell, row: Row, picture: Outcome, place: str, seen: dict[str, str]) -> Refusal | None:
    """Make a good picture that is not there yet a record of the cell, else tell why not."""
    if isinstance(picture, PictureRefused):
        return Refusal(place, picture.rule, str(picture))
    if picture.sha256 in seen:
        return Refusal(place, "same_bytes", f"the same bytes as {seen[picture.sha256]}", file_name=picture.file_name)
    seen[picture.sha256] = place
    cell.records.append(_record(picture, row, place))
    return None


def _store(
    folder: Path, source: Source, rows: Sequence[Row], pool: Collection[Row], done: int, total: int, progress: Progress
) -> dict[Row, Outcome]:
    """Fetch and store these rows, telling how far it is."""
    outcome: dict[Row, Outcome] = {}
    shown = 0.0

    def tick(text: str) -> None:
        progress(done + len(outcome), total, text)

    for row, picture in source.store(folder, rows, pool, tick):
        outcome[row] = picture
        fresh = time.monotonic() - shown > PREVIEW_EVERY and isinstance(picture, StoredPicture)
        shown = time.monotonic() if fresh else shown
        text = f"Painting {done + len(outcome)} of {total}: {_called(row)}"
        progress(done + len(outcome), total, text, _preview(folder, picture) if fresh else None)
    return outcome


def _record(picture: StoredPicture, row: Row, place: str) -> Record:
    return Record(
        file_name=picture.file_name,
        sha256=picture.sha256,
        width=picture.width,
        height=picture.height,
        size=picture.size,
        text=" ".join(row.text.split()),
        artist=artist_name(row.artist),
        genre="" if is_unknown(row.genre) else row.genre,
        style="" if is_unknown(row.style) else row.style,
        source=place,
        title="" if is_unknown(row.title) else row.title,
        date=row.date,
        rights=" ".join(row.rights.split()),
        source_sha256=picture.source_sha256,
    )


def _preview(folder: Path, picture: Outcome) -> Image.Image | None:
    """A small copy to show while loading; None where it does not decode, which the quality filter will record."""
    if not isinstance(picture, StoredPicture):
        return None
    try:
        with Image.open(io.BytesIO((folder / picture.file_name).read_bytes())) as image:
            image.draft("RGB", (PREVIEW_SIZE, PREVIEW_SIZE))
            image.thumbnail((PREVIEW_SIZE, PREVIEW_SIZE))
            return image.convert("RGB")
    except Exception:  # Pillow's decoders raise whatever they meet in damaged bytes
        return None


def _called(row: Row) -> str:
    return ", ".join(part for part in (row.title, artist_name(row.artist)) if part) or "artist unknown"


def _counted(refusals: Iterable[Refusal]) -> str:
    return ", ".join(f"{count} {rule}" for rule, count in Counter(refusal.rule for refusal in refusals).most_common())


def _asked(request: Request) -> str:
    asked = ", ".join(f"{column} {label or ANY}" for column, label in request.labels().items())
    return f"{request.source} ({asked})"


def _report(request: Request, cells: Sequence[Cell], records: Sequence[Record], refusals: Sequence[Refusal]) -> str:
    asked, available = sum(cell.asked for cell in cells), len({row for cell in cells for row in cell.pool})
    taken = {cell.name: len(cell.records) for cell in cells}
    spare = f", {sum(_spare(cell, taken) for cell in cells)} of them spare" if _with_spare(cells) else ""
    lines = [
        f"{_asked(request)}: {available} available, {asked} asked for, {len(records)} taken{spare}.",
        f"Dataset '{request.name.strip()}': {sum(record.size for record in records) / 1e6:.1f} MB, "
        f"artists known by name: {len({record.artist for record in records} - {''})}.",
    ]
    if len(cells) > 1 or cells[0].name != "all":
        lines.append(_table(cells, taken))
    if missing := [f"{count} fewer {than}" for count, than in _missing(cells) if count]:
        cap = f" with at most {request.max_per_artist} of an artist" if request.max_per_artist else ""
        lines.append(f"{' and '.join(missing)}: nothing else in the source matches{cap}.")
    lines += [f"Refused {refusal.source}: {refusal.reason}." for refusal in refusals[:MOST_REFUSALS_TOLD]]
    if len(refusals) > MOST_REFUSALS_TOLD:
        lines.append(f"… and {len(refusals) - MOST_REFUSALS_TOLD} more, in the dataset's folder under 'rejected'.")
    return "\n".join(lines)


def _table(cells: Sequence[Cell], taken: Mapping[str, int]) -> str:
    """The cells as they are or will be filled; `taken` by their names, spare ones included."""
    spare = _with_spare(cells)
    return table(
        [
            Filled(c.name, c.asked, len(c.pool), taken=taken[c.name], spare=_spare(c, taken) if spare else None)
            for c in cells
        ]
    )


def _with_spare(cells: Sequence[Cell]) -> bool:
    return any(cell.spare for cell in cells)


def _spare(cell: Cell, taken: Mapping[str, int]) -> int:
    """How many of a cell's paintings are over what was asked for."""
    return max(taken[cell.name] - cell.asked, 0)


def _missing(cells: Sequence[Cell]) -> list[tuple[int, str]]:
    """How many are missing of what was asked for, and how many of the spare ones on top of it."""
    asked = sum(max(cell.asked - len(cell.records), 0) for cell in cells)
    every = sum(cell.wanted - len(cell.records) for cell in cells)
    return [(asked, "than asked for"), (every - asked, "spare")]
