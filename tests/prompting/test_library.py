import json
import os
import random
import shutil
import signal
import sqlite3
import string
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import impasto
import pytest
from impasto.errors import SettingsError
from impasto.prompting.database import DatabaseError, copy_of, reading, writing
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


def test_it_knows_whether_a_prompt_is_there_as_it_is(library: Library):
    assert library.holds(HARBOUR)
    for other in (replace(HARBOUR, name="port"), replace(HARBOUR, tags=("sea",)), replace(HARBOUR, favourite=False)):
        assert not library.holds(other)
    assert not library.holds(SavedPrompt("a lighthouse"))


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
    assert [(queued.seed, queued.lora) for queued in library.queued()] == [(5, ""), (2**64 - 1, "monet")]


@pytest.mark.parametrize("words", ["etretat", "ÉTRETAT falai", ""])
def test_the_history_is_searched_as_the_library_is(library: Library, words: str):
    library.record("falaises à Étretat", 5)
    assert [queued.text for queued in library.queued(words)] == ["falaises à Étretat"]
    assert library.queued("tretat") == library.queued("étretat garden") == []


def test_a_library_made_before_the_history_had_words_gets_them_when_it_is_opened(library: Library):
    library.record("falaises à Étretat", 5)
    with sqlite3.connect(library.path) as database:
        database.executescript("DROP TRIGGER queued; DROP TABLE queued_words; PRAGMA user_version = 1;")
    library.record("a boat", 6)
    assert [queued.seed for words in ("etretat", "boat") for queued in library.queued(words)] == [5, 6]
    assert texts(library.search()) == texts([CAFE, GARDEN, HARBOUR])


@pytest.mark.parametrize("ending", ["json", "csv"])
def test_the_library_goes_out_and_in_again_whole(library: Library, tmp_path: Path, ending: str):
    library.save([SavedPrompt('with "quotes", commas\nand two lines', "=1+1", ("a b",))])
    library.record("a boat", 2**64 - 1, "monet")
    library.record("a boat", 5)
    file = tmp_path / f"prompts.{ending}"
    assert library.write_to(file) == (4, 2)
    other = Library(tmp_path / "other.sqlite")
    assert other.read_from(file) == (6, 6)
    assert other.search() == library.search()
    assert other.queued() == library.queued()
    assert other.read_from(file) == (0, 6)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.json", "{", "not JSON"),
        ("a.json", "{}", "does not hold a list"),
        ("a.json", '[{"text": "fine"}, {"name": "x"}]', "Entry 2"),
        ("a.json", '[{"text": "fine"}, {"text": "x", "created": "soon"}]', "'soon'"),
        ("a.json", '[{"text": "fine"}, {"text": "x", "queued": 5, "seed": "-1"}]', "Entry 2.*'-1'"),
        ("a.csv", "text,queued\nfine,\nx,soon\n", "queued at 'soon'"),
        ("a.csv", "name\nx\n", "no column 'text'"),
        ("a.csv", "text\nfine\n  \n", "Entry 2"),
        ("a.txt", "x", ".json or .csv"),
        ("a.csv", b"text\n\xff\n", "not UTF-8"),
        ("a.json", None, "There is no file"),
        ("a.json", '[{"text": "fine"}, {"text": "x", "created": NaN}]', "Entry 2.*created at 'nan'"),
        ("a.json", '[{"text": "fine"}, {"text": "x", "queued": Infinity}]', "Entry 2.*queued at 'inf'"),
        ("a.json", '[{"text": "fine"}, {"text": "x", "created": 1' + "0" * 400 + "}]", "Entry 2.*created"),
        ("a.json", r'[{"text": "fine"}, {"text": "half \ud83c"}]', "Entry 2.*half a character"),
        ("a.json", r'[{"text": "fine"}, {"text": "x", "tags": ["\ud83c"]}]', "Entry 2.*half a character"),
        ("a.json", '[{"text": "x", "queued": 5, "seed": "' + "9" * 5000 + '"}]', "Entry 1.*seed '9{40}'"),
        ("a.json", '[{"text": "x", "queued": 5, "seed": ' + "9" * 5000 + "}]", "not JSON"),
        ("a.csv", "text\nfine\n" + "x" * 131_073 + "\n", "Entry 2.*field limit"),
        ("a.csv", "text," + "x" * 131_073 + "\nfine,\n", "Entry 1.*field limit"),
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
    history = [{"text": prompt.text, "queued": 1 + n} for n, prompt in enumerate(library.search(limit=50_000))]
    (tmp_path / "history.json").write_text(json.dumps(history))
    assert library.read_from(tmp_path / "history.json") == (50_000, 50_000)
    queries = (
        {},
        {"words": "painting"},
        {"words": "hara garb"},
        {"words": "h"},
        {"words": "p o", "favourites": True},
        {"words": "painting nothing"},
        {"words": "n4999"},
        {"words": "painting", "offset": 1000},
        {"tag": words[3]},
        {"favourites": True},
    )
    in_both = [(library.queued, query) for query in queries if not query.keys() & {"tag", "favourites"}]
    for search, query in [*((library.search, query) for query in queries), *in_both]:
        seconds = []
        for _ in range(5):
            began = time.perf_counter()
            search(**query)
            seconds.append(time.perf_counter() - began)
        assert min(seconds) < 0.05, (search, query, seconds)


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
for n in range(int(sys.argv[4])):
    library.save([SavedPrompt(f"{sys.argv[3]} {n} part {part}") for part in range(10)])
    print(n, flush=True)
"""


def writer(file: Path, name: str, number: int) -> subprocess.Popen:
    """A process that saves ten prompts at a time, so many times, and says each time that they are saved."""
    conftest = REPOSITORY / "tests" / "conftest.py"
    command = [sys.executable, "-c", WRITER, str(conftest), str(file), name, str(number)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_two_processes_writing_at_once_lose_nothing(tmp_path: Path):
    file = tmp_path / "prompts.sqlite"
    with writer(file, "one", 30) as one, writer(file, "two", 30) as two:
        assert [each.wait(60) for each in (one, two)] == [0, 0]
    assert Library(file).count() == 600


@pytest.mark.parametrize("run", range(6))
def test_a_writer_killed_at_any_moment_loses_nothing_it_had_saved(tmp_path: Path, run: int):
    file = tmp_path / "prompts.sqlite"
    with writer(file, "prompt", 100_000) as process:
        assert process.stdout.readline() == "0\n"
        time.sleep(random.Random(run).uniform(0, 0.3))  # in the middle of a transaction, of a checkpoint, or between
        process.send_signal(signal.SIGKILL)
        told = [int(line) for line in process.stdout.read().splitlines() if line] or [0]
    library = Library(file)
    found = {prompt.text for prompt in library.search(limit=1_000_000)}
    assert found >= {f"prompt {n} part {part}" for n in range(told[-1] + 1) for part in range(10)}
    assert len(found) % 10 == 0
    with sqlite3.connect(file) as database:
        assert database.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    assert len(library.search("prompt 0 part")) >= 10
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


def test_a_row_that_the_tables_do_not_take_is_not_called_damage(library: Library):
    told = "UNIQUE.*file is sound and nothing was changed"
    with pytest.raises(DatabaseError, match=told), writing(library.path, "") as database:
        database.execute("UPDATE prompts SET text = 'the same'")
    assert texts(library.search()) == texts([CAFE, GARDEN, HARBOUR])


def test_a_mistake_in_using_sqlite_is_passed_on_as_it_is(library: Library):
    with pytest.raises(sqlite3.ProgrammingError), reading(library.path, "") as database:
        database.execute("SELECT ?", [])


NUMBER = 3000


@pytest.fixture
def large(tmp_path: Path) -> Library:
    """3,000 prompts and 300 of the history, in one file without a log; the daily copy is of before that."""
    library = Library(tmp_path / "prompts.sqlite")
    library.save([HARBOUR])
    library.save(SavedPrompt(f"{n}: a painting of {n * n}", f"name {n}", (f"t{n % 7}",), n == 7) for n in range(NUMBER))
    history = [
        {"text": f"queued {n}", "seed": str(2**64 - 1 - n), "lora": "monet", "queued": n + 1} for n in range(300)
    ]
    (tmp_path / "history.json").write_text(json.dumps(history))
    library.read_from(tmp_path / "history.json")
    assert not Path(f"{library.path}-wal").exists()
    return library


def damage(library: Library, *pages: int) -> bytes:
    """Overwrite pages of a library's file, counted from 0, and give what the file is then."""
    content = bytearray(library.path.read_bytes())
    for page in pages:
        content[page * 4096 : (page + 1) * 4096] = b"\x7f" * 4096
    library.path.write_bytes(content)
    return bytes(content)


def leaves(library: Library, table: str) -> list[int]:
    """Pages, counted from 0, that hold rows of a table."""
    words = {"prompts": (b": a painting of ", b"name "), "history": (b"queued ", b"monet")}[table]
    content = library.path.read_bytes()
    pages = [content[start : start + 4096] for start in range(0, len(content), 4096)]
    return [n for n, page in enumerate(pages) if page[0] == 0x0D and all(word in page for word in words)]


def test_a_library_whose_first_page_is_gone_is_repaired_whole(large: Library):
    before, history = large.search(limit=NUMBER + 1), large.queued(limit=300)
    damaged = damage(large, 0)
    with pytest.raises(DatabaseError, match="is damaged.*'repair'"):
        large.search("painting")
    repaired = large.repair()
    assert (repaired.rows, repaired.whole, repaired.from_copy) == (NUMBER + 1 + 300, True, 0)
    assert repaired.kept.read_bytes() == damaged
    assert large.search(limit=NUMBER + 1) == before
    assert large.queued(limit=300) == history
    assert texts(large.search("8994001 painting")) == ["2999: a painting of 8994001"]
    assert large.save([GARDEN]) == 1


def test_of_a_library_with_damaged_pages_all_others_are_read_and_it_is_said(large: Library):
    of_prompts = leaves(large, "prompts")
    of_history = leaves(large, "history")
    assert len(of_prompts) > 20 and len(of_history) > 2
    damage(large, of_prompts[3], of_prompts[-1], of_history[1])
    repaired = large.repair()
    lost = NUMBER + 1 + 300 - repaired.rows
    assert 3 < lost < 300  # what lay on three pages
    assert str(repaired).startswith("Part of it could not be read")
    assert str(repaired.kept) in str(repaired)
    assert large.count() + len(large.queued(limit=300)) == repaired.rows
    with sqlite3.connect(large.path) as database:
        assert database.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


def test_what_cannot_be_read_comes_from_the_daily_copy(large: Library):
    os.utime(copy_of(large.path), (0, 0))
    large.save([SavedPrompt("newer than the copy")])  # the copy is made before it is written
    before, history = large.search(limit=NUMBER + 2), large.queued(limit=300)
    damage(large, *leaves(large, "prompts")[5:9], leaves(large, "history")[0])
    repaired = large.repair()
    assert not repaired.whole and repaired.from_copy > 100
    assert large.search(limit=NUMBER + 2) == before
    assert large.queued(limit=300) == history


def test_of_a_file_that_is_no_database_the_copy_is_what_there_is(library: Library):
    os.utime(copy_of(library.path), (0, 0))
    library.save([SavedPrompt("the last of the day before")])
    library.path.write_bytes(b"no database at all, but long enough to be taken for one" * 100)
    with pytest.raises(DatabaseError, match="copy"):
        library.search()
    assert library.repair().from_copy == 3
    assert texts(library.search()) == texts([CAFE, GARDEN, HARBOUR])


def test_what_a_killed_writer_left_in_the_log_is_repaired_too(large: Library, tmp_path: Path):
    open_elsewhere = sqlite3.connect(large.path)  # keeps the log from being worked into the file
    open_elsewhere.execute("SELECT count(*) FROM prompts").fetchone()
    large.save([SavedPrompt("only in the log")])
    killed = Library(tmp_path / "killed" / "prompts.sqlite")
    killed.path.parent.mkdir()
    for side in ("", "-wal"):
        shutil.copyfile(f"{large.path}{side}", f"{killed.path}{side}")
    open_elsewhere.close()
    damage(killed, leaves(killed, "prompts")[2])
    killed.repair()
    assert texts(killed.search("log")) == ["only in the log"]


def test_a_sound_library_is_repaired_to_itself(library: Library):
    library.remove(GARDEN.text)
    before = library.search()
    assert library.repair().from_copy == 0  # nor does what was removed come back
    assert library.search() == before


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


def test_what_sqlite_has_rolled_back_itself_is_told_as_what_it_was(library: Library):
    """As it may when the disk is full; ROLLBACK in the statement has it do so here."""
    with pytest.raises(DatabaseError, match="UNIQUE"), writing(library.path, "") as database:
        database.execute("UPDATE OR ROLLBACK prompts SET text = 'the same'")
    assert texts(library.search()) == texts([CAFE, GARDEN, HARBOUR])


def test_a_copy_that_is_held_by_another_program_stops_no_save(library: Library, monkeypatch, caplog):
    """On Windows a file that a virus scanner has open cannot be replaced."""

    def held(*paths: object) -> None:
        raise PermissionError(13, "The process cannot access the file")

    os.utime(copy_of(library.path), (0, 0))
    monkeypatch.setattr(os, "replace", held)
    assert library.save([SavedPrompt("a lighthouse")]) == 1
    assert "cannot access the file" in caplog.text
    assert texts(library.search("lighthouse")) == ["a lighthouse"]
