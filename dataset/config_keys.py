"""The keys of sd-scripts' schema for which the Dataset TOML Writer has no input of its own, as lines of TOML.

Their levels and types are the same in kohya-ss/sd-scripts 48d368f and in the older copy of kijai/ComfyUI-FluxTrainer.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from ..errors import SettingsError
from ..texts import one_line
from .config_schema import KEYS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_OF_A_DATASET = {key.name: key for key in KEYS if key.line and key.of_dataset}
_OF_A_SUBSET = {key.name: key for key in KEYS if key.line and not key.of_dataset}
_ALLOWED = _OF_A_DATASET | _OF_A_SUBSET
_EXAMPLES = {float: "a number with a point, like 0.5", str: "text in quotes", bool: "true or false", dict: "{name = 1}"}
_REFUSED = {key.name: key.not_in_graph for key in KEYS if key.not_in_graph}
_REFUSED |= dict.fromkeys(("general", "datasets", "subsets"), "Give the keys alone, without a table around them.")


@dataclass(frozen=True)
class MoreKeys:
    """Keys with their values, by the scope that they are written in."""

    of_dataset: dict[str, Any]
    of_subset: dict[str, Any]


def read_more_keys(text: str, inputs: Collection[str]) -> MoreKeys:
    """Read lines like `class_tokens = "a painting"`.

    Args:
        text: TOML without tables, except `custom_attributes`.
        inputs: names that have an input of their own.

    Raises:
        SettingsError: it is not TOML, or a key is unknown, misplaced, refused, with an input of its own, or of another
            type than sd-scripts takes.
    """
    try:
        text.encode()
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # half a character, TOMLDecodeError, a number of too many digits
        raise SettingsError(
            f'more_keys is not TOML ({error}). Write one key in a line, for example: class_tokens = "a painting"'
        ) from error
    for name, value in content.items():
        _check(name, value, inputs)
    return MoreKeys(
        *({name: content[name] for name in scope if name in content} for scope in (_OF_A_DATASET, _OF_A_SUBSET))
    )


def _check(name: str, value: Any, inputs: Collection[str]) -> None:
    given = f"{name} = {value!r} in more_keys"
    if name in inputs:
        raise SettingsError(f"{given} has an input of its own. Set {name} there, and remove the line.")
    if name in _REFUSED:
        raise SettingsError(f"{given} is refused. {_REFUSED[name]}")
    if name not in _ALLOWED:
        raise SettingsError(f"{given} is no key that sd-scripts knows here. Use: {', '.join(_ALLOWED)}.")
    wanted = _ALLOWED[name].kind  # sd-scripts takes no whole number for a float
    if type(value) is not wanted or not _plain(value):
        raise SettingsError(f"{given} is of a type that sd-scripts would refuse. Give {_EXAMPLES[wanted]}.")
    if name == "class_tokens" and (not value or value != one_line(value)):
        raise SettingsError(f"{given} is not one line of words. It is the caption of pictures without one.")


def _plain(value: Any) -> bool:
    """Whether every TOML reader has it, toml 0.10 of sd-scripts too: no dates, no lists of several types or of
    tables, no nan."""
    if isinstance(value, dict):
        return all(map(_plain, value.values()))
    if isinstance(value, list):
        return len({type(entry) for entry in value}) < 2 and not any(
            isinstance(e, dict | list) or not _plain(e) for e in value
        )
    return isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value))
