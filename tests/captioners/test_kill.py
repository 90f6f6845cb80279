"""Captioning killed with SIGKILL again and again, through faults.

A kill costs at most the calls in flight, and the next run says how many: whether such a call was answered cannot be
known, for Gemini neither takes a request's id nor hands an answer out again.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from impasto.captioners.captioner import Kind
from impasto.captioners.gemini import GeminiCaptioner, GeminiSettings
from impasto.captioners.ledger import read_ledger
from impasto.captioners.quota import ProjectLimits
from impasto.clock import Clock
from impasto.files import read_jsonl
from impasto.tests.captioners.gemini_server import GeminiServer, serving
from impasto.tests.captioners.test_gemini import KEYS, write_keys

SCALE = 20  # times as fast as the clock
KILLS, PICTURES = (20, 1_000) if os.environ.get("IMPASTO_LONG") else (3, 60)
PROCESS = Path(__file__).with_name("captioning_process.py")
TIMEOUT = 6.0  # seconds of real time for a call
IN_FLIGHT = 8  # calls at a time of three projects with 15 requests a minute
FAULTS = ("429", "500", "503", "drop", "hang", "prompt blocked", "answer blocked", "no candidates", "malformed")
SHARE = 0.05  # of the replies, at random
BLOCKS = {Kind.PROMPT_BLOCKED.value, Kind.ANSWER_BLOCKED.value}


@dataclass
class Kills:
    """What was known after each kill."""

    requests: list[int] = field(default_factory=list)  # that the server had seen
    held: list[set[str]] = field(default_factory=list)  # pictures in the ledger
    report: str = ""  # of the run after the last of them


def caption_through_kills(dataset, user: Path) -> tuple[GeminiServer, Kills]:
    """Start captioning, kill it a moment later, `KILLS` times; then let it end, with every picture accounted for."""
    clock, limits = Clock(time.time(), SCALE), ProjectLimits(15, 250_000, 1_500)
    chance, faults = random.Random(1), random.Random(4)

    def fault(number: int, picture: str) -> str | None:
        return faults.choice(FAULTS) if faults.random() < SHARE else None

    kills = Kills()
    with serving(GeminiServer({key: limits for key in KEYS.values()}, clock=clock, latency=0.2, fault=fault)) as server:
        write_keys(user, server.url, KEYS)
        assert GeminiCaptioner(GeminiSettings(tuple(KEYS), limits=limits), user).concurrency == IN_FLIGHT
        arguments = [dataset.folder, dataset.revision, user, clock.start, SCALE, TIMEOUT]
        command = [sys.executable, PROCESS, *map(str, arguments)]
        for _ in range(KILLS):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            before, deadline = len(server.requests), time.monotonic() + 30
            while len(server.requests) == before and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 2))
            process.kill()
            process.wait()
            kills.requests.append(len(server.requests))
            kills.held.append({question.image for question in read_ledger(dataset.captions_ledger)})
        last = subprocess.run(command, timeout=300, stdout=subprocess.PIPE, text=True)
        refused, kills.report = last.returncode, last.stdout

    # Every picture is accounted for, once: the last process says how many it has no caption for.
    answers = {question.image: answer for question, answer in read_ledger(dataset.captions_ledger).items()}
    assert answers.keys() == {record.sha256 for record in dataset.records()}
    assert len(read_jsonl(dataset.captions_ledger)) == PICTURES
    blocked = {picture for picture, answer in answers.items() if not answer.text}
    assert {answers[picture].finish_reason for picture in blocked} <= BLOCKS and len(blocked) == refused
    assert server.answered.keys() >= answers.keys() - blocked
    return server, kills


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_kill_costs_at_most_the_calls_in_flight_and_the_next_run_says_how_many(
    make_dataset, tmp_path, record_property
):
    dataset = make_dataset(PICTURES)
    server, kills = caption_through_kills(dataset, tmp_path / "user")
    begin, in_flight = 0, Counter()
    for requests, known in zip(kills.requests, kills.held, strict=True):
        assert not {request.picture for request in server.requests[requests:]} & known
        lost = {request.picture for request in server.requests[begin:requests]} - known
        assert len(lost) <= IN_FLIGHT
        in_flight.update(lost)
        begin = requests
    # A call in flight may have been answered without the answer having been read; only such a one is answered twice.
    twice = {picture: times - 1 for picture, times in server.answered.items() if times > 1}
    assert all(times <= in_flight[picture] for picture, times in twice.items())
    assert sum(twice.values()) <= KILLS * IN_FLIGHT
    said = re.search(r"In flight when an earlier run was cut off: (\d+)", kills.report)
    assert (int(said[1]) if said else 0) <= IN_FLIGHT
    record_property("kills", KILLS)
    record_property("pictures captioned", len(server.answered))
    record_property("calls lost in flight", in_flight.total())
    record_property("of them answered by the server", sum(twice.values()))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_the_calls_in_flight_at_a_kill_are_said_by_their_number(make_dataset, tmp_path):
    dataset, user = make_dataset(20), tmp_path / "user"
    limits = ProjectLimits(15, 250_000, 1_500)
    with serving(GeminiServer({key: limits for key in KEYS.values()}, latency=30.0)) as server:
        write_keys(user, server.url, KEYS)
        command = [sys.executable, PROCESS, *map(str, [dataset.folder, dataset.revision, user, 0.0, 1, 60])]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while len(server.requests) < IN_FLIGHT and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
        process.wait()
        server.latency = 0.0
        done = subprocess.run(command, timeout=120, stdout=subprocess.PIPE, text=True)
        assert f"In flight when an earlier run was cut off: {IN_FLIGHT}. They are asked again" in done.stdout
        assert done.returncode == 0 and len(server.requests) == 20 + IN_FLIGHT
        again = subprocess.run(command, timeout=120, stdout=subprocess.PIPE, text=True)
    assert "In flight" not in again.stdout and len(server.requests) == 20 + IN_FLIGHT
