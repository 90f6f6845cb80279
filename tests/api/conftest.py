"""A host that notes what it is asked for, and folders of a test's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from impasto.api.routing import Call, JobState, Places, Reply
from impasto.api.table import ROUTES


class NotingHost:
    """ComfyUI's queue as a list: what is posted, and what the test says of it."""

    def __init__(self) -> None:
        self.posted: dict[str, Mapping[str, Any]] = {}
        self.states: dict[str, JobState] = {}
        self.lists: dict[str, list[str]] = {}
        self.loaders: dict[tuple[str, str], dict[str, Any]] = {}

    def post(self, job_id: str, graph: Mapping[str, Any]) -> None:
        assert job_id not in self.posted, "posted twice"
        self.posted[job_id] = graph
        self.states[job_id] = JobState("pending")

    def state(self, job_id: str) -> JobState | None:
        return self.states.get(job_id)

    def cancel(self, job_id: str) -> bool:
        return self.states.pop(job_id, None) is not None

    def models(self, folder: str) -> list[str]:
        return self.lists.get(folder, [])

    def loader_of(self, weights: Path, fingerprint: str) -> dict[str, Any] | None:
        return self.loaders.get((str(weights), fingerprint))

    def health(self) -> dict[str, Any]:
        return {}


@pytest.fixture
def host() -> NotingHost:
    return NotingHost()


@pytest.fixture
def places(tmp_path: Path) -> Places:
    found = Places(tmp_path / "runs", tmp_path / "loras", (tmp_path / "datasets",), tmp_path / "user")
    for folder in (found.runs_root, found.loras_root, *found.datasets_roots, found.user_root):
        folder.mkdir()
    return found


@pytest.fixture
def ask(places: Places, host: NotingHost):
    """Ask a route by its method and the end of its path, as the carrier does."""

    def asked(method: str, path: str, body: Any = None, query: Mapping[str, str] | None = None, **parts: str) -> Reply:
        (route,) = [each for each in ROUTES if each.method == method and each.path == f"/impasto/{path}"]
        return route(Call(places, parts, query or {}, body, host=host))

    return asked
