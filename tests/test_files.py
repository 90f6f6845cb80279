"""Files that appear whole: also while somebody reads what they replace, and while another server writes there."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from impasto import files
from impasto.errors import DiskError

from .leftovers import of_a_killed_process, of_another_machine


@pytest.fixture
def read_by_another(monkeypatch):
    """How often a file is refused to be replaced, as Windows does while it is open; counts down."""
    replace, refusals = os.replace, [3]

    def refusing(source, target):
        if refusals[0]:
            refusals[0] -= 1
            raise PermissionError(13, "Access is denied", str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", refusing)
    return refusals


def test_on_windows_a_file_that_is_being_read_is_replaced_once_it_is_closed(tmp_path, monkeypatch, read_by_another):
    monkeypatch.setattr(files, "_WINDOWS", True)
    files.write_whole(tmp_path / "status.json", "new")
    assert (tmp_path / "status.json").read_text() == "new" and read_by_another == [0]


def test_a_file_that_may_not_be_replaced_is_an_error_and_nothing_is_left_behind(tmp_path, read_by_another):
    (tmp_path / "status.json").write_text("old")
    with pytest.raises(DiskError, match=r"status\.json \(3 bytes\) could not be written.*close the program"):
        files.write_whole(tmp_path / "status.json", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]
    assert (tmp_path / "status.json").read_text() == "old"


HOSTILE_JSON = ["[" * 100_000, '{"a": ' * 50_000, '{"time": ' + "9" * 5_000 + "}", '{"torn": ']


@pytest.mark.parametrize("text", HOSTILE_JSON)
def test_json_that_python_cannot_hold_is_a_value_error_and_costs_its_line_alone(tmp_path, text):
    with pytest.raises(ValueError):
        files.parsed_json(text)
    (tmp_path / "lines.jsonl").write_text(f'{{"a": 1}}\n{text}\n{{"b": 2}}\n')
    assert files.read_jsonl(tmp_path / "lines.jsonl") == [{"a": 1}, {"b": 2}]


WRITER = """
import runpy, sys, time
runpy.run_path(sys.argv[1])
from impasto import files
with files.appearing(sys.argv[2]) as temporary:
    temporary.write_bytes(b"half")
    print(temporary, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def another_server(tmp_path):
    """A process that is writing to a folder, and the half-written file it has there."""
    arguments = [
        sys.executable,
        "-c",
        WRITER,
        str(Path(__file__).with_name("conftest.py")),
        str(tmp_path / "picture.png"),
    ]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        yield process, Path(process.stdout.readline().strip())
        process.kill()


def test_what_another_living_process_has_under_way_stays_and_goes_once_it_is_killed(another_server, tmp_path):
    process, half = another_server
    files.remove_partials(tmp_path)
    assert half.exists() and half.suffix == ".png"
    process.kill()
    process.wait()
    files.remove_partials(tmp_path)
    assert not half.exists()


def test_what_this_process_has_under_way_stays_however_old_it_is(tmp_path, monkeypatch):
    now = time.time()
    with files.appearing(tmp_path / "model.safetensors") as temporary:
        temporary.write_bytes(b"half")
        monkeypatch.setattr(time, "time", lambda: now + 10 * files.ABANDONED)
        files.remove_partials(tmp_path)
        assert temporary.exists()


def test_what_is_of_another_machine_or_an_earlier_version_goes_once_nothing_of_it_was_touched_for_long(
    tmp_path, monkeypatch
):
    elsewhere, earlier = of_another_machine(tmp_path / "copy"), tmp_path / ".partial-12345678-a.json"
    elsewhere.mkdir()
    (elsewhere / "part").write_bytes(b"half")
    earlier.write_bytes(b"{")
    files.remove_partials(tmp_path)
    assert elsewhere.exists() and earlier.exists()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + files.ABANDONED)
    files.remove_partials(tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_id_that_the_system_has_given_to_another_process_keeps_nothing(tmp_path):
    of_a_killed_process(tmp_path / "picture.png").write_bytes(b"half")
    files.remove_partials(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_longest_name_a_file_can_have_is_written(tmp_path):
    for name in ("a" * 251 + ".txt", "梅" * 83 + ".txt", "\U0001f600" * 62 + ".txt"):
        files.write_whole(tmp_path / name, name)
        assert (tmp_path / name).read_text() == name
