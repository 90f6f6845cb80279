"""Which ComfyUI this is, and whether the pack can run in it."""

from __future__ import annotations

import re

from ...errors import ImpastoError

LEAST = (0, 30, 0)


def check() -> None:
    """Refuse a ComfyUI that is older than the pack was written for; one that does not say its version is let through.

    Raises:
        ImpastoError: it is older.
    """
    version = known()
    if version and tuple(map(int, re.findall(r"\d+", version)[:3])) < LEAST:
        raise ImpastoError(sentence(f"this one is {version}"))


def known() -> str:
    """The version as ComfyUI says it; "" where it does not."""
    try:
        from comfyui_version import __version__
    except ImportError:
        return ""
    return str(__version__)


def sentence(found: str) -> str:
    least = ".".join(map(str, LEAST))
    return f"Impasto needs ComfyUI {least} or newer, and {found}. Update ComfyUI and start it again."
