"""What the server under attack writes and connects to is noted, and it connects to nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import os, pathlib, shutil, socket, sqlite3, urllib.request
here = pathlib.Path.cwd()
(here / "read").read_text()
(here / "written").write_text("x")
os.mkdir("folder")
descriptor = os.open("folder", os.O_RDONLY)
os.mkdir("relative", dir_fd=descriptor)
os.rename("written", "renamed")
os.symlink("renamed", "link")
pathlib.Path("link").write_text("y")
sqlite3.connect("file:data.sqlite?mode=rwc", uri=True)
shutil.rmtree("folder/relative")
for address in ("http://169.254.169.254/latest/", "http://127.0.0.1:9/", "https://evil.invalid/"):
    try:
        urllib.request.urlopen(address, timeout=5)
    except OSError as error:
        print(error)
"""


def test_writes_in_every_way_and_every_connection_are_noted(tmp_path: Path):
    (tmp_path / "read").write_text("x")
    watch = tmp_path / "watch.jsonl"
    environment = {"PYTHONPATH": str(Path(__file__).parent / "watched"), "IMPASTO_WATCH": str(watch)}
    environment |= {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    notes = [json.loads(line) for line in watch.read_text().splitlines()]
    written = {Path(what).relative_to(tmp_path.resolve()).as_posix() for kind, what in notes if kind == "write"}
    assert written == {"written", "folder", "folder/relative", "renamed", "link", "data.sqlite"}
    assert [what for kind, what in notes if kind == "connect"] == ["('127.0.0.1', 9)"]
    assert [what for kind, what in notes if kind == "look up"] == ["169.254.169.254", "evil.invalid"]
    assert done.stdout.count("nothing is connected to here") + done.stdout.count("not looked up here") == 3
