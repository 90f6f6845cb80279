"""The errors Impasto raises. Each text names the thing, its value and the remedy: it is all that the person sees."""

import math
import re

LONGEST = 3_000  # characters of an error: what somebody typed may be a million
_END = 1_000  # of them from its end, where the remedy is
_HALVES = re.compile(r"[\ud800-\udfff]")
_NOT_WRITABLE = re.compile(r"[\ud800-\udfff\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]|\r(?!\n)")


def encodable(text: str) -> str:
    r"""`text` as UTF-8 can hold it: half a character as its escape, `\ud83d`, and of a file name that is not UTF-8 the
    byte, `\xe9`, which Python has as a surrogate of its own (PEP 383)."""
    return _HALVES.sub(_escaped, text)


def writable(text: str) -> str:
    """`encodable`, and without control characters, which would move a terminal's cursor or begin a line of a log."""
    return _NOT_WRITABLE.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


class ImpastoError(Exception):
    """Base of every error that a person can mend; its text can be written on any stream of UTF-8.

    Of a text that is too long to be read, the middle is left out.
    """

    # ComfyUI's page shows an error's class behind its module, and the pack's is the folder that it lies in.
    __module__ = "builtins"

    def __init_subclass__(cls) -> None:
        cls.__module__ = "builtins"

    def __init__(self, text: str = "") -> None:
        told = writable(text)
        super().__init__(told if len(told) <= LONGEST else f"{told[: LONGEST - _END]} … {told[-_END:]}")


class NameRefused(ImpastoError):
    """A name given in a widget would leave its root, or is not usable as a file name."""


class DiskError(ImpastoError):
    """A file could not be written: the disk is full or read-only, or the system refuses. What was there before stays.

    Attributes:
        errno: the system's number, as `OSError` has it; 0 where a library did not pass it on.
    """

    def __init__(self, text: str = "", errno: int = 0) -> None:
        super().__init__(text)
        self.errno = errno


class SettingsError(ImpastoError):
    """A setting is out of its range or contradicts another."""


class DatasetError(ImpastoError):
    """A dataset, its source or its configuration cannot be used as it is."""


class ModelError(ImpastoError):
    """A model's weights are missing, of another architecture, or unreadable."""


class FeatureError(ImpastoError):
    """Cached latents or text embeddings are missing, incomplete or of another shape."""


class TrainingError(ImpastoError):
    """Training could not start, go on or finish. What was saved before is kept."""


class CaptionError(ImpastoError):
    """A captioner cannot be used as it is, or had to stop. What it said before is in the ledger."""


def check_finite(**values: float) -> None:
    """Raise SettingsError for the first of the named values that is no finite number: comparisons let NaN through."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise SettingsError(f"{name} is {value}. It must be a finite number.")
