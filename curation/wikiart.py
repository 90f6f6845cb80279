"""From a source of labelled paintings to a dataset: read labels, choose, fetch what was chosen, store it by content.

The source is a folder of parquet shards under the datasets root. Whether a painting is good enough is for `quality`.
"""

from __future__ import annotations

import io
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from ..errors import DatasetError, NameRefused, SettingsError
from ..files import content_hash, remove_partials
from ..names import child_of
from ..progress import Progress, silent
from .labels import ANY, artist_name, is_unknown
from .parquet import Row, find_shards, find_sources, read_pictures, read_rows
from .pictures import PictureRefused, StoredPicture, store_picture
from .records import Dataset, Record, Refusal, write_manifest
from .selection import matching, spread_order

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PREVIEW_EVERY = 0.5  # seconds; decoding every painting for a preview would cost more than storing it
PREVIEW_SIZE = 512  # pixels of the longer side


@dataclass(frozen=True)
class Request:
    """What a person asks the source for."""

    source: str  # a folder under the datasets root that holds parquet files
    name: str  # of the dataset to make
    style: str = ANY
    genre: str = ANY
    artist: str = ANY
    count: int = 100
    seed: int = 0

    def labels(self) -> dict[str, str]:
        return {"style": self.style, "genre": self.genre, "artist": self.artist}


@dataclass(frozen=True)
class Loaded:
    """A dataset, and how it came about."""

    dataset: Dataset
    report: str  # available / asked / taken, and what was refused


def load_paintings(datasets_root: Path, request: Request, progress: Progress = silent) -> Loaded:
    """Make the dataset that `request` asks for; the same request on the same source gives the same bytes.

    Pictures already stored are not written again, so a call that was killed goes on where it stopped. Where fewer match
    than were asked for, all of them are taken and the report says so; a picture that cannot be read is refused,
    recorded, and replaced by the next in order.

    Raises:
        NameRefused: the name is not plain, or is that of a source.
        SettingsError: the count is below 1.
        DatasetError: there is no such source, nothing in it matches, or a shard is damaged.
    """
    if request.count < 1:
        raise SettingsError(f"count is {request.count}. Ask for at least 1 painting.")
    source = find_source(datasets_root, request.source)
    folder = _dataset_folder(datasets_root, request.name)
    shards = find_shards(source)
    shard_names = [shard.relative_to(source).as_posix() for shard in shards]

    available = matching(read_rows(shards, progress), request.source, request.labels())
    order = spread_order(available, request.seed, shard_names)
    places = [f"{source.name}/{shard}" for shard in shard_names]
    remove_partials(folder / "images")
    records, refusals = _take(folder, order, request.count, shards, places, progress)
    if not records:
        raise DatasetError(
            f"All {len(available)} paintings of '{request.source}' that match are unreadable: {_counted(refusals)}. "
            "Fetch the source again."
        )
    return Loaded(write_manifest(folder, records, refusals), _report(request, len(available), records, refusals))


def find_source(datasets_root: Path, source: str) -> Path:
    """The folder of a source.

    Raises:
        NameRefused: the name is not plain or leads out of the root.
        DatasetError: it holds no parquet files; the text lists the folders that do.
    """
    folder = child_of(datasets_root, source, what="source")
    if not find_shards(folder):
        others = find_sources(datasets_root)
        remedy = (
            f"Choose one of these: {', '.join(others)}." if others else "No folder there holds any yet: put some in."
        )
        raise DatasetError(f"There is no folder '{source}' with parquet files in it under {datasets_root}. {remedy}")
    return folder


def source_fingerprint(datasets_root: Path, source: str) -> str:
    """Changes when a shard of the source is added, removed or rewritten. Raises what `find_source` raises."""
    shards = ((str(shard), shard.stat()) for shard in find_shards(find_source(datasets_root, source)))
    return content_hash([[path, state.st_size, state.st_mtime_ns] for path, state in shards])


def _dataset_folder(datasets_root: Path, name: str) -> Path:
    folder = child_of(datasets_root, name, what="dataset name")
    if find_shards(folder):
        raise NameRefused(
            f"The dataset name '{name}' is that of a source: {folder} holds parquet files. "
            f"Choose another, for example '{folder.name}-selection'."
        )
    return folder


def _take(
    folder: Path, order: Sequence[Row], count: int, shards: Sequence[Path], places: Sequence[str], progress: Progress
) -> tuple[list[Record], list[Refusal]]:
    """Store the first `count` pictures of `order` that can be read and are not there twice."""
    records: dict[str, Record] = {}
    refusals: list[Refusal] = []
    position = 0
    while len(records) < count and position < len(order):
        chosen = order[position : position + count - len(records)]
        position += len(chosen)
        stored = _store(folder, chosen, shards, len(records), count, progress)
        for row in chosen:
            picture, place = stored[row], f"{places[row.shard]}#{row.row}"
            if isinstance(picture, PictureRefused):
                refusals.append(Refusal(place, picture.rule, str(picture)))
            elif picture.sha256 in records:
                same = records[picture.sha256].source
                refusals.append(Refusal(place, "same_bytes", f"the same bytes as {same}", file_name=picture.file_name))
            else:
                records[picture.sha256] = _record(picture, row, place)
    return list(records.values()), refusals


def _store(
    folder: Path, rows: Iterable[Row], shards: Sequence[Path], done: int, total: int, progress: Progress
) -> dict[Row, StoredPicture | PictureRefused]:
    """Fetch and store these rows, shard by shard, so that each row group is read once."""
    by_shard: dict[int, dict[int, Row]] = defaultdict(dict)
    for row in rows:
        by_shard[row.shard][row.row] = row
    outcome: dict[Row, StoredPicture | PictureRefused] = {}
    shown = 0.0
    for shard, wanted in sorted(by_shard.items()):
        for number, data in read_pictures(shards[shard], wanted):
            row = wanted[number]
            try:
                outcome[row] = store_picture(folder, data)
            except PictureRefused as refused:
                outcome[row] = refused
            fresh = time.monotonic() - shown > PREVIEW_EVERY
            shown = time.monotonic() if fresh else shown
            text = f"Painting {done + len(outcome)} of {total}: {_called(row)}"
            progress(done + len(outcome), total, text, _preview(data) if fresh else None)
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
    )


def _preview(data: bytes) -> Image.Image | None:
    """A small copy to show while loading; None where it does not decode, which the quality filter will record."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            picture.draft("RGB", (PREVIEW_SIZE, PREVIEW_SIZE))
            picture.thumbnail((PREVIEW_SIZE, PREVIEW_SIZE))
            return picture.convert("RGB")
    except Exception:  # Pillow's decoders raise whatever they meet in damaged bytes
        return None


def _called(row: Row) -> str:
    return ", ".join(part for part in (row.title, artist_name(row.artist)) if part) or "artist unknown"


def _counted(refusals: Iterable[Refusal]) -> str:
    return ", ".join(f"{count} {rule}" for rule, count in Counter(refusal.rule for refusal in refusals).most_common())


def _report(request: Request, available: int, records: Sequence[Record], refusals: Sequence[Refusal]) -> str:
    asked = ", ".join(f"{column} {label or ANY}" for column, label in request.labels().items())
    lines = [
        f"{request.source} ({asked}): {available} available, {request.count} asked for, {len(records)} taken.",
        f"Dataset '{request.name.strip()}': {sum(record.size for record in records) / 1e6:.1f} MB, "
        f"artists known by name: {len({record.artist for record in records} - {''})}.",
    ]
    if len(records) < request.count:
        lines.append(f"{request.count - len(records)} fewer than asked for: nothing else in the source matches.")
    lines += [f"Refused {refusal.source}: {refusal.reason}." for refusal in refusals]
    return "\n".join(lines)
