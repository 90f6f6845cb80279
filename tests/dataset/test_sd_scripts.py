"""What sd-scripts itself reads from the dataset TOMLs that are written here, and that our own reader reads the same.

sd-scripts is on no package index, so its readings were recorded once, by `record_sd_scripts.py`: `sd_scripts.json` has
them for kohya-ss/sd-scripts 48d368f (February 2026) and for the older copy in kijai/ComfyUI-FluxTrainer 639b3e8.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from impasto.dataset import config_reader as dataset_config
from impasto.dataset.buckets import assign, bucket_sizes, upright_size
from impasto.dataset.config_writer import TomlSettings, write_dataset_toml
from impasto.dataset.pictures import store_picture
from impasto.dataset.records import Dataset, Record, write_manifest
from impasto.dataset.schema_key import FLUX_TRAINER, SD_SCRIPTS
from PIL import Image

RECORDED = json.loads(Path(__file__).with_name("sd_scripts.json").read_text(encoding="utf-8"))
SIZES = [
    *((512, 512), (800, 600), (600, 800), (3000, 2000), (2000, 1000), (500, 250), (1024, 256), (256, 1024)),
    *((2400, 300), (640, 384), (513, 511), (300, 200), (1499, 1500), (320, 704), (100, 100), (5000, 260)),
    *((1209, 558), (777, 1333), (1001, 999), (388, 1388), (2048, 1536), (450, 636), (1280, 720), (65, 1300)),
]
CAPTIONS = (
    'mntgrdn, a "quoted" landscape',
    "two\nlines",
    "übergroß 山水 \u2028 x",
    "{a|b} in braces",
    "one, two, three",
    "back\\slash 'single' # hash = [x]",
    "  blanks around  ",
    "\ufeffbyte order mark",
    "a\x85b\x0bc\x0cd\x1ce",
    "emoji 🎨",
)
CASES = {
    "as it comes": {},
    "1024": {"resolution": 1024, "batch_size": 4, "num_repeats": 3},
    "steps of 32": {"resolution": 768, "bucket_reso_steps": 32},
    "other limits": {"resolution": 1024, "min_bucket_reso": 320, "max_bucket_reso": 1536},
    "never enlarged": {"bucket_no_upscale": True},
    "never enlarged, steps of 32": {"resolution": 1024, "bucket_no_upscale": True, "bucket_reso_steps": 32},
    "no buckets": {"enable_bucket": False},
    "not square": {"resolution": 768, "resolution_height": 512},
    "no round size": {"resolution": 592},
    "words around": {"caption_prefix": "mntgrdn, by", "caption_suffix": "\"end\" \\ 'q'"},
    "held out": {"validation_split": 0.2, "validation_seed": 3},
}
# Among them what our own trainer refuses: another interpolation, token warm-up.
ONLY_THEIRS = {
    "another interpolation": {"resize_interpolation": "area"},
    "nothing cached": {
        **{"cached_text": False, "cached_latents": False, "shuffle_caption": True, "keep_tokens": 1},
        **{"caption_dropout_rate": 0.1, "caption_tag_dropout_rate": 0.1, "caption_dropout_every_n_epochs": 3},
        **{"token_warmup_step": 10.0, "secondary_separator": ";;", "keep_tokens_separator": "|||"},
        **{"enable_wildcard": True, "flip_aug": True, "random_crop": True},
    },
}
NOT_FOR_FLUX_TRAINER = {"held out", "another interpolation"}  # refused by `TomlSettings`


def paintings(folder: Path) -> Dataset:
    """One picture of each size: JPEG, PNG and WebP in turn, some turned by their Exif data, one each grey of 16 bits,
    CMYK and transparent."""
    records = []
    for number, size in enumerate(SIZES):
        mode = {12: "CMYK", 13: "I;16", 16: "RGBA"}.get(number, "RGB")
        picture, exif = Image.new(mode, size, number), Image.Exif()
        exif[0x0112] = 6 if number % 5 == 3 else 1
        buffer = io.BytesIO()
        picture.save(buffer, ("JPEG", "PNG", "WEBP")[number % 3], exif=exif)
        stored = store_picture(folder, buffer.getvalue())
        caption = f"{CAPTIONS[number % len(CAPTIONS)]} {number}"
        records.append(Record(stored.file_name, stored.sha256, stored.width, stored.height, stored.size, caption))
    return write_manifest(folder, records)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    return paintings(tmp_path_factory.mktemp("a_long path_with_under_scores") / "paintings")


def our_reading(dataset: Dataset, path: str) -> dict[str, object]:
    group = dataset_config.read(path)
    pictures = {picture.path.stem: picture for picture in dataset_config.pictures(group)}
    in_order = [pictures[record.sha256[:16]] for record in dataset.records()]
    buckets = group.datasets[0].buckets
    return {
        "table": [] if buckets.bucket_no_upscale else sorted(map(list, bucket_sizes(buckets))),
        "buckets": [list(assign(*upright_size(picture.path), buckets)) for picture in in_order],
        "captions": [picture.caption for picture in in_order],
        "repeats": [picture.repeats for picture in in_order],
        "batch_size": group.datasets[0].batch_size,
        "cacheable": [True, True],
    }


@pytest.mark.parametrize(
    ("target", "case"),
    [
        *((SD_SCRIPTS, case) for case in CASES),
        *((FLUX_TRAINER, case) for case in sorted(CASES.keys() - NOT_FOR_FLUX_TRAINER)),
    ],
)
def test_sd_scripts_reads_the_same_pictures_captions_repeats_and_buckets(dataset, target, case):
    config = write_dataset_toml(dataset, TomlSettings(target=target, **CASES[case]))
    assert our_reading(dataset, config.path) == RECORDED[target][case]


@pytest.mark.parametrize("case", ONLY_THEIRS)
def test_sd_scripts_reads_what_only_it_can_do(case):
    theirs, plain = RECORDED[SD_SCRIPTS][case], RECORDED[SD_SCRIPTS]["as it comes"]
    assert theirs["buckets"] == plain["buckets"] and theirs["table"] == plain["table"]
    assert theirs["cacheable"] == [case != "nothing cached"] * 2
