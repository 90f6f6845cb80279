"""What the replies of servers that speak OpenAI's protocol mean: caption, refusal, or what is wrong with every request.

Wire format: platform.openai.com/docs/api-reference/chat. Servers spell it in their own ways, and are read leniently.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import CaptionError
from .captioner import Caption, CaptionRefusal, Kind
from .cleanup import without_thinking
from .finish_reasons import CUT_OFF_REMEDY, is_blocked, is_cut_off
from .keys import Endpoint, without_keys
from .lenient_json import description_in, looks_like_json, parsed_leniently
from .pictures import is_about_the_picture

MOST_RETRY_AFTER = 120.0  # seconds; a longer one waits so long and asks then
_NO_ANSWER_PARTS = {"thinking", "reasoning", "refusal"}  # of a message's content

# What only the owner of the account can mend, by what services say of it, with the remedy.
_ACCOUNT = (
    (
        re.compile(
            r"insufficient[ _](?:quota|credit|balance|funds)|billing[ _]not[ _]active|account is not active"
            r"|credit balance|out of credits|credits? (?:are |is )?(?:depleted|exhausted|used up)|payment required"
            r"|requires more credits",
            re.IGNORECASE,
        ),
        "Its account has no credit left: add credit where the account is billed, or choose another server.",
    ),
    (
        re.compile(
            r"spend(?:ing)?[ _](?:cap|limit)|hard[ _]limit|budget has been exceeded|exceeded[ _]?budget"
            r"|(?:key|monthly) limit exceeded",
            re.IGNORECASE,
        ),
        "Its spending limit is reached: raise the limit where the account is managed, or wait until it begins anew.",
    ),
    (
        re.compile(r"\breferr?er\b|\bip address\b|origin[ _]not[ _]allowed", re.IGNORECASE),
        "Its key may be used from certain web pages or addresses alone: lift that restriction, or make a key without.",
    ),
    (
        re.compile(r"(?:country|region|territory|location)\b.{0,40}not supported|unsupported_country", re.IGNORECASE),
        "It does not serve this place: choose another server.",
    ),
)
_BLOCKED_PROMPT = re.compile(
    r"content[ _](?:policy|filter|management)|flagged|moderation|safety system|ResponsibleAI", re.IGNORECASE
)


def read_completion(reply: Any, keys: Sequence[str] = ()) -> Caption | CaptionRefusal:
    """The caption in a chat completion, or why there is none."""
    try:
        choice = reply["choices"][0]
        message = choice.get("message") or {"content": choice.get("text")}
        text, declined = _content(message.get("content")), message.get("refusal") or _declined(message.get("content"))
        thought = message.get("reasoning_content") or message.get("reasoning") or message.get("thinking")
        reason = choice.get("finish_reason") or choice.get("native_finish_reason") or "stop"
        usage = reply.get("usage") or {}
        tokens, prompt_tokens = int(usage.get("completion_tokens") or 0), int(usage.get("prompt_tokens") or 0)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError):
        # Nothing about the picture: ten in a row end the run.
        said = reply.get("error", reply) if isinstance(reply, dict) else reply
        said = without_keys(str(said.get("message", said) if isinstance(said, dict) else said), keys)[:300]
        return CaptionRefusal(Kind.MALFORMED, f"not a chat completion: {said!r}", retry=True, lasting=False)

    def refusal(kind: Kind, why: str, retry: bool) -> CaptionRefusal:
        return CaptionRefusal(kind, why, retry=retry, tokens=tokens, prompt_tokens=prompt_tokens)

    reason, thinks = str(reason), bool(thought) or "<think>" in text.lower()
    text = without_thinking(text).strip().lstrip("\ufeff").strip()
    if is_cut_off(reason):
        why = f"cut off after {tokens or 'too many'} tokens, thinking included ({reason}). {CUT_OFF_REMEDY}"
        return refusal(Kind.CUT_OFF, why, False)
    if declined and not text:
        return refusal(Kind.ANSWER_BLOCKED, f"the model declines: {without_keys(str(declined), keys)[:200]}", False)
    if is_blocked(reason):
        return refusal(Kind.ANSWER_BLOCKED, reason, False)
    if looks_like_json(text):
        try:
            text = description_in(text)
        except ValueError:
            said = without_keys(text, keys)[:60]
            return refusal(Kind.MALFORMED, f"JSON without a caption in it: {said!r}", True)
    if not text:
        why = "thinking and no answer" if thinks else "the answer has no text"
        return refusal(Kind.NO_ANSWER, f"{why} ({reason})", True)
    return Caption(text, reason, tokens, prompt_tokens)


def parsed_reply(body: bytes) -> Any:
    """
    Raises:
        ValueError: it is no JSON.
    """
    text = body.decode("utf-8-sig", errors="replace")
    if not text.lstrip().startswith(("{", "[")):
        raise ValueError("the reply is no JSON")
    return parsed_leniently(text)


def status_in(reply: Any) -> int:
    """The HTTP status that a reply of status 200 has in its error, as gateways send them; 0 where it has none."""
    error = reply.get("error") if isinstance(reply, dict) and not reply.get("choices") else None
    code = error.get("code", error.get("status")) if isinstance(error, dict) else None
    return code if isinstance(code, int) and not isinstance(code, bool) and 400 <= code < 600 else 0


def read_failure(status: int, body: str, headers: Mapping[str, str], endpoint: Endpoint, model: str) -> CaptionRefusal:
    """What an HTTP error means.

    Raises:
        CaptionError: it would be the same for every picture: key, credit, model, address.
    """
    whole = re.sub(r"\s+", " ", without_keys(body, [endpoint.key]))  # keys before the cut, which could halve one
    said = whole[:300]
    if status in (400, 403, 422) and _BLOCKED_PROMPT.search(whole):
        return CaptionRefusal(Kind.PROMPT_BLOCKED, f"{status} {said}")
    if status == 402 or (status in (400, 401, 403, 429) and not is_about_the_picture(whole)):
        for pattern, remedy in _ACCOUNT:
            if pattern.search(whole) or status == 402:
                raise CaptionError(f"The server '{endpoint.name}' answers no more ({status}): {said} {remedy}")
    if status in (401, 403):
        raise CaptionError(f"The server '{endpoint.name}' refuses its key ({status}): {said}")
    if status == 404 or 300 <= status < 400:
        raise CaptionError(
            f"The server '{endpoint.name}' has no model '{model}' or another address ({status}): "
            f"{said} Type a model that it lists, or have its base_url corrected."
        )
    if status == 429 or status >= 500 or status == 408:
        after = headers.get("Retry-After", "")
        wait = min(float(after), MOST_RETRY_AFTER) if re.fullmatch(r"\d+(\.\d+)?", after) else 0.0
        return CaptionRefusal(Kind.BUSY, f"{status} {said}", retry=True, wait=wait, lasting=False)
    # What is not about this picture may be the same for all: ten in a row end the run.
    return CaptionRefusal(Kind.FAILED, f"{status} {said}", lasting=status == 413 or is_about_the_picture(whole))


def _content(content: Any) -> str:
    """A message's text: a string, or the text parts of a list in a row."""
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        return ""
    return "".join(_part(part) for part in content)


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict) or part.get("type") in _NO_ANSWER_PARTS:
        return ""
    text = part.get("text")
    text = text.get("value") if isinstance(text, dict) else text
    return text if isinstance(text, str) else ""


def _declined(content: Any) -> str:
    """The words of a part of type "refusal"."""
    parts = content if isinstance(content, list) else []
    words = [part.get("refusal") for part in parts if isinstance(part, dict) and part.get("type") == "refusal"]
    return " ".join(word for word in words if isinstance(word, str))
