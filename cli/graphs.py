"""Graphs from files, as ComfyUI's queue takes them, with inputs changed on the way."""

from __future__ import annotations

import shutil
import subprocess
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import worker
from ..client import Client
from ..errors import SettingsError
from ..files import parsed_json

CONVERT_SECONDS = 120
EXPORT = "In ComfyUI, open it and choose File, Export (API): that form needs nothing else."


def prompt_of(file: str, server: Client) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """A graph in API format, and the same as the page shows it where the file holds that.

    The page's form says nothing of inputs by name; comfy-cli translates it, asking the server for its nodes.

    Raises:
        SettingsError: the file is no graph, or comfy-cli is not there or refuses.
        OSError: it cannot be read.
    """
    try:
        graph = parsed_json(Path(file).read_bytes())
    except ValueError as error:
        raise SettingsError(f"{file} is not JSON: {error}") from error
    if isinstance(graph, dict) and graph and all(_is_node(node) for node in graph.values()):
        return graph, None
    if not isinstance(graph, dict) or "nodes" not in graph:
        raise SettingsError(f"{file} is no graph. {EXPORT}")
    return _translated(file, server), graph


def changed(prompt: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """The graph with inputs set by `node.input=value`; a node by its id, its title, or its type where that is one's.

    Values are JSON, or else text.

    Raises:
        SettingsError: a word is none of these, or names no node or several, or no input that it has.
    """
    prompt = {name: node | {"inputs": dict(node["inputs"])} for name, node in prompt.items()}
    for word in words:
        place, equals, text = word.partition("=")
        node, dot, name = place.rpartition(".")
        if not (equals and dot):
            raise SettingsError(f"'{word}' sets nothing; write node.input=value.")
        inputs = prompt[_node(prompt, node)]["inputs"]
        if name not in inputs:
            raise SettingsError(f"'{node}' has no input '{name}'. It has: {', '.join(inputs)}.")
        try:
            inputs[name] = parsed_json(text)
        except ValueError:
            inputs[name] = text
    return prompt


def _node(prompt: Mapping[str, Any], asked: str) -> str:
    if asked in prompt:
        return asked
    named = {name: (node.get("_meta", {}).get("title"), node["class_type"]) for name, node in prompt.items()}
    found = [name for name, names in named.items() if asked in names]
    if len(found) == 1:
        return found[0]
    if found:
        raise SettingsError(f"'{asked}' is {len(found)} nodes. Give one's id: {', '.join(found)}.")
    there = ", ".join(f"{name} ({title or kind})" for name, (title, kind) in named.items())
    raise SettingsError(f"The graph has no node '{asked}'. It has: {there}.")


def _is_node(node: Any) -> bool:
    return isinstance(node, dict) and "class_type" in node and isinstance(node.get("inputs"), dict)


def _translated(file: str, server: Client) -> dict[str, Any]:
    own = worker.PACK / ".impasto" / "tools" / "bin" / "comfy"  # where quickstart.sh puts it
    program = shutil.which("comfy") or (str(own) if own.exists() else None)
    if program is None:
        raise SettingsError(
            f"{file} is a graph as ComfyUI's page saves it, which comfy-cli translates for the queue, and that is not "
            f"installed (pip install comfy-cli). {EXPORT}"
        )
    address = urllib.parse.urlsplit(server.url)
    where = ["--host", address.hostname or "", "--port", str(address.port or 80)]
    try:
        done = subprocess.run(
            [program, "--skip-prompt", "run", "--print-prompt", "--json", "--workflow", file, *where],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=CONVERT_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise SettingsError(
            f"comfy-cli has not translated {file} in {CONVERT_SECONDS} seconds. Does ComfyUI answer at {server.url}? "
            f"{EXPORT}"
        ) from error
    try:
        answer = parsed_json(done.stdout.splitlines()[-1])  # the lines before it are events
        if answer["ok"]:
            return answer["data"]["prompt"]
        said = answer["error"]["message"]
    except (IndexError, ValueError, LookupError, TypeError):
        said = (done.stderr or done.stdout).strip()[-1_000:]
    raise SettingsError(f"comfy-cli does not translate {file}: {said}. {EXPORT}")
