"""The person's own hand: rules, overrides that outlive captioners, locks."""

from __future__ import annotations

import hashlib
import json
import time
import tracemalloc
from types import SimpleNamespace

import pytest
from impasto.captioners.editing import (
    EditRules,
    edit_captions,
    edits_file,
    read_edits,
    read_overrides,
    read_replacements,
    table,
)
from impasto.dataset.records import Dataset, Record
from impasto.errors import SettingsError
from PIL import Image


@pytest.fixture
def dataset(make_dataset) -> Dataset:
    plain = make_dataset(3)
    texts = ("A dog on a beach, blurry, sunset", "Two dogs in the grass.", "A red barn, Blurry.")
    return plain.with_texts({record.sha256: text for record, text in zip(plain.records(), texts, strict=True)})


def texts(dataset: Dataset) -> list[str]:
    return [record.text for record in dataset.records()]


def edit(dataset: Dataset, overrides: str = "", **rules) -> Dataset:
    rules["replacements"] = read_replacements(rules.pop("replacements", ""))
    return edit_captions(dataset, EditRules(**rules), read_overrides(overrides))[0]


def name(dataset: Dataset, number: int) -> str:
    return dataset.records()[number].sha256[:12]


def test_rules_come_in_order_and_the_trigger_word_first(dataset):
    edited = edit(
        dataset,
        trigger_word="mntgrdn",
        prefix="a scene of",
        suffix=", at noon",
        replacements="(?i)\\bdogs?\\b => puppy\nTwo (puppy) => a \\1\n",
        removed_tags=("blurry",),
    )
    assert texts(edited) == [
        "mntgrdn, a scene of A puppy on a beach, sunset, at noon",
        "mntgrdn, a scene of a puppy in the grass., at noon",
        "mntgrdn, a scene of A red barn, at noon",
    ]


def test_without_rules_nothing_changes(dataset):
    assert edit(dataset) == dataset


def test_a_trigger_word_is_not_put_twice(dataset):
    once = edit(dataset, trigger_word="mntgrdn")
    assert texts(edit(once, trigger_word="mntgrdn")) == texts(once)


def test_a_trigger_word_in_an_override_is_not_put_twice(dataset):
    edited = edit(dataset, f"{name(dataset, 1)}: mntgrdn, Two dogs", trigger_word="mntgrdn")
    assert texts(edited)[1] == "mntgrdn, Two dogs"


class CountedHash(str):
    """A picture's hash that counts how often it is looked at."""

    looks = 0

    def __lt__(self, other):
        CountedHash.looks += 1
        return super().__lt__(other)

    def startswith(self, *arguments):
        CountedHash.looks += 1
        return super().startswith(*arguments)

    __hash__ = str.__hash__


def test_an_override_does_not_look_at_every_picture(tmp_path):
    hashes = [CountedHash(hashlib.sha256(str(number).encode()).hexdigest()) for number in range(1_000)]
    records = [Record(f"images/{sha256}.jpg", sha256, 1, 1, 1, text="A boat.") for sha256 in hashes]
    dataset = SimpleNamespace(
        records=lambda: records, folder=str(tmp_path), image_path=lambda _: tmp_path, with_texts=lambda texts: texts
    )
    overrides = read_overrides("\n".join(f"{sha256[:16]}: A boat, {n}." for n, sha256 in enumerate(hashes[:100])))
    edited = edit_captions(dataset, EditRules(), overrides)[0]
    assert edited[hashes[99]] == "A boat, 99." and CountedHash.looks < 20_000


def test_an_override_survives_captioning_again_and_the_loss_of_its_line(dataset):
    edited = edit(dataset, f"{name(dataset, 1)}: My own words")
    assert texts(edited)[1] == "My own words"
    captioned_again = dataset.with_texts({record.sha256: "something else" for record in dataset.records()})
    assert texts(edit(captioned_again, trigger_word="t")) == [
        "t, something else",
        "t, My own words",
        "t, something else",
    ]
    assert texts(edit(captioned_again, f"{name(dataset, 1)}:"))[1] == "something else"
    assert not read_edits(dataset.folder)


def test_a_lock_keeps_a_caption_against_captioners_and_other_overrides(dataset):
    picture = name(dataset, 0)
    edit(dataset, f"{picture}: !")
    again = dataset.with_texts({dataset.records()[0].sha256: "something else"})
    assert texts(edit(again, f"{picture}: another"))[0] == "A dog on a beach, blurry, sunset"
    assert texts(edit(again, f"{picture}: ! this instead"))[0] == "this instead"
    assert texts(edit(again, f"{picture}:"))[0] == "something else"


def test_saying_the_same_again_writes_nothing(dataset):
    edit(dataset, f"{name(dataset, 1)}: My own words")
    written = edits_file(dataset.folder).read_bytes()
    edit(dataset, f"{name(dataset, 1)}: My own words")
    assert edits_file(dataset.folder).read_bytes() == written


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|aa)+$", "(.*a){25}$"])
def test_an_expression_that_would_take_forever_is_stopped(make_dataset, pattern):
    plain = make_dataset(1)
    dataset = plain.with_texts({plain.records()[0].sha256: "a" * 200 + "!"})
    began = time.monotonic()
    try:
        edit(dataset, replacements=f"{pattern} => b")
    except SettingsError as error:
        assert pattern in str(error)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "replacements",
    ["\n".join(["(.*) => \\1\\1"] * 100), "(?=(.*)) => " + "\\1" * 500, " => ".join(["(?=.)", "x" * 999])],
)
def test_a_caption_cannot_be_made_to_fill_the_memory(dataset, replacements):
    long = dataset.with_texts({record.sha256: "a boat " * 1_000 for record in dataset.records()})
    tracemalloc.start()
    try:
        with pytest.raises(SettingsError, match="longer than"):
            edit(long, replacements=replacements)
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()


def test_a_long_replacement_prefix_or_list_of_overrides_is_refused(dataset):
    with pytest.raises(SettingsError, match="replacement 'xxx.*1001 characters"):
        edit(dataset, replacements="a => " + "x" * 1001)
    with pytest.raises(SettingsError, match="suffix has 2001"):
        edit(dataset, suffix="x" * 2001)
    with pytest.raises(SettingsError, match="10001 overrides"):
        edit(dataset, "abcdef: a boat\n" * 10_001)


def test_an_unmatched_group_of_a_replacement_is_empty(dataset):
    assert texts(edit(dataset, replacements="(cat)?A dog => \\1A bird"))[0].startswith("A bird")


class Cancelled(BaseException):
    pass


def test_cancel_is_heard_between_the_rules_of_one_caption(make_dataset, monkeypatch):
    """200 slow rules on one caption would take minutes."""
    monkeypatch.setattr("impasto.clock.POLL", 0.0)
    plain = make_dataset(1)
    dataset = plain.with_texts({plain.records()[0].sha256: "a boat"})
    rules = EditRules(replacements=read_replacements("\n".join(f"boat{number} => b" for number in range(200))))
    heard = []

    def cancel(done, total, text="", preview=None):
        heard.append(done)
        if len(heard) == 100:
            raise Cancelled

    with pytest.raises(Cancelled):
        edit_captions(dataset, rules, {}, cancel)
    assert heard == [0] * 100


@pytest.mark.parametrize(
    "rules", ["no arrow", "( => x", " => x", "a => \\7", "a{1001} => " + "x" * 3 + "\n" + "b" * 1001 + "=> c"]
)
def test_an_invalid_rule_is_refused_by_its_text(dataset, rules):
    with pytest.raises(SettingsError):
        edit(dataset, replacements=rules)


@pytest.mark.parametrize("overrides", ["no hash", "abc: too short", "zzzzzzzz: no digits", "0123456789: nobody's"])
def test_an_override_that_names_no_picture_is_refused(dataset, overrides):
    with pytest.raises(SettingsError, match="override"):
        edit(dataset, overrides)


def test_a_rule_that_empties_a_caption_leaves_it_to_a_person_and_says_so(dataset):
    rules = EditRules(trigger_word="mntgrdn", replacements=read_replacements("^A red barn.* =>"))
    edited, report, rows = edit_captions(dataset, rules, {})
    assert texts(edited)[2] == ""
    assert "1 pictures have no caption" in report and rows[2].sha256[:12] in report


def test_the_table_has_picture_caption_and_doubts(dataset, tmp_path):
    again = dataset.with_texts({dataset.records()[1].sha256: "An oil painting by Monet"})
    overrides = read_overrides(f"{name(dataset, 0)}: !")
    rows = json.loads(json.dumps(table(edit_captions(again, EditRules(), overrides, thumbnails=tmp_path)[2])))
    assert all(Image.open(tmp_path / row["thumbnail"]).size == (24, 16) for row in rows)
    assert [row["file_name"] for row in rows] == [record.file_name for record in dataset.records()]
    assert rows[0]["locked"] and rows[0]["flags"] == {}
    assert rows[1]["flags"] == {"style words": ["oil painting"], "artists": ["Monet"]}


@pytest.mark.parametrize(
    "pattern",
    [
        "a{30000000}",
        "a{30000000,}",
        "(?x)a{3 0 0 0 0 0 0 0}",
        "(?:(?:a{100}){100}){100}",
        "((a{1000})){1000}",
        "a{99999999999999999999999999}",
        "(?:" + "(a)|" * 200 + "){1000}",
    ],
)
def test_an_expression_that_would_fill_the_memory_once_compiled_is_refused_before(pattern):
    began = time.monotonic()
    tracemalloc.start()
    try:
        with pytest.raises(SettingsError, match="for any number"):
            read_replacements(f"{pattern} => b")
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()
    assert time.monotonic() - began < 0.5


@pytest.mark.parametrize("pattern", ["(?V0)a(?V1)", "(" * 499 + "a" + ")" * 499])
def test_an_expression_that_the_library_stumbles_over_is_refused_with_a_sentence(pattern):
    with pytest.raises(SettingsError, match="The expression"):
        read_replacements(f"{pattern} => b")


@pytest.mark.parametrize(
    "pattern", [r"\d{4}-\d{2}-\d{2}", r"(?:\w+ ){0,1000}x", r"(\w{1,20}\s?){1,200}", r"[^.]{0,9999}"]
)
def test_repetitions_of_an_ordinary_size_are_accepted(pattern):
    assert read_replacements(f"{pattern} => b")[0].pattern == pattern


def test_a_watched_picture_is_marked_with_the_reason_and_keeps_its_caption(dataset):
    listed = {name(dataset, 1): "caption: it may be another picture's", "0" * 12: "of another set"}
    edited, report, rows = edit_captions(dataset, EditRules(), {}, watched=listed)
    assert [row.flags.get("watched") for row in rows] == [None, ("caption: it may be another picture's",), None]
    assert texts(edited) == texts(dataset)
    assert f"watched: {name(dataset, 1)[:8]} caption: it may be another picture's" in report
