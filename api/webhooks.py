"""Tells the owner's addresses when a job's state changes: a POST of what `GET /impasto/status` answers then.

The addresses lie in a file that no request can write, so that they may be on this machine or a private network.
Redirects are not followed and no proxy is used: what is told goes where the owner wrote, or nowhere. After a restart of
the server nobody is told of the jobs that it lost; their status says so.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..errors import ImpastoError
from . import status
from .routing import Call

logger = logging.getLogger(__name__)

FILE = "webhooks.txt"  # under user/impasto: an address a line
LOOK_SECONDS = 0.5
ATTEMPTS, BETWEEN, SECONDS = 3, 2.0, 5.0  # tries, seconds between them, and for each
_watched: dict[str, str] = {}  # job id -> the state that was told last
_lock = threading.Lock()
_senders = ThreadPoolExecutor(4, thread_name_prefix="impasto-webhook")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments: Any) -> None:
        return None


def addresses(user_root: Path) -> list[str]:
    """Those of the owner's file; none where there is none. A line that is no http address is left out, and logged."""
    try:
        lines = (user_root / FILE).read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        return []
    given = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    for line in given:
        if not line.startswith(("http://", "https://")):
            logger.warning("%s has a line that is no http or https address; it is left out", user_root / FILE)
    return [line for line in given if line.startswith(("http://", "https://"))]


def watch(call: Call, job_id: str) -> None:
    """Tell of each change of a job's state from now on until it has ended; of a job once, however often it is asked."""
    if not addresses(call.places.user_root):
        return
    with _lock:
        if job_id in _watched:
            return
        _watched[job_id] = ""
        alone = len(_watched) == 1
    if alone:
        threading.Thread(target=_look, args=(call,), name="impasto-webhooks", daemon=True).start()


def _look(call: Call) -> None:
    while True:
        with _lock:
            known = dict(_watched)
            if not known:
                return
        for job_id, before in known.items():
            told = _told(call, job_id)
            if told["state"] != before:
                for address in addresses(call.places.user_root):
                    _senders.submit(_send, address, json.dumps(told).encode())
            with _lock:
                if told["status"] == "processing":
                    _watched[job_id] = told["state"]
                else:
                    _watched.pop(job_id, None)
                if not _watched:  # decided under the lock: who adds the next job starts the next thread
                    return
        time.sleep(LOOK_SECONDS)


def _told(call: Call, job_id: str) -> dict[str, Any]:
    try:
        return status.told(call, job_id)
    except ImpastoError as error:  # its record was deleted
        return {"run_id": job_id, "job_id": job_id, "state": "lost", "status": "failed", "data": {"error": str(error)}}


def _send(address: str, data: bytes) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects)
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"}, method="POST")
    for attempt in range(1, ATTEMPTS + 1):
        try:
            opener.open(request, timeout=SECONDS).close()
            return
        except (OSError, ValueError) as error:  # the address may hold a secret: it is not logged
            if attempt == ATTEMPTS:
                logger.warning("A webhook did not take a change of state: %s", error)
            else:
                time.sleep(BETWEEN)
