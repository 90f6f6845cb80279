"""Shards that unfold to far more than they are: each is refused with a sentence before the memory is taken."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy
import pyarrow
import pytest
from impasto import parquet_limits
from impasto.dataset.pictures import PictureRefused
from impasto.errors import DatasetError
from impasto.sources.parquet import read_pictures, read_rows
from pyarrow import parquet

from .small_sources import picture_bytes

REPOSITORY = Path(__file__).resolve().parents[1]
MEMORY = 250_000_000  # bytes beyond what the process had before; each took 500 MB and more
READ_ALONE = """
import resource, sys
sys.path.insert(0, {tests!r})
import conftest
from pathlib import Path
import pyarrow.parquet
from impasto.sources.parquet import read_pictures, read_rows
from impasto.errors import DatasetError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    shard = Path({shard!r})
    for row in read_rows([shard])[:3]:
        for number, data in read_pictures(shard, [row.row]):
            print("picture", len(data) if isinstance(data, bytes) else data)
except DatasetError as error:
    print("refused:", error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def read_alone(shard: Path) -> tuple[str, int]:
    """What reading labels and first pictures says, and the bytes that it took at most, in a process of its own."""
    code = READ_ALONE.format(tests=str(REPOSITORY / "tests"), shard=str(shard))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    *said, memory = done.stdout.splitlines()
    return "\n".join(said), int(memory)


def write(path: Path, columns: dict[str, pyarrow.Array], metadata: bytes = b"{}", **options: object) -> Path:
    table = pyarrow.table(columns).replace_schema_metadata({"huggingface": metadata})
    parquet.write_table(table, path, compression="zstd", **options)
    return path


def nothing(count: int) -> pyarrow.Array:
    return pyarrow.nulls(count, pyarrow.binary())


def repeated(value: object, count: int, kind: pyarrow.DataType) -> pyarrow.Array:
    return pyarrow.array([value], kind).take(pyarrow.array(numpy.zeros(count, numpy.int64)))


def test_millions_of_rows_in_a_small_file_are_refused(tmp_path):
    count = 10_000_000
    shard = write(
        tmp_path / "rows.parquet",
        {"artist": repeated("x", count, pyarrow.string()), "image": nothing(count)},
        row_group_size=count,
    )
    assert shard.stat().st_size < 200_000
    said, memory = read_alone(shard)
    assert "10,000,000 rows" in said and memory < MEMORY


def test_one_enormous_value_in_a_small_file_is_refused(tmp_path):
    data = pyarrow.array([bytes(150_000_000), picture_bytes(1)], pyarrow.binary())
    shard = write(tmp_path / "value.parquet", {"image": data}, use_dictionary=False)
    assert shard.stat().st_size < 100_000
    said, memory = read_alone(shard)
    assert "unfold from" in said and memory < MEMORY


def test_a_large_label_that_every_row_repeats_is_in_memory_once(tmp_path):
    zeros = pyarrow.array(numpy.zeros(2_000, numpy.int32))
    labels = pyarrow.DictionaryArray.from_arrays(zeros, ["x" * 1_000_000])
    lists = pyarrow.ListArray.from_arrays(pyarrow.array(numpy.arange(0, 2_001, 2, numpy.int32)), labels)
    for name, column in (("title", labels), ("genres", lists)):
        shard = write(tmp_path / f"{name}.parquet", {name: column, "image": nothing(len(column))}, store_schema=False)
        said, memory = read_alone(shard)
        assert "picture 0" in said and memory < MEMORY


def test_a_picture_that_every_row_repeats_is_read_a_few_rows_at_a_time(tmp_path):
    pictures = repeated(bytes(20_000_000), 3, pyarrow.binary())
    shard = write(tmp_path / "pictures.parquet", {"image": pictures})
    at_once = parquet_limits.check_pictures(parquet.read_metadata(shard), 0, "image")
    assert 1 <= at_once <= parquet_limits.BATCH // 20_000_000


def test_a_picture_beyond_the_limit_of_a_value_is_refused_and_the_others_are_kept(tmp_path, monkeypatch):
    small, large = picture_bytes(1), picture_bytes(2, 200, 200)
    monkeypatch.setattr(parquet_limits, "MAX_PICTURE", len(small))
    shard = write(tmp_path / "pictures.parquet", {"image": pyarrow.array([large, small, None], pyarrow.binary())})
    first, *others = (data for _, data in read_pictures(shard, range(3)))
    assert isinstance(first, PictureRefused) and first.rule == "too_large" and others == [small, b""]


@pytest.mark.parametrize(
    "metadata",
    [
        b"[" * 100_000,
        b'{"info": ' * 50_000,
        b'{"info": {"features": ' + b"9" * 5_000 + b"}}",
        b'{"info": {"features": [1, 2]}}',
        b'{"info": {"features": {"artist": {"names": "Monet"}, "genre": {"names": {}}, "style": {"names": [1]}}}}',
        b'{"info": 3}',
        b"\xff\xfe",
    ],
)
def test_hostile_metadata_counts_as_none(tmp_path, metadata):
    columns = {
        "image": pyarrow.array([picture_bytes(1)], pyarrow.binary()),
        **{name: pyarrow.array([0]) for name in ("artist", "genre", "style")},
    }
    shard = write(tmp_path / "shard.parquet", columns, metadata)
    assert [row[2:5] for row in read_rows([shard])] == [("0", "0", "0")]
    assert [data for _, data in read_pictures(shard, [0])] == [picture_bytes(1)]


def test_a_date_that_python_does_not_know_is_told_as_damage(tmp_path):
    columns = {"image": nothing(1), "date": pyarrow.array([2**62], pyarrow.timestamp("us"))}
    with pytest.raises(DatasetError, match="cannot be read as parquet"):
        read_rows([write(tmp_path / "shard.parquet", columns)])


def test_a_source_whose_shards_have_too_many_rows_together_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("impasto.sources.parquet.MAX_ROWS_OF_A_SOURCE", 5)
    shards = [write(tmp_path / f"{n}.parquet", {"image": nothing(3)}) for n in range(2)]
    assert len(read_rows(shards[:1])) == 3
    with pytest.raises(DatasetError, match="more than 5 rows together"):
        read_rows(shards)


def test_footers_that_claim_more_than_the_file_are_damage(tmp_path):
    shard = write(tmp_path / "shard.parquet", {"image": pyarrow.array([picture_bytes(1)], pyarrow.binary())})
    metadata = parquet.read_metadata(shard)
    with pytest.raises(ValueError, match="larger than the file"):
        parquet_limits.check_footer(metadata, 10)
    parquet_limits.check_footer(metadata, shard.stat().st_size)
