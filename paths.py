"""Names given by people, turned into paths that cannot leave their root.

Widget values are untrusted: ComfyUI has no login, and anyone who reaches its port can queue a graph.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from .errors import NameRefused

MAX_NAME_LENGTH = 100  # characters
MAX_NAME_BYTES = 200  # leaves room for revisions, hashes and suffixes under the usual 255-byte limit
_ALLOWED = re.compile(r"[\w][\w .+-]*", re.UNICODE)
# Device names that Windows resolves whatever the folder and the extension.
_RESERVED = {"CON", "PRN", "AUX", "NUL"} | {f"{port}{n}" for port in ("COM", "LPT") for n in range(1, 10)}


def checked_name(name: str, what: str = "name", longest: int = MAX_NAME_LENGTH) -> str:
    """Return `name` stripped, if it can be one folder or file name on every system.

    Args:
        name: what the person typed.
        what: how the error calls it, for example "dataset name".
        longest: characters; names that the pack itself builds from a person's may be longer.

    Raises:
        NameRefused: empty, longer than 100 characters, a path, a reserved device name, or with characters other than
            letters, digits, space and ``_ . + -`` (the first a letter, digit or underscore).
    """
    stripped = name.strip()
    if not stripped:
        raise NameRefused(f"The {what} is empty. Type a name, for example 'monet-gardens'.")
    if len(stripped) > longest or len(stripped.encode(errors="replace")) > MAX_NAME_BYTES:
        raise NameRefused(
            f"The {what} '{stripped[:40]}…' is too long ({len(stripped)} characters). Use at most {longest}, "
            "and fewer where they are not Latin letters."
        )
    if not _ALLOWED.fullmatch(stripped) or ".." in stripped or stripped.endswith("."):
        raise NameRefused(
            f"The {what} '{stripped}' cannot be used: it must be a plain name, not a path. "
            "Use letters, digits, spaces, '_', '-', '+' and single dots, starting with a letter or digit."
        )
    if stripped.split(".")[0].strip().upper() in _RESERVED:
        raise NameRefused(f"The {what} '{stripped}' is a reserved device name on Windows. Choose another.")
    return stripped


def child_of(root: str | Path, *names: str, what: str = "name", longest: int = MAX_NAME_LENGTH) -> Path:
    """Join checked names to `root` and return the real path, which lies inside `root` even through symbolic links.

    Raises:
        NameRefused: a name is not plain, or a symbolic link on the way leads out of `root`.
    """
    base = Path(os.path.realpath(root))
    path = Path(os.path.realpath(base.joinpath(*(checked_name(name, what, longest) for name in names))))
    if not path.is_relative_to(base) or path == base:
        raise NameRefused(
            f"The {what} '{'/'.join(names)}' leads to {path}, outside {base}. Remove that link, or choose another name."
        )
    return path
