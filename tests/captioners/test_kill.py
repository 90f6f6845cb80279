"""A captioning process killed with SIGKILL again and again, through faults: what the ledger holds is never asked twice.

None twice "as the server counted" cannot be had together with a caption for every picture: a process killed between an
answer's departure and its arrival on disk cannot tell that call from one that was lost on the way there, and Gemini
neither takes a request's id nor hands an answer out again. So a kill costs at most the calls in flight, which is shown
here, and how many of them it really cost is recorded.
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
from impasto.captioners.captioner import Kind
from impasto.captioners.clock import ScaledClock
from impasto.captioners.gemini import GeminiCaptioner, GeminiSettings
from impasto.captioners.ledger import read_ledger
from impasto.captioners.quota import Limits
from impasto.files import read_jsonl
from impasto.tests.captioners.gemini_server import GeminiServer, serving
from impasto.tests.captioners.test_gemini import KEYS, write_keys

SCALE = 20  # times as fast as the clock
KILLS, PICTURES = (20, 1_000) if os.environ.get("IMPASTO_LONG") else (3, 120)
PROCESS = Path(__file__).with_name("captioning_process.py")
IN_FLIGHT = 8  # calls at a time of three projects with 15 requests a minute: what a kill may cost
FAULTS = ("429", "500", "503", "drop", "hang", "prompt blocked", "answer blocked", "no candidates", "malformed")
SHARE = 0.05  # of the replies, at random
BLOCKS = {Kind.PROMPT_BLOCKED.value, Kind.ANSWER_BLOCKED.value}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_killed_again_and_again_through_faults_only_calls_in_flight_are_sent_again(
    make_dataset, tmp_path, record_property
):
    clock = ScaledClock(time.time(), SCALE)
    limits = Limits(15, 250_000, 1_500)
    dataset = make_dataset(PICTURES)
    pictures = {record.sha256 for record in dataset.records()}
    user = tmp_path / "user"
    chance, faults = random.Random(1), random.Random(4)

    def fault(number: int, picture: str) -> str | None:
        return faults.choice(FAULTS) if faults.random() < SHARE else None

    def held() -> set[str]:
        return {question.image for question in read_ledger(dataset.captions_ledger)}

    projects = {key: limits for key in KEYS.values()}
    with serving(GeminiServer(projects, clock=clock, latency=0.1, fault=fault)) as server:
        write_keys(user, server.url, KEYS)
        assert GeminiCaptioner(GeminiSettings(tuple(KEYS), limits=limits), user).concurrency == IN_FLIGHT
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
        refused = subprocess.run(command, timeout=300).returncode

    # Every picture is accounted for, once: the last process says how many it has no caption for.
    answers = {question.image: answer for question, answer in read_ledger(dataset.captions_ledger).items()}
    assert answers.keys() == pictures and len(read_jsonl(dataset.captions_ledger)) == PICTURES
    blocked = {picture for picture, answer in answers.items() if not answer.text}
    assert {answers[picture].finish_reason for picture in blocked} <= BLOCKS and len(blocked) == refused
    assert server.answered.keys() >= pictures - blocked

    begin, in_flight = 0, Counter()
    for requests, known in asked_before:
        assert not {request.picture for request in server.requests[requests:]} & known
        lost = {request.picture for request in server.requests[begin:requests]} - known
        assert len(lost) <= IN_FLIGHT
        in_flight.update(lost)
        begin = requests
    # A call in flight may have been answered without the answer having been read; only such a one is answered twice.
    twice = {picture: times - 1 for picture, times in server.answered.items() if times > 1}
    assert all(times <= in_flight[picture] for picture, times in twice.items())
    assert sum(twice.values()) <= KILLS * IN_FLIGHT
    record_property("kills", KILLS)
    record_property("calls lost in flight", in_flight.total())
    record_property("of them answered by the server", sum(twice.values()))
