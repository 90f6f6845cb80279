"""How long work tells what it is doing and how long it takes, without knowing who listens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from PIL.Image import Image


class Progress(Protocol):
    """Called between units of work; the listener stops the work by raising from the call.

    What is already on disk stays, so that the same call goes on from there.
    """

    def __call__(self, done: int, total: int, text: str = "", preview: Image | None = None) -> None: ...


def silent(done: int, total: int, text: str = "", preview: Image | None = None) -> None:
    """A `Progress` that tells nobody."""


def duration(seconds: float) -> str:
    """Seconds as a person says them: "40 s", "22 min", "3 h 05 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
