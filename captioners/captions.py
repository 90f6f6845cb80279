"""What a caption is: one line, never empty, with the trigger word in front when it has one."""

from __future__ import annotations

import unicodedata

from ..errors import SettingsError

MAX_TRIGGER_LENGTH = 100  # characters; CLIP reads 77 tokens in all, and the caption needs most of them


def checked_trigger_word(trigger_word: str) -> str:
    """The trigger word without space and commas around it; "" for none.

    Raises:
        SettingsError: it has more than one line or control characters, or is longer than 100 characters.
    """
    stripped = trigger_word.strip(" ,\t")
    if any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in stripped):
        raise SettingsError(
            f"The trigger word {stripped!r} has a line break or control character. "
            "Type one short line, like 'mntgrdn style'."
        )
    if len(stripped) > MAX_TRIGGER_LENGTH:
        raise SettingsError(
            f"The trigger word '{stripped[:40]}…' has {len(stripped)} characters. Use at most {MAX_TRIGGER_LENGTH}; "
            "one rare word is enough."
        )
    return stripped


def with_trigger(trigger_word: str, caption: str) -> str:
    """`<trigger word>, <caption>`, or the caption alone where there is no trigger word."""
    return f"{trigger_word}, {caption}" if trigger_word else caption


def without_trigger(caption: str, trigger_word: str) -> str:
    """The caption behind a trigger word that stands before it already."""
    return caption.removeprefix(with_trigger(trigger_word, "")) if trigger_word else caption
