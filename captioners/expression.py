"""Regular expressions that a stranger may have typed: small once compiled, and ended when matching takes too long."""

from __future__ import annotations

import functools
import math
import re
from typing import TYPE_CHECKING

from ..errors import SettingsError

if TYPE_CHECKING:
    import regex

MAX_LENGTH = 1_000  # characters of an expression
MAX_REPEAT = 10_000  # the largest number in braces; a caption has at most so many characters
MAX_EXPANDED = 20_000  # characters, with every repetition written out: `regex` compiles a{1000} into a thousand a's
_KEPT = 200  # compiled expressions; of `MAX_EXPANDED` characters one takes up to 4 MB
_REPEAT = re.compile(r"\{(\d*)(?:,(\d*))?")


@functools.lru_cache(_KEPT)
def compiled(pattern: str) -> regex.Pattern:
    """The expression, ready to match.

    Raises:
        SettingsError: it is invalid, too long, nested too deeply, or its repetitions would fill the memory.
    """
    import regex

    _check_size(pattern)
    try:
        return regex.compile(pattern, cache_pattern=False)
    except RecursionError:
        raise SettingsError(f"The expression '{pattern[:40]}…' is nested too deeply. Use fewer brackets.") from None
    except (regex.error, ValueError, OverflowError) as error:  # ValueError: flags that exclude each other
        raise SettingsError(f"The expression '{pattern[:60]}' is no valid regular expression: {error}.") from None


def _check_size(pattern: str) -> None:
    """Refuse what compiles into much more than it is; counted too high where braces are not repetitions.

    Brackets are not looked at: every repetition is taken to lie within every other, which no trick of syntax can evade.
    """
    if len(pattern) > MAX_LENGTH:
        raise SettingsError(
            f"The expression '{pattern[:40]}…' has {len(pattern)} characters. Use at most {MAX_LENGTH:,}."
        )
    # with the flag (?x) spaces may stand between the digits
    repeats = _REPEAT.findall("".join(pattern.split()))
    largest = max((len(digits), digits) for repeat in [*repeats, ("", "")] for digits in repeat)[1]
    if len(largest) > len(str(MAX_REPEAT)) or int(largest or 0) > MAX_REPEAT:
        raise SettingsError(
            f"The expression '{pattern[:60]}' repeats something {largest[:20]} times. Write at most {MAX_REPEAT:,} in "
            "braces, or '+' or '*' for any number."
        )
    expanded = len(pattern) * math.prod(max(int(least or 0), 1) for least, _ in repeats)
    if expanded > MAX_EXPANDED:
        raise SettingsError(
            f"The expression '{pattern[:60]}' would have {expanded:.3g} characters with its repetitions written out, "
            f"and may have {MAX_EXPANDED:,}. Repeat less often, or write '+' or '*' for any number."
        )
