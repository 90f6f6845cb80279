"""What is wrong with every answer is no picture's own refusal; what a run waits for is told."""

from __future__ import annotations

import asyncio
import time

import pytest
from impasto.captioners.captioner import Caption, CaptionRefusal, Kind
from impasto.captioners.ledger import read_ledger
from impasto.captioners.runner import caption_dataset
from impasto.clock import Clock
from impasto.errors import CaptionError


class Service:
    """A captioner in this process that answers the number-th question as `reply` says; questions come in order."""

    name, model, batch_size, concurrency, counted = "service", "m", 1, 1, False

    def __init__(self, reply, name="service"):
        self.reply, self.asked, self.name = reply, 0, name

    def prompt(self, picture):
        return "0"

    async def caption(self, pictures, check, sending):
        check()
        sending()
        self.asked += 1
        return [self.reply(self.asked)]

    async def close(self):
        pass


def run(dataset, service, **options):
    return asyncio.run(caption_dataset(dataset, service, clock=Clock(time.time(), 1000), rules=None, **options))


def refused_except(kind, good):
    return lambda number: Caption("A boat.") if number in good else CaptionRefusal(kind, f"reason {number}")


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.UNREADABLE])
def test_ten_refusals_alike_with_nothing_good_between_end_the_run_and_mark_nothing(make_dataset, kind):
    dataset, service = make_dataset(14), Service(refused_except(kind, ()))
    with pytest.raises(CaptionError, match=f"10 pictures in a row.*{kind.value}: reason 10.* 0 of 14 pictures"):
        run(dataset, service)
    assert service.asked == 10 and not read_ledger(dataset.captions_ledger)
    service.reply = lambda number: Caption("A boat.")
    assert not run(dataset, service).refused


def test_ten_broken_answers_after_good_ones_end_the_run_too_and_keep_what_was_good(make_dataset):
    dataset, service = make_dataset(20), Service(refused_except(Kind.MALFORMED, (1, 2, 5)))
    with pytest.raises(CaptionError, match="5 of 20 pictures have been asked about"):
        run(dataset, service)
    answers = read_ledger(dataset.captions_ledger).values()
    assert [bool(answer.text) for answer in answers] == [True, True, False, False, True] and service.asked == 15


def test_unlike_refusals_in_turn_end_the_run_as_well(make_dataset):
    kinds = [Kind.NO_ANSWER, Kind.MALFORMED]
    dataset = make_dataset(30)
    service = Service(lambda number: CaptionRefusal(kinds[number % 2], "odd"))
    with pytest.raises(CaptionError):
        run(dataset, service)
    assert service.asked == 19 and not read_ledger(dataset.captions_ledger)


@pytest.mark.parametrize("kind", [Kind.NO_ANSWER, Kind.PROMPT_BLOCKED])
def test_nine_alike_before_a_good_answer_or_the_end_are_the_pictures_own(make_dataset, kind):
    dataset, service = make_dataset(19), Service(refused_except(kind, (10,)))
    assert len(run(dataset, service).refused) == 18
    assert len(read_ledger(dataset.captions_ledger)) == 19
    run(dataset, service)
    assert service.asked == 19


def test_a_service_that_captions_others_may_block_ten_nudes_in_a_row(make_dataset):
    dataset, service = make_dataset(16), Service(refused_except(Kind.PROMPT_BLOCKED, (1,)))
    assert len(run(dataset, service).refused) == 15
    assert len(read_ledger(dataset.captions_ledger)) == 16


def test_ten_broken_files_are_ten_broken_files(make_dataset):
    service = Service(refused_except(Kind.UNREADABLE, ()))
    assert len(run(make_dataset(12), service).refused) == 12


def test_where_every_picture_is_blocked_the_fallback_is_asked_about_all(make_dataset):
    dataset = make_dataset(12)
    fallback = Service(lambda number: Caption("A figure."), "local")
    done = run(dataset, Service(refused_except(Kind.PROMPT_BLOCKED, ())), fallback=fallback)
    assert not done.refused and not done.open and fallback.asked == 12
    assert "10 pictures in a row" in done.report
    assert {question.captioner for question in read_ledger(dataset.captions_ledger)} == {"local"}


def test_a_wait_says_its_reason_and_its_end(make_dataset):
    busy = CaptionRefusal(Kind.BUSY, "429 slow down", retry=True, wait=600.0, lasting=False)
    service = Service(lambda number: busy if number == 1 else Caption("A boat."))
    said = []
    run(make_dataset(1), service, progress=lambda done, total, text="", preview=None: said.append(text))
    told = [text for text in said if "waiting until " in text]
    assert told and "429 slow down (attempt 1 of 6)" in told[0] and " min" in told[0]
    assert "waiting" not in said[-1]
