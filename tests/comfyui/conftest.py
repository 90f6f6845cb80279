"""A real ComfyUI server on loopback with the pack linked in: one for all tests, or one of a test's own to be killed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import impasto
import pytest
from impasto.setup.serving import ComfyServer

from ..sources.loopback_hub import LoopbackHub

REPOSITORY = Path(impasto.__file__).resolve().parent
# The CPU repeats bit for bit. ComfyUI's partner nodes are left out: they cost seconds and want the internet.
OPTIONS = ("--cpu", "--disable-api-nodes", "--disable-all-custom-nodes", "--whitelist-custom-nodes", "impasto")


def find_comfyui() -> Path:
    """The folder of ComfyUI's main.py: `COMFYUI_PATH`, else the one that test.sh fetched."""
    path = Path(os.environ.get("COMFYUI_PATH") or REPOSITORY / ".impasto" / "ComfyUI")
    if not (path / "main.py").is_file():
        raise FileNotFoundError(f"There is no ComfyUI in {path}. Run ./test.sh once, or set COMFYUI_PATH.")
    return path


def new_server(base: Path) -> ComfyServer:
    """A server, not yet started, over a new base directory that has the pack among its custom nodes."""
    for name in ("models", "datasets", "output", "user", "input", "temp", "custom_nodes"):
        (base / name).mkdir(parents=True, exist_ok=True)
    (base / "custom_nodes" / "impasto").symlink_to(REPOSITORY, target_is_directory=True)
    return ComfyServer(find_comfyui(), base, base / "comfyui.log", options=OPTIONS)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A running server that all tests share: none may kill it or leave something running on it."""
    running = new_server(tmp_path_factory.mktemp("comfyui"))
    running.start()
    yield running
    running.stop()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[ComfyServer]:
    """A running server of the test's own, to `kill` and `restart`."""
    running = new_server(tmp_path)
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def hub_token() -> str:
    """What `hub_server` has as HF_TOKEN; a module can have another."""
    return ""


@pytest.fixture(scope="module")
def hub_server(hub: LoopbackHub, hub_token: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A running server whose Hugging Face Hub is the `hub` of the module."""
    running = new_server(tmp_path_factory.mktemp("comfyui"))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HF_ENDPOINT", hub.endpoint)
        environment.setenv("HF_TOKEN", hub_token)
        environment.delenv("HF_HUB_OFFLINE", raising=False)
        running.start()
    yield running
    running.stop()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    """Show the end of the server's log with a test that failed."""
    report = yield
    if report.failed:
        for name in ("server", "own_server", "hub_server"):
            if running := getattr(item, "funcargs", {}).get(name):
                report.sections.append((f"ComfyUI log of {name}", running.log_tail()))
    return report
