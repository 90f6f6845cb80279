"""The wildcard files that people keep: lines of text, or lists in YAML and JSON as dynamicprompts and Impact Pack read
them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import SettingsError
from ..files import parsed_json
from ..texts import cleaned, one_line
from .text_file import read_text

MOST_VALUES = 1_000_000  # of one file: YAML can repeat a list by a mark, and what is repeated again
_STRUCTURED = (".yaml", ".yml", ".json")
_WORDS = ("text", "content")  # of a value with a weight of its own, {text: red, weight: 2}


def read_wildcards(folder: str | Path) -> dict[str, tuple[str, ...]]:
    """The files under `folder` as wildcards, by their names with "/" between folders; a name in several has all values.

    A .txt file is one: a value a line, without empty lines and lines that open with '#'. In .yaml, .yml and .json each
    list is one, by the keys that lead to it, whatever the file is called; a file that is one list bears its own name.

    Raises:
        SettingsError: a file is not UTF-8, or not what its ending says; the text names it, with the place.
    """
    root = Path(folder)
    found: dict[str, list[str]] = {}
    for path in sorted(root.rglob("*")):
        ending = path.suffix.lower()
        if ending not in (".txt", *_STRUCTURED) or not path.is_file():
            continue
        name = path.relative_to(root).with_suffix("").as_posix()
        if ending == ".txt":
            found.setdefault(name, []).extend(_lines(read_text(path)))
        else:
            for key, value in _structured(path, ending):
                values = found.setdefault(key or name, [])
                values += [value] if value else []
    return {name: tuple(values) for name, values in found.items()}


def _lines(content: str) -> Iterator[str]:
    lines = (line.strip() for line in content.split("\n"))
    return (line for line in lines if line and not line.startswith("#"))


def _structured(path: Path, ending: str) -> list[tuple[str, str]]:
    """The wildcard and the value of each value in a file, the wildcard "" where no key leads to it; an empty list has
    one value, ""."""
    import yaml

    text = read_text(path)
    try:
        # As text throughout: YAML would make truth of "no" and a number of "1e3".
        loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
        content = parsed_json(text) if ending == ".json" else yaml.load(text, loader)
        found = []
        for pair in _values(content, (), path):
            found.append(pair)
            if len(found) > MOST_VALUES:
                raise SettingsError(f"The wildcard file {path} has more than {MOST_VALUES:,} values. Split it.")
        return found
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SettingsError(
            f"The wildcard file {path} cannot be read ({one_line(str(error)) or type(error).__name__}). In YAML, put a "
            "value into quotes that has ': ' in it or begins with one of { [ & * ! % @ `."
        ) from None


def _values(content: Any, keys: tuple[str, ...], path: Path) -> Iterator[tuple[str, str]]:
    name = "/".join(keys)
    if isinstance(content, Mapping):
        for key, below in content.items():
            yield from _values(below, (*keys, cleaned(str(key)).strip()), path)
    elif isinstance(content, list):
        if not content:
            yield name, ""
        for number, entry in enumerate(content, start=1):
            yield name, _value(entry, f"Value {number} of '{name}' in the wildcard file {path}")
    elif content not in (None, ""):
        yield from ((name, line) for line in _lines(cleaned(str(content))))


def _value(entry: Any, place: str) -> str:
    """A value as a line of a text file has it."""
    if isinstance(entry, Mapping):
        text = next((entry[word] for word in _WORDS if isinstance(entry.get(word), str)), None)
        if text is not None and entry.keys() <= {*_WORDS, "weight"}:
            return f"{entry['weight']}::{_value(text, place)}" if "weight" in entry else _value(text, place)
    if isinstance(entry, Mapping | list):
        raise SettingsError(f"{place} is {str(entry)[:60]}, not a text. Put it into quotes.")
    return "" if entry is None else cleaned(str(entry)).strip()
