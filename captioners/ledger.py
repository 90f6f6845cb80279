"""The ledger of captions: one line per answer, append-only, so that no captioner is asked twice for the same thing.

It holds bare captions. The trigger word is composed when a manifest's text is written: changing it costs nothing.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from ..files import append_line, read_jsonl


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

    text: str  # bare caption, one line
    finish_reason: str  # "stop" when the captioner said all it had to say
    tokens: int  # used for the answer; 0 where nobody counts
    seconds: float  # that it took
    time: str  # when it came, ISO 8601 in UTC


def read_ledger(path: str | Path) -> dict[Question, Answer]:
    """Every question answered so far with its latest answer; none where there is no ledger yet."""
    answers: dict[Question, Answer] = {}
    asked, answered = ({field.name for field in fields(kind)} for kind in (Question, Answer))
    for line in read_jsonl(path):
        if asked | answered <= line.keys():
            question = Question(**{name: line[name] for name in asked})
            answers[question] = Answer(**{name: line[name] for name in answered})
    return answers


def append_answer(path: str | Path, question: Question, answer: Answer) -> None:
    """Add one answer; it is on disk when this returns."""
    append_line(path, json.dumps(asdict(question) | asdict(answer)))
