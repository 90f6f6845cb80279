from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
from impasto.curation.records import Dataset, Record, write_manifest
from impasto.curation.statistics import draw, sheet, statistics

from .conftest import picture_bytes
from .test_quality import dataset_of


def bucket(width: int, height: int) -> tuple[int, int]:
    return (512, 512) if width == height else (576, 448) if width > height else (448, 576)


def words(text: str) -> dict[str, int]:
    return {"clip": len(text.split()) + 2, "t5": len(text.split()) + 1}


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
    bare = write_manifest(tmp_path / "bare", [Record("images/a.jpg", "a", 640, 480, 1000)])
    found = statistics(bare, 512, bucket, words)
    assert found.undecodable == 1 and found.as_json()["colourfulness"] == {}
    assert draw(found).size == full.size
    assert sheet(dataset).height > 300 and sheet(bare).height > 200


MANY = """
import random, sys
sys.path.insert(0, {tests!r})
import conftest
from pathlib import Path
from impasto.curation.quality import Thresholds, judge_record
from impasto.curation.records import Record, write_manifest
from impasto.curation.statistics import draw, statistics
from impasto.hardware.memory import peak_host_memory
chance = random.Random(1)
genres = ("landscape", "portrait", "cityscape", "still_life", "")
records = [
    Record(f"images/{{n:064x}}.jpg", f"{{n:064x}}", chance.randint(400, 2000), chance.randint(400, 2000),
           chance.randint(20_000, 900_000), f"a picture of {{n}}", f"Painter {{n % 129}}", chance.choice(genres),
           source=f"museum/a.parquet#{{n}}")
    for n in range({count})
]
dataset = write_manifest(Path({folder!r}), records)
passing = [record for record in dataset.records() if not any(v.reason for v in judge_record(record, Thresholds()))]
found = statistics(dataset, 512, lambda w, h: (w // 64, h // 64), lambda text: {{"clip": len(text), "t5": len(text)}})
print(len(passing), found.pictures, draw(found).size, peak_host_memory())
"""


def test_very_many_records_take_little_memory(tmp_path):
    """No pictures lie behind them: the records themselves are what is measured here."""
    count = 100_000 if os.environ.get("IMPASTO_LONG") else 20_000
    code = MANY.format(tests=str(Path(__file__).resolve().parents[1]), folder=str(tmp_path), count=count)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]
    passing, pictures, _, _, peak = run.stdout.split()
    assert count * 0.3 < int(passing) < count * 0.9 and int(pictures) == count
    assert int(peak) < 2e9 * count / 100_000 + 300e6
