"""Captions by Google's Gemini: several projects in turn, every kind of empty answer told apart.

How many requests may be sent is reckoned in `quota`; where keys come from, in `keys`; how they travel, in
`gemini_wire`; what the answers mean, in `gemini_answers`.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..clock import SYSTEM, Clock
from ..errors import SettingsError
from ..files import content_hash
from ..progress import duration
from . import labels
from .captioner import Caption, CaptionRefusal, Kind, Picture
from .gemini_answers import DEFAULT_MODEL, RateLimited, read_answer, read_error
from .gemini_wire import google_genai, http_library, on_sent, proxy_for, transport
from .keys import Project, checked_model, read_projects, refuse_key, service_url, without_keys
from .pictures import LONGEST_SIDE, jpeg_or_refusal
from .quota import CountedRequest, ProjectBudget, ProjectLimits, take

SERVICE_URL = "https://generativelanguage.googleapis.com/"
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

# Dollars per million tokens in and out on the paid tier, November 2026 (ai.google.dev/gemini-api/docs/pricing).
PRICES = {
    "gemini-3.5-flash-lite": (0.30, 2.50),
    "gemini-3.1-flash-lite": (0.25, 1.50),
    "gemini-3.6-flash": (0.75, 3.75),
    "gemini-3.8-flash": (0.75, 3.75),
}
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
        told = [settings.system_prompt, QUESTION, SCHEMA, settings.media_resolution, LONGEST_SIDE]
        return content_hash(told + labels.identity(settings.system_prompt, picture))

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
        result = await self._ask(session, self._request(picture, jpeg, ROOM), check, sending)
        if isinstance(result, CaptionRefusal) and result.kind is Kind.CUT_OFF:
            question = self._request(picture, jpeg, MORE_ROOM)
            first, result = result, await self._ask(session, question, check, sending)
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
                budget.pause(answer.delay, answer.reason)
        return CaptionRefusal(Kind.BUSY, f"over the rate of every project: {refusal.reason}", lasting=False)

    def _request(self, picture: Picture, jpeg: bytes, room: int) -> dict[str, Any]:
        """Arguments of google-genai's `generate_content`, made before it is counted, so as to leave at once."""
        types = google_genai().types
        config = types.GenerateContentConfig(
            system_instruction=labels.filled(self.settings.system_prompt, picture),
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
        on_sent.set(lambda: budget.sent(request))
        errors, http = google_genai().errors, http_library()
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
        genai = google_genai()
        projects = self._projects()
        url = service_url(self.folder / "gemini.toml")

        def client(project: Project) -> Any:
            options = genai.types.HttpOptions(
                base_url=url or None,
                api_version=self.settings.api_version or None,
                timeout=int(self.settings.timeout * 1000),
                # aiohttp, the package's own choice, repeats failed calls unasked, and no limit would know of them.
                # A redirect could lead elsewhere, with the key.
                async_client_args={"transport": transport(proxy_for(url or SERVICE_URL)), "follow_redirects": False},
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


def _with_tokens(result: Caption | CaptionRefusal, prompt_tokens: int, tokens: int) -> Caption | CaptionRefusal:
    return replace(result, prompt_tokens=result.prompt_tokens + prompt_tokens, tokens=result.tokens + tokens)
