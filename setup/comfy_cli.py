"""comfy-cli, Comfy's own command-line tool, run so that it asks nothing, reports nothing and answers in JSON."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

QUIET_GIT = {"GIT_TERMINAL_PROMPT": "0"}  # git fails where it would ask for a login
ANSWER_SECONDS = 120


class ComfyCliFailed(Exception):
    """comfy-cli refused or failed; the text is what it said."""


def environment(home: Path) -> dict[str, str]:
    """Environment variables for comfy-cli from `home`/tools that keep it off the person's own settings.

    Args:
        home: the folder .impasto.
    """
    settings = home / "tools" / "home"  # comfy-cli notes the last workspace and more under HOME
    settings.mkdir(parents=True, exist_ok=True)
    # VIRTUAL_ENV: else it would make yet another environment inside ComfyUI.
    quiet = QUIET_GIT | {"HOME": str(settings), "VIRTUAL_ENV": str(home / "tools"), "DO_NOT_TRACK": "1"}
    settings_of_git = Path.home() / ".gitconfig"
    if settings_of_git.is_file():
        quiet.setdefault("GIT_CONFIG_GLOBAL", str(settings_of_git))
    return os.environ | quiet


def to_api(home: Path, workflow: Path, port: int) -> dict[str, Any]:
    """Convert a workflow in UI format to the API format that ComfyUI's queue takes.

    Args:
        home: the folder .impasto.
        workflow: a saved graph.
        port: of a running server on loopback that has all its nodes.

    Raises:
        ComfyCliFailed: the file is no workflow, or names nodes or inputs that the server does not have.
    """
    return _answer(home, ["run", "--print-prompt", "--json", *_source(workflow, port)])["prompt"]


def validate(home: Path, workflow: Path, port: int) -> dict[str, Any]:
    """Check a workflow against a running server, as `comfy workflow validate` does; the keys "valid", "errors", …"""
    return _answer(home, ["workflow", "validate", *_source(workflow, port)])


def _source(workflow: Path, port: int) -> list[str]:
    return ["--workflow", str(workflow), "--host", "127.0.0.1", "--port", str(port)]


def _answer(home: Path, arguments: list[str]) -> dict[str, Any]:
    command = [str(home / "tools" / "bin" / "comfy"), "--skip-prompt", *arguments]
    done = subprocess.run(
        command,
        env=environment(home),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=ANSWER_SECONDS,
    )
    lines = done.stdout.splitlines()
    if not lines:
        raise ComfyCliFailed(f"{' '.join(command)} said nothing on its output and this on errors:\n{done.stderr}")
    envelope = json.loads(lines[-1])  # the lines before it are events
    if not envelope["ok"]:
        error = envelope["error"]
        raise ComfyCliFailed(f"{error['message']} ({error['hint']})" if error.get("hint") else error["message"])
    return envelope["data"]
