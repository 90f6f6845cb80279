"""Captions from a painting's own labels: what it shows, by genre and title. No model, no network.

The style is left out on purpose: what captions do not name, the trigger word learns.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..files import content_hash
from ..texts import one_line
from .captioner import Caption, Picture

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


@dataclass(frozen=True)
class MetadataCaptioner:
    """See `captioner.Captioner`."""

    name_artist: bool = False  # the artist is style: naming one teaches the name, not the trigger word

    name = "metadata"
    model = ""
    batch_size = 1
    concurrency = 1
    counted = False

    def prompt(self, picture: Picture) -> str:
        told = {"wording": WORDING, "genre": picture.genre, "title": picture.title, "artist": self._artist(picture)}
        return content_hash(told)

    async def caption(
        self, pictures: Sequence[Picture], check: Callable[[], None], sending: Callable[[], None]
    ) -> list[Caption]:
        return [Caption(label_caption(picture.genre, picture.title, self._artist(picture))) for picture in pictures]

    async def close(self) -> None:
        pass

    def _artist(self, picture: Picture) -> str:
        return picture.artist if self.name_artist else ""


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
