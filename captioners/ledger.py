"""The ledger of captions: one line per answer, append-only, so that no captioner is asked twice for the same thing.

It holds bare captions as they came. Clean-up and the trigger word are composed when a manifest's text is written:
changing them costs nothing. A question refused for good is held too, with the reason and without a text.

Beside it lie the sums of its lines, by question: a line that has become another is left out, and its question asked
again. A line of which no sum is known (of version 0.1) is taken as it is.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from dataclasses import MISSING, asdict, dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..files import append_line, content_hash, has_types, read_jsonl, writing
from ..texts import cleaned, one_line

SUM_LENGTH = 16  # hexadecimal digits

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Question:
    """What was asked: the same question has the same answer in the ledger."""

    image: str  # sha256 of the picture's stored bytes
    captioner: str
    model: str  # "" where none is involved
    prompt: str  # hash of everything that the captioner was told beside the picture


@dataclass(frozen=True)
class Answer:
    """What came back."""

    text: str  # bare caption, one line; "" for a refusal
    finish_reason: str  # "stop" when the captioner said all it had to say; `Kind` of a refusal
    tokens: int  # used for the answer; 0 where nobody counts
    seconds: float  # that it took
    time: str  # when it came, ISO 8601 in UTC
    prompt_tokens: int = 0  # used for the question
    reason: str = ""  # of a refusal, in a sentence


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def read_ledger(path: str | Path) -> dict[Question, Answer]:
    """Every question answered so far with its latest answer; none where there is no ledger yet."""
    answers: dict[Question, Answer] = {}
    asked, answered = ({field.name for field in fields(kind)} for kind in (Question, Answer))
    types = {"seconds": float, "tokens": int, "prompt_tokens": int}
    needed = {
        field.name: types.get(field.name, str)
        for kind in (Question, Answer)
        for field in fields(kind)
        if field.default is MISSING
    }
    sums, damaged = _read_sums(path), set()
    for line in read_jsonl(path, **needed):
        if has_types({"prompt_tokens": 0, "reason": ""} | line, prompt_tokens=int, reason=str):
            question = Question(**{name: line[name] for name in asked})
            if (known := sums.get(_sum(asdict(question)))) and _sum(line) not in known:
                damaged.add(question)
                continue
            said = {name: line[name] for name in answered & line.keys()}
            # Earlier versions kept half characters, at which a caption file could not be written.
            said |= {name: one_line(cleaned(said[name])) for name in ("text", "reason") if name in said}
            answers[question] = Answer(**said)
    if lost := damaged - answers.keys():
        logger.warning("%d answers in %s are not as they were written, and are asked for again", len(lost), path)
    return answers


def append_answer(path: str | Path, question: Question, answer: Answer) -> None:
    """Add one answer; it is on disk when this returns."""
    line = asdict(question) | asdict(answer)
    _append_sum(path, f"{_sum(asdict(question))} {_sum(line)}\n")
    append_line(path, json.dumps(line))


def _sum(value: dict[str, Any]) -> str:
    return content_hash(value, SUM_LENGTH)


def _sums(ledger: str | Path) -> Path:
    return Path(ledger).with_suffix(".sums")


def _append_sum(ledger: str | Path, line: str) -> None:
    """Before the line itself, and not flushed to the disk: one that is lost leaves its line taken as it is."""
    path = _sums(ledger)
    with writing(path, len(line)):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="ascii") as file:
            file.write(line)


def _read_sums(ledger: str | Path) -> dict[str, set[str]]:
    """By a question's sum, those of all the lines that answer it; what is no pair of sums is left out."""
    try:
        lines = _sums(ledger).read_text(encoding="ascii", errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    sums: dict[str, set[str]] = defaultdict(set)
    for question, _, answer in (line.partition(" ") for line in lines):
        if len(question) == len(answer) == SUM_LENGTH:
            sums[question].add(answer)
    return sums
