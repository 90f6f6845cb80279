"""What is told of captions while a person writes them; keeping them is for the graph and its Caption Editor."""

from __future__ import annotations

from .. import token_limits
from ..captioners.captions import checked_trigger_word
from ..captioners.editing import EditRules, looked_over
from ..captioners.lint import least_tokens
from ..texts import one_line
from .models import CheckCaptions
from .routing import Call, Reply


def checked(call: Call) -> Reply:
    """Texts as they go out, with their tokens and what is doubtful about them; nothing is kept."""
    body: CheckCaptions = call.body
    rules = EditRules(checked_trigger_word(body.trigger_word), prefix=body.prefix, suffix=body.suffix)
    count = call.count_tokens or least_tokens
    found = [looked_over(one_line(text), rules, count) for text in body.texts]
    return Reply(
        {
            "captions": [{"caption": caption, "tokens": tokens, "flags": doubts} for caption, tokens, doubts in found],
            "limits": [token_limits.CLIP_L, token_limits.T5_DEV],
            "estimated": call.count_tokens is None,
        }
    )
