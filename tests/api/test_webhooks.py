"""The owner's addresses are told of each change of state, and no other."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator

import pytest
from impasto.api import webhooks
from impasto.api.routing import Call, JobState

TINY = {"pretrained_model": "tiny-flux"}


class Hook(http.server.BaseHTTPRequestHandler):
    told: list[dict] = []
    moved: list[str] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/moved":
            self.moved.append(self.path)
            self.send_response(307)
            self.send_header("Location", "/")
        else:
            self.told.append(json.loads(body))
            self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def hook(monkeypatch) -> Iterator[str]:
    Hook.told, Hook.moved = [], []
    monkeypatch.setattr(webhooks, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(webhooks, "BETWEEN", 0.0)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def until(happened) -> None:
    deadline = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_each_state_of_a_job_is_told_once_to_each_address(ask, host, places, hook):
    (places.user_root / "webhooks.txt").write_text(f"# mine\n{hook}/\nfile:///etc/passwd\n")
    job_id = ask("POST", "run", {"output_name": "m", "folder": "f", **TINY}).value["job_id"]
    for _ in range(3):
        webhooks.watch(Call(places, host=host), job_id)
    for state in (JobState("pending"), JobState("running"), JobState("failed", error="No picture.")):
        host.states[job_id] = state
        told = {"pending": "queued"}.get(state.state, state.state)
        until(lambda told=told: told in [each["state"] for each in Hook.told])
    until(lambda: not webhooks._watched)
    assert [each["state"] for each in Hook.told] == ["queued", "running", "failed"]
    assert Hook.told[-1]["data"]["error"] == "No picture." and Hook.told[-1]["job_id"] == job_id


def test_a_redirect_is_not_followed(ask, host, places, hook):
    (places.user_root / "webhooks.txt").write_text(f"{hook}/moved\n")
    job_id = ask("POST", "run", {"output_name": "m", "folder": "f", **TINY}).value["job_id"]
    host.states[job_id] = JobState("done")
    webhooks.watch(Call(places, host=host), job_id)
    until(lambda: len(Hook.moved) == webhooks.ATTEMPTS)
    assert not Hook.told


def test_without_a_file_nobody_is_told(ask, host, places):
    job_id = ask("POST", "run", {"output_name": "m", "folder": "f", **TINY}).value["job_id"]
    webhooks.watch(Call(places, host=host), job_id)
    assert not webhooks._watched
