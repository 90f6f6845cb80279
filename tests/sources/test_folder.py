from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pytest
from impasto.errors import DatasetError, NameRefused
from impasto.sources.folder import folder_fingerprint, load_folder
from impasto.sources.local import find_sources
from pyarrow import parquet

from ..small_sources import Painting, picture_bytes, write_shard


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "input" / "pictures"
    folder.mkdir(parents=True)
    for number in range(3):
        (folder / f"{number}.jpg").write_bytes(picture_bytes(number))
    return folder


def load(tmp_path: Path, folder: str = "pictures", name: str = "mine"):
    return load_folder(tmp_path / "datasets", tmp_path / "input", folder, name, "JPEG")


def texts(dataset) -> dict[str, str]:
    return {record.source.partition("/")[2]: record.text for record in dataset.records()}


def test_of_a_caption_beside_a_picture_the_first_line_is_taken(tmp_path, pictures):
    (pictures / "0.txt").write_text("\ufeffa barn,  by \u201cthe river\u201d\r\n in autumn\n", encoding="utf-8")
    (pictures / "1.caption").write_text("a boat")
    dataset, report = load(tmp_path)
    assert texts(dataset) == {"0.jpg": "a barn, by \u201cthe river\u201d", "1.jpg": "a boat", "2.jpg": ""}
    assert "1 caption files have more than one line (0.txt): the first is taken" in report
    assert "3 files, 3 pictures stored" in report and "2 with a caption" in report
    assert sorted(path.name for path in pictures.iterdir()) == ["0.jpg", "0.txt", "1.caption", "1.jpg", "2.jpg"]


def test_metadata_jsonl_gives_words_and_a_caption_file_counts_more(tmp_path, pictures):
    rows = [
        {"file_name": "0.jpg", "text": "from metadata", "artist": "claude-monet", "title": "Barn", "year": 1890},
        {"file_name": "1.jpg", "text": "from metadata"},
        {"file_name": "../../secret.jpg", "text": "elsewhere"},
    ]
    (pictures / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (pictures / "1.txt").write_text("from the file")
    dataset, _ = load(tmp_path)
    assert texts(dataset) == {"0.jpg": "from metadata", "1.jpg": "from the file", "2.jpg": ""}
    first = dataset.records()[0]
    assert (first.artist, first.title, first.date) == ("Claude Monet", "Barn", "1890")


def test_kohyas_folders_give_captions_and_repeats_are_told(tmp_path, pictures):
    for name, number in (("10_monet garden", 5), ("3_street", 6)):
        (pictures / name).mkdir()
        (pictures / name / "a.png").write_bytes(picture_bytes(number, format="PNG"))
    (pictures / "3_street" / "a.txt").write_text("a wet street")
    dataset, report = load(tmp_path)
    assert texts(dataset)["10_monet garden/a.png"] == "monet garden"
    assert texts(dataset)["3_street/a.png"] == "a wet street"
    assert "10_monet garden 10, 3_street 3" in report
    one, report = load(tmp_path, "pictures/10_monet garden", "one")
    assert texts(one) == {"a.png": "monet garden"} and "Set num_repeats" in report


def test_content_counts_and_what_is_no_picture_is_refused_with_the_rest_kept(tmp_path, pictures):
    (pictures / "3.jpg").write_bytes(picture_bytes(8, format="PNG"))
    (pictures / "4.jpg").write_bytes(b"")
    (pictures / "5.jpg").write_bytes(b"no picture")
    (pictures / "6.jpg").write_bytes(picture_bytes(0))
    (pictures / "7.exe").write_bytes(picture_bytes(9))
    dataset, report = load(tmp_path)
    assert [record.file_name[-4:] for record in dataset.records()] == [".jpg", ".jpg", ".jpg", ".png"]
    assert {refusal.source[-5:]: refusal.rule for refusal in dataset.refusals()} == {
        "4.jpg": "empty",
        "5.jpg": "unreadable",
        "6.jpg": "same_bytes",
    }
    assert "7 files, 4 pictures stored" in report


def test_names_with_quotes_newlines_and_unicode_survive(tmp_path, pictures):
    strange = ["d\u2028e.jpg", "f'g\"h.jpg", "i\nj.jpg", "\u7d75\u753b.jpg"]
    for number, name in enumerate(strange):
        (pictures / name).write_bytes(picture_bytes(20 + number))
        (pictures / name).with_suffix(".txt").write_text(f"caption {number}")
    found = texts(load(tmp_path)[0])
    assert [found[name] for name in strange] == [f"caption {number}" for number in range(4)]


def test_links_that_lead_out_of_the_folder_are_not_followed(tmp_path, pictures):
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "s.jpg").write_bytes(picture_bytes(30))
    (secret / "s.txt").write_text("secret words")
    (pictures / "s.jpg").symlink_to(secret / "s.jpg")
    (pictures / "linked").symlink_to(secret)
    (pictures / "0.txt").symlink_to(secret / "s.txt")
    dataset, _ = load(tmp_path)
    assert set(texts(dataset)) == {"0.jpg", "1.jpg", "2.jpg"} and "secret" not in str(texts(dataset))
    assert [refusal.rule for refusal in dataset.refusals()] == ["address", "address"]
    (tmp_path / "input" / "out").symlink_to(secret)
    with pytest.raises(NameRefused):
        load(tmp_path, "out")


@pytest.mark.parametrize("folder", ["../secret", "/etc", "pictures/../..", "", "pictures//", "~", "a\\b"])
def test_a_folder_outside_the_root_is_refused(tmp_path, pictures, folder):
    if folder == "pictures//":
        assert load(tmp_path, folder)
    else:
        with pytest.raises(NameRefused):
            load(tmp_path, folder)


def test_errors_name_the_remedy(tmp_path, pictures):
    with pytest.raises(DatasetError, match="no folder 'barns'.*Choose one of these: pictures"):
        load(tmp_path, "barns")
    (tmp_path / "input" / "empty").mkdir()
    with pytest.raises(DatasetError, match="hold no pictures"):
        load(tmp_path, "empty")
    with pytest.raises(NameRefused, match="into the folder that it is made from"):
        load_folder(tmp_path / "input", tmp_path / "input", "pictures", "pictures", "JPEG")
    write_shard(tmp_path / "datasets" / "museum" / "a.parquet", [Painting(picture_bytes())])
    with pytest.raises(NameRefused, match="is that of a source"):
        load(tmp_path, name="museum")


def test_the_fingerprint_changes_with_the_folder_and_the_same_folder_gives_the_same_revision(tmp_path, pictures):
    before = folder_fingerprint(tmp_path / "input", "pictures")
    assert folder_fingerprint(tmp_path / "input", "pictures") == before
    assert load(tmp_path)[0] == load(tmp_path)[0]
    (pictures / "0.txt").write_text("a barn")
    assert folder_fingerprint(tmp_path / "input", "pictures") != before


def test_a_parquet_file_in_a_datasets_folder_does_not_make_it_a_source(tmp_path, pictures):
    """Earlier versions exported text features there."""
    first, _ = load(tmp_path)
    table = Path(first.folder) / "text-features.parquet"
    parquet.write_table(pyarrow.table({"prompt_embeds": [[1.0]]}), table)
    assert load(tmp_path)[0] == first and table.is_file() and find_sources(tmp_path / "datasets") == []


def test_a_link_to_the_folder_itself_and_a_second_way_to_another_are_followed_once(tmp_path, pictures):
    (pictures / "more").mkdir()
    (pictures / "more" / "9.jpg").write_bytes(picture_bytes(9))
    (pictures / "again").symlink_to(pictures / "more")
    (pictures / "loop").symlink_to(pictures)
    dataset, report = load(tmp_path)
    assert set(texts(dataset)) == {"0.jpg", "1.jpg", "2.jpg", "more/9.jpg"} and "4 files" in report
    assert not dataset.refusals()
