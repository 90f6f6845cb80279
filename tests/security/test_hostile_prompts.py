"""Hostile prompts of every node on a real server: each is answered, nothing is written elsewhere, the queue lives.

`IMPASTO_LONG=1` queues ten times as many; `IMPASTO_FUZZ_SEED` repeats what a failure names.
"""

from __future__ import annotations

import ast
import json
import os
import random
import re
import shutil
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from impasto.setup.serving import ComfyServer
from PIL import Image

from ..comfyui.conftest import REPOSITORY, find_comfyui, new_server
from ..golden.record_version import VERSIONS, unpack
from ..small_sources import Painting, picture_bytes, write_shard
from .hostile import MARK, hostile_prompt

PROMPTS = 5_000 if os.environ.get("IMPASTO_LONG") else 500
BATCH = 50
SEED = int(os.environ.get("IMPASTO_FUZZ_SEED", "11"))
SECONDS = 30  # a prompt; on a quiet machine the slowest takes one
MEMORY = 512 << 20  # bytes that the server may grow by
LONGEST_ANSWER = 4_000  # characters
# Inside the base directory, prompts may write here. ComfyUI's own: its settings and its database.
WRITABLE = ("output", "temp", "user/impasto", "models/impasto", "datasets", "user/default", "user/comfyui.db")
OWNERS = ("allowed_hosts.txt", "accelerate/two.yaml", "wildcards/colours.txt")  # under user/impasto
SENTENCE = re.compile(r"\w[^\n]*[.!?:…][)'”]?( |$)", re.MULTILINE)  # an example may follow
SKIPPED = {".impasto", ".git", "__pycache__", ".pytest_cache", ".ruff_cache"}


def family() -> set[str]:
    """Names of the errors that are sentences for people: ImpastoError and all that derive from it."""
    bases = {
        node.name: {getattr(base, "id", "") for base in node.bases}
        for file in REPOSITORY.glob("**/*.py")
        if not SKIPPED & set(file.relative_to(REPOSITORY).parts)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    }
    found = {"ImpastoError"}
    while more := {name for name, of in bases.items() if of & found} - found:
        found |= more
    return found


def files_in(root: Path) -> dict[str, tuple[int, int]]:
    """Relative path -> size and time of change, of every file; folders have none."""
    found = {}
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in SKIPPED and not Path(folder, name).is_symlink()]
        for path in (Path(folder, name) for name in (*folders, *files)):
            about = path.lstat()
            of_file = path.is_file() and not path.is_symlink()
            found[path.relative_to(root).as_posix()] = (about.st_size, about.st_mtime_ns) if of_file else (0, 0)
    return found


def changed(before: dict, after: dict) -> list[str]:
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))


@dataclass
class Attacked:
    """A server that is watched, and what its answers must be."""

    server: ComfyServer
    watch: Path
    nodes: dict[str, Any]
    errors: set[str] = field(default_factory=family)

    def post(self, route: str, body: Any) -> tuple[int, Any]:
        request = urllib.request.Request(
            f"{self.server.url}{route}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=SECONDS) as answer:
                content = answer.read()
                return answer.status, json.loads(content) if content else None
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def attack(self, prompts: list[dict]) -> list[tuple[dict, str]]:
        """Queue prompts and then a good one; give back those that were answered otherwise than by a sentence."""
        wrong, waiting = [], []
        for prompt in prompts:
            number = str(uuid.uuid4())
            status, answer = self.post("/prompt", {"prompt": prompt, "prompt_id": number})
            if status == 200:
                waiting.append((prompt, number))
            if fault := self.refusal_fault(status, answer):
                wrong.append((prompt, fault))
        for prompt, number in waiting:
            if fault := self.end_fault(number):
                wrong.append((prompt, fault))
                if fault.startswith("not ended"):
                    return wrong  # what waits behind it is not to be blamed
        good = {
            "set": {"class_type": "ImpastoPromptSet", "inputs": {"text": f"a barn {uuid.uuid4()}", "seed": 1}},
            "show": {"class_type": "PreviewAny", "inputs": {"source": ["set", 1]}},
        }
        try:
            said = self.server.queue(good, timeout=SECONDS).outputs["show"]["text"][0]
            assert said.startswith("a barn")
        except Exception as error:
            wrong.append((prompts[-1], f"after it, a good prompt was not run: {error}"))
        self.post("/history", {"clear": True})
        return wrong

    def refusal_fault(self, status: int, answer: Any) -> str:
        """What is wrong with the answer to a request, before anything was executed."""
        if status not in (200, 400):
            return f"answered {status}: {answer}"
        for errors in (answer.get("node_errors") or {}).values():
            for error in errors["errors"]:
                traceback = "".join((error.get("extra_info") or {}).get("traceback") or ())
                if "custom_nodes/impasto" in traceback:
                    return f"raised while it was validated: {error['details']}\n{traceback}"
                if not error["message"] or len(error["details"]) > LONGEST_ANSWER + longest_text(error):
                    return f"a refusal of {len(error['details'])} characters, or none"
        return "" if status == 200 or answer["error"]["message"] else "refused without a word"

    def end_fault(self, number: str) -> str:
        """What is wrong with how a prompt ended; "" where it did as it should."""
        deadline = time.monotonic() + SECONDS
        while not (past := self.history(number)):
            if time.monotonic() > deadline:
                self.server.interrupt()
                return f"not ended after {SECONDS} s"
            time.sleep(0.02)
        messages = {kind: data for kind, data in past["status"]["messages"]}
        failed = messages.get("execution_error")
        if failed is None:
            return "" if past["status"]["status_str"] == "success" else f"ended as {past['status']}"
        kind, said = failed["exception_type"], failed["exception_message"].strip()
        if failed["node_type"].startswith("Impasto"):
            ours = [frame for frame in failed["traceback"] if "custom_nodes/impasto" in frame]
            if not ours:  # ComfyUI's own refusal, before the node is asked
                return ""
            if kind.split(".")[-1] not in self.errors:
                return f"{failed['node_type']} raised {kind}: {said[:500]}\n{''.join(ours)}"
            if not said or len(said) > LONGEST_ANSWER or not SENTENCE.search(said):
                return f"{failed['node_type']}: no sentence, {len(said)} characters: {said[:300]} … {said[-100:]}"
        return ""

    def history(self, number: str) -> dict[str, Any] | None:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{self.server.url}/history/{number}", timeout=SECONDS) as answer:
            return json.loads(answer.read()).get(number)

    def noted(self) -> list[list[str]]:
        return [json.loads(line) for line in self.watch.read_text().splitlines()]


def longest_text(error: dict) -> int:
    """ComfyUI repeats in its own refusals what it was sent."""
    return len(json.dumps((error.get("extra_info") or {}).get("received_value"))) * 2


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    """A server over an earlier version's disk, with a home and a folder for temporary files of its own."""
    root = tmp_path_factory.mktemp("hostile")
    server = new_server(root / "base")
    server.log = root / "comfyui.log"
    shutil.copytree(unpack(VERSIONS[0], root / "disk") / "datasets", server.base / "datasets", dirs_exist_ok=True)
    shutil.move(root / "disk" / "runs", server.base / "output" / "impasto" / "runs")
    for toml in server.base.glob("**/*.toml"):
        toml.write_text(toml.read_text().replace(f"{root / 'disk'}/", f"{server.base}/"))
    (server.base / "input" / "pictures").mkdir()
    for number in range(3):
        Image.new("RGB", (96, 64), (60 * number, 0, 0)).save(server.base / "input" / "pictures" / f"{number}.png")
        (server.base / "input" / "pictures" / f"{number}.txt").write_text(f"a barn, number {number}")
    paintings = [Painting(picture_bytes(seed)) for seed in range(4)]
    write_shard(server.base / "datasets" / "museum" / "data" / "train-00000-of-00001.parquet", paintings)
    for name in OWNERS:
        (server.base / "user" / "impasto" / name).parent.mkdir(parents=True, exist_ok=True)
        (server.base / "user" / "impasto" / name).write_text("# the owner's\n")
    for name in ("home", "tmp"):
        (root / name).mkdir()
    with pytest.MonkeyPatch.context() as environment:
        for name in [name for name in os.environ if name.lower().endswith("_proxy") or "API_KEY" in name]:
            environment.delenv(name)
        for name in ("HF_HOME", "HF_TOKEN", "HF_ENDPOINT", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
            environment.delenv(name, raising=False)
        environment.setenv("HF_HUB_OFFLINE", "1")
        environment.setenv("HOME", str(root / "home"))
        environment.setenv("TMPDIR", str(root / "tmp"))
        environment.setenv("MPLCONFIGDIR", str(root / "tmp"))  # a list of fonts; else in the home folder
        environment.setenv("PYTHONPATH", str(Path(__file__).parent / "watched"))
        environment.setenv("IMPASTO_WATCH", str(root / "watch.jsonl"))
        server.start()
    try:
        yield Attacked(server, root / "watch.jsonl", server.object_info())
    finally:
        server.stop()


def test_hostile_prompts_of_every_node_are_answered_and_change_nothing_elsewhere(attacked: Attacked):
    server, root = attacked.server, attacked.server.base.parent
    names = sorted(name for name in attacked.nodes if name.startswith("Impasto"))
    assert len(names) > 30

    def prompts(first: int, last: int) -> list[dict]:
        return [
            hostile_prompt(names[number % len(names)], attacked.nodes, random.Random(f"{SEED} {number}"), server.port)
            for number in range(first, last)
        ]

    wrong = attacked.attack(prompts(-BATCH, 0))  # so that libraries are loaded before memory is looked at
    before = {place: files_in(place) for place in (root, REPOSITORY)}
    noted, grown = len(attacked.noted()), server.peak_memory()
    for first in range(0, PROMPTS, BATCH):
        wrong += attacked.attack(prompts(first, min(first + BATCH, PROMPTS)))
        if any(fault.startswith(("not ended", "after it")) for _, fault in wrong):
            break
        assert server.process.poll() is None, server.log_tail()
    report = "\n\n".join(f"{fault}\n{json.dumps(prompt)[:3_000]}" for prompt, fault in wrong)
    assert not wrong, f"seed {SEED}, {len(wrong)} prompts:\n{report}"

    if grown is not None:
        assert server.peak_memory() - grown < MEMORY
    assert not changed(before[REPOSITORY], files_in(REPOSITORY))
    allowed = tuple(f"{server.base.name}/{place}" for place in WRITABLE)
    elsewhere = [path for path in changed(before[root], files_in(root)) if not path.startswith((*allowed, "tmp/"))]
    assert set(elsewhere) <= {"comfyui.log", "watch.jsonl"}
    for name in OWNERS:
        assert (server.base / "user" / "impasto" / name).read_text() == "# the owner's\n"
    assert not [path for path in Path("/tmp").glob(f"*{MARK}*")] and not list(find_comfyui().glob(f"**/*{MARK}*"))

    written = {what for kind, what in attacked.noted()[noted:] if kind == "write"}
    assert not [path for path in written if not path.startswith((str(root.resolve()), "/dev/")) and not cached(path)]
    assert not {what for kind, what in attacked.noted() if kind == "connect"}
    looked_up = {what for kind, what in attacked.noted() if kind == "look up"}
    assert not [host for host in looked_up if not host.endswith(("wikiart.org", "huggingface.co", "hf.co"))]


def cached(path: str) -> bool:
    """Whether it is Python's own bytecode."""
    return "__pycache__" in path
