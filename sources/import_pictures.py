"""What the loaders of URLs and of folders share: from stored pictures and their words to a dataset and a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..dataset.labels import artist_name, is_unknown
from ..dataset.pictures import PictureRefused, StoredPicture
from ..dataset.records import Dataset, Record, Refusal, write_manifest
from ..errors import DatasetError, NameRefused
from ..paths import Roots, child_in
from ..texts import cleaned, megabytes, one_line
from .local import holds_source

# Words that may come with a picture -> the field of the record that takes them.
COLUMNS = {
    "text": "text",
    "caption": "text",
    "prompt": "text",
    "artist": "artist",
    "genre": "genre",
    "style": "style",
    "title": "title",
    "date": "date",
    "year": "date",
}


@dataclass(frozen=True)
class Imported:
    """A picture that was stored, and what is known of it."""

    source: str  # its URL, or its path
    picture: StoredPicture
    words: Mapping[str, str]  # by field of the record
    changes: tuple[str, ...] = ()  # what normalising did


@dataclass(frozen=True)
class ImportRefused:
    source: str
    refused: PictureRefused


def described(row: Mapping[str, object]) -> dict[str, str]:
    """The words of a CSV row or JSON object by field of the record, each on one line."""
    words: dict[str, str] = {}
    for column, field in COLUMNS.items():
        value = row.get(column)
        if isinstance(value, list) and value:  # several captions of a picture
            value = value[0]
        # JSON may hold half a character.
        text = one_line(cleaned(str(value))) if isinstance(value, str | int | float) and value else ""
        if text and field not in words and (field == "text" or not is_unknown(text)):
            words[field] = artist_name(text) if field == "artist" else text
    return words


def dataset_folder(datasets_root: Roots, name: str) -> Path:
    """Where the dataset of this name lies, or is to lie.

    Raises:
        NameRefused: the name is not plain, or is that of a source of pictures.
    """
    folder = child_in(datasets_root, name, what="dataset name")
    if holds_source(folder):
        raise NameRefused(
            f"The dataset name '{name}' is that of a source: {folder} holds its pictures. "
            f"Choose another, for example '{folder.name}-selection'."
        )
    return folder


def stored_as_dataset(
    folder: Path, outcome: Sequence[Imported | ImportRefused], what: str, notes: Sequence[str] = ()
) -> tuple[Dataset, str]:
    """Write the manifest; a picture that comes twice keeps its first place, and words that only the second has.

    Raises:
        DatasetError: no picture was stored; the text counts the reasons.
    """
    records: dict[str, Record] = {}
    refusals: list[Refusal] = []
    changes: Counter[str] = Counter()
    for item in outcome:
        if isinstance(item, ImportRefused):
            refusals.append(Refusal(item.source, item.refused.rule, str(item.refused)))
            continue
        picture = item.picture
        if picture.sha256 in records:
            first = records[picture.sha256]
            records[picture.sha256] = replace(
                first, **{name: text for name, text in item.words.items() if not getattr(first, name)}
            )
            reason = f"the same bytes as {first.source}"
            refusals.append(Refusal(item.source, "same_bytes", reason, file_name=picture.file_name))
            continue
        changes.update(item.changes)
        records[picture.sha256] = Record(
            picture.file_name,
            picture.sha256,
            picture.width,
            picture.height,
            picture.size,
            source=item.source,
            source_sha256=picture.source_sha256,
            **item.words,
        )
    if not records:
        counts = ", ".join(f"{n} {rule}" for rule, n in Counter(refusal.rule for refusal in refusals).most_common())
        raise DatasetError(
            f"None of the {len(outcome)} {what} gave a picture: {counts}. The first: {refusals[0].source}: "
            f"{refusals[0].reason}."
        )
    return write_manifest(folder, records.values(), refusals), _report(what, records, refusals, changes, notes)


def _report(
    what: str,
    records: Mapping[str, Record],
    refusals: Sequence[Refusal],
    changes: Mapping[str, int],
    notes: Sequence[str],
) -> str:
    captioned = sum(bool(record.text) for record in records.values())
    size = sum(record.size for record in records.values())
    lines = [
        f"{len(records) + len(refusals)} {what}, {len(records)} pictures stored ({megabytes(size)}, {captioned} with "
        f"a caption), {len(refusals)} refused.",
        *notes,
    ]
    lines += [f"{count} {change}." for change, count in changes.items()]
    lines += [f"Refused {refusal.source}: {refusal.reason}." for refusal in refusals]
    return "\n".join(lines)
