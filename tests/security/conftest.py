"""What a stranger can do who reaches the port of a real server: queue anything, and upload any file under `output`."""

from __future__ import annotations

import json
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from impasto.setup.serving import ComfyServer

from ..comfyui.conftest import new_server, pytest_runtest_makereport  # noqa: F401


class Port:
    """Routes of a server's own, used by a stranger."""

    def __init__(self, server: ComfyServer) -> None:
        self.server = server

    def upload(self, kind: str, place: str, content: str) -> None:
        """Write `content` to `place` ("folder/file") under `output`, `input` or `temp`, over what is there."""
        path, edge = Path(place), uuid.uuid4().hex
        fields = {"type": kind, "subfolder": path.parent.as_posix(), "overwrite": "true"}
        parts = [f'--{edge}\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n' for k, v in fields.items()]
        file = f'--{edge}\r\nContent-Disposition: form-data; name="image"; filename="{path.name}"\r\n\r\n{content}\r\n'
        body = "".join([*parts, file, f"--{edge}--\r\n"]).encode()
        self._post("/upload/image", body, f"multipart/form-data; boundary={edge}")
        assert (self.server.base / kind / place).read_text() == content, "the route has changed; find the new one"

    def forget(self) -> None:
        """Have the server forget what its nodes gave, so that they run again."""
        self._post("/free", json.dumps({"free_memory": True}).encode(), "application/json")

    def _post(self, route: str, body: bytes, kind: str) -> None:
        request = urllib.request.Request(f"{self.server.url}{route}", body, {"Content-Type": kind})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=30) as answer:
            assert answer.status == 200


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A server whose owner has an empty entry in PYTHONPATH, as `PYTHONPATH=$PYTHONPATH:/more` makes one."""
    running = new_server(tmp_path_factory.mktemp("attacked"))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", ":.")
        running.start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def port(server: ComfyServer) -> Port:
    return Port(server)
