"""Text embeddings as one Parquet file: in the form of diffusers' QLoRA example, and back without loss."""

import hashlib
import time
from pathlib import Path

import numpy
import pyarrow
import pytest
import torch
from impasto.errors import FeatureError
from impasto.trainers.features import encoding as features
from impasto.trainers.features import index, text_table
from PIL import Image
from pyarrow import parquet

from ...leftovers import of_another_machine
from ..small_datasets import SIZES, CountingEncoders, encode, make_dataset, write_config


@pytest.fixture
def config(tmp_path):
    return make_dataset(tmp_path / "dataset")


def export(found, name="texts.parquet", float_type="float32"):
    path = Path(found.folder).parent.parent / name
    text_table.export_texts(found, path, float_type)
    return path


def pixels_hash(path):
    """As the example names a picture (compute_embeddings.py, generate_image_hash)."""
    return hashlib.sha256(Image.open(path).tobytes()).hexdigest()


def write_as_the_example_does(path, pictures, tokens=77, width=32, pooled=24):
    """One row group of float64 lists, without captions."""
    random = numpy.random.default_rng(0)
    rows = {
        "image_hash": [pixels_hash(picture) for picture in pictures],
        "prompt_embeds": [random.normal(size=tokens * width).astype("float32").tolist() for _ in pictures],
        "pooled_prompt_embeds": [random.normal(size=pooled).astype("float32").tolist() for _ in pictures],
        "text_ids": [[0.0] * (tokens * 3) for _ in pictures],
    }
    parquet.write_table(pyarrow.table(rows), path)
    return rows


def test_the_file_is_read_the_way_the_example_reads_it(config):
    found = encode(config)
    table = parquet.read_table(export(found)).to_pylist()
    by_picture = {row["image_hash"]: row for row in table}
    loaded = index.load(found)

    assert len(table) == len(SIZES)
    for number in range(len(SIZES)):
        row = by_picture[pixels_hash(config.parent / "train" / f"picture-{number}.png")]
        (example,) = (example for example in loaded.examples if example.caption == f"caption {number}")
        t5, pooled = loaded.load_text(example.text_path)
        assert row["caption"] == example.caption
        assert torch.equal(torch.tensor(row["prompt_embeds"]).reshape(256, 32), t5)
        assert torch.equal(torch.tensor(row["pooled_prompt_embeds"]), pooled)
        assert not numpy.array(row["text_ids"]).reshape(256, 3).any()


def test_what_was_written_comes_back_the_same_without_the_text_encoder(config):
    found = encode(config)
    loaded = index.load(found)
    encoders = CountingEncoders()
    imported = encode(config, encoders, text_table=text_table.import_texts(export(found)))

    assert imported.key != found.key  # where the texts come from decides them
    assert (encoders.texts, encoders.pictures) == ([], [])
    for before, after in zip(loaded.examples, index.load(imported).examples, strict=True):
        assert (before.id, before.tokens) == (after.id, after.tokens)
        for one, other in zip(loaded.load_text(before.text_path), loaded.load_text(after.text_path), strict=True):
            assert torch.equal(one, other)


def test_importing_again_reads_no_row(config, monkeypatch):
    table = text_table.import_texts(export(encode(config)))
    first = encode(config, text_table=table)
    monkeypatch.setattr(text_table, "_embeddings", None)
    assert encode(config, text_table=table) == first


def test_all_variants_of_a_caption_are_written_and_read(config):
    write_config(config, subset="shuffle_caption = true")
    for caption in (config.parent / "train").glob("*.txt"):
        caption.write_text(f"{caption.stem}, boat, river, sky, trees")
    found = encode(config)
    path = export(found)
    texts = {text.path for example in index.load(found).examples for text in example.all_texts}

    assert parquet.ParquetFile(path).metadata.num_rows == len(texts) > len(SIZES)
    imported = index.load(encode(config, text_table=text_table.import_texts(path)))
    assert len({text.path for example in imported.examples for text in example.all_texts}) == len(texts)


def test_a_table_of_the_example_is_read_by_the_pixels_of_its_pictures(config):
    pictures = [config.parent / "train" / f"picture-{number}.png" for number in range(len(SIZES))]
    rows = write_as_the_example_does(config.parent / "example.parquet", pictures)
    found = encode(config, text_table=text_table.import_texts(config.parent / "example.parquet"))
    loaded = index.load(found)

    for example in loaded.examples:
        row = int(example.caption.split()[-1])
        t5, pooled = loaded.load_text(example.text_path)
        assert example.tokens == 77
        assert torch.equal(t5, torch.tensor(rows["prompt_embeds"][row]).view(77, 32))
        assert torch.equal(pooled, torch.tensor(rows["pooled_prompt_embeds"][row]))
    assert "texts of 77 T5 tokens, but sampling gives 256" in index.report(found)


def test_float16_halves_the_file_and_rounds_to_eleven_bits(config):
    found = encode(config)
    whole, half = export(found), export(found, "half.parquet", "float16")
    assert half.stat().st_size < 0.6 * whole.stat().st_size

    imported = index.load(encode(config, text_table=text_table.import_texts(half)))
    for before, after in zip(index.load(found).examples, imported.examples, strict=True):
        one, other = (imported.load_text(example.text_path)[0] for example in (before, after))
        assert after.text_path.stat().st_size < 0.6 * before.text_path.stat().st_size
        assert not torch.equal(one, other)
        torch.testing.assert_close(one, other, rtol=2**-11, atol=1e-7)


def test_numbers_too_large_for_float16_are_refused_and_no_file_appears(config):
    encoders = CountingEncoders()
    huge = features.Encoder("huge", lambda text: tuple(1e6 * tensor for tensor in encoders.encode_text(text)))
    found = features.encode(config, encoders.autoencoder, huge)
    with pytest.raises(FeatureError, match="Use float32"):
        export(found, float_type="float16")
    assert not list(config.parent.glob("*.parquet")) and not list(config.parent.glob(".partial-*"))


def test_an_export_that_was_killed_is_cleared_away_by_a_later_one(config, monkeypatch):
    found = encode(config)
    torso = of_another_machine(config.parent / "texts.parquet")
    torso.write_bytes(b"PAR1")
    export(found)
    assert torso.exists()  # as far as can be seen, another server is exporting
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3600)
    export(found)
    assert not torso.exists()


def test_embeddings_that_came_from_bf16_take_little_more_than_half(config):
    found = encode(config, CountingEncoders(dtype=torch.bfloat16))
    numbers = len(SIZES) * (256 * 32 + 24)
    assert export(found).stat().st_size < 0.65 * 4 * numbers


def test_rows_are_written_and_read_a_few_at_a_time(tmp_path, monkeypatch):
    config = make_dataset(tmp_path / "many", [(64, 64)] * 20, subset="")
    path = export(encode(config))
    written = parquet.ParquetFile(path)
    sizes = [written.metadata.row_group(group).num_rows for group in range(written.num_row_groups)]
    assert sizes == [8, 8, 4]

    parquet.write_table(parquet.read_table(path), path)  # one group for all, as the example writes it
    read = []
    iter_batches = parquet.ParquetFile.iter_batches

    def counting(*arguments, **options):
        for batch in iter_batches(*arguments, **options):
            read.append(batch.num_rows)
            yield batch

    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", counting)
    encode(config, text_table=text_table.import_texts(path))
    assert read == [8, 8, 4]


def test_a_cancelled_import_goes_on_where_it_was(config):
    table = text_table.import_texts(export(encode(config)))

    def cancelling(done, total, text="", preview=None):
        if text.startswith("Reading text 4"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode(config, text_table=table, progress=cancelling)
    told = []
    encode(config, text_table=table, progress=lambda done, total, text="", preview=None: told.append(text))
    assert sum(text.startswith("Reading text") for text in told) == len(SIZES) - 3


def test_a_caption_that_changed_since_is_named(config):
    table = text_table.import_texts(export(encode(config)))
    (config.parent / "train" / "picture-2.txt").write_text("another caption")
    with pytest.raises(FeatureError, match=r"no row for 1 of 6 texts, among them 'another caption'.*picture-2\.png"):
        encode(config, text_table=table)


def test_a_picture_that_the_example_did_not_see_is_named(config):
    pictures = [config.parent / "train" / f"picture-{number}.png" for number in range(len(SIZES) - 1)]
    write_as_the_example_does(config.parent / "example.parquet", pictures)
    with pytest.raises(FeatureError, match=r"picture-5\.png"):
        encode(config, text_table=text_table.import_texts(config.parent / "example.parquet"))


def test_one_text_for_each_picture_is_not_enough_for_captions_that_vary(config):
    pictures = [config.parent / "train" / f"picture-{number}.png" for number in range(len(SIZES))]
    write_as_the_example_does(config.parent / "example.parquet", pictures)
    write_config(config, subset="enable_wildcard = true")
    (config.parent / "train" / "picture-0.txt").write_text("{a|b}")
    with pytest.raises(FeatureError, match="one text for each picture"):
        encode(config, text_table=text_table.import_texts(config.parent / "example.parquet"))


@pytest.mark.parametrize("sizes", [{"width": 33}, {"pooled": 23}])
def test_embeddings_of_other_encoders_are_refused(config, sizes):
    pictures = [config.parent / "train" / f"picture-{number}.png" for number in range(len(SIZES))]
    write_as_the_example_does(config.parent / "example.parquet", pictures, **sizes)
    with pytest.raises(FeatureError, match="Connect the CLIP"):
        encode(config, text_table=text_table.import_texts(config.parent / "example.parquet"))


def test_an_empty_row_is_refused(config):
    path = export(encode(config))
    rows = parquet.read_table(path).to_pydict()
    rows["prompt_embeds"][3] = None
    parquet.write_table(pyarrow.table(rows), path)
    with pytest.raises(FeatureError, match="has 0 and 24 numbers"):
        encode(config, text_table=text_table.import_texts(path))


def test_a_row_without_numbers_is_named_and_not_kept(config):
    path = export(encode(config))
    rows = parquet.read_table(path).to_pydict()
    rows["prompt_embeds"][3][5] = float("nan")
    parquet.write_table(pyarrow.table(rows), path)
    with pytest.raises(FeatureError, match="not finite"):
        encode(config, text_table=text_table.import_texts(path))


EMBEDDINGS = {"prompt_embeds": [[1.0]], "pooled_prompt_embeds": [[1.0]]}


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"no Parquet",
        pyarrow.table({"image_hash": ["a"]}),
        pyarrow.table({"image_hash": [1]} | EMBEDDINGS),
        pyarrow.table({"image_hash": ["a"]} | EMBEDDINGS | {"prompt_embeds": [1.0]}),
        pyarrow.table({"image_hash": ["a"]} | EMBEDDINGS | {"prompt_embeds": [["1"]]}),
    ],
)
def test_a_file_that_is_no_table_of_texts_says_so(tmp_path, content):
    path = tmp_path / "texts.parquet"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        parquet.write_table(content, path)
    with pytest.raises(FeatureError, match=r"texts\.parquet"):
        text_table.import_texts(path)


def test_a_picture_that_changed_since_is_not_exported_under_another_name(config):
    found = encode(config)
    Image.new("RGB", (128, 128)).save(config.parent / "train" / "picture-0.png")
    with pytest.raises(FeatureError, match="1 of the 6 pictures .* no longer as they were"):
        export(found)


def test_numbers_that_unfold_to_far_more_than_the_file_are_refused_before_they_do(tmp_path):
    zeros = pyarrow.array(numpy.zeros(20_000_000, numpy.float32))
    offsets = pyarrow.array([0, len(zeros)], pyarrow.int32())
    columns = {"image_hash": ["a"], "prompt_embeds": pyarrow.ListArray.from_arrays(offsets, zeros)}
    parquet.write_table(pyarrow.table(EMBEDDINGS | columns), tmp_path / "texts.parquet", compression="zstd")
    assert (tmp_path / "texts.parquet").stat().st_size < 100_000
    with pytest.raises(FeatureError, match="unfold"):
        text_table.import_texts(tmp_path / "texts.parquet")
