"""What a route is: a method, a path and a function from a call to a reply; ComfyUI's web server is not known here.

Paths are aiohttp's: `/impasto/runs/{run_id}`. A handler is named as `module.function` of this package, and imported
when it is first called, so that the routes cost nothing to load; so is the model that its body is held to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

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
class JobState:
    """What ComfyUI's queue and history say of a job.

    Attributes:
        state: "pending", "running", "done", "failed" or "stopped".
        ahead: jobs before it in the queue.
        doing: what the node at work is called in the graph; `done` of `total` is how far that node is, 0 of 0 where it
            does not say.
        error: why it failed.
        made: what its nodes made, as `nodes/results.py` tells it.
    """

    state: str
    ahead: int = 0
    doing: str = ""
    done: int = 0
    total: int = 0
    error: str = ""
    made: tuple[Mapping[str, Any], ...] = ()

    @property
    def ended(self) -> bool:
        return self.state in ("done", "failed", "stopped")


class Host(Protocol):
    """The ComfyUI that a call came to; `nodes/host/queue.py` is it. Every method may be called from any thread."""

    def post(self, job_id: str, graph: Mapping[str, Any]) -> None:
        """Put a graph in API format into the queue, under this id.

        Raises:
            Refused: ComfyUI does not take it, or the queue is full.
        """

    def state(self, job_id: str) -> JobState | None:
        """None for a job that this server does not know: it was started again since, or forgot it."""

    def cancel(self, job_id: str) -> bool:
        """Take it out of the queue, or have it stop if it runs; False where it does neither any more."""

    def models(self, folder: str) -> list[str]:
        """Names of the models that ComfyUI lists in a folder, such as "diffusion_models"."""

    def loader_of(self, weights: Path, fingerprint: str) -> dict[str, Any] | None:
        """A node in API format whose first output is the base model of a run, by its file and what identifies its
        content (`trainers.flux.fingerprint`); None where nothing that ComfyUI lists is that.
        """

    def health(self) -> dict[str, Any]:
        """Devices, memory, queue and versions."""


@dataclass(frozen=True)
class Call:
    """A request that has been read.

    Attributes:
        path: the variable parts of the route's path, decoded.
        query: of several values of a name, the last.
        body: the JSON that was sent, None where there is none; in a handler whose route has a `body`, that model.
        count_tokens: of a caption, for CLIP-L and T5; None where no tokenizer is at hand.
        host: None where only folders are looked into.
    """

    places: Places
    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    count_tokens: Callable[[str], tuple[int, int]] | None = None
    host: Host | None = None


@dataclass(frozen=True)
class Reply:
    """What is answered: a JSON value, the file at `file`, or `content`, which is always the same at its address.

    Attributes:
        follow: the job whose end is waited for, at most `seconds`; what is answered then is `then`'s.
        then: gets how the job ended; called in a thread.
        events: the same value again each time it has changed, until this says None: server-sent events.
    """

    value: Any = None
    file: Path | None = None
    content: bytes | None = None
    content_type: str = ""
    status: int = 200
    follow: str = ""
    seconds: float = 0.0
    then: Callable[[JobState], Reply] | None = None
    events: Callable[[], tuple[Any, bool]] | None = None


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
class Query:
    """A parameter behind the question mark: a whole number."""

    name: str
    summary: str
    default: int
    least: int
    most: int


@dataclass(frozen=True)
class Route:
    """One row of `table.ROUTES`.

    Attributes:
        handler: `module.function` within this package: takes a `Call`, gives a `Reply`, runs in a thread of its own.
        summary: what it does, in a line, for people.
        body: the class in `models` that its JSON is held to; "" takes any or none.
        answer: the class in `models` that its answer is; "" for a JSON object that is not described.
        statuses: that it answers with when all is well.
        query: what may stand behind the question mark.
        media: type of what is answered.
    """

    method: str
    path: str
    handler: str
    summary: str
    body: str = ""
    answer: str = ""
    statuses: tuple[int, ...] = (200,)
    query: tuple[Query, ...] = ()
    media: str = "application/json"

    def __call__(self, call: Call) -> Reply:
        if self.body:
            models = import_module(f"{__package__}.models")
            call = replace(call, body=models.read(getattr(models, self.body), call.body))
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
