"""Whose refusals are: what a captioner says to every picture is no picture's own, and is not written to the ledger."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from ..errors import CaptionError
from .captioner import CaptionRefusal, Kind
from .ledger import Answer, Question

MOST_ALIKE = 10  # pictures in a row, before what is wrong counts as wrong with every picture
_JUDGED = (Kind.PROMPT_BLOCKED, Kind.ANSWER_BLOCKED)  # the service speaks of what it has seen
_LEFT_OPEN = "left open"  # any reason that is not the picture's own
_BLOCKED = "Where these pictures are all of that kind, connect a fallback or use another captioner; else change"
_REMEDIES = {
    Kind.PROMPT_BLOCKED: f"{_BLOCKED} the system prompt.",
    Kind.ANSWER_BLOCKED: f"{_BLOCKED} the system prompt.",
    Kind.NO_ANSWER: "Use another model, one that looks at pictures and answers in words.",
    Kind.MALFORMED: "Use another model, or one without thinking.",
}


class AllBlocked(CaptionError):
    """The service blocks every picture; another captioner may not."""


@dataclass
class InARow:
    """Refusals since the last good answer. Those that may be every picture's are held back until one comes."""

    spoken: bool = False  # whether there ever was a good answer to the question
    held: list[tuple[Question, Answer]] = field(default_factory=list)
    ended: bool = False  # what is wrong is wrong with every picture
    _alike: Counter[str] = field(default_factory=Counter)

    def is_the_pictures_own(self, refusal: CaptionRefusal) -> bool:
        """Whether it is clear already: the file is broken, or a service that captions others will not show this one."""
        return refusal.kind is Kind.UNREADABLE or (self.spoken and refusal.kind in _JUDGED)

    def answered_well(self) -> list[tuple[Question, Answer]]:
        """A good answer came: what was held back is the pictures' own, to be written."""
        self.spoken = True
        self._alike.clear()
        return self.released()

    def released(self) -> list[tuple[Question, Answer]]:
        held, self.held = self.held, []
        return held

    def count(self, captioner: str, refusal: CaptionRefusal, attempts: int) -> None:
        """
        Raises:
            CaptionError: ten pictures in a row, without a good answer between them, came to the same.
        """
        alike = refusal.kind.value if refusal.lasting else _LEFT_OPEN
        self._alike[alike] += 1
        if self._alike[alike] < MOST_ALIKE or self.ended:
            return
        self.ended = True
        error = AllBlocked if refusal.lasting and refusal.kind in _JUDGED else CaptionError
        raise error(
            f"The captioner '{captioner}' failed for {MOST_ALIKE} pictures in a row, {attempts} attempts at most for "
            "each: that is not the pictures, and none of them counts as refused. The last reason: "
            f"{refusal.kind.value}: {refusal.reason}. {_REMEDIES.get(refusal.kind, '')}".rstrip()
        )
