"""Why a service ended an answer, in whatever spelling: "length", "MAX_TOKENS", "max-tokens", "content_filter"."""

from __future__ import annotations

import re

CUT_OFF_REMEDY = "Choose a model that does not think before it answers, or ask for a shorter caption"
_CUT_OFF = {"length", "maxtokens", "maxlength", "maxoutputtokens", "maxcompletiontokens", "modellength", "tokenlimit"}
_BLOCKED = {"contentfilter", "contentfiltered", "safety", "refusal", "prohibitedcontent", "blocklist", "recitation"}


def is_cut_off(reason: str) -> bool:
    """Whether the limit of tokens was reached."""
    return _plain(reason) in _CUT_OFF


def is_blocked(reason: str) -> bool:
    """Whether the service would not hand the answer out."""
    return _plain(reason) in _BLOCKED


def _plain(reason: str) -> str:
    return re.sub(r"[^a-z]", "", reason.lower()).removeprefix("finishreason")
