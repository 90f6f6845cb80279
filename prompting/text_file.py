"""Reading the text files that people put beside the prompts: sets, wildcards, exports."""

from __future__ import annotations

from pathlib import Path

from ..errors import SettingsError


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, with or without a byte order mark.

    Raises:
        SettingsError: it is not there, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise SettingsError(f"There is no file {path}. Put it there, or name another.") from None
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is not UTF-8 text (at byte {error.start}). Save it again as UTF-8.") from None
