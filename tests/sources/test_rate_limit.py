"""A pace whose clock is set back, and whose ledger holds what nobody wrote."""

from __future__ import annotations

import json

import pytest
from impasto.sources.rate_limit import Clock, Limit, Pace

YEAR = 365 * 86_400.0


class SetClock:
    """A clock that stands until it is set, and runs while somebody sleeps."""

    def __init__(self) -> None:
        self.time = 1_800_000_000.0

    def clock(self) -> Clock:
        return Clock(lambda: self.time, self.sleep)

    def sleep(self, seconds: float) -> None:
        self.time += seconds


@pytest.mark.parametrize("back", [3600.0, YEAR])
def test_a_clock_that_is_set_back_costs_at_most_one_period(tmp_path, back, caplog):
    at = SetClock()
    pace = Pace([Limit(2, 60.0)], at.clock(), tmp_path / "requests.jsonl")
    for _ in range(2):
        with pace.call():
            pass
    pace.pause(5.0)
    at.time -= back
    assert 0 < pace.countdown() <= 60.0
    assert "set back" in caplog.text
    began = at.time
    with pace.call():
        pass
    assert at.time - began <= 61.0
    at.time -= back  # and a restart
    again = Pace([Limit(2, 60.0)], at.clock(), tmp_path / "requests.jsonl")
    assert 0 < again.countdown() <= 60.0


def test_lines_of_another_type_are_passed_over(tmp_path):
    at = SetClock()
    ledger = tmp_path / "requests.jsonl"
    values = ["yesterday", None, [1], {"a": 1}, True, float("nan"), float("inf"), at.time - 1]
    ledger.write_text("".join(json.dumps({"time": value}) + "\n" for value in values) + "[]\n3\n")
    assert Pace([Limit(10, 60.0)], at.clock(), ledger).calls_left(Limit(10, 60.0)) == 9
