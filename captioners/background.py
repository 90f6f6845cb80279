"""Asks a service from a thread of its own: Cancel returns at once, and the calls under way are still waited for.

After Cancel no more calls are sent; those under way end, and their answers go to the ledger. The next run waits for
that. The thread ends with ComfyUI: what a kill costs is for `in_flight` to say.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

from ..clock import POLL, SYSTEM, Clock, Stopped
from ..errors import CaptionError, ImpastoError
from ..files import disk_error
from ..progress import Progress, silent
from .captioner import Captioner, Picture
from .in_flight import beside
from .run_report import Tally
from .runner import ask, waiting_pictures

log = logging.getLogger(__name__)


async def ask_in_background(
    captioner: Captioner,
    pictures: Sequence[Picture],
    ledger: Path,
    progress: Progress = silent,
    *,
    ask_again: bool = False,
    clock: Clock = SYSTEM,
) -> Tally:
    """As `runner.ask`, but calls that are counted are not ended by what `progress` raises, Cancel.

    Raises:
        ImpastoError: the captioner had to stop.
    """
    if not captioner.counted or not waiting_pictures(captioner, pictures, ledger, ask_again):
        return await ask(captioner, pictures, ledger, progress, ask_again=ask_again, clock=clock)
    said = [(0, len(pictures), f"{captioner.name}: starting")]
    stop, result = threading.Event(), Future()

    def say(done: int, total: int, text: str = "", preview: object = None) -> None:
        said[0] = (done, total, text or said[0][2])

    def run() -> None:
        try:
            # A captioner of its own: the other may be asked again, elsewhere, before this one has ended.
            asking = _ask_alone(replace(captioner), pictures, ledger, say, ask_again, clock, stop.is_set)
            result.set_result(asyncio.run(asking))
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, name=f"captions by {captioner.name}", daemon=True).start()
    try:
        while not result.done():
            progress(*said[0])
            await asyncio.sleep(POLL)
        progress(*said[0])
        return result.result()
    finally:
        stop.set()


async def _ask_alone(
    captioner: Captioner,
    pictures: Sequence[Picture],
    ledger: Path,
    progress: Progress,
    ask_again: bool,
    clock: Clock,
    stopped: Callable[[], bool],
) -> Tally:
    """Ask as soon as no other run, of any process, asks the same captioner about the same dataset.

    Raises:
        Stopped: nobody wants it any more.
        ImpastoError: the captioner had to stop.
    """
    from filelock import FileLock, Timeout

    def check() -> None:
        if stopped():
            raise Stopped

    lock = FileLock(beside(ledger, captioner, "lock"))
    while not lock.is_locked:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            progress(0, 1, f"{captioner.name}: waiting for calls of another run, which are still under way")
            await SYSTEM.sleep(POLL, check)
    try:
        return await ask(captioner, pictures, ledger, progress, ask_again=ask_again, clock=clock, stopped=stopped)
    except ImpastoError:
        raise
    except Exception as error:
        if told := disk_error(error):
            raise told from None
        # Only what the system says is told on: another error's text may quote a request, and the key with it.
        reason = f"{type(error).__name__}: {error}" if isinstance(error, OSError) else type(error).__name__
        log.error("%s%s", "".join(traceback.format_tb(error.__traceback__)), reason)
        raise CaptionError(
            f"Captioning stopped ({reason}). ComfyUI's terminal shows where. The answers that came are kept: queue "
            "again to go on."
        ) from None
    finally:
        lock.release()
