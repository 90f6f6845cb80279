"""Captions from a painting's own labels: what it shows, by genre and title. No model, no network.

The style is left out on purpose: what captions do not name, the trigger word learns.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from ..files import content_hash
from ..progress import Progress, silent
from .captions import checked_trigger_word, one_line, with_trigger
from .ledger import Answer, Question, append_answer, now, read_ledger

CAPTIONER = "metadata"
WORDING = 1  # raised when the same labels shall read otherwise, so that old answers no longer count

# What each of WikiArt's genres shows, without naming a medium ("painting"), which would belong to the style.
SUBJECTS = {
    "abstract_painting": "an abstract composition",
    "genre_painting": "a scene of everyday life",
    "nude_painting": "a nude figure",
    "religious_painting": "a religious scene",
    "sketch_and_study": "a study",
}
UNKNOWN_SUBJECT = "a picture"


class Picture(Protocol):
    """The labels of one picture; "" for what is unknown."""

    @property
    def sha256(self) -> str: ...
    @property
    def genre(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def artist(self) -> str: ...


D = TypeVar("D", bound="Captionable")


class Captionable(Protocol):
    """A dataset, as far as captioning needs it."""

    def records(self) -> Sequence[Picture]: ...
    @property
    def captions_ledger(self) -> Path: ...
    def with_texts(self: D, texts: Mapping[str, str]) -> D: ...


@dataclass(frozen=True)
class Wording:
    """How captions are put. Only `trigger_word` is composed late; the rest is part of what the ledger is asked."""

    trigger_word: str = ""
    name_artist: bool = False  # the artist is style: naming one teaches the name, not the trigger word


def caption_from_labels(dataset: D, wording: Wording, progress: Progress = silent) -> tuple[D, str]:
    """Caption every picture from its labels, through the ledger; returns the captioned revision and a report.

    Raises:
        SettingsError: the trigger word is not one short line.
    """
    trigger_word = checked_trigger_word(wording.trigger_word)
    pictures = dataset.records()
    answers = read_ledger(dataset.captions_ledger)
    captions: dict[str, str] = {}
    written = 0
    for done, picture in enumerate(pictures, start=1):
        artist = picture.artist if wording.name_artist else ""
        question = _question(picture, artist)
        answer = answers.get(question)
        if answer is None:
            answer = Answer(label_caption(picture.genre, picture.title, artist), "stop", 0, 0.0, now())
            append_answer(dataset.captions_ledger, question, answer)
            answers[question] = answer
            written += 1
        captions[picture.sha256] = with_trigger(trigger_word, answer.text)
        progress(done, len(pictures), captions[picture.sha256])
    return dataset.with_texts(captions), _report(captions, written)


def label_caption(genre: str = "", title: str = "", artist: str = "") -> str:
    """What the labels say: "a landscape, Wheat Field with Crows, by Vincent van Gogh". Never empty."""
    parts = [subject(genre), one_line(title.replace("_", " ")), f"by {one_line(artist)}" if artist.strip() else ""]
    return ", ".join(part for part in parts if part)


def subject(genre: str) -> str:
    """A genre label as a thing with its article: "still_life" is a still life, "illustration" an illustration."""
    if genre in SUBJECTS:
        return SUBJECTS[genre]
    words = one_line(re.sub(r"[_\-]+", " ", genre)).lower().removesuffix(" painting")
    if not words or words.startswith("unknown"):
        return UNKNOWN_SUBJECT
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _question(picture: Picture, artist: str) -> Question:
    told = {"wording": WORDING, "genre": picture.genre, "title": picture.title, "artist": artist}
    return Question(picture.sha256, CAPTIONER, "", content_hash(told))


def _report(captions: Mapping[str, str], written: int) -> str:
    different = sorted(set(captions.values()))
    return "\n".join(
        [
            f"{len(captions)} pictures captioned from their labels, {written} of them for the first time.",
            f"{len(different)} different captions. A captioner that looks at the pictures tells them apart better.",
            *(f"  {caption}" for caption in different[:10]),
        ]
    )
