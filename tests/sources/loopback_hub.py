"""A Hugging Face Hub on loopback: the endpoints that reading a dataset repository needs, and the ways they fail.

`resolve` answers as the real one does, with `X-Linked-ETag` and a redirect to where the bytes lie.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import unquote

from aiohttp import web
from impasto.sources.hub import Hub
from impasto.sources.hub_repository import open_source
from impasto.sources.plan import Request
from impasto.sources.source import PaintingSource

from .. import loopback

PAGE = 10  # entries of a tree listing; the real one has 1,000
BLOCK = 64 * 1024


class LoopbackHub:
    """Repositories of files on disk. Revisions are immutable; "main" is the last one published."""

    def __init__(self) -> None:
        self.endpoint = ""
        self.faults: deque[str] = deque()  # one per request of bytes: "429", "500", "drop", "half" or "" for none
        self.ranges: list[tuple[str, int, int]] = []  # path, first byte and number of bytes sent, per request
        self.calls: list[str] = []
        self.tokens: list[str | None] = []
        self.pause = 0.0  # seconds before each block
        self.retry_after = 1
        self.api_faults: deque[str] = deque()
        self._revisions: dict[str, list[tuple[str, dict[str, Path]]]] = {}
        self._oids: dict[Path, str] = {}
        self.gated: set[str] = set()

    def publish(self, repository: str, folder: Path) -> str:
        """Make the files of `folder` the newest revision, and return its commit."""
        files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        for path in files.values():
            self._oids[path] = hashlib.sha256(path.read_bytes()).hexdigest()
        listing = "".join(f"{path}{self._oids[file]}" for path, file in files.items())
        sha = hashlib.sha1(listing.encode()).hexdigest()
        self._revisions.setdefault(repository, []).append((sha, files))
        return sha

    def sent(self) -> int:
        return sum(length for _, _, length in self.ranges)

    def overlaps(self) -> int:
        """Bytes that were sent more than once."""
        twice, spans = 0, sorted(self.ranges)
        for (path, start, length), (other, other_start, _) in zip(spans, spans[1:], strict=False):
            twice += max(0, start + length - other_start) if path == other else 0
        return twice

    def client(self, **options: object) -> Hub:
        return Hub(self.endpoint, **({"first_wait": 0.01} | options))

    def opener(self, **options: object) -> Callable[[Path, Request], PaintingSource]:
        """Opens the repositories of this hub."""
        return partial(open_source, hub=self.client(**options))

    def application(self) -> web.Application:
        application = web.Application()
        name = "{repository:[^/]+/[^/]+}"
        application.router.add_get(f"/api/datasets/{name}/revision/{{revision:.+}}", self._revision)
        application.router.add_get(f"/api/datasets/{name}/tree/{{revision:[^/]+}}", self._tree)
        application.router.add_get(f"/datasets/{name}/resolve/{{revision:[^/]+}}/{{path:.+}}", self._resolve)
        application.router.add_get(f"/bytes/{name}/{{revision}}/{{path:.+}}", self._bytes)
        return application

    def _found(self, request: web.Request) -> tuple[str, dict[str, Path]]:
        self.calls.append(request.path)
        self.tokens.append(request.headers.get("Authorization"))
        repository, revision = request.match_info["repository"], unquote(request.match_info["revision"])
        if repository in self.gated and not request.headers.get("Authorization"):
            raise web.HTTPUnauthorized(headers={"X-Error-Code": "GatedRepo"})
        if repository not in self._revisions:
            raise web.HTTPUnauthorized(headers={"X-Error-Code": "RepoNotFound"})
        revisions = self._revisions[repository]
        for sha, files in [("main", revisions[-1][1]), *revisions]:
            if revision == sha:
                return (revisions[-1][0] if sha == "main" else sha), files
        raise web.HTTPNotFound(headers={"X-Error-Code": "RevisionNotFound"})

    async def _revision(self, request: web.Request) -> web.Response:
        if self.api_faults and self.api_faults.popleft() == "429":
            raise web.HTTPTooManyRequests(headers={"RateLimit": f'"api";r=0;t={self.retry_after}'})
        sha, files = self._found(request)
        siblings = [{"rfilename": path} for path in files]
        about = {"private": False, "gated": False, "tags": []}
        return web.json_response({"id": request.match_info["repository"], "sha": sha, "siblings": siblings} | about)

    async def _tree(self, request: web.Request) -> web.Response:
        _, files = self._found(request)
        start = int(request.query.get("cursor", 0))
        entries = [self._entry(path, file) for path, file in sorted(files.items())]
        more = f'<{request.url.update_query(cursor=start + PAGE)}>; rel="next"' if start + PAGE < len(entries) else ""
        return web.json_response(entries[start : start + PAGE], headers={"Link": more} if more else {})

    def _entry(self, path: str, file: Path) -> dict[str, object]:
        oid, size = self._oids[file], file.stat().st_size
        lfs = {"oid": oid, "size": size, "pointerSize": 134}
        return {"type": "file", "oid": oid[:40], "size": size, "path": path, "lfs": lfs}

    async def _resolve(self, request: web.Request) -> web.Response:
        sha, files = self._found(request)
        if request.match_info["path"] not in files:
            raise web.HTTPNotFound(headers={"X-Error-Code": "EntryNotFound"})
        file = files[request.match_info["path"]]
        repository, path = request.match_info["repository"], request.match_info["path"]
        headers = {"X-Repo-Commit": sha, "X-Linked-ETag": f'"{self._oids[file]}"'}
        raise web.HTTPFound(f"/bytes/{repository}/{sha}/{path}", headers=headers)

    async def _bytes(self, request: web.Request) -> web.StreamResponse:
        fault = self.faults.popleft() if self.faults else ""
        if fault == "429":
            limit = {"RateLimit": f'"resolvers";r=0;t={self.retry_after}'}
            raise web.HTTPTooManyRequests(headers=limit)
        if fault == "500":
            raise web.HTTPInternalServerError
        if fault == "drop":
            request.transport.close()
            return web.Response()
        _, files = self._found(request)
        path = request.match_info["path"]
        wanted = request.http_range
        size = files[path].stat().st_size
        start, stop = wanted.start or 0, min(wanted.stop or size, size)
        headers = {"Content-Range": f"bytes {start}-{stop - 1}/{size}", "Content-Length": str(stop - start)}
        response = web.StreamResponse(status=206, headers=headers)
        await response.prepare(request)
        # So that no more than a block waits here for a client that is slow, or dead.
        request.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BLOCK)
        await self._send(
            request, response, files[path], start, start + (stop - start) // 2 if fault == "half" else stop
        )
        return response

    async def _send(
        self, request: web.Request, response: web.StreamResponse, file: Path, start: int, stop: int
    ) -> None:
        index = len(self.ranges)
        self.ranges.append((request.match_info["path"], start, 0))
        with open(file, "rb") as content:
            content.seek(start)
            while content.tell() < stop:
                if self.pause:
                    await asyncio.sleep(self.pause)
                block = content.read(min(BLOCK, stop - content.tell()))
                await response.write(block)
                path, first, length = self.ranges[index]
                self.ranges[index] = (path, first, length + len(block))
        if stop - start < int(response.headers["Content-Length"]):
            request.transport.close()


@contextmanager
def serving() -> Iterator[LoopbackHub]:
    """The hub on a free port of loopback."""
    hub = LoopbackHub()
    with loopback.serving(hub.application(), shutdown_timeout=1) as hub.endpoint:
        yield hub
