"""The routes of `api/` on ComfyUI's web server, which serves each also under `/api`."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import os
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aiohttp import web
from server import PromptServer

from ...api.routing import Call, Places, Refused, Reply, Route
from ...api.table import ROUTES
from ...errors import ImpastoError
from ...files import parsed_json
from . import folders

logger = logging.getLogger(__name__)

TOKEN = "IMPASTO_TOKEN"  # variable of the server's environment: who asks must then send it as a bearer's
LARGEST_BODY = 2**20  # bytes
JSON = "application/json"
MOST_POSTS, POSTS_SECONDS = 600, 60.0  # requests that may start something, of all clients together
MOST_STREAMS = 64
LOOK_SECONDS = 0.2  # between looks at a job that is waited for
EVENT_SECONDS = 1.0
# Own threads: those of asyncio are ComfyUI's, and a long list of pictures must not keep `status` waiting.
_THREADS = ThreadPoolExecutor(16, thread_name_prefix="impasto-route")
# What strangers may have written is shown as what it is, and runs nothing.
OF_A_FILE = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox", "Cache-Control": "no-cache"}
# For a week, by who asked; and whoever asks without the token afterwards, in the same browser, is asked for it.
KEPT = {"Cache-Control": "private, max-age=604800, immutable", "Vary": "Authorization"}
OF_EVENTS = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}

_posts: deque[float] = deque()
_streams = 0


def register() -> None:
    """Add every route; to be called before ComfyUI starts to listen. Where no server is started, there are none."""
    server = getattr(PromptServer, "instance", None)
    for route in ROUTES if server else ():
        server.routes.route(route.method, route.path)(_carrier(route))
    told = {route.path for route in ROUTES if route.method == "GET"}
    for path in {route.path for route in ROUTES} - told if server else ():
        server.routes.get(path)(_only_posted)


async def _only_posted(request: web.Request) -> web.Response:
    """In place of ComfyUI's own files, which it looks for under every path that is no route's."""
    refused = _refusal(Refused("This starts something: POST it.", status=405))
    refused.headers["Allow"] = "POST"
    return refused


def _carrier(route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def carry(request: web.Request) -> web.StreamResponse:
        try:
            _check_token(request)
            body = await _body(request) if route.method != "GET" else None
            call = Call(_places(), dict(request.match_info), dict(request.query), body, _token_counts, _host())
            reply = await _in_thread(route, call)
            if route.method != "GET" and isinstance(reply.value, dict) and "job_id" in reply.value:
                from ...api import webhooks  # with the first job

                await _in_thread(webhooks.watch, call, reply.value["job_id"])
            if reply.follow:
                reply = await _followed(call, reply)
            if reply.events:
                return await _stream(request, reply.events)
        except ImpastoError as error:
            return _refusal(error)
        except Exception:
            logger.exception("%s %s failed", route.method, route.path)
            return _refusal(Refused("Impasto failed at this; ComfyUI's log says how.", status=500))
        return _response(reply)

    return carry


async def _in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(_THREADS, function, *arguments)


def _places() -> Places:
    roots = tuple(folders.datasets_roots())
    return Places(folders.runs_root(), folders.loras_root(), roots, folders.user_root())


def _host() -> Any:
    from .queue import Queue  # when it is first asked for something: it needs more of ComfyUI than the routes do

    return Queue(asyncio.get_running_loop())


def _check_token(request: web.Request) -> None:
    wanted = os.environ.get(TOKEN, "")
    kind, _, given = request.headers.get("Authorization", "").partition(" ")
    if wanted and not (
        kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode("utf-8", "replace"), wanted.encode())
    ):
        raise Refused(f"Send the server's {TOKEN} as 'Authorization: Bearer …'.", "Authorization", 401)


def _check_rate() -> None:
    now = asyncio.get_running_loop().time()
    while _posts and _posts[0] < now - POSTS_SECONDS:
        _posts.popleft()
    if len(_posts) >= MOST_POSTS:
        raise Refused(f"More than {MOST_POSTS} requests within {POSTS_SECONDS:.0f} s. Ask again later.", status=429)
    _posts.append(now)


def _token_counts(text: str) -> tuple[int, int]:
    """To the token. What is queued may be cancelled meanwhile: that is for the node at work to find, not for this."""
    from ..captions import token_counts

    return token_counts(text, int)


async def _body(request: web.Request) -> object:
    """The JSON of a request. Only JSON is taken: a form is what a page of another site can send unasked.

    Raises:
        Refused: it is another type, too large, or damaged; or too many come.
    """
    if request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site"):
        raise Refused("A page of another site may not ask this.", status=403)
    _check_rate()
    if not request.can_read_body:
        return None
    if request.content_type != JSON:
        raise Refused(f"The body is {request.content_type}; send {JSON}.", "Content-Type", 415)
    data = await request.content.read(LARGEST_BODY + 1)
    while len(data) <= LARGEST_BODY and (more := await request.content.read(LARGEST_BODY + 1)):
        data += more
    if len(data) > LARGEST_BODY:
        raise Refused(f"The body has more than {LARGEST_BODY:,} bytes.", "body", 413)
    try:
        return parsed_json(data) if data else None
    except ValueError as error:
        raise Refused(f"The body is not JSON: {error}", "body") from error


async def _followed(call: Call, reply: Reply) -> Reply:
    """What is answered when the job has ended, or when it has been waited for long enough."""
    loop = asyncio.get_running_loop()
    until = loop.time() + reply.seconds
    while True:
        state = call.host.state(reply.follow)
        if state is None:
            raise Refused("The job is not in the queue any more: somebody has emptied it. Ask again.", "", 409)
        if state.ended or loop.time() >= until:
            return await _in_thread(reply.then, state)
        await asyncio.sleep(LOOK_SECONDS)


async def _stream(request: web.Request, now: Callable[[], tuple[Any, bool]]) -> web.StreamResponse:
    """Server-sent events (HTML Living Standard, section 9.2), each with the whole state, until the last."""
    global _streams
    if _streams >= MOST_STREAMS:
        raise Refused(f"{MOST_STREAMS} streams are open. Close one, or ask for the status instead.", status=429)
    _streams += 1
    response = web.StreamResponse(headers=OF_EVENTS)
    try:
        await response.prepare(request)
        sent = None
        while True:
            value, last = await _in_thread(now)
            text = json.dumps(value)
            # A comment line in between tells whether the other side is still there.
            await response.write(b": \n\n" if text == sent else f"data: {text}\n\n".encode())
            sent = text
            if last:
                return response
            await asyncio.sleep(EVENT_SECONDS)
    except (ConnectionError, ImpastoError):  # the other side has gone, or what was told of has
        return response
    finally:
        _streams -= 1


def _refusal(error: ImpastoError) -> web.Response:
    status, name = (error.status, error.name) if isinstance(error, Refused) else (400, "")
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    headers |= {"Retry-After": str(int(POSTS_SECONDS))} if status == 429 else {}
    return web.json_response({"error": {"message": str(error), "field": name}}, status=status, headers=headers)


def _response(reply: Reply) -> web.StreamResponse:
    if reply.content is not None:
        return web.Response(body=reply.content, content_type=reply.content_type, headers=OF_A_FILE | KEPT)
    if reply.file is not None:
        return web.FileResponse(reply.file, headers=OF_A_FILE)
    return web.json_response(reply.value, status=reply.status, headers={"Cache-Control": "no-store"})
