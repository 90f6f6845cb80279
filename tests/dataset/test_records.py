import json
from pathlib import Path

import pytest
from impasto.dataset.records import Dataset, Record, Refusal, write_manifest
from impasto.errors import DatasetError

RECORDS = [
    Record(f"images/{digit * 64}.jpg", digit * 64, 800, 600, 90_000, artist="Claude Monet", genre="landscape")
    for digit in "abc"
]


def test_a_manifest_is_read_as_it_was_written(tmp_path):
    awkward = Record("images/d.png", "d", 1, 2, 3, text='tab\tquote"\u2028line\u0085next', title="Été", date="1872")
    dataset = write_manifest(tmp_path / "monets", [*RECORDS, awkward])
    assert dataset.name == "monets"
    assert dataset.records() == (*RECORDS, awkward)
    assert len(dataset.manifest.read_text().splitlines()) == 4


def test_the_columns_are_those_of_imagefolder(tmp_path):
    first = json.loads(write_manifest(tmp_path, RECORDS).manifest.read_text().splitlines()[0])
    assert {"file_name", "text"} <= first.keys()


def test_the_revision_is_the_content(tmp_path):
    one = write_manifest(tmp_path / "one", RECORDS)
    assert write_manifest(tmp_path / "two", RECORDS).revision == one.revision
    assert write_manifest(tmp_path / "one", RECORDS[:2]).revision != one.revision
    assert one.records() == tuple(RECORDS)


def test_an_edited_manifest_is_refused(tmp_path):
    dataset = write_manifest(tmp_path, RECORDS)
    dataset.manifest.write_text(dataset.manifest.read_text().replace("Monet", "Manet"))
    with pytest.raises(DatasetError, match="was changed"):
        dataset.records()


def test_a_dataset_without_pictures_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="no picture"):
        write_manifest(tmp_path, [])


def test_captions_make_another_revision_and_keep_the_refusals(tmp_path):
    dataset = write_manifest(tmp_path, RECORDS, [Refusal("museum/a#1", "damaged", "does not decode")])
    captioned = dataset.with_texts({RECORDS[0].sha256: "a landscape"})
    assert [record.text for record in captioned.records()] == ["a landscape", "", ""]
    assert [record.text for record in dataset.records()] == ["", "", ""]
    assert captioned.refusals() == dataset.refusals() != ()


def test_no_manifest_leads_out_of_the_images_folder(tmp_path):
    dataset = Dataset("monets", str(tmp_path), "0")
    for file_name in ("../../secret.jpg", "/etc/secret.jpg", "images/secret.jpg"):
        record = Record(file_name, "a", 1, 1, 1)
        assert dataset.image_path(record) == Path(tmp_path) / "images" / "secret.jpg"


def test_a_damaged_line_among_the_refusals_costs_itself_alone(tmp_path):
    dataset = write_manifest(tmp_path, RECORDS, [Refusal("a#1", "min_side", "too small"), Refusal("a#2", "empty", "x")])
    (file,) = (tmp_path / "rejected").iterdir()
    file.write_bytes(file.read_bytes()[:-10] + b"\xff")
    assert [refusal.source for refusal in dataset.refusals()] == ["a#1"]


def test_words_that_no_caption_file_can_hold_are_read_without_what_is_wrong_in_them(tmp_path):
    """As earlier versions took them over from services; the manifest stays as it is."""
    odd = Record("images/d.png", "d", 1, 2, 3, text="half \ud83da\0boat", title="Bl\x1b[31mue", artist="A\x07")
    dataset = write_manifest(tmp_path / "monets", [*RECORDS, odd])
    [*_, read] = dataset.records()
    assert (read.text, read.title, read.artist) == ("half a boat", "Blue", "A ")
    assert dataset.records()[:3] == tuple(RECORDS)
