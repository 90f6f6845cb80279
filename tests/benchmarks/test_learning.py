"""The benchmark of what is learned runs and tells all it should; what it measures here means nothing."""

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
WORDS = ("PEFT", "TrainLoraNode", "Mucha", "falling", "late")


def test_every_way_chosen_has_its_row_on_equal_steps_and_on_equal_seconds():
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "learning.py"), "--quick", "--only", *WORDS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert " fails: " not in done.stdout
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines() if line[:1] == "|"
    ]
    names = [name for name, *_ in rows]
    half = len(rows) // 2
    assert names[:half] == names[half:] and names[0] == "way of training"
    assert all(any(word in name for name in names) for word in WORDS)
    cells = [row for row in rows[:half] if row[1] == "2"]  # on equal steps, those that QUICK asks for
    assert len(cells) == half - 2 and all(float(row[2]) > 0 for row in cells)
