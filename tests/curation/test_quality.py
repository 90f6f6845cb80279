from __future__ import annotations

import io
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
from impasto.curation import measurements
from impasto.curation.duplicates import bits_apart, near_duplicates
from impasto.curation.measures import jpeg_quality, measure
from impasto.curation.quality import Thresholds, filter_quality
from impasto.dataset.pictures import PictureRefused, store_picture
from impasto.dataset.records import Dataset, Record, write_manifest
from impasto.drawing import charts
from impasto.embedded.paintings import paint, scene
from impasto.errors import DatasetError, SettingsError
from PIL import Image, ImageDraw, ImageFile, ImageFilter, ImageOps

from ..small_sources import picture_bytes

LOOSE = Thresholds(min_side=0, max_aspect=100, min_bytes_per_pixel=0)
KINDS = ("landscape", "portrait", "cityscape", "still life")


def painting(kind: str = "landscape", seed: int = 0, width: int = 240, height: int = 200) -> Image.Image:
    return paint(scene(kind, seed), "impressionist", width, height)


def encoded(picture: Image.Image, format: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **({"quality": 92} | options if format == "JPEG" else options))
    return buffer.getvalue()


def rules(dataset: Dataset, thresholds: Thresholds = LOOSE) -> dict[str, str]:
    """Number of the picture -> the rule it fell by."""
    filtered = filter_quality(dataset, thresholds)
    return {record.source.rpartition("#")[2]: refusal.rule for record, refusal in filtered.refused}


def measured(path: Path, picture: Image.Image, **options: object):
    path.write_bytes(encoded(picture, **options))
    return measure(path)


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
    monkeypatch.setattr(measurements, "measure", lambda path: decoded.append(path) or measure(path))
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


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_no_painting_is_refused_by_the_defaults(tmp_path, format):
    small = Thresholds(min_side=0)
    pictures = [painting(kind, seed) for kind in KINDS for seed in range(2)]
    foggy = Image.blend(painting(seed=5), Image.new("RGB", (240, 200), (190, 190, 195)), 0.8)
    tenebrist = painting("portrait", 6).point(lambda value: value // 5)
    nearly_one_colour = painting("still life", 7).filter(ImageFilter.GaussianBlur(1)).convert("L").convert("RGB")
    dataset = dataset_of(tmp_path, *(encoded(p, format) for p in (*pictures, foggy, tenebrist, nearly_one_colour)))
    assert rules(dataset, small) == {}


def test_each_measure_refuses_what_it_is_for(tmp_path):
    good = painting()
    sepia = ImageOps.colorize(painting("portrait").convert("L"), "#1a0e04", "#f5e3c0", mid="#a07a50")
    broken = {
        "min_jpeg_quality": encoded(painting(seed=1), quality=8),
        "min_sharpness": encoded(painting("portrait", 1).filter(ImageFilter.GaussianBlur(6))),
        "min_highlight": encoded(painting("cityscape").point(lambda value: value // 20)),
        "max_shadow": encoded(painting("still life").point(lambda value: 244 + value // 24)),
        "min_entropy": encoded(Image.new("RGB", (240, 200), (120, 100, 80))),
        "min_colour": encoded(sepia),
        "max_border": encoded(ImageOps.expand(painting("cityscape", 2), 120, "white")),
    }
    dataset = dataset_of(tmp_path, encoded(good), *broken.values())
    thresholds = replace(LOOSE, min_colour=2.0, min_sharpness=0.1, duplicate_distance=-1)
    assert list(rules(dataset, thresholds).values()) == list(broken)


@pytest.mark.parametrize("quality", [1, 20, 49, 50, 75, 85, 92, 95, 100])
def test_the_jpeg_quality_is_told_without_decoding(tmp_path, quality):
    path = tmp_path / "torn.jpg"
    path.write_bytes(encoded(painting(), quality=quality)[:4000])
    assert jpeg_quality(path) == quality


def test_a_border_is_found_and_a_sky_a_dark_ground_or_a_painted_edge_is_none(tmp_path):
    inside, path = painting(width=384, height=320), tmp_path / "picture.jpg"
    framed = ImageOps.expand(ImageOps.expand(inside, 24, "black"), 16, (180, 170, 160))
    letterboxed = ImageOps.expand(inside, (0, 40), "black")
    assert measured(path, framed).border == pytest.approx((40 / 464, 0.1, 40 / 464, 0.1), abs=0.006)
    assert measured(path, letterboxed).border == pytest.approx((0, 0.1, 0, 0.1), abs=0.006)
    one_side = Image.new("RGB", (384, 400), "white")
    one_side.paste(inside, (0, 80))
    dark_ground = Image.new("RGB", (384, 384), "black")
    ImageDraw.Draw(dark_ground).ellipse((80, 90, 300, 290), "orange")
    for picture in (inside, one_side, dark_ground, Image.new("RGB", (300, 300), "navy")):
        assert measured(path, picture).border == (0, 0, 0, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_painting_again_is_found_and_the_largest_stays(tmp_path, kind):
    original = painting(kind, 3, 512, 448)
    again = [
        original.resize((256, 224)),
        original.convert("L"),
        ImageOps.expand(original.resize((400, 350)), 40, "white"),
        Image.blend(original, Image.new("RGB", original.size, "white"), 0.3).resize((500, 437)),
    ]
    others = [painting(other, 4) for other in KINDS]
    dataset = dataset_of(tmp_path, *(encoded(p, quality=60) for p in again), encoded(original), *map(encoded, others))
    filtered = filter_quality(dataset, LOOSE)
    assert [record.source[-1] for record, _ in filtered.refused] == ["0", "1", "2", "3"]
    assert {refusal.rule for _, refusal in filtered.refused} == {"duplicate_distance"}
    assert all("looks like museum/a.parquet#4" in refusal.reason for _, refusal in filtered.refused)
    assert rules(dataset, replace(LOOSE, duplicate_distance=-1)) == {}


def test_the_index_finds_what_comparing_every_pair_finds():
    random = numpy.random.default_rng(1)

    def turned(value: int, bits: int) -> int:
        return value ^ sum(1 << int(bit) for bit in random.choice(63, bits, replace=False))

    centres = random.integers(0, 2**63, (40, 2)).tolist()
    changes = [(0, 0), (0, 9), (1, 0), (4, 1), (8, 2), (8, 9), (10, 4), (10, 9), (12, 0), (14, 14)]
    hashes = [(turned(p, bits), turned(g, more)) for p, g in centres for bits, more in changes]

    def near(one: int, other: int) -> bool:
        perceptual, gradient = bits_apart(hashes[one], hashes[other])
        return perceptual <= distance and perceptual + gradient <= 1.5 * distance

    for distance in (0, 3, 10, 16):
        kept: list[int] = []
        for index in range(len(hashes)):
            if not any(near(index, other) for other in kept):
                kept.append(index)
        found = near_duplicates(hashes, distance)
        assert set(found) == set(range(len(hashes))) - set(kept)
        assert all(near(gone, stays) for gone, stays in found.items()) and set(found.values()) <= set(kept)


def test_thousands_of_pictures_all_alike_are_no_trouble():
    started = time.process_time()
    found = near_duplicates([(7, 7)] * 10_000 + [(2**40 + n, 0) for n in range(500)], 10)
    assert len(found) >= 9_999 + 499
    assert time.process_time() - started < 20


def test_labels_refuse_only_when_asked(tmp_path):
    dataset = dataset_of(tmp_path, *(picture_bytes(seed, 64, 64) for seed in range(3)))
    genres = ("landscape", "sketch_and_study", "")
    labelled = [replace(record, genre=genre) for record, genre in zip(dataset.records(), genres, strict=True)]
    dataset = write_manifest(tmp_path, labelled)
    assert rules(dataset) == {}
    assert rules(dataset, replace(LOOSE, refuse_sketches=True)) == {"1": "refuse_sketches"}
    assert rules(dataset, replace(LOOSE, refuse_unknown_genre=True)) == {"2": "refuse_unknown_genre"}
    only_sketches = write_manifest(tmp_path, labelled[1:2])
    with pytest.raises(DatasetError, match="Switch refuse_sketches off"):
        filter_quality(only_sketches, replace(LOOSE, refuse_sketches=True))


def test_borders_are_cropped_when_asked_and_the_copy_must_pass_too(tmp_path):
    large, small = painting(width=640, height=560), painting("portrait", width=440, height=400)
    dataset = dataset_of(tmp_path, *(encoded(ImageOps.expand(p, 60, "white")) for p in (large, small)))
    assert rules(dataset, Thresholds()) == {}
    filtered = filter_quality(dataset, Thresholds(crop_borders=True))
    [record] = filtered.dataset.records()
    assert (record.width, record.height) == pytest.approx((640, 560), abs=6)
    assert record.sha256 != dataset.records()[0].sha256 and record.source == dataset.records()[0].source
    corner = Image.open(filtered.dataset.image_path(record)).crop((0, 0, 30, 30))
    assert numpy.asarray(corner).min() < 230
    assert [(refusal.rule, refusal.reason[:27]) for _, refusal in filtered.refused] == [
        ("min_side", "without its border, shorter")
    ]
    assert "1 of the kept without their border" in filtered.report


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_a_cropped_copy_stands_upright(tmp_path, format):
    exif = Image.Exif()
    exif[0x0112] = 6
    framed = Image.new("RGB", (700, 500), "white")
    framed.paste(painting(width=500, height=400), (160, 40))  # the widest border will lie above
    dataset = dataset_of(tmp_path, encoded(framed, format, exif=exif))
    [record] = filter_quality(dataset, replace(LOOSE, crop_borders=True)).dataset.records()
    assert record != dataset.records()[0] and record.file_name[-4:] == dataset.records()[0].file_name[-4:]
    assert (record.width, record.height) == pytest.approx((400, 500), abs=6)
    cropped = Image.open(dataset.image_path(record))
    assert not cropped.getexif() and cropped.size == (record.width, record.height)
    upright = painting(width=500, height=400).transpose(Image.Transpose.ROTATE_270).resize(cropped.size)
    assert numpy.abs(numpy.asarray(cropped).astype(float) - numpy.asarray(upright)).mean() < 12


def test_other_thresholds_measure_nothing_again(tmp_path, monkeypatch):
    dataset = dataset_of(tmp_path, *(picture_bytes(seed, 64, 64) for seed in range(4)))
    strict = replace(LOOSE, min_sharpness=1.5, duplicate_distance=-1)
    filter_quality(dataset, LOOSE)

    def fail(path):
        raise AssertionError(f"{path} is measured again")

    monkeypatch.setattr(measurements, "measure", fail)
    monkeypatch.setattr(measurements, "jpeg_quality", fail)
    assert len(filter_quality(dataset, strict).refused) < 4


def test_what_was_measured_before_a_cancel_is_kept(tmp_path, monkeypatch):
    class Cancelled(BaseException):
        pass

    def cancel_half_way(done, total, text="", preview=None):
        if "pictures" in text and done >= 4:
            raise Cancelled

    monkeypatch.setattr(measurements, "TELL_EVERY", 0)
    dataset = dataset_of(tmp_path, *(picture_bytes(seed, 64, 64) for seed in range(8)))
    with pytest.raises(Cancelled):
        filter_quality(dataset, LOOSE, cancel_half_way)
    again = []
    monkeypatch.setattr(measurements, "measure", lambda path: again.append(path) or measure(path))
    filter_quality(dataset, LOOSE)
    assert len(again) == 4


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_damage_anywhere_in_a_file_is_found_as_by_decoding_it_whole(tmp_path, format):
    """The reduced decode reads to the end as well: wherever the file is cut, both agree."""
    data = encoded(painting(width=520, height=400), format)
    for cut in (0.3, 0.6, 0.9, 0.99):
        path = tmp_path / "torn"
        path.write_bytes(data[: int(len(data) * cut)])
        with pytest.raises(OSError), Image.open(path) as picture:
            picture.load()
        with pytest.raises(PictureRefused, match="does not decode whole"):
            measure(path)


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA", "P", "LA", "I;16", "1"])
def test_every_mode_can_be_measured(tmp_path, mode):
    grey = painting().convert("L")
    picture = (
        Image.fromarray(numpy.asarray(grey).astype(numpy.uint16) * 257) if mode == "I;16" else painting().convert(mode)
    )
    path = tmp_path / "picture"
    picture.save(path, "TIFF" if mode == "CMYK" else "PNG")
    reference = measured(tmp_path / "grey.jpg", grey)
    assert abs(measure(path).highlight - reference.highlight) < (1 if mode == "1" else 0.1)
    assert mode == "1" or max(bits_apart(measure(path).hashes, reference.hashes)) <= 6


def test_the_filter_works_without_matplotlib_and_says_what_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    dataset = dataset_of(tmp_path, *(encoded(painting(kind)) for kind in KINDS), picture_bytes(1, 64, 64))
    filtered = filter_quality(dataset, replace(LOOSE, min_side=100))
    assert len(filtered.refused) == 1
    picture = filtered.histograms()
    assert picture.width == 1600 and (numpy.asarray(picture.convert("L")) < 100).any()  # ink on paper
    assert "matplotlib" in charts.no_charts() and "install.py" in charts.no_charts()
    with pytest.raises(charts.ChartsMissing):
        charts.new_figure(10, 10, "a chart")


def test_the_histograms_show_every_measure(tmp_path):
    dataset = dataset_of(tmp_path, *(encoded(painting(kind)) for kind in KINDS), picture_bytes(1, 64, 64))
    filtered = filter_quality(dataset, replace(LOOSE, min_side=100))
    assert all(len(filtered.measured[rule]) >= 4 for rule in filtered.measured)
    assert len(filtered.measured) == 10 and len(filtered.measured["min_side"]) == 5
    picture = filtered.histograms()
    assert picture.size == (1600, 990)
    rust = (numpy.abs(numpy.asarray(picture).astype(int) - (194, 86, 45)).max(axis=2) < 8).sum()
    assert rust > 100  # the bar of the refused
