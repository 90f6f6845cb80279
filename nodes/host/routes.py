"""The routes of `api/` on ComfyUI's web server, which serves each also under `/api`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from aiohttp import web
from server import PromptServer

from ...api.routing import Call, Places, Refused, Reply, Route
from ...api.table import ROUTES
from ...errors import ImpastoError
from ...files import parsed_json
from . import folders

logger = logging.getLogger(__name__)

LARGEST_BODY = 2**20  # bytes
JSON = "application/json"
# What strangers may have written is shown as what it is, and runs nothing.
OF_A_FILE = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox", "Cache-Control": "no-cache"}
KEPT = {"Cache-Control": "private, max-age=604800, immutable"}  # for a week, by who asked


def register() -> None:
    """Add every route; to be called before ComfyUI starts to listen. Where no server is started, there are none."""
    server = getattr(PromptServer, "instance", None)
    for route in ROUTES if server else ():
        server.routes.route(route.method, route.path)(_carrier(route))


def _carrier(route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def carry(request: web.Request) -> web.StreamResponse:
        try:
            body = await _body(request) if route.method != "GET" else None
            call = Call(_places(), dict(request.match_info), dict(request.query), body)
            reply = await asyncio.to_thread(route, call)
        except ImpastoError as error:
            return _refusal(error)
        except Exception:
            logger.exception("%s %s failed", route.method, route.path)
            return _refusal(Refused("Impasto failed at this; ComfyUI's log says how.", status=500))
        return _response(reply)

    return carry


def _places() -> Places:
    roots = tuple(folders.datasets_roots())
    return Places(folders.runs_root(), folders.loras_root(), roots, folders.user_root())


async def _body(request: web.Request) -> object:
    """The JSON of a request. Only JSON is taken: a form is what a page of another site can send unasked.

    Raises:
        Refused: it is another type, too large, or damaged.
    """
    if request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site"):
        raise Refused("A page of another site may not ask this.", status=403)
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


def _refusal(error: ImpastoError) -> web.Response:
    status, name = (error.status, error.name) if isinstance(error, Refused) else (400, "")
    return web.json_response({"error": {"message": str(error), "field": name}}, status=status)


def _response(reply: Reply) -> web.StreamResponse:
    if reply.content is not None:
        return web.Response(body=reply.content, content_type=reply.content_type, headers=OF_A_FILE | KEPT)
    if reply.file is not None:
        return web.FileResponse(reply.file, headers=OF_A_FILE)
    return web.json_response(reply.value, status=reply.status, headers={"Cache-Control": "no-store"})
