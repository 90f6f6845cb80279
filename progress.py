"""How long work tells what it is doing, without knowing who listens."""

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
