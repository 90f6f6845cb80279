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
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import impasto
import pytest
from impasto.errors import SettingsError
from impasto.prompting.database import DatabaseError, copies_of, reading, writing
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
    assert other.read_from(file) == (6, 6, 0)
    assert other.search() == library.search()
    assert other.queued() == library.queued()
    assert other.read_from(file) == (0, 6, 0)


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
        ("a.json", r'[{"text": "fine"}, {"text": "\ud83c"}]', "Entry 2.*no text"),
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


def test_what_no_word_has_is_taken_out_of_the_entries_of_a_file_and_counted(library: Library, tmp_path: Path):
    half = r'{"text": "half \ud83c", "tags": ["x\udfff"], "name": "a\u0000b"}'
    (tmp_path / "a.json").write_text(rf'[{{"text": "fine \ud83c\udf3b"}}, {half}, {{"text": "x"}}]')
    assert library.read_from(tmp_path / "a.json") == (3, 3, 1)
    assert SavedPrompt("half", "a b", ("x",)) in [
        SavedPrompt(found.text, found.name, found.tags) for found in library.search("half")
    ]
    assert [found.text for found in library.search("fine")] == ["fine 🌻"]


def seconds_of(work: Callable[[], object]) -> list[float]:
    """Of the processor, each time of five."""
    spent = []
    for _ in range(5):
        began = time.thread_time()
        work()
        spent.append(time.thread_time() - began)
    return spent


def test_a_search_among_50000_prompts_takes_a_tenth_of_going_through_them_at_most(tmp_path: Path):
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
    assert library.read_from(tmp_path / "history.json") == (50_000, 50_000, 0)
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
    gone_through = min(seconds_of(lambda: ["hara" in found.text for found in library.search(limit=50_000)]))
    in_both = [(library.queued, query) for query in queries if not query.keys() & {"tag", "favourites"}]
    for search, query in [*((library.search, query) for query in queries), *in_both]:
        seconds = min(seconds_of(lambda search=search, query=query: search(**query)))
        assert seconds < 0.1 * gone_through, (search, query, seconds, gone_through)  # 0.01 on an idle core


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


def copies(library: Library) -> list[Path]:
    return copies_of(library.path)


def make_older(library: Library, days: int = 1) -> Path:
    """Give the last daily copy an earlier date, so that the next write makes another."""
    copy = copies(library)[0]
    day = time.strftime("%Y-%m-%d", time.localtime(time.time() - days * 24 * 3600))
    return copy.rename(copy.with_name(f"prompts.copy-{day}.sqlite"))


def damage(path: Path) -> bytes:
    """Overwrite a file's second to fourth page, which hold its rows, and give what it is then."""
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = bytearray(path.read_bytes())
    content[4096 : 4096 * 4] = b"\x7f" * 4096 * 3
    path.write_bytes(content)
    return bytes(content)


def test_the_copy_of_the_first_day_holds_what_the_library_began_with(library: Library):
    (copy,) = copies(library)
    assert time.strftime("%Y-%m-%d") in copy.name
    with sqlite3.connect(copy) as database:
        assert database.execute("SELECT count(*) FROM prompts").fetchone()[0] == 3


def test_a_day_has_one_copy_and_seven_days_are_kept(library: Library):
    old = library.path.with_name("prompts.copy.sqlite")  # as earlier versions made it
    shutil.copyfile(copies(library)[0], old)
    for day in range(10, 0, -1):
        make_older(library, day)
        library.save([SavedPrompt(f"{day} days ago")])
        library.save([SavedPrompt(f"{day} days ago, later")])
    assert len(copies(library)) == 7 and not old.exists()
    assert sorted(copies(library)) == sorted(library.path.parent.glob("*.copy*"))


def test_a_damaged_library_becomes_its_newest_good_copy_and_is_kept(library: Library):
    make_older(library, 2)
    library.save([SavedPrompt("of the day before")])  # the copy is made before it is written
    good = make_older(library)
    library.save([SavedPrompt("of today")])
    damage(copies(library)[0])
    damaged = damage(library.path)
    with pytest.raises(DatabaseError, match="is damaged.*'repair'.*newest good daily copy"):
        library.search("harbour")
    repaired = library.repair()
    assert repaired.copy == good and repaired.kept.read_bytes() == damaged
    assert texts(library.search()) == texts([CAFE, GARDEN, HARBOUR])
    told = str(repaired)
    assert good.stem[-10:] in told and "3 entries" in told and str(repaired.kept) in told
    assert library.save([SavedPrompt("and on it goes")]) == 1


def test_the_copy_that_an_earlier_version_made_is_good_too(library: Library):
    copies(library)[0].rename(library.path.with_name("prompts.copy.sqlite"))
    damage(library.path)
    assert library.repair().entries == 3
    assert texts(library.search("harbour")) == [HARBOUR.text]


def test_an_empty_file_is_damage_and_no_new_library(library: Library):
    library.path.write_bytes(b"")
    for use in (library.search, library.count, lambda: library.save([GARDEN])):
        with pytest.raises(DatabaseError, match="is damaged.*empty.*'repair'"):
            use()
    assert library.path.stat().st_size == 0
    assert library.repair().entries == 3


def test_without_a_good_copy_a_library_begins_anew_and_it_is_said(library: Library):
    copies(library)[0].write_bytes(b"no database at all, but long enough to be taken for one" * 100)
    damaged = damage(library.path)
    repaired = library.repair()
    assert str(repaired).startswith("There is no good daily copy, so that it begins anew, empty.")
    assert library.count() == 0 and repaired.kept.read_bytes() == damaged


def test_what_a_killed_writer_left_in_the_log_is_kept_with_the_damaged_file(library: Library):
    with sqlite3.connect(library.path) as elsewhere:  # keeps the log from being worked into the file
        elsewhere.execute("SELECT count(*) FROM prompts").fetchone()
        library.save([SavedPrompt("only in the log")])
        log = Path(f"{library.path}-wal").read_bytes()
        content = library.path.read_bytes()
    elsewhere.close()
    library.path.write_bytes(b"\xff" * 4096 + content[4096:])
    Path(f"{library.path}-wal").write_bytes(log)
    kept = library.repair().kept
    assert Path(f"{kept}-wal").read_bytes() == log and b"only in the log" in log
    assert texts(library.search()) == texts([CAFE, GARDEN, HARBOUR])


def test_a_sound_library_is_left_as_it_is(library: Library):
    library.remove(GARDEN.text)
    repaired = library.repair()  # nor does what was removed come back
    assert repaired.kept is None and "2 entries" in str(repaired)
    assert texts(library.search()) == texts([CAFE, HARBOUR])
    assert not list(library.path.parent.glob("*.damaged-*"))


def test_a_damaged_file_is_never_copied(library: Library):
    before = make_older(library)
    damage(library.path)
    with pytest.raises(DatabaseError):
        library.save([SavedPrompt("one more")])
    assert copies(library) == [before]


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

    make_older(library)
    monkeypatch.setattr(os, "replace", held)
    assert library.save([SavedPrompt("a lighthouse")]) == 1
    assert "close the program that holds the file" in caplog.text
    assert texts(library.search("lighthouse")) == ["a lighthouse"]
