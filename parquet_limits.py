"""What a Parquet file of a stranger may cost, judged by its footer before anything of it is decompressed.

Run lengths, dictionaries and compression make a file of some kilobytes unfold into gigabytes. Here are the limits, and
how columns of texts are read so that a value that comes a million times is in memory once.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow
    from pyarrow.parquet import FileMetaData

MAX_ROWS = 1_000_000  # of one file; WikiArt's 81,444 paintings fill 72 files
MAX_VALUES_OF_A_ROW = 16  # of labels, on average over a file: genres are lists
MAX_PICTURE = 64_000_000  # bytes of one value of pictures, as `curation.fetch.Limits` has for a download
MAX_TEXT = 100_000  # bytes of one label or caption
BATCH = 256_000_000  # bytes that are decompressed together
LABELS, PICTURES, NUMBERS = 4_000_000, MAX_PICTURE, 64_000_000  # bytes that any column of that kind may unfold to
TIMES = 50  # and for each byte of the file so many; captions compress to a fifth, pictures not at all
_AT_ONCE = 1 << 16  # rows of Python values at a time


class TooLarge(ValueError):
    """The file would unfold beyond a limit; the text says which."""


def text_columns(metadata: FileMetaData, names: Collection[str]) -> list[str]:
    """Paths of the columns of texts among `names`, to be opened with as `read_dictionary`."""
    columns = (metadata.schema.column(number) for number in range(metadata.num_columns))
    return [
        column.path
        for column in columns
        if column.path.split(".")[0] in names
        and column.physical_type == "BYTE_ARRAY"
        and column.max_repetition_level < 2
    ]


def check_footer(metadata: FileMetaData, size: int) -> None:
    """Look whether a footer can be true of a file of `size` bytes, on which the other checks rely.

    Raises:
        TooLarge: it has more than `MAX_ROWS`.
        ValueError: its counts contradict each other or the size.
    """
    if _compressed(_chunks(metadata)) > size:
        raise ValueError("its columns are larger than the file")
    rows = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    if min([metadata.num_rows, *rows]) < 0 or sum(rows) != metadata.num_rows:
        raise ValueError("the row groups have other numbers of rows than the footer says")
    if metadata.num_rows > MAX_ROWS:
        raise TooLarge(f"it has {metadata.num_rows:,} rows, and a file may have {MAX_ROWS:,}")


def check_labels(metadata: FileMetaData, names: Collection[str]) -> None:
    """Raise `TooLarge` where columns of labels unfold to too much or have far more values than rows."""
    chunks = [chunk for chunk in _chunks(metadata) if chunk.path_in_schema.split(".")[0] in names]
    _check_bytes("labels", sum(chunk.total_uncompressed_size for chunk in chunks), _compressed(chunks), LABELS)
    values = max((chunk.num_values for chunk in chunks), default=0)
    if values > MAX_VALUES_OF_A_ROW * max(metadata.num_rows, 1_000):
        raise TooLarge(f"a column of labels has {values:,} values in {metadata.num_rows:,} rows")


def check_pictures(metadata: FileMetaData, group: int, path: str) -> int:
    """How many pictures of a row group may be read at once, so that no more than about `BATCH` bytes are in memory.

    Raises:
        TooLarge: the row group unfolds to too much.
    """
    chunks = [chunk for chunk in _chunks(metadata, group) if chunk.path_in_schema == path]
    unfolded = sum(chunk.total_uncompressed_size for chunk in chunks)
    _check_bytes("pictures of a row group", unfolded, _compressed(chunks), PICTURES)
    if any(chunk.has_dictionary_page for chunk in chunks):  # each value may be the same one, as large as all together
        return max(1, BATCH // max(unfolded, 1))
    return max(1, BATCH // max(unfolded // max(metadata.row_group(group).num_rows, 1), 1))


def check_numbers(metadata: FileMetaData, names: Collection[str]) -> None:
    """Raise `TooLarge` where the numbers in columns unfold to too much; the footer counts run lengths as they lie."""
    for group in range(metadata.num_row_groups):
        chunks = [chunk for chunk in _chunks(metadata, group) if chunk.path_in_schema.split(".")[0] in names]
        unfolded = max((max(8 * chunk.num_values, chunk.total_uncompressed_size) for chunk in chunks), default=0)
        _check_bytes("numbers of a row group", unfolded, _compressed(chunks), NUMBERS)


def _chunks(metadata: FileMetaData, *groups: int) -> list[Any]:
    return [
        metadata.row_group(group).column(column)
        for group in groups or range(metadata.num_row_groups)
        for column in range(metadata.num_columns)
    ]


def _compressed(chunks: Collection[Any]) -> int:
    return sum(max(chunk.total_compressed_size, 0) for chunk in chunks)


def _check_bytes(what: str, unfolded: int, compressed: int, base: int) -> None:
    if not 0 <= unfolded <= base + TIMES * compressed:
        raise TooLarge(
            f"its {what} unfold from {compressed:,} bytes to {unfolded:,}, and may to {base + TIMES * compressed:,}"
        )


def plain_values(column: pyarrow.ChunkedArray) -> list[Any]:
    """A column as Python values, of lists the first one (None where empty); equal texts are one object.

    A text longer than `MAX_TEXT` is None.
    """
    known: dict[Any, Any] = {}
    values: list[Any] = []
    for chunk in column.chunks:
        for start in range(0, len(chunk), _AT_ONCE):
            values += _of_array(chunk.slice(start, _AT_ONCE), known)
    return values


def _of_array(array: pyarrow.Array, known: dict[Any, Any]) -> list[Any]:
    import pyarrow
    from pyarrow import compute

    if pyarrow.types.is_list(array.type) or pyarrow.types.is_large_list(array.type):
        starts = array.offsets.slice(0, len(array))
        filled = compute.greater(compute.fill_null(array.value_lengths(), 0), 0)
        array = array.values.take(compute.if_else(filled, starts, pyarrow.scalar(None, starts.type)))
    if not (pyarrow.types.is_dictionary(array.type) and _is_text(array.type.value_type)):
        return array.to_pylist()
    used = array.indices.unique().drop_null()
    lengths = compute.fill_null(compute.binary_length(array.dictionary.take(used)), 0).to_pylist()
    texts: dict[int, Any] = {}
    for index, length in zip(used.to_pylist(), lengths, strict=True):
        if length <= MAX_TEXT:
            text = array.dictionary[index].as_py()
            texts[index] = known.setdefault(text, text)
    return [texts.get(index) for index in array.indices.to_pylist()]


def _is_text(kind: pyarrow.DataType) -> bool:
    from pyarrow import types

    return types.is_string(kind) or types.is_large_string(kind) or types.is_binary(kind) or types.is_large_binary(kind)
