"""What is told of captions while a person writes them; keeping them is for the graph and its Caption Editor."""

from __future__ import annotations

from typing import Any

from .. import token_limits
from ..captioners.captions import checked_trigger_word
from ..captioners.editing import MAX_CAPTION, EditRules, looked_over
from ..captioners.lint import least_tokens
from ..texts import one_line
from .routing import Call, Refused, Reply

MOST_TEXTS = 200  # of one call


def checked(call: Call) -> Reply:
    """Texts as they go out, with their tokens and what is doubtful about them; nothing is kept.

    The body: `texts`, and of Caption Editor `trigger_word`, `prefix` and `suffix`.
    """
    body = call.body if isinstance(call.body, dict) else {}
    texts = body.get("texts")
    if not isinstance(texts, list) or len(texts) > MOST_TEXTS or not all(isinstance(text, str) for text in texts):
        raise Refused(f"texts must be a list of at most {MOST_TEXTS} captions.", "texts")
    if longest := max((len(text) for text in texts if len(text) > MAX_CAPTION), default=0):
        raise Refused(f"A caption has {longest} characters. Use at most {MAX_CAPTION}.", "texts")
    words = {name: _text(body, name) for name in ("trigger_word", "prefix", "suffix")}
    rules = EditRules(**words | {"trigger_word": checked_trigger_word(words["trigger_word"])})
    count = call.count_tokens or least_tokens
    found = [looked_over(one_line(text), rules, count) for text in texts]
    return Reply(
        {
            "captions": [{"caption": caption, "tokens": tokens, "flags": doubts} for caption, tokens, doubts in found],
            "limits": [token_limits.CLIP_L, token_limits.T5_DEV],
            "estimated": call.count_tokens is None,
        }
    )


def _text(body: dict[str, Any], name: str) -> str:
    text = body.get(name, "")
    if not isinstance(text, str):
        raise Refused(f"{name} must be a text.", name)
    return text
