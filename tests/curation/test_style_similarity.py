"""What stands out of a set in style, told by an encoder that sees nothing but a picture's mean colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy
import pytest
from impasto.curation.quality import Thresholds, filter_quality
from impasto.curation.style_similarity import PictureEncoder
from impasto.dataset.records import Dataset
from impasto.errors import DatasetError, ModelError
from PIL import Image

from .test_quality import dataset_of, encoded

LOOSE = Thresholds(min_side=0, max_aspect=100, min_bytes_per_pixel=0, min_entropy=0, duplicate_distance=-1)
NUMBER, STRANGER = 9, 4  # pictures in a set; which of them is blue among the red


class ColourEncoder:
    """Gives a picture's mean red, green and blue, and counts what it was asked for."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, pictures: Sequence[Image.Image]) -> numpy.ndarray:
        assert {picture.size for picture in pictures} == {(32, 32)}
        self.asked += len(pictures)
        return numpy.stack([numpy.asarray(picture).reshape(-1, 3).mean(axis=0) for picture in pictures])


def noisy(seed: int, colour: tuple[int, int, int]) -> bytes:
    noise = numpy.random.default_rng(seed).integers(-40, 41, (80, 120, 3))
    return encoded(Image.fromarray((numpy.array(colour) + noise).astype(numpy.uint8)))


@pytest.fixture
def dataset(tmp_path) -> Dataset:
    reds = [noisy(seed, (190, 60 + 2 * seed, 60)) for seed in range(NUMBER)]
    return dataset_of(tmp_path, *reds[:STRANGER], noisy(99, (60, 60, 190)), *reds[STRANGER + 1 :])


def test_an_outlier_is_reported_and_stays(dataset: Dataset):
    filtered = filter_quality(dataset, LOOSE, encoder=PictureEncoder("colour", 32, ColourEncoder()))
    assert filtered.dataset == dataset and not filtered.refused
    told = filtered.report.splitlines()
    [counted] = [number for number, line in enumerate(told) if line.startswith("1 kept although unlike the set")]
    assert told[counted + 1].startswith(f"museum/a.parquet#{STRANGER}: style likeness 0.") and len(told) == counted + 2
    assert len(filtered.measured["min_style"]) == NUMBER


def test_an_outlier_is_refused_where_that_is_asked_for(dataset: Dataset):
    thresholds = replace(LOOSE, min_style=0.8)
    filtered = filter_quality(dataset, thresholds, encoder=PictureEncoder("colour", 32, ColourEncoder()))
    [(record, refusal)] = filtered.refused
    assert record.source == f"museum/a.parquet#{STRANGER}"
    assert refusal.rule == "min_style" and refusal.measured < 0.8 == refusal.limit
    assert "0 kept although unlike the set" in filtered.report

    with pytest.raises(DatasetError, match="Lower min_style: the nearest picture measures 0.9"):
        filter_quality(dataset, replace(LOOSE, min_style=1.0), encoder=PictureEncoder("colour", 32, ColourEncoder()))


def test_a_picture_is_shown_to_the_same_encoder_once(dataset: Dataset):
    encode = ColourEncoder()
    first = filter_quality(dataset, LOOSE, encoder=PictureEncoder("colour", 32, encode))
    again = filter_quality(dataset, LOOSE, encoder=PictureEncoder("colour", 32, encode))
    assert encode.asked == NUMBER and again.measured["min_style"] == first.measured["min_style"]
    filter_quality(dataset, LOOSE, encoder=PictureEncoder("other", 32, encode))
    assert encode.asked == 2 * NUMBER


def test_what_a_cancelled_run_has_seen_is_kept(dataset: Dataset):
    encode = ColourEncoder()

    def cancel(done: int, total: int, text: str = "", preview: Image.Image | None = None) -> None:
        if "Looked at the style" in text:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        filter_quality(dataset, LOOSE, cancel, PictureEncoder("colour", 32, encode))
    assert 0 < encode.asked < NUMBER
    filter_quality(dataset, LOOSE, encoder=PictureEncoder("colour", 32, encode))
    assert encode.asked == NUMBER


def test_without_an_encoder_no_style_is_looked_at(dataset: Dataset):
    filtered = filter_quality(dataset, replace(LOOSE, min_style=0.99))
    assert filtered.dataset == dataset and "min_style" not in filtered.measured


@pytest.mark.parametrize("value", [numpy.nan, 0.0])
def test_an_encoder_that_gives_nonsense_is_named(dataset: Dataset, value: float):
    broken = PictureEncoder("broken", 32, lambda pictures: numpy.full((len(pictures), 4), value))
    with pytest.raises(ModelError, match="Load CLIP Vision"):
        filter_quality(dataset, LOOSE, encoder=broken)
