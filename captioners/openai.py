"""Captions by any server that speaks OpenAI's chat protocol: Ollama, LM Studio, vLLM, llama.cpp's server.

Which servers there are is the server owner's to say, by name, in a file (see `keys`); a graph cannot send pictures or
requests anywhere else.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import SettingsError
from ..files import content_hash
from . import labels
from .captioner import Caption, CaptionRefusal, Kind, Picture
from .gemini import QUESTION, SYSTEM_PROMPT
from .keys import Endpoint, checked_model, read_endpoint, refuse_key, without_keys
from .local_servers import look_for
from .openai_answers import parsed_reply, read_completion, read_failure, status_in
from .pictures import LONGEST_SIDE, jpeg_or_refusal

ANSWER_TOKENS = 512  # most for one answer
MORE_TOKENS = 4_096  # for a second attempt, where a model that thinks first was cut off


@dataclass(frozen=True)
class OpenAISettings:
    """What a graph says: the name of a server, never its address."""

    endpoint: str
    model: str
    system_prompt: str = SYSTEM_PROMPT
    concurrency: int = 2  # a local server computes one answer at a time, or a few
    timeout: float = 300.0  # seconds for one answer, which a local model may take to load

    def __post_init__(self) -> None:
        checked_model(self.model, "qwen3-vl:8b")
        if not self.system_prompt.strip():
            raise SettingsError("The system prompt is empty. Say what a caption shall describe, and what not.")


@dataclass
class OpenAICaptioner:
    """See `captioner.Captioner`."""

    settings: OpenAISettings
    folder: Path  # of the server's owner, with openai.toml
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False, compare=False)
    _session: Any = field(default=None, init=False, repr=False, compare=False)  # aiohttp.ClientSession
    _found: asyncio.Task[None] | None = field(default=None, init=False, repr=False, compare=False)

    name = "openai-compatible"
    batch_size = 1
    counted = True  # many such services are paid

    @property
    def model(self) -> str:
        return self.settings.model

    @property
    def concurrency(self) -> int:
        return self.settings.concurrency

    def prompt(self, picture: Picture) -> str:
        told = self.settings.system_prompt
        return content_hash([told, QUESTION, LONGEST_SIDE, ANSWER_TOKENS, *labels.identity(told, picture)])

    async def caption(
        self, pictures: Sequence[Picture], check: Callable[[], None], sending: Callable[[], None]
    ) -> Sequence[Caption | CaptionRefusal]:
        return [await self._caption(picture, check, sending) for picture in pictures]

    async def close(self) -> None:
        session, self._session, self._found = self._session, None, None
        if session:
            await session.close()

    async def _caption(
        self, picture: Picture, check: Callable[[], None], sending: Callable[[], None]
    ) -> Caption | CaptionRefusal:
        endpoint = read_endpoint(self.folder / "openai.toml", self.settings.endpoint, self.environment)
        refuse_key(self.model, [endpoint.key])
        self._found = self._found or asyncio.create_task(look_for(endpoint))
        await self._found
        jpeg = await jpeg_or_refusal(picture)
        if isinstance(jpeg, CaptionRefusal):
            return jpeg
        check()
        sending()
        instructions = labels.filled(self.settings.system_prompt, picture)
        result = await self._ask(endpoint, self._body(instructions, jpeg, ANSWER_TOKENS))
        if isinstance(result, CaptionRefusal) and result.kind is Kind.CUT_OFF:
            check()
            sending()
            first, result = result, await self._ask(endpoint, self._body(instructions, jpeg, MORE_TOKENS))
            tokens, prompt_tokens = result.tokens + first.tokens, result.prompt_tokens + first.prompt_tokens
            result = replace(result, tokens=tokens, prompt_tokens=prompt_tokens)
        return result

    async def _ask(self, endpoint: Endpoint, question: dict[str, Any]) -> Caption | CaptionRefusal:
        import aiohttp

        headers = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
        self._session = self._session or aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=self.settings.timeout)
        )
        try:
            # A redirect could lead elsewhere, with the key.
            async with self._session.post(
                f"{endpoint.base_url}/chat/completions",
                json=question,
                headers=headers,
                allow_redirects=False,
            ) as response:
                return self._read(response.status, await response.read(), response.headers, endpoint)
        except asyncio.TimeoutError:
            return CaptionRefusal(
                Kind.BUSY, f"no answer within {self.settings.timeout:.0f} s", retry=True, lasting=False
            )
        except (aiohttp.ClientError, OSError) as error:
            reason = without_keys(str(error) or type(error).__name__, [endpoint.key])
            return CaptionRefusal(
                Kind.BUSY, f"'{endpoint.name}' cannot be reached: {reason}", retry=True, lasting=False
            )
        except ValueError:
            return CaptionRefusal(Kind.MALFORMED, "the server's reply is no JSON", retry=True, lasting=False)

    def _read(
        self, status: int, body: bytes, headers: Mapping[str, str], endpoint: Endpoint
    ) -> Caption | CaptionRefusal:
        reply = parsed_reply(body) if status == 200 else None
        if status == 200 and not (status := status_in(reply)):
            return read_completion(reply, [endpoint.key])
        return read_failure(status, body.decode("utf-8", "replace"), headers, endpoint, self.model)

    def _body(self, instructions: str, jpeg: bytes, most_tokens: int) -> dict[str, Any]:
        picture = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
        return {
            "model": self.settings.model,
            "max_tokens": most_tokens,
            "messages": [
                {"role": "system", "content": instructions},
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": picture}},
                        {"type": "text", "text": QUESTION},
                    ],
                },
            ],
        }
