from __future__ import annotations

from pathlib import Path

import numpy
import pytest
from impasto.curation import quality
from impasto.curation.pictures import store_picture
from impasto.curation.quality import Thresholds, filter_quality
from impasto.curation.records import Dataset, Record, write_manifest
from impasto.errors import DatasetError, SettingsError
from PIL import Image, ImageFile

from .conftest import picture_bytes

LOOSE = Thresholds(min_side=0, max_aspect=100, min_bytes_per_pixel=0)


def dataset_of(folder: Path, *pictures: bytes) -> Dataset:
    records = []
    for index, data in enumerate(pictures):
        stored = store_picture(folder, data)
        place = f"museum/a.parquet#{index}"
        records.append(Record(stored.file_name, stored.sha256, stored.width, stored.height, stored.size, source=place))
    return write_manifest(folder, records)


def flat_picture() -> bytes:
    return picture_bytes(0, 640, 640, quality=1)


def test_each_threshold_refuses_what_it_is_for_and_says_what_was_measured(tmp_path):
    good, small = picture_bytes(1, 600, 700), picture_bytes(2, 500, 900)
    narrow, compressed = picture_bytes(3, 520, 1300), flat_picture()
    dataset = dataset_of(tmp_path, good, small, narrow, compressed)
    density = round(len(compressed) / 640**2, 3)

    filtered = filter_quality(dataset, Thresholds(512, 2.0, density + 0.1))

    assert [record.source for record in filtered.dataset.records()] == ["museum/a.parquet#0"]
    refusals = {refusal.source[-1]: refusal for refusal in filtered.dataset.refusals()}
    assert refusals["1"].reason == "shorter side 500 px is under 512"
    assert refusals["2"].reason == "aspect 2.50 is over 2"
    assert refusals["3"].reason.startswith(f"{density:.3f} bytes per pixel is under")
    assert [(refusals[key].rule, refusals[key].limit) for key in "12"] == [("min_side", 512), ("max_aspect", 2.0)]
    assert "4 pictures in, 1 kept, 3 refused" in filtered.report


def test_a_picture_exactly_at_the_limits_stays(tmp_path):
    dataset = dataset_of(tmp_path, picture_bytes(1, 512, 1024))
    assert filter_quality(dataset, Thresholds(512, 2.0)).dataset == dataset


def test_what_the_header_decides_is_never_decoded(tmp_path, monkeypatch):
    dataset = dataset_of(tmp_path, picture_bytes(1, 600, 600), picture_bytes(2, 100, 100))
    decoded = []
    monkeypatch.setattr(quality, "decode_whole", decoded.append)
    filter_quality(dataset, Thresholds())
    assert decoded == [dataset.image_path(dataset.records()[0])]


@pytest.mark.parametrize("format", ["JPEG", "PNG"])  # Pillow refuses to open a truncated WebP: the loader finds it
def test_a_truncated_picture_is_found_here(tmp_path, format):
    torn = picture_bytes(2, 600, 600, format)
    dataset = dataset_of(tmp_path, picture_bytes(1, 600, 600), torn[: len(torn) * 2 // 3])
    filtered = filter_quality(dataset, Thresholds())
    assert len(filtered.dataset.records()) == 1
    [refusal] = filtered.dataset.refusals()
    assert refusal.rule == "damaged"
    assert refusal.reason in filtered.report


def test_a_truncated_picture_is_found_even_where_the_process_lets_pillow_fill_it_in(tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    torn = picture_bytes(2, 600, 600)[:-20_000]
    filtered = filter_quality(dataset_of(tmp_path, picture_bytes(1, 600, 600), torn), Thresholds())
    assert [refusal.rule for _, refusal in filtered.refused] == ["damaged"]
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_a_picture_whose_file_is_gone_is_refused(tmp_path):
    dataset = dataset_of(tmp_path, picture_bytes(1), picture_bytes(2))
    dataset.image_path(dataset.records()[1]).unlink()
    assert [refusal.rule for _, refusal in filter_quality(dataset, LOOSE).refused] == ["missing"]


def test_nothing_left_is_an_error_that_names_the_threshold_to_loosen(tmp_path):
    dataset = dataset_of(tmp_path, picture_bytes(1, 300, 300), picture_bytes(2, 400, 400), picture_bytes(3, 600, 1500))
    with pytest.raises(DatasetError, match=r"2 refused by min_side, 1 refused by max_aspect.*Lower min_side.*400"):
        filter_quality(dataset, Thresholds())
    with pytest.raises(DatasetError, match=r"Raise max_aspect: the nearest picture measures 1\.0"):
        filter_quality(dataset_of(tmp_path, picture_bytes(4, 100, 101)), Thresholds(0, 1.0, 0))
    torn = dataset_of(tmp_path, picture_bytes(1, 600, 600)[:-20_000])
    with pytest.raises(DatasetError, match="1 refused by damaged.*from the source again"):
        filter_quality(torn, Thresholds())


def test_refusals_of_earlier_nodes_are_kept(tmp_path):
    dataset = dataset_of(tmp_path, picture_bytes(1, 600, 600), picture_bytes(2, 300, 300), picture_bytes(3, 600, 1000))
    first = filter_quality(dataset, Thresholds()).dataset
    second = filter_quality(first, Thresholds(max_aspect=1.5)).dataset
    assert [refusal.rule for refusal in second.refusals()] == ["min_side", "max_aspect"]
    assert len(dataset.records()) == 3


def test_filtering_again_writes_nothing(tmp_path):
    dataset = dataset_of(tmp_path, picture_bytes(1, 600, 600), picture_bytes(2, 300, 300))
    first = filter_quality(dataset, Thresholds())
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert filter_quality(dataset, Thresholds()) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_cancel_stops_the_decoding(tmp_path):
    class Cancelled(BaseException):
        pass

    def cancel(*_, **__):
        raise Cancelled

    dataset = dataset_of(tmp_path, *(picture_bytes(seed) for seed in range(8)))
    with pytest.raises(Cancelled):
        filter_quality(dataset, LOOSE, cancel)


def test_the_sheet_shows_each_refused_picture_and_a_cross_for_a_damaged_one(tmp_path):
    torn = picture_bytes(3, 600, 600)[:-20_000]
    dataset = dataset_of(tmp_path, picture_bytes(1, 600, 600), picture_bytes(2, 300, 300), torn)
    nothing_refused = filter_quality(dataset_of(tmp_path, picture_bytes(1, 600, 600)), Thresholds()).sheet()
    sheet = filter_quality(dataset, Thresholds()).sheet()
    assert isinstance(sheet, Image.Image)
    assert nothing_refused.height < 100 < sheet.height
    noise = numpy.asarray(sheet.crop((20, 60, 200, 200))).reshape(-1, 3)
    assert len(numpy.unique(noise, axis=0)) > 1000


@pytest.mark.parametrize("field", ["min_side", "max_aspect", "min_bytes_per_pixel"])
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf")])
def test_thresholds_out_of_range_are_refused_by_name(field, value):
    with pytest.raises(SettingsError, match=field):
        Thresholds(**{field: value})
