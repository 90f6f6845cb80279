"""Evaluate LoRA's verdict on runs of the tiny FLUX whose right answer is known: `benchmarks/judging.py`, asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
CONTROLS = ("rate 0", "plain pictures")
RIGHT = 0.9  # of the verdicts, at least


def judged(folder: Path, *arguments: str) -> list[dict]:
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "judging.py"), "--folder", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=5400)
    assert done.returncode == 0, done.stderr
    return [json.loads(file.read_bytes()) for file in sorted(folder.glob("*.json"))]


def test_a_later_step_of_an_ordinary_run_is_kept_and_a_run_that_learned_nothing_is_no_better(tmp_path, record_property):
    lines = {line["kind"]: line for line in judged(tmp_path, "--seeds", "0", "--only", "ordinary", "rate 0")}
    assert set(lines) == {"ordinary", "rate 0"}
    for line in lines.values():
        record_property("measured", f"{line['kind']}: keep {line['keep']}, right {line['right']}, {line['faults']}")
        assert not line["faults"]
    assert lines["rate 0"]["keep"] is None
    keep = lines["ordinary"]["keep"]
    assert keep in lines["ordinary"]["right"]
    assert lines["ordinary"]["truth"][str(keep)]["style"] > 0.5  # by the judges, who see other scenes


@pytest.mark.skipif(not os.environ.get("IMPASTO_LONG"), reason="a long test; set IMPASTO_LONG")
def test_of_runs_whose_answer_is_known_nine_in_ten_are_judged_right_and_no_control_improved(tmp_path, record_property):
    lines = judged(tmp_path)
    wrong = {f"{line['kind']}, seed {line['seed']}": line["faults"] for line in lines if line["faults"]}
    improved = [line for line in lines if line["kind"] in CONTROLS and line["keep"] is not None]
    record_property("measured", f"{len(lines) - len(wrong)} of {len(lines)} verdicts right, wrong: {wrong}")
    assert len(lines) >= 10 and len(wrong) <= (1 - RIGHT) * len(lines)
    assert not improved
