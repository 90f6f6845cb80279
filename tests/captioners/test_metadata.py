from __future__ import annotations

import asyncio

import pytest
from impasto.captioners.captioner import CaptionRefusal, Kind
from impasto.captioners.ledger import read_ledger
from impasto.captioners.metadata import MetadataCaptioner, label_caption
from impasto.captioners.runner import caption_dataset
from impasto.dataset.records import Dataset, Record, write_manifest
from impasto.dataset.wikiart_labels import GENRES
from impasto.errors import SettingsError
from impasto.progress import silent


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


def caption(
    dataset: Dataset, trigger_word: str = "", name_artist: bool = False, progress=silent
) -> tuple[Dataset, str]:
    done = asyncio.run(
        caption_dataset(dataset, MetadataCaptioner(name_artist), progress, trigger_word=trigger_word, rules=None)
    )
    return done.dataset, done.report


def texts(dataset: Dataset) -> list[str]:
    return [record.text for record in dataset.records()]


def test_captions_say_what_is_shown_after_the_trigger_word(dataset):
    captioned, report = caption(dataset, " mntgrdn, ")
    assert texts(captioned) == ["mntgrdn, a landscape", "mntgrdn, a still life, Basket of Apples", "mntgrdn, a picture"]
    assert "metadata: 3 of 3 pictures captioned" in report


def test_the_style_is_never_named_and_the_artist_only_on_request(dataset):
    plain, _ = caption(dataset, "mntgrdn")
    named, _ = caption(dataset, "mntgrdn", name_artist=True)
    assert not any("mpressionis" in text or "Monet" in text for text in texts(plain))
    assert texts(named)[0] == "mntgrdn, a landscape, by Claude Monet"
    assert texts(named)[1:] == texts(plain)[1:]


def test_without_a_trigger_word_the_caption_stands_alone(dataset):
    assert texts(caption(dataset)[0])[0] == "a landscape"


@pytest.mark.parametrize("genre", [*GENRES, "", "Some-New_genre", "  "])
def test_every_genre_reads_as_language(genre):
    caption = label_caption(genre)
    assert caption.startswith(("a ", "an ")) and caption == caption.strip()
    assert not set(caption) & set("_\n-") and "painting" not in caption


def test_the_ledger_keeps_bare_captions_so_that_another_trigger_word_asks_nothing(dataset):
    caption(dataset, "mntgrdn")
    written = dataset.captions_ledger.read_bytes()
    again, report = caption(dataset, "another")
    assert dataset.captions_ledger.read_bytes() == written
    assert b"mntgrdn" not in written
    assert texts(again)[0] == "another, a landscape"
    assert "0 of them asked about" in report


def test_the_same_call_gives_the_same_revision_and_writes_nothing(dataset):
    first, _ = caption(dataset, "mntgrdn")
    root = dataset.manifest.parent.parent
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert caption(dataset, "mntgrdn")[0] == first
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_a_killed_captioner_goes_on_where_it_stopped(dataset):
    class Killed(BaseException):
        pass

    def kill_at_the_second(done, total, text="", preview=None):
        if done == 2:
            raise Killed

    with pytest.raises(Killed):
        caption(dataset, "mntgrdn", progress=kill_at_the_second)
    with open(dataset.captions_ledger, "ab") as ledger:
        ledger.write(b'{"image": "c", "capt')  # torn by the kill
    captioned, report = caption(dataset, "mntgrdn")
    assert len(texts(captioned)) == 3 and all(texts(captioned))
    assert "1 of them asked about" in report
    assert len(read_ledger(dataset.captions_ledger)) == 3


def test_other_labels_of_the_same_picture_are_another_question(dataset):
    caption(dataset)
    relabelled = write_manifest(dataset.folder, [Record("images/a.jpg", "a", 800, 600, 90_000, genre="portrait")])
    assert texts(caption(relabelled)[0]) == ["a portrait"]


@pytest.mark.parametrize("trigger_word", ["two\nlines", "bell\x07", "line\u2028separator", "x" * 101])
def test_a_trigger_word_that_is_no_short_line_is_refused(dataset, trigger_word):
    with pytest.raises(SettingsError, match="trigger word"):
        caption(dataset, trigger_word)
    assert not dataset.captions_ledger.exists()


def test_labels_caption_what_another_captioner_refuses(dataset):
    class Refusing(MetadataCaptioner):
        name = "refusing"

        async def caption(self, pictures, check, sending):
            return [CaptionRefusal(Kind.PROMPT_BLOCKED, "no") for _ in pictures]

    done = asyncio.run(caption_dataset(dataset, Refusing(), trigger_word="mntgrdn", fallback=MetadataCaptioner()))
    assert texts(done.dataset)[:2] == ["mntgrdn, A landscape", "mntgrdn, A still life, Basket of Apples"]
    assert set(done.refused) == {"c"}  # "a picture" says nothing: it is for a person
