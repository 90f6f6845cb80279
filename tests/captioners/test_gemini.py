"""The Gemini captioner against Gemini's wire format on loopback, its quotas enforced; a minute there may be short."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import pytest
from google.genai import types as genai_types
from impasto.captioners.captioner import Kind
from impasto.captioners.gemini import GeminiCaptioner, GeminiSettings
from impasto.captioners.gemini_answers import RateLimited, read_answer, read_error
from impasto.captioners.gemini_wire import REQUIREMENT
from impasto.captioners.keys import names_in, read_endpoint, read_projects
from impasto.captioners.ledger import read_ledger
from impasto.captioners.quota import DayLimitReached, ProjectBudget, ProjectLimits
from impasto.captioners.runner import caption_dataset, unanswered
from impasto.captioners.unfinished import fingerprint, leave_open
from impasto.clock import SYSTEM, Clock
from impasto.errors import CaptionError, SettingsError
from impasto.tests.captioners.gemini_server import ERRORS, GeminiServer, HttpError, serving

KEYS = {"one": "AIza-key-of-one-0001", "two": "AIza-key-of-two-0002", "three": "AIza-key-of-three-3"}
PLENTY = ProjectLimits(100_000, 10**9, 10**6)


def write_keys(folder: Path, url: str, names=("one",)) -> None:
    folder.mkdir(exist_ok=True)
    tables = "".join(f'[projects.{name}]\nkey = "{KEYS[name]}"\n' for name in names)
    (folder / "gemini.toml").write_text(f'base_url = "{url}"\n{tables}')


def captioner(
    folder: Path, limits: ProjectLimits = PLENTY, names=("one",), clock=SYSTEM, **settings
) -> GeminiCaptioner:
    settings = {"timeout": 3.0} | settings
    return GeminiCaptioner(GeminiSettings(projects=tuple(names), limits=limits, **settings), folder, clock, {})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "user"


def served(folder: Path, limits: ProjectLimits = PLENTY, names=("one",), **options) -> GeminiServer:
    return GeminiServer({KEYS[name]: limits for name in names}, **options)


def run(dataset, gemini, **options):
    return asyncio.run(caption_dataset(dataset, gemini, **options))


def always(fault: str):
    return lambda number, picture: fault


@pytest.mark.parametrize("version", ["", "v1", "v1beta"])
def test_every_picture_gets_a_caption_behind_the_trigger_word(make_dataset, folder, version):
    dataset = make_dataset(5)
    with serving(served(folder)) as server:
        write_keys(folder, server.url)
        done = run(dataset, captioner(folder, api_version=version), trigger_word="mntgrdn")
    for record in done.dataset.records():
        assert record.text == f"mntgrdn, A boat on a river, number {record.sha256[:12]}."
    assert not done.refused
    assert server.requests[0].path.startswith(f"/{version or 'v1'}")
    body = server.requests[0].body
    assert body["generationConfig"]["responseMimeType"] == "application/json"
    assert "style" in body["systemInstruction"]["parts"][0]["text"]
    assert "5 of 5 pictures captioned" in done.report and "200 out" in done.report


def test_what_the_ledger_holds_is_never_asked_again(make_dataset, folder):
    dataset = make_dataset(4)
    with serving(served(folder)) as server:
        write_keys(folder, server.url)
        run(dataset, captioner(folder), trigger_word="mntgrdn")
        again = run(dataset, captioner(folder), trigger_word="another")
        assert len(server.requests) == 4
        assert all(record.text.startswith("another, ") for record in again.dataset.records())
        run(dataset, captioner(folder, system_prompt="Describe it in Latin."))
        assert len(server.requests) == 8


REFUSED = {
    "prompt blocked": (Kind.PROMPT_BLOCKED, "PROHIBITED_CONTENT", 1),
    "answer blocked": (Kind.ANSWER_BLOCKED, "SAFETY", 1),
    "recitation": (Kind.ANSWER_BLOCKED, "RECITATION", 6),
    "cut off": (Kind.CUT_OFF, "MAX_TOKENS", 2),
    "cut off in the middle": (Kind.CUT_OFF, "MAX_TOKENS", 2),
    "no candidates": (Kind.NO_ANSWER, "no candidates", 6),
    "no parts": (Kind.NO_ANSWER, "no text", 6),
    "malformed": (Kind.MALFORMED, "JSON", 6),
    "wrong keys": (Kind.MALFORMED, "JSON", 6),
    "empty": (Kind.NO_ANSWER, "empty", 6),
    "bad picture": (Kind.FAILED, "Unable to process", 1),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_every_empty_reply_is_a_typed_refusal_and_never_a_caption(make_dataset, folder, fault):
    kind, reason, requests = REFUSED[fault]
    dataset = make_dataset(1)
    with serving(served(folder, fault=always(fault))) as server:
        write_keys(folder, server.url)
        done = run(dataset, captioner(folder))
        refusal = done.refused[dataset.records()[0].sha256]
        assert refusal.kind is kind and reason in refusal.reason
        assert reason in done.report and len(server.requests) == requests
        assert done.dataset.records()[0].text == ""
        run(dataset, captioner(folder))  # refused for good: it costs nothing again
        assert len(server.requests) == requests
        server.fault = always(None)
        assert not run(dataset, captioner(folder), ask_again=True).refused


@pytest.mark.parametrize("fault", ["500", "503", "429", "drop", "malformed", "cut off", "no candidates"])
def test_what_helps_to_ask_again_is_asked_again(make_dataset, folder, fault):
    clock = Clock(time.time(), 100)
    with serving(served(folder, fault=lambda number, _: fault if number == 1 else None, clock=clock)) as server:
        write_keys(folder, server.url)
        assert not run(make_dataset(1), captioner(folder, clock=clock), clock=clock).refused
        assert len(server.requests) == 2


def test_an_answer_cut_off_is_asked_for_again_with_more_room(make_dataset, folder):
    with serving(served(folder, fault=lambda number, _: "cut off" if number == 1 else None)) as server:
        write_keys(folder, server.url)
        assert not run(make_dataset(1), captioner(folder)).refused
    room = [request.body["generationConfig"]["maxOutputTokens"] for request in server.requests]
    assert room == [2_048, 8_192]


def test_a_call_that_hangs_is_given_up_and_repeated(make_dataset, folder):
    clock = Clock(time.time(), 100)
    with serving(served(folder, fault=lambda number, _: "hang" if number == 1 else None)) as server:
        write_keys(folder, server.url)
        assert not run(make_dataset(1), captioner(folder, clock=clock, timeout=0.3), clock=clock).refused
        assert len(server.requests) == 2


def test_a_service_out_of_order_ends_the_run_and_keeps_the_pictures_open(make_dataset, folder):
    clock = Clock(time.time(), 1000)
    dataset = make_dataset(40)
    with serving(served(folder, fault=always("503"), clock=clock)) as server:
        write_keys(folder, server.url)
        with pytest.raises(CaptionError, match="overloaded"):
            run(dataset, captioner(folder, clock=clock), clock=clock)
        server.fault = always(None)
        assert not run(dataset, captioner(folder, clock=clock), clock=clock).refused


@pytest.mark.parametrize("fault", ["an error", "a page", "nothing"])
def test_replies_that_are_not_the_services_end_the_run_and_keep_the_pictures_open(make_dataset, folder, fault):
    clock = Clock(time.time(), 1000)
    dataset = make_dataset(12)
    with serving(served(folder, fault=always(fault), clock=clock)) as server:
        write_keys(folder, server.url)
        with pytest.raises(CaptionError, match="10 pictures in a row.*(?:is not Gemini's|cannot be read)"):
            run(dataset, captioner(folder, clock=clock), clock=clock)
        assert not read_ledger(dataset.captions_ledger)


def test_an_answer_that_trickles_in_without_end_is_given_up_and_repeated(make_dataset, folder):
    clock = Clock(time.time(), 100)
    with serving(served(folder, fault=lambda number, _: "trickle" if number == 1 else None)) as server:
        write_keys(folder, server.url)
        assert not run(make_dataset(1), captioner(folder, clock=clock, timeout=0.3), clock=clock).refused
        assert len(server.requests) == 2


def test_a_proxy_of_the_environment_is_used_and_its_exceptions_are_kept(make_dataset, folder, monkeypatch):
    dataset = make_dataset(1)
    with serving(served(folder)) as server:
        monkeypatch.setenv("no_proxy", "")
        monkeypatch.setenv("http_proxy", server.url)
        write_keys(folder, "http://gemini.invalid")
        assert not run(dataset, captioner(folder)).refused
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        write_keys(folder, server.url)
        assert not run(dataset, captioner(folder, system_prompt="Describe it in Latin.")).refused
    assert len(server.requests) == 2


def test_a_proxy_of_a_kind_that_cannot_be_used_is_an_error_that_does_not_tell_its_password(
    make_dataset, folder, monkeypatch
):
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("http_proxy", "gopher://me:secret@127.0.0.1:9")
    write_keys(folder, "http://gemini.invalid")
    with pytest.raises(CaptionError, match="HTTPS_PROXY") as refused:
        run(make_dataset(1), captioner(folder))
    assert "secret" not in str(refused.value)


class Fallback:
    """A captioner in this process that always has an answer."""

    name, model, batch_size, concurrency, counted = "local", "", 4, 1, False

    def __init__(self):
        self.seen = []

    def prompt(self, picture):
        return "0"

    async def caption(self, pictures, check, sending):
        from impasto.captioners.captioner import Caption

        check()
        self.seen += pictures
        return [Caption("The image shows a nude figure.") for _ in pictures]

    async def close(self):
        pass


def test_a_refused_picture_goes_to_the_fallback_and_the_others_do_not(make_dataset, folder):
    dataset = make_dataset(6)
    blocked = dataset.records()[2].sha256
    with serving(served(folder, fault=lambda _, picture: "prompt blocked" if picture == blocked else None)) as server:
        write_keys(folder, server.url)
        fallback = Fallback()
        done = run(dataset, captioner(folder), fallback=fallback)
    assert [picture.sha256 for picture in fallback.seen] == [blocked]
    assert done.dataset.records()[2].text == "A nude figure."
    assert not done.refused and all(record.text for record in done.dataset.records())


def test_a_picture_that_only_a_busy_service_left_without_a_caption_is_open(make_dataset, folder):
    dataset = make_dataset(4)
    busy, blocked = dataset.records()[1].sha256, dataset.records()[2].sha256
    faults = {busy: "429 soon", blocked: "prompt blocked"}
    with serving(served(folder, fault=lambda _, picture: faults.get(picture))) as server:
        write_keys(folder, server.url)
        left = run(dataset, captioner(folder))
        assert left.refused.keys() == {busy, blocked} and left.open == {busy}
        assert "service was busy: 1. Queue again" in left.report
        assert not run(dataset, captioner(folder), fallback=Fallback()).open
        faults.clear()
        assert not run(dataset, captioner(folder)).open


def test_each_run_that_left_pictures_open_changes_the_fingerprint_of_its_captioner_alone(folder):
    seen = {fingerprint(folder, "gemini")}
    for _ in range(3):
        leave_open(folder, "gemini")
        assert fingerprint(folder, "gemini") == fingerprint(folder, "gemini")
        seen.add(fingerprint(folder, "gemini"))
    assert len(seen) == 4 and fingerprint(folder, "florence-2") == ""


def test_three_projects_are_used_to_98_percent_of_their_quota_without_one_refusal(
    make_dataset, folder, record_property
):
    """A window that slides enforces 15 requests a minute and project. Time runs 6 times as fast, or as it does."""
    minutes, scale = (3, 1) if os.environ.get("IMPASTO_LONG") else (1, 6)
    clock = Clock(time.time(), scale)
    limits = ProjectLimits(15, 250_000, 1_500)
    dataset = make_dataset(3 * 15 * (minutes + 1))  # 45 at once, and 45 after each minute
    with serving(served(folder, limits, KEYS, clock=clock, latency=0.05)) as server:
        write_keys(folder, server.url, KEYS)
        done = run(dataset, captioner(folder, limits, KEYS, clock), clock=clock)
    assert not done.refused and server.over_quota == 0
    sent = [request.time - server.requests[0].time for request in server.requests]
    assert len(sent) == 45 * (minutes + 1)
    in_time = sum(time < (minutes + 1) * 60 for time in sent)
    assert in_time >= 0.98 * 45 * (minutes + 1), f"{in_time} of {len(sent)} in {minutes + 1} minutes"
    record_property("share of the quota used", f"{60 * minutes / sent[45 * minutes]:.2%}")
    if scale == 1:  # the period itself, which a busy processor lengthens where time is scaled
        assert sent[45 * minutes] <= 60 * minutes / 0.98, f"{60 * minutes / sent[45 * minutes]:.1%}"


def test_tokens_a_minute_are_kept_too(make_dataset, folder):
    clock = Clock(time.time(), 60)
    limits = ProjectLimits(1_000, 8_000, 1_500)  # 5 or 6 pictures a minute
    with serving(served(folder, limits, clock=clock)) as server:
        write_keys(folder, server.url)
        done = run(make_dataset(12), captioner(folder, limits, clock=clock), clock=clock)
    assert not done.refused and server.over_quota == 0
    assert server.requests[-1].time - server.requests[0].time > 60


def test_budgets_survive_a_restart(make_dataset, folder):
    """The second captioner knows only the file of the first, and still does not run into the limit."""
    clock = Clock(time.time(), 30)
    limits = ProjectLimits(10, 10**9, 1_500)
    dataset = make_dataset(14)
    with serving(served(folder, limits, clock=clock)) as server:
        write_keys(folder, server.url)
        first = dataset.with_texts({})
        run(make_dataset(8), captioner(folder, limits, clock=clock), clock=clock)
        run(first, captioner(folder, limits, clock=clock, system_prompt="Otherwise."), clock=clock)
    assert server.over_quota == 0 and len(server.requests) == 22


def test_two_nodes_at_work_at_once_share_a_projects_budget(make_dataset, folder):
    clock = Clock(time.time(), 30)
    limits = ProjectLimits(10, 10**9, 1_500)
    first, second = (captioner(folder, limits, clock=clock, system_prompt=prompt) for prompt in ("One.", "Two."))
    dataset = make_dataset(8)

    async def both():
        await asyncio.gather(*(caption_dataset(dataset, gemini, clock=clock) for gemini in (first, second)))

    with serving(served(folder, limits, clock=clock)) as server:
        write_keys(folder, server.url)
        asyncio.run(both())
    assert server.over_quota == 0 and len(server.requests) == 16


@pytest.mark.parametrize(
    ("now", "requests", "counted"),
    [
        # California's days of 25 and of 23 hours: their last half hour, and the first of the next.
        ("2026-11-01T23:30:00-08:00", ["2026-11-01T00:15:00-07:00", "2026-10-31T23:45:00-07:00"], 1),
        ("2026-03-09T00:30:00-07:00", ["2026-03-08T23:45:00-07:00", "2026-03-09T00:15:00-07:00"], 1),
    ],
)
def test_days_are_counted_by_the_calendar_when_the_clocks_change(tmp_path, now, requests, counted):
    file = tmp_path / "usage.jsonl"
    times = [datetime.fromisoformat(time).timestamp() for time in requests]
    lines = [{"request": str(number), "time": time, "tokens": 1} for number, time in enumerate(times)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    standing = Clock(datetime.fromisoformat(now).timestamp(), 0)
    assert ProjectBudget("one", ProjectLimits(15, 10**9, 10), file, standing).left_today() == 10 - counted


def test_a_usage_file_that_has_grown_is_written_anew_with_what_counts(tmp_path):
    file, clock = tmp_path / "usage.jsonl", Clock(time.time(), 1)
    old = "".join(f'{{"request": "{number}", "time": 1.0, "tokens": 5}}\n' for number in range(30_000))
    file.write_text(old)
    ProjectBudget("one", ProjectLimits(), file, clock).spend(7)
    again = ProjectBudget("one", ProjectLimits(), file, clock)
    assert file.stat().st_size < 1_000 and [request.tokens for request in again.requests] == [7]


def test_a_usage_file_written_anew_loses_no_request_of_another_process(tmp_path):
    """Many open the same grown file, and so write it anew, while others count requests in it."""
    file, clock = tmp_path / "usage.jsonl", Clock(time.time(), 1)
    limits = ProjectLimits(100_000, 10**9, 10**6)
    old = "".join(f'{{"request": "{number}", "time": 1.0, "tokens": 5}}\n' for number in range(25_000))

    def spend(_) -> None:
        budget = ProjectBudget("one", limits, file, clock)
        for _ in range(5):
            budget.spend(7)
        with budget._lock:
            file.write_text(file.read_text() + old)  # grown again
        ProjectBudget("one", limits, file, clock)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(spend, range(8)))
    assert sum(request.tokens == 7 for request in ProjectBudget("one", limits, file, clock).requests) == 40


def test_two_that_ask_at_the_same_instant_do_not_both_get_the_last_request(tmp_path):
    file, clock = tmp_path / "usage.jsonl", Clock(time.time(), 1)
    first, second = (ProjectBudget("one", ProjectLimits(1, 10**9, 1_500), file, clock) for _ in range(2))
    assert first.wait(5) == second.wait(5) == 0
    assert first.spend(5) and second.spend(5) is None and second.wait(5) > 59


def test_a_service_that_allows_less_than_we_think_is_obeyed(make_dataset, folder):
    clock = Clock(time.time(), 60)
    with serving(served(folder, ProjectLimits(5, 10**9, 1_500), clock=clock)) as server:
        write_keys(folder, server.url)
        done = run(make_dataset(12), captioner(folder, ProjectLimits(15, 10**9, 1_500), clock=clock), clock=clock)
    assert not done.refused and server.over_quota > 0
    assert len(set(server.answered)) == 12


def test_the_days_limit_stops_cleanly_and_the_next_day_goes_on(make_dataset, folder):
    clock = Clock(time.time(), 1)
    dataset = make_dataset(9)
    limits = ProjectLimits(1_000, 10**9, 3)
    with serving(served(folder, limits, ("one", "two"), clock=clock)) as server:
        write_keys(folder, server.url, ("one", "two"))
        with pytest.raises(DayLimitReached, match=r"come back at .*6 of 9 pictures"):
            run(dataset, captioner(folder, limits, ("one", "two"), clock))
        assert server.over_quota == 0 and len(unanswered(dataset, captioner(folder))) == 3
        with pytest.raises(DayLimitReached):  # a restart does not ask, it knows
            run(dataset, captioner(folder, limits, ("one", "two"), clock))
        assert len(server.requests) == 6
        tomorrow = Clock(time.time() - 86_400 / 9_999, 10_000)
        server.clock = tomorrow
        assert not run(dataset, captioner(folder, limits, ("one", "two"), tomorrow)).refused
    assert max(server.answered.values()) == 1 and len(server.answered) == 9


def test_a_day_that_the_service_says_is_over_moves_on_to_the_other_project(make_dataset, folder):
    limits = {KEYS["one"]: ProjectLimits(1_000, 10**9, 2), KEYS["two"]: PLENTY}
    with serving(GeminiServer(limits)) as server:
        write_keys(folder, server.url, ("one", "two"))
        done = run(make_dataset(8), captioner(folder, ProjectLimits(1_000, 10**9, 1_500), ("one", "two")))
    assert not done.refused and len(server.answered) == 8


def test_limit_0_fails_at_once_in_those_words(make_dataset, folder):
    with serving(served(folder, ProjectLimits(15, 10**6, 0))) as server:
        write_keys(folder, server.url)
        with pytest.raises(CaptionError, match="^limit: 0. .*free tier"):
            run(make_dataset(3), captioner(folder))
    assert len(server.requests) <= 3


def test_limit_0_is_found_behind_the_advice_of_a_long_message(make_dataset, folder):
    with serving(served(folder, fault=always("limit 0 in words"))) as server:
        write_keys(folder, server.url)
        with pytest.raises(CaptionError, match="^limit: 0. .*free tier"):
            run(make_dataset(1), captioner(folder))
    assert len(server.requests) == 1


def test_a_limit_that_only_begins_with_0_is_a_rate():
    said = read_error(429, {}, "Quota exceeded, limit: 0.5, model: x", "x", "one", [])
    assert isinstance(said, RateLimited)


def test_what_is_wrong_with_every_request_ends_the_run_and_keeps_the_pictures_open(make_dataset, folder):
    dataset = make_dataset(60)
    with serving(served(folder, fault=always("bad request"))) as server:
        write_keys(folder, server.url)
        with pytest.raises(CaptionError, match="no such field"):
            run(dataset, captioner(folder))
        assert len(server.requests) < 60
        server.fault = always(None)
        assert not run(dataset, captioner(folder)).refused


def test_a_key_halved_by_the_cut_of_a_message_does_not_show():
    key = KEYS["one"]
    said = read_error(400, {}, "x" * 290 + key + " is odd", "x", "one", [key])
    assert key[:5] not in said.reason and "…" in said.reason
    reply = genai_types.GenerateContentResponse.model_validate(
        {"candidates": [{"content": {"parts": [{"text": "x" * 50 + key}]}, "finishReason": "STOP"}]}
    )
    assert key[:5] not in read_answer(reply, [key]).reason


def answered(text: str | None, reason: str = "STOP"):
    parts = [{"text": text}] if text else []
    candidate = {"content": {"parts": parts}, "finishReason": reason}
    return read_answer(genai_types.GenerateContentResponse.model_validate({"candidates": [candidate]}))


@pytest.mark.parametrize(
    "text",
    [
        '```json\n{"description": "A boat."}\n```',
        '[{"description": "A boat."}]',
        '{"caption": "A boat."}',
        '\ufeff{"Description": "A boat."}',
        '{"description": "A\nboat."}',
        '{"title": "x", "result": {"text": "A boat."}}',
    ],
)
def test_a_description_is_read_however_it_is_wrapped(text):
    assert answered(text).text.replace("\n", " ") == "A boat."


@pytest.mark.parametrize("reason", ["MAX_TOKENS", "max_tokens"])
def test_cut_off_in_any_spelling_says_what_to_do(reason):
    refusal = answered('{"description": "A bo', reason)
    assert refusal.kind is Kind.CUT_OFF and "shorter caption" in refusal.reason


ACCOUNT = {
    "credits": (
        429,
        "Your prepayment credits are depleted. Please go to AI Studio to manage your billing.",
        "Add credit",
    ),
    "cap": (
        429,
        "Your project has exceeded its monthly spending cap. Please go to AI Studio.",
        "spending cap in AI Studio",
    ),
    "disabled": (
        403,
        "Generative Language API has not been used in project 1 before or it is disabled. Enable it by visiting …",
        "Enable the Generative Language API",
    ),
    "referrer": (403, "Requests from referer <empty> are blocked.", "application restrictions"),
    "address": (403, "The provided API key has an IP address restriction.", "application restrictions"),
    "method": (403, "API_KEY_SERVICE_BLOCKED", "Enable the Generative Language API"),
    "billing": (403, "This API method requires billing to be enabled.", "enable billing"),
    "suspended": (403, "Permission denied: Consumer 'api_key:…' has been suspended.", "appeal"),
}


@pytest.mark.parametrize("case", ACCOUNT)
def test_what_only_the_projects_owner_can_mend_stops_at_once_with_the_remedy(make_dataset, folder, case, monkeypatch):
    code, message, remedy = ACCOUNT[case]
    reason = message if message.isupper() else ""
    monkeypatch.setitem(ERRORS, case, HttpError(code, (code, "PERMISSION_DENIED", message, [{"reason": reason}])))
    dataset = make_dataset(40)
    with serving(served(folder, fault=always(case))) as server:
        write_keys(folder, server.url)
        with pytest.raises(CaptionError, match=f"'one' .*{remedy}"):
            run(dataset, captioner(folder))
        assert len(server.requests) <= 32  # those under way
    assert not read_ledger(dataset.captions_ledger)


def test_a_pause_for_the_minutes_limit_says_its_reason_and_its_end(make_dataset, folder):
    clock, said = Clock(time.time(), 100), []
    limits = ProjectLimits(2, 10**9, 1_500)
    with serving(served(folder, limits, clock=clock)) as server:
        write_keys(folder, server.url)
        run(
            make_dataset(3),
            captioner(folder, limits, clock=clock),
            clock=clock,
            progress=lambda done, total, text="", preview=None: said.append(text),
        )
    assert any("waiting until" in text and "'one': it may send 2 requests a minute" in text for text in said)


def test_an_answer_nested_too_deeply_is_malformed():
    text = '{"description": ' + "[" * 100_000
    reply = genai_types.GenerateContentResponse.model_validate(
        {"candidates": [{"content": {"parts": [{"text": text}]}, "finishReason": "STOP"}]}
    )
    assert read_answer(reply).kind is Kind.MALFORMED


def test_a_redirect_is_not_followed_with_the_key(make_dataset, folder):
    with serving(served(folder)) as elsewhere, serving(served(folder, redirect=elsewhere.url)) as server:
        write_keys(folder, server.url)
        with pytest.raises(CaptionError, match="leads elsewhere"):
            run(make_dataset(1), captioner(folder))
    assert server.keys_seen == [KEYS["one"]] and elsewhere.keys_seen == []


@pytest.mark.parametrize(
    "pasted", ["AIzaSyD-0123456789", "AQ.Ab8RN6_0123456789", "0123456789abcdef0123456789abcdef", "one, " + "k" * 30]
)
def test_a_pasted_key_is_no_name_and_is_not_repeated(pasted, tmp_path):
    with pytest.raises(SettingsError) as refused:
        names_in(pasted)
    key = pasted.removeprefix("one, ")
    assert key[:5] not in str(refused.value) and "never keys" in str(refused.value)
    with pytest.raises(SettingsError) as refused:
        read_projects(tmp_path / "gemini.toml", [key], ProjectLimits(), {})
    assert key[:5] not in str(refused.value)
    with pytest.raises(SettingsError) as refused:
        read_endpoint(tmp_path / "openai.toml", key, {})
    assert key[:5] not in str(refused.value)


def test_a_key_of_any_form_is_refused_as_the_model_before_it_shows_in_the_estimate(folder):
    folder.mkdir()
    (folder / "gemini.toml").write_text('[projects.one]\nkey = "my-own-key"\n')
    with pytest.raises(SettingsError, match="looks like a key") as refused:
        captioner(folder, model="my-own-key").estimate(10)
    assert "my-own" not in str(refused.value)


def test_a_key_file_as_windows_saves_it_is_read_or_named_with_what_is_wrong(folder):
    folder.mkdir()
    text = f'[projects.one]\nkey = "{KEYS["one"]}"\n'
    (folder / "gemini.toml").write_bytes(("\ufeff" + text.replace("\n", "\r\n")).encode())
    [project] = read_projects(folder / "gemini.toml", ["one"], PLENTY, {})
    assert project.key == KEYS["one"]
    (folder / "gemini.toml").write_bytes(text.encode("utf-16"))
    with pytest.raises(SettingsError, match=r"gemini\.toml cannot be read: it is UTF-16.*as UTF-8"):
        read_projects(folder / "gemini.toml", ["one"], PLENTY, {})


@pytest.mark.parametrize("added", ["\u200b", "\u00a0", " ", "\r\n", "\x00", "é"])
def test_a_key_with_a_character_that_no_key_has_is_refused_by_the_name_of_its_place(folder, added):
    broken = f"AIza-key{added}-of-one"
    with pytest.raises(SettingsError, match="environment variable GEMINI_API_KEY_2 holds a key with") as refused:
        read_projects(folder / "gemini.toml", ["GEMINI_API_KEY_2"], PLENTY, {"GEMINI_API_KEY_2": broken})
    assert "AIza" not in str(refused.value)
    folder.mkdir()
    (folder / "gemini.toml").write_text(f"[projects.one]\nkey = {json.dumps(broken)}\n", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"gemini\.toml: \[projects\.one\] holds a key with"):
        read_projects(folder / "gemini.toml", ["one"], PLENTY, {})
    (folder / "openai.toml").write_text('[endpoints.e]\nbase_url = "http://localhost:9/v1"\nkey_env = "MINE"\n')
    with pytest.raises(SettingsError, match="environment variable MINE holds a key with"):
        read_endpoint(folder / "openai.toml", "e", {"MINE": broken})


def test_white_space_around_a_key_is_no_part_of_it(folder):
    environment = {"GEMINI_API_KEY": f"\u00a0{KEYS['one']}\r\n"}
    [project] = read_projects(folder / "gemini.toml", ["GEMINI_API_KEY"], PLENTY, environment)
    assert project.key == KEYS["one"]


def test_names_of_variables_and_of_projects_are_names_however_long():
    names = ("GEMINI_API_KEY_OF_MY_SECOND_PROJECT", "my project", "painters-of-the-second-floor-2026")
    assert names_in(", ".join(names)) == names


def test_two_names_of_one_key_share_one_budget(make_dataset, folder):
    clock = Clock(time.time(), 60)
    limits = ProjectLimits(5, 10**9, 1_500)
    with serving(served(folder, limits, clock=clock)) as server:
        write_keys(folder, server.url)
        with open(folder / "gemini.toml", "a") as file:
            file.write(f'[projects.alias]\nkey = "{KEYS["one"]}"\n')
        both = captioner(folder, limits, ("one", "alias"), clock)
        assert "at 5 a minute" in both.estimate(10)
        run(make_dataset(5), both, clock=clock)
        run(make_dataset(2), captioner(folder, limits, ("alias",), clock, system_prompt="Otherwise."), clock=clock)
    assert server.over_quota == 0 and len(server.requests) == 7


def test_what_would_be_asked_counts_refused_pictures_where_they_are_asked_again(make_dataset, folder):
    dataset = make_dataset(3)
    blocked = dataset.records()[0].sha256
    with serving(served(folder, fault=lambda _, picture: "prompt blocked" if picture == blocked else None)) as server:
        write_keys(folder, server.url)
        run(dataset, captioner(folder))
    assert unanswered(dataset, captioner(folder)) == []
    assert [picture.sha256 for picture in unanswered(dataset, captioner(folder), ask_again=True)] == [blocked]


def test_a_wrong_model_or_key_ends_the_run_with_its_name(make_dataset, folder):
    with serving(served(folder, fault=always("404"))) as server:
        write_keys(folder, server.url)
        with pytest.raises(CaptionError, match="gemini-9"):
            run(make_dataset(1), captioner(folder, model="gemini-9"))
        write_keys(folder, server.url, ("two",))
        with pytest.raises(CaptionError, match="'two'"):
            run(make_dataset(1), captioner(folder, names=("two",)))


def test_keys_show_nowhere(make_dataset, folder, caplog):
    caplog.set_level(logging.DEBUG)
    dataset = make_dataset(2)
    key = KEYS["one"]

    def leak(number, picture):
        return "500" if number == 1 else None

    with serving(served(folder, fault=leak)) as server:
        write_keys(folder, server.url)
        gemini = captioner(folder)
        done = run(dataset, gemini, clock=Clock(time.time(), 100))
        assert key not in repr(gemini) and key not in repr(gemini._projects()) and key not in done.report
    assert key not in caplog.text
    for file in Path(dataset.folder).rglob("*"):
        assert file.is_dir() or key.encode() not in file.read_bytes()
    with pytest.raises(SettingsError) as refused:
        run(
            dataset,
            GeminiCaptioner(
                GeminiSettings(("PATH",), system_prompt="Otherwise."), folder, SYSTEM, {"PATH": "/usr/bin:/bin"}
            ),
        )
    assert "/usr/bin" not in str(refused.value)


def test_a_key_comes_from_the_environment_by_name(make_dataset, folder):
    with serving(served(folder)) as server:
        folder.mkdir()
        (folder / "gemini.toml").write_text(f'base_url = "{server.url}"\n')
        gemini = GeminiCaptioner(
            GeminiSettings(projects=("GEMINI_API_KEY_MINE",)), folder, SYSTEM, {"GEMINI_API_KEY_MINE": KEYS["one"]}
        )
        assert not run(make_dataset(1), gemini).refused


def test_without_the_package_the_error_gives_the_line_to_install_it(make_dataset, folder, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "google", None)
    monkeypatch.setitem(sys.modules, "google.genai", None)
    write_keys(folder, "http://127.0.0.1:9")
    with pytest.raises(CaptionError, match=r'install\.py "google-genai>='):
        run(make_dataset(1), captioner(folder))


def test_the_extra_in_pyproject_installs_the_same():
    project = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert f'gemini = ["{REQUIREMENT}"]' in project


def test_cancel_ends_the_run_within_a_second(make_dataset, folder):
    class Cancelled(BaseException):
        pass

    pressed = []

    def progress(done, total, text="", preview=None):
        if done >= 3:
            pressed.append(time.monotonic())
            raise Cancelled

    dataset = make_dataset(50)
    with serving(served(folder, fault=lambda number, _: "hang" if number > 3 else None)) as server:
        write_keys(folder, server.url)
        with pytest.raises(Cancelled):
            run(dataset, captioner(folder, timeout=60.0), progress=progress)
        assert time.monotonic() - pressed[0] < 1
        assert len(read_ledger(dataset.captions_ledger)) == 3


def test_the_estimate_says_tokens_money_and_time(folder):
    write_keys(folder, "http://127.0.0.1:9", KEYS)
    text = captioner(folder, ProjectLimits(), KEYS).estimate(1_000)
    assert "1000 requests" in text and "$0." in text and "22 min at 45 a minute" in text
    assert "on 2 days at 750" in captioner(folder, ProjectLimits(15, 250_000, 250), KEYS).estimate(1_000)


def test_a_thousand_pictures_are_all_accounted_for_through_faults(make_dataset, folder):
    """5 % of the replies are 429, 500, dropped, malformed or blocks, at random; nobody may be missing at the end."""
    count = 1_000 if os.environ.get("IMPASTO_LONG") else 200
    random_faults = random.Random(4)
    kinds = ["429", "500", "503", "drop", "hang", "prompt blocked", "answer blocked", "no candidates", "malformed"]

    def fault(number, picture):
        return random_faults.choice(kinds) if random_faults.random() < 0.05 else None

    clock = Clock(time.time(), 100)
    limits = ProjectLimits(15, 250_000, 1_500)
    dataset = make_dataset(count)
    with serving(served(folder, limits, KEYS, clock=clock, fault=fault)) as server:
        write_keys(folder, server.url, KEYS)
        done = run(dataset, captioner(folder, limits, KEYS, clock, timeout=0.5), clock=clock)
    captioned = {record.sha256 for record in done.dataset.records() if record.text}
    assert len(captioned) + len(done.refused) == count and not captioned & set(done.refused)
    assert {refusal.kind for refusal in done.refused.values()} <= {Kind.PROMPT_BLOCKED, Kind.ANSWER_BLOCKED}
    assert set(server.answered) == captioned and max(server.answered.values()) == 1
    ledger = [json.loads(line) for line in dataset.captions_ledger.read_text().splitlines()]
    assert len(ledger) == count and all(line["text"] or line["reason"] for line in ledger)
