"""The text of a dataset config that a person wrote: read whatever an editor did to it, or named with what is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ..errors import DatasetError
from ..texts import decoded
from .config_schema import KEYS

Document = TypeVar("Document")

_MUSUBI_KEYS = (
    *("image_directory", "video_directory", "image_jsonl_file", "video_jsonl_file"),
    *("cache_directory", "control_directory"),
)
_DIFFUSION_PIPE_KEYS = (
    *("directory", "resolutions", "enable_ar_bucket", "ar_buckets", "frame_buckets"),
    *("pipeline_stages", "micro_batch_size_per_gpu"),  # of its settings, which lead to the dataset's own file
)
_PATHS = "|".join([*(key.name for key in KEYS if key.path), *_MUSUBI_KEYS])
_QUOTED_PATH = re.compile(rf'^[^#\n]*?\b({_PATHS})\s*=\s*"((?:\\.|[^"\\\n])+)', re.MULTILINE)
# Two backslashes, quotes and numbered letters are what may stand in a path; \t and \n are in none that a person means.
_ESCAPE = re.compile(r"\\(?!u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8})(.)")


def read_config(source: Path, parse: Callable[[str], Document]) -> Document:
    """The TOML at `source` as `parse` has it, which raises ValueError where it is none.

    Raises:
        DatasetError: it cannot be read, is no UTF-8, or is not TOML; or a path has backslashes that TOML takes for
            something else. The text says where and how to mend it.
    """
    try:
        text = decoded(source.read_bytes())
        _refuse_lone_backslashes(text)
        return parse(text)
    except (OSError, ValueError) as error:  # the parse errors of tomllib and tomlkit are ValueErrors
        raise DatasetError(
            f"The dataset config {source} cannot be read: {error}. Correct or write it again."
        ) from error


def _refuse_lone_backslashes(text: str) -> None:
    for found in _QUOTED_PATH.finditer(text):
        name, path = found.groups()
        unclosed = path.endswith('\\"') and text[found.end() : found.end() + 1] != '"'
        if unclosed or any(escape[1] not in '\\"' for escape in _ESCAPE.finditer(path)):
            line = text.count("\n", 0, found.start(1)) + 1
            plain = path.rstrip('"')
            raise ValueError(
                f'line {line} has {name} = "{plain}" with backslashes, which TOML takes in double quotes for the '
                f"beginning of a special character (\\t is a tab, \\n a new line). Write it with slashes, {name} = "
                f"\"{plain.replace(chr(92), '/')}\", or in single quotes, {name} = '{plain}'"
            )


def refuse_other_trainers(content: dict[str, Any]) -> None:
    """
    Raises:
        DatasetError: it is a dataset config of musubi-tuner or diffusion-pipe, which are TOML too.
    """
    tables = [content.get("general"), *(content["datasets"] if isinstance(content.get("datasets"), list) else [])]
    named = {name for table in tables if isinstance(table, dict) for name in table}
    for trainer, found, remedy in (
        (
            "musubi-tuner",
            [name for name in _MUSUBI_KEYS if name in named],
            "Give each image_directory as image_dir in a [[datasets.subsets]] of its [[datasets]], with "
            "caption_extension beside it, and leave cache_directory out.",
        ),
        (
            "diffusion-pipe",
            [name for name in _DIFFUSION_PIPE_KEYS if name in content],
            "Write a [[datasets]] with one resolution, and under it a [[datasets.subsets]] for each [[directory]], "
            'with its path as image_dir, its num_repeats and caption_extension = ".txt".',
        ),
    ):
        if found:
            raise DatasetError(
                f"it is a config of {trainer} ({found[0]}), not of sd-scripts, whose schema is read here. {remedy}"
            )
