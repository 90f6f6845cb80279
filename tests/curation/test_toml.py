from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from impasto.curation.pictures import store_picture
from impasto.curation.records import Dataset, Record, write_manifest
from impasto.curation.toml import TomlSettings, write_dataset_toml
from impasto.errors import DatasetError, SettingsError

from .conftest import picture_bytes

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def captioned(folder: Path, *captions: str) -> Dataset:
    records = []
    for seed, caption in enumerate(captions):
        stored = store_picture(folder, picture_bytes(seed))
        records.append(Record(stored.file_name, stored.sha256, stored.width, stored.height, stored.size, caption))
    return write_manifest(folder, records)


def test_the_file_says_what_sd_scripts_reads(tmp_path):
    dataset = captioned(tmp_path / "monets", "a landscape")
    settings = TomlSettings(resolution=768, batch_size=2, num_repeats=3, validation_split=0.25, validation_seed=9)
    config = tomllib.loads(Path(write_dataset_toml(dataset, settings).path).read_text(encoding="utf-8"))

    assert config.keys() == {"datasets"}
    [table] = config["datasets"]
    [subset] = table.pop("subsets")
    assert table == {
        "resolution": 768,
        "batch_size": 2,
        "enable_bucket": True,
        "min_bucket_reso": 256,
        "max_bucket_reso": 1024,
        "bucket_reso_steps": 64,
        "bucket_no_upscale": False,
        "validation_split": 0.25,
        "validation_seed": 9,
    }
    assert isinstance(table["validation_split"], float)
    assert subset == {
        "image_dir": (tmp_path / "monets" / "train" / dataset.revision).as_posix(),
        "num_repeats": 3,
        "caption_extension": ".txt",
    }


def test_no_held_out_share_is_not_written(tmp_path):
    # sd-scripts refuses validation_split = 0
    text = Path(write_dataset_toml(captioned(tmp_path, "a landscape"), TomlSettings()).path).read_text()
    assert "validation" not in text


def test_pictures_and_captions_lie_side_by_side(tmp_path):
    captions = ['mntgrdn, a "quoted" landscape', "two\nlines\u2028three", "übergroß 山水"]
    dataset = captioned(tmp_path, *captions)
    write_dataset_toml(dataset, TomlSettings())
    train = tmp_path / "train" / dataset.revision
    assert len(list(train.iterdir())) == 6
    for record, caption in zip(dataset.records(), captions, strict=True):
        stem = train / record.sha256[:16]
        assert stem.with_suffix(".jpg").read_bytes() == dataset.image_path(record).read_bytes()
        assert stem.with_suffix(".txt").read_bytes().decode("utf-8") == " ".join(caption.split()) + "\n"


def test_a_folder_with_awkward_characters_survives_the_round_trip(tmp_path):
    dataset = captioned(tmp_path / 'l\'été "1872" #1', "a landscape")
    config = tomllib.loads(Path(write_dataset_toml(dataset, TomlSettings()).path).read_text(encoding="utf-8"))
    assert Path(config["datasets"][0]["subsets"][0]["image_dir"]).is_dir()


def test_writing_again_changes_no_file(tmp_path):
    dataset = captioned(tmp_path, "a landscape", "a portrait")
    config = write_dataset_toml(dataset, TomlSettings())
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert write_dataset_toml(dataset, TomlSettings()) == config
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_other_settings_are_another_file_over_the_same_pictures(tmp_path):
    dataset = captioned(tmp_path, "a landscape")
    small, large = (write_dataset_toml(dataset, TomlSettings(resolution=size)) for size in (512, 768))
    assert small.path != large.path and small.hash != large.hash
    assert "resolution = 512" in Path(small.path).read_text()
    assert [path.name for path in (tmp_path / "train").iterdir()] == [dataset.revision]


def test_the_hash_does_not_depend_on_where_the_dataset_lies(tmp_path):
    here, there = (write_dataset_toml(captioned(tmp_path / place, "a"), TomlSettings()) for place in ("x", "y"))
    assert here.hash == there.hash


def test_a_training_file_that_was_removed_comes_back(tmp_path):
    dataset = captioned(tmp_path, "a landscape", "a portrait")
    write_dataset_toml(dataset, TomlSettings())
    train = tmp_path / "train" / dataset.revision
    whole = sorted(path.name for path in train.iterdir())
    (train / whole[0]).unlink()
    write_dataset_toml(dataset, TomlSettings())
    assert sorted(path.name for path in train.iterdir()) == whole


def test_pictures_are_copied_where_links_are_not_possible(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    dataset = captioned(tmp_path, "a landscape")
    write_dataset_toml(dataset, TomlSettings())
    [copy] = (tmp_path / "train" / dataset.revision).glob("*.jpg")
    assert copy.read_bytes() == dataset.image_path(dataset.records()[0]).read_bytes()


def test_an_interrupted_write_leaves_nothing_half_written(tmp_path):
    class Cancelled(BaseException):
        pass

    def cancel(*_, **__):
        raise Cancelled

    dataset = captioned(tmp_path, "a landscape", "a portrait")
    with pytest.raises(Cancelled):
        write_dataset_toml(dataset, TomlSettings(), cancel)
    assert list((tmp_path / "train").iterdir()) == []
    write_dataset_toml(dataset, TomlSettings())
    assert len(list((tmp_path / "train" / dataset.revision).iterdir())) == 4


def test_pictures_without_captions_are_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"2 of the 3 pictures .* Run a captioner first"):
        write_dataset_toml(captioned(tmp_path, "a landscape", "", " \n"), TomlSettings())


def test_a_missing_picture_is_named(tmp_path):
    dataset = captioned(tmp_path, "a landscape")
    image = dataset.image_path(dataset.records()[0])
    image.unlink()
    with pytest.raises(DatasetError, match=image.name):
        write_dataset_toml(dataset, TomlSettings())


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"bucket_reso_steps": 48}, "bucket_reso_steps is 48.*multiple of 32"),
        ({"min_bucket_reso": 300}, "min_bucket_reso is 300.*use 320"),
        ({"max_bucket_reso": 1000}, "max_bucket_reso is 1000.*use 1024"),
        ({"resolution": 128}, "resolution 128 is under min_bucket_reso 256.*Lower min_bucket_reso to 128"),
        ({"resolution": 1536}, "resolution 1536 is over max_bucket_reso 1024.*Raise max_bucket_reso to 1536"),
        ({"resolution": 500, "enable_bucket": False}, "resolution is 500.*use 496"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"num_repeats": -1}, "num_repeats is -1"),
        ({"validation_split": 1.0}, "validation_split is 1.0"),
        ({"validation_split": float("nan")}, "validation_split is nan"),
    ],
)
def test_what_sd_scripts_would_refuse_is_refused_here_with_the_remedy(settings, text):
    with pytest.raises(SettingsError, match=text):
        TomlSettings(**settings)
