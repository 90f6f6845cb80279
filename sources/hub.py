"""The Hugging Face Hub over HTTP: which files a revision of a dataset repository holds, and ranges of their bytes.

Addresses, headers and environment (HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE) are huggingface_hub's. The transport is not:
its client sleeps through a rate limit without telling anyone, and cannot be cancelled. What the bytes mean is for
`repository`.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ..clock import Stopped
from ..errors import DatasetError
from ..files import parsed_json, writing

if TYPE_CHECKING:
    import requests

WORKERS = 4  # requests at once; the Hub's anonymous limit is 3,000 in five minutes
TIMEOUT = (10, 60)  # seconds to connect, and between two blocks
LARGEST_ANSWER = 64_000_000  # bytes of JSON; a page of the list of files has a thousand entries
BLOCK = 256 * 1024  # bytes read at most at once
WAITED_FOR = 8 * 1024  # bytes, where urllib3 waits for all that it is asked for
MAX_WAIT = 60  # seconds between two attempts
UNNAMED_WAIT = 30  # seconds, where a 429 does not say how long
# The Hub's rule for repository names; a revision may be a branch, a tag, a commit or "refs/convert/parquet".
_REPOSITORY = re.compile(
    r"([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95})(?:@([A-Za-z0-9][\w./-]{0,200}))?", re.ASCII
)
_RESET = re.compile(r"\bt\s*=\s*(\d+)")  # of `RateLimit: "resolvers";r=0;t=37`


@dataclass(frozen=True)
class Hub:
    """Which hub, and as whom."""

    endpoint: str = "https://huggingface.co"
    token: str | None = None
    offline: bool = False  # use only what was fetched before
    attempts: int = 6  # in a row that bring no byte, before giving up
    first_wait: float = 1.0  # seconds before the second attempt after a failure; each further wait is twice as long


@dataclass(frozen=True)
class RemoteFile:
    path: str
    size: int  # bytes
    oid: str  # SHA-256 of the content where it is stored as LFS, as pictures always are; else git's hash


@dataclass(frozen=True)
class Revision:
    """One commit of a dataset repository, which never changes."""

    repository: str
    sha: str
    files: tuple[RemoteFile, ...]


def hub_from_environment() -> Hub:
    """The hub that huggingface_hub would use in this process."""
    from huggingface_hub import constants, get_token

    return Hub(constants.ENDPOINT, get_token(), constants.HF_HUB_OFFLINE)


def parse_repository(source: str) -> tuple[str, str] | None:
    """Repository id and revision of "owner/name" or "owner/name@revision"; None where it is neither."""
    found = _REPOSITORY.fullmatch(source.strip())
    if not found or ".." in source or "--" in found[1]:
        return None
    return found[1], found[2] or "main"


class Connection:
    """Requests to one hub from several threads, which wait together when it asks them to, and stop together."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.received = 0  # bytes
        self.requests = 0
        self._threads = threading.local()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._resume_at = 0.0

    def stop(self) -> None:
        """End every wait and every transfer with `Stopped`."""
        self._stopped.set()

    def raise_if_stopped(self) -> None:
        if self._stopped.is_set():
            raise Stopped

    def countdown(self) -> str:
        """What to tell while the hub's rate limit is waited for; "" at other times."""
        left = self._resume_at - time.monotonic()
        return f"The Hub's rate limit is reached: going on in {left:.0f} s" if left > 0 else ""

    def sha_of(self, repository: str, revision: str) -> str:
        """The commit that a revision's name stands for now."""
        url = f"{self.hub.endpoint}/api/datasets/{repository}/revision/{_quoted(revision)}"
        return str(self._json(url, repository, revision)[0]["sha"])

    def list_revision(self, repository: str, sha: str) -> Revision:
        url: str | None = f"{self.hub.endpoint}/api/datasets/{repository}/tree/{_quoted(sha)}?recursive=true"
        files: list[RemoteFile] = []
        while url:
            entries, url = self._json(url, repository, sha)
            for entry in entries:
                if entry["type"] == "file":
                    stored = entry.get("lfs") or entry
                    files.append(RemoteFile(entry["path"], stored["size"], stored["oid"]))
        return Revision(repository, sha, tuple(files))

    def read(self, revision: Revision, file: RemoteFile, start: int, length: int) -> bytes:
        """`length` bytes of a file from `start` on."""
        import io

        buffer = io.BytesIO()
        self._fill(buffer, revision, file, start, length)
        return buffer.getvalue()

    def download(self, revision: Revision, file: RemoteFile, start: int, length: int, target: Path) -> None:
        """The same into a file. What `target` holds already is taken as its beginning and not asked for again."""
        with writing(target, length):
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(target, "ab", buffering=0) as part:
                self._fill(part, revision, file, start, length)

    def _fill(self, sink: BinaryIO, revision: Revision, file: RemoteFile, start: int, length: int) -> None:
        import huggingface_hub
        import requests

        endpoint = self.hub.endpoint
        url = huggingface_hub.hf_hub_url(
            revision.repository, file.path, repo_type="dataset", revision=revision.sha, endpoint=endpoint
        )

        def receive(response: requests.Response) -> None:
            _check_range(response, file, start + sink.tell(), length - sink.tell())
            while block := _arrived(response):
                self.raise_if_stopped()  # before it is written: whoever goes on may write into the same file
                sink.write(block[: length - sink.tell()])
                with self._lock:
                    self.received += len(block)
            if sink.tell() < length:
                raise requests.ConnectionError("the connection ended early")

        while sink.tell() < length:
            self._get(
                url, receive, lambda: (start + sink.tell(), start + length - 1), revision.repository, revision.sha
            )

    def _json(self, url: str, repository: str, revision: str) -> tuple[Any, str | None]:
        """The answer, and the address of the next page."""
        answer: list[Any] = []

        def receive(response: requests.Response) -> None:
            content = b""
            for block in response.iter_content(BLOCK):  # unpacked, where the hub packs it
                content += block
                if len(content) > LARGEST_ANSWER:
                    raise DatasetError(f"The Hub's answer about '{repository}' has more than {LARGEST_ANSWER:,} bytes.")
            answer[:] = [parsed_json(content), response.links.get("next", {}).get("url")]

        self._get(url, receive, None, repository, revision)
        return answer[0], answer[1]

    def _get(
        self,
        url: str,
        receive: Callable[[requests.Response], None],
        wanted: Callable[[], tuple[int, int]] | None,
        repository: str,
        revision: str,
    ) -> None:
        """One successful request, or as many as it takes. An attempt that brought bytes starts the count anew."""
        import requests
        import urllib3

        failures, wait = 0, self.hub.first_wait
        while True:
            self._wait_for_the_limit()
            before = wanted() if wanted else None
            if before and before[0] > before[1]:
                return
            try:
                with self._session().get(url, headers=self._headers(before), stream=True, timeout=TIMEOUT) as response:
                    with self._lock:
                        self.requests += 1
                    if response.status_code == 429:
                        self._resume_at = time.monotonic() + _seconds_asked_for(response)
                        continue
                    if response.status_code < 500:
                        _refuse(response, repository, revision)
                        receive(response)
                        return
                    failure = f"HTTP {response.status_code}"
            except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
                failure = str(error) or type(error).__name__
            if before and wanted and wanted() != before:
                failures, wait = 0, self.hub.first_wait
            failures += 1
            if failures >= self.hub.attempts:
                raise DatasetError(
                    f"{self.hub.endpoint} failed on {url} ({failure}; {failures} attempts in a row). What was fetched "
                    "is kept: queue again later, or set HF_HUB_OFFLINE=1 to work with what is here."
                )
            if self._stopped.wait(wait):
                raise Stopped
            wait = min(2 * wait, MAX_WAIT)

    def _wait_for_the_limit(self) -> None:
        while (left := self._resume_at - time.monotonic()) > 0:
            if self._stopped.wait(min(left, 1.0)):
                raise Stopped
        self.raise_if_stopped()

    def _session(self) -> requests.Session:
        if not hasattr(self._threads, "session"):
            import requests

            self._threads.session = requests.Session()
        return self._threads.session

    def _headers(self, wanted: tuple[int, int] | None) -> dict[str, str]:
        from huggingface_hub.utils import build_hf_headers

        headers = build_hf_headers(token=self.hub.token or False, library_name="impasto")
        headers["Accept-Encoding"] = "identity"  # a range of a compressed answer would be another range
        return headers | ({"Range": f"bytes={wanted[0]}-{wanted[1]}"} if wanted else {})


def _quoted(revision: str) -> str:
    from urllib.parse import quote

    return quote(revision, safe="")


def _seconds_asked_for(response: requests.Response) -> float:
    """How long to wait after a 429: the Hub's `RateLimit` header, else `Retry-After`, else half a minute."""
    found = _RESET.search(response.headers.get("RateLimit", ""))
    given = found[1] if found else response.headers.get("Retry-After", "")
    # a second more, since the header's are cut to whole ones
    return int(given) + 1 if given.isdigit() else UNNAMED_WAIT


def _refuse(response: requests.Response, repository: str, revision: str) -> None:
    """Raise for an answer that will be the same next time."""
    if response.status_code < 400:
        return
    code = response.headers.get("X-Error-Code", "")
    if code == "GatedRepo":
        remedy = "Accept its conditions on its page, and set HF_TOKEN to a token of that account."
    elif code == "RevisionNotFound":
        raise DatasetError(f"The dataset repository '{repository}' has no revision '{revision}'. Leave out '@…'.")
    elif response.status_code in (401, 403, 404):
        remedy = "Check its spelling (owner/name); if it is private, set HF_TOKEN to a token that may read it."
    else:
        remedy = "Check HF_ENDPOINT."
    raise DatasetError(
        f"The Hub does not give '{repository}' at revision '{revision}' (HTTP {response.status_code} {code}). {remedy}"
    )


def _arrived(response: requests.Response) -> bytes:
    """What has arrived, as it is; waiting for a whole block would lose it when the connection breaks."""
    read1 = getattr(response.raw, "read1", None)  # urllib3 2.2 on
    return read1(BLOCK) if read1 else response.raw.read(WAITED_FOR)


def _check_range(response: requests.Response, file: RemoteFile, start: int, length: int) -> None:
    """Refuse bytes that are not the ones asked for: another range, or a file of another size or content."""
    whole = response.status_code == 200 and (start, length) == (0, file.size)
    if response.status_code != 206 and not whole:
        raise DatasetError(
            f"The server of {file.path} does not give ranges (HTTP {response.status_code}). Try another."
        )
    given = response.headers.get("Content-Range", "")
    if not whole and given.split("/")[0] != f"bytes {start}-{start + length - 1}":
        raise DatasetError(f"The server of {file.path} gave the range '{given}' instead of the one asked for.")
    tags = [answer.headers.get("X-Linked-ETag", "") for answer in (*response.history, response)]
    other = [tag for tag in tags if tag and tag.removeprefix("W/").strip('"') != file.oid]
    if other or (not whole and not given.endswith(f"/{file.size}")):
        raise DatasetError(
            f"{file.path} on the Hub is not the file that its revision lists ({given}, {other or 'another size'}). "
            "Queue again; if it stays so, the mirror behind HF_ENDPOINT is out of date."
        )
