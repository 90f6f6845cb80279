"""Where the nodes of prompts keep what belongs to the server's owner: library, files and wildcards."""

from __future__ import annotations

from pathlib import Path

from ..prompting.library import Library
from ..prompting.wildcard_files import read_wildcards
from .host import folders

CATEGORY = "Impasto/Prompts"


def prompt_library() -> Library:
    return Library(folders.user_root() / "prompts.sqlite")


def prompts_folder() -> Path:
    return folders.user_root() / "prompts"


def categories_folder() -> Path:
    return prompts_folder() / "categories"


def wildcards() -> dict[str, tuple[str, ...]]:
    return read_wildcards(folders.user_root() / "wildcards")
