"""What a sweep may try, as people write it: a line a setting, with its values or the numbers it lies between."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import SettingsError
from .settings import Settings

SWEPT = (
    *("rank", "alpha", "learning_rate", "optimizer", "targets", "block_ranks", "weight_decay", "lora_dropout"),
    *("caption_dropout", "warmup_steps", "timestep_sampling", "timestep_mean", "timestep_scale", "ema_decay", "dora"),
)
AS_RANK = "rank"  # as a value of alpha: whatever the rank is
LOGARITHMIC = {"learning_rate", "weight_decay"}

Value = int | float | str | bool


@dataclass(frozen=True)
class Between:
    """All numbers from `low` to `high`."""

    low: float
    high: float
    whole: bool
    logarithmic: bool


Axis = tuple[Value, ...] | Between


def read_space(text: str) -> dict[str, Axis]:
    """What a person typed: a line a setting, "rank: 4, 16" or "learning_rate: 1e-5 to 1e-3".

    Values that hold commas stand between upright lines: "block_ranks: | single 2-3: 16; rest: 0".

    Raises:
        SettingsError: a line cannot be read, or names a setting that cannot be swept.
    """
    space: dict[str, Axis] = {}
    for line in text.splitlines():
        if not line.strip():
            continue
        name, colon, values = (part.strip() for part in line.partition(":"))
        if not colon or name not in SWEPT:
            raise SettingsError(
                f"'{line.strip()[:80]}' cannot be swept. Write a line for each setting, its name, a colon and its "
                f"values, as in 'rank: 4, 16'. There are: {', '.join(SWEPT)}."
            )
        if name in space:
            raise SettingsError(f"{name} stands in two lines. Put its values into one.")
        space[name] = _axis(name, values)
    if not space:
        raise SettingsError("There is nothing to try. Write a line for each setting, as in 'rank: 4, 16'.")
    return space


def _axis(name: str, text: str) -> Axis:
    if ends := re.fullmatch(r"(\S+)\s+to\s+(\S+)", text):
        kind = _kind(name)
        low, high = (_value(name, end) for end in ends.groups())
        if (
            kind not in (int, float)
            or not isinstance(low, int | float)
            or not isinstance(high, int | float)
            or low >= high
        ):
            raise SettingsError(
                f"{name}: '{text[:60]}' is no range. Write the smaller number first, as in '1e-5 to 1e-3'."
            )
        return Between(low, high, kind is int, name in LOGARITHMIC and low > 0)
    separator = "|" if "|" in text else ","
    values = tuple(dict.fromkeys(_value(name, word.strip()) for word in text.split(separator) if word.strip()))
    if not values:
        raise SettingsError(f"{name} has no values. Write some behind the colon, with commas between.")
    return values


def _kind(name: str) -> type:
    default = getattr(Settings, name)
    return type(default)


def _value(name: str, word: str) -> Value:
    kind = _kind(name)
    if name == "alpha" and word == AS_RANK:
        return AS_RANK
    try:
        value: Value = {"true": True, "false": False}[word.lower()] if kind is bool else kind(word)
        settings_of(Settings(), {name: value})
    except (ValueError, KeyError) as error:
        raise SettingsError(f"{name}: '{word[:60]}' is no value of it. Give {kind.__name__} values.") from error
    except SettingsError as error:
        raise SettingsError(f"{name}: {error}") from error
    return value


def settings_of(base: Settings, chosen: Mapping[str, Value]) -> Settings:
    """`base` with what was chosen in its place."""
    changes: dict[str, Any] = dict(chosen)
    if changes.get("alpha") == AS_RANK:
        changes["alpha"] = float(changes.get("rank", base.rank))
    return dataclasses.replace(base, **changes)


def points(space: Mapping[str, Axis]) -> list[dict[str, Value]]:
    """Every combination of single values."""
    found: list[dict[str, Value]] = [{}]
    for name, axis in space.items():
        found = [{**point, name: value} for point in found for value in (axis if isinstance(axis, tuple) else ())]
    return found
