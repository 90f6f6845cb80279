from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path

import numpy
import pytest
from impasto.curation.pictures import store_picture
from impasto.curation.records import Dataset, Record, write_manifest
from impasto.curation.toml import TomlSettings, write_dataset_toml, write_training_files
from impasto.errors import DatasetError, SettingsError
from impasto.trainers import dataset_config
from PIL import Image, ImageCms

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
    dataset = captioned(tmp_path, *captions[:2], f"\ufeff{captions[2]}\ud800")
    write_dataset_toml(dataset, TomlSettings())
    train = tmp_path / "train" / dataset.revision
    assert len(list(train.iterdir())) == 6
    for record, caption in zip(dataset.records(), captions, strict=True):
        stem = train / record.sha256[:16]
        assert stem.with_suffix(".jpg").read_bytes() == dataset.image_path(record).read_bytes()
        assert stem.with_suffix(".txt").read_bytes().decode("utf-8") == " ".join(caption.split()) + "\n"


def test_pictures_that_trainers_would_read_differently_are_written_anew_and_the_rest_is_linked(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by a quarter to the right
    deep = io.BytesIO()
    Image.fromarray(numpy.full((40, 60), 0x8000, numpy.uint16)).save(deep, "PNG")
    glass = io.BytesIO()
    Image.new("RGBA", (50, 50), (255, 0, 0, 0)).save(glass, "PNG")
    files = {
        "plain": picture_bytes(1),
        "srgb": picture_bytes(4, icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()),
        "turned": picture_bytes(2, exif=turned),
        "deep": deep.getvalue(),
        "glass": glass.getvalue(),
        "webp": picture_bytes(3, format="WEBP"),
    }
    stored = {name: store_picture(tmp_path, data) for name, data in files.items()}
    records = [Record(p.file_name, p.sha256, p.width, p.height, p.size, name) for name, p in stored.items()]
    dataset = write_manifest(tmp_path, records)
    train = write_training_files(dataset)

    written = {(train / path.stem).with_suffix(".txt").read_text().strip(): path for path in train.glob("*[!t]")}
    assert all(written[name].samefile(dataset.image_path(records[n])) for n, name in enumerate(["plain", "srgb"]))
    assert {name: path.suffix for name, path in written.items()} == {
        "plain": ".jpg",
        "srgb": ".jpg",
        "turned": ".jpg",
        "deep": ".png",
        "glass": ".png",
        "webp": ".jpg",
    }
    assert Image.open(written["turned"]).size == (64, 96)
    assert Image.open(written["deep"]).convert("RGB").getpixel((5, 5)) == (128, 128, 128)
    assert Image.open(written["glass"]).convert("RGB").getpixel((5, 5)) == (255, 255, 255)
    before = {path: path.stat().st_mtime_ns for path in train.iterdir()}
    assert write_training_files(dataset) == train
    assert {path: path.stat().st_mtime_ns for path in train.iterdir()} == before


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


LIVE = {"cached_text": False, "cached_latents": False}
EVERYTHING = LIVE | {
    "resolution_height": 768,
    "resize_interpolation": "area",
    "caption_prefix": 'mntgrdn "山",',
    "caption_suffix": "in oil\n\\",
    "caption_separator": ";",
    "shuffle_caption": True,
    "keep_tokens": 1,
    "keep_tokens_separator": "|||",
    "secondary_separator": ";;;",
    "enable_wildcard": True,
    "caption_dropout_rate": 0.1,
    "caption_dropout_every_n_epochs": 2,
    "caption_tag_dropout_rate": 0.2,
    "token_warmup_min": 2,
    "token_warmup_step": 0.5,
    "flip_aug": True,
    "color_aug": True,
    "random_crop": True,
}


def test_every_key_of_the_schema_is_written_in_its_scope_and_type(tmp_path):
    config = write_dataset_toml(captioned(tmp_path, "a"), TomlSettings(**EVERYTHING))
    [table] = tomllib.loads(Path(config.path).read_text(encoding="utf-8"))["datasets"]
    [subset] = table.pop("subsets")

    assert table.pop("resolution") == [512, 768]
    assert table.pop("resize_interpolation") == "area"
    assert "caption_prefix" not in table
    of_subset = {name: value for name, value in EVERYTHING.items() if name in subset}
    assert of_subset.keys() == EVERYTHING.keys() - {*LIVE, "resolution_height", "resize_interpolation"}
    assert {name: subset[name] for name in of_subset} == of_subset
    assert all(type(subset[name]) is type(value) for name, value in of_subset.items())


def test_our_trainer_reads_what_it_can_do_and_names_what_it_cannot(tmp_path):
    dataset = captioned(tmp_path, 'a "quoted"\n山')
    ours = {"resolution_height": 768, "caption_prefix": 'mntgrdn "山",', "caption_suffix": "in oil", "keep_tokens": 1}
    config = write_dataset_toml(dataset, TomlSettings(**ours, resize_interpolation="lanczos", **LIVE))
    group = dataset_config.read(config.path)
    assert [picture.caption for picture in dataset_config.pictures(group)] == ['mntgrdn "山", a "quoted" 山 in oil']
    assert group.datasets[0].buckets.resolution == (512, 768)

    refused = {"color_aug", "random_crop", "resize_interpolation"}
    for name in EVERYTHING.keys() - LIVE.keys():
        config = write_dataset_toml(dataset, TomlSettings(**LIVE, **{name: EVERYTHING[name]}))
        with pytest.raises(DatasetError, match=name) if name in refused else contextlib.nullcontext():
            dataset_config.read(config.path)


def test_the_older_sd_scripts_of_flux_trainer_gets_only_what_it_knows(tmp_path):
    settings = TomlSettings(target="FluxTrainer", flip_aug=True)
    config = write_dataset_toml(captioned(tmp_path, "a"), settings)
    [table] = tomllib.loads(Path(config.path).read_text(encoding="utf-8"))["datasets"]
    assert table["resolution"] == [512, 512]  # the only form that FluxTrainer reads
    assert not {"validation_split", "validation_seed", "resize_interpolation"} & table.keys()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"caption_dropout_rate": 0.1}, "caption_dropout_rate is 0.1, but cached_text"),
        ({"caption_dropout_every_n_epochs": 2}, "caption_dropout_every_n_epochs is 2, but cached_text"),
        ({"caption_tag_dropout_rate": 0.1}, "caption_tag_dropout_rate is 0.1, but cached_text"),
        ({"caption_prefix": "a\ud800"}, "caption_prefix has half a character"),
        ({"shuffle_caption": True}, "shuffle_caption is True, but cached_text"),
        ({"token_warmup_step": 10.0}, "token_warmup_step is 10.0, but cached_text"),
        ({"enable_wildcard": True}, "enable_wildcard is True, but cached_text.*switch cached_text off"),
        ({"color_aug": True}, "color_aug is True, but cached_latents"),
        ({"random_crop": True, "cached_text": False}, "random_crop is True, but cached_latents"),
        ({"target": "FluxTrainer", "validation_split": 0.1}, "validation_split is 0.1.*FluxTrainer"),
        ({"target": "FluxTrainer", "resize_interpolation": "area"}, "resize_interpolation is area.*FluxTrainer"),
        ({"target": "musubi"}, "target is 'musubi'"),
        ({"resize_interpolation": "cubist"}, "resize_interpolation is 'cubist'"),
        ({"resolution_height": 1536}, "resolution 1536 is over max_bucket_reso"),
        ({"resolution_height": 500, "enable_bucket": False}, "resolution is 500.*use 496"),
        ({"resolution_height": -1}, "resolution_height is -1"),
        ({"caption_dropout_rate": float("nan")}, "caption_dropout_rate is nan"),
        ({"keep_tokens": -1}, "keep_tokens is -1"),
        ({"token_warmup_min": 0}, "token_warmup_min is 0"),
        ({"token_warmup_step": -1.0}, "token_warmup_step is -1.0"),
        ({"shuffle_caption": True, "caption_separator": "", **LIVE}, "caption_separator is empty"),
    ],
)
def test_combinations_that_a_trainer_would_stop_at_are_refused_with_the_reason(settings, text):
    with pytest.raises(SettingsError, match=text):
        TomlSettings(**settings)


def test_mirrored_pictures_can_be_cached():
    TomlSettings(flip_aug=True)
