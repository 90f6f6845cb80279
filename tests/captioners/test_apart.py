"""A service asked from a process of its own: Cancel and errors reach across, and calls under way are kept."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from impasto.captioners import apart
from impasto.captioners.apart import ask_apart
from impasto.captioners.ledger import read_ledger
from impasto.captioners.openai import OpenAICaptioner, OpenAISettings
from impasto.captioners.quota import Limits
from impasto.captioners.runner import caption_dataset
from impasto.errors import CaptionError, SettingsError
from impasto.tests.captioners.gemini_server import serving
from impasto.tests.captioners.test_gemini import KEYS, always, captioner, served, write_keys
from impasto.tests.captioners.test_openai import Server
from impasto.tests.captioners.test_openai import serving as serving_openai


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "user"


def run(dataset, captioner, **options):
    return asyncio.run(caption_dataset(dataset, captioner, asking=ask_apart, **options))


class Cancelled(BaseException):
    pass


def test_cancel_returns_at_once_and_the_calls_under_way_are_kept(make_dataset, folder):
    dataset = make_dataset(30)
    pressed = []

    def cancel_when_calls_are_under_way(done, total, text="", preview=None):
        if len(server.requests) >= 4:
            pressed.append((time.monotonic(), len(server.requests)))
            raise Cancelled

    with serving(served(folder, latency=2.0)) as server:
        write_keys(folder, server.url)
        few = Limits(24, 10**9, 1_500)  # 4 calls at a time
        with pytest.raises(Cancelled):
            run(dataset, captioner(folder, few), progress=cancel_when_calls_are_under_way)
        assert time.monotonic() - pressed[0][0] < 1
        server.latency = 0.0
        again = run(dataset, captioner(folder))  # waits for them
        assert not again.refused and "26 of them asked about in this run" in again.report
    assert len(server.requests) == 30 and set(server.answered.values()) == {1}


def test_an_error_of_the_other_process_is_raised_here_in_its_own_words(make_dataset, folder):
    dataset = make_dataset(5)
    with serving(served(folder, Limits(1_000, 10**9, 3))) as server:
        write_keys(folder, server.url)
        with pytest.raises(CaptionError, match=r"come back at .*3 of 5 pictures"):
            run(dataset, captioner(folder, Limits(1_000, 10**9, 3)))
    with pytest.raises(SettingsError, match="no key for the project 'nobody'"):
        run(dataset, captioner(folder, names=("nobody",)))


def test_a_picture_left_open_is_told_with_its_reason(make_dataset, folder):
    dataset = make_dataset(2)
    busy = dataset.records()[0].sha256
    with serving(served(folder, fault=lambda _, picture: "429 soon" if picture == busy else None)) as server:
        write_keys(folder, server.url)
        done = run(dataset, captioner(folder))
    assert done.open == {busy} and "over the rate" in done.refused[busy].reason
    assert "tokens" in done.report.lower() and "1 of 2 pictures captioned" in done.report


def test_the_other_process_killed_is_an_error_and_queueing_again_goes_on(make_dataset, folder):
    dataset = make_dataset(6)

    def kill_after_two(done, total, text="", preview=None):
        if len(server.requests) >= 3:
            for child in psutil.Process().children():
                child.kill()

    with serving(served(folder, fault=lambda number, _: "hang" if number > 2 else None)) as server:
        write_keys(folder, server.url)
        with pytest.raises(CaptionError, match="ended without a word.*queue again"):
            run(dataset, captioner(folder, timeout=60.0), progress=kill_after_two)
        server.fault = always(None)
        kept, asked = {question.image for question in read_ledger(dataset.captions_ledger)}, len(server.requests)
        assert not run(dataset, captioner(folder)).refused
    assert not kept & {request.picture for request in server.requests[asked:]}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM for others")
def test_a_polite_end_of_the_other_process_keeps_the_calls_under_way(make_dataset, folder):
    dataset = make_dataset(12)

    def end_it(done, total, text="", preview=None):
        if len(server.requests) >= 4:
            for child in psutil.Process().children():
                child.terminate()

    with serving(served(folder, latency=1.0)) as server:
        write_keys(folder, server.url)
        with pytest.raises(CaptionError, match="queue again"):
            run(dataset, captioner(folder, Limits(24, 10**9, 1_500)), progress=end_it)
        assert len(read_ledger(dataset.captions_ledger)) == len(server.requests) == 4


def test_an_error_that_nobody_foresaw_is_told_by_its_kind(make_dataset, folder):
    with serving(served(folder)) as server:
        write_keys(folder, server.url)
        (folder / "usage").write_text("a file where a folder must be")
        with pytest.raises(CaptionError, match=r"(?:NotADirectory|FileExists)Error: .*usage.*queue again"):
            run(make_dataset(1), captioner(folder))


def started(code: str) -> subprocess.Popen:
    """A process that runs `code` in place of the one that asks."""
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_a_line_that_the_other_process_did_not_end_is_no_word(make_dataset, folder, monkeypatch):
    code = """import sys; sys.stdin.readline(); sys.stdout.write('{"progress": [1, 1, "x"]}\\n{"tally": {"as')"""
    monkeypatch.setattr(apart.own_process, "start", lambda module: started(code))
    write_keys(folder, "http://127.0.0.1:9")
    with pytest.raises(CaptionError, match="ended without a word"):
        run(make_dataset(1), captioner(folder))


class ClosedPipe:
    """What Windows makes of the pipe to a process that has ended."""

    def write(self, data: bytes) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    def close(self) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")


def test_a_process_that_has_ended_before_it_was_told_anything_is_said_so(make_dataset, folder, monkeypatch):
    def start(module: str) -> subprocess.Popen:
        process = started("")
        process.stdin.close()
        process.stdin = ClosedPipe()
        return process

    monkeypatch.setattr(apart.own_process, "start", start)
    write_keys(folder, "http://127.0.0.1:9")
    with pytest.raises(CaptionError, match="ended without a word"):
        run(make_dataset(1), captioner(folder))


def in_a_process(code: str, *flags: str, said: str = "") -> subprocess.CompletedProcess:
    tests = Path(__file__).resolve().parents[1]
    code = f"import sys; sys.path.insert(0, {str(tests)!r}); import conftest\n{code}"
    command = [sys.executable, *flags, "-c", code]
    return subprocess.run(command, input=said, capture_output=True, text=True, timeout=60)


def test_what_a_library_prints_there_is_no_part_of_what_it_says():
    code = """
import os
from impasto.captioners import apart
async def noisy(job, stopped, say):
    os.write(1, b"printed by a library in C")
    say(progress=(1, 1))
    raise apart.Stopped
apart._ask_alone = noisy
sys.exit(apart.main())
"""
    done = in_a_process(code, said="{}\n")
    assert done.returncode == 0 and json.loads(done.stdout) == {"progress": [1, 1]}
    assert "printed by a library in C" in done.stderr


@pytest.mark.parametrize(("flags", "passed_on"), [(["-s"], "1"), ([], "")])
def test_a_python_without_the_users_own_packages_starts_another_without_them(flags, passed_on):
    code = """
from impasto import own_process
process = own_process.start("impasto.captioners.apart")
process.communicate()
sys.stdout.write(own_process.environment().get("PYTHONNOUSERSITE", ""))
"""
    assert in_a_process(code, *flags).stdout == passed_on


def test_windows_opens_no_window_for_the_process(monkeypatch):
    asked = {}
    monkeypatch.setattr(subprocess, "CREATE_NO_WINDOW", 0x08000000, raising=False)
    monkeypatch.setattr(subprocess, "Popen", lambda command, **options: asked.update(options))
    apart.own_process.start("impasto.captioners.apart")
    assert asked["creationflags"] & 0x08000000


def test_progress_comes_across_with_the_time_left_and_no_key_goes_there(make_dataset, folder, monkeypatch):
    told, sent, send = [], [], apart._send
    monkeypatch.setattr(apart, "_send", lambda process, job: (sent.append(f"{job} {process.args}"), send(process, job)))
    with serving(served(folder, latency=0.3)) as server:
        write_keys(folder, server.url)
        gemini = captioner(folder, Limits(24, 10**9, 1_500))
        run(make_dataset(12), gemini, progress=lambda done, total, text="", preview=None: told.append((done, text)))
    assert any("of 12 answered, about" in text and text.endswith("left") for _, text in told)
    assert (12, "gemini: 12 of 12 answered") in told
    assert len(sent) == 1 and KEYS["one"] not in sent[0]


def test_where_everything_is_answered_no_process_is_started(make_dataset, folder, monkeypatch):
    dataset = make_dataset(2)
    with serving(served(folder)) as server:
        write_keys(folder, server.url)
        asyncio.run(caption_dataset(dataset, captioner(folder)))
    monkeypatch.setattr(apart.own_process, "start", lambda module: pytest.fail("a process was started"))
    assert "0 of them asked about" in run(dataset, captioner(folder)).report


def test_an_openai_compatible_server_is_asked_from_there_too(make_dataset, folder):
    with serving_openai(Server(lambda number: f"A boat, number {number}.")) as server:
        folder.mkdir()
        (folder / "openai.toml").write_text(f'[endpoints.mine]\nbase_url = "{server.url}"\n')
        done = run(make_dataset(3), OpenAICaptioner(OpenAISettings("mine", "qwen3-vl:8b"), folder))
    assert not done.refused and len(server.bodies) == 3
