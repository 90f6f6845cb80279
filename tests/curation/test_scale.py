"""A hundred thousand paintings in one process: planned, filtered, composed and counted within two gigabytes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROCESS = Path(__file__).with_name("large_dataset.py")
PYTHON_ITSELF = 0.15  # of the two gigabytes, with numpy and matplotlib


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read as Linux tells it")
def test_a_hundred_thousand_records_are_planned_filtered_composed_and_counted_within_two_gigabytes(tmp_path):
    count = 100_000 if os.environ.get("IMPASTO_LONG") else 10_000
    run = subprocess.run([sys.executable, PROCESS, tmp_path, str(count)], capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stderr[-2000:]
    chosen, composed, passed, refused, peak = map(int, run.stdout.split())
    assert chosen == composed == count // 8
    assert passed + refused == count and count * 0.3 < passed < count * 0.9
    assert peak < 2e9 * max(count / 100_000, PYTHON_ITSELF)
