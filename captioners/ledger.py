"""The ledger of captions: one line per answer, append-only, so that no captioner is asked twice for the same thing.

It holds bare captions as they came. Clean-up and the trigger word are composed when a manifest's text is written:
changing them costs nothing. A question refused for good is held too, with the reason and without a text.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, dataclass, fields
from datetime import datetime, timezone
from pathlib import Path

from ..files import append_line, has_types, read_jsonl
from ..texts import cleaned, one_line


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
    for line in read_jsonl(path, **needed):
        if has_types({"prompt_tokens": 0, "reason": ""} | line, prompt_tokens=int, reason=str):
            question = Question(**{name: line[name] for name in asked})
            said = {name: line[name] for name in answered & line.keys()}
            # Earlier versions kept half characters, at which a caption file could not be written.
            said |= {name: one_line(cleaned(said[name])) for name in ("text", "reason") if name in said}
            answers[question] = Answer(**said)
    return answers


def append_answer(path: str | Path, question: Question, answer: Answer) -> None:
    """Add one answer; it is on disk when this returns."""
    append_line(path, json.dumps(asdict(question) | asdict(answer)))
