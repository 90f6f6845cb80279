"""Text embeddings of a dataset as one Parquet file, a row for each picture and caption, written and read row by row.

The columns are those of diffusers' examples/research_projects/flux_lora_quantization/compute_embeddings.py (image_hash,
prompt_embeds, pooled_prompt_embeds, text_ids), whose trainer can read the file; tables made there can be read here. The
columns image_file_hash and caption are added, so that neither another decoder nor another caption can be mistaken.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import files, parquet_limits
from ...dataset import buckets
from ...errors import FeatureError
from ...progress import Progress, silent
from . import index
from .plan import file_hash

if TYPE_CHECKING:
    import numpy
    import pyarrow
    from torch import Tensor

    from ...dataset.config_reader import ConfigPicture
    from .feature_set import FeatureSet

# Rows that are in memory together; with the real FLUX and 256 tokens a row takes 4 MB in float32.
ROWS_TOGETHER = 8
FLOAT_TYPES = ("float32", "float16")
_EMBEDDINGS = ("prompt_embeds", "pooled_prompt_embeds")
_NAMES = ("image_hash", "image_file_hash", "caption")
TEXT_ID_NUMBERS = 3  # FLUX's position of a text token, all zeros


@dataclass(frozen=True)
class TextTable:
    """A Parquet file of text embeddings; `identity` is a hash of its content."""

    path: Path
    identity: str

    def rows(
        self,
        wanted: Collection[tuple[str, str]],
        pictures: Mapping[str, Path],
        widths: tuple[int, int],
        progress: Progress = silent,
    ) -> Iterator[tuple[str, str, Tensor, Tensor]]:
        """The embeddings of the wanted texts, `ROWS_TOGETHER` rows in memory at a time.

        Args:
            wanted: (SHA-256 of the picture's file, caption).
            pictures: SHA-256 of each picture's file -> its path.
            widths: of T5's hidden states and of CLIP's pooled output.
            progress: told of every row.

        Yields:
            The picture's hash, the caption, T5's hidden states `(tokens, width)` and the pooled output `(width,)`, in
            float16 where the file has that, else in float32.

        Raises:
            FeatureError: the file is damaged, or has no row for a wanted text.
        """
        with _reading(self.path) as file:
            chosen = self._chosen(file, wanted, pictures, progress)
            done = 0
            start = 0
            for group in range(file.num_row_groups):
                end = start + file.metadata.row_group(group).num_rows
                if any(start <= row < end for row in chosen):
                    for row, values in _embeddings(file, group, start):
                        if row in chosen:
                            progress(done, len(chosen), f"Reading text {done + 1} of {len(chosen)}")
                            done += 1
                            yield (*chosen[row], *_shaped(self.path, values, widths))
                start = end

    def _chosen(
        self, file: Any, wanted: Collection[tuple[str, str]], pictures: Mapping[str, Path], progress: Progress
    ) -> dict[int, tuple[str, str]]:
        """Number of a row -> the wanted text that it holds; the last of equal rows, as in the reference."""
        table = file.read(columns=[name for name in _NAMES if name in file.schema_arrow.names])
        names = {name: parquet_limits.plain_values(table.column(name)) for name in table.column_names}
        of_row = names.get("image_file_hash", names["image_hash"])
        if not pictures.keys() & set(of_row):  # a table of the reference, which hashes the pixels
            of_pixels = {}
            for done, (image, path) in enumerate(pictures.items()):
                progress(done, len(pictures), f"Looking for picture {done + 1} of {len(pictures)} in {self.path.name}")
                of_pixels[pixel_hash(path)] = image
            of_row = [of_pixels.get(hash) for hash in names["image_hash"]]
        if "caption" in names:
            rows = {key: row for row, key in enumerate(zip(of_row, names["caption"], strict=True))}
        else:
            of_image = {image: row for row, image in enumerate(of_row)}
            rows = {(image, text): of_image[image] for image, text in wanted if image in of_image}
            if len(set(rows.values())) < len(rows):
                raise FeatureError(
                    f"The text features {self.path} have one text for each picture, but the dataset config makes "
                    "several of a caption. Remove shuffle_caption and the like from it, or leave text_features empty."
                )
        lacking = [key for key in wanted if key not in rows]
        if lacking:
            image, text = lacking[0]
            raise FeatureError(
                f"The text features {self.path} have no row for {len(lacking)} of {len(wanted)} texts, among them "
                f"'{text[:60]}' of the picture {pictures[image]}. Export them again from the same pictures and "
                "captions, or leave text_features empty."
            )
        return {rows[key]: key for key in wanted}


def import_texts(path: Path) -> TextTable:
    """The table in `path`, to be given to `features.encode`; nothing but its columns is read yet.

    Raises:
        FeatureError: the file is missing, not Parquet or lacks a column of the right type.
    """
    from pyarrow import types

    def is_text(kind: pyarrow.DataType) -> bool:
        return types.is_string(kind.value_type if types.is_dictionary(kind) else kind)

    def is_embedding(kind: pyarrow.DataType) -> bool:
        return (types.is_list(kind) or types.is_large_list(kind)) and types.is_floating(kind.value_type)

    with _reading(path) as file:
        kinds = dict(zip(file.schema_arrow.names, file.schema_arrow.types, strict=True))
    right = {name: is_embedding for name in _EMBEDDINGS} | {"image_hash": is_text}
    wrong = [name for name, is_right in right.items() if name not in kinds or not is_right(kinds[name])]
    if wrong:
        raise FeatureError(
            f"The text features {path} have no column {wrong[0]}, or one of another type. Give a table that Export "
            "Text Features or diffusers' compute_embeddings.py wrote."
        )
    return TextTable(path, file_hash(path))


def export_texts(encoded: index.Features, path: Path, float_type: str = "float32", progress: Progress = silent) -> int:
    """Write the captions' embeddings of encoded training data to `path`, which appears whole.

    Args:
        encoded: the training data; its pictures have to be where the dataset config names them.
        path: of the Parquet file.
        float_type: float32 loses nothing; float16 halves the file and keeps 11 bits of each number.
        progress: told of every row.

    Returns:
        How many rows it has.

    Raises:
        DatasetError: a picture cannot be read.
        FeatureError: the training data is incomplete, a picture is no longer there, or a number is too large for
            float16.
        DiskError: the file cannot be written.
    """
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    loaded = index.load(encoded)
    files.remove_partials(path.parent)
    texts = {(example.image, text.caption): text.path for example in loaded.examples for text in example.all_texts}
    hashes = _pixel_hashes(index.pictures(encoded), {image for image, _ in texts}, progress)
    rows = list(texts.items())
    number = pyarrow.list_({"float32": pyarrow.float32(), "float16": pyarrow.float16()}[float_type])
    columns = dict.fromkeys((*_EMBEDDINGS, "text_ids"), number) | dict.fromkeys(_NAMES, pyarrow.string())
    numbers = [f"{name}.list.element" for name in (*_EMBEDDINGS, "text_ids")]
    with (
        files.appearing(path) as temporary,
        # Bytes of equal weight side by side compress well: float32 numbers that came from bf16 to half.
        ParquetWriter(
            temporary,
            pyarrow.schema(columns),
            compression="zstd",
            use_dictionary=False,
            use_byte_stream_split=numbers,
        ) as writer,
    ):
        for start in range(0, len(rows), ROWS_TOGETHER):
            progress(start, len(rows), f"Writing text {start + 1} of {len(rows)}")
            group = rows[start : start + ROWS_TOGETHER]
            writer.write_batch(_batch(loaded, group, hashes, writer.schema, float_type))
    progress(len(rows), len(rows), "Written")
    return len(rows)


def pixel_hash(path: Path) -> str:
    """SHA-256 of the upright picture's pixels as Pillow decodes them, which is how the reference names a picture.

    Raises:
        DatasetError: the file is not a picture.
    """
    with buckets.upright(path) as picture:
        return hashlib.sha256(picture.tobytes()).hexdigest()


def _pixel_hashes(pictures: Sequence[ConfigPicture], images: Collection[str], progress: Progress) -> dict[str, str]:
    """Hash of each picture's file -> hash of its pixels."""
    paths = list(dict.fromkeys(picture.path for picture in pictures))
    hashes = {}
    for done, path in enumerate(paths):
        progress(done, len(paths), f"Reading picture {done + 1} of {len(paths)}")
        if (image := file_hash(path)) in images and image not in hashes:
            hashes[image] = pixel_hash(path)
    if len(hashes) < len(images):
        raise FeatureError(
            f"{len(images) - len(hashes)} of the {len(images)} pictures that were encoded are no longer as they were. "
            "Queue Encode Training Data again, then export."
        )
    return hashes


def _batch(
    loaded: FeatureSet,
    rows: Sequence[tuple[tuple[str, str], Path]],
    hashes: Mapping[str, str],
    schema: pyarrow.Schema,
    float_type: str,
) -> pyarrow.RecordBatch:
    import numpy
    import pyarrow

    columns: dict[str, list[Any]] = {name: [] for name in schema.names}
    for (image, caption), path in rows:
        t5, pooled = loaded.load_text(path)
        ids = numpy.zeros(len(t5) * TEXT_ID_NUMBERS)
        for name, values in zip((*_EMBEDDINGS, "text_ids"), (t5.flatten(), pooled, ids), strict=True):
            with numpy.errstate(over="ignore"):
                columns[name].append(numpy.asarray(values, dtype=float_type))
        if not all(numpy.isfinite(columns[name][-1]).all() for name in _EMBEDDINGS):
            raise FeatureError(f"The embedding of '{caption[:60]}' has numbers too large for float16. Use float32.")
        for name, value in zip(_NAMES, (hashes[image], image, caption), strict=True):
            columns[name].append(value)
    arrays = [
        pyarrow.array(columns[field.name]) if field.name in _NAMES else _lists(columns[field.name]) for field in schema
    ]
    return pyarrow.RecordBatch.from_arrays(arrays, schema=schema)


def _lists(rows: Sequence[numpy.ndarray]) -> pyarrow.ListArray:
    import numpy
    import pyarrow

    ends = numpy.cumsum([0, *(len(row) for row in rows)], dtype=numpy.int32)
    return pyarrow.ListArray.from_arrays(ends, numpy.concatenate(rows))


def _embeddings(file: Any, group: int, start: int) -> Iterator[tuple[int, list[Any]]]:
    """Number of each row of a row group, and its values in the two columns of embeddings."""
    row = start
    for batch in file.iter_batches(ROWS_TOGETHER, [group], list(_EMBEDDINGS)):
        for place in range(batch.num_rows):
            yield row, [batch.column(name)[place].values for name in _EMBEDDINGS]
            row += 1


def _shaped(path: Path, values: Sequence[Any], widths: tuple[int, int]) -> tuple[Tensor, Tensor]:
    import numpy
    import torch

    # Copied, because what Arrow gives cannot be written to; the reference writes float64. An empty row is None.
    t5, pooled = (torch.from_numpy(numpy.array([] if row is None else row, dtype=_float_type(row))) for row in values)
    if not len(t5) or len(t5) % widths[0] or len(pooled) != widths[1]:
        raise FeatureError(
            f"A row of the text features {path} has {len(t5)} and {len(pooled)} numbers, but the connected CLIP gives "
            f"a multiple of {widths[0]}, and {widths[1]}. Connect the CLIP that they were made with."
        )
    return t5.view(-1, widths[0]), pooled


def _float_type(row: pyarrow.Array | None) -> str:
    return "float16" if row is not None and str(row.type) == "halffloat" else "float32"


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """The open Parquet file, with what goes wrong in reading it put into words."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        # Not buffered beforehand, because the reference writes all rows as one group.
        with ParquetFile(path, memory_map=True, pre_buffer=False) as file:
            metadata = file.metadata
        parquet_limits.check_footer(metadata, path.stat().st_size)
        parquet_limits.check_labels(metadata, _NAMES)
        parquet_limits.check_numbers(metadata, _EMBEDDINGS)
        texts = parquet_limits.text_columns(metadata, _NAMES)
        with ParquetFile(path, memory_map=True, pre_buffer=False, metadata=metadata, read_dictionary=texts) as file:
            yield file
    except (OSError, pyarrow.ArrowException, ValueError) as error:
        raise FeatureError(
            f"The text features {path} cannot be read ({error}). Export them again, or leave text_features empty."
        ) from error
