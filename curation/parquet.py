"""Paintings in parquet shards, as the Hub stores datasets: labels read without the pictures, pictures by row group.

ClassLabel columns are decoded through the `huggingface` entry of the schema's metadata; plain columns are read as text.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import DatasetError
from ..progress import Progress, silent

if TYPE_CHECKING:
    import pyarrow
    from pyarrow.parquet import ParquetFile

ROWS_AT_ONCE = 16  # pictures held in memory while a row group is read; WikiArt's weigh about half a megabyte each


class Row(NamedTuple):
    """Where one painting lies and what its label columns say; "" where a column is missing or has no value."""

    shard: int  # index into the list of shards
    row: int  # within the shard, from 0
    artist: str
    genre: str
    style: str
    title: str
    date: str
    text: str


COLUMNS = Row._fields[2:]


def find_shards(folder: Path) -> list[Path]:
    """The parquet files in `folder` and in the folders directly below it, in the order of their names."""
    return sorted(path for pattern in ("*.parquet", "*/*.parquet") for path in folder.glob(pattern) if path.is_file())


def find_sources(root: Path) -> list[str]:
    """Names of the folders directly under `root` that hold parquet files."""
    if not root.is_dir():
        return []
    return sorted(folder.name for folder in root.iterdir() if folder.is_dir() and find_shards(folder))


def read_rows(shards: list[Path], progress: Progress = silent) -> list[Row]:
    """Read the label columns of every shard, and no picture.

    Raises:
        DatasetError: a shard is not a whole parquet file.
    """
    rows: list[Row] = []
    for index, shard in enumerate(shards):
        progress(index, len(shards), f"Reading labels of shard {index + 1} of {len(shards)}")
        with _opened(shard) as file:
            present = _label_columns(file)
            table = file.read(columns=list(present))
            columns = [
                _as_text(table.column(name), present[name]) if name in present else [""] * table.num_rows
                for name in COLUMNS
            ]
            count = file.metadata.num_rows
        rows += [Row(index, row, *cells) for row, cells in zip(range(count), zip(*columns, strict=True), strict=True)]
    return rows


def read_pictures(shard: Path, rows: Collection[int]) -> Iterator[tuple[int, bytes]]:
    """Yield row number and picture bytes (empty where the row has none), from the row groups that hold `rows` only.

    Raises:
        DatasetError: the shard is damaged, or has no picture column.
    """
    wanted = set(rows)
    with _opened(shard) as file:
        column = _picture_column(file, shard)
        start = 0
        for group in range(file.metadata.num_row_groups):
            length = file.metadata.row_group(group).num_rows
            if wanted.intersection(range(start, start + length)):
                yield from _read_group(file, group, start, column, wanted)
            start += length


def _read_group(
    file: ParquetFile, group: int, start: int, column: str, wanted: set[int]
) -> Iterator[tuple[int, bytes]]:
    row = start
    for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=[column], use_threads=False):
        for cell in batch.column(0):
            if row in wanted:
                value = cell.as_py()
                data = value.get("bytes") if isinstance(value, dict) else value
                yield row, data if isinstance(data, bytes) else b""
            row += 1


@contextlib.contextmanager
def _opened(shard: Path) -> Iterator[ParquetFile]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(shard) as file:
            yield file
    except (pyarrow.ArrowException, OSError) as error:
        raise DatasetError(
            f"The shard {shard} cannot be read as parquet ({str(error).splitlines()[0]}). It may be a download that "
            "broke off: fetch it again, or move it out of the folder."
        ) from error


def _features(file: ParquetFile) -> dict[str, Any]:
    """The Hub's description of the columns, by column name; empty where the file has none."""
    metadata = (file.schema_arrow.metadata or {}).get(b"huggingface", b"{}")
    with contextlib.suppress(json.JSONDecodeError, AttributeError):
        return dict(json.loads(metadata).get("info", {}).get("features", {}))
    return {}


def _label_columns(file: ParquetFile) -> dict[str, list[str] | None]:
    """The label columns present, each with its ClassLabel names, or None where the values are the labels."""
    import pyarrow

    features = _features(file)
    plain = [field.name for field in file.schema_arrow if not pyarrow.types.is_nested(field.type)]
    return {name: (features.get(name) or {}).get("names") for name in COLUMNS if name in plain}


def _as_text(column: pyarrow.ChunkedArray, names: list[str] | None) -> list[str]:
    values = column.to_pylist()
    if names is None:
        return ["" if value is None else str(value).strip() for value in values]
    # -1 is the Hub's "no label"
    return ["" if value is None or not 0 <= value < len(names) else names[value] for value in values]


def _picture_column(file: ParquetFile, shard: Path) -> str:
    """The column of picture bytes, as pyarrow addresses it: "image.bytes" of a struct, or a binary column."""
    import pyarrow

    declared = [name for name, feature in _features(file).items() if (feature or {}).get("_type") == "Image"]
    for name in (*declared, "image"):
        index = file.schema_arrow.get_field_index(name)
        if index < 0:
            continue
        kind = file.schema_arrow.field(index).type
        if pyarrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            return f"{name}.bytes"
        if pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind):
            return name
    raise DatasetError(
        f"The shard {shard} has no picture column: its columns are {', '.join(file.schema_arrow.names)}. "
        "It needs 'image', with the file's bytes."
    )
