"""A ComfyUI server as a child process on loopback, and a client of its queue that follows what it executes.

Used by quickstart and by the tests, so that what a person sees and what is tested run through the same queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import queue
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..client import Client, NotReachable, RequestRefused

START_SECONDS = 300  # a cold start on 2 cores takes about 10; beside two busy processes one took 23
PORTS = (10_240, 32_768)  # below those that Linux, macOS and Windows take for connections
STOP_SECONDS = 20  # for the running node to see Cancel and for the server to leave
TEXT_EVENT = 3  # ComfyUI protocol.py: BinaryEventTypes.TEXT
LOG_TAIL = 3000  # characters of the server's log shown when it fails

Listener = Callable[[str, dict[str, Any]], None]  # called with each message of the server: its type and its data


class ServerFailed(Exception):
    """The server did not start, or ended while it was needed. The text holds the end of its log."""


class PromptRefused(RequestRefused):
    """The server refused a prompt before running it, or a part of it; `node_errors` is its answer by node id."""

    @property
    def node_errors(self) -> dict[str, Any]:
        return self.answer.get("node_errors") or {}

    def __str__(self) -> str:
        """With the type of a node that is not there, of which the server's sentence says only the title."""
        error = self.answer.get("error")
        kind = error.get("extra_info", {}).get("class_type") if isinstance(error, dict) else None
        return super().__str__() + (f" ({kind})" if kind else "")


class NodeFailed(Exception):
    """A node raised while the prompt was executed."""

    def __init__(self, message: dict[str, Any]) -> None:
        self.node_id: str = message["node_id"]
        self.node_type: str = message["node_type"]
        self.exception_type: str = message["exception_type"]
        self.exception_message: str = message["exception_message"].strip()
        self.traceback: str = "".join(message["traceback"])
        super().__init__(f"{self.node_type} (node {self.node_id}): {self.exception_message}")


class Interrupted(Exception):
    """The prompt was cancelled; `node_id` is where."""

    def __init__(self, message: dict[str, Any]) -> None:
        self.node_id: str = message["node_id"]
        super().__init__(f"cancelled at node {self.node_id}")


@dataclass(frozen=True)
class Result:
    """What an executed prompt gave."""

    prompt_id: str
    outputs: dict[str, dict[str, Any]]  # node id -> what it showed: {"images": [{"filename", "subfolder", "type"}], …}
    cached: tuple[str, ...]  # nodes whose results were taken from the cache
    seconds: dict[str, float] = field(default_factory=dict)  # node id -> seconds it took, in the order of execution


class Execution:
    """One queued prompt, followed in a thread until it ends."""

    def __init__(self, url: str, body: dict[str, Any], listener: Listener | None) -> None:
        self.prompt_id = body["prompt_id"]
        self.messages: list[tuple[str, dict[str, Any]]] = []  # everything the server said about it so far
        self._listener = listener
        self._cached: tuple[str, ...] = ()
        self._seconds: dict[str, float] = {}
        self._running: tuple[str, float] | None = None  # node id, when it began
        self._failure: Exception | None = None
        self._accepted: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._follow(url, body)), daemon=True)
        self._url = url
        self._thread.start()
        if refusal := self._accepted.get():
            raise refusal

    @property
    def ended(self) -> bool:
        """Whether `wait` would return or raise at once."""
        return not self._thread.is_alive()

    def wait(self, timeout: float | None = None) -> Result:
        """Block until the prompt has ended, for at most `timeout` seconds.

        Raises:
            NodeFailed, Interrupted: as the prompt ended.
            ServerFailed: the connection was lost.
            TimeoutError: it is still running.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._thread.is_alive():  # in short waits, so that Ctrl-C is seen
            self._thread.join(0.2)
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"The prompt has not ended after {timeout} s.")
        if self._failure:
            raise self._failure
        history = Client(self._url).get(f"/history/{self.prompt_id}")[self.prompt_id]
        return Result(self.prompt_id, history["outputs"], self._cached, self._seconds)

    async def _follow(self, url: str, body: dict[str, Any]) -> None:
        import aiohttp

        try:
            async with aiohttp.ClientSession() as session:
                events = f"{url}/ws?clientId={body['client_id']}"
                async with session.ws_connect(events, max_msg_size=0) as connection:
                    async with session.post(f"{url}/prompt", json=body) as answer:
                        if answer.status != 200:
                            self._accepted.put(PromptRefused(answer.status, await answer.json()))
                            return
                        accepted = await answer.json()
                        if accepted["node_errors"]:  # part of the graph was refused, and the rest runs
                            self._failure = PromptRefused(answer.status, accepted)
                    self._accepted.put(None)
                    async for message in connection:
                        if self._ended_by(message):
                            return
            self._failure = ServerFailed("The server closed the connection while it was executing the prompt.")
        except (aiohttp.ClientError, OSError) as error:
            self._failure = ServerFailed(f"The connection to the server was lost: {error}")
            self._accepted.put(self._failure)

    def _ended_by(self, message: Any) -> bool:
        kind, data = _decode(message)
        if data.get("prompt_id", self.prompt_id) != self.prompt_id:
            return False
        self.messages.append((kind, data))
        if kind == "execution_cached":
            self._cached = tuple(data["nodes"])
        elif kind == "execution_error":
            self._failure = NodeFailed(data)
        elif kind == "execution_interrupted":
            self._failure = Interrupted(data)
        elif kind == "executing":
            self._clock(data["node"])
        if self._listener:
            self._listener(kind, data)
        return kind == "executing" and data["node"] is None  # sent after the history has been written

    def _clock(self, node: str | None) -> None:
        now = time.monotonic()
        if self._running:
            ended, began = self._running
            self._seconds[ended] = self._seconds.get(ended, 0.0) + now - began
        self._running = None if node is None else (node, now)


class ComfyServer:
    """A ComfyUI server process over a base directory; its folders are `base/models`, `base/output` and so on.

    Args:
        comfyui: the folder that ComfyUI's main.py is in.
        base: the base directory; its custom_nodes are loaded.
        log: file that the server's output is appended to.
        port: TCP port on 127.0.0.1; a free one if None.
        options: further command-line options of ComfyUI, such as `--cpu`.
    """

    def __init__(
        self, comfyui: Path, base: Path, log: Path, port: int | None = None, options: tuple[str, ...] = ()
    ) -> None:
        self.comfyui, self.base, self.log = comfyui, base, log
        self.options = options
        self.port = port or free_port()
        self.process: subprocess.Popen | None = None
        self._groups: list[int] = []  # process groups that may still hold something

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def client(self) -> Client:
        return Client(self.url)

    def start(self, timeout: float = START_SECONDS) -> None:
        """Start the process and wait until it answers.

        Raises:
            ServerFailed: it ended, or did not answer within `timeout` seconds.
        """
        database = f"sqlite:///{self.base / 'user' / 'comfyui.db'}"  # by default it lies in ComfyUI's own folder
        where = ["--base-directory", str(self.base), "--database-url", database, "--port", str(self.port)]
        command = [sys.executable, "main.py", *where, "--disable-auto-launch", *self.options]
        # Without bytecode, ComfyUI compiles itself, torch and transformers at each start, for 10 seconds and more.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        with open(self.log, "ab") as log:
            # A session of its own: Ctrl-C reaches the caller only, who then cancels the running node first.
            self.process = subprocess.Popen(
                command,
                cwd=self.comfyui,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._groups.append(self.process.pid)
        deadline = time.monotonic() + timeout
        while not self._answers():
            if self.process.poll() is not None:
                raise ServerFailed(f"ComfyUI ended with status {self.process.returncode}.\n{self.log_tail()}")
            if time.monotonic() > deadline:
                self.kill()
                raise ServerFailed(f"ComfyUI did not answer within {timeout} s.\n{self.log_tail()}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Cancel what is running, then end the process and whatever it started, before and after a `kill` too."""
        try:
            if self.process is not None and self.process.poll() is None:
                self._leave()
        finally:  # an impatient second Ctrl-C ends the wait, and leaves nothing behind either
            for group in self._groups:
                with contextlib.suppress(ProcessLookupError, PermissionError):  # everything in it has ended
                    os.killpg(group, signal.SIGKILL)
            self._groups.clear()
            if self.process is not None:
                self.process.wait()

    def _leave(self) -> None:
        deadline = time.monotonic() + STOP_SECONDS
        with contextlib.suppress(NotReachable, RequestRefused):  # what does not answer any more is ended all the same
            self.clear_queue()
            self.interrupt()
            while self.is_busy() and time.monotonic() < deadline:
                time.sleep(0.1)
        self.process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(max(1.0, deadline - time.monotonic()))

    def kill(self) -> None:
        """SIGKILL to the server process alone: what it had started is left to notice, as after a crash."""
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        """Start a new process over the same base directory, ending the old one first if it still runs."""
        if self.process is not None and self.process.poll() is None:
            self.stop()
        self.start()

    def submit(
        self, prompt: dict[str, Any], workflow: dict[str, Any] | None = None, listener: Listener | None = None
    ) -> Execution:
        """Queue a prompt in API format and return at once.

        Args:
            prompt: node id -> {"class_type", "inputs"}.
            workflow: the same graph in UI format, which saved pictures and runs then carry.
            listener: called in another thread with each message of the server.

        Raises:
            PromptRefused: the server found the prompt invalid.
            ServerFailed: the server does not answer.
        """
        body = {"prompt": prompt, "client_id": uuid.uuid4().hex, "prompt_id": str(uuid.uuid4())}
        if workflow is not None:
            body["extra_data"] = {"extra_pnginfo": {"workflow": workflow}}
        return Execution(self.url, body, listener)

    def queue(self, prompt: dict[str, Any], timeout: float | None = 300) -> Result:
        """Queue a prompt and wait for its result; `timeout` in seconds. Raises as `submit` and `Execution.wait`."""
        return self.submit(prompt).wait(timeout)

    def interrupt(self) -> None:
        """Cancel the prompt that is running."""
        self.client.post("/interrupt")

    def clear_queue(self) -> None:
        self.client.post("/queue", {"clear": True})

    def is_busy(self) -> bool:
        waiting = self.client.get("/queue")
        return bool(waiting["queue_running"] or waiting["queue_pending"])

    def object_info(self, node_type: str | None = None) -> dict[str, Any]:
        """Node type -> its inputs and outputs, as the browser sees them."""
        return self.client.get("/object_info" + (f"/{Client.quoted(node_type)}" if node_type else ""))

    def history(self, prompt_id: str) -> dict[str, Any]:
        """ComfyUI's record of an executed prompt: its outputs, status and messages."""
        return self.client.get(f"/history/{prompt_id}")[prompt_id]

    def output_files(self, result: Result, node_id: str) -> list[Path]:
        """The files that a node of an executed prompt saved or previewed."""
        shown = [item for items in result.outputs.get(node_id, {}).values() for item in items]
        files = [item for item in shown if isinstance(item, dict) and "filename" in item]
        return [self.base / file["type"] / file["subfolder"] / file["filename"] for file in files]

    def peak_memory(self) -> int | None:
        """Most bytes of memory that the server process has held so far; None where the system does not tell."""
        return peak_memory(self.process.pid) if self.process else None

    def log_text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def log_tail(self) -> str:
        return f"The end of {self.log}:\n{self.log_text()[-LOG_TAIL:]}"

    def _answers(self) -> bool:
        """Whether this very server answers: another may have taken the port meanwhile."""
        try:
            told = Client(self.url, timeout=2).get("/system_stats")
        except (NotReachable, RequestRefused):
            return False
        system = told.get("system") if isinstance(told, dict) else None
        return isinstance(system, dict) and str(self.base) in system.get("argv", ())


def free_port() -> int:
    """A TCP port on loopback that nobody listens on just now, and that no system gives to whoever asks for any port."""
    while True:
        port = random.SystemRandom().randrange(*PORTS)
        if port_is_free(port):
            return port


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def peak_memory(process_id: int) -> int | None:
    """Most bytes of memory that a process has held so far, from Linux's VmHWM; None on other systems."""
    try:
        status = Path(f"/proc/{process_id}/status").read_text()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")), None)


def _decode(message: Any) -> tuple[str, dict[str, Any]]:
    """A websocket message as its type and data; pictures are left out, progress text becomes "progress_text"."""
    if isinstance(message.data, str):
        event = json.loads(message.data)
        return event["type"], event["data"] or {}
    if isinstance(message.data, bytes) and struct.unpack(">I", message.data[:4])[0] == TEXT_EVENT:
        (length,) = struct.unpack(">I", message.data[4:8])
        node, text = message.data[8 : 8 + length], message.data[8 + length :]
        return "progress_text", {"node": node.decode(), "text": text.decode()}
    return "preview", {}
