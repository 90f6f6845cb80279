from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path

import numpy
import pytest
from impasto.dataset import config_reader as dataset_config
from impasto.dataset.config_editor import Changes, rewrite_dataset_toml
from impasto.dataset.config_writer import (
    TomlSettings,
    write_dataset_toml,
    write_training_files,
)
from impasto.dataset.picture_variants import PictureRules
from impasto.dataset.pictures import store_picture
from impasto.dataset.records import Dataset, Record, write_manifest
from impasto.dataset.schema_key import FLUX_TRAINER, TARGETS
from impasto.errors import DatasetError, SettingsError
from impasto.progress import silent
from impasto.trainers.features import plan as planning
from PIL import Image, ImageCms

from ..small_sources import picture_bytes

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


LIVE = {"cached_text": False, "cached_latents": False}


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
        ({"caption_dropout_rate": 0.1}, "caption_dropout_rate is 0.1, but cached_text"),
        ({"caption_dropout_every_n_epochs": 2}, "caption_dropout_every_n_epochs is 2, but cached_text"),
        ({"caption_tag_dropout_rate": 0.1}, "caption_tag_dropout_rate is 0.1, but cached_text"),
        ({"caption_prefix": "a\ud800"}, "caption_prefix has half a character"),
        ({"shuffle_caption": True}, "shuffle_caption is True, but cached_text"),
        ({"token_warmup_step": 10.0}, "token_warmup_step is 10.0, but cached_text"),
        ({"enable_wildcard": True}, "enable_wildcard is True, but cached_text.*switch cached_text off"),
        ({"color_aug": True}, "color_aug is True, but cached_latents"),
        ({"random_crop": True, "cached_text": False}, "random_crop is True, but cached_latents"),
        ({"enable_bucket": False, "cached_latents": False}, "exactly 512 x 512. Switch enable_bucket on"),
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
def test_what_a_trainer_would_refuse_is_refused_here_with_the_remedy(settings, text):
    with pytest.raises(SettingsError, match=text):
        TomlSettings(**settings)


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

    refused = {"resize_interpolation", "token_warmup_step"}
    for name in EVERYTHING.keys() - LIVE.keys():
        config = write_dataset_toml(dataset, TomlSettings(**LIVE, **{name: EVERYTHING[name]}))
        with pytest.raises(DatasetError, match=name) if name in refused else contextlib.nullcontext():
            dataset_config.read(config.path)


def test_variants_of_pictures_are_written_as_they_are_read(tmp_path):
    own = "custom_attributes = {impasto = {picture_variants = 6, random_scale = 1.25}}"
    settings = TomlSettings(**LIVE, random_crop=True, color_aug=True, more_keys=own)
    config = write_dataset_toml(captioned(tmp_path, "a"), settings)
    [subset] = dataset_config.read(config.path).datasets[0].subsets
    assert subset.pictures == PictureRules(random_crop=True, color_aug=True, picture_variants=6, random_scale=1.25)


def test_the_older_sd_scripts_of_flux_trainer_gets_only_what_it_knows(tmp_path):
    settings = TomlSettings(target="FluxTrainer", flip_aug=True)
    config = write_dataset_toml(captioned(tmp_path, "a"), settings)
    [table] = tomllib.loads(Path(config.path).read_text(encoding="utf-8"))["datasets"]
    assert table["resolution"] == [512, 512]  # the only form that FluxTrainer reads
    assert not {"validation_split", "validation_seed", "resize_interpolation"} & table.keys()


def test_mirrored_pictures_can_be_cached():
    TomlSettings(flip_aug=True)


@pytest.mark.parametrize("on", ["enable_bucket", "cached_latents", "random_crop"])
def test_pictures_of_other_sizes_are_fine_where_something_brings_them_to_the_training_size(on):
    TomlSettings(**{"enable_bucket": False, "cached_latents": False, on: True})


def subsets(path: str | Path) -> list[dict]:
    [table] = tomllib.loads(Path(path).read_text(encoding="utf-8"))["datasets"]
    return table["subsets"]


def test_regularisation_pictures_are_a_subset_of_their_own_that_our_trainer_balances(tmp_path):
    paintings = captioned(tmp_path / "monets", "mntgrdn, a", "mntgrdn, b", "mntgrdn, c", "mntgrdn, d")
    photographs = captioned(tmp_path / "photographs", "a photograph")
    assert photographs.records()[0].sha256 == paintings.records()[0].sha256  # the same picture may be in both
    settings = TomlSettings(num_repeats=3, regularisation_repeats=2, caption_prefix="mntgrdn", flip_aug=True)
    config = write_dataset_toml(paintings, settings, regularisation=photographs)

    assert Path(config.path).name.startswith(f"{paintings.revision}-{photographs.revision}-")
    assert subsets(config.path)[1] == {
        "image_dir": (tmp_path / "photographs" / "train" / photographs.revision).as_posix(),
        "num_repeats": 2,
        "caption_extension": ".txt",
        "is_reg": True,
        "flip_aug": True,  # sd-scripts asserts that it is the same in a batch
    }
    group = dataset_config.read(config.path)
    assert [subset.is_reg for subset in group.datasets[0].subsets] == [False, True]
    planned = planning.plan(dataset_config.pictures(group), 1, silent)
    regular = [sample.repeats for sample in planned if ("is_reg", True) in sample.options]
    assert regular == [12] and sum(sample.repeats for sample in planned) == 4 * 3 + 12


def test_what_is_written_depends_on_the_revision_of_both_datasets(tmp_path):
    paintings = captioned(tmp_path / "monets", "a")
    alone = write_dataset_toml(paintings, TomlSettings())
    configs = [alone]
    for caption in ("a photograph", "another"):
        regular = captioned(tmp_path / "photographs", caption)
        configs.append(write_dataset_toml(paintings, TomlSettings(), regularisation=regular))
    assert len({config.path for config in configs}) == len({config.hash for config in configs}) == 3
    assert write_dataset_toml(paintings, TomlSettings()) == alone


def test_regularisation_needs_other_pictures_with_captions(tmp_path):
    paintings = captioned(tmp_path / "monets", "a")
    with pytest.raises(DatasetError, match="'monets' is connected as regularisation too"):
        write_dataset_toml(paintings, TomlSettings(), regularisation=paintings)
    with pytest.raises(DatasetError, match="dataset 'bare' have no caption"):
        write_dataset_toml(paintings, TomlSettings(), regularisation=captioned(tmp_path / "bare", ""))


MORE = """class_tokens = "a painting, 'oil'" # for those without a caption
cache_info = true
alpha_mask = true
network_multiplier = 0.5
[custom_attributes]
"a b" = [1, 2]
deep.er = {x = "y, 山"}
"""


@pytest.mark.parametrize("target", TARGETS)
def test_more_keys_are_written_in_the_scope_of_the_schema(tmp_path, target):
    dataset = captioned(tmp_path, "a")
    config = write_dataset_toml(dataset, TomlSettings(target=target, more_keys=MORE))
    [table] = tomllib.loads(Path(config.path).read_text(encoding="utf-8"))["datasets"]
    [subset] = table.pop("subsets")
    assert table["network_multiplier"] == 0.5
    assert {name: subset[name] for name in ("class_tokens", "cache_info", "alpha_mask", "custom_attributes")} == {
        "class_tokens": "a painting, 'oil'",
        "cache_info": True,
        "alpha_mask": True,
        "custom_attributes": {"a b": [1, 2], "deep": {"er": {"x": "y, 山"}}},
    }
    assert "network_multiplier" not in subset
    assert config.hash != write_dataset_toml(dataset, TomlSettings(target=target)).hash


def test_our_trainer_reads_more_keys_and_a_rewritten_copy_keeps_them_and_the_comments(tmp_path):
    dataset, regular = captioned(tmp_path / "a", "a", ""), captioned(tmp_path / "b", "a photograph")
    settings = TomlSettings(more_keys=MORE.replace("network_multiplier = 0.5\n", ""))
    config = write_dataset_toml(dataset, settings, regularisation=regular)
    group = dataset_config.read(config.path)
    captions = [picture.caption for picture in dataset_config.pictures(group)]
    assert sorted(captions) == ["a", "a painting, 'oil'", "a photograph"]
    assert [subset.alpha_mask for subset in group.datasets[0].subsets] == [True, True]

    copy = rewrite_dataset_toml(Path(config.path), Changes(batch_size=2, target=FLUX_TRAINER))
    assert subsets(copy.path) == subsets(config.path)
    heads = [Path(one.path).read_text(encoding="utf-8").partition("[[")[0] for one in (config, copy)]
    assert heads[0] == heads[1] and heads[0].startswith("# Dataset a, revision")
    assert dataset_config.read(copy.path).datasets[0].batch_size == 2


def test_transparency_is_kept_where_it_is_to_mask_the_loss(tmp_path):
    half, webp, red = io.BytesIO(), io.BytesIO(), Image.new("RGBA", (64, 64), (255, 0, 0, 255))
    red.paste((0, 0, 255, 0), (0, 0, 32, 64))
    red.save(half, "PNG")
    red.save(webp, "WEBP", lossless=True)
    stored = [store_picture(tmp_path, data) for data in (half.getvalue(), webp.getvalue(), picture_bytes(1))]
    records = [Record(p.file_name, p.sha256, p.width, p.height, p.size, "a") for p in stored]
    dataset = write_manifest(tmp_path, records)
    plain, masked = (
        Path(subsets(write_dataset_toml(dataset, TomlSettings(more_keys=keys)).path)[0]["image_dir"])
        for keys in ("", "alpha_mask = true")
    )
    for stem in (record.sha256[:16] for record in records[:2]):
        assert Image.open(next(plain.glob(f"{stem}.[jp]*"))).mode == "RGB"
        assert Image.open(masked / f"{stem}.png").getchannel("A").getextrema() == (0, 255)
    assert (masked / f"{records[0].sha256[:16]}.png").samefile(dataset.image_path(records[0]))
    assert len(list(masked.glob("*.jpg"))) == 1


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ("brushes = 3", "brushes = 3 .* no key that sd-scripts knows here. Use: network_multiplier, class_tokens"),
        ("prior_loss_weight = 0.5", "no key that sd-scripts knows here"),
        ("num_repeats = 3", "num_repeats = 3 in more_keys has an input of its own. Set num_repeats there"),
        ('caption_extension = ".caption"', "always .txt"),
        ('image_dir = "/etc"', "image_dir = '/etc' .*Paths are not taken from a graph"),
        ('metadata_file = "a.json"', "Paths are not taken.*Dataset TOML Loader"),
        ('conditioning_data_dir = "masks"', "Paths are not taken.*alpha_mask"),
        ("is_reg = true", "Connect those pictures as regularisation"),
        ("[general]\ncache_info = true", "general = .*without a table"),
        ('[[datasets.subsets]]\nclass_tokens = "a"', "datasets = .*without a table"),
        ("face_crop_aug_range = [1.0, 2.0]", "file name"),
        ("skip_image_resolution = 512", "Quality Filter"),
        ("cache_info = 1", "cache_info = 1 .*true or false"),
        ("class_tokens = 3", "text in quotes"),
        ('class_tokens = ""', "not one line of words"),
        ('class_tokens = "a\\nb"', "not one line of words"),
        ("network_multiplier = 1", "a number with a point"),
        ("network_multiplier = nan", "a number with a point"),
        ("custom_attributes = {when = 1979-05-27}", "of a type that sd-scripts would refuse"),
        ('custom_attributes = {a = [1, "b"]}', "of a type that sd-scripts would refuse"),
        ("class_tokens = a painting", "not TOML .*Write one key in a line"),
        ("cache_info = true\ncache_info = true", "not TOML"),
        ('class_tokens = "\ud800"', "not TOML"),
        (f"custom_attributes = {'[' * 5000}", "not TOML"),
    ],
)
def test_more_keys_that_sd_scripts_would_refuse_or_that_are_not_for_a_graph_are_refused(keys, text):
    with pytest.raises(SettingsError, match=text):
        TomlSettings(more_keys=keys)


def test_pictures_held_out_forbid_cached_captions():
    with pytest.raises(SettingsError, match="captions of others. Remove cache_info, or set validation_split to 0"):
        TomlSettings(more_keys="cache_info = true", validation_split=0.1)
