"""Keys and addresses of services by name, from the environment or files that only the server's owner can write.

A graph holds names. The keys themselves never enter a graph, a picture's metadata, a log or an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import SettingsError
from ..texts import decoded
from .quota import ProjectLimits

# Only such variables: a name in a graph must not be able to send any other secret of the server anywhere.
_VARIABLE = re.compile(r"(?:GEMINI|GOOGLE)_API_KEY(?:_[A-Za-z0-9_]+)?")
_NAME = re.compile(r"[A-Za-z0-9][\w .-]{0,63}")
# How keys begin. "xai-org" and "fw-…" are people's names too: theirs are keys where a long run follows.
_KEY = re.compile(r"^(?:AIza|AQ\.|sk-|gsk_|hf_|nvapi-|pplx-|(?:xai-|fw_|r8_)[A-Za-z0-9]{20})")
_UUID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", re.IGNORECASE)
_RUN = re.compile(r"[A-Za-z0-9]{28,}")  # without a mark between: a key, a digest, or several words in one
_WORDS = re.compile(r"[A-Z]?[a-z]{3,}|[A-Z]{3,}")
_DIGEST = re.compile(r"(?:snapshots[/\\]|@|sha256[:-])[0-9a-f]{40,64}(?![A-Za-z0-9])")  # as caches and tags name files
LONGEST_MODEL = 300  # characters: servers may list a model by its file's path
SHORTEST_KEY = 8  # characters: what is shorter is a placeholder
# Where local servers listen when nobody changed it. Others are named in the file.
ENDPOINTS = {
    "ollama": "http://127.0.0.1:11434/v1",
    "lm-studio": "http://127.0.0.1:1234/v1",
    "vllm": "http://127.0.0.1:8000/v1",
    "llama.cpp": "http://127.0.0.1:8080/v1",
}


@dataclass(frozen=True)
class Project:
    """One project of a service, which is what it counts requests by."""

    name: str
    key: str = field(repr=False)
    limits: ProjectLimits


@dataclass(frozen=True)
class Endpoint:
    """A server that speaks OpenAI's protocol."""

    name: str
    base_url: str
    key: str = field(repr=False, default="")


def names_in(text: str) -> tuple[str, ...]:
    """Names separated by commas or lines, each once.

    Raises:
        SettingsError: there is none, or one is not a plain name.
    """
    names = tuple(dict.fromkeys(name.strip() for name in re.split(r"[,\n]", text) if name.strip()))
    if not names:
        raise SettingsError("No project is named. Type the name of one, for example GEMINI_API_KEY.")
    for name in names:
        if not _NAME.fullmatch(name) or (_is_like_a_key(name) and not _VARIABLE.fullmatch(name)):
            raise SettingsError(
                f"'{name[:4]}…' is no name of a project: type names, separated by commas, never keys. The keys belong "
                "into environment variables or the server's own file."
            )
    return names


def _is_like_a_key(name: str) -> bool:
    """Whether it begins as keys do, or has a long run in it that is neither words nor the digest of a file."""
    return bool(_KEY.match(name) or _UUID.search(name)) or any(
        not _is_of_words(run) for run in _RUN.findall(_DIGEST.sub("", name))
    )


def _is_of_words(run: str) -> bool:
    """Whether half of the characters are in words with a vowel ("MiniCPMLlama3Int4Quantized"), and few are digits."""
    words = sum(len(word) for word in _WORDS.findall(run) if re.search("[aeiou]", word, re.IGNORECASE))
    return words * 2 >= len(run) and sum(letter.isdigit() for letter in run) * 5 <= len(run)


def _shown(name: str) -> str:
    """A name as an error may say it: one that may be a pasted key only by its beginning."""
    return f"{name[:4]}…" if _is_like_a_key(name) else name


def checked_model(model: str, example: str) -> str:
    """The name of a model, which goes into the ledger, reports and addresses.

    Raises:
        SettingsError: it is empty, longer than 300 characters, or looks like a key, which the text does not repeat.
    """
    if not model.strip() or len(model) > LONGEST_MODEL:
        raise SettingsError(f"The model is empty or too long. Type its name, like {example}.")
    if _is_like_a_key(model.strip()):
        raise _key_as_model()
    return model


def refuse_key(model: str, keys: Sequence[str]) -> None:
    """
    Raises:
        SettingsError: the name of the model has one of the keys in it.
    """
    if without_keys(model, keys) != model:
        raise _key_as_model()


def _key_as_model() -> SettingsError:
    return SettingsError(
        "What stands in 'model' looks like a key and was not used. Type the name of a model, and take the key out of "
        "the graph before you save or share it: keys belong into environment variables or the server's own file."
    )


def read_projects(
    file: Path, names: Sequence[str], defaults: ProjectLimits, environment: Mapping[str, str]
) -> list[Project]:
    """The named projects: from `[projects.<name>]` in `file`, else from the environment variable of that name.

    Raises:
        SettingsError: a name is in neither, its key is missing, or a limit is no number above 0.
    """
    tables = _table(_read_toml(file), "projects", file)
    return [_project(name, tables.get(name), file, defaults, environment) for name in names]


def _project(
    name: str, table: dict[str, Any] | None, file: Path, defaults: ProjectLimits, environment: Mapping[str, str]
) -> Project:
    if table is None:
        key = environment.get(name, "").strip() if _VARIABLE.fullmatch(name) else ""
        if len(key) < SHORTEST_KEY:
            plain = re.fullmatch("[A-Za-z0-9_-]+", name) and not _is_like_a_key(name)
            table_name = name if plain else "mine"
            raise SettingsError(
                f"There is no key for the project '{_shown(name)}'. Set the environment variable GEMINI_API_KEY (or "
                f"GEMINI_API_KEY_<anything>) before ComfyUI starts and type its name, or write into {file}:\n"
                f'[projects.{table_name}]\nkey = "…"'
            )
        return Project(name, _checked_key(key, f"The environment variable {name}"), defaults)
    key = _key(table, file, f"projects.{name}", environment)
    limits = {limit: table.get(limit, getattr(defaults, limit)) for limit in ProjectLimits.__dataclass_fields__}
    for limit, value in limits.items():
        if not isinstance(value, int) or value < 1:
            raise SettingsError(f"{file}: [projects.{name}] {limit} is {value!r}. It must be a whole number above 0.")
    return Project(name, key, ProjectLimits(**limits))


def _key(table: dict[str, Any], file: Path, where: str, environment: Mapping[str, str]) -> str:
    key = table.get("key") or environment.get(str(table.get("key_env", "")), "")
    key = key.strip() if isinstance(key, str) else ""
    if len(key) < SHORTEST_KEY:
        raise SettingsError(
            f'{file}: [{where}] has no key. Write key = "…", or key_env = "NAME" with the environment variable set.'
        )
    place = f"{file}: [{where}]" if table.get("key") else f"The environment variable {table['key_env']}"
    return _checked_key(key, place)


def _checked_key(key: str, place: str) -> str:
    """
    Raises:
        SettingsError: the key has a character that no key has and no request can carry.
    """
    if not key.isascii() or not key.isprintable() or " " in key:
        raise SettingsError(
            f"{place} holds a key with a space, line break or invisible character in it, as copying from a web page or "
            "chat may add. Copy the key again from where it was made."
        )
    return key


def service_url(file: Path) -> str:
    """`base_url` at the top of the file, for a gateway in front of the service; "" for the service's own."""
    url = _read_toml(file).get("base_url", "")
    return _checked_url(url, file) if url else ""


def read_endpoint(file: Path, name: str, environment: Mapping[str, str]) -> Endpoint:
    """The named server: `[endpoints.<name>]` in `file`, or a local one at its usual port.

    Raises:
        SettingsError: nothing bears the name, or its address is none.
    """
    tables = _table(_read_toml(file), "endpoints", file)
    if name in tables:
        table = tables[name]
        has_key = "key" in table or "key_env" in table
        key = _key(table, file, f"endpoints.{name}", environment) if has_key else ""
        return Endpoint(name, _checked_url(table.get("base_url", ""), file), key)
    if name in ENDPOINTS:
        return Endpoint(name, ENDPOINTS[name])
    known = ", ".join(sorted({*tables, *ENDPOINTS}))
    raise SettingsError(
        f"No server is called '{_shown(name)}'. There are: {known}. Another is added by the server's owner in {file}:\n"
        '[endpoints.mine]\nbase_url = "http://192.168.1.5:8000/v1"'
    )


def without_keys(text: str, keys: Sequence[str]) -> str:
    """`text` with every key in it blotted out, whoever put it there."""
    for key in keys:
        if key:
            text = text.replace(key, "…")
    return text


def _checked_url(url: object, file: Path) -> str:
    if not isinstance(url, str) or not re.fullmatch(r"https?://[^\s/?#]+[^\s?#]*", url):
        raise SettingsError(f"{file}: base_url is {url!r}. It must begin with http:// or https://.")
    return url.rstrip("/")


def _table(content: dict[str, Any], name: str, file: Path) -> dict[str, dict[str, Any]]:
    table = content.get(name, {})
    if not isinstance(table, dict) or not all(isinstance(entry, dict) for entry in table.values()):
        raise SettingsError(f"{file}: {name} must be tables, each headed [{name}.<name>].")
    return table


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        import tomllib
    except ModuleNotFoundError:  # before Python 3.11
        import tomli as tomllib
    try:
        return tomllib.loads(decoded(file.read_bytes()))
    except FileNotFoundError:
        return {}
    except tomllib.TOMLDecodeError as error:
        # The parser's own text may quote the line, and a line may be a key.
        where = re.search(r"at line \d+, column \d+", str(error))
        place = f" ({where.group()})" if where else ""
        raise SettingsError(f"{file} is not valid TOML{place}. Put every key in quotes.") from None
    except ValueError as error:
        raise SettingsError(f"{file} cannot be read: {error}.") from None
