"""A dataset on disk: its pictures' records in immutable manifests, and every picture refused on the way, with why.

Where pictures come from is for the sources (`wikiart`); whether they are good enough is for `quality`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..errors import DatasetError
from ..files import read_jsonl, write_changed, write_whole
from ..texts import cleaned

REVISION_LENGTH = 16  # hexadecimal digits of SHA-256: 64 bits name every manifest that one dataset will ever have
_LEFT_OUT_WHEN_EMPTY = {
    "title",
    "date",
    "rights",
    "source_sha256",
}  # so that a source without them has the same revisions whatever is added here

_WORDS = ("text", "artist", "genre", "style", "title", "date", "rights")


SHOWN_DIGITS = 8  # of a picture's hash, where people are to find it again


@dataclass(frozen=True)
class Record:
    """One picture of a dataset. The names are the columns of Hugging Face's imagefolder where it has one."""

    file_name: str  # "images/<sha256>.<ext>", under the dataset's folder
    sha256: str  # of the stored bytes
    width: int  # pixels, from the header
    height: int  # pixels, from the header
    size: int  # bytes of the stored file: the source's own, without private data
    text: str = ""  # the caption, one line; "" as long as there is none
    artist: str = ""  # as people write it, "Claude Monet"; "" when unknown
    genre: str = ""  # the source's label, "still_life"; "" when unknown
    style: str = ""  # the source's label, "Post_Impressionism"; "" when unknown
    source: str = ""  # "<source>/<shard>#<row>"
    title: str = ""
    date: str = ""
    rights: str = ""  # the source's own statement
    source_sha256: str = ""  # of the source's bytes where others are stored

    @property
    def known_as(self) -> str:
        """The first digits of its hash, by which Caption Editor takes it, and its title and artist where known."""
        called = ", ".join(part for part in (self.title, self.artist) if part)
        return f"{self.sha256[:SHOWN_DIGITS]} {called}".rstrip()


@dataclass(frozen=True)
class Refusal:
    """Why one picture is not in the dataset."""

    source: str  # as in `Record.source`
    rule: str  # what it fell by: "min_side", "truncated" …
    reason: str  # a sentence with the measured value
    measured: float | None = None
    limit: float | None = None
    file_name: str = ""  # "" when the picture was never stored


@dataclass(frozen=True)
class Dataset:
    """One revision of a dataset. Immutable: whatever changes the records writes another manifest."""

    name: str
    folder: str  # absolute
    revision: str  # hash of the manifest's content

    @property
    def manifest(self) -> Path:
        return Path(self.folder) / "manifests" / f"{self.revision}.jsonl"

    def records(self) -> tuple[Record, ...]:
        """Read the manifest.

        Raises:
            DatasetError: the manifest is gone, or was changed after it was written.
        """
        try:
            content = self.manifest.read_bytes()
        except FileNotFoundError:
            raise DatasetError(
                f"The manifest {self.manifest} of dataset '{self.name}' is gone: the folder was moved or deleted while "
                "ComfyUI remembered it. Change an input of the node that loads the dataset, or restart ComfyUI."
            ) from None
        if _revision(content) != self.revision:
            raise DatasetError(
                f"The manifest {self.manifest} of dataset '{self.name}' was changed after it was written. Delete it, "
                "and queue again from the node that loads the dataset; captions are edited in nodes, not in manifests."
            )
        return tuple(_from_columns(Record, _cleaned(json.loads(line))) for line in content.decode().splitlines())

    def refusals(self) -> tuple[Refusal, ...]:
        """Every picture refused between the source and this revision; a line that is damaged is left out."""
        path = _refusals_path(Path(self.folder), self.revision)
        lines = read_jsonl(path, source=str, rule=str, reason=str)
        return tuple(_from_columns(Refusal, line) for line in lines)

    def image_path(self, record: Record) -> Path:
        """Where the picture lies: always directly in the dataset's own `images` folder, whatever the manifest says."""
        return Path(self.folder) / "images" / Path(record.file_name).name

    @property
    def captions_ledger(self) -> Path:
        return Path(self.folder) / "captions.jsonl"

    def with_texts(self, texts: Mapping[str, str]) -> Dataset:
        """The revision in which each picture whose sha256 is in `texts` has that caption."""
        records = [replace(record, text=texts.get(record.sha256, record.text)) for record in self.records()]
        return write_manifest(self.folder, records, self.refusals())


def write_manifest(folder: str | Path, records: Iterable[Record], refusals: Iterable[Refusal] = ()) -> Dataset:
    """Write the manifest of these records, in this order, and beside it the pictures refused; both appear whole.

    Files that hold this content already are not touched. The dataset is called as its folder.

    Raises:
        DatasetError: there are no records.
    """
    root = Path(folder)
    content = "".join(_to_line(record) for record in records).encode()
    if not content:
        raise DatasetError(f"The dataset '{root.name}' would have no picture. Loosen the filters before this node.")
    dataset = Dataset(root.name, str(root), _revision(content))
    write_changed(dataset.manifest, content)
    write_refusals(root, dataset.revision, refusals)
    return dataset


def write_refusals(folder: str | Path, revision: str, refusals: Iterable[Refusal]) -> None:
    """Write `rejected/<revision>.jsonl`, unless it says the same already."""
    refused = "".join(_to_line(refusal) for refusal in refusals)
    path = _refusals_path(Path(folder), revision)
    if refused != _text_if_any(path):
        write_whole(path, refused)


def _refusals_path(folder: Path, revision: str) -> Path:
    return folder / "rejected" / f"{revision}.jsonl"


def _revision(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:REVISION_LENGTH]


def _text_if_any(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def _to_line(value: Record | Refusal) -> str:
    columns = {name: cell for name, cell in asdict(value).items() if cell != "" or name not in _LEFT_OUT_WHEN_EMPTY}
    # ASCII escapes keep every line separator that Unicode knows out of the file, so that a line stays a line
    return json.dumps(columns) + "\n"


def _cleaned(columns: dict[str, Any]) -> dict[str, Any]:
    """Without what earlier versions took over from services and metadata, and no caption file can hold."""
    return columns | {name: cleaned(columns[name]) for name in _WORDS if isinstance(columns.get(name), str)}


def _from_columns(kind: type[Any], columns: Mapping[str, Any]) -> Any:
    known = {field.name for field in fields(kind)}
    return kind(**{name: cell for name, cell in columns.items() if name in known})
