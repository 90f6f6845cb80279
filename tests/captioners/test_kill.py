"""A captioning process killed with SIGKILL again and again: nothing that the ledger holds is asked or paid twice.

What the server had answered at the instant of a kill and the process had not yet written cannot be known to either;
it is at most the calls in flight.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from impasto.captioners.clock import ScaledClock
from impasto.captioners.ledger import read_ledger
from impasto.captioners.quota import Limits
from impasto.tests.captioners.gemini_server import GeminiServer, serving
from impasto.tests.captioners.test_gemini import KEYS, write_keys

SCALE = 20  # times as fast as the clock
KILLS, PICTURES = (20, 1_000) if os.environ.get("IMPASTO_LONG") else (3, 120)
PROCESS = Path(__file__).with_name("captioning_process.py")
IN_FLIGHT = 8  # calls at a time, which a kill may cost


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_killed_again_and_again_only_calls_in_flight_are_sent_again(make_dataset, tmp_path, record_property):
    clock = ScaledClock(time.time(), SCALE)
    limits = Limits(15, 250_000, 1_500)
    dataset = make_dataset(PICTURES)
    user = tmp_path / "user"
    chance = random.Random(1)

    def held() -> set[str]:
        return {question.image for question in read_ledger(dataset.captions_ledger)}

    with serving(GeminiServer({key: limits for key in KEYS.values()}, clock=clock, latency=0.1)) as server:
        write_keys(user, server.url, KEYS)
        command = [sys.executable, PROCESS, dataset.folder, dataset.revision, user, str(clock.start), str(SCALE)]
        asked_before: list[tuple[int, set[str]]] = []
        for _ in range(KILLS):
            process = subprocess.Popen(command)
            before, deadline = len(server.requests), time.monotonic() + 30
            while len(server.requests) == before and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 2))
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            asked_before.append((len(server.requests), held()))
        assert subprocess.run(command, timeout=300).returncode == 0

    assert held() == {record.sha256 for record in dataset.records()}
    begin, in_flight = 0, Counter()
    for requests, known in asked_before:
        assert not {request.picture for request in server.requests[requests:]} & known
        lost = {request.picture for request in server.requests[begin:requests]} - known
        assert len(lost) <= IN_FLIGHT
        in_flight.update(lost)
        begin = requests
    # A call in flight may have been answered without the answer having been read; only such a one is sent twice.
    twice = {picture: times - 1 for picture, times in server.answered.items() if times > 1}
    assert all(times <= in_flight[picture] for picture, times in twice.items())
    record_property("calls lost in flight", in_flight.total())
    record_property("of them answered by the server", len(twice))
