"""The fields of a job, from the words of a command line: `name=value`, by the types that the server's OpenAPI names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import SettingsError
from ..files import parsed_json
from ..texts import decoded

PREFIX = "/impasto/"


def jobs(document: Mapping[str, Any]) -> dict[str, str]:
    """Name of each job that can be posted -> its summary."""
    return {
        path.removeprefix(PREFIX): methods["post"]["summary"]
        for path, methods in document["paths"].items()
        if "{" not in path and "job_id" in _fields_of(document, methods.get("post", {}))
    }


def of_job(document: Mapping[str, Any], name: str) -> tuple[str, dict[str, Any]]:
    """The path of a job and the schemas of its fields.

    Raises:
        SettingsError: the server knows no such job.
    """
    if name not in (known := jobs(document)):
        raise SettingsError(f"The server has no job '{name}'. It has: {', '.join(known)}.")
    return PREFIX + name, _fields_of(document, document["paths"][PREFIX + name]["post"])


def _fields_of(document: Mapping[str, Any], operation: Mapping[str, Any]) -> dict[str, Any]:
    """The schemas of the fields of a body; none where nothing is said of one."""
    content = operation.get("requestBody", {}).get("content", {})
    if not content:
        return {}
    model = content["application/json"]["schema"]["$ref"].rpartition("/")[2]
    return document["components"]["schemas"][model]["properties"]


def body(words: Sequence[str], schema: Mapping[str, Any], file: str | None = None) -> dict[str, Any]:
    """What is posted.

    Args:
        words: `name=value`; `name.key=value` within an object; `name=@file` for the lines of a file.
        file: of JSON, over which the words go.

    Raises:
        SettingsError: a word is none of these.
        OSError: a file cannot be read.
    """
    asked: dict[str, Any] = {}
    if file is not None:
        try:
            asked = parsed_json(Path(file).read_bytes())
        except ValueError as error:
            raise SettingsError(f"{file} is not JSON: {error}") from error
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise SettingsError(f"'{word}' is no field; write name=value, of: {', '.join(schema)}.")
        name, _, key = name.partition(".")
        if key:
            asked.setdefault(name, {})[key] = _as_json(text)
        else:
            asked[name] = _value(text, schema.get(name, {}))
    return asked


def _value(text: str, schema: Mapping[str, Any]) -> Any:
    """A text as its field takes it; what does not fit is the server's to refuse, which names field and remedy."""
    types = {each.get("type") for each in (schema, *schema.get("anyOf", ()))}
    if text.startswith("@") and "array" in types:
        lines = decoded(Path(text[1:]).read_bytes()).splitlines()
        return [line.strip() for line in lines if line.strip()]
    if "array" in types and not text.startswith("["):
        return [text]
    return text if "string" in types else _as_json(text)


def _as_json(text: str) -> Any:
    try:
        return parsed_json(text)
    except ValueError:
        return text
