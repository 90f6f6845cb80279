"""The benchmark of a full-size model runs and tells all it should; what it measures here means nothing."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(sys.platform != "linux", reason="the benchmark reads memory from /proc")
def test_it_writes_loads_trains_and_cleans_up(tmp_path):
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "full_size.py"), "--quick", "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| Impasto")]
    assert len(rows) == 1
    assert all(float(cell) >= 0 for cell in rows[0][2:])
    step = re.search(r"One training step: peak ([\d.]+) GB, ([\d.]+) s by the clock.* loss ([\d.]+)\.", done.stdout)
    assert step, done.stdout
    assert all(float(number) > 0 for number in step.groups())
    assert list(tmp_path.iterdir()) == []
