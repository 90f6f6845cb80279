import json
import os
import random
import signal
import sqlite3
import string
import subprocess
import sys
import threading
import time
from pathlib import Path

import impasto
import pytest
from impasto.errors import SettingsError
from impasto.prompting.database import DatabaseError, copy_of
from impasto.prompting.library import Library, SavedPrompt, split_tags

REPOSITORY = Path(impasto.__file__).resolve().parent

HARBOUR = SavedPrompt("a quiet harbour at dawn", "harbour", ("light", "sea"), True)
GARDEN = SavedPrompt("a garden in the rain", "garden", ("light",))
CAFE = SavedPrompt("un café à Paris", "café")


@pytest.fixture
def library(tmp_path: Path) -> Library:
    library = Library(tmp_path / "user" / "prompts.sqlite")
    library.save([HARBOUR, GARDEN, CAFE])
    return library


def texts(found: list[SavedPrompt]) -> list[str]:
    return [prompt.text for prompt in found]


def test_what_is_saved_is_found_with_all_it_has(library: Library):
    (found,) = library.search("harbour")
    assert (found.text, found.name, found.tags, found.favourite) == (HARBOUR.text, "harbour", ("light", "sea"), True)
    assert abs(found.created - time.time()) < 60


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", [CAFE, GARDEN, HARBOUR]),
        ("rain garden", [GARDEN]),
        ("harb", [HARBOUR]),
        ("CAFE", [CAFE]),
        ("sea", [HARBOUR]),
        ("dawn rain", []),
        ('"; DROP TABLE prompts --', []),
        ("a OR b", []),
        ("!?", [CAFE, GARDEN, HARBOUR]),
    ],
)
def test_search_finds_all_words_by_their_beginnings(library: Library, words: str, expected: list[SavedPrompt]):
    assert texts(library.search(words)) == texts(expected)


def test_search_by_tag_and_favourite(library: Library):
    assert texts(library.search(tag="Light")) == texts([GARDEN, HARBOUR])
    assert texts(library.search("a", tag="light", favourites=True)) == [HARBOUR.text]
    assert library.search(tag="ligh") == []
    assert texts(library.search(limit=1, offset=1)) == [GARDEN.text]


def test_saving_the_same_text_again_changes_it(library: Library):
    assert library.save([SavedPrompt(f"  {GARDEN.text} ", "wet garden", ("rain",))]) == 0
    assert library.count() == 3
    (found,) = library.search("wet")
    assert found.tags == ("rain",)
    assert texts(library.search(tag="light")) == [HARBOUR.text]


def test_what_is_removed_is_found_no_more(library: Library):
    assert library.remove(GARDEN.text)
    assert not library.remove(GARDEN.text)
    assert library.search("garden") == []


def test_tags_are_split_sorted_and_each_once():
    assert split_tags(" Sea,light ,, sea ,Golden   hour") == ("golden hour", "light", "sea")
    with pytest.raises(SettingsError, match="70 characters"):
        split_tags("x" * 70)


def test_an_empty_prompt_is_not_saved_and_takes_the_others_with_it(library: Library):
    with pytest.raises(SettingsError, match="empty"):
        library.save([SavedPrompt("another"), SavedPrompt(" ")])
    assert library.count() == 3


def test_the_history_tells_seed_and_lora_and_the_same_only_once(library: Library):
    library.record("a boat", 2**64 - 1, "monet")
    library.record("a boat", 2**64 - 1, "monet")
    library.record("a boat", 5)
    assert [(queued.seed, queued.lora) for queued in library.history()] == [(5, ""), (2**64 - 1, "monet")]


@pytest.mark.parametrize("ending", ["json", "csv"])
def test_the_library_goes_out_and_in_again_whole(library: Library, tmp_path: Path, ending: str):
    library.save([SavedPrompt('with "quotes", commas\nand two lines', "=1+1", ("a b",))])
    file = tmp_path / f"prompts.{ending}"
    assert library.write_to(file) == 4
    other = Library(tmp_path / "other.sqlite")
    assert other.read_from(file) == (4, 4)
    assert other.search() == library.search()
    assert other.read_from(file) == (0, 4)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.json", "{", "not JSON"),
        ("a.json", "{}", "does not hold a list"),
        ("a.json", '[{"text": "fine"}, {"name": "x"}]', "Entry 2"),
        ("a.json", '[{"text": "fine"}, {"text": "x", "created": "soon"}]', "'soon'"),
        ("a.csv", "name\nx\n", "no column 'text'"),
        ("a.csv", "text\nfine\n  \n", "Entry 2"),
        ("a.txt", "x", ".json or .csv"),
        ("a.csv", b"text\n\xff\n", "not UTF-8"),
        ("a.json", None, "There is no file"),
    ],
)
def test_a_file_that_cannot_be_read_adds_nothing(library: Library, tmp_path: Path, name, content, told):
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SettingsError, match=told):
        library.read_from(tmp_path / name)
    assert library.count() == 3


def test_a_search_among_50000_prompts_takes_under_50_ms(tmp_path: Path):
    draw = random.Random(1)
    starts = ("har", "gar", "riv", "mou", "cas", "bri")
    words = [f"{start}{letter}" for start in starts for letter in string.ascii_lowercase]
    library = Library(tmp_path / "prompts.sqlite")
    library.save(
        SavedPrompt(f"painting {n} of {' '.join(draw.choices(words, k=20))}", f"n{n}", (words[n % 150],), n % 50 == 0)
        for n in range(50_000)
    )
    queries = (
        {},
        {"words": "painting"},
        {"words": "hara garb"},
        {"words": "h"},
        {"words": "p o", "favourites": True},
        {"words": "painting nothing"},
        {"words": "n4999"},
        {"tag": words[3]},
        {"favourites": True},
    )
    for query in queries:
        seconds = []
        for _ in range(5):
            began = time.perf_counter()
            library.search(**query)
            seconds.append(time.perf_counter() - began)
        assert min(seconds) < 0.05, (query, seconds)


def test_two_writers_lose_nothing(tmp_path: Path):
    def write(writer: int) -> None:
        for n in range(40):
            Library(tmp_path / "prompts.sqlite").save([SavedPrompt(f"writer {writer} prompt {n}")])

    threads = [threading.Thread(target=write, args=[writer]) for writer in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Library(tmp_path / "prompts.sqlite").count() == 80


WRITER = """
import runpy, sys
runpy.run_path(sys.argv[1])
from impasto.prompting.library import Library, SavedPrompt
library = Library(sys.argv[2])
for n in range(100_000):
    library.save([SavedPrompt(f"prompt {n} part {part}") for part in range(10)])
    print(n, flush=True)
"""


def test_a_writer_killed_in_the_middle_loses_nothing_it_had_saved(tmp_path: Path):
    file = tmp_path / "prompts.sqlite"
    command = [sys.executable, "-c", WRITER, str(REPOSITORY / "tests" / "conftest.py"), str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        for line in writer.stdout:
            if int(line) == 25:
                writer.send_signal(signal.SIGKILL)
                break
    library = Library(file)
    assert library.count() >= 260
    assert library.count() % 10 == 0
    assert len(library.search("prompt 25 part")) >= 10
    assert library.save([SavedPrompt("and on it goes")]) == 1


def test_a_damaged_file_is_told_plainly_and_left_as_it_is(library: Library):
    damaged = b"\xff" * 4096 + library.path.read_bytes()[4096:]
    for side in (library.path, Path(f"{library.path}-wal"), Path(f"{library.path}-shm")):
        side.unlink(missing_ok=True)
    library.path.write_bytes(damaged)
    for use in (lambda: library.search("harbour"), lambda: library.save([GARDEN]), library.count):
        with pytest.raises(DatabaseError, match="is damaged.*left as it is.*copy") as error:
            use()
        assert str(library.path) in str(error.value)
    assert library.path.read_bytes() == damaged


def test_the_daily_copy_takes_the_place_of_a_damaged_file(library: Library):
    yesterday = time.time() - 2 * 24 * 3600
    os.utime(copy_of(library.path), (yesterday, yesterday))
    library.save([SavedPrompt("the last of the day before")])  # the copy is made before it is written
    library.path.write_bytes(b"no database at all, but long enough to be taken for one" * 100)
    with pytest.raises(DatabaseError, match="copy"):
        library.search()
    copy_of(library.path).replace(library.path)
    assert texts(library.search()) == texts([CAFE, GARDEN, HARBOUR])


def test_a_damaged_file_is_never_copied_over_the_copy(library: Library):
    copy = copy_of(library.path)
    before = copy.read_bytes()
    os.utime(copy, (0, 0))
    with sqlite3.connect(library.path) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = bytearray(library.path.read_bytes())
    content[4096 : 4096 * 4] = b"\x7f" * 4096 * 3
    library.path.write_bytes(content)
    with pytest.raises(DatabaseError):
        library.save([SavedPrompt("one more")])
    assert copy.read_bytes() == before


def test_an_export_is_json_that_others_can_read(library: Library, tmp_path: Path):
    library.write_to(tmp_path / "prompts.json")
    entries = json.loads((tmp_path / "prompts.json").read_text(encoding="utf-8"))
    assert entries[0]["text"] == HARBOUR.text
    assert entries[0]["tags"] == ["light", "sea"]
