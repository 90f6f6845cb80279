"""What a folder's text files say of its pictures, as people and other tools write them."""

from __future__ import annotations

import json
import unicodedata

import pytest
from impasto.dataset.orientation import upright_size
from impasto.dataset.pictures import reads_heif
from impasto.sources.folder import load_folder
from PIL import Image

from ..small_sources import picture_bytes


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "input" / "pictures"
    place.mkdir(parents=True)
    return place


def picture(folder, name, number=0):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture_bytes(number or sum(name.encode()) % 200, format="PNG"))
    return path


def load(tmp_path):
    dataset, report = load_folder(tmp_path / "datasets", tmp_path / "input", "pictures", "mine", "JPEG")
    return {record.source.partition("/")[2]: record.text for record in dataset.records()}, report


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("a café".encode("utf-8-sig"), "a café"),
        (b"\xff\xfe" + "a quiet café".encode("utf-16-le"), "a quiet café"),
        (b"\xfe\xff" + "a quiet café".encode("utf-16-be"), "a quiet café"),
        (b"a house\0by the sea", "a house by the sea"),
        (b"a house\x1b[31m by the sea\x1b[0m", "a house by the sea"),
        ("a\u2028house\u0085here".encode(), "a house here"),
        (b"\n\n a house \nand a second line", "a house"),
        (b"a house\rand a second line", "a house"),
        ("a\u00a0red house".encode(), "a red house"),
    ],
)
def test_a_caption_is_read_by_its_mark_and_its_first_line_taken(tmp_path, folder, content, text):
    picture(folder, "a.png")
    (folder / "a.txt").write_bytes(content)
    found, report = load(tmp_path)
    assert found == {"a.png": text}
    assert ("more than one line (a.txt)" in report) == (b"second" in content)


@pytest.mark.parametrize(
    "content",
    [
        "the artist\u2019s caf\u00e9".encode("cp1252"),
        "\u043a\u0440\u0430\u0441\u043d\u044b\u0439".encode("cp1251"),
        "\u8d64\u3044\u5bb6".encode("shift_jis"),
        "\u7ea2\u8272".encode("gb18030"),
        "a house".encode("utf-16-le"),
        "a house".encode("utf-32"),
        b"\xff\xfea\0b",
    ],
)
def test_a_caption_in_another_encoding_is_named_and_never_guessed(tmp_path, folder, content):
    picture(folder, "a.png")
    picture(folder, "b.png")
    (folder / "a.txt").write_bytes(content)
    (folder / "b.txt").write_text("a barn")
    (folder / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "of another file", "title": "Barn"}')
    found, report = load(tmp_path)
    assert found == {"a.png": "", "b.png": "a barn"}
    assert "a.txt is not read" in report and "Save it again as UTF-8" in report


def test_caption_files_are_found_in_any_case_and_unicode_form_and_behind_the_whole_name(tmp_path, folder):
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    for name in ("c.png", "d.png", "E.PNG", f"{composed}.png", "b.png"):
        picture(folder, name)
    (folder / "c.TXT").write_text("another case")
    (folder / "d.png.txt").write_text("behind the ending")
    (folder / "e.Caption").write_text("both cases")
    (folder / f"{decomposed}.txt").write_text("another form")
    (folder / "b.txt").write_text("  \n")
    (folder / "b.caption").write_text("where the first is empty")
    found, report = load(tmp_path)
    assert found == {
        "c.png": "another case",
        "d.png": "behind the ending",
        "E.PNG": "both cases",
        f"{composed}.png": "another form",
        "b.png": "where the first is empty",
    }
    assert "Not used" not in report


def test_a_caption_of_two_pictures_is_told(tmp_path, folder):
    picture(folder, "a.png", 1)
    (folder / "a.jpg").write_bytes(picture_bytes(2))
    (folder / "a.txt").write_text("of which?")
    found, report = load(tmp_path)
    assert found == {"a.png": "of which?", "a.jpg": "of which?"}
    assert "a.txt is the caption of several pictures: a.jpg, a.png" in report


def test_metadata_lines_are_read_as_tools_write_them(tmp_path, folder):
    names = ("p0.png", "p1.png", "p2.png", "p3.png", "p4.png", "sub/q.png", "p5.png", "p6.png")
    for number, name in enumerate(names):
        picture(folder, name, number + 1)
    lines = [
        '\ufeff{"file_name": "p0.png", "text": "behind a mark"}',
        '{"file_name": "p1.png", "text": "a\u2028separator"}',
        '{"file_name": "p2.png", "text": "a\u0085line"}',
        '{"file_name": "./p3.png", "text": "dot slash"}',
        '{"file_name": "p4.PNG", "text": "another case"}',
        '{"file_name": "sub\\\\q.png", "text": "a backslash"}',
        '{"file_name": "p5.png", "text": ["a list", "of captions"]}',
        '{"file_name": "D:\\\\train\\\\p6.png", "text": "half \\ud83d a character\\u0000"}',
        '{"file_name": "gone.png", "text": "of no picture"}',
        "no JSON",
    ]
    (folder / "metadata.jsonl").write_bytes("\r\n".join(lines).encode())
    found, report = load(tmp_path)
    texts = ("behind a mark", "a separator", "a line", "dot slash", "another case", "a backslash", "a list")
    assert found == dict(zip(names, (*texts, "half a character"), strict=True))
    assert "1 pictures have a list of captions (p5.png)" in report
    assert "metadata of 1 pictures that are not there (gone.png)" in report
    assert "metadata.jsonl: 1 lines are no JSON objects and not used (line 10)" in report


@pytest.mark.parametrize(
    "table",
    [
        'file_name,text\np0.png,a cat\np1.png,"a dog, sitting\nby a door"\n',
        "\ufefffile_name;text\r\np0.png;a cat\r\np1.png;a dog, sitting by a door\r\n",
        "Filename\tCaption\np0.png\ta cat\nP1.png\ta dog, sitting by a door\n",
    ],
)
def test_metadata_csv_is_read(tmp_path, folder, table):
    picture(folder, "p0.png", 1), picture(folder, "p1.png", 2)
    (folder / "metadata.csv").write_bytes(table.encode())
    found, report = load(tmp_path)
    assert found == {"p0.png": "a cat", "p1.png": "a dog, sitting by a door"} and "Not used" not in report


def test_metadata_that_cannot_be_read_is_named(tmp_path, folder):
    picture(folder, "p0.png")
    (folder / "metadata.csv").write_bytes(b"file_name,text\np0.png,caf\xe9\n")
    assert "metadata.csv is not read: line 2 is not UTF-8 (byte 0xe9)" in load(tmp_path)[1]
    (folder / "metadata.csv").write_text("a,b\n1,2\n")
    assert "metadata.csv is not read: its first line has no column file_name" in load(tmp_path)[1]


def test_whatever_is_seen_and_not_used_is_told(tmp_path, folder):
    for number, name in enumerate(("a.png", "deep/er/x.png", "deep/er/still/y.png", "a-masklabel.png"), start=1):
        picture(folder, name, number)
    for name in (
        *(() if reads_heif() else ("b.heic",)),
        "c.jxl",
        "d.CR2",
        "e.svg",
        "f.JPG_orig",
        "g",
        "Thumbs.db",
        ".hidden",
    ):
        (folder / name).write_bytes(b"0")
    (folder / "lonely.txt").write_text("of no picture")
    (folder / "a.txt").write_text("a [trigger] of a barn")
    found, report = load(tmp_path)
    assert found == {"a.png": "a [trigger] of a barn"}
    for told in (
        "1 masks of OneTrainer (a-masklabel.png)",
        *(() if reads_heif() else ("1 HEIC pictures (b.heic). Install pillow-heif",)),
        "1 JPEG XL pictures (c.jxl)",
        "1 raw files of cameras (d.CR2)",
        "1 caption files that belong to no picture (lonely.txt)",
        "3 other files (e.svg, f.JPG_orig, g)",
        "2 pictures in deeper folders (er, still)",
        "1 captions have [trigger]",
    ):
        assert told in report, report
    assert "Thumbs" not in report and "hidden" not in report


def test_json_of_one_object_a_line_may_hold_anything(tmp_path, folder):
    picture(folder, "a.png")
    odd = [{"file_name": 3}, {"file_name": "a.png", "text": {"en": "x"}}, [], {"file_name": "a.png", "text": []}]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, odd)))
    assert load(tmp_path)[0] == {"a.png": ""}


def test_heic_is_read_where_pillow_heif_is_installed(tmp_path, folder):
    pillow_heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed: pip install pillow-heif")
    pillow_heif.from_pillow(Image.new("RGB", (64, 64), (200, 30, 10))).save(folder / "a.HEIC")
    (folder / "a.txt").write_text("a red square")
    found, report = load(tmp_path)
    assert found == {"a.HEIC": "a red square"} and "1 was HEIF" in report


@pytest.mark.parametrize("exif", [None, b""])
def test_a_picture_whose_plug_in_says_that_it_has_no_exif_is_upright(exif):
    """pillow-heif gives None."""
    picture = Image.new("RGB", (8, 4))
    picture.info["exif"] = exif
    assert upright_size(picture) == (8, 4)
