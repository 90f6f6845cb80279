"""Dataset TOMLs that people wrote for sd-scripts: changed where asked, with their comments and order kept.

Whether a trainer can use what they ask for is for that trainer's own reader.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DatasetError, SettingsError
from ..files import content_hash, write_changed
from ..paths import Roots, as_listed, choice, existing_child, told
from .config_schema import BY_NAME, KEYS
from .config_text import read_config
from .config_writer import DatasetConfig
from .other_trainers import as_sd_scripts, is_of_another_trainer
from .schema_key import FLUX_TRAINER, SD_SCRIPTS, TARGETS

if TYPE_CHECKING:
    import tomlkit

# Beside the pictures, but no input of training: configs, our copies of them, and what trainers cache.
_NOT_READ = (".toml", ".npz", ".safetensors")

OF_A_FOLDER = "dataset"  # what the config of a tree of pictures is called, which lies in it
REWRITTEN = ".impasto-"  # in the name of a rewritten file, which lies beside the one that a person wrote


@dataclass(frozen=True)
class Changes:
    """What is to be different from the file; 0 keeps what it says.

    Raises:
        SettingsError: a value is out of range.
    """

    target: str = SD_SCRIPTS  # one of `schema_key.TARGETS`
    resolution: int = 0  # pixels
    batch_size: int = 0
    num_repeats: int = 0

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise SettingsError(f"target is '{self.target}'. Choose one of: {', '.join(TARGETS)}.")
        for name, value in self.values.items():
            if value < 0:
                raise SettingsError(f"{name} is {value}. Give 1 or more, or 0 to keep what the file says.")

    @property
    def values(self) -> dict[str, int]:
        """Key of the schema -> what it is to be."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name in BY_NAME}


def find_toml(root: Roots, file: str) -> Path:
    """A TOML under `root`, by names with slashes between them; or a folder or JSON file that `other_trainers` reads.

    Raises:
        NameRefused: a name is none, or a link leads out of the root.
        DatasetError: there is no such file.
    """
    names = file.strip().rstrip("/").split("/")
    path = existing_child(root, *names, what="file")
    if path and (path.is_dir() or (path.suffix.lower() in (".toml", ".json") and path.is_file())):
        return path
    remedy = choice(root, names, ".toml", ".json", otherwise="Put it there, and give its name with .toml.")
    raise DatasetError(
        f"There is no TOML file '{file}' under {told(root)}. {remedy} OneTrainer's concepts and SimpleTuner's "
        "multidatabackend.json are named with .json, a tree of pictures as its folder."
    )


def written_toml_fingerprint(source: Path) -> str:
    """Changes when the file is changed, or a picture or caption that it leads to is added, removed or rewritten.

    Pictures that a metadata file names in folders below its image_dir are not looked at.

    Raises:
        DatasetError: the file is not TOML.
    """
    document = _parsed(source)
    return content_hash([document.as_string(), _states(source.parent, _subsets(document))])


def rewrite_dataset_toml(source: Path, changes: Changes) -> DatasetConfig:
    """Write a copy beside `source` in which every image_dir and metadata_file is absolute and `changes` are made.

    The hash of what is returned is of the copy and of the files that it leads to.

    A value is changed where the file gives it, whichever level that is; where no level does, in each `[[datasets]]`.

    Raises:
        DatasetError: the file is not TOML, has no datasets, or has keys that the target would refuse.
    """
    document = _parsed(source)
    datasets = _tables(document, "datasets")
    if not datasets:
        raise DatasetError(f"The dataset config {source} has no [[datasets]]. Add one that has [[datasets.subsets]].")
    subsets = _subsets(document)
    levels = [*([document["general"]] if "general" in document else []), *datasets, *subsets]
    for name, value in changes.values.items():
        if value:
            _change(name, value, levels, datasets)
    for subset in subsets:
        for name in (key.name for key in KEYS if key.path):
            if name in subset:
                subset[name] = as_listed(source.parent / str(subset[name])).as_posix()
    if changes.target == FLUX_TRAINER:
        _suit_flux_trainer(source, levels, datasets)
    text = document.as_string()
    name = f"{REWRITTEN}{content_hash(text, 8)}.toml"
    if source.is_dir():
        path = source / f"{OF_A_FOLDER}{name}"
    else:
        path = source.with_name(f"{source.stem.partition(REWRITTEN)[0]}{name}")
    write_changed(path, text)
    return DatasetConfig(str(path), content_hash([text, _states(source.parent, subsets)]))


def _parsed(source: Path) -> tomlkit.TOMLDocument:
    import tomlkit

    if is_of_another_trainer(source):
        return tomlkit.parse(as_sd_scripts(source))
    return read_config(source, tomlkit.parse)


def _subsets(document: Any) -> list[Any]:
    return [subset for dataset in _tables(document, "datasets") for subset in _tables(dataset, "subsets")]


def _states(folder: Path, subsets: Iterable[Any]) -> list[tuple[str, int, int]]:
    """Path, bytes and time in nanoseconds of each file that the subsets lead to; relative ones lie in `folder`."""
    files: set[Path] = set()
    for subset in subsets:
        if subset.get("metadata_file"):
            files.add(as_listed(folder / str(subset["metadata_file"])))
        if subset.get("image_dir"):
            files.update(as_listed(folder / str(subset["image_dir"])).glob("*"))
    states = [(path, path.stat()) for path in sorted(files) if path.is_file() and path.suffix.lower() not in _NOT_READ]
    return [(str(path), state.st_size, state.st_mtime_ns) for path, state in states]


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
    unknown = [key.name for key in KEYS if FLUX_TRAINER not in key.known_to]
    newer = next((name for level in levels for name in unknown if name in level), None)
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
