"""Reads a dataset config in the TOML schema of kohya-ss/sd-scripts, and lists the pictures and captions it names.

The schema, its inheritance (general, then dataset, then subset) and its defaults are those of sd-scripts
(`library/config_util.py`, docs/config_README-en.md). A key that would change training in a way this trainer does not
offer is refused; nothing is passed over in silence.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DatasetError
from .buckets import Buckets

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# What sd-scripts takes from a folder. ".jxl" needs a plugin of Pillow; without it the file is named in an error.
IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif", ".jxl")


@dataclass(frozen=True)
class Subset:
    """One folder of pictures with their captions beside them.

    Attributes:
        image_dir: the folder; pictures in folders below it are not taken.
        num_repeats: how often each picture comes in an epoch.
        caption_extension: the caption of `<stem>.jpg` is the first line of `<stem><caption_extension>`.
        class_tokens: the caption of pictures without a caption file; "" if there is none.
        caption_prefix: put before every caption, with a space between.
        caption_suffix: put after every caption, with a space between.
    """

    image_dir: Path
    num_repeats: int
    caption_extension: str
    class_tokens: str
    caption_prefix: str
    caption_suffix: str


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
    """One picture as the config names it."""

    path: Path
    caption: str
    repeats: int
    dataset: Dataset


@dataclass(frozen=True)
class _Key:
    """A key of the schema. With `refused`, only the default is accepted, and `refused` says what to do instead."""

    types: tuple[type, ...]
    default: Any = None
    refused: str = ""


_CAPTIONS_ARE_CACHED = "Captions are encoded once, before training; remove this key."
_LATENTS_ARE_CACHED = "Pictures are encoded once, before training; remove this key."
_USE_DROPOUT_SETTING = "Remove it and set caption_dropout in Training Settings instead."

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
    "resize_interpolation": _Key((str,), "lanczos", "Pictures are resized with Lanczos; remove this key."),
    "skip_image_resolution": _Key((int, list), 0, "Remove it and filter the pictures with Quality Filter."),
}
_SUBSET_KEYS = {
    "num_repeats": _Key((int,), 1),
    "caption_extension": _Key((str,), ".caption"),
    "class_tokens": _Key((str,), ""),
    "caption_prefix": _Key((str,), ""),
    "caption_suffix": _Key((str,), ""),
    "flip_aug": _Key((bool,), False, _LATENTS_ARE_CACHED),
    "color_aug": _Key((bool,), False, _LATENTS_ARE_CACHED),
    "random_crop": _Key((bool,), False, _LATENTS_ARE_CACHED),
    "face_crop_aug_range": _Key((list,), None, _LATENTS_ARE_CACHED),
    "shuffle_caption": _Key((bool,), False, _CAPTIONS_ARE_CACHED),
    "enable_wildcard": _Key((bool,), False, _CAPTIONS_ARE_CACHED),
    "secondary_separator": _Key((str,), "", _CAPTIONS_ARE_CACHED),
    "token_warmup_step": _Key((float, int), 0, _CAPTIONS_ARE_CACHED),
    "caption_tag_dropout_rate": _Key((float, int), 0.0, _CAPTIONS_ARE_CACHED),
    "caption_dropout_rate": _Key((float, int), 0.0, _USE_DROPOUT_SETTING),
    "caption_dropout_every_n_epochs": _Key((int,), 0, _USE_DROPOUT_SETTING),
    # Without effect unless captions are shuffled, dropped or warmed up, which is refused above.
    "keep_tokens": _Key((int,)),
    "keep_tokens_separator": _Key((str,)),
    "caption_separator": _Key((str,)),
    "token_warmup_min": _Key((int,)),
    # Without effect on what is trained in sd-scripts either.
    "cache_info": _Key((bool,)),
    "custom_attributes": _Key((dict,)),
}
_SUBSET_ONLY_KEYS = {
    "image_dir": _Key((str,)),
    "is_reg": _Key((bool,), False, "Regularisation pictures are not supported; remove this subset."),
    "alpha_mask": _Key((bool,), False, "Masked loss is not supported; remove this key."),
    "metadata_file": _Key((str,), None, "Write each caption into a text file beside its picture instead."),
    "conditioning_data_dir": _Key((str,), None, "ControlNet training is not supported; remove this subset."),
}
_SHARED_KEYS = _DATASET_KEYS | _SUBSET_KEYS


def read(path: str | Path) -> DatasetGroup:
    """Read the dataset config at `path`; a relative image_dir is taken from the folder of the file.

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
        return DatasetGroup(source, _datasets(content, source.parent))
    except DatasetError as error:
        raise DatasetError(f"The dataset config {source} cannot be used: {error}") from error


def _datasets(content: dict[str, Any], folder: Path) -> tuple[Dataset, ...]:
    _check_keys(content, {"general": _Key((dict,)), "datasets": _Key((list,))}, "the top level")
    general = content.get("general", {})
    _check_keys(general, _SHARED_KEYS, "[general]")
    tables = content.get("datasets", [])
    if not tables:
        raise DatasetError("it has no [[datasets]]. Add one, with a [[datasets.subsets]] that gives image_dir.")
    datasets = tuple(_dataset(table, general, folder) for table in tables)
    if len({dataset.batch_size for dataset in datasets}) > 1:
        sizes = ", ".join(str(dataset.batch_size) for dataset in datasets)
        raise DatasetError(f"batch_size differs between its datasets ({sizes}). Use one batch_size for all.")
    return datasets


def _dataset(table: dict[str, Any], general: dict[str, Any], folder: Path) -> Dataset:
    _check_keys(table, _SHARED_KEYS | {"subsets": _Key((list,))}, "[[datasets]]")
    if not table.get("subsets"):
        raise DatasetError("a [[datasets]] has no [[datasets.subsets]]. Add one that gives image_dir.")
    values = _inherited(_DATASET_KEYS, table, general)
    _check_range("batch_size", values["batch_size"], 1)
    if not 0 <= values["validation_split"] < 1:
        raise DatasetError(f"validation_split is {values['validation_split']}. Set it from 0 to less than 1.")
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
        subsets=tuple(_subset(subset, table, general, folder) for subset in table["subsets"]),
    )


def _subset(table: dict[str, Any], dataset: dict[str, Any], general: dict[str, Any], folder: Path) -> Subset:
    _check_keys(table, _SUBSET_KEYS | _SUBSET_ONLY_KEYS, "[[datasets.subsets]]")
    if not table.get("image_dir"):
        raise DatasetError("a [[datasets.subsets]] has no image_dir. Give the folder that holds its pictures.")
    values = _inherited(_SUBSET_KEYS, table, dataset, general)
    _check_range("num_repeats", values["num_repeats"], 1)
    return Subset(
        image_dir=folder / table["image_dir"],
        **{
            name: values[name]
            for name in ("num_repeats", "caption_extension", "class_tokens", "caption_prefix", "caption_suffix")
        },
    )


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
        if key.refused and value != key.default:
            raise DatasetError(f"{name} = {value!r} in {place} is not supported. {key.refused}")


def _check_range(name: str, value: int, low: int) -> None:
    if value < low:
        raise DatasetError(f"{name} is {value}. Set it to {low} or more.")


def _resolution(value: int | list[int] | None) -> tuple[int, int]:
    sides = [value, value] if isinstance(value, int) else value
    if not sides or len(sides) != 2 or any(type(side) is not int or side <= 0 for side in sides):
        raise DatasetError(f"resolution is {value!r}. Give one whole number, or [width, height], in pixels.")
    return sides[0], sides[1]


def pictures(group: DatasetGroup) -> list[Picture]:
    """Every picture that the config names, with its caption: by dataset, subset and file name.

    Raises:
        DatasetError: a folder is missing or has no picture; a caption is missing (and the subset gives no
            class_tokens), empty or not UTF-8.
    """
    return [
        Picture(path, _caption(path, subset), subset.num_repeats, dataset)
        for dataset in group.datasets
        for subset in dataset.subsets
        for path in _image_files(subset.image_dir)
    ]


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


def _caption(image: Path, subset: Subset) -> str:
    file = image.with_name(image.stem + subset.caption_extension)
    try:
        with open(file, encoding="utf-8-sig") as lines:
            caption = lines.readline().strip()
    except FileNotFoundError:
        if not subset.class_tokens:
            raise DatasetError(
                f"The caption file {file} of the picture {image.name} is missing. Write it, set caption_extension to "
                "the ending that your captions have, or give class_tokens in the dataset config."
            ) from None
        caption = subset.class_tokens
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"The caption file {file} cannot be read ({error}). Save it as UTF-8 text.") from error
    if not caption:
        raise DatasetError(
            f"The caption file {file} has an empty first line. Write the caption there, or remove the picture."
        )
    return " ".join(part for part in (subset.caption_prefix, caption, subset.caption_suffix) if part)
