"""What there is to know of a key of a dataset config; the keys themselves are in `config_schema`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Any

SD_SCRIPTS = "sd-scripts"
FLUX_TRAINER = "FluxTrainer"  # kijai/ComfyUI-FluxTrainer 639b3e8 carries sd-scripts of February 2025
TARGETS = (SD_SCRIPTS, FLUX_TRAINER)

# Where a key may stand; a value holds for what lies below it.
DATASET = "dataset"  # [general] and [[datasets]]
SUBSET = "subset"  # those, and [[datasets.subsets]]
SUBSET_ALONE = "subset alone"  # [[datasets.subsets]]

# What a key is part of, besides its dataset or subset.
BUCKETS = "buckets"
CAPTIONS = "captions"
PICTURES = "pictures"

_SAME = object()


@dataclass(frozen=True)
class Widget:
    """How the Dataset TOML Writer asks for a key.

    Attributes:
        tooltip: what it does, for a person.
        offered: least, most and step of a number; where it is None, the bounds of the key, by hundredths.
        default: where it is not the writer's.
        optional: what the node did not have from the beginning, so that old API calls stay as they are.
    """

    tooltip: str
    offered: tuple[float, float, float] | None = None
    default: Any = None
    advanced: bool = True
    optional: bool = True


@dataclass(frozen=True)
class Key:
    """A key of the schema.

    Attributes:
        kind: of its value. A whole number is taken for a float, as TOML's readers do.
        default: sd-scripts'; None where it has none, or leaves it to its command line.
        level: DATASET, SUBSET or SUBSET_ALONE.
        part: BUCKETS, CAPTIONS or PICTURES, or nothing.
        caption_files: only where captions are files beside the pictures, not with a metadata_file.
        or_pair: a list is taken too, of width and height.
        path: a file or folder; a relative one starts at the folder of the config.
        choices: what a text may be.
        least, most: what a number may be. `most` is 1, of a share, or None.
        frozen_by: the cache under which it could not change from step to step, `cached_text` or `cached_latents`.
        same_in_a_batch: sd-scripts asserts that the pictures of a batch agree in it (train_util.py,
            get_item_for_caching).
        refused: why our own trainer takes no other value than the default, and what to do instead.
        idle: without effect on what is trained, in sd-scripts as here.
        known_to: which of TARGETS have it.
        told: how a report names a subset that has it, with its value for {}.
        widget: its input; None where a graph gives it otherwise or not at all.
        line: a graph gives it as a line of more_keys.
        not_in_graph: why a graph may not give it, and what to do instead.
        writers: what the Dataset TOML Writer writes where it is not told otherwise; `default` unless given.
        always: it is written even where the value is the writer's own.
        in_dataset: it is written into [[datasets]], though a subset may have it too.
        only_with: it is written only where that other key is.
    """

    name: str
    kind: type
    default: Any = None
    level: str = DATASET
    part: str = ""
    caption_files: bool = False
    or_pair: bool = False
    path: bool = False
    choices: tuple[str, ...] = ()
    least: int | None = None
    most: int | None = None
    frozen_by: str = ""
    same_in_a_batch: bool = False
    refused: str = ""
    idle: bool = False
    known_to: tuple[str, ...] = TARGETS
    told: str = ""
    widget: Widget | None = None
    line: bool = False
    not_in_graph: str = ""
    writers: Any = _SAME
    always: bool = False
    in_dataset: bool = False
    only_with: str = ""

    @property
    def types(self) -> tuple[type, ...]:
        """Those that a value may have, the usual one first."""
        return (self.kind, *([int] if self.kind is float else []), *([list] if self.or_pair else []))

    @property
    def written_default(self) -> Any:
        return self.default if self.writers is _SAME else self.writers

    @property
    def of_dataset(self) -> bool:
        """Whether it is written into [[datasets]]."""
        return self.level == DATASET or self.in_dataset

    @property
    def offered(self) -> tuple[float, float, float]:
        """Least, most and step of a number with a widget."""
        return self.widget.offered or (self.least, self.most, 0.01)


def frozen_fields(name: str, keys: Iterable[Key], writers: bool = False) -> Any:
    """A frozen dataclass that has each key as a field, for a class to inherit; they are given by name.

    Args:
        writers: the defaults are the writer's instead of sd-scripts'.
    """
    rows = [
        (
            key.name,
            Path | None if key.path else key.kind,
            field(default=key.written_default if writers else key.default),
        )
        for key in keys
    ]
    return make_dataclass(name, rows, frozen=True, kw_only=True)
