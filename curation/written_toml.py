"""Dataset TOMLs that people wrote for sd-scripts: changed where asked, with their comments and order kept.

Whether a trainer can use what they ask for is for that trainer's own reader.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DatasetError, SettingsError
from ..files import content_hash, write_whole
from ..names import child_of
from .toml import FLUX_TRAINER, NEWER_KEYS, SD_SCRIPTS, TARGETS, DatasetConfig

REWRITTEN = ".impasto-"  # in the name of a rewritten file, which lies beside the one that a person wrote


@dataclass(frozen=True)
class Changes:
    """What is to be different from the file; 0 keeps what it says.

    Raises:
        SettingsError: a value is out of range.
    """

    target: str = SD_SCRIPTS  # one of `toml.TARGETS`
    resolution: int = 0  # pixels
    batch_size: int = 0
    num_repeats: int = 0

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise SettingsError(f"target is '{self.target}'. Choose one of: {', '.join(TARGETS)}.")
        for name in ("resolution", "batch_size", "num_repeats"):
            if getattr(self, name) < 0:
                raise SettingsError(
                    f"{name} is {getattr(self, name)}. Give 1 or more, or 0 to keep what the file says."
                )


def find_toml(root: Path, file: str) -> Path:
    """A TOML under `root`, by names with slashes between them.

    Raises:
        NameRefused: a name is not plain, or a link leads out of the root.
        DatasetError: there is no such file.
    """
    path = child_of(root, *file.strip().split("/"), what="file")
    if path.suffix.lower() != ".toml" or not path.is_file():
        raise DatasetError(f"There is no TOML file '{file}' under {root}. Put it there, and give its name with .toml.")
    return path


def rewrite_dataset_toml(source: Path, changes: Changes) -> DatasetConfig:
    """Write a copy beside `source` in which every image_dir and metadata_file is absolute and `changes` are made.

    A value is changed where the file gives it, whichever level that is; where no level does, in each `[[datasets]]`.

    Raises:
        DatasetError: the file is not TOML, has no datasets, or has keys that the target would refuse.
    """
    import tomlkit

    try:
        document = tomlkit.parse(source.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:  # tomlkit's parse errors and UnicodeDecodeError are ValueErrors
        raise DatasetError(
            f"The dataset config {source} cannot be read: {error}. Correct or write it again."
        ) from error
    datasets = _tables(document, "datasets")
    if not datasets:
        raise DatasetError(f"The dataset config {source} has no [[datasets]]. Add one that has [[datasets.subsets]].")
    subsets = [subset for dataset in datasets for subset in _tables(dataset, "subsets")]
    levels = [*([document["general"]] if "general" in document else []), *datasets, *subsets]
    for name in ("resolution", "batch_size", "num_repeats"):
        if value := getattr(changes, name):
            _change(name, value, levels, datasets)
    for subset in subsets:
        for name in ("image_dir", "metadata_file"):
            if name in subset:
                subset[name] = (source.parent / str(subset[name])).as_posix()
    if changes.target == FLUX_TRAINER:
        _suit_flux_trainer(source, levels, datasets)
    text = tomlkit.dumps(document)
    stem = source.stem.partition(REWRITTEN)[0]
    path = source.with_name(f"{stem}{REWRITTEN}{content_hash(text, 8)}.toml")
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_whole(path, text)
    return DatasetConfig(str(path), content_hash(text))


def _tables(table: Any, name: str) -> list[Any]:
    found = table.get(name, [])
    return [entry for entry in found if hasattr(entry, "items")] if isinstance(found, list) else []


def _change(name: str, value: int, levels: list[Any], datasets: list[Any]) -> None:
    holders = [level for level in levels if name in level]
    for level in holders:
        level[name] = value
    for dataset in datasets:
        above = levels[0] is not datasets[0] and name in levels[0]
        below = _tables(dataset, "subsets")
        if name not in dataset and not above and not (below and all(name in subset for subset in below)):
            dataset[name] = value


def _suit_flux_trainer(source: Path, levels: list[Any], datasets: list[Any]) -> None:
    """FluxTrainer reads the resolution of the first dataset itself, as a list, and refuses keys newer than its copy."""
    newer = next((name for level in levels for name in NEWER_KEYS if name in level), None)
    if newer:
        raise DatasetError(
            f"The dataset config {source} has the key {newer}, which the sd-scripts of February 2025 that FluxTrainer "
            "carries would refuse. Remove it from the file, or choose the target sd-scripts."
        )
    general = levels[0] if levels[0] is not datasets[0] else {}
    for dataset in datasets:
        side = dataset.get("resolution", general.get("resolution"))
        if isinstance(side, int):
            side = [side, side]
        if side is not None:
            dataset["resolution"] = list(side)
