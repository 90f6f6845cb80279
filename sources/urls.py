"""A dataset from a list of URLs: plain, CSV, or JSON lines with captions. How one is fetched is for `download`."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..dataset.normalise import normalised
from ..dataset.pictures import PictureRefused, StoredPicture, store_picture
from ..dataset.records import Dataset
from ..errors import DatasetError
from ..files import append_line, content_hash, parsed_json, read_jsonl, remove_partials
from ..job_log import stage
from ..paths import Roots, choice, existing_child
from ..progress import Progress, silent
from ..texts import decoded
from .download import Fetcher
from .import_pictures import Imported, ImportRefused, dataset_folder, described, stored_as_dataset
from .parallel import in_parallel
from .selection import in_turn

AT_ONCE = 8  # fetches, over all hosts
MOST_URLS = 20_000
LIST_ENDINGS = (".txt", ".csv", ".jsonl")
LARGEST_LIST = 16_000_000  # bytes


@dataclass(frozen=True)
class Listed:
    """One line of the list."""

    url: str
    words: dict[str, str] = field(default_factory=dict, hash=False)  # of `import_pictures.COLUMNS`


def list_file(root: Path, name: str) -> str:
    """The text of a list in the folder `root`; "" where no name is given.

    Raises:
        NameRefused: it is no name.
        DatasetError: there is no such list, or it is no text or over 16 MB.
    """
    if not name.strip():
        return ""
    path = existing_child(root, name, what="file of URLs")
    if path is None or path.suffix.lower() not in LIST_ENDINGS or not path.is_file():
        remedy = choice(root, [name], *LIST_ENDINGS, otherwise="Put a .txt, .csv or .jsonl file of that name there.")
        raise DatasetError(f"There is no list '{name}' in {root}. {remedy}")
    if path.stat().st_size > LARGEST_LIST:
        raise DatasetError(f"The list {path} has more than {LARGEST_LIST:,} bytes. Split it.")
    try:
        return decoded(path.read_bytes(), utf_16=True)
    except ValueError as error:
        raise DatasetError(f"The list {path} cannot be read: {error}.") from None


def read_list(*texts: str) -> list[Listed]:
    """The URLs of lists, each once, in order: plain lines, CSV with a column `url`, or JSON lines with a key `url`.

    Empty lines and those that begin with # are left out.

    Raises:
        DatasetError: nothing in them, too much in them, or a line that is none of the three.
    """
    listed: dict[str, Listed] = {}
    for row in (row for text in texts for row in _rows(text)):
        url = str(row.get("url") or "").strip()
        if url:
            listed.setdefault(url, Listed(url, described(row)))
    if not listed:
        raise DatasetError("The list of URLs is empty. Write one https URL a line, or name a file of the input folder.")
    if len(listed) > MOST_URLS:
        raise DatasetError(f"The list has {len(listed):,} URLs. Write at most {MOST_URLS:,}.")
    return list(listed.values())


def _rows(text: str) -> list[dict[str, object]]:
    lines = [line for line in re.split("[\r\n]", text) if line.strip() and not line.lstrip().startswith("#")]
    if not lines:
        return []
    if lines[0].lstrip().startswith("{"):
        return [_json_row(number, line) for number, line in enumerate(lines, start=1)]
    try:
        header = [cell.strip().lower() for cell in next(csv.reader(lines[:1]))]
        if "url" not in header:
            return [{"url": line} for line in lines]
        # from the header on as written, because a quoted caption may go over several lines
        table = list(csv.reader(io.StringIO(text[text.index(lines[0]) :]), skipinitialspace=True))[1:]
    except csv.Error as error:
        raise DatasetError(f"The list of URLs is not CSV ({error}). Mend it.") from None
    return [dict(zip(header, cells, strict=False)) for cells in table if not cells[:1] or cells[0][:1] != "#"]


def _json_row(number: int, line: str) -> dict[str, object]:
    try:
        row = parsed_json(line)
    except ValueError as error:
        raise DatasetError(
            f"Line {number} of the list of URLs is not JSON ({error}). Mend it, or take it out."
        ) from None
    return row if isinstance(row, dict) else {}


def load_urls(
    datasets_root: Roots,
    name: str,
    listed: Sequence[Listed],
    kind: str,
    fetcher: Fetcher,
    progress: Progress = silent,
    keep_metadata: bool = False,
) -> tuple[Dataset, str]:
    """Fetch, normalise and store the pictures; what fails is refused with its reason, and the rest goes on.

    What an earlier call has fetched is not fetched again, so that a call that was killed goes on where it stopped.

    Args:
        kind: what is written as `normalised` says.
        keep_metadata: as `store_picture`.

    Returns:
        The dataset, its pictures in the order of the list, and a report with a line for each URL that failed.

    Raises:
        NameRefused: the name is not plain, or that of a source.
        DatasetError: no picture could be fetched; the text says why.
    """
    folder = dataset_folder(datasets_root, name)
    remove_partials(folder / "images")
    ledger = folder / "fetched.jsonl"
    outcome: dict[Listed, Imported | ImportRefused] = {}
    for item, picture, changes in _fetched_before(folder, ledger, listed, kind, keep_metadata):
        outcome[item] = Imported(item.url, picture, item.words, changes)

    def fetch(item: Listed) -> Imported | ImportRefused:
        try:
            data, changes = normalised(fetcher.fetch(item.url), kind)
            return Imported(item.url, store_picture(folder, data, keep_metadata), item.words, changes)
        except PictureRefused as refused:
            return ImportRefused(item.url, refused)

    waiting = [item for item in listed if item not in outcome]
    progress(len(outcome), len(listed), f"{len(outcome)} of {len(listed)} are there already")

    def look() -> None:
        progress(len(outcome), len(listed), f"Fetched {len(outcome)} of {len(listed)}")

    with stage("fetch and store pictures") as fetching:
        for item, result in in_parallel(fetcher, fetch, _spread(waiting), look, AT_ONCE):
            outcome[item] = result
            fetching.items += 1
            if isinstance(result, Imported):
                append_line(ledger, json.dumps(_ledger_line(result, kind, keep_metadata)))
    return stored_as_dataset(folder, [outcome[item] for item in listed], "URLs")


def _spread(items: Sequence[Listed]) -> list[Listed]:
    """Hosts in turn, so that a slow one does not hold all the places."""
    by_host: dict[str, list[Listed]] = {}
    for item in items:
        by_host.setdefault("/".join(item.url.split("/", 3)[:3]), []).append(item)
    return in_turn(by_host.values())


def _fetched_before(
    folder: Path, ledger: Path, listed: Sequence[Listed], kind: str, keep_metadata: bool
) -> Iterator[tuple[Listed, StoredPicture, tuple[str, ...]]]:
    """The listed URLs whose pictures are still there, and what was changed of them, as the ledger says."""
    typed = {"key": str, "file_name": str, "sha256": str, "width": int, "height": int, "size": int, "changes": list}
    known = {line["key"]: line for line in read_jsonl(ledger, **typed)}
    for item in listed:
        line = known.get(_key(item.url, kind, keep_metadata))
        path = folder / "images" / Path(line["file_name"]).name if line else None
        if line and path and path.is_file() and path.stat().st_size == line["size"]:
            with contextlib.suppress(PictureRefused):  # damaged: it is fetched again
                # once more, because earlier versions kept private data
                picture = store_picture(folder, path.read_bytes(), keep_metadata)
                if not picture.source_sha256:
                    picture = replace(picture, source_sha256=str(line.get("source_sha256", "")))
                yield item, picture, tuple(map(str, line["changes"]))


def _key(url: str, kind: str, keep_metadata: bool) -> str:
    return content_hash([url, kind, "metadata"] if keep_metadata else [url, kind])


def _ledger_line(imported: Imported, kind: str, keep_metadata: bool) -> dict[str, object]:
    picture = imported.picture
    return {
        "key": _key(imported.source, kind, keep_metadata),
        "url": imported.source,
        "file_name": picture.file_name,
        "sha256": picture.sha256,
        "width": picture.width,
        "height": picture.height,
        "size": picture.size,
        "source_sha256": picture.source_sha256,
        "changes": list(imported.changes),
    }
