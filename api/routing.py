"""What a route is: a method, a path and a function from a call to a reply; ComfyUI's web server is not known here.

Paths are aiohttp's: `/impasto/runs/{run_id}`. A handler is named as `module.function` of this package, and imported
when it is first called, so that the routes cost nothing to load.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import ImpastoError

PREFIX = "/impasto"


@dataclass(frozen=True)
class Places:
    """The folders of this ComfyUI that routes look into, as `nodes/host/folders.py` knows them."""

    runs_root: Path
    loras_root: Path
    datasets_roots: tuple[Path, ...]
    user_root: Path


@dataclass(frozen=True)
class Call:
    """A request that has been read.

    Attributes:
        path: the variable parts of the route's path, decoded.
        query: of several values of a name, the last.
        body: the JSON that was sent; None where there is none.
        count_tokens: of a caption, for CLIP-L and T5; None where no tokenizer is at hand.
    """

    places: Places
    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    count_tokens: Callable[[str], tuple[int, int]] | None = None


@dataclass(frozen=True)
class Reply:
    """What is answered: a JSON value, the file at `file`, or `content`, which is always the same at its address."""

    value: Any = None
    file: Path | None = None
    content: bytes | None = None
    content_type: str = ""
    status: int = 200


class Refused(ImpastoError):
    """A request that cannot be answered.

    Attributes:
        status: 400 for a wrong value, 404 for what is not there, 409 for what does not fit the state of things.
        name: of the field or part of the path that is wrong; "" for none.
    """

    def __init__(self, text: str, name: str = "", status: int = 400) -> None:
        super().__init__(text)
        self.name = name
        self.status = status


@dataclass(frozen=True)
class Route:
    """One row of `table.ROUTES`.

    Attributes:
        handler: `module.function` within this package: takes a `Call`, gives a `Reply`, runs in a thread of its own.
        summary: what it does, in a line, for people.
    """

    method: str
    path: str
    handler: str
    summary: str

    def __call__(self, call: Call) -> Reply:
        module, _, name = self.handler.rpartition(".")
        function: Callable[[Call], Reply] = getattr(import_module(f"{__package__}.{module}"), name)
        return function(call)


def whole_number(call: Call, name: str, default: int, least: int = 0, most: int = 2**31) -> int:
    """A whole number of the query.

    Raises:
        Refused: it is none, or outside of its bounds.
    """
    text = call.query.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.removeprefix("-").isdigit() or not least <= int(text[:12]) <= most:
        raise Refused(f"{name} is '{text[:100]}'; give a whole number from {least} to {most}.", name)
    return int(text)
