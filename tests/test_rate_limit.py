"""A limiter whose clock is set back, and whose ledger holds what nobody wrote."""

from __future__ import annotations

import json

import pytest
from impasto.clock import Clock
from impasto.rate_limit import Limit, RateLimiter, wait_for_room

YEAR = 365 * 86_400.0


class SetClock(Clock):
    """A clock that stands until it is set, and runs while somebody waits."""

    def __init__(self) -> None:
        self.at = 1_800_000_000.0

    def time(self) -> float:
        return self.at

    def wait(self, seconds: float) -> None:
        self.at += seconds


@pytest.mark.parametrize("back", [3600.0, YEAR])
def test_a_clock_that_is_set_back_costs_at_most_one_period(tmp_path, back, caplog):
    clock = SetClock()
    limiter = RateLimiter([Limit(2, 60.0)], clock, tmp_path / "requests.jsonl")
    for _ in range(2):
        with limiter.call():
            pass
    limiter.pause(5.0)
    clock.at -= back
    assert 0 < limiter.countdown() <= 60.0
    assert "set back" in caplog.text
    began = clock.at
    with limiter.call():
        pass
    assert clock.at - began <= 61.0
    clock.at -= back  # and a restart
    again = RateLimiter([Limit(2, 60.0)], clock, tmp_path / "requests.jsonl")
    assert 0 < again.countdown() <= 60.0


def test_lines_of_another_type_are_passed_over(tmp_path):
    clock = SetClock()
    ledger = tmp_path / "requests.jsonl"
    values = ["yesterday", None, [1], {"a": 1}, True, float("nan"), float("inf"), clock.at - 1]
    ledger.write_text("".join(json.dumps({"time": value}) + "\n" for value in values) + "[]\n3\n")
    assert RateLimiter([Limit(10, 60.0)], clock, ledger).calls_left(Limit(10, 60.0)) == 9


def test_there_is_room_again_when_enough_of_what_was_used_is_old_enough():
    limit = Limit(100, 60.0)
    used = [(0.0, 60), (10.0, 30), (20.0, 10)]
    assert wait_for_room(used, 0, limit, 30.0) == 0
    assert wait_for_room(used, 60, limit, 30.0) == 30.0  # until the first is a minute old
    assert wait_for_room(used, 61, limit, 30.0) == 40.0
    assert wait_for_room(used, 1_000, limit, 30.0) == 50.0  # more than the limit: when all else is gone
    assert wait_for_room([], 1_000, limit, 30.0) == 0
