"""A client of the routes under `/impasto/` and of ComfyUI's own: one file of the standard library alone, to be copied
into any script.

    impasto = Client("http://127.0.0.1:8188")
    job = impasto.post("/impasto/run", {"output_name": "monet", "folder": "monet", "steps": 500})
    for told in impasto.follow(job["run_id"]):
        print(told["state"], told["step"], "of", told["total"], told["lora"])
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
        nodes = answer.get("node_errors") if isinstance(answer, dict) else None  # of ComfyUI's own queue
        details = [each["details"] for node in (nodes or {}).values() for each in node.get("errors", ())]
        super().__init__("\n".join(dict.fromkeys([str(told.get("message")), *details])))


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

    def run(self, asked: str) -> dict[str, Any]:
        """What a run has made, and its settings."""
        return self.get(f"/impasto/runs/{self.quoted(asked)}")

    def file(self, asked: str, name: str) -> bytes:
        """A file of a run, such as "checkpoints/step-000500/adapter.safetensors"."""
        return self.read(f"/impasto/runs/{self.quoted(asked)}/files/{urllib.parse.quote(name)}")

    def status(self, asked: str) -> dict[str, Any]:
        """How far a job or a run is, by the id of either; "latest" is a run's id too."""
        return self.get(f"/impasto/status/{self.quoted(asked)}")

    def follow(self, asked: str, every: float = 1.0) -> Iterator[dict[str, Any]]:
        """The status of a job or a run, once and then whenever it has changed, until it has ended."""
        told = None
        while told is None or told["status"] == "processing":
            if told is not None:
                time.sleep(every)
            if (now := self.status(asked)) != told:
                asked, told = now["run"] or asked, now  # the latest may be another one by and by
                yield now

    def read(self, path: str, body: object = None) -> bytes:
        """What is answered to GET, or to a POST of `body` as JSON."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        if self.token:
            sent = self.token.encode().decode("latin-1")  # its UTF-8, byte by byte: http.client sends latin-1
            headers["Authorization"] = f"Bearer {sent}"
        request = urllib.request.Request(self.url.rstrip("/") + path, data, headers)
        try:
            with _opener(self.url).open(request, timeout=self.timeout) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            raise RequestRefused(error.code, _parsed(error.read())) from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise NotReachable(f"No server answers at {self.url} ({reason}). Start it, or give another.") from error

    @staticmethod
    def quoted(name: str) -> str:
        """A name as one part of a path."""
        return urllib.parse.quote(name, safe="")


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
