"""Quotas over a dataset: exactly what was asked for where there is enough, and a clear word where there is not."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from impasto.curation.composition import Composition, compose
from impasto.dataset.records import Dataset, Record, Refusal, write_manifest
from impasto.errors import DatasetError, SettingsError
from impasto.sources.plan import Request
from impasto.sources.quotas import Quota, parse_quotas
from impasto.sources.wikiart import load_paintings


def record(number: int, genre: str = "landscape", artist: str = "Claude Monet", text: str = "") -> Record:
    name = f"{number:064x}"
    return Record(f"images/{name}.jpg", name, 600, 600, 1000, text=text, artist=artist, genre=genre, style="Realism")


@pytest.fixture
def mixed(tmp_path: Path) -> Dataset:
    """60 landscapes and 30 portraits, half of each by Monet, a quarter by Morisot and a quarter by nobody known."""
    artists = ("Claude Monet", "Claude Monet", "Berthe Morisot", "")
    genres = ("landscape", "landscape", "portrait")
    records = [record(n, genres[n % 3], artists[n // 3 % 4], "a boat" if n % 9 == 0 else "a tree") for n in range(90)]
    return write_manifest(tmp_path / "mixed", records, [Refusal("museum/a#1", "min_side", "too small")])


def test_each_kind_comes_out_as_asked(mixed):
    composed = compose(mixed, Composition("landscape: 20\nPortrait : 10"))
    dataset = composed.write()
    assert Counter(record.genre for record in dataset.records()) == {"landscape": 20, "portrait": 10}
    assert not composed.missing
    assert dataset.refusals() == mixed.refusals()
    assert [line.split() for line in composed.report().splitlines()[1:]] == [
        ["available", "asked", "passed", "taken"][1:],
        ["landscape", "20", "60", "20"],
        ["Portrait", "10", "30", "10"],
        ["together", "30", "90", "30"],
    ]


def test_artists_share_evenly_and_none_has_more_than_the_cap(mixed):
    even = compose(mixed, Composition("landscape: 12")).records
    assert Counter(record.artist for record in even) == {"Claude Monet": 4, "Berthe Morisot": 4, "": 4}
    capped = compose(mixed, Composition("landscape: 30\nportrait: 30", max_per_artist=7)).records
    counts = Counter(record.artist for record in capped)
    assert counts["Claude Monet"] == counts["Berthe Morisot"] == 7
    assert counts[""] > 7  # nobody knows whose these are


@pytest.mark.parametrize("seed", range(5))
def test_kinds_exchange_artists_rather_than_leave_a_quota_short_under_the_cap(tmp_path, seed):
    kinds = [("landscape", "A")] * 3 + [("landscape", "B")] * 9 + [("portrait", "A")] * 9 + [("portrait", "C")] * 2
    kinds += [("cityscape", "B")] * 9 + [("cityscape", "C")] * 9
    records = [record(n, genre, artist) for n, (genre, artist) in enumerate(kinds)]
    crowded = write_manifest(tmp_path / "crowded", records)
    lines = "landscape: 6\nportrait: 6\ncityscape: 6"
    composed = compose(crowded, Composition(lines, max_per_artist=6, seed=seed))  # 18 pictures, three artists, 6 each
    assert not composed.missing
    assert Counter(record.artist for record in composed.records) == {"A": 6, "B": 6, "C": 6}
    assert Counter(record.genre for record in composed.records) == {"landscape": 6, "portrait": 6, "cityscape": 6}


def test_the_same_seed_and_pictures_give_the_same_choice_in_whatever_order_they_come(mixed, tmp_path):
    wanted = Composition("landscape: 10", seed=4)
    turned = write_manifest(tmp_path / "turned", reversed(mixed.records()))
    assert {r.sha256 for r in compose(mixed, wanted).records} == {r.sha256 for r in compose(turned, wanted).records}
    other = compose(mixed, Composition("landscape: 10", seed=5))
    assert compose(mixed, wanted).write().revision != other.write().revision


def test_a_picture_is_taken_once_for_the_kind_with_least_choice(mixed):
    composed = compose(mixed, Composition("landscape: 55\ncaption=a boat: 10"))
    assert [cell.taken for cell in composed.cells] == [50, 10]
    assert len({record.sha256 for record in composed.records}) == 60
    assert "landscape: 5 short" in composed.report()


def test_kinds_can_be_styles_artists_and_captions(mixed):
    for lines, kind in (("realism: 5", "style"), ("berthe-morisot: 5", "artist"), ("Boat: 5", "caption")):
        assert len(compose(mixed, Composition(lines, kind)).records) == 5
    assert not compose(mixed, Composition("oat: 5", "caption")).records


def test_what_the_source_had_is_told_too(datasets_root, mixed_source):
    loaded = load_paintings(datasets_root, Request("museum", "few", count=8)).dataset
    composed = compose(loaded, Composition("landscape: 6\nportrait: 2"))
    assert [(cell.available, cell.asked, cell.passed, cell.taken) for cell in composed.cells] == [
        (12, 6, 4, 4),
        (12, 2, 4, 2),
    ]
    assert composed.may_gain and composed.missing == 2
    everything = load_paintings(datasets_root, Request("museum", "few", count=24)).dataset
    assert not compose(everything, Composition("landscape: 30")).may_gain


def test_spare_paintings_are_loaded_over_the_quotas(datasets_root, mixed_source):
    request = Request("museum", "spare", quotas="landscape: 4\nportrait: 2", spare=50)
    loaded = load_paintings(datasets_root, request)
    assert Counter(record.genre for record in loaded.dataset.records()) == {"landscape": 6, "portrait": 3}
    assert "24 available, 6 asked for, 9 taken, 3 of them spare." in loaded.report and "fewer" not in loaded.report
    assert [line.split() for line in loaded.report.splitlines()[2:6]] == [
        ["available", "asked", "taken", "spare"],
        ["landscape", "12", "4", "6", "2"],
        ["portrait", "12", "2", "3", "1"],
        ["together", "24", "6", "9", "3"],
    ]
    composed = compose(loaded.dataset, Composition(request.quotas))
    assert not composed.missing and len(composed.records) == 6


def test_spare_paintings_that_are_missing_are_told_apart_from_those_asked_for(datasets_root, mixed_source):
    request = Request("museum", "spare", quotas="landscape: 10\nportrait: 13", spare=50, max_per_artist=0)
    planned = load_paintings(datasets_root, request, plan_only=True).report
    assert ["landscape", "12", "10", "12", "2"] in [line.split() for line in planned.splitlines()]
    report = load_paintings(datasets_root, request).report
    assert "23 asked for, 24 taken, 2 of them spare." in report
    assert "1 fewer than asked for and 10 fewer spare: nothing else" in report
    enough = replace(request, quotas="landscape: 10")
    assert "\n3 fewer spare: nothing else" in load_paintings(datasets_root, enough).report


@pytest.mark.parametrize(
    "lines", ["landscape", "landscape: many", "landscape: 0", "landscape: -3", ": 5", "size=big: 3", "a: 1\nA : 2"]
)
def test_a_line_of_another_form_is_named(lines):
    with pytest.raises(SettingsError, match="The quota '"):
        parse_quotas(lines)


def test_labels_with_colons_and_blank_lines_are_read():
    assert parse_quotas("\n still life : 3 \n\nartist=Anonymous: Delft: 2") == (
        Quota("genre", "still life", 3),
        Quota("artist", "Anonymous: Delft", 2),
    )


def test_nothing_that_fits_and_no_quota_are_told(mixed):
    with pytest.raises(DatasetError, match="No picture of dataset 'mixed' fits the quotas"):
        compose(mixed, Composition("marina: 5")).write()
    with pytest.raises(SettingsError, match="quotas are empty"):
        compose(mixed, Composition(" \n"))
