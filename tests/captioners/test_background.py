"""A service asked from a thread of its own: Cancel returns at once, and calls under way are kept."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from impasto.captioners import background
from impasto.captioners.background import ask_in_background
from impasto.captioners.ledger import read_ledger
from impasto.captioners.openai import OpenAICaptioner, OpenAISettings
from impasto.captioners.quota import ProjectLimits
from impasto.captioners.runner import caption_dataset
from impasto.errors import CaptionError, DiskError, SettingsError
from impasto.tests.captioners.conftest import write_pictures
from impasto.tests.captioners.gemini_server import serving
from impasto.tests.captioners.test_gemini import KEYS, captioner, served, write_keys
from impasto.tests.captioners.test_openai import Server
from impasto.tests.captioners.test_openai import serving as serving_openai

FOUR_AT_A_TIME = ProjectLimits(24, 10**9, 1_500)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "user"


def run(dataset, captioner, **options):
    return asyncio.run(caption_dataset(dataset, captioner, asking=ask_in_background, **options))


class Cancelled(BaseException):
    pass


def cancelled_after(server, calls: int, pressed: list[float]):
    """What a progress bar does when Cancel is pressed while so many calls are under way."""

    def progress(done, total, text="", preview=None):
        if len(server.requests) >= calls:
            pressed.append(time.monotonic())
            raise Cancelled

    return progress


def test_cancel_returns_at_once_and_the_calls_under_way_are_kept(make_dataset, folder):
    dataset, pressed = make_dataset(30), []
    with serving(served(folder, latency=2.0)) as server:
        write_keys(folder, server.url)
        with pytest.raises(Cancelled):
            run(dataset, captioner(folder, FOUR_AT_A_TIME), progress=cancelled_after(server, 4, pressed))
        assert time.monotonic() - pressed[0] < 1
        server.latency = 0.0
        again = run(dataset, captioner(folder))  # waits for them
        assert not again.refused and "26 of them asked about in this run" in again.report
        assert "In flight" not in again.report
    assert len(server.requests) == 30 and set(server.answered.values()) == {1}
    assert not list(dataset.captions_ledger.parent.glob("*in-flight*"))


def test_one_captioner_may_ask_about_another_dataset_while_its_cancelled_calls_end(make_dataset, folder, tmp_path):
    first, second, pressed = make_dataset(4), write_pictures(tmp_path / "others", 6), []
    with serving(served(folder, latency=1.0)) as server:
        write_keys(folder, server.url)
        gemini = captioner(folder, FOUR_AT_A_TIME)
        with pytest.raises(Cancelled):
            run(first, gemini, progress=cancelled_after(server, 4, pressed))
        assert not run(second, gemini).refused
        assert not run(first, gemini).refused
    assert {question.image for question in read_ledger(first.captions_ledger)} == {r.sha256 for r in first.records()}
    assert set(server.answered.values()) <= {1, 2}  # pictures that both datasets have are asked about for each


def test_an_error_of_the_captioner_is_raised_in_its_own_words(make_dataset, folder):
    dataset = make_dataset(5)
    with serving(served(folder, ProjectLimits(1_000, 10**9, 3))) as server:
        write_keys(folder, server.url)
        with pytest.raises(CaptionError, match=r"come back at .*3 of 5 pictures"):
            run(dataset, captioner(folder, ProjectLimits(1_000, 10**9, 3)))
    with pytest.raises(SettingsError, match="no key for the project 'nobody'"):
        run(dataset, captioner(folder, names=("nobody",)))


def test_an_error_that_nobody_foresaw_is_told_by_its_kind(make_dataset, folder, monkeypatch):
    with serving(served(folder)) as server:
        write_keys(folder, server.url)
        (folder / "usage").write_text("a file where a folder must be")
        with pytest.raises(DiskError, match=r"usage.* a file where a folder is needed.* queue again"):
            run(make_dataset(1), captioner(folder))

    async def quoting(*arguments, **options):
        raise RuntimeError(f"a request with {KEYS['one']}")

    monkeypatch.setattr(background, "ask", quoting)
    with pytest.raises(CaptionError, match=r"stopped \(RuntimeError\)") as told:
        run(make_dataset(2), captioner(folder))
    assert KEYS["one"] not in str(told.value)


def test_progress_comes_across_with_the_time_left(make_dataset, folder):
    told = []
    with serving(served(folder, latency=0.3)) as server:
        write_keys(folder, server.url)
        gemini = captioner(folder, FOUR_AT_A_TIME)
        run(make_dataset(12), gemini, progress=lambda done, total, text="", preview=None: told.append((done, text)))
    assert any("of 12 answered, about" in text and text.endswith("left") for _, text in told)
    assert (12, "gemini: 12 of 12 answered") in told


def test_an_openai_compatible_server_is_asked_from_there_too(make_dataset, folder):
    dataset = make_dataset(3)
    with serving_openai(Server(lambda number: f"A boat, number {number}.")) as server:
        folder.mkdir()
        (folder / "openai.toml").write_text(f'[endpoints.mine]\nbase_url = "{server.url}"\n')
        openai = OpenAICaptioner(OpenAISettings("mine", "qwen3-vl:8b"), folder)
        assert not run(dataset, openai).refused and len(server.bodies) == 3
        assert "0 of them asked about" in run(dataset, openai).report
