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
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DatasetError
from ..files import parsed_json
from .buckets import Buckets
from .caption_variants import CaptionRules

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# What sd-scripts takes from a folder. ".jxl" needs a plugin of Pillow; without it the file is named in an error.
IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif", ".jxl")


@dataclass(frozen=True)
class Subset:
    """One folder of pictures with their captions beside them, or the pictures that a metadata file lists.

    Attributes:
        image_dir: the folder; pictures in folders below it are not taken. None with a metadata file of absolute paths.
        num_repeats: how often each picture comes in an epoch.
        caption_extension: the caption of `<stem>.jpg` is the first line of `<stem><caption_extension>`, or with
            `captions.enable_wildcard` any of its lines.
        class_tokens: the caption of pictures without a caption file; "" if there is none.
        caption_prefix: put before every caption, with a space between.
        caption_suffix: put after every caption, with a space between.
        captions: what is done with captions.
        caption_dropout_rate: share of the pictures trained with the empty caption; None leaves it to the run.
        caption_dropout_every_n_epochs: every n-th epoch has only empty captions; 0 for none.
        flip_aug: half of the pictures are mirrored.
        is_reg: regularisation pictures, which keep what the base model knows (prior preservation).
        alpha_mask: the loss is weighted by the picture's alpha channel.
        metadata_file: pictures and captions as JSON or JSON lines, instead of caption files.
    """

    image_dir: Path | None
    num_repeats: int
    caption_extension: str
    class_tokens: str
    caption_prefix: str
    caption_suffix: str
    captions: CaptionRules
    caption_dropout_rate: float | None
    caption_dropout_every_n_epochs: int
    flip_aug: bool
    is_reg: bool
    alpha_mask: bool
    metadata_file: Path | None

    @property
    def source(self) -> Path:
        """What names the subset: sd-scripts takes only the first of two subsets of a dataset with the same."""
        return self.metadata_file or self.image_dir

    def describe(self) -> str:
        """Its repeats and what is out of the ordinary, in a few words for a person."""
        rules = self.captions
        said = {
            "flip_aug": self.flip_aug,
            "is_reg": self.is_reg,
            "alpha_mask": self.alpha_mask,
            "shuffle_caption": rules.shuffle_caption,
            "enable_wildcard": rules.enable_wildcard,
            f"caption_tag_dropout_rate {rules.caption_tag_dropout_rate}": rules.caption_tag_dropout_rate,
            f"caption_dropout_rate {self.caption_dropout_rate}": self.caption_dropout_rate is not None,
            f"empty captions every {self.caption_dropout_every_n_epochs} epochs": self.caption_dropout_every_n_epochs,
        }
        return ", ".join([f"num_repeats {self.num_repeats}", *(words for words, given in said.items() if given)])


@dataclass(frozen=True)
class Dataset:
    """Folders that share buckets and batch size.

    Attributes:
        batch_size: pictures per batch.
        buckets: the sizes that the pictures are brought to.
        validation_split: share of the pictures held out from training, 0 up to but not including 1.
        validation_seed: which pictures are held out.
        subsets: at least one.
    """

    batch_size: int
    buckets: Buckets
    validation_split: float
    validation_seed: int
    subsets: tuple[Subset, ...]


@dataclass(frozen=True)
class DatasetGroup:
    """A dataset config as read from `path`."""

    path: Path
    datasets: tuple[Dataset, ...]


@dataclass(frozen=True)
class Picture:
    """One picture as the config names it; `caption` has several lines where one of them is to be chosen."""

    path: Path
    caption: str
    repeats: int
    dataset: Dataset
    subset: Subset


@dataclass(frozen=True)
class _Key:
    """A key of the schema. With `refused`, only the default is accepted, and `refused` says what to do instead."""

    types: tuple[type, ...]
    default: Any = None
    refused: str = ""


_LATENTS_ARE_CACHED = (
    "Pictures are encoded once, before training, so they cannot change from step to step; sd-scripts refuses it with "
    "cache_latents too. Remove this key."
)
_TEXTS_ARE_ENCODED_ONCE = (
    "Captions are encoded once, before training, so they cannot grow from step to step; sd-scripts refuses it with "
    "cached text encoder outputs too. Remove this key."
)
_USE_ALPHA_MASK = (
    "Put each mask into the alpha channel of its picture and set alpha_mask = true; for ControlNet there is no trainer."
)

_DATASET_KEYS = {
    "resolution": _Key((int, list)),
    "batch_size": _Key((int,), 1),
    "enable_bucket": _Key((bool,), False),
    "bucket_reso_steps": _Key((int,), 64),
    "min_bucket_reso": _Key((int,), 256),
    "max_bucket_reso": _Key((int,), 1024),
    "bucket_no_upscale": _Key((bool,), False),
    "validation_split": _Key((float, int), 0.0),
    "validation_seed": _Key((int,), 0),
    "network_multiplier": _Key((float, int), 1.0, "Remove it and set the strength where the LoRA is applied."),
    "skip_image_resolution": _Key((int, list), 0, "Remove it and filter the pictures with Quality Filter."),
}
_CAPTION_KEYS = {
    "shuffle_caption": _Key((bool,), False),
    "caption_separator": _Key((str,), ","),
    "keep_tokens": _Key((int,), 0),
    "keep_tokens_separator": _Key((str,), ""),
    "secondary_separator": _Key((str,), ""),
    "enable_wildcard": _Key((bool,), False),
    "caption_tag_dropout_rate": _Key((float, int), 0.0),
}
_CAPTION_FILE_KEYS = {
    "caption_extension": _Key((str,), ".caption"),
    "class_tokens": _Key((str,), ""),
    "cache_info": _Key((bool,)),  # without effect on what is trained in sd-scripts either
}
_SUBSET_KEYS = {
    **_CAPTION_KEYS,
    "token_warmup_min": _Key((int,), 1),  # without effect where there is no warm-up
    "token_warmup_step": _Key((float, int), 0, _TEXTS_ARE_ENCODED_ONCE),
    "num_repeats": _Key((int,), 1),
    "caption_prefix": _Key((str,), ""),
    "caption_suffix": _Key((str,), ""),
    "caption_dropout_rate": _Key((float, int)),
    "caption_dropout_every_n_epochs": _Key((int,), 0),
    "flip_aug": _Key((bool,), False),
    "color_aug": _Key((bool,), False, _LATENTS_ARE_CACHED),
    "random_crop": _Key((bool,), False, _LATENTS_ARE_CACHED),
    "face_crop_aug_range": _Key((list,), None, _LATENTS_ARE_CACHED),
    "resize_interpolation": _Key((str,), "lanczos", "Pictures are resized with Lanczos; remove this key."),
    "custom_attributes": _Key((dict,)),  # for extensions of sd-scripts; it does nothing with them itself
}
_SUBSET_ONLY_KEYS = {
    "image_dir": _Key((str,)),
    "is_reg": _Key((bool,), False),
    "alpha_mask": _Key((bool,), False),
    "metadata_file": _Key((str,)),
    "conditioning_data_dir": _Key((str,), None, _USE_ALPHA_MASK),
}
_SHARED_KEYS = _DATASET_KEYS | _SUBSET_KEYS | _CAPTION_FILE_KEYS


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
    try:
        content = tomllib.loads(source.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DatasetError(
            f"The dataset config {source} cannot be read: {error}. Correct or write it again."
        ) from error
    try:
        return DatasetGroup(source, _datasets(content, folder or source.parent))
    except DatasetError as error:
        raise DatasetError(f"The dataset config {source} cannot be used: {error}") from error


def _datasets(content: dict[str, Any], folder: Path) -> tuple[Dataset, ...]:
    _check_keys(content, {"general": _Key((dict,)), "datasets": _Key((list,))}, "the top level")
    general = content.get("general", {})
    _check_keys(general, _SHARED_KEYS, "[general]")
    tables = content.get("datasets", [])
    if not tables:
        raise DatasetError("it has no [[datasets]]. Add one, with a [[datasets.subsets]] that gives image_dir.")
    return tuple(_dataset(table, general, folder) for table in tables)


def _dataset(table: dict[str, Any], general: dict[str, Any], folder: Path) -> Dataset:
    _check_keys(table, _SHARED_KEYS | {"subsets": _Key((list,))}, "[[datasets]]")
    if not table.get("subsets"):
        raise DatasetError("a [[datasets]] has no [[datasets.subsets]]. Add one that gives image_dir.")
    _check_kinds(table)
    values = _inherited(_DATASET_KEYS, table, general)
    _check_range("batch_size", values["batch_size"], 1)
    if not 0 <= values["validation_split"] < 1:
        raise DatasetError(f"validation_split is {values['validation_split']}. Set it from 0 to less than 1.")
    subsets = tuple(_subset(subset, table, general, folder) for subset in table["subsets"])
    _check_subsets(subsets)
    return Dataset(
        batch_size=values["batch_size"],
        buckets=Buckets(
            resolution=_resolution(values["resolution"]),
            **{
                name: values[name]
                for name in (
                    "enable_bucket",
                    "bucket_reso_steps",
                    "min_bucket_reso",
                    "max_bucket_reso",
                    "bucket_no_upscale",
                )
            },
        ),
        validation_split=float(values["validation_split"]),
        validation_seed=values["validation_seed"],
        subsets=subsets,
    )


def _check_kinds(table: dict[str, Any]) -> None:
    """sd-scripts has datasets of caption files and datasets of metadata files, each with keys of its own."""
    with_metadata = ["metadata_file" in subset for subset in table["subsets"] if isinstance(subset, dict)]
    if any(with_metadata) and not all(with_metadata):
        raise DatasetError("a [[datasets]] mixes subsets with and without metadata_file. Make two [[datasets]] of it.")
    if any(with_metadata):
        _check_keys(table, _DATASET_KEYS | _SUBSET_KEYS | {"subsets": _Key((list,))}, "[[datasets]] with metadata_file")


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
    keys = _SUBSET_KEYS | _SUBSET_ONLY_KEYS | ({} if metadata else _CAPTION_FILE_KEYS)
    place = "[[datasets.subsets]]" + (" with metadata_file" if metadata else "")
    _check_keys(table, {name: key for name, key in keys.items() if not (metadata and name == "is_reg")}, place)
    if not (metadata or table.get("image_dir")):
        raise DatasetError("a [[datasets.subsets]] has no image_dir. Give the folder that holds its pictures.")
    values = _inherited(_SUBSET_KEYS | _CAPTION_FILE_KEYS, table, dataset, general)
    _check_ranges(values)
    extension = values["caption_extension"]
    rate = values["caption_dropout_rate"]
    same = ("num_repeats", "class_tokens", "caption_prefix", "caption_suffix", "caption_dropout_every_n_epochs")
    return Subset(
        image_dir=folder / table["image_dir"] if table.get("image_dir") else None,
        metadata_file=folder / table["metadata_file"] if metadata else None,
        caption_extension=extension if extension.startswith(".") or not extension else f".{extension}",
        captions=CaptionRules(**{name: values[name] for name in _CAPTION_KEYS}),
        caption_dropout_rate=None if rate is None else float(rate),
        flip_aug=values["flip_aug"],
        is_reg=table.get("is_reg", False),
        alpha_mask=table.get("alpha_mask", False),
        **{name: values[name] for name in same},
    )


def _check_ranges(values: dict[str, Any]) -> None:
    for name, least in (("num_repeats", 1), ("keep_tokens", 0), ("caption_dropout_every_n_epochs", 0)):
        _check_range(name, values[name], least)
    for name in ("caption_dropout_rate", "caption_tag_dropout_rate"):
        if not 0 <= (values[name] or 0) <= 1:
            raise DatasetError(f"{name} is {values[name]}. It is a share, from 0 to 1.")
    if not values["caption_separator"]:
        raise DatasetError("caption_separator is empty. Give what parts a caption, for example ','.")


def _inherited(keys: Collection[str], *tables: dict[str, Any]) -> dict[str, Any]:
    """The value of each key from the first table that has it, or else its default."""
    return {key: next((table[key] for table in tables if key in table), _SHARED_KEYS[key].default) for key in keys}


def _check_keys(table: Any, keys: dict[str, _Key], place: str) -> None:
    if not isinstance(table, dict):
        raise DatasetError(f"{place} is not a table of keys. See the dataset config schema of sd-scripts.")
    for name, value in table.items():
        key = keys.get(name)
        if key is None:
            elsewhere = name in _SHARED_KEYS or name in _SUBSET_ONLY_KEYS
            reason = "belongs to another level" if elsewhere else "is unknown"
            raise DatasetError(f"the key {name} in {place} {reason}. Allowed there: {', '.join(sorted(keys))}.")
        if type(value) not in key.types:
            wanted = " or ".join(kind.__name__ for kind in key.types)
            raise DatasetError(f"{name} in {place} is {value!r}. Give it as {wanted}.")
        if isinstance(value, float) and not math.isfinite(value):
            raise DatasetError(f"{name} in {place} is {value}. Give it as a finite number.")
        if key.refused and value != key.default:
            raise DatasetError(f"{name} = {value!r} in {place} is not supported. {key.refused}")


def _check_range(name: str, value: float, low: int) -> None:
    if not low <= value < math.inf:
        raise DatasetError(f"{name} is {value}. Set it to {low} or more.")


def _resolution(value: int | list[int] | None) -> tuple[int, int]:
    sides = [value, value] if isinstance(value, int) else value
    if not sides or len(sides) != 2 or any(type(side) is not int or side <= 0 for side in sides):
        raise DatasetError(f"resolution is {value!r}. Give one whole number, or [width, height], in pixels.")
    return sides[0], sides[1]


def pictures(group: DatasetGroup) -> list[Picture]:
    """Every picture that the config names, with its caption: by dataset, subset and file name.

    Raises:
        DatasetError: a folder or metadata file is missing, unreadable or has no picture; a caption is missing (and the
            subset gives no class_tokens), empty or not UTF-8.
    """
    return [
        Picture(path, caption, subset.num_repeats, dataset, subset)
        for dataset in group.datasets
        for subset in dataset.subsets
        for path, caption in (_listed(subset) if subset.metadata_file else _beside(subset))
    ]


def _beside(subset: Subset) -> Iterator[tuple[Path, str]]:
    for path in _image_files(subset.image_dir):
        yield path, _surrounded(_caption(path, subset), subset)


def _image_files(folder: Path) -> list[Path]:
    try:
        found = sorted(path for path in folder.iterdir() if _is_image(path))
    except OSError as error:
        raise DatasetError(
            f"The image_dir {folder} cannot be read ({error}). Correct it in the dataset config."
        ) from error
    if not found:
        raise DatasetError(
            f"The image_dir {folder} has no pictures ({', '.join(IMAGE_EXTENSIONS)}). Add some, or correct image_dir."
        )
    return found


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_EXTENSIONS and not path.name.startswith(".")


def _caption(image: Path, subset: Subset) -> list[str]:
    """The lines of a picture's caption, at least one: the first of its file, or all where one is to be chosen."""
    file = image.with_name(image.stem + subset.caption_extension)
    several = subset.captions.enable_wildcard
    try:
        with open(file, encoding="utf-8-sig") as content:
            lines = [line.strip() for line in (content if several else [content.readline()])]
    except FileNotFoundError:
        if not subset.class_tokens:
            raise DatasetError(
                f"The caption file {file} of the picture {image.name} is missing. Write it, set caption_extension to "
                "the ending that your captions have, or give class_tokens in the dataset config."
            ) from None
        lines = [subset.class_tokens]
    except (OSError, UnicodeDecodeError) as error:
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
        path = (subset.image_dir or Path()) / name
        if not path.is_file():
            raise DatasetError(
                f"The metadata file {subset.metadata_file} names the picture {path}, which is not there. Give names "
                "with their endings, and correct image_dir or the file."
            )
        caption, tags = (entry.get(key) or "" for key in ("caption", "tags"))
        lines = [line.strip() for line in caption.split("\n") if line.strip()] or [""]
        tags = tags.replace("\n", subset.captions.caption_separator)
        lines = [subset.captions.caption_separator.join(part for part in (line, tags) if part) for line in lines]
        if not lines[0]:
            raise DatasetError(
                f"The metadata file {subset.metadata_file} gives no caption for {name}. Write one, or remove it."
            )
        yield path, _surrounded(lines if subset.captions.enable_wildcard else lines[:1], subset)


def _metadata(file: Path) -> dict[str, dict[str, Any]]:
    """Name of each picture -> its caption and tags."""
    try:
        text = file.read_text(encoding="utf-8-sig")
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
