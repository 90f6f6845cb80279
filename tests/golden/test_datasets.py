"""Manifests, dataset TOMLs and exports: another revision or hash makes the nodes after it run, and encode, anew."""

from __future__ import annotations

import hashlib
import shutil

import pytest
from PIL import Image

from . import current
from .conftest import PICTURES, without_places

LABELS = {
    "0.png": {"text": "a harbour at dawn", "artist": "Claude Monet", "genre": "marina", "style": "Impressionism"},
    "1.png": {"text": "été, un étang 😀\u2028with a bridge", "title": "L'étang", "date": "1899", "rights": "CC0"},
    "2.png": {"text": "  two   boats\n", "genre": "landscape"},
    "photograph.jpg": {"text": "a photograph"},
    "transparent.png": {"text": "a cut-out figure"},
}
ORDINARY = {"3.png": {"text": "a painting"}, "4.png": {"text": "another painting"}}
REFUSALS = [
    {"source": "wikiart/0#3", "rule": "min_side", "reason": "300 is under 512.", "measured": 300.0, "limit": 512.0},
    {"source": "wikiart/0#4", "rule": "truncated", "reason": "The file ends early.", "file_name": "images/4.png"},
]
OPTIONS = {
    "defaults": {},
    "trigger and mirrored": {"caption_prefix": "mntgrdn style", "flip_aug": True, "num_repeats": 10},
    "portrait without buckets": {"enable_bucket": False, "resolution": 512, "resolution_height": 768},
    "held out": {"validation_split": 0.1, "validation_seed": 7, "resize_interpolation": "area"},
    "FluxTrainer": {"target": "FluxTrainer", "batch_size": 4, "resolution": 768},
    "buckets": {"min_bucket_reso": 384, "max_bucket_reso": 1536, "bucket_reso_steps": 32, "bucket_no_upscale": True},
    "captions changing": {
        "cached_text": False,
        "shuffle_caption": True,
        "keep_tokens": 1,
        "keep_tokens_separator": "|||",
        "secondary_separator": ";",
        "caption_separator": " |",
        "caption_suffix": "oil on canvas",
        "enable_wildcard": True,
        "caption_dropout_rate": 0.05,
        "caption_dropout_every_n_epochs": 3,
        "caption_tag_dropout_rate": 0.1,
    },
    "pictures changing": {"cached_latents": False, "color_aug": True, "random_crop": True, "flip_aug": True},
    "more keys": {
        "more_keys": 'class_tokens = "a painting"\nalpha_mask = true\nnetwork_multiplier = 0.5\n'
        "custom_attributes = {hung = true, rooms = [1, 2]}"
    },
    "regularisation": {"regularisation_repeats": 2, "flip_aug": True, "caption_prefix": "mntgrdn style"},
}


def record(name: str) -> dict:
    content = (PICTURES / name).read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    with Image.open(PICTURES / name) as picture:
        width, height = picture.size
    suffix = name.partition(".")[2]
    file = {"file_name": f"images/{sha256}.{suffix}", "sha256": sha256, "width": width, "height": height}
    return file | {"size": len(content), "source": f"folder/{name}"} | (LABELS | ORDINARY)[name]


def make_dataset(root, name="golden", pictures=LABELS, refusals=()):
    records = [record(picture) for picture in pictures]
    (root / name / "images").mkdir(parents=True)
    for picture, each in zip(pictures, records, strict=True):
        shutil.copyfile(PICTURES / picture, root / name / each["file_name"])
    return current.write_dataset(root / name, records, refusals)


def lines(path, **places) -> list[str]:
    return without_places(path.read_text(encoding="utf-8"), **places).splitlines()


def test_revisions_and_manifests(golden, tmp_path):
    cases = {
        "all labels": make_dataset(tmp_path, "all labels"),
        "one picture": make_dataset(tmp_path, "one picture", ["0.png"]),
        "another order": make_dataset(tmp_path, "another order", list(reversed(LABELS))),
        "with refusals": make_dataset(tmp_path, "with refusals", ["0.png", "1.png"], REFUSALS),
    }
    first = cases["one picture"]
    sha256 = first.records()[0].sha256
    cases["captioned anew"] = first.with_texts({sha256: "mntgrdn, a harbour — at dawn"})
    golden(
        "manifests",
        {
            case: {
                "revision": dataset.revision,
                "manifest": lines(dataset.manifest),
                "refusals": len(dataset.refusals()),
            }
            for case, dataset in cases.items()
        },
    )
    refused = tmp_path / "with refusals" / "rejected" / f"{cases['with refusals'].revision}.jsonl"
    golden("refusals", {"lines": lines(refused)})


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path)


@pytest.mark.parametrize("case", OPTIONS)
def test_dataset_toml(golden, tmp_path, dataset, case):
    other = make_dataset(tmp_path, "ordinary", ORDINARY) if case == "regularisation" else None
    path, identity = current.write_toml(dataset, OPTIONS[case], other)
    written = {"file": path.name, "hash": identity, "lines": lines(path, datasets=tmp_path)}
    golden(f"dataset_toml/{case.replace(' ', '-')}", written)


def test_training_files(golden, tmp_path, dataset):
    written = {}
    for case in ("defaults", "more keys"):
        current.write_toml(dataset, OPTIONS[case])
    for file in sorted((tmp_path / "golden" / "train").rglob("*")):
        if file.is_file():
            name = file.relative_to(tmp_path).as_posix()
            written[name] = file.read_text(encoding="utf-8") if file.suffix == ".txt" else file.stat().st_size > 0
    golden("training_files", written)


@pytest.mark.parametrize("format", current.export_formats())
def test_exports(golden, tmp_path, dataset, format):
    folder, config, note = current.export(dataset, format, {"resolution": 768, "num_repeats": 3, "license": "cc0-1.0"})
    golden(
        f"exports/{format.lower().replace(' ', '-')}",
        {
            "folder": folder.relative_to(tmp_path).as_posix(),
            "config": config.relative_to(folder).as_posix(),
            "files": sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()),
            "note": without_places(note, datasets=tmp_path),
            "config lines": lines(config, datasets=tmp_path),
            "card": lines(folder / "README.md", datasets=tmp_path),
        },
    )
