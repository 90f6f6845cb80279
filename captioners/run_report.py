"""What a captioning run says of itself: how far it is, what it did, which pictures it left without a caption."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice

from ..errors import ImpastoError
from ..progress import duration
from .alike import InARow
from .captioner import Captioner, CaptionRefusal, Picture
from .cleanup import Rules
from .waiting import Wait, waits_text

LISTED = 20  # refusals that a report lists


@dataclass
class Tally:
    """What a run did, for its progress and its report."""

    asked: int = 0  # pictures that the ledger did not answer
    answered: int = 0  # of them
    cut_off: str = ""  # what is to be said of calls that were in flight when an earlier run was killed
    tokens: int = 0
    prompt_tokens: int = 0
    cleaned: int = 0  # captions that clean-up changed
    in_a_row: InARow = field(default_factory=InARow)  # refusals
    waits: list[Wait] = field(default_factory=list)  # that are under way
    error: ImpastoError | None = None  # that ended the run
    busy: dict[str, CaptionRefusal] = field(default_factory=dict)  # by sha256: refusals that do not go to the ledger


def progress_text(captioner: Captioner, held: int, tally: Tally, elapsed: float, now: float) -> str:
    """How far a run is, how long it may take, and what it waits for at the time `now`."""
    finished = tally.answered + len(tally.busy)
    text = f"{captioner.name}: {held + tally.answered} of {held + tally.asked} answered"
    if tally.busy:
        text += f", {len(tally.busy)} given up for now"
    if 0 < finished < tally.asked:
        text += f", about {duration(elapsed / finished * (tally.asked - finished))} left"
    return "; ".join(part for part in (text, waits_text(tally.waits, now)) if part)


def stage_report(captioner: Captioner, count: int, refused: int, tally: Tally, rules: Rules | None) -> str:
    """What one captioner did."""
    called = f"{captioner.name}{f' ({captioner.model})' if captioner.model else ''}"
    line = f"{called}: {count - refused} of {count} pictures captioned, {tally.asked} of them asked about in this run."
    if tally.tokens or tally.prompt_tokens:
        line += f" Tokens used in this run: {tally.prompt_tokens:,} in, {tally.tokens:,} out."
    line = f"{line}\n{tally.cut_off}".rstrip()
    return f"{line}\nClean-up ({rules}) changed {tally.cleaned} of its captions." if rules else line


def refusal_report(pictures: Mapping[str, Picture], refused: Mapping[str, CaptionRefusal]) -> list[str]:
    """Which pictures have no caption, and why; no lines where each has one."""
    if not refused:
        return []
    listed = [
        f"  {pictures[sha256].path.name}: {refusal.kind.value}: {refusal.reason}"
        for sha256, refusal in islice(refused.items(), LISTED)
    ]
    more = [f"  and {len(refused) - LISTED} more"] if len(refused) > LISTED else []
    return [
        f"{len(refused)} pictures have no caption from this run; caption them by hand in a Caption Editor:",
        *listed,
        *more,
    ]
