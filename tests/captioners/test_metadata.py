from __future__ import annotations

import pytest
from impasto.captioners.ledger import read_ledger
from impasto.captioners.metadata import Wording, caption_from_labels, label_caption
from impasto.curation.records import Dataset, Record, write_manifest
from impasto.errors import SettingsError
from impasto.wikiart_labels import GENRES


@pytest.fixture
def dataset(tmp_path) -> Dataset:
    def record(digit: str, **labels: str) -> Record:
        return Record(f"images/{digit}.jpg", digit, 800, 600, 90_000, style="Impressionism", **labels)

    return write_manifest(
        tmp_path / "paintings",
        [
            record("a", genre="landscape", artist="Claude Monet"),
            record("b", genre="still_life", title="Basket of\nApples"),
            record("c"),
        ],
    )


def texts(dataset: Dataset) -> list[str]:
    return [record.text for record in dataset.records()]


def test_captions_say_what_is_shown_after_the_trigger_word(dataset):
    captioned, report = caption_from_labels(dataset, Wording(" mntgrdn, "))
    assert texts(captioned) == ["mntgrdn, a landscape", "mntgrdn, a still life, Basket of Apples", "mntgrdn, a picture"]
    assert "3 pictures captioned" in report and "3 different captions" in report


def test_the_style_is_never_named_and_the_artist_only_on_request(dataset):
    plain, _ = caption_from_labels(dataset, Wording("mntgrdn"))
    named, _ = caption_from_labels(dataset, Wording("mntgrdn", name_artist=True))
    assert not any("mpressionis" in text or "Monet" in text for text in texts(plain))
    assert texts(named)[0] == "mntgrdn, a landscape, by Claude Monet"
    assert texts(named)[1:] == texts(plain)[1:]


def test_without_a_trigger_word_the_caption_stands_alone(dataset):
    assert texts(caption_from_labels(dataset, Wording())[0])[0] == "a landscape"


@pytest.mark.parametrize("genre", [*GENRES, "", "Some-New_genre", "  "])
def test_every_genre_reads_as_language(genre):
    caption = label_caption(genre)
    assert caption.startswith(("a ", "an ")) and caption == caption.strip()
    assert not set(caption) & set("_\n-") and "painting" not in caption


def test_the_ledger_keeps_bare_captions_so_that_another_trigger_word_asks_nothing(dataset):
    caption_from_labels(dataset, Wording("mntgrdn"))
    written = dataset.captions_ledger.read_bytes()
    again, report = caption_from_labels(dataset, Wording("another"))
    assert dataset.captions_ledger.read_bytes() == written
    assert b"mntgrdn" not in written
    assert texts(again)[0] == "another, a landscape"
    assert "0 of them for the first time" in report


def test_the_same_call_gives_the_same_revision_and_writes_nothing(dataset):
    first, _ = caption_from_labels(dataset, Wording("mntgrdn"))
    root = dataset.manifest.parent.parent
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert caption_from_labels(dataset, Wording("mntgrdn"))[0] == first
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_a_killed_captioner_goes_on_where_it_stopped(dataset):
    class Killed(BaseException):
        pass

    def kill_at_the_second(done, total, text="", preview=None):
        if done == 2:
            raise Killed

    with pytest.raises(Killed):
        caption_from_labels(dataset, Wording("mntgrdn"), kill_at_the_second)
    with open(dataset.captions_ledger, "ab") as ledger:
        ledger.write(b'{"image": "c", "capt')  # torn by the kill
    captioned, report = caption_from_labels(dataset, Wording("mntgrdn"))
    assert len(texts(captioned)) == 3 and all(texts(captioned))
    assert "1 of them for the first time" in report
    assert len(read_ledger(dataset.captions_ledger)) == 3


def test_other_labels_of_the_same_picture_are_another_question(dataset):
    caption_from_labels(dataset, Wording())
    relabelled = write_manifest(dataset.folder, [Record("images/a.jpg", "a", 800, 600, 90_000, genre="portrait")])
    assert texts(caption_from_labels(relabelled, Wording())[0]) == ["a portrait"]


@pytest.mark.parametrize("trigger_word", ["two\nlines", "bell\x07", "line\u2028separator", "x" * 101])
def test_a_trigger_word_that_is_no_short_line_is_refused(dataset, trigger_word):
    with pytest.raises(SettingsError, match="trigger word"):
        caption_from_labels(dataset, Wording(trigger_word))
    assert not dataset.captions_ledger.exists()
