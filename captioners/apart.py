"""Asks a service from a process of its own: what it has answered is kept even when ComfyUI is killed meanwhile.

That process sends, counts and writes the ledger; this one only follows it. When this one cancels, ends or dies, the
other sends no more, waits for the calls under way, keeps their answers, and ends. The next run waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .. import errors
from .. import worker as own_process
from ..errors import CaptionError, ImpastoError
from ..files import content_hash
from ..progress import Progress, silent
from .captioner import Captioner, Kind, Picture, Refusal
from .clock import POLL, SYSTEM, Clock
from .gemini import GeminiCaptioner, GeminiSettings
from .openai import OpenAICaptioner, OpenAISettings
from .quota import Limits
from .runner import Stopped, Tally, ask, waiting_pictures

KEPT = "The answers that came are kept: queue again to go on."


async def ask_apart(
    captioner: Captioner,
    pictures: Sequence[Picture],
    ledger: Path,
    progress: Progress = silent,
    *,
    ask_again: bool = False,
    clock: Clock = SYSTEM,
) -> Tally:
    """As `runner.ask`, but a captioner whose calls are counted is asked by another process, which outlives this one.

    Raises:
        ImpastoError: the captioner had to stop, or its process ended without a word.
    """
    if not captioner.counted or not waiting_pictures(captioner, pictures, ledger, ask_again):
        return await ask(captioner, pictures, ledger, progress, ask_again=ask_again, clock=clock)
    job = {
        "captioner": captioner.name,
        "settings": asdict(captioner.settings),
        # Whole paths: the other process runs in another folder.
        "folder": str(captioner.folder.absolute()),
        "pictures": [asdict(picture) | {"path": str(picture.path.absolute())} for picture in pictures],
        "ledger": str(ledger.absolute()),
        "ask_again": ask_again,
        "clock": asdict(clock),
    }
    progress(0, len(pictures), f"{captioner.name}: starting")
    process = own_process.start("impasto.captioners.apart")
    lines: deque[bytes] = deque()
    reader = threading.Thread(target=_read, args=(process, lines), daemon=True)
    reader.start()
    said: dict[str, Any] = {}
    try:
        await asyncio.to_thread(_send, process, job)
        while reader.is_alive() or lines:
            while lines:
                line = lines.popleft()
                if line.endswith(b"\n"):  # else it died while it wrote
                    said |= json.loads(line)
            progress(*said.get("progress", (0, len(pictures))))
            await asyncio.sleep(POLL)
    finally:
        with contextlib.suppress(OSError):  # it has ended
            process.stdin.close()
    return _result(captioner, said, process.returncode)


def _read(process: subprocess.Popen[bytes], lines: deque[bytes]) -> None:
    """Take in what the process says until it ends, however long after we were cancelled that is."""
    lines.extend(process.stdout)
    process.wait()


def _send(process: subprocess.Popen[bytes], job: Mapping[str, Any]) -> None:
    with contextlib.suppress(OSError):  # it has ended, and `_result` says so
        process.stdin.write(json.dumps(job).encode() + b"\n")
        process.stdin.flush()


def _result(captioner: Captioner, said: Mapping[str, Any], status: int) -> Tally:
    if "error" in said:
        kind, text = said["error"]
        raise getattr(errors, kind, CaptionError)(text)
    if "tally" not in said:
        raise CaptionError(
            f"The process that asked '{captioner.name}' ended without a word (status {status}; a minus sign means it "
            f"was killed). ComfyUI's terminal may say why. {KEPT}"
        )
    busy = {
        sha256: Refusal(**refusal | {"kind": Kind(refusal["kind"])})
        for sha256, refusal in said["tally"].pop("busy").items()
    }
    return Tally(**said["tally"], busy=busy)


def main() -> int:
    """The other process: one line of JSON in, lines of JSON out."""
    output = os.dup(1)
    os.dup2(2, 1)  # for libraries that print, those in C too
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):  # the parent died while it wrote
        return 1
    stop = own_process.end_of_input()

    def say(**words: object) -> None:
        left = json.dumps(words).encode() + b"\n"
        with contextlib.suppress(OSError):  # nobody listens any more
            while left:
                left = left[os.write(output, left) :]

    try:
        tally = asyncio.run(_ask_alone(json.loads(line), stop.is_set, say))
    except Stopped:
        return 0
    except ImpastoError as error:
        say(error=(type(error).__name__, str(error)))
        return 0
    except Exception as error:
        # Only what the system says is told on: another error's text may quote a request, and the key with it.
        reason = f"{type(error).__name__}: {error}" if isinstance(error, OSError) else type(error).__name__
        sys.stderr.write("".join([*traceback.format_tb(error.__traceback__), reason, "\n"]))
        say(error=(CaptionError.__name__, f"Captioning stopped ({reason}). ComfyUI's terminal shows where. {KEPT}"))
        return 0
    if not stop.is_set():  # else not everything has been asked about
        say(tally=asdict(tally))
    return 0


async def _ask_alone(job: Mapping[str, Any], stopped: Callable[[], bool], say: Callable[..., None]) -> Tally:
    """Ask as soon as no other process asks the same captioner about the same dataset.

    Raises:
        Stopped: the parent wants or needs no more.
    """
    from filelock import FileLock, Timeout

    shown: tuple[object, ...] = ()

    def progress(done: int, total: int, text: str = "", preview: object = None) -> None:
        nonlocal shown
        if (text and (done, total, text) != shown) or (done, total) != shown[:2]:
            shown = (done, total, text)
            say(progress=shown)

    def check() -> None:
        if stopped():
            raise Stopped

    clock, captioner, ledger = Clock(**job["clock"]), _captioner(job), Path(job["ledger"])
    lock = FileLock(ledger.with_name(f"captions-{content_hash([captioner.name, captioner.model], 8)}.lock"))
    while not lock.is_locked:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            progress(0, 1, f"{captioner.name}: waiting for calls of another run, which are still under way")
            await SYSTEM.sleep(POLL, check)
    pictures = [Picture(**picture | {"path": Path(picture["path"])}) for picture in job["pictures"]]
    try:
        return await ask(
            captioner, pictures, ledger, progress, ask_again=job["ask_again"], clock=clock, stopped=stopped
        )
    finally:
        lock.release()


def _captioner(job: Mapping[str, Any]) -> Captioner:
    settings, folder = job["settings"], Path(job["folder"])
    if job["captioner"] == OpenAICaptioner.name:
        return OpenAICaptioner(OpenAISettings(**settings), folder)
    settings |= {"limits": Limits(**settings["limits"]), "projects": tuple(settings["projects"])}
    return GeminiCaptioner(GeminiSettings(**settings), folder, Clock(**job["clock"]))
