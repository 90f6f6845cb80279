"""Gemini's wire format on loopback: `/v1` and `/v1beta`, keys, quotas per project, Google's error bodies, faults.

Time may run faster (`clock`), as the captioner's does. What was sent, refused and answered is counted here.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from aiohttp import web
from impasto.captioners.quota import ProjectLimits, midnight
from impasto.clock import SYSTEM, Clock

from .. import loopback

MINUTE = 60.0
PICTURE_TOKENS = 1_120  # of one picture at high resolution


@dataclass
class Request:
    time: float  # seconds, by the server's clock
    project: str
    picture: str  # sha256 of the JPEG
    status: int = 0
    body: dict = field(default_factory=dict)
    path: str = ""
    fault: str | None = None  # what went wrong with it, as the test would have it


@dataclass
class GeminiServer:
    projects: dict[str, ProjectLimits]  # by key
    clock: Clock = SYSTEM
    latency: float = 0.0  # seconds of real time
    fault: Callable[[int, str], str | None] = lambda number, picture: None
    requests: list[Request] = field(default_factory=list)
    over_quota: int = 0  # requests refused because of a quota
    answered: Counter = field(default_factory=Counter)  # captions that were sent whole, by picture
    url: str = ""
    redirect: str = ""  # address that every request is sent on to
    keys_seen: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._counted: dict[str, list[tuple[float, int]]] = defaultdict(list)

    async def generate(self, request: web.Request) -> web.StreamResponse:
        self.keys_seen.append(request.headers.get("x-goog-api-key", ""))
        if self.redirect:
            return web.Response(status=307, headers={"Location": f"{self.redirect}{request.path}"})
        limits = self.projects.get(request.headers.get("x-goog-api-key", ""))
        if limits is None:
            return failed(400, "INVALID_ARGUMENT", "API key not valid.", [{"reason": "API_KEY_INVALID"}])
        key = request.headers["x-goog-api-key"]
        body = json.loads(await request.read())
        picture = hashlib.sha256(base64.urlsafe_b64decode(inline_data(body))).hexdigest()
        said = Request(self.clock.time(), key, picture, body=body, path=request.path)
        self.requests.append(said)
        number = len(self.requests)
        tokens = PICTURE_TOKENS + len(json.dumps(body.get("systemInstruction", ""))) // 4
        if refused := self._over_quota(key, limits, said.time, tokens, request.match_info["model"]):
            self.over_quota += 1
            said.status = 429
            return refused
        self._counted[key].append((said.time, tokens))
        await asyncio.sleep(self.latency)
        said.fault = self.fault(number, picture)
        return await self._answer(request, said, said.fault, tokens)

    async def _answer(self, request: web.Request, said: Request, fault: str | None, tokens: int) -> web.StreamResponse:
        usage = {"promptTokenCount": tokens, "candidatesTokenCount": 40, "totalTokenCount": tokens + 40}
        if fault == "hang":
            await asyncio.sleep(3600)
        if fault == "slow":
            await asyncio.sleep(3)
        if fault == "trickle":
            reply = web.StreamResponse()
            await reply.prepare(request)
            while True:
                await reply.write(b" ")
                await asyncio.sleep(0.05)
        if fault == "drop":
            request.transport.close()
            raise ConnectionResetError
        if fault in ERRORS:
            said.status = ERRORS[fault].status
            return failed(*ERRORS[fault].error)
        said.status = 200
        if fault in FOREIGN:
            return web.Response(text=FOREIGN[fault], content_type="application/json")
        if fault in REPLIES:
            return web.json_response(REPLIES[fault] | {"usageMetadata": usage, "modelVersion": "x"})
        text = json.dumps({"description": f"A boat on a river, number {said.picture[:12]}."})
        reply = web.json_response(
            {
                "candidates": [
                    {"content": {"role": "model", "parts": [{"text": text}]}, "finishReason": "STOP", "index": 0}
                ],
                "usageMetadata": usage,
                "modelVersion": request.match_info["model"],
            }
        )
        await reply.prepare(request)
        await reply.write_eof()
        if request.transport is not None and not request.transport.is_closing():
            self.answered[said.picture] += 1
        return reply

    def _over_quota(self, key: str, limits: ProjectLimits, now: float, tokens: int, model: str) -> web.Response | None:
        counted = self._counted[key]
        begin = midnight(now, 0)
        recent = [(time, used) for time, used in counted if time > now - MINUTE]
        if limits.requests_per_day == 0:
            return quota_failure("GenerateRequestsPerDayPerProjectPerModel-FreeTier", 0, model, 1.0)
        if sum(time >= begin for time, _ in counted) >= limits.requests_per_day:
            return quota_failure(
                "GenerateRequestsPerDayPerProjectPerModel-FreeTier", limits.requests_per_day, model, 30.0
            )
        if len(recent) >= limits.requests_per_minute:
            wait = recent[-limits.requests_per_minute][0] + MINUTE - now
            return quota_failure(
                "GenerateRequestsPerMinutePerProjectPerModel-FreeTier", limits.requests_per_minute, model, wait
            )
        if sum(used for _, used in recent) + tokens > limits.tokens_per_minute:
            wait = recent[0][0] + MINUTE - now
            return quota_failure(
                "GenerateContentInputTokensPerModelPerMinute-FreeTier", limits.tokens_per_minute, model, wait
            )
        return None


def inline_data(body: dict) -> str:
    parts = [part for content in body["contents"] for part in content["parts"]]
    return next(part["inlineData"]["data"] for part in parts if "inlineData" in part)


def failed(code: int, status: str, message: str, details: list[dict] = ()) -> web.Response:
    return web.json_response(
        {"error": {"code": code, "message": message, "status": status, "details": list(details)}}, status=code
    )


def quota_failure(quota_id: str, value: int, model: str, delay: float) -> web.Response:
    """A 429 as generativelanguage.googleapis.com words it."""
    metric = "generativelanguage.googleapis.com/generate_content_free_tier_requests"
    return failed(
        429,
        "RESOURCE_EXHAUSTED",
        "You exceeded your current quota, please check your plan and billing details.\n"
        f"* Quota exceeded for metric: {metric}, limit: {value}, model: {model}\nPlease retry in {delay:.6f}s.",
        [
            {
                "@type": "type.googleapis.com/google.rpc.QuotaFailure",
                "violations": [
                    {
                        "quotaMetric": metric,
                        "quotaId": quota_id,
                        "quotaDimensions": {"location": "global", "model": model},
                        "quotaValue": str(value),
                    }
                ],
            },
            {"@type": "type.googleapis.com/google.rpc.Help", "links": [{"description": "Learn more"}]},
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{delay:.2f}s"},
        ],
    )


@dataclass(frozen=True)
class HttpError:
    status: int
    error: tuple


ERRORS = {
    "500": HttpError(500, (500, "INTERNAL", "An internal error has occurred.")),
    "503": HttpError(503, (503, "UNAVAILABLE", "The model is overloaded. Please try again later.")),
    "429": HttpError(
        429,
        (
            429,
            "RESOURCE_EXHAUSTED",
            "Resource exhausted.",
            [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "2.5s"}],
        ),
    ),
    "429 soon": HttpError(
        429,
        (
            429,
            "RESOURCE_EXHAUSTED",
            "Resource exhausted.",
            [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "0.01s"}],
        ),
    ),
    "limit 0 in words": HttpError(
        429,
        (
            429,
            "RESOURCE_EXHAUSTED",
            "You exceeded your current quota, please check your plan and billing details. For more information on this "
            "error, head to: https://ai.google.dev/gemini-api/docs/rate-limits. To monitor your current usage, head "
            "to: https://ai.dev/rate-limit. \n* Quota exceeded for metric: generativelanguage.googleapis.com/"
            "generate_content_free_tier_input_token_count, limit: 0, model: gemini-3.5-pro\n* Quota exceeded for "
            "metric: generativelanguage.googleapis.com/generate_content_free_tier_requests, limit: 0, model: "
            "gemini-3.5-pro\nPlease retry in 0.01s.",
            [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "0.01s"}],
        ),
    ),
    "bad request": HttpError(400, (400, "INVALID_ARGUMENT", 'Unknown name "responseJsonSchema": no such field.')),
    "404": HttpError(404, (404, "NOT_FOUND", "models/x is not found for API version v1beta.")),
    "bad picture": HttpError(400, (400, "INVALID_ARGUMENT", "Unable to process input image.")),
}


def candidate(reason: str, *texts: str) -> dict:
    content = {"content": {"role": "model", "parts": [{"text": text} for text in texts]}} if texts else {}
    return {"candidates": [content | {"finishReason": reason, "index": 0}]}


REPLIES = {
    "prompt blocked": {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}},
    "answer blocked": candidate("SAFETY"),
    "recitation": candidate("RECITATION"),
    "cut off": candidate("MAX_TOKENS"),
    "cut off in the middle": candidate("MAX_TOKENS", '{"description": "A boat on a'),
    "no candidates": {},
    "no parts": candidate("STOP"),
    "malformed": candidate("STOP", '{"description": "A boat'),
    "wrong keys": candidate("STOP", '{"caption": 3}'),
    "empty": candidate("STOP", '{"description": "  "}'),
}

# What something that is not Gemini says under its address, with status 200.
FOREIGN = {"an error": '{"error": "Unexpected endpoint"}', "a page": "<html>Please log in.</html>", "nothing": "{}"}


@contextlib.contextmanager
def serving(server: GeminiServer) -> Iterator[GeminiServer]:
    """Serve on loopback; `server.url` says where."""
    app = web.Application(client_max_size=32 * 2**20)
    for version in ("v1", "v1beta"):
        app.router.add_post(f"/{version}/models/{{model:[^:]+}}:generateContent", server.generate)
    with loopback.serving(app, handler_cancellation=True, access_log=None) as server.url:
        yield server
