"""Runs any captioner over a dataset: through the ledger, many calls at a time, retried, stopped within a second.

What a captioner is, is said in `captioner`; what is made of its answers, in `cleanup` and `captions`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from ..clock import POLL, SYSTEM, Clock, Stopped, now_and_then
from ..errors import CaptionError, ImpastoError
from ..job_log import stage
from ..progress import Progress, silent
from ..texts import cleaned, one_line
from .alike import AllBlocked
from .captioner import Caption, Captioner, CaptionRefusal, Kind, Picture
from .captions import checked_trigger_word, with_trigger
from .cleanup import DEFAULT_RULES, Rules, clean
from .in_flight import InFlight
from .ledger import Answer, Question, append_answer, now, read_ledger
from .lint import CountTokens, least_tokens, lint, lint_report
from .run_report import Tally, progress_text, refusal_report, stage_report
from .waiting import waiting, waits

ATTEMPTS = 6  # calls for one picture at most, where calling again may help
LONGEST_WAIT = 60.0  # seconds between attempts, where the service does not say how long


class CaptionableRecord(Protocol):
    """What a record must tell."""

    @property
    def sha256(self) -> str: ...
    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def genre(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def artist(self) -> str: ...
    @property
    def source_sha256(self) -> str: ...
    @property
    def style(self) -> str: ...
    @property
    def date(self) -> str: ...


R = TypeVar("R", bound=CaptionableRecord)
D = TypeVar("D", bound="Captionable")


class Captionable(Protocol[R]):
    """A dataset, as far as captioning its pictures needs it."""

    def records(self) -> Sequence[R]: ...
    def image_path(self, record: R) -> Path: ...
    @property
    def captions_ledger(self) -> Path: ...
    def with_texts(self: D, texts: Mapping[str, str]) -> D: ...


@dataclass(frozen=True)
class Captioned(Generic[D]):
    """What a run came to."""

    dataset: D  # a refused picture keeps the text that it had
    report: str
    refused: Mapping[str, CaptionRefusal]  # by sha256
    open: frozenset[str] = frozenset()  # sha256 of those without a caption that the same call would ask about again


def pictures_of(dataset: Captionable) -> dict[str, Picture]:
    """The pictures of a dataset by sha256, each once."""
    return {
        record.sha256: Picture(
            record.sha256,
            dataset.image_path(record),
            record.width,
            record.height,
            record.genre,
            record.title,
            record.artist,
            record.source_sha256,
            record.style,
            record.date,
        )
        for record in dataset.records()
    }


def answer_to(answers: Mapping[Question, Answer], captioner: Captioner, picture: Picture) -> Answer | None:
    """What the ledger says of a picture; of the file it was made of, where it says nothing of the picture itself.

    Datasets of earlier versions were captioned before private data was taken out of their files.
    """
    asked = question(captioner, picture)
    if picture.source_sha256 and asked not in answers:
        asked = replace(asked, image=picture.source_sha256)
    return answers.get(asked)


def question(captioner: Captioner, picture: Picture) -> Question:
    return Question(picture.sha256, captioner.name, captioner.model, captioner.prompt(picture))


def unanswered(dataset: Captionable, captioner: Captioner, ask_again: bool = False) -> list[Picture]:
    """The pictures that the captioner would be asked about."""
    return waiting_pictures(captioner, list(pictures_of(dataset).values()), dataset.captions_ledger, ask_again)


def waiting_pictures(
    captioner: Captioner, pictures: Sequence[Picture], ledger: Path, ask_again: bool = False
) -> list[Picture]:
    """Those of `pictures` that the ledger does not answer."""
    known = _known(captioner, pictures, ledger)
    return [
        picture
        for picture, answer in zip(pictures, known, strict=True)
        if answer is None or (ask_again and not answer.text)
    ]


def _known(captioner: Captioner, pictures: Sequence[Picture], ledger: Path) -> list[Answer | None]:
    answers = read_ledger(ledger)
    return [answer_to(answers, captioner, picture) for picture in pictures]


async def caption_dataset(
    dataset: D,
    captioner: Captioner,
    progress: Progress = silent,
    *,
    trigger_word: str = "",
    rules: Rules | None = DEFAULT_RULES,
    fallback: Captioner | None = None,
    ask_again: bool = False,
    clock: Clock = SYSTEM,
    asking: Callable[..., Awaitable[Tally]] | None = None,
    count_tokens: CountTokens = least_tokens,
) -> Captioned[D]:
    """Caption every picture through the ledger, and put trigger word and clean-up onto what is in it.

    Args:
        rules: clean-up; None leaves captions as they came.
        fallback: asked for what `captioner` refused, or said in a way that clean-up leaves nothing of.
        ask_again: ask also about pictures that were refused for good in an earlier run.
        clock: of the waits between attempts.
        asking: `ask` by default, or what takes the same and keeps calls under way, `background.ask_in_background`.
        count_tokens: of a caption, for the report on those that are too long.

    Raises:
        SettingsError: the trigger word is not one short line.
        ImpastoError: a captioner had to stop. What it said before is kept; the same call goes on from there.
    """
    trigger_word = checked_trigger_word(trigger_word)
    pictures = pictures_of(dataset)
    captions: dict[str, str] = {}
    refused: dict[str, CaptionRefusal] = {}
    busy: set[str] = set()
    lines = []
    for asked in [captioner] if fallback is None else [captioner, fallback]:
        open_pictures = [picture for sha256, picture in pictures.items() if sha256 not in captions]
        if not open_pictures:
            break
        try:
            with stage(f"ask {asked.name}") as asking_it:
                tally = await (asking or ask)(
                    asked, open_pictures, dataset.captions_ledger, progress, ask_again=ask_again, clock=clock
                )
                asking_it.items += tally.answered
        except AllBlocked as error:
            if asked is fallback or fallback is None:
                raise
            tally = Tally()
            lines.append(str(error))
        said = _answers(asked, open_pictures, dataset.captions_ledger, tally, rules, progress)
        captions |= {sha256: text for sha256, text in said.items() if isinstance(text, str)}
        refused = {sha256: refusal for sha256, refusal in said.items() if isinstance(refusal, CaptionRefusal)}
        busy |= tally.busy.keys()
        lines.append(stage_report(asked, len(open_pictures), len(refused), tally, rules))
    texts = {sha256: with_trigger(trigger_word, text) for sha256, text in captions.items()}
    left_open = frozenset(busy - captions.keys())
    lines += refusal_report(pictures, refused)
    if left_open:
        lines.append(f"Left open because the service was busy: {len(left_open)}. Queue again to go on with them.")
    with stage("look at the captions", len(texts)):
        lines.append(lint_report(lint(texts, count_tokens, now_and_then(lambda: progress(1, 1)), trigger_word)))
    return Captioned(dataset.with_texts(texts), "\n".join(lines), refused, left_open)


async def ask(
    captioner: Captioner,
    pictures: Sequence[Picture],
    ledger: Path,
    progress: Progress = silent,
    *,
    ask_again: bool = False,
    clock: Clock = SYSTEM,
    stopped: Callable[[], bool] = lambda: False,
) -> Tally:
    """Ask about every picture that the ledger does not answer, each answer appended to it as it comes.

    Args:
        stopped: when true, no more calls are sent, and this returns as soon as those under way are answered. (What
            `progress` raises, Cancel, ends them at once.)

    Raises:
        ImpastoError: the captioner had to stop; calls under way were waited for, and their answers are in the ledger.
    """
    waiting = waiting_pictures(captioner, pictures, ledger, ask_again)
    calls = InFlight(captioner, waiting, ledger)
    tally = Tally(asked=len(waiting), cut_off=calls.report)
    tally.in_a_row.spoken = any(answer.text for answer in _known(captioner, pictures, ledger) if answer)
    waits.set(tally.waits)
    held = len(pictures) - len(waiting)
    text = f"{captioner.name}: {held} of {len(pictures)} captioned before. {tally.cut_off}"
    progress(held, len(pictures), text.rstrip())
    queue = iter(waiting)
    batches = -(-len(waiting) // captioner.batch_size)

    def check() -> None:
        progress(held + tally.answered, len(pictures))
        if stopped():
            raise Stopped

    workers = {
        asyncio.create_task(_work(captioner, queue, ledger, tally, check, clock, calls))
        for _ in range(min(captioner.concurrency, batches))
    }
    everyone = workers
    began = asyncio.get_running_loop().time()
    try:
        while workers:
            done, workers = await asyncio.wait(workers, timeout=POLL, return_when=asyncio.FIRST_COMPLETED)
            for worker in done:
                worker.result()
            elapsed = asyncio.get_running_loop().time() - began
            progress(held + tally.answered, len(pictures), progress_text(captioner, held, tally, elapsed, clock.time()))
    finally:
        for worker in everyone:
            worker.cancel()
        await asyncio.gather(*everyone, return_exceptions=True)
        for asked, answer in tally.in_a_row.released():
            append_answer(ledger, asked, answer)
        calls.close()
        await captioner.close()
    if tally.error:
        raise type(tally.error)(
            f"{tally.error} {held + tally.answered} of {len(pictures)} pictures have been asked about, and the answers "
            f"are kept: queue again to go on from there. {tally.cut_off}".rstrip()
        ) from tally.error
    return tally


async def _work(
    captioner: Captioner,
    queue: Iterator[Picture],
    ledger: Path,
    tally: Tally,
    check: Callable[[], None],
    clock: Clock,
    calls: InFlight,
) -> None:
    """Take batches off the queue until it is empty, or until one worker has found that nothing can be captioned."""
    while not tally.error and (batch := list(islice(queue, captioner.batch_size))):
        try:
            check()
            await _ask_batch(captioner, batch, ledger, tally, check, clock, calls)
        except Stopped:
            return
        except ImpastoError as error:
            tally.error = tally.error or error


async def _ask_batch(
    captioner: Captioner,
    batch: list[Picture],
    ledger: Path,
    tally: Tally,
    check: Callable[[], None],
    clock: Clock,
    calls: InFlight,
) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        began = asyncio.get_running_loop().time()
        open_pictures, wait, reason = [], 0.0, ""
        with calls.followed(batch, check) as (check_waiting, sending):
            results = await captioner.caption(batch, check_waiting, sending)
            seconds = (asyncio.get_running_loop().time() - began) / len(batch)
            for picture, result in zip(batch, results, strict=True):
                tally.tokens += result.tokens
                tally.prompt_tokens += result.prompt_tokens
                if isinstance(result, CaptionRefusal) and result.retry and attempt < ATTEMPTS:
                    open_pictures.append(picture)
                    longest = result.wait or (_back_off(attempt) if result.kind is Kind.BUSY else 0.0)
                    wait, reason = max((wait, reason), (longest, result.reason))
                else:
                    _record(captioner, picture, result, seconds, ledger, tally)
        if not open_pictures or tally.error:
            return
        batch = open_pictures
        if not wait:
            continue
        with waiting(f"{reason} (attempt {attempt} of {ATTEMPTS})", clock.time() + wait):
            await clock.sleep(wait, check)


def _back_off(attempt: int) -> float:
    """Seconds: doubling, with a random half, so that calls which failed together do not return together."""
    return min(2.0**attempt, LONGEST_WAIT) * random.uniform(0.5, 1.0)


def _record(
    captioner: Captioner, picture: Picture, result: Caption | CaptionRefusal, seconds: float, ledger: Path, tally: Tally
) -> None:
    """Append an answer or a lasting refusal to the ledger, which may be held back; count what is left open.

    Raises:
        CaptionError: ten pictures in a row came to the same, which is not their own then.
    """
    in_a_row, asked = tally.in_a_row, question(captioner, picture)
    tally.answered += 1
    said = one_line(cleaned(result.text)) if isinstance(result, Caption) else ""
    if isinstance(result, Caption) and not said:
        result = CaptionRefusal(Kind.NO_ANSWER, "the answer is empty", tokens=result.tokens)
    if isinstance(result, Caption):
        answer = Answer(said, cleaned(result.finish_reason), result.tokens, seconds, now(), result.prompt_tokens)
    else:
        answer = Answer(
            "", result.kind.value, result.tokens, seconds, now(), result.prompt_tokens, one_line(cleaned(result.reason))
        )
    if isinstance(result, Caption):
        for held in in_a_row.answered_well():
            append_answer(ledger, *held)
        append_answer(ledger, asked, answer)
        return
    if result.lasting and in_a_row.is_the_pictures_own(result):
        append_answer(ledger, asked, answer)
        return
    if result.lasting and not in_a_row.ended:
        in_a_row.held.append((asked, answer))
    else:
        tally.answered -= 1
        tally.busy[picture.sha256] = result
    try:
        in_a_row.count(captioner.name, result, ATTEMPTS)
    except CaptionError:
        tally.answered -= len(in_a_row.released())
        raise


def _answers(
    captioner: Captioner,
    pictures: Sequence[Picture],
    ledger: Path,
    tally: Tally,
    rules: Rules | None,
    progress: Progress,
) -> dict[str, str | CaptionRefusal]:
    """By sha256, what the ledger now holds: the cleaned caption, or why there is none."""
    answers = read_ledger(ledger)
    said: dict[str, str | CaptionRefusal] = {}
    check = now_and_then(lambda: progress(len(pictures), len(pictures)))
    for picture in pictures:
        check()
        answer = answer_to(answers, captioner, picture)
        if picture.sha256 in tally.busy or answer is None:
            said[picture.sha256] = tally.busy.get(picture.sha256) or CaptionRefusal(
                Kind.BUSY, "not asked", lasting=False
            )
        elif not answer.text:
            kind = Kind(answer.finish_reason) if answer.finish_reason in {kind.value for kind in Kind} else Kind.FAILED
            said[picture.sha256] = CaptionRefusal(kind, answer.reason)
        else:
            text = clean(answer.text, rules) if rules else answer.text
            tally.cleaned += text != answer.text
            said[picture.sha256] = text or CaptionRefusal(
                Kind.NO_ANSWER, f"clean-up leaves nothing of the answer '{answer.text[:80]}'"
            )
    return said
