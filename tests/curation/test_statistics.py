from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
from impasto.curation.statistics import draw, sheet, statistics
from impasto.dataset.records import Dataset, Record, write_manifest
from impasto.drawing.palette import DARK
from PIL import ImageColor

from ..small_sources import picture_bytes
from .test_quality import dataset_of


def bucket(width: int, height: int) -> tuple[int, int]:
    return (512, 512) if width == height else (576, 448) if width > height else (448, 576)


def words(text: str) -> tuple[int, int]:
    return len(text.split()) + 2, len(text.split()) + 1


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    pictures = [picture_bytes(seed, *size) for seed, size in enumerate([(64, 64), (96, 64), (64, 96), (96, 64)])]
    torn = picture_bytes(9, 128, 64)[:-3000]
    records = dataset_of(tmp_path / "gardens", *pictures, torn).records()
    known = [
        {"artist": "Claude Monet", "genre": "landscape", "style": "Impressionism", "text": "a barn " * 50},
        {"artist": "Claude Monet", "genre": "landscape", "style": "Impressionism", "text": "a $10 boat at $20"},
        {"artist": "Berthe Morisot", "genre": "portrait", "style": "Impressionism", "text": "a girl"},
        {},
        {},
    ]
    return write_manifest(tmp_path / "gardens", [replace(r, **words) for r, words in zip(records, known, strict=True)])


def test_everything_is_counted(dataset):
    found = statistics(dataset, 512, bucket, words).as_json()
    assert json.loads(json.dumps(found)) == found
    assert found["pictures"] == 5 and found["captions"] == 3 and found["undecodable"] == 1
    assert found["genres"] == {"landscape": 2, "unknown": 2, "portrait": 1}
    assert found["artists"] == {"Claude Monet": 2, "unknown": 2, "Berthe Morisot": 1}
    assert found["buckets"] == {"448x576": 1, "512x512": 1, "576x448": 3}
    assert found["shorter_side"] == {"least": 64, "median": 64, "mean": 64, "greatest": 64}
    assert found["tokens"]["clip"] == {"least": 4, "median": 7, "mean": 37.667, "greatest": 102, "over_limit": 1}
    assert found["tokens"]["t5"]["over_limit"] == 0
    assert found["colourfulness"]["least"] > 40  # noise


def test_the_figure_and_the_sheet_are_drawn_with_and_without_captions_labels_and_pictures(dataset, tmp_path):
    full = draw(statistics(dataset, 512, bucket, words))
    assert full.size == (1760, 1240)
    assert len(numpy.unique(numpy.asarray(full).reshape(-1, 3), axis=0)) > 50
    for drawn in (draw(statistics(dataset, 512, bucket, words), DARK), sheet(dataset, DARK)):
        assert drawn.getpixel((2, 2)) == ImageColor.getrgb(DARK.paper)
    bare = write_manifest(tmp_path / "bare", [Record("images/a.jpg", "a", 640, 480, 1000)])
    found = statistics(bare, 512, bucket, words)
    assert found.undecodable == 1 and found.as_json()["colourfulness"] == {}
    assert draw(found).size == full.size
    assert sheet(dataset).height > 300 and sheet(bare).height > 200
