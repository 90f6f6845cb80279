"""Full and read-only disks, long names, files in the way: each writer says which file, what it needs and what to do."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from impasto import files
from impasto.errors import DiskError

WRITERS = Path(__file__).with_name("disk_writers.py")


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What every writer says, by disk, on file systems of the test's own."""
    folder = tmp_path_factory.mktemp("disk")
    report = folder / "report.json"
    command = [sys.executable, str(WRITERS), str(folder / "disk"), str(report)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(["unshare", "-rm", *command], capture_output=True, text=True, env=environment)
    assert report.is_file(), done.stderr
    return json.loads(report.read_text()) | {"root": str(folder / "disk")}


@pytest.mark.parametrize("disk", ["full", "read-only"])
def test_every_writer_names_the_file_what_is_wrong_and_what_to_do(told, disk):
    for writer, (kinds, text) in told[disk].items():
        assert "ImpastoError" in kinds, (writer, kinds, text)
        assert told["root"] in text and disk in text, (writer, text)
        assert "[Errno" not in text and "os error" not in text, (writer, text)
        assert ("Free some space" in text) == (disk == "full"), (writer, text)
        assert disk == "full" or "Make it writable, or give ComfyUI another folder" in text, (writer, text)


def test_a_full_disk_is_left_without_half_written_files(told):
    assert told["left"] == []


def test_a_full_disk_is_told_with_what_was_needed_and_what_is_free(told):
    _, text = told["full"]["store a picture"]
    assert re.search(r"images/\w{64}\.png \([\d,]+ bytes\) could not be written: .* with 0 bytes free in /", text)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            r"a\.json could not be written: the disk is full, with .* free",
        ),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "your quota is used up"),
        (OSError(errno.EFBIG, "File too large"), "larger than a file may be there"),
        (OSError(errno.EIO, "Input/output error"), "reports an error of its own"),
        (PermissionError(errno.EACCES, "Permission denied", "{folder}/a.json"), "has no permission. Give it in"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "the disk is full"),
        (RuntimeError("database or disk is full"), "the disk is full"),
    ],
)
def test_what_the_system_and_libraries_raise_is_told_with_the_file_and_a_remedy(tmp_path, error, said):
    if getattr(error, "filename", None):
        error.filename = error.filename.format(folder=tmp_path)
    with pytest.raises(DiskError, match=said) as raised, files.writing(tmp_path / "a.json"):
        raise error
    assert raised.value.__cause__ is error and str(tmp_path / "a.json") in str(raised.value)


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file", "/pictures/gone.png"),
        PermissionError(errno.EACCES, "Permission denied", "/pictures/secret.png"),  # was read, not written
        ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
        ValueError("the 28th picture"),
    ],
)
def test_what_has_nothing_to_do_with_the_disk_is_raised_as_it_is(tmp_path, error):
    with pytest.raises(type(error)) as raised, files.writing(tmp_path / "a.json"):
        raise error
    assert raised.value is error


def test_real_names_files_and_limits_in_the_way_are_told(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    for path, said in {
        tmp_path / "file" / "a.json": "there is a file where a folder is needed",
        tmp_path / ("long" * 100) / "a.json": "its name is too long",
    }.items():
        for write in (files.write_whole, files.append_line):
            with pytest.raises(DiskError, match=said):
                write(path, "x")
    script = (
        f"import runpy, sys; runpy.run_path({str(WRITERS.with_name('conftest.py'))!r})\n"
        "from impasto import files\n"
        f"files.write_whole({str(tmp_path / 'large')!r}, bytes(100_000))\n"
    )
    limited = subprocess.run(
        ["sh", "-c", 'ulimit -f 8; exec "$@"', "sh", sys.executable, "-c", script], capture_output=True, text=True
    )
    assert "large (0.1 MB) could not be written: it is larger than a file may be there" in limited.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
