"""The benchmark of the Florence-2 Captioner runs and tells all it should; what it measures here means nothing."""

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def test_it_sets_batches_beside_a_plain_loop():
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "florence.py"), "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines() if line[:1] == "|"
    ]
    assert [(name, batch) for name, batch, *_ in rows[2:]] == [
        ("plain transformers loop", "1"),
        ("Impasto", "1"),
        ("Impasto", "2"),
    ]
    assert all(float(row[2]) > 0 and float(row[3]) > 0 for row in rows[2:])
    assert rows[2][4:] == ["1.00x", "1.00x"]
    assert "Best batch: " in done.stdout
