"""Datasets of small real JPEGs, and captioners against a server on loopback."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from impasto.dataset.records import Dataset, Record, write_manifest
from PIL import Image


def write_pictures(folder: Path, count: int) -> Dataset:
    """A dataset of `count` different small JPEGs in `folder`."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    records = []
    for number in range(count):
        buffer = io.BytesIO()
        color = (number % 256, number // 256 * 40 % 256, number * 7 % 256)
        image = Image.new("RGB", (24, 16), color)
        image.putpixel((number % 24, number // 24 % 16), (255, 255, 255))
        image.save(buffer, "JPEG", quality=95, comment=str(number))
        data = buffer.getvalue()
        sha256 = hashlib.sha256(data).hexdigest()
        (folder / "images" / f"{sha256}.jpg").write_bytes(data)
        records.append(Record(f"images/{sha256}.jpg", sha256, 24, 16, len(data)))
    return write_manifest(folder, records)


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[[int], Dataset]:
    return lambda count: write_pictures(tmp_path / "paintings", count)
