"""Reading the text files that people put beside the prompts: sets, wildcards, exports."""

from __future__ import annotations

from pathlib import Path

from ..errors import SettingsError
from ..texts import decoded


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, with or without a byte order mark, or in UTF-16 with one.

    Raises:
        SettingsError: it is not there, or is in another encoding.
    """
    try:
        return decoded(path.read_bytes(), utf_16=True).replace("\r", "\n")
    except FileNotFoundError:
        raise SettingsError(f"There is no file {path}. Put it there, or name another.") from None
    except ValueError as error:
        raise SettingsError(f"{path} cannot be read: {error}.") from None
