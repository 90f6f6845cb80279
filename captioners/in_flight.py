"""Which calls are under way, on disk: what a kill cuts off may have been answered unseen, and is paid for twice."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..files import content_hash, read_jsonl, write_whole, writing
from .captioner import Captioner, Picture


def beside(ledger: Path, captioner: Captioner, ending: str) -> Path:
    """A file beside the ledger that belongs to one captioner."""
    return ledger.with_name(f"captions-{content_hash([captioner.name, captioner.model], 8)}.{ending}")


class InFlight:
    """The calls of one captioner about one dataset that are under way. One run at a time keeps them.

    Each line is handed to the system at once, so that it outlives this process; it is not flushed to the disk.
    """

    def __init__(self, captioner: Captioner, waiting: Sequence[Picture], ledger: Path) -> None:
        """
        Args:
            waiting: the pictures that the ledger does not answer; only of these anything is known and kept.
        """
        self._captioner = captioner
        self._file = beside(ledger, captioner, "in-flight.jsonl")
        noted = {line["call"]: line["sent"] for line in read_jsonl(self._file) if line.keys() == {"call", "sent"}}
        self._open = {call for call, sent in noted.items() if sent}
        if noted:
            self._open &= {self._name(picture) for picture in waiting}
            # Written anew, so that the next line does not follow one that was torn.
            write_whole(self._file, "".join(_line(call, True) for call in sorted(self._open)))
        self._cut_off = len(self._open)

    @property
    def report(self) -> str:
        """What is to be said of the calls that an earlier run had sent without having seen how they ended; or ""."""
        return (
            f"In flight when an earlier run was cut off: {self._cut_off}. They are asked again and may be paid twice."
            if self._cut_off
            else ""
        )

    @contextlib.contextmanager
    def followed(
        self, pictures: Sequence[Picture], check: Callable[[], None]
    ) -> Iterator[tuple[Callable[[], None], Callable[[], None]]]:
        """Give `check` and `sending` for `Captioner.caption`; in the end what the call brought is in the ledger.

        While the captioner checks, it waits: nothing is under way. What is cancelled may be: that stays noted.
        """

        def check_waiting() -> None:
            self._over(pictures)
            check()

        try:
            yield check_waiting, lambda: self._note(pictures, True)
        except Exception:
            self._over(pictures)
            raise
        self._over(pictures)

    def close(self) -> None:
        """Leave nothing behind where every call has ended."""
        if not self._open:
            with writing(self._file):
                self._file.unlink(missing_ok=True)

    def _over(self, pictures: Sequence[Picture]) -> None:
        self._note([picture for picture in pictures if self._name(picture) in self._open], False)

    def _note(self, pictures: Sequence[Picture], sent: bool) -> None:
        calls = {self._name(picture) for picture in pictures}
        self._open = self._open | calls if sent else self._open - calls
        if calls:
            with writing(self._file), open(self._file, "ab") as file:
                file.write("".join(_line(call, sent) for call in sorted(calls)).encode())

    def _name(self, picture: Picture) -> str:
        return content_hash([picture.sha256, self._captioner.prompt(picture)])


def _line(call: str, sent: bool) -> str:
    return json.dumps({"call": call, "sent": sent}) + "\n"
