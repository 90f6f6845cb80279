"""The ArtGAN archive as a source: labels from its folders, file names and csv files."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest
from impasto.errors import DatasetError, NameRefused
from impasto.sources.artgan import read_archive
from impasto.sources.opening import source_fingerprint
from impasto.sources.plan import Request
from impasto.sources.wikiart import load_paintings

from ..small_sources import picture_bytes


@pytest.fixture
def archive(datasets_root: Path) -> Path:
    folder = datasets_root / "wikiart"
    paintings = ("Impressionism/claude-monet_water-lilies-1919-2.jpg", "Impressionism/berthe-morisot_the-cradle.jpg")
    for seed, path in enumerate((*paintings, "Ukiyo_e/katsushika-hokusai_red-fuji-1831.jpg")):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(picture_bytes(seed))
    (folder / "wikiart_csv").mkdir()
    (folder / "wikiart_csv" / "genre_class.txt").write_text("4 landscape\n6 portrait\n")
    (folder / "wikiart_csv" / "genre_train.csv").write_text(f"{paintings[0]},4\n")
    (folder / "wikiart_csv" / "genre_val.csv").write_text(f"{paintings[1]},6\n")
    return folder


def test_labels_come_from_folders_file_names_and_csv_files(archive, datasets_root):
    records = load_paintings(datasets_root, Request("wikiart", "all")).dataset.records()
    assert {(record.artist, record.style, record.genre, record.title, record.date) for record in records} == {
        ("Claude Monet", "Impressionism", "landscape", "Water lilies", "1919"),
        ("Berthe Morisot", "Impressionism", "portrait", "The cradle", ""),
        ("Katsushika Hokusai", "Ukiyo_e", "", "Red fuji", "1831"),
    }


def test_csv_files_have_a_byte_order_mark_or_not_and_names_in_any_unicode_form(archive):
    name = "Ukiyo_e/utagawa-kuniyoshi_café.jpg"
    (archive / unicodedata.normalize("NFD", name)).write_bytes(picture_bytes(7))
    csv_file = archive / "wikiart_csv" / "genre_train.csv"
    csv_file.write_text(unicodedata.normalize("NFC", f"{name},4\r\n"), encoding="utf-8-sig", newline="")
    classes = archive / "wikiart_csv" / "genre_class.txt"
    classes.write_text(classes.read_text(), encoding="utf-8-sig")
    assert [row.genre for row in read_archive(archive) if row.title.startswith("Caf")] == ["landscape"]


@pytest.mark.parametrize("file", ["genre_class.txt", "genre_val.csv"])
def test_a_csv_file_that_is_not_utf8_is_named_with_its_line(archive, file):
    path = archive / "wikiart_csv" / file
    path.write_bytes(path.read_bytes() + b"caf\xe9,4\n")
    line = path.read_bytes().count(b"\n")
    with pytest.raises(DatasetError, match=f"{file} cannot be read: line {line} is not UTF-8 .byte 0xe9"):
        read_archive(archive)


def test_filters_and_quotas_work_as_with_parquet(archive, datasets_root):
    request = Request("wikiart", "monets", style="impressionism", quotas="landscape: 1")
    dataset = load_paintings(datasets_root, request).dataset
    [record] = dataset.records()
    assert dataset.image_path(record).read_bytes() == picture_bytes(0)


def test_a_new_painting_changes_the_fingerprint_and_the_archive_is_no_dataset(archive, datasets_root):
    before = source_fingerprint(datasets_root, "wikiart")
    (archive / "Ukiyo_e" / "utagawa-kuniyoshi_cats.jpg").write_bytes(picture_bytes(9))
    assert source_fingerprint(datasets_root, "wikiart") != before
    with pytest.raises(NameRefused, match="wikiart-selection"):
        load_paintings(datasets_root, Request("wikiart", "wikiart"))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no names that are not Unicode")
def test_a_painting_whose_name_is_not_utf8_is_read_and_its_labels_can_be_written(archive):
    (archive / "Ukiyo_e" / os.fsdecode(b"caf\xe9_les-chats-1850.jpg")).write_bytes(picture_bytes(9))
    assert [row.artist for row in read_archive(archive) if row.title == "Les chats"] == [r"caf\xe9"]
