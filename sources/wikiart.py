"""From a source of labelled paintings to a dataset: read labels, plan, fetch what was planned, store it by content.

Which sources there are is for `opening`; whether a painting is good enough for `curation.quality`.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..dataset.labels import ANY, artist_name, is_unknown
from ..dataset.pictures import Outcome, PictureRefused, StoredPicture, thumbnail
from ..dataset.records import Dataset, Record, Refusal, write_manifest
from ..errors import DatasetError, SettingsError
from ..files import remove_partials
from ..job_log import stage
from ..paths import Roots
from ..progress import Progress, silent
from ..texts import megabytes, one_line
from .availability import write_available
from .import_pictures import dataset_folder
from .opening import open_source
from .plan import CHEAP, EVEN, Cell, Request, pick, plan_cells, planned
from .quotas import Filled, table
from .selection import artist_key
from .source import PaintingSource, Row

if TYPE_CHECKING:
    from PIL.Image import Image

PREVIEW_EVERY = 0.5  # seconds; decoding every painting for a preview would cost more than storing it
PREVIEW_SIZE = 512  # pixels of the longer side
MOST_REFUSALS_TOLD = 50


@dataclass(frozen=True)
class Loaded:
    """A dataset, and how it came about."""

    dataset: Dataset | None  # None where only the plan was asked for
    report: str  # available / asked / taken, what it cost, and what was refused


def load_paintings(
    datasets_root: Roots,
    request: Request,
    progress: Progress = silent,
    plan_only: bool = False,
    opener: Callable[[Roots, Request], PaintingSource] = open_source,
) -> Loaded:
    """Make the dataset that `request` asks for; the same request on the same source gives the same bytes.

    Pictures already stored are not fetched or written again, so a call that was killed goes on where it stopped. Where
    fewer match than were asked for, all of them are taken and the report says so; a picture that cannot be read is
    refused, recorded, and replaced by the next in order.

    Args:
        plan_only: stop before the first picture, and report what would be taken and what that would cost.
        opener: what opens the source that a request names.

    Raises:
        NameRefused: the name is not plain, or is that of a source.
        SettingsError: the count is below 1, or a quota or column line has another form.
        DatasetError: there is no such source, nothing in it matches, a shard is damaged, or the Hub or the site fails.
    """
    if request.count < 1:
        raise SettingsError(f"count is {request.count}. Ask for at least 1 painting.")
    folder = dataset_folder(datasets_root, request.name)
    source = opener(datasets_root, request)
    with stage("read labels"):
        rows = source.rows(progress)
    with stage("plan"):
        cells = _planned_for(source, request, rows)
        plan = _plan_text(source, request, cells, folder)
    if plan_only:
        other = _other_way(source, request, rows, folder)
        return Loaded(None, f"{plan}{other}\nNothing was fetched: plan_only is on.")
    progress(0, sum(cell.wanted for cell in cells), plan)
    remove_partials(folder / "images")
    with stage("fetch and store pictures") as storing:
        refusals = _take(folder, source, cells, request.max_per_artist, progress)
        records = [record for cell in cells for record in cell.records]
        storing.items += len(records)
    if not records:
        raise DatasetError(
            f"All {sum(len(cell.pool) for cell in cells)} paintings of '{request.source}' that match are unreadable: "
            f"{_counted(refusals)}. Fetch the source again."
        )
    write_available(folder, cells)
    report = "\n".join([_report(request, cells, records, refusals), *source.notes])
    return Loaded(write_manifest(folder, records, refusals), report)


def _planned_for(source: PaintingSource, request: Request, rows: Sequence[Row]) -> list[Cell]:
    return plan_cells(request, rows, source.shard_names, source.groups)


def _plan_text(source: PaintingSource, request: Request, cells: Sequence[Cell], folder: Path) -> str:
    rows = planned(cells, request.max_per_artist)
    lines = [_asked(request), _table(cells, {name: len(chosen) for name, chosen in rows.items()})]
    if cost := source.cost(folder, itertools.chain(*rows.values())):
        lines.append(cost.text)
    return "\n".join([*lines, *source.notes])


def _other_way(source: PaintingSource, request: Request, rows: Sequence[Row], folder: Path) -> str:
    """What the other way to choose would take."""
    if source.groups is None:
        return ""
    other = replace(request, prefer=EVEN if request.way == CHEAP else CHEAP)
    chosen = planned(_planned_for(source, other, rows), request.max_per_artist)
    cost = source.cost(folder, itertools.chain(*chosen.values()))
    if cost is None or cost.size is None:
        return ""
    return f"\nThis is with prefer '{request.way}'; with '{other.prefer}' it would be {megabytes(cost.size)}."


def _take(folder: Path, source: PaintingSource, cells: Sequence[Cell], cap: int, progress: Progress) -> list[Refusal]:
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
    folder: Path,
    source: PaintingSource,
    rows: Sequence[Row],
    pool: Collection[Row],
    done: int,
    total: int,
    progress: Progress,
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
        text=one_line(row.text),
        artist=artist_name(row.artist),
        genre="" if is_unknown(row.genre) else row.genre,
        style="" if is_unknown(row.style) else row.style,
        source=place,
        title="" if is_unknown(row.title) else row.title,
        date=row.date,
        rights=one_line(row.rights),
        source_sha256=picture.source_sha256,
    )


def _preview(folder: Path, picture: Outcome) -> Image | None:
    """A small copy to show while loading; None where it does not decode, which the quality filter will record."""
    if not isinstance(picture, StoredPicture):
        return None
    try:
        return thumbnail(folder / picture.file_name, PREVIEW_SIZE)
    except PictureRefused:
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
        f"Dataset '{request.name.strip()}': {megabytes(sum(record.size for record in records))}, "
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
