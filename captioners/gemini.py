"""Captions by Google's Gemini: google-genai, several projects in turn, every kind of empty answer told apart.

How many requests may be sent is reckoned in `quota`; where keys come from, in `keys`. Wire format and error tables:
ai.google.dev/api/generate-content and ai.google.dev/gemini-api/docs/troubleshooting.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from ..clock import SYSTEM, Clock
from ..errors import CaptionError, SettingsError
from ..files import content_hash, parsed_json
from ..progress import duration
from .captioner import Caption, CaptionRefusal, Kind, Picture
from .keys import Project, checked_model, read_projects, refuse_key, service_url, without_keys
from .pictures import LONGEST_SIDE, is_about_the_picture, jpeg_or_refusal
from .quota import CountedRequest, ProjectBudget, ProjectLimits, take

REQUIREMENT = "google-genai>=2.33"  # as in pyproject's extra "gemini"
SERVICE_URL = "https://generativelanguage.googleapis.com/"
DEFAULT_MODEL = "gemini-3.5-flash-lite"
DEFAULT_PROJECTS = "GEMINI_API_KEY"
SYSTEM_PROMPT = (
    "You write captions for training a style LoRA of a text-to-image model. Describe only what the picture shows: "
    "the subjects, what they do and wear, the setting, where things are in the composition, the colours of things, "
    "the time of day, the light and the weather. Write one to three plain sentences in the present tense, 20 to 60 "
    "words, beginning with the main subject. Never mention that it is a painting, picture or artwork, and never name "
    "or hint at style, art movement, medium, technique, brushwork, artist, title, period or signature. Do not "
    "guess at names. No praise, no mood words, no opinions."
)
QUESTION = "Describe this picture."
SCHEMA = {"type": "object", "properties": {"description": {"type": "string"}}, "required": ["description"]}
MEDIA_RESOLUTIONS = {"low": 280, "medium": 560, "high": 1_120}  # input tokens of one picture, Gemini 3
ANSWER_TOKENS = 120  # of one caption, for the estimate
ROOM = 2_048  # tokens for an answer, thinking included
MORE_ROOM = 8_192  # for the second attempt of an answer that was cut off
SECONDS_OF_CALL = 10  # that a slow answer takes: so many calls must be under way to use up a minute's requests
LEAST_CALLS, MOST_CALLS = 4, 32  # at the same time; what is under way is lost when the process is killed
RATE_LIMITED = 12  # refusals for rate in a row for one picture, beyond one for each project
UNKNOWN_DELAY = 10.0  # seconds to pause a project when a 429 does not say how long

# Dollars per million tokens in and out on the paid tier, November 2026 (ai.google.dev/gemini-api/docs/pricing).
PRICES = {
    "gemini-3.5-flash-lite": (0.30, 2.50),
    "gemini-3.1-flash-lite": (0.25, 1.50),
    "gemini-3.6-flash": (0.75, 3.75),
    "gemini-3.8-flash": (0.75, 3.75),
}
# Finish reasons after which the same question may well be answered (sampling differs); after the others it is not.
_WORTH_RETRYING = {
    "RECITATION",
    "OTHER",
    "LANGUAGE",
    "MALFORMED_RESPONSE",
    "MALFORMED_FUNCTION_CALL",
    "UNEXPECTED_TOOL_CALL",
    "FINISH_REASON_UNSPECIFIED",
}
_on_sent: ContextVar[Callable[[], None]] = ContextVar("on_sent")  # called when this task's request has left
_LIMIT_0 = re.compile(r"limit: 0(?![\d.])")
_MODEL_NAME = re.compile(r"(?:models/|tunedModels/)?[A-Za-z0-9][\w.-]{0,99}")


@dataclass(frozen=True)
class GeminiSettings:
    """What a graph says. `projects` are names; the keys are looked up when the first picture is sent."""

    projects: tuple[str, ...] = (DEFAULT_PROJECTS,)
    model: str = DEFAULT_MODEL
    system_prompt: str = SYSTEM_PROMPT
    media_resolution: str = "high"
    limits: ProjectLimits = ProjectLimits()  # of projects whose own are not in the file
    timeout: float = 120.0  # seconds for one call
    api_version: str = ""  # "" for the package's own

    def __post_init__(self) -> None:
        if not _MODEL_NAME.fullmatch(checked_model(self.model, DEFAULT_MODEL)):
            raise SettingsError(f"The model '{self.model[:60]}' is no model's name. Type one, like {DEFAULT_MODEL}.")
        if not self.system_prompt.strip():
            raise SettingsError("The system prompt is empty. Say what a caption shall describe, and what not.")
        if self.media_resolution not in MEDIA_RESOLUTIONS:
            raise SettingsError(
                f"The media resolution is '{self.media_resolution}'. It must be one of {', '.join(MEDIA_RESOLUTIONS)}."
            )


@dataclass
class Session:
    """Connections and budgets while a run lasts."""

    budgets: list[ProjectBudget]
    clients: dict[str, Any]  # google.genai.Client by project
    keys: list[str]
    prompt_tokens: int  # expected of the next question


@dataclass
class GeminiCaptioner:
    """See `captioner.Captioner`."""

    settings: GeminiSettings
    folder: Path  # of the server's owner: gemini.toml with keys, and usage/ with what was sent
    clock: Clock = SYSTEM
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False, compare=False)
    _session: Session | None = field(default=None, init=False, repr=False, compare=False)

    name = "gemini"
    batch_size = 1
    counted = True

    @property
    def concurrency(self) -> int:
        """Enough calls to use the limits up, and no more."""
        return min(MOST_CALLS, max(LEAST_CALLS, math.ceil(self._requests_per_minute() * SECONDS_OF_CALL / 60)))

    @property
    def model(self) -> str:
        return self.settings.model

    def prompt(self, picture: Picture) -> str:
        settings = self.settings
        return content_hash([settings.system_prompt, QUESTION, SCHEMA, settings.media_resolution, LONGEST_SIDE])

    def estimate(self, count: int) -> str:
        """What captioning `count` pictures takes, in tokens, money and time, as a sentence."""
        settings = self.settings
        prompt_tokens, tokens = count * self._expected_tokens(), count * ANSWER_TOKENS
        text = f"Estimate: {count} requests to {settings.model}, {prompt_tokens:,} tokens in, {tokens:,} out"
        price = PRICES.get(settings.model)
        if price:
            dollars = (prompt_tokens * price[0] + tokens * price[1]) / 1e6
            text += f", ${dollars:.2f} on the paid tier (prices of November 2026), nothing on the free tier"
        per_minute = self._requests_per_minute()
        per_day = sum(project.limits.requests_per_day for project in self._projects())
        days = "" if count <= per_day else f", on {-(-count // per_day)} days at {per_day:,} requests a day"
        return f"{text}; {duration(60 * count / per_minute)} at {per_minute:.0f} a minute{days}."

    async def caption(
        self, pictures: Sequence[Picture], check: Callable[[], None], sending: Callable[[], None]
    ) -> Sequence[Caption | CaptionRefusal]:
        return [await self._caption(picture, check, sending) for picture in pictures]

    async def close(self) -> None:
        session, self._session = self._session, None
        if session:
            await asyncio.gather(*(client.aio.aclose() for client in session.clients.values()))

    async def _caption(
        self, picture: Picture, check: Callable[[], None], sending: Callable[[], None]
    ) -> Caption | CaptionRefusal:
        session = self._session = self._session or self._opened()
        jpeg = await jpeg_or_refusal(picture)
        if isinstance(jpeg, CaptionRefusal):
            return jpeg
        result = await self._ask(session, self._request(jpeg, ROOM), check, sending)
        if isinstance(result, CaptionRefusal) and result.kind is Kind.CUT_OFF:
            first, result = result, await self._ask(session, self._request(jpeg, MORE_ROOM), check, sending)
            result = _with_tokens(result, first.prompt_tokens, first.tokens)
        return result

    async def _ask(
        self, session: Session, question: dict[str, Any], check: Callable[[], None], sending: Callable[[], None]
    ) -> Caption | CaptionRefusal:
        """Ask until a project is not over its rate."""
        refusal = None
        for _ in range(RATE_LIMITED + len(session.budgets)):
            budget, request = await take(session.budgets, session.prompt_tokens, self.clock, check)
            sending()
            answer = await self._call(session, budget, request, question)
            if not isinstance(answer, RateLimited):
                if not isinstance(answer, CaptionRefusal):
                    used = answer.usage_metadata
                    if used and used.prompt_token_count:
                        budget.used(request, used.prompt_token_count)
                        session.prompt_tokens = max(session.prompt_tokens, used.prompt_token_count)
                    answer = read_answer(answer, session.keys)
                return answer
            refusal = answer
            if answer.day:
                budget.end_day()
            else:
                budget.pause(answer.delay)
        return CaptionRefusal(Kind.BUSY, f"over the rate of every project: {refusal.reason}", lasting=False)

    def _request(self, jpeg: bytes, room: int) -> dict[str, Any]:
        """Arguments of google-genai's `generate_content`, made before it is counted, so as to leave at once."""
        types = _google_genai().types
        config = types.GenerateContentConfig(
            system_instruction=self.settings.system_prompt,
            response_mime_type="application/json",
            response_json_schema=SCHEMA,
            max_output_tokens=room,
            media_resolution=f"MEDIA_RESOLUTION_{self.settings.media_resolution.upper()}",
        )
        contents = [types.Part.from_bytes(data=jpeg, mime_type="image/jpeg"), types.Part.from_text(text=QUESTION)]
        return {"model": self.settings.model, "contents": contents, "config": config}

    async def _call(
        self, session: Session, budget: ProjectBudget, request: CountedRequest, question: dict[str, Any]
    ) -> Any:
        """One request: google-genai's response, a `CaptionRefusal`, or `RateLimited`."""
        _on_sent.set(lambda: budget.sent(request))
        errors, http = _google_genai().errors, _http_library()
        try:
            # The client's own time limit is of each read: an answer that trickles would never be over it.
            call = session.clients[budget.project].aio.models.generate_content(**question)
            return await asyncio.wait_for(call, self.settings.timeout)
        except errors.APIError as error:
            return read_error(error.code, error.details, error.message or "", self.model, budget.project, session.keys)
        except asyncio.TimeoutError:
            return CaptionRefusal(
                Kind.BUSY, f"no answer within {self.settings.timeout:.0f} s", retry=True, lasting=False
            )
        except (OSError, http.HTTPError) as error:
            reason = without_keys(str(error) or type(error).__name__, session.keys)
            return CaptionRefusal(Kind.BUSY, f"the connection failed: {reason}", retry=True, lasting=False)
        except ValueError as error:  # a body that is no JSON, or not the service's
            reason = f"the service's reply cannot be read ({type(error).__name__})"
            return CaptionRefusal(Kind.MALFORMED, reason, retry=True, lasting=False)

    def _opened(self) -> Session:
        genai = _google_genai()
        projects = self._projects()
        url = service_url(self.folder / "gemini.toml")

        def client(project: Project) -> Any:
            options = genai.types.HttpOptions(
                base_url=url or None,
                api_version=self.settings.api_version or None,
                timeout=int(self.settings.timeout * 1000),
                # aiohttp, the package's own choice, repeats failed calls unasked, and no limit would know of them.
                # A redirect could lead elsewhere, with the key.
                async_client_args={"transport": _transport(_proxy(url or SERVICE_URL)), "follow_redirects": False},
            )
            return genai.Client(api_key=project.key, vertexai=False, http_options=options)

        return Session(
            budgets=[
                ProjectBudget(project.name, project.limits, self._usage(project), self.clock) for project in projects
            ],
            clients={project.name: client(project) for project in projects},
            keys=[project.key for project in projects],
            prompt_tokens=self._expected_tokens(),
        )

    def _projects(self) -> list[Project]:
        """Those named, each once: two names of one key are one project, and share what it may send."""
        projects = read_projects(
            self.folder / "gemini.toml", self.settings.projects, self.settings.limits, self.environment
        )
        refuse_key(self.model, [project.key for project in projects])
        return list({project.key: project for project in reversed(projects)}.values())[::-1]

    def _requests_per_minute(self) -> float:
        """Of all projects together, as requests or tokens allow."""
        return sum(
            min(project.limits.requests_per_minute, project.limits.tokens_per_minute / self._expected_tokens())
            for project in self._projects()
        )

    def _usage(self, project: Project) -> Path:
        return self.folder / "usage" / f"{content_hash([project.key, self.settings.model])}.jsonl"

    def _expected_tokens(self) -> int:
        words = len(self.settings.system_prompt) + len(QUESTION)
        return MEDIA_RESOLUTIONS[self.settings.media_resolution] + words // 4 + 20


@dataclass(frozen=True)
class RateLimited:
    """A 429: when this project may be asked again."""

    reason: str
    delay: float = 0.0  # seconds
    day: bool = False  # not before the day is over


def read_answer(response: Any, keys: Sequence[str] = ()) -> Caption | CaptionRefusal:
    """The caption in google-genai's `GenerateContentResponse`, or which of the ways to be empty it is."""
    used = response.usage_metadata
    prompt_tokens = (used and used.prompt_token_count) or 0
    tokens = ((used and used.candidates_token_count) or 0) + ((used and used.thoughts_token_count) or 0)

    def refusal(kind: Kind, reason: str, retry: bool = False) -> CaptionRefusal:
        return CaptionRefusal(kind, reason, retry=retry, tokens=tokens, prompt_tokens=prompt_tokens)

    feedback = response.prompt_feedback
    if not (feedback or response.candidates or used):
        # Not the service's own words, so nothing about the picture: ten in a row end the run.
        reason = "the reply is not Gemini's: it has no candidates, no feedback and no usage"
        return CaptionRefusal(Kind.NO_ANSWER, reason, retry=True, lasting=False)
    if feedback and feedback.block_reason:
        return refusal(Kind.PROMPT_BLOCKED, _name(feedback.block_reason))
    if not response.candidates:
        return refusal(Kind.NO_ANSWER, "the reply has no candidates", retry=True)
    candidate = response.candidates[0]
    reason = _name(candidate.finish_reason) if candidate.finish_reason else "FINISH_REASON_UNSPECIFIED"
    parts = (candidate.content and candidate.content.parts) or []
    text = "".join(part.text for part in parts if part.text and not part.thought)
    if reason == "MAX_TOKENS":
        return refusal(Kind.CUT_OFF, f"MAX_TOKENS after {tokens} tokens, thinking included")
    if reason not in ("STOP", "FINISH_REASON_UNSPECIFIED"):
        return refusal(Kind.ANSWER_BLOCKED, reason, retry=reason in _WORTH_RETRYING)
    if not text.strip():
        return refusal(Kind.NO_ANSWER, f"the answer has no text ({reason})", retry=True)
    try:
        description = parsed_json(text)["description"].strip()
    except (ValueError, KeyError, TypeError, AttributeError):
        said = without_keys(text, keys)[:60]
        return refusal(Kind.MALFORMED, f"not the JSON that was asked for: {said!r}", retry=True)
    if not description:
        return refusal(Kind.NO_ANSWER, "the description is empty", retry=True)
    return Caption(description, reason.lower(), tokens, prompt_tokens)


def read_error(
    code: int, details: Any, message: str, model: str, project: str, keys: Sequence[str]
) -> CaptionRefusal | RateLimited:
    """What an HTTP error means for the picture and for the project.

    Raises:
        CaptionError: it would be the same for every picture: the key, the model, the region, a limit of 0.
    """
    whole = re.sub(r"\s+", " ", without_keys(message, keys))  # keys before the cut, which could halve one
    message = whole[:300]
    told = _details(details)
    reasons = {str(detail.get("reason", "")) for detail in told}
    if code == 429:
        return _rate_limited(told, whole, model, project)
    if code in (401, 403) or "API_KEY_INVALID" in reasons or "API key" in whole:
        raise CaptionError(f"Google refuses the key of the project '{project}' ({code}): {message} Replace that key.")
    if code == 404:
        raise CaptionError(
            f"Google knows no model '{model}' (404): {message} Type the name of a present one, like {DEFAULT_MODEL}."
        )
    if code == 400 and ("FAILED_PRECONDITION" in whole or "location" in whole.lower()):
        raise CaptionError(f"Google refuses the project '{project}' here (400): {message}")
    if 300 <= code < 400:
        raise CaptionError(
            f"The service's address leads elsewhere ({code}), where no key is sent. "
            "Have base_url in gemini.toml corrected."
        )
    if code >= 500 or code in (408, 499):
        return CaptionRefusal(Kind.BUSY, f"{code} {message}", retry=True, lasting=False)
    # What is not about this picture (the request, the account) may be the same for all: ten in a row end the run.
    return CaptionRefusal(Kind.FAILED, f"{code} {message}", lasting=code == 413 or is_about_the_picture(whole))


def _rate_limited(told: list[dict[str, Any]], whole: str, model: str, project: str) -> RateLimited:
    """`whole`: the message uncut; its limits stand behind 300 characters of advice."""
    message = whole[:300]
    violations = [violation for detail in told for violation in detail.get("violations", [])]
    if _LIMIT_0.search(whole) or any(str(violation.get("quotaValue", "")) == "0" for violation in violations):
        raise CaptionError(
            f"limit: 0. The model '{model}' is not in the free tier of the project '{project}': {message} "
            "Choose another model, or enable billing for that project."
        )
    delays = [str(detail["retryDelay"]) for detail in told if "retryDelay" in detail]
    seconds = [float(delay[:-1]) for delay in delays if re.fullmatch(r"\d+(?:\.\d+)?s", delay)]
    quotas = [str(violation.get("quotaId", "")) for violation in violations]
    reason = ", ".join(quotas) or message
    return RateLimited(reason, max(seconds, default=UNKNOWN_DELAY), any("PerDay" in quota for quota in quotas))


def _details(details: Any) -> list[dict[str, Any]]:
    """The `google.rpc` details of an error body, which comes as an object or as a list of one."""
    body = details[0] if isinstance(details, list) and details else details
    error = body.get("error", {}) if isinstance(body, dict) else {}
    told = error.get("details", []) if isinstance(error, dict) else []
    return [detail for detail in told if isinstance(detail, dict)]


def _with_tokens(result: Caption | CaptionRefusal, prompt_tokens: int, tokens: int) -> Caption | CaptionRefusal:
    return replace(result, prompt_tokens=result.prompt_tokens + prompt_tokens, tokens=result.tokens + tokens)


def _name(reason: Any) -> str:
    return str(getattr(reason, "name", reason))


def _google_genai() -> Any:
    """The package, imported when the first picture is sent: it takes half a second.

    Raises:
        CaptionError: it is not installed.
    """
    try:
        from google import genai
    except ImportError:
        raise CaptionError(
            "The Gemini Captioner needs the package google-genai, which is not installed. Install it into ComfyUI's "
            f'Python and restart ComfyUI:\n"{sys.executable}" -m pip install "{REQUIREMENT}"'
        ) from None
    # Its log lines carry whole requests at the debug level.
    logging.getLogger("google_genai").setLevel(logging.WARNING)
    return genai


def _http_library() -> Any:
    """What google-genai itself speaks HTTP with: httpx2 from version 3 on, httpx before."""
    try:
        import httpx2

        return httpx2
    except ImportError:
        import httpx

        return httpx


def _proxy(url: str) -> str | None:
    """The address of the proxy that the system's settings (HTTPS_PROXY, NO_PROXY …) have for `url`."""
    service, proxies = urlsplit(url), getproxies()
    proxy = proxies.get(service.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(service.hostname or ""):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _transport(proxy: str | None) -> Any:
    """HTTP that tells `_on_sent` when a request is on its way: building many at once takes longer than sending one.

    Raises:
        CaptionError: the proxy is of a kind that cannot be used.
    """
    http = _http_library()

    class Transport(http.AsyncHTTPTransport):
        async def handle_async_request(self, request: Any) -> Any:
            async def trace(event: str, _: Any) -> None:
                if event.endswith("send_request_body.complete"):  # encode.io/httpcore: extensions, "trace"
                    _on_sent.get()()

            request.extensions = {**request.extensions, "trace": trace}
            return await super().handle_async_request(request)

    try:
        return Transport(proxy=proxy)
    except (ImportError, ValueError):  # the text may quote the address, and a password in it
        raise CaptionError(
            "The proxy that HTTPS_PROXY, HTTP_PROXY or ALL_PROXY names is of a kind that cannot be used here. Name one "
            "that begins with http://, or install socksio into ComfyUI's Python for one that begins with socks5://."
        ) from None
