"""Captions by any server that speaks OpenAI's chat protocol: Ollama, LM Studio, vLLM, llama.cpp's server.

Which servers there are is the server owner's to say, by name, in a file (see `keys`); a graph cannot send pictures or
requests anywhere else.
"""

from __future__ import annotations

import asyncio
import base64
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import CaptionError, SettingsError
from ..files import content_hash, parsed_json
from . import labels
from .captioner import Caption, CaptionRefusal, Kind, Picture
from .cleanup import without_thinking
from .gemini import QUESTION, SYSTEM_PROMPT
from .keys import Endpoint, checked_model, read_endpoint, refuse_key, without_keys
from .pictures import LONGEST_SIDE, is_about_the_picture, jpeg_or_refusal

ANSWER_TOKENS = 512  # most for one answer
MORE_TOKENS = 4_096  # for a second attempt, where a model that thinks first was cut off
MOST_RETRY_AFTER = 120.0  # seconds; a longer one waits so long and asks then


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
        session, self._session = self._session, None
        if session:
            await session.close()

    async def _caption(
        self, picture: Picture, check: Callable[[], None], sending: Callable[[], None]
    ) -> Caption | CaptionRefusal:
        endpoint = read_endpoint(self.folder / "openai.toml", self.settings.endpoint, self.environment)
        refuse_key(self.model, [endpoint.key])
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
                if response.status != 200:
                    return self._failed(response.status, await response.text(), response.headers, endpoint)
                return read_completion(await response.json(content_type=None, loads=parsed_json), [endpoint.key])
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

    def _failed(self, status: int, body: str, headers: Mapping[str, str], endpoint: Endpoint) -> CaptionRefusal:
        """What an HTTP error means.

        Raises:
            CaptionError: it would be the same for every picture: key, model, address.
        """
        whole = re.sub(r"\s+", " ", without_keys(body, [endpoint.key]))  # keys before the cut, which could halve one
        said = whole[:300]
        if status in (401, 403):
            raise CaptionError(f"The server '{endpoint.name}' refuses its key ({status}): {said}")
        if status == 404 or 300 <= status < 400:
            raise CaptionError(
                f"The server '{endpoint.name}' has no model '{self.settings.model}' or another address ({status}): "
                f"{said} Type a model that it lists, or have its base_url corrected."
            )
        if status == 429 or status >= 500 or status == 408:
            after = headers.get("Retry-After", "")
            wait = min(float(after), MOST_RETRY_AFTER) if re.fullmatch(r"\d+(\.\d+)?", after) else 0.0
            return CaptionRefusal(Kind.BUSY, f"{status} {said}", retry=True, wait=wait, lasting=False)
        # What is not about this picture may be the same for all: ten in a row end the run.
        return CaptionRefusal(Kind.FAILED, f"{status} {said}", lasting=status == 413 or is_about_the_picture(whole))


def read_completion(reply: Any, keys: Sequence[str] = ()) -> Caption | CaptionRefusal:
    """The caption in a chat completion, or why there is none."""
    try:
        choice = reply["choices"][0]
        text, reason = choice["message"].get("content") or "", choice.get("finish_reason") or "stop"
        usage = reply.get("usage") or {}
        tokens, prompt_tokens = int(usage.get("completion_tokens") or 0), int(usage.get("prompt_tokens") or 0)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError):
        # Nothing about the picture: ten in a row end the run.
        said = reply.get("error", reply) if isinstance(reply, dict) else reply
        said = without_keys(str(said.get("message", said) if isinstance(said, dict) else said), keys)[:300]
        return CaptionRefusal(Kind.MALFORMED, f"not a chat completion: {said!r}", retry=True, lasting=False)

    def refusal(kind: Kind, why: str, retry: bool) -> CaptionRefusal:
        return CaptionRefusal(kind, why, retry=retry, tokens=tokens, prompt_tokens=prompt_tokens)

    text = without_thinking(text).strip() if isinstance(text, str) else ""
    if reason == "length":
        return refusal(Kind.CUT_OFF, f"cut off after {tokens or 'too many'} tokens, thinking included", False)
    if not text:
        return refusal(Kind.NO_ANSWER, f"the answer has no text ({reason})", True)
    if reason == "content_filter":
        return refusal(Kind.ANSWER_BLOCKED, reason, False)
    return Caption(text, reason, tokens, prompt_tokens)
