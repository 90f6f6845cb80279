"""Budgets whose clock is set back, and whose files hold what nobody wrote."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
from impasto.captioners.captioner import Picture
from impasto.captioners.ledger import Answer, Question, append_answer, read_ledger
from impasto.captioners.quota import MARGIN, MINUTE, ProjectBudget, ProjectLimits, midnight
from impasto.captioners.runner import waiting_pictures
from impasto.clock import Clock

NOON = 1_800_000_000.0
LIMITS = ProjectLimits(3, 10**6, 100)


def standing(time: float) -> Clock:
    return Clock(time, 0.0)


def budget(file: Path, time: float) -> ProjectBudget:
    return ProjectBudget("one", LIMITS, file, standing(time))


@pytest.mark.parametrize("back", [3600.0, 365 * 86_400.0])
def test_a_clock_that_is_set_back_costs_at_most_a_minute(tmp_path, back, caplog):
    before = budget(tmp_path / "usage.jsonl", NOON)
    for _ in range(3):
        assert before.spend(10)
    before.pause(30.0)

    now = NOON - back
    assert 0 < budget(tmp_path / "usage.jsonl", now).wait(10) <= MINUTE + MARGIN
    assert "set back" in caplog.text
    # a restart does not count them anew
    assert budget(tmp_path / "usage.jsonl", now + MINUTE + 2 * MARGIN).wait(10) == 0
    before.clock = standing(now + 3 * MINUTE)  # nor does the process that was running meanwhile
    assert before.wait(10) == 0 and before.spend(10)


def test_a_day_that_was_over_in_the_future_is_over_until_midnight_at_most(tmp_path):
    before = budget(tmp_path / "usage.jsonl", NOON)
    before.spend(10)
    before.end_day()
    now = NOON - 365 * 86_400.0
    assert budget(tmp_path / "usage.jsonl", now).wait(10) == math.inf
    assert budget(tmp_path / "usage.jsonl", midnight(now) + 1).wait(10) == 0


WRONG = [
    {"request": ["a"], "time": 1.0, "tokens": 1},
    {"request": "a", "time": "noon", "tokens": 1},
    {"request": "a", "time": float("nan"), "tokens": 1},
    {"request": "a", "time": float("inf"), "tokens": 1},
    {"request": "a", "time": 1.0, "tokens": "many"},
    {"request": "a", "time": 1.0, "tokens": 1e999},
    {"paused_until": "tomorrow"},
    {"paused_until": float("inf")},
    {"spent_until": [1]},
    [1, 2],
    "text",
]


def test_values_of_another_type_are_one_bad_line_of_the_usage(tmp_path):
    file = tmp_path / "usage.jsonl"
    good = {"request": "b", "time": NOON - 1, "tokens": 7}
    file.write_text(
        "".join(json.dumps(line) + "\n" for line in [*WRONG, good]) + "9" * 5_000 + "\n" + "[" * 100_000 + "\n"
    )
    found = budget(file, NOON)
    assert [request.tokens for request in found.requests] == [7]
    assert found.wait(1) == 0 and found.spend(1)


def test_values_of_another_type_are_one_bad_line_of_the_captions(tmp_path):
    file = tmp_path / "captions.jsonl"
    question, answer = Question("a" * 64, "one", "", "p"), Answer("a boat", "stop", 3, 0.1, "now")
    append_answer(file, question, answer)
    line = json.loads(file.read_text())
    for name in line:
        for wrong in ([1], {"a": 1}, True):
            with file.open("a") as lines:
                lines.write(json.dumps(line | {name: wrong}) + "\n")
    assert read_ledger(file) == {question: answer}


def test_what_was_said_of_a_file_counts_for_the_picture_made_of_it(tmp_path):
    """Datasets of earlier versions were captioned before private data was taken out of their files."""
    captioner = SimpleNamespace(name="one", model="", prompt=lambda picture: "p")
    file = tmp_path / "captions.jsonl"
    append_answer(file, Question("a" * 64, "one", "", "p"), Answer("a boat", "stop", 3, 0.1, "now"))
    made = Picture("b" * 64, tmp_path / "b.jpg", 64, 64, source_sha256="a" * 64)
    other = Picture("c" * 64, tmp_path / "c.jpg", 64, 64)
    assert waiting_pictures(captioner, [made, other], file) == [other]
