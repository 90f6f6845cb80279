"""Reads a dataset config in the TOML schema of kohya-ss/sd-scripts, and lists the pictures and captions it names.

The schema, its inheritance (general, then dataset, then subset) and its defaults are those of sd-scripts
(`library/config_util.py`, docs/config_README-en.md). A key that would change training in a way this trainer does not
offer is refused; nothing is passed over in silence. Pictures and captions are encoded once, before training, so what
sd-scripts draws anew at every step is drawn from a few encoded texts (`caption_variants`) or refused.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import DatasetError
from ..files import parsed_json
from ..paths import as_listed, folded
from ..texts import cleaned, decoded
from .buckets import Buckets
from .caption_variants import CaptionRules
from .config_schema import BY_NAME, KEYS, OWN_KEYS, OWN_TABLE, acted_on
from .config_text import read_config, refuse_other_trainers
from .passed_over import by_name, is_mask
from .picture_variants import PictureRules
from .schema_key import CAPTIONS, DATASET, SUBSET, SUBSET_ALONE, Key, frozen_fields

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# What sd-scripts takes from a folder. ".jxl" needs a plugin of Pillow; without it the file is named in an error.
IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif", ".jxl")


_SHARED = [key for key in KEYS if key.level != SUBSET_ALONE]
_SUBSETS = Key("subsets", list)
_RANGED = [*acted_on(DATASET), *acted_on(SUBSET), *acted_on(SUBSET, part=CAPTIONS)]
_DatasetFields: Any = frozen_fields("_DatasetFields", acted_on(DATASET))
_SubsetFields: Any = frozen_fields("_SubsetFields", acted_on(SUBSET, SUBSET_ALONE))


@dataclass(frozen=True)
class Subset(_SubsetFields):
    """One folder of pictures with their captions beside them, or the pictures that a metadata file lists.

    Its keys are those of the schema that do something here, with every path whole: pictures in folders below image_dir
    are not taken; a caption_dropout_rate of None leaves it to the run.

    Attributes:
        captions: what is done with captions.
        pictures: what is done with pictures.
    """

    captions: CaptionRules
    pictures: PictureRules

    @property
    def source(self) -> Path:
        """What names the subset: sd-scripts takes only the first of two subsets of a dataset with the same."""
        return self.metadata_file or self.image_dir

    def describe(self) -> str:
        """Its repeats and what is out of the ordinary, in a few words for a person."""
        values = vars(self) | vars(self.captions) | vars(self.pictures)
        keys = [key for key in (*KEYS, *OWN_KEYS) if key.told]
        said = [key.told.format(values[key.name]) for key in keys if values[key.name] != key.default]
        varied = [f"{self.pictures.picture_variants} variants of each picture"] if self.pictures.vary else []
        return ", ".join([f"num_repeats {self.num_repeats}", *said, *varied])


@dataclass(frozen=True)
class DatasetBlock(_DatasetFields):
    """Folders that share buckets and batch size: a `[[datasets]]`, with its keys of the schema.

    Attributes:
        buckets: the sizes that the pictures are brought to.
        subsets: at least one.
    """

    buckets: Buckets
    subsets: tuple[Subset, ...]


@dataclass(frozen=True)
class DatasetGroup:
    """A dataset config as read from `path`."""

    path: Path
    datasets: tuple[DatasetBlock, ...]


@dataclass(frozen=True)
class ConfigPicture:
    """One picture as the config names it; `caption` has several lines where one of them is to be chosen."""

    path: Path
    caption: str
    repeats: int
    dataset: DatasetBlock
    subset: Subset


def read(path: str | Path, folder: Path | None = None) -> DatasetGroup:
    """Read the dataset config at `path`.

    Args:
        path: the TOML.
        folder: where a relative image_dir or metadata_file is taken from; that of the file, unless it is a copy.

    Raises:
        DatasetError: the file is missing or not TOML, or a key is unknown, misplaced, of another type, out of range or
            asks for something that this trainer does not do. The text names the file, the key and the remedy.
    """
    source = Path(path)
    content = read_config(source, tomllib.loads)
    try:
        refuse_other_trainers(content)
        return DatasetGroup(source, _datasets(content, folder or source.parent))
    except DatasetError as error:
        raise DatasetError(f"The dataset config {source} cannot be used: {error}") from error


def _datasets(content: dict[str, Any], folder: Path) -> tuple[DatasetBlock, ...]:
    _check_keys(content, [Key("general", dict), Key("datasets", list)], "the top level")
    general = content.get("general", {})
    _check_keys(general, _SHARED, "[general]")
    tables = content.get("datasets", [])
    if not tables:
        raise DatasetError("it has no [[datasets]]. Add one, with a [[datasets.subsets]] that gives image_dir.")
    return tuple(_dataset(table, general, folder) for table in tables)


def _dataset(table: dict[str, Any], general: dict[str, Any], folder: Path) -> DatasetBlock:
    _check_keys(table, [*_SHARED, _SUBSETS], "[[datasets]]")
    if not table.get("subsets"):
        raise DatasetError("a [[datasets]] has no [[datasets.subsets]]. Add one that gives image_dir.")
    _check_kinds(table)
    values = _inherited([DATASET], table, general)
    _check_ranges(values)
    subsets = tuple(_subset(subset, table, general, folder) for subset in table["subsets"])
    _check_subsets(subsets)
    values["resolution"] = _resolution(values["resolution"])
    return DatasetBlock(
        buckets=Buckets(**_those(fields(Buckets), values)),
        subsets=subsets,
        **_those(fields(_DatasetFields), values),
    )


def _check_kinds(table: dict[str, Any]) -> None:
    """sd-scripts has datasets of caption files and datasets of metadata files, each with keys of its own."""
    with_metadata = ["metadata_file" in subset for subset in table["subsets"] if isinstance(subset, dict)]
    if any(with_metadata) and not all(with_metadata):
        raise DatasetError("a [[datasets]] mixes subsets with and without metadata_file. Make two [[datasets]] of it.")
    if any(with_metadata):
        shared = [key for key in _SHARED if not key.caption_files]
        _check_keys(table, [*shared, _SUBSETS], "[[datasets]] with metadata_file")


def _check_subsets(subsets: tuple[Subset, ...]) -> None:
    source, count = Counter(subset.source for subset in subsets).most_common(1)[0]
    if count > 1:
        raise DatasetError(
            f"{count} subsets of one [[datasets]] read {source}, of which sd-scripts would take the first alone. Keep "
            "one of them, with another num_repeats, or move the other to a [[datasets]] of its own."
        )
    if all(subset.is_reg for subset in subsets):
        raise DatasetError(
            "a [[datasets]] has only regularisation pictures (is_reg), which come in the number of the others. Add a "
            "subset without is_reg."
        )


def _subset(table: dict[str, Any], dataset: dict[str, Any], general: dict[str, Any], folder: Path) -> Subset:
    metadata = isinstance(table, dict) and "metadata_file" in table
    keys = [key for key in KEYS if key.level != DATASET and not (metadata and key.caption_files)]
    _check_keys(table, keys, "[[datasets.subsets]]" + (" with metadata_file" if metadata else ""))
    if metadata and not table["metadata_file"]:
        raise DatasetError("metadata_file is empty. Give the file, or remove the key.")
    if not (metadata or table.get("image_dir")):
        raise DatasetError("a [[datasets.subsets]] has no image_dir. Give the folder that holds its pictures.")
    values = _inherited([SUBSET, SUBSET_ALONE], table, dataset, general)
    _check_ranges(values)
    if not values["caption_separator"]:
        raise DatasetError("caption_separator is empty. Give what parts a caption, for example ','.")
    if values["caption_extension"] and not values["caption_extension"].startswith("."):
        values["caption_extension"] = f".{values['caption_extension']}"
    for key in KEYS:
        if key.path and key.name in values:
            values[key.name] = as_listed(folder / values[key.name]) if values[key.name] else None
    return Subset(
        captions=CaptionRules(**_those(fields(CaptionRules), values)),
        pictures=PictureRules(**_those(fields(PictureRules), values | _own(values["custom_attributes"] or {}))),
        **_those(fields(_SubsetFields), values),
    )


def _own(attributes: dict[str, Any]) -> dict[str, Any]:
    """Our own options among custom_attributes."""
    given = attributes.get(OWN_TABLE, {})
    _check_keys(given, OWN_KEYS, f"custom_attributes.{OWN_TABLE}")
    return {key.name: given.get(key.name, key.default) for key in OWN_KEYS}


def _inherited(levels: Collection[str], *tables: dict[str, Any]) -> dict[str, Any]:
    """The value of each key of the levels from the first table that has it, or else its default."""
    keys = (key for key in KEYS if key.level in levels)
    return {key.name: next((table[key.name] for table in tables if key.name in table), key.default) for key in keys}


def _those(wanted: Iterable[Field], values: dict[str, Any]) -> dict[str, Any]:
    named = {field.name: values[field.name] for field in wanted}
    kinds = {key.name: key.kind for key in (*KEYS, *OWN_KEYS)}
    whole = {name for name, value in named.items() if type(value) is int and kinds[name] is float}
    return {name: float(value) if name in whole else value for name, value in named.items()}


def _check_keys(table: Any, keys: Sequence[Key], place: str) -> None:
    if not isinstance(table, dict):
        raise DatasetError(f"{place} is not a table of keys. See the dataset config schema of sd-scripts.")
    allowed = {key.name: key for key in keys}
    for name, value in table.items():
        key = allowed.get(name)
        if key is None:
            reason = "belongs to another level" if name in BY_NAME else "is unknown"
            raise DatasetError(f"the key {name} in {place} {reason}. Allowed there: {', '.join(sorted(allowed))}.")
        if type(value) not in key.types:
            wanted = " or ".join(kind.__name__ for kind in key.types)
            raise DatasetError(f"{name} in {place} is {value!r}. Give it as {wanted}.")
        if isinstance(value, float) and not math.isfinite(value):
            raise DatasetError(f"{name} in {place} is {value}. Give it as a finite number.")
        if key.refused and value != key.default:
            raise DatasetError(f"{name} = {value!r} in {place} is not supported. {key.refused}")


def _check_ranges(values: dict[str, Any]) -> None:
    """Buckets and their resolution are checked where they are made."""
    for key in (key for key in _RANGED if key.name in values):
        value = values[key.name]
        if key.most is not None and not key.least <= (value or 0) <= key.most:
            raise DatasetError(f"{key.name} is {value}. It is a share, from {key.least} to {key.most}.")
        if key.most is None and key.least is not None and not key.least <= value < math.inf:
            raise DatasetError(f"{key.name} is {value}. Set it to {key.least} or more.")


def _resolution(value: int | list[int] | None) -> tuple[int, int]:
    sides = [value, value] if isinstance(value, int) else value
    if not sides or len(sides) != 2 or any(type(side) is not int or side <= 0 for side in sides):
        raise DatasetError(f"resolution is {value!r}. Give one whole number, or [width, height], in pixels.")
    return sides[0], sides[1]


def pictures(group: DatasetGroup) -> list[ConfigPicture]:
    """Every picture that the config names, with its caption: by dataset, subset and file name.

    Raises:
        DatasetError: a folder or metadata file is missing, unreadable or has no picture; a caption is missing (and the
            subset gives no class_tokens), empty or not UTF-8.
    """
    return [
        ConfigPicture(path, caption, subset.num_repeats, dataset, subset)
        for dataset in group.datasets
        for subset in dataset.subsets
        for path, caption in (_listed(subset) if subset.metadata_file else _beside(subset))
    ]


def _beside(subset: Subset) -> Iterator[tuple[Path, str]]:
    images, others = image_files(subset.image_dir)
    names = by_name(others)
    for path in images:
        yield path, _surrounded(_caption(path, subset, names), subset)


def image_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The pictures of an image_dir, without masks of OneTrainer, and whatever else is in it; both by name.

    Raises:
        DatasetError: it cannot be read, or has no picture.
    """
    try:
        entries = sorted(folder.iterdir())
        pictures = [path for path in entries if _is_image(path)]
        stems = {folded(path.stem) for path in pictures}
        found = [path for path in pictures if not is_mask(path, stems)]
    except OSError as error:
        raise DatasetError(
            f"The image_dir {folder} cannot be read ({error}). Correct it in the dataset config."
        ) from error
    if not found:
        raise DatasetError(
            f"The image_dir {folder} has no pictures ({', '.join(IMAGE_EXTENSIONS)}). Add some, or correct image_dir."
        )
    return found, sorted(set(entries) - set(found))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_EXTENSIONS and not path.name.startswith(".")


def caption_file(image: Path, subset: Subset, others: Mapping[str, Path]) -> Path:
    """Where a picture's caption is; `others` has the folder's files by folded name, for another form or case of it."""
    file = image.with_name(image.stem + subset.caption_extension)
    return file if file.exists() else others.get(folded(file.name), file)


def _caption(image: Path, subset: Subset, others: Mapping[str, Path]) -> list[str]:
    """The lines of a picture's caption, at least one: the first of its file, or all where one is to be chosen."""
    file = caption_file(image, subset, others)
    several = subset.captions.enable_wildcard
    try:
        text = cleaned(decoded(file.read_bytes(), utf_16=True)).replace("\r", "\n")
        lines = [line.strip() for line in (text.split("\n") if several else text.split("\n", 1)[:1])]
    except FileNotFoundError:
        if not subset.class_tokens:
            raise DatasetError(
                f"The caption file {file} of the picture {image.name} is missing. Write it, set caption_extension to "
                "the ending that your captions have, or give class_tokens in the dataset config."
            ) from None
        lines = [subset.class_tokens]
    except (OSError, ValueError) as error:
        raise DatasetError(f"The caption file {file} cannot be read ({error}). Save it as UTF-8 text.") from error
    lines = [line for line in lines if line]
    if not lines:
        where = "no line with text" if several else "an empty first line"
        raise DatasetError(f"The caption file {file} has {where}. Write the caption there, or remove the picture.")
    return lines


def _surrounded(lines: list[str], subset: Subset) -> str:
    """Prefix and suffix go around every line, as sd-scripts documents it; its code puts them around all together."""
    around = subset.caption_prefix, subset.caption_suffix
    return "\n".join(" ".join(part for part in (around[0], line, around[1]) if part) for line in lines)


def _listed(subset: Subset) -> Iterator[tuple[Path, str]]:
    """Pictures and captions of a metadata file, as sd-scripts' FineTuningDataset reads it."""
    for name, entry in sorted(_metadata(subset.metadata_file).items()):
        if subset.image_dir is None and not Path(name).is_absolute():
            raise DatasetError(
                f"The metadata file {subset.metadata_file} names {name}, which is not a whole path. Give image_dir."
            )
        path = _named(subset.image_dir or Path(), name)
        if not path.is_file():
            raise DatasetError(
                f"The metadata file {subset.metadata_file} names the picture {path}, which is not there. Give names "
                "with their endings, and correct image_dir or the file."
            )
        caption, tags = (entry.get(key) or "" for key in ("caption", "tags"))
        lines = [line.strip() for line in cleaned(caption).split("\n") if line.strip()] or [""]
        tags = cleaned(tags).replace("\n", subset.captions.caption_separator)
        lines = [subset.captions.caption_separator.join(part for part in (line, tags) if part) for line in lines]
        if not lines[0]:
            raise DatasetError(
                f"The metadata file {subset.metadata_file} gives no caption for {name}. Write one, or remove it."
            )
        yield path, _surrounded(lines if subset.captions.enable_wildcard else lines[:1], subset)


def _named(folder: Path, name: str) -> Path:
    """The picture of a name in a metadata file: as written, or with slashes, in another Unicode form or case."""
    path = folder / name
    for tried in (path, folder / name.replace("\\", "/")):
        if tried.is_file():
            return tried
        if tried.parent.is_dir() and (alike := by_name(tried.parent.iterdir()).get(folded(tried.name))):
            return alike
    return path


def _metadata(file: Path) -> dict[str, dict[str, Any]]:
    """Name of each picture -> its caption and tags."""
    try:
        text = decoded(file.read_bytes(), utf_16=True)
        if file.suffix.lower() == ".jsonl":
            lines = [parsed_json(line) for line in text.split("\n") if line.strip()]
            entries = {line["image_path"]: line for line in lines}
        else:
            entries = parsed_json(text)
        words = [entry.get(key) for entry in entries.values() for key in ("caption", "tags")]
        if not entries or not all(word is None or isinstance(word, str) for word in words):
            raise ValueError("it is not one caption for each picture")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:  # ValueError: JSON and UTF-8 too
        raise DatasetError(
            f"The metadata file {file} cannot be read ({type(error).__name__}: {error}). It has to be JSON, "
            '{"name.jpg": {"caption": "…", "tags": "…"}}, or JSON lines with image_path and caption.'
        ) from error
    return entries
