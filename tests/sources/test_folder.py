from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow
import pytest
from impasto.errors import DatasetError, NameRefused
from impasto.sources.folder import folder_fingerprint, load_folder
from impasto.sources.local import find_sources
from PIL import Image
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


def grey(level: int, size: tuple[int, int] = (96, 64)) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", size, level).save(buffer, "PNG")
    return buffer.getvalue()


def load_all(tmp_path: Path, **options):
    return load_folder(tmp_path / "datasets", tmp_path / "input", "pictures", "mine", "JPEG", **options)


def test_a_whole_tree_comes_in_with_its_captions_and_its_repeats(tmp_path, pictures):
    deep = pictures / "monet" / "10_water garden" / "by day"
    deep.mkdir(parents=True)
    (deep / "a.jpg").write_bytes(picture_bytes(10))
    (deep / "b.jpg").write_bytes(picture_bytes(11))
    (deep / "b.txt").write_text("a bridge")
    line = json.dumps({"file_name": "monet/5_sea/c.jpg", "text": "a boat"})
    (pictures / "metadata.jsonl").write_text(line + "\n")
    (pictures / "monet" / "5_sea").mkdir()
    (pictures / "monet" / "5_sea" / "c.jpg").write_bytes(picture_bytes(12))

    flat, told = load_all(tmp_path)
    assert len(flat.records()) == 3 and "3 pictures in deeper folders" in told and "Turn on whole_tree" in told
    before = folder_fingerprint(tmp_path / "input", "pictures", whole_tree=True)
    tree, report = load_all(tmp_path, whole_tree=True)
    found = texts(tree)
    place = "monet/10_water garden/by day/"
    assert found == {
        **{f"{number}.jpg": "" for number in range(3)},
        f"{place}a.jpg": "water garden",
        f"{place}b.jpg": "a bridge",
        "monet/5_sea/c.jpg": "a boat",
    }
    assert "10_water garden 10, 5_sea 5" in report and "deeper folders" not in report
    (deep / "b.txt").write_text("a green bridge")
    assert folder_fingerprint(tmp_path / "input", "pictures", whole_tree=True) != before


def test_a_whole_tree_follows_no_link_to_another_folder(tmp_path, pictures):
    elsewhere = tmp_path / "elsewhere" / "deep"
    elsewhere.mkdir(parents=True)
    (elsewhere / "secret.jpg").write_bytes(picture_bytes(20))
    (pictures / "link").symlink_to(tmp_path / "elsewhere")
    (pictures / "more").mkdir()
    (pictures / "more" / "back").symlink_to(pictures)
    dataset, report = load_all(tmp_path, whole_tree=True)
    assert len(dataset.records()) == 3 and "secret" not in report


def test_a_trigger_word_takes_the_place_of_ai_toolkits(tmp_path, pictures):
    (pictures / "0.txt").write_text("[trigger], a barn in [trigger] style")
    assert "1 captions have [trigger] in them" in load_all(tmp_path)[1]
    dataset, report = load_all(tmp_path, trigger_word=" mntgrdn\n")
    assert texts(dataset)["0.jpg"] == "mntgrdn, a barn in mntgrdn style" and "[trigger]" not in report


def test_onetrainers_masks_go_into_the_alpha_channel_where_asked_for(tmp_path, pictures):
    half = Image.new("L", (96, 64), 255)
    half.paste(0, (0, 0, 48, 64))
    half.save(pictures / "0-masklabel.png")
    (pictures / "1-masklabel.png").write_bytes(grey(128, (48, 32)))
    plain, told = load_all(tmp_path)
    assert "2 masks of OneTrainer" in told and "turn on masks" in told
    dataset, report = load_all(tmp_path, masks=True)
    assert len(plain.records()) == len(dataset.records()) == 3
    assert "2 masked." in report and "masks of OneTrainer" not in report
    shades = {}
    for record in dataset.records():
        with Image.open(dataset.image_path(record)) as picture:
            shades[record.source] = picture.getchannel("A").getextrema() if picture.mode == "RGBA" else None
            if record.source.endswith("0.jpg"):
                assert picture.getpixel((10, 10))[3] == 0 and picture.getpixel((90, 10))[3] == 255
                with Image.open(pictures / "0.jpg") as original:  # what is masked out keeps its colours
                    assert picture.getpixel((10, 10))[:3] == original.getpixel((10, 10))
    assert shades == {"pictures/0.jpg": (0, 255), "pictures/1.jpg": (128, 128), "pictures/2.jpg": None}


def test_a_damaged_mask_refuses_its_picture_by_name(tmp_path, pictures):
    (pictures / "0-masklabel.png").write_bytes(b"no picture")
    dataset, report = load_all(tmp_path, masks=True)
    assert len(dataset.records()) == 2 and "Refused pictures/0.jpg" in report
