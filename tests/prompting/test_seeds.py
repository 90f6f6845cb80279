from datetime import date
from pathlib import Path

import pytest
from impasto.errors import SettingsError
from impasto.prompting.database import DatabaseError, copies_of
from impasto.prompting.seed_book import SeedBook
from impasto.prompting.seeds import (
    GOLDEN_STEP,
    MAX_SEED,
    PROFILES,
    SeedSettings,
    further_seed,
    listed_seeds,
    replayed,
    seeds_at,
    written,
)


def settings(profile: str, seed: int = 100, text: str = "7, 8, 9", count: int = 1) -> SeedSettings:
    return SeedSettings(profile, seed, text, count)


@pytest.fixture
def book(tmp_path: Path) -> SeedBook:
    return SeedBook(tmp_path / "seeds.sqlite")


@pytest.mark.parametrize(
    ("profile", "first", "second"),
    [
        ("fixed", [100, 101, 102], [100, 101, 102]),
        ("increment", [100, 101, 102], [103, 104, 105]),
        ("decrement", [100, 99, 98], [97, 96, 95]),
        ("golden-ratio walk", [(100 + n * GOLDEN_STEP) % 2**64 for n in range(3)],
         [(100 + n * GOLDEN_STEP) % 2**64 for n in range(3, 6)]),
        ("list", [7, 8, 9], [7, 8, 9]),
        ("neighbourhood", [100, 101, 99], [102, 98, 103]),
    ],
)  # fmt: skip
def test_a_profile_gives_its_seeds_queue_after_queue(book: SeedBook, profile, first, second):
    assert list(book.take(settings(profile, count=3), "a", "1")) == first
    assert list(book.take(settings(profile, count=3), "a", "2")) == second


def test_a_list_goes_on_and_begins_again(book: SeedBook):
    taken = [book.take(settings("list", count=2), "a", "1") for _ in range(3)]
    assert taken == [(7, 8), (9, 7), (8, 9)]


def test_random_seeds_use_all_64_bits_and_never_repeat():
    seeds = seeds_at(settings("random", count=1000), 0)
    assert len(set(seeds)) == 1000
    assert max(seeds) > 2**63
    assert seeds_at(settings("random"), 0) != seeds_at(settings("random"), 0)


def test_a_text_has_one_seed_everywhere():
    assert seeds_at(settings("from text", text=" a boat "), 0) == (2069278383935015547,)
    assert seeds_at(settings("from text", text="a boat"), 0) == seeds_at(settings("from text", text="a boat\n"), 0)


def test_a_day_has_one_seed():
    assert seeds_at(settings("from date", count=2), 0, date(2026, 11, 21)) == (20261121, 20261122)


@pytest.mark.parametrize(
    ("profile", "start", "second"), [("increment", MAX_SEED, 0), ("decrement", 0, MAX_SEED), ("fixed", MAX_SEED, 0)]
)
def test_a_step_over_the_end_goes_on_at_the_other(profile, start, second):
    assert seeds_at(settings(profile, start, count=2), 0) == (start, second)


def test_the_golden_ratio_walk_spreads_evenly():
    seeds = sorted(seeds_at(settings("golden-ratio walk", count=1000), 0))
    gaps = [after - before for before, after in zip(seeds, seeds[1:], strict=False)]
    assert max(gaps) < 3 * 2**64 / 1000


def test_two_sequences_step_apart(book: SeedBook):
    assert [book.take(settings("increment"), name, "1")[0] for name in "aabab"] == [100, 101, 100, 102, 101]


def test_another_start_begins_anew(book: SeedBook):
    assert book.take(settings("increment", 5), "a", "1") == (5,)
    assert book.take(settings("increment", 50), "a", "1") == (50,)
    assert book.take(settings("increment", 5), "a", "1") == (6,)


def test_the_last_queued_seeds_come_back(book: SeedBook):
    with pytest.raises(SettingsError, match="Nothing was queued yet in the sequence 'a'"):
        book.take(settings("last queued"), "a", "1")
    drawn = book.take(settings("random", count=2), "a", "1")
    assert book.take(settings("last queued", count=2), "a", "2") == drawn
    with pytest.raises(SettingsError, match="Set the count to 2 or less"):
        book.take(settings("last queued", count=3), "a", "3")


def test_a_favourite_is_found_by_its_name(book: SeedBook):
    book.keep(" good light ", MAX_SEED)
    assert book.take(settings("favourite", text="good light"), "a", "1") == (MAX_SEED,)
    with pytest.raises(SettingsError, match="no favourite seed 'bad light'.*'good light'"):
        book.take(settings("favourite", text="bad light"), "a", "1")


def test_a_seed_has_a_note(book: SeedBook):
    book.write_note(MAX_SEED, "the boat leans left")
    assert book.note(MAX_SEED) == "the boat leans left"
    assert book.note(1) == ""


def test_the_book_knows_whether_a_seed_has_a_name_and_a_note(book: SeedBook):
    book.keep("good light", 5)
    book.write_note(5, "leans left")
    assert book.knows(5, " good light ", "leans left") and book.knows(5, "", "leans left") and book.knows(6, "", "")
    assert not book.knows(6, "good light", "") and not book.knows(5, "good light", "leans right")


def test_the_history_tells_what_a_seed_made(book: SeedBook):
    book.take(settings("fixed"), "a", "first")
    book.take(settings("fixed", 7), "a", "second")
    book.add_files("first", ["boat_0001.png"])
    second, first = book.history("a")
    assert (first.seeds, first.files) == ((100,), ("boat_0001.png",))
    assert "fixed: 100 → boat_0001.png" in str(first)
    assert second.files == ()


def test_a_damaged_book_steps_on_where_its_copy_stood(book: SeedBook):
    for queued in ("1", "2"):
        book.take(settings("increment", count=2), "a", queued)
    book.keep("good light", 2**64 - 1)
    book.write_note(101, "leans left")
    history = book.history("a")
    (copy,) = copies_of(book.path)
    copy.rename(copy.with_name(f"{book.path.stem}.copy-2026-01-01{book.path.suffix}"))
    book.take(settings("increment", count=2), "a", "of today")
    content = book.path.read_bytes()
    book.path.write_bytes(b"\x00" * 4096 + content[4096:])
    with pytest.raises(DatabaseError, match="'repair'"):
        book.favourites()
    assert book.repair().copy == copies_of(book.path)[0]
    assert (book.history("a"), book.favourites(), book.note(101)) == (history, {"good light": 2**64 - 1}, "leans left")
    assert book.take(settings("increment", count=2), "a", "3") == (104, 105)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (("fixed", -1, "", 1), "-1"),
        (("fixed", MAX_SEED + 1, "", 1), str(MAX_SEED + 1)),
        (("fixed", 0, "", 0), "count"),
        (("fixed", 0, "", 1001), "1001"),
        (("sometimes", 0, "", 1), "'sometimes'"),
    ],
)
def test_what_is_out_of_range_is_named(values, told):
    with pytest.raises(SettingsError, match=told):
        SeedSettings(*values)


def test_a_list_is_read_with_its_notes():
    assert listed_seeds("1, 2 # good\n3;4") == (1, 2, 3, 4)


@pytest.mark.parametrize("text", ["", " # only a note", "1, two", "-1", "1.5", str(MAX_SEED + 1), "1e3"])
def test_a_list_that_is_none_is_named(text):
    with pytest.raises(SettingsError, match="list of seeds"):
        listed_seeds(text)


def test_a_list_may_have_ranges_with_both_their_ends():
    assert listed_seeds("1, 100-103 # four\n9") == (1, 100, 101, 102, 103, 9)
    assert listed_seeds("0-10:5, 0-11:5; 3\u20132") == (0, 5, 10, 0, 5, 10, 3, 2)
    assert listed_seeds("120-100:10 7-7") == (120, 110, 100, 7)
    assert listed_seeds(f"{MAX_SEED - 1}-{MAX_SEED}") == (MAX_SEED - 1, MAX_SEED)
    assert listed_seeds(f"0-{MAX_SEED}:{MAX_SEED // 2}") == (0, MAX_SEED // 2, 2 * (MAX_SEED // 2))
    assert seeds_at(settings("list", text="5-7", count=2), 2) == (7, 5)


@pytest.mark.parametrize("text", ["1-", "-1", "1--3", "1-2-3", "1-5:0", "1:5", f"0-{MAX_SEED + 1}", "1 - 3", "a-b"])
def test_what_is_no_range_is_named(text):
    with pytest.raises(SettingsError, match="ranges of them like 100-120"):
        listed_seeds(text)


@pytest.mark.parametrize("text", [f"0-{MAX_SEED}", "0-99999,0", "0-60000 0-60000"])
def test_ranges_are_held_to_what_memory_holds(text):
    if text == "0-99999,0":
        assert len(listed_seeds(text)) == 100_001
    else:
        with pytest.raises(SettingsError, match="may have 100,000 seeds in all"):
            listed_seeds(text)


def test_replayed_seeds_are_exact_and_as_many_as_asked():
    assert replayed(written([MAX_SEED, 2**53 + 1]), 2) == (MAX_SEED, 2**53 + 1)
    with pytest.raises(SettingsError, match="Set the count to 2"):
        replayed("1, 2", 3)


def test_companions_of_a_seed_are_all_different():
    seeds = {further_seed(seed, index) for seed in (0, 1, MAX_SEED) for index in range(1, 100)}
    assert len(seeds) == 3 * 99
    assert further_seed(0, 1) == 0xE220A8397B1DCDAF  # splitmix64's first number from state 0


def test_every_profile_but_the_looked_up_ones_gives_as_many_as_asked():
    for profile in PROFILES[:-2]:
        assert len(seeds_at(settings(profile, count=3), 0)) == 3


def test_the_book_counts_the_seeds_that_were_used(book: SeedBook, monkeypatch):
    assert book.statistics("a") == "Seeds used in 'a': none.\nIn all sequences: none."
    for text in ("7, 8", "8, 9"):
        book.take(settings("list", text=text, count=2), "a", "1")
    book.take(settings("fixed", seed=MAX_SEED), "b", "2")
    assert book.statistics("a") == (
        "Seeds used in 'a': 4, 3 of them different, from 7 to 9 (a span of 2).\n"
        f"In all sequences: 5, 4 of them different, from 7 to {MAX_SEED} (a span of {MAX_SEED - 7})."
    )
    monkeypatch.setattr("impasto.prompting.seed_book.MOST_COUNTED", 3)
    assert str(book.used("a")).startswith("the last 3, 2 of them different, from 8")
