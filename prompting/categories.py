"""Prompts by category: text files with a prompt a line, shipped with the pack and from the first use on the owner's.

The shipped files are copied into a folder of the owner once. From then on that folder alone counts: what is changed,
added or deleted there stays so. Deleting the folder brings the shipped ones back.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from ..errors import SettingsError
from ..files import appearing, content_hash
from .text_file import read_text

SHIPPED = Path(__file__).with_name("categories")


def names(folder: Path) -> list[str]:
    """The categories that there are, or will be once the folder is made."""
    return sorted(path.stem for path in _files(folder if folder.is_dir() else SHIPPED))


def fingerprint(folder: Path, category: str) -> str:
    """Changes with the prompts of a category. Raises what `prompts_of` raises."""
    return content_hash(_lines(folder if folder.is_dir() else SHIPPED, category))


def prompts_of(folder: Path, category: str, count: int = 0, seed: int = 0) -> str:
    """Prompts of a category, one a line, in the order of its file.

    Args:
        folder: the owner's; made with what is shipped where there is none.
        count: how many, chosen by `seed`; 0, or more than there are, for all.

    Raises:
        SettingsError: there is no such category, or its file cannot be read.
        DiskError: the folder cannot be made.
    """
    if not folder.is_dir():
        with appearing(folder) as partial:
            shutil.copytree(SHIPPED, partial)
    lines = _lines(folder, category)
    if 0 < count < len(lines):
        chosen = set(random.Random(seed).sample(range(len(lines)), count))
        lines = [line for place, line in enumerate(lines) if place in chosen]
    return "\n".join(lines)


def _lines(folder: Path, category: str) -> list[str]:
    files = {path.stem: path for path in _files(folder)}
    if category not in files:
        known = ", ".join(sorted(files)) or "none yet"
        raise SettingsError(f"There is no category of prompts '{category[:100]}' in {folder}. There are: {known}.")
    lines = (line.strip() for line in read_text(files[category]).split("\n"))
    return [line for line in lines if line and not line.startswith("#")]


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.glob("*.txt") if path.is_file() and not path.name.startswith("."))
