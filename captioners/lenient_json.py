"""A caption in the JSON that models write: in fences, in a list, under another key, with a byte order mark, with raw
line breaks in its strings."""

from __future__ import annotations

import json
import re
from typing import Any

KEYS = ("description", "caption", "text", "answer", "content", "response", "output", "result")
DEEPEST = 4  # objects and lists around a caption
_BEGINS_AS_JSON = re.compile(r"\s*\ufeff?\s*(?:```[ \t]*\w*\s*)?(?:\{\s*\"|\[\s*[{\"\[])")
_HAS_JSON = re.compile(rf"```[ \t]*\w*\s*[{{\[]|\{{\s*\"(?:{'|'.join(KEYS)})\"\s*:", re.IGNORECASE)
_FENCED = re.compile(r"```[ \t]*\w*[ \t]*\n?(.*?)(?:```|$)", re.DOTALL)


def parsed_leniently(text: str) -> Any:
    """The first JSON value in `text`; control characters in its strings are taken, as models write them.

    Raises:
        ValueError: there is none, or it is nested too deeply.
    """
    text = text.strip().lstrip("\ufeff").strip()
    if not text.startswith(("{", "[", '"')) and (fenced := _FENCED.search(text)):
        text = fenced[1].strip()
    begins = [0] if text.startswith('"') else sorted(place for place in (text.find("{"), text.find("[")) if place >= 0)
    for begin in begins:
        try:
            return json.JSONDecoder(strict=False).raw_decode(text, begin)[0]
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        except ValueError:
            continue
    raise ValueError("there is no JSON in it")


def description_in(text: str) -> str:
    """The caption in a model's JSON; "" where the JSON has an empty one.

    Raises:
        ValueError: there is no JSON with a caption in it.
    """
    found = _caption_of(parsed_leniently(text), DEEPEST)
    if found is None:
        raise ValueError("no string in it is a caption")
    return found.strip()


def looks_like_json(text: str) -> bool:
    """Whether an answer is JSON, or has it within chat, and is not prose, which may have a bracket in it."""
    return bool(_BEGINS_AS_JSON.match(text) or _HAS_JSON.search(text))


def _caption_of(value: Any, deepest: int) -> str | None:
    """Of an object the caption under its usual keys, else its longest string; of a list the first that has one."""
    if isinstance(value, str):
        return value
    if not deepest:
        return None
    if isinstance(value, list):
        found = (_caption_of(entry, deepest - 1) for entry in value)
        return next((caption for caption in found if caption is not None), None)
    if not isinstance(value, dict):
        return None
    by_key = {str(key).lower(): entry for key, entry in value.items()}
    for key in KEYS:
        if key in by_key and (caption := _caption_of(by_key[key], deepest - 1)) is not None:
            return caption
    strings = [caption for entry in value.values() if (caption := _caption_of(entry, deepest - 1)) is not None]
    return max(strings, key=len, default=None)
