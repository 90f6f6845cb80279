"""A client of the routes under `/impasto/` and of ComfyUI's own: one file of the standard library alone, to be copied
into any script.

    impasto = Client("http://127.0.0.1:8188")
    for run in impasto.follow("latest"):
        print(run["state"], run["step"], "of", run["total"])
"""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

SERVER = "http://127.0.0.1:8188"
TOKEN = "IMPASTO_TOKEN"  # the variable of the environment that holds the bearer token, where the server asks for one
ENDED = ("finished", "stopped", "failed")  # states of a run in which no trainer is at work on it
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class NotReachable(ConnectionError):
    """No server answers at the address."""


class RequestRefused(Exception):
    """The server refused a request.

    Attributes:
        status: of HTTP, such as 400 for a wrong value and 404 for what is not there.
        field: what is wrong in the request; "" where the server does not say.
        answer: its whole answer.
    """

    def __init__(self, status: int, answer: Any) -> None:
        error = answer.get("error") if isinstance(answer, dict) else None
        told = error if isinstance(error, dict) else {"message": error or answer or f"HTTP status {status}"}
        self.status, self.field, self.answer = status, str(told.get("field") or ""), answer
        super().__init__(str(told.get("message")))


@dataclass(frozen=True)
class Client:
    """A server, asked over HTTP. Every method raises NotReachable and RequestRefused.

    Attributes:
        url: of ComfyUI, without a path unless a proxy has put it under one.
        token: sent as a bearer token where there is one.
        timeout: seconds that an answer may take.
    """

    url: str = SERVER
    token: str = field(default_factory=lambda: os.environ.get(TOKEN, ""), repr=False)
    timeout: float = 60

    def __post_init__(self) -> None:
        if urllib.parse.urlsplit(self.url).scheme not in ("http", "https"):
            raise ValueError(f"The server's address is '{self.url}'; write it as {SERVER}.")

    def get(self, path: str, **query: object) -> Any:
        """The JSON at a path such as "/impasto/runs"."""
        return _parsed(self.read(path + ("?" + urllib.parse.urlencode(query) if query else "")))

    def post(self, path: str, body: object = None) -> Any:
        """What is answered to a JSON body; None where that is nothing."""
        return _parsed(self.read(path, {} if body is None else body))

    def run(self, run_id: str) -> dict[str, Any]:
        """How far a run is, and what it has made; "latest" is a run's id too."""
        return self.get(f"/impasto/runs/{_quoted(run_id)}")

    def file(self, run_id: str, name: str) -> bytes:
        """A file of a run, such as "checkpoints/step-000500/adapter.safetensors"."""
        return self.read(f"/impasto/runs/{_quoted(run_id)}/files/{urllib.parse.quote(name)}")

    def follow(self, run_id: str, every: float = 1.0) -> Iterator[dict[str, Any]]:
        """The summary of a run, once and then whenever it has changed, until no trainer is at work on it any more."""
        told = None
        while told is None or told["state"] not in ENDED:
            if told is not None:
                time.sleep(every)
            if (now := self.run(run_id)) != told:
                run_id, told = now["id"], now  # the latest may be another one by and by
                yield now

    def read(self, path: str, body: object = None) -> bytes:
        """What is answered to GET, or to a POST of `body` as JSON."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        request = urllib.request.Request(self.url.rstrip("/") + path, data, headers)
        try:
            with _opener(self.url).open(request, timeout=self.timeout) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            raise RequestRefused(error.code, _parsed(error.read())) from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise NotReachable(f"No server answers at {self.url} ({reason}). Start it, or give another.") from error


def _opener(url: str) -> urllib.request.OpenerDirector:
    """To loopback past any proxy that the environment names, which would look for the server on its own machine."""
    local = urllib.parse.urlsplit(url).hostname in _LOOPBACK
    return urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if local else []))


def _parsed(content: bytes) -> Any:
    """JSON, or of an answer that is none, its text; None where there is nothing."""
    try:
        return json.loads(content) if content else None
    except ValueError:
        return content.decode(errors="replace")


def _quoted(name: str) -> str:
    return urllib.parse.quote(name, safe="")
