"""What Gemini's replies mean: the caption, each way to be empty, and errors, of the picture or of the whole run.

Wire format and error tables: ai.google.dev/api/generate-content and ai.google.dev/gemini-api/docs/troubleshooting.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import CaptionError
from .captioner import Caption, CaptionRefusal, Kind
from .finish_reasons import CUT_OFF_REMEDY, is_cut_off
from .keys import without_keys
from .lenient_json import description_in
from .pictures import is_about_the_picture

DEFAULT_MODEL = "gemini-3.5-flash-lite"
UNKNOWN_DELAY = 10.0  # seconds to pause a project when a 429 does not say how long
# Finish reasons after which the same question may well be answered (sampling differs); after the others it is not.
_WORTH_RETRYING = {
    "RECITATION",
    "OTHER",
    "LANGUAGE",
    "FINISH_REASON_UNSPECIFIED",
}
_LIMIT_0 = re.compile(r"limit: 0(?![\d.])")


# What only the project's owner can mend, by the `reason` of a google.rpc.ErrorInfo and by words, with the remedy.
_ACCOUNT = (
    (
        "BILLING_DISABLED|CREDITS_DEPLETED",
        r"credits? (?:are|is|have been|has been) (?:depleted|exhausted|used up)|prepa(?:id|yment) (?:credits?|balance)"
        r"|insufficient (?:credits?|balance|funds)|billing (?:account )?(?:is |to be )?(?:not )?(?:disabled|enabled)",
        "Add credit or enable billing for that project in AI Studio (https://ai.studio/projects), or name another "
        "project.",
    ),
    (
        "SPENDING_CAP_EXCEEDED|BUDGET_EXCEEDED",
        r"spend(?:ing)? ?(?:cap|limit)",
        "Raise that project's spending cap in AI Studio (https://ai.studio/projects), wait until it begins anew, or "
        "name another project.",
    ),
    (
        "SERVICE_DISABLED|API_KEY_SERVICE_BLOCKED",
        r"has not been used in project|API is (?:disabled|not enabled)|it is disabled",
        "Enable the Generative Language API for that project, and allow it in the restrictions of its key, in the "
        "Google Cloud console (APIs & Services). It takes some minutes to work.",
    ),
    (
        "API_KEY_HTTP_REFERRER_BLOCKED|API_KEY_IP_ADDRESS_BLOCKED|API_KEY_(?:ANDROID|IOS)_APP_BLOCKED",
        r"requests from (?:referr?er|this (?:android|ios)|.{0,60} are blocked)|IP address restriction"
        r"|IP address .{0,80}(?:violates|blocked)",
        "The key is restricted to certain web pages, apps or addresses, which ComfyUI is not: set the application "
        "restrictions of that key to none in the Google Cloud console (APIs & Services, Credentials), or make another.",
    ),
    (
        "CONSUMER_SUSPENDED",
        r"has been suspended",
        "Google has suspended that project: appeal in the Google Cloud console, or name another project.",
    ),
)


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
    if is_cut_off(reason):
        return refusal(Kind.CUT_OFF, f"{reason} after {tokens} tokens, thinking included. {CUT_OFF_REMEDY}")
    if reason.startswith(("MALFORMED", "UNEXPECTED")):
        return refusal(Kind.MALFORMED, reason, retry=True)
    if reason not in ("STOP", "FINISH_REASON_UNSPECIFIED"):
        return refusal(Kind.ANSWER_BLOCKED, reason, retry=reason in _WORTH_RETRYING)
    if not text.strip():
        return refusal(Kind.NO_ANSWER, f"the answer has no text ({reason})", retry=True)
    try:
        description = description_in(text)
    except ValueError:
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
    if code in (400, 401, 402, 403, 429) and (remedy := _account_remedy(reasons, whole)):
        raise CaptionError(f"Google answers no more for the project '{project}' ({code}): {message} {remedy}")
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


def _account_remedy(reasons: set[str], whole: str) -> str:
    """What to do about the project's account, where an error is of it; "" where it is not."""
    for by_reason, by_words, remedy in _ACCOUNT:
        if any(re.fullmatch(by_reason, reason) for reason in reasons) or re.search(by_words, whole, re.IGNORECASE):
            return remedy
    return ""


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


def _name(reason: Any) -> str:
    return str(getattr(reason, "name", reason))
