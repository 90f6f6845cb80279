"""What a captioner is: pictures in, a caption or a typed refusal for each of them out.

Everything else (the ledger, batches, concurrency, retries, progress, Cancel, a fallback) is the runner's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Picture:
    """One picture to be captioned."""

    sha256: str  # of the stored bytes
    path: Path
    width: int  # pixels
    height: int  # pixels
    genre: str = ""  # the source's labels, "" where unknown
    title: str = ""
    artist: str = ""
    source_sha256: str = ""  # of the file that it was made of, where that is another; "" where it is not
    style: str = ""
    date: str = ""


@dataclass(frozen=True)
class Caption:
    """What a captioner said of a picture: raw, as it came. Never empty: an empty answer is a `CaptionRefusal`."""

    text: str
    finish_reason: str = "stop"
    tokens: int = 0  # of the answer, thinking included; 0 where nobody counts
    prompt_tokens: int = 0  # of the question, the picture included


class Kind(str, Enum):
    """Why there is no caption. The values are written to the ledger."""

    PROMPT_BLOCKED = "prompt blocked"  # the service refused the picture or the question
    ANSWER_BLOCKED = "answer blocked"  # the service began to answer and refused to hand it out
    CUT_OFF = "cut off"  # the limit of tokens was reached before the caption was whole
    NO_ANSWER = "no answer"  # an answer without a caption in it
    MALFORMED = "malformed answer"  # an answer that cannot be read as what was asked for
    UNREADABLE = "unreadable picture"  # the file cannot be decoded
    BUSY = "busy"  # rate limit, overload, time-out, lost connection: nothing to do with this picture
    FAILED = "failed"  # anything else that went wrong with this picture alone


@dataclass(frozen=True)
class CaptionRefusal:
    """Why a picture has no caption.

    A refusal with `lasting` goes to the ledger: the same question would be answered the same, so it is not asked again
    by itself. One without (`Kind.BUSY`) leaves the picture open for the next run.
    """

    kind: Kind
    reason: str  # a sentence for a person: the service's own word, and the value
    retry: bool = False  # whether asking again at once may help
    wait: float = 0.0  # seconds to wait before asking again
    lasting: bool = True
    tokens: int = 0  # paid for, as in `Caption`
    prompt_tokens: int = 0


class Captioner(Protocol):
    """One way to caption pictures. Small and serialisable (it travels on a link) until `caption` is first awaited."""

    @property
    def name(self) -> str:
        """The captioner in the ledger, "gemini": never changed, whatever the person calls it."""

    @property
    def model(self) -> str:
        """The model in the ledger; "" where none is involved."""

    @property
    def batch_size(self) -> int:
        """Most pictures that one call of `caption` gets; 1 for services."""

    @property
    def concurrency(self) -> int:
        """Most calls of `caption` that may wait at the same time; 1 for a model in this process."""

    @property
    def counted(self) -> bool:
        """Whether somebody counts the calls, in money or quota, so that an answer on its way must not be lost.

        Such a captioner is a dataclass, of which `dataclasses.replace` makes another without its connections.
        """

    def prompt(self, picture: Picture) -> str:
        """Hash (`files.content_hash`) of all that it is told beside the picture: instructions, task, beams, labels."""

    async def caption(
        self, pictures: Sequence[Picture], check: Callable[[], None], sending: Callable[[], None]
    ) -> Sequence[Caption | CaptionRefusal]:
        """Caption 1 … `batch_size` pictures: one result for each, in their order.

        Waiting is awaited, so that Cancel (asyncio's cancellation) can end it. `check` raises (to be let through) when
        Cancel was pressed or no more calls shall be sent: one that sends calls `check` before each of them, and while
        it waits for its turn, and `sending` right before the call leaves; one that computes in this process may block,
        and calls `check` at least twice a second.

        Raises:
            ImpastoError: nothing can be captioned at all (no key, no model, the day's limit): ends the run. What is in
                the ledger stays.
        """

    async def close(self) -> None:
        """Let go of connections and models after a run, whatever its end; `caption` may be awaited again later."""
