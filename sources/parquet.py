"""Paintings in parquet shards, as the Hub stores datasets: labels read without the pictures, pictures by row group.

ClassLabel columns are decoded through the `huggingface` entry of the schema's metadata; plain columns are read as text.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, BinaryIO

from .. import parquet_limits
from ..dataset.pictures import PictureRefused
from ..errors import DatasetError, SettingsError
from ..files import parsed_json
from ..progress import Progress, silent
from ..texts import cleaned, first_line
from .source import Row

if TYPE_CHECKING:
    import pyarrow
    from pyarrow.parquet import ParquetFile

MAX_ROWS_OF_A_SOURCE = 2_000_000  # in all its shards; each row is kept in memory with its labels
_MANIFEST = re.compile(r"[0-9a-f]{16}\.jsonl")  # as `records.Dataset.manifest`
ROWS_AT_ONCE = 16  # pictures held in memory while a row group is read; WikiArt's weigh about half a megabyte each
COLUMNS = Row._fields[2:]
# What other datasets of paintings call these columns (Artificio/WikiArt, asahi417/wikiart-all, imagefolders).
OTHER_NAMES = {
    "artist": ("artist", "artistName", "artist_name"),
    "genre": ("genre", "genres"),
    "style": ("style", "styles"),
    "title": ("title",),
    "date": ("date", "completitionYear", "year"),
    "text": ("text", "caption"),
    "rights": ("rights", "license", "copyright"),
    "image": ("image",),
}


def parse_columns(lines: str) -> dict[str, str]:
    """A column mapping written as lines of `ours: theirs`, for example `genre: subject`.

    Raises:
        SettingsError: a line has another form, or the name before the colon is none of ours.
    """
    columns: dict[str, str] = {}
    for line in filter(None, map(str.strip, lines.splitlines())):
        ours, _, theirs = (part.strip() for part in line.partition(":"))
        if ours not in OTHER_NAMES or not theirs:
            raise SettingsError(
                f"The column line '{line}' is not of the form 'genre: subject'. Before the colon stands one of "
                f"{', '.join(OTHER_NAMES)}; after it, what the source calls it."
            )
        columns[ours] = theirs
    return columns


def find_shards(folder: Path) -> list[Path]:
    """The parquet files in `folder` and in the folders directly below it, in the order of their names.

    A dataset of ours has none: a Parquet file in its folder was exported from it.
    """
    if any(_MANIFEST.fullmatch(path.name) for path in folder.glob("manifests/*.jsonl")):
        return []
    return sorted(path for pattern in ("*.parquet", "*/*.parquet") for path in folder.glob(pattern) if path.is_file())


def read_rows(shards: list[Path], progress: Progress = silent, columns: Mapping[str, str] | None = None) -> list[Row]:
    """Read the label columns of every shard, and no picture.

    Raises:
        DatasetError: a shard is not a whole parquet file, lacks a column that `columns` names, or unfolds to more than
            may be (see `parquet_limits`); there are too many rows.
    """
    rows: list[Row] = []
    known: dict[str, str] = {}
    for index, shard in enumerate(shards):
        progress(index, len(shards), f"Reading labels of shard {index + 1} of {len(shards)}")
        with opened(shard, columns=columns or {}) as file:
            cells = read_labels(file, str(shard), columns or {})
        rows += [
            Row(index, row, *(known.setdefault(label, label) for label in labels))
            for row, labels in enumerate(zip(*cells, strict=True))
        ]
        check_rows_of_source(len(rows), str(shard.parent))
    return rows


def check_rows_of_source(rows: int, where: str) -> None:
    """Raise DatasetError where the shards of a source have more rows together than are kept in memory."""
    if rows > MAX_ROWS_OF_A_SOURCE:
        raise DatasetError(
            f"The shards of {where} have more than {MAX_ROWS_OF_A_SOURCE:,} rows together. Keep fewer of them in one "
            "folder, or choose another source."
        )


def read_pictures(
    shard: Path, rows: Collection[int], columns: Mapping[str, str] | None = None
) -> Iterator[tuple[int, bytes | PictureRefused]]:
    """Yield row number and picture bytes (empty where the row has none), from the row groups that hold `rows` only.

    Raises:
        DatasetError: the shard is damaged, or has no picture column.
    """
    wanted = set(rows)
    with opened(shard) as file:
        column = picture_column(file, str(shard), columns or {})
        start = 0
        for group in range(file.metadata.num_row_groups):
            length = file.metadata.row_group(group).num_rows
            if wanted.intersection(range(start, start + length)):
                yield from read_group(file, group, start, column, wanted)
            start += length


def read_labels(file: ParquetFile, where: str, columns: Mapping[str, str]) -> list[list[str]]:
    """The label columns of an open shard, in the order of `COLUMNS`, each with one text per row."""
    present = label_columns(file, where, columns)
    names = {theirs for theirs, _ in present.values()}
    parquet_limits.check_labels(file.metadata, names)
    table = file.read(columns=sorted(names))
    return [
        _as_text(table.column(present[name][0]), present[name][1]) if name in present else [""] * file.metadata.num_rows
        for name in COLUMNS
    ]


def read_group(
    file: ParquetFile, group: int, start: int, column: str, wanted: Collection[int]
) -> Iterator[tuple[int, bytes | PictureRefused]]:
    """Row number and picture bytes of those of `wanted` that lie in a row group, whose first row is `start`.

    A value above `parquet_limits.MAX_PICTURE` is refused.
    """
    row = start
    at_once = min(ROWS_AT_ONCE, parquet_limits.check_pictures(file.metadata, group, column))
    for batch in file.iter_batches(at_once, row_groups=[group], columns=[column], use_threads=False):
        for cell in batch.column(0):
            if row in wanted:
                yield row, _picture(cell)
            row += 1


def _picture(cell: pyarrow.Scalar) -> bytes | PictureRefused:
    if cell.is_valid and hasattr(cell, "keys"):  # a struct
        cell = cell["bytes"]
    content = cell.as_buffer() if cell.is_valid else None
    if content is None:
        return b""
    if content.size > parquet_limits.MAX_PICTURE:
        return PictureRefused("too_large", f"more than {parquet_limits.MAX_PICTURE / 1e6:g} MB")
    return content.to_pybytes()


@contextlib.contextmanager
def opened(
    shard: Path | BinaryIO, where: str = "", columns: Mapping[str, str] = MappingProxyType({})
) -> Iterator[ParquetFile]:
    """A shard, from a path or from a file object that errors call `where`.

    Args:
        columns: what the source calls our columns where that is no usual name, as `parse_columns` reads it.

    Raises:
        DatasetError: it is no parquet file, is damaged, or unfolds to more than `parquet_limits` allows; also for what
            reading it inside the block raises.
    """
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(shard, pre_buffer=False) as file:
            metadata = file.metadata
        size = shard.stat().st_size if isinstance(shard, Path) else shard.seek(0, io.SEEK_END)
        parquet_limits.check_footer(metadata, size)
        labels = (name for ours in COLUMNS for name in (columns.get(ours), *OTHER_NAMES[ours]) if name)
        texts = parquet_limits.text_columns(metadata, set(labels))
        with ParquetFile(shard, pre_buffer=False, metadata=metadata, read_dictionary=texts) as file:
            yield file
    except parquet_limits.TooLarge as error:
        raise DatasetError(
            f"The shard {where or shard} is not read, because of the memory that would take: {error}. Choose another "
            "source, or move it out of the folder."
        ) from error
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        reason = first_line(error, type(error).__name__)
        raise DatasetError(
            f"The shard {where or shard} cannot be read as parquet ({reason}). It may be a download that "
            "broke off: fetch it again, or move it out of the folder."
        ) from error


def _features(file: ParquetFile) -> dict[str, Any]:
    """The Hub's description of the columns, by column name; empty where the file has none that can be read."""
    described: Any = None
    with contextlib.suppress(ValueError):
        described = parsed_json((file.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
    for key in ("info", "features"):
        described = described.get(key) if isinstance(described, dict) else None
    return described if isinstance(described, dict) else {}


def label_columns(file: ParquetFile, where: str, columns: Mapping[str, str]) -> dict[str, tuple[str, list[str] | None]]:
    """Our name of each label column present -> the file's name, and its ClassLabel names or None for plain values.

    Raises:
        DatasetError: `columns` names one that the file does not have.
    """
    features = _features(file)
    schema = file.schema_arrow
    found: dict[str, tuple[str, list[str] | None]] = {}
    for name in COLUMNS:
        theirs = _named(file, where, name, columns, [other for other in OTHER_NAMES[name] if _is_label(schema, other)])
        if theirs:
            feature = features.get(theirs)
            names = feature.get("names") if isinstance(feature, dict) else None
            known = isinstance(names, list) and all(isinstance(label, str) for label in names)
            found[name] = theirs, names if known else None
    return found


def _named(
    file: ParquetFile, where: str, name: str, columns: Mapping[str, str], guesses: Collection[str]
) -> str | None:
    """What the file calls our column `name`: as mapped, else the first of the guesses."""
    if name not in columns:
        return next(iter(guesses), None)
    if columns[name] not in file.schema_arrow.names:
        raise DatasetError(
            f"The shard {where} has no column '{columns[name]}' to read as {name}: its columns are "
            f"{', '.join(file.schema_arrow.names)}. Change the line '{name}: {columns[name]}' of columns."
        )
    return columns[name]


def _is_label(schema: pyarrow.Schema, name: str) -> bool:
    """Whether a column has one plain value per row, or a list of them."""
    import pyarrow

    if (index := schema.get_field_index(name)) < 0:
        return False
    kind = schema.field(index).type
    if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind):
        kind = kind.value_type
    return not pyarrow.types.is_nested(kind)


def _as_text(column: pyarrow.ChunkedArray, names: list[str] | None) -> list[str]:
    # of a list of genres the first is the one that WikiArt puts first
    values = parquet_limits.plain_values(column)
    if names is None:
        return ["" if value is None else cleaned(str(value)).strip() for value in values]
    # -1 is the Hub's "no label"
    return [names[value] if isinstance(value, int) and 0 <= value < len(names) else "" for value in values]


def picture_column(file: ParquetFile, where: str, columns: Mapping[str, str]) -> str:
    """The column of picture bytes, as pyarrow addresses it: "image.bytes" of a struct, or a binary column.

    Raises:
        DatasetError: there is none.
    """
    import pyarrow

    features = _features(file)
    declared = [name for name, kind in features.items() if isinstance(kind, dict) and kind.get("_type") == "Image"]
    mapped = _named(file, where, "image", columns, ())
    for name in (mapped,) if mapped else (*declared, "image"):
        index = file.schema_arrow.get_field_index(name)
        if index < 0:
            continue
        kind = file.schema_arrow.field(index).type
        if pyarrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            return f"{name}.bytes"
        if pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind):
            return name
    raise DatasetError(
        f"The shard {where} has no picture column: its columns are {', '.join(file.schema_arrow.names)}. "
        "It needs 'image', with the file's bytes; a line 'image: …' of columns says which it is."
    )
