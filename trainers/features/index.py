"""The index of encoded training data: which files one revision of a dataset has, read and checked, and its report."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ... import files
from ...dataset import config_reader as dataset_config
from ...dataset.config_leftovers import leftovers
from ...errors import FeatureError
from ...texts import megabytes
from . import batch_sizes
from .feature_set import REMEDY, EncodedPicture, Example, FeatureSet, Text, token_count

VERSION = 1  # to be raised when the same picture, caption and models would give other files
INDEX = "index.json"
DATASET_CONFIG = "dataset.toml"
_HASH = re.compile(r"[0-9a-f]{6,64}")
PICTURE_FILES = ("latent", "flipped", "mask")  # that a picture, or a variant of it, may have


@dataclass(frozen=True)
class Features:
    """Encoded training data: `folder` holds index.json, and its name is `key`.

    `prompts` is the name of the file in it that lists the prompts of samples during training; "" for none.
    """

    folder: str
    key: str
    prompts: str = ""


def load(features: Features) -> FeatureSet:
    """Read the index of encoded training data and check that every file it names is there; no tensor is read.

    Raises:
        FeatureError: the index or a file is missing, damaged or of another version.
    """
    folder = Path(features.folder)
    index = read_json(folder / INDEX)
    prompts = read_json(folder / features.prompts) if features.prompts else []
    try:
        if index["version"] != VERSION:
            raise FeatureError(f"The training data {folder} is of version {index['version']}, not {VERSION}. {REMEDY}")
        empty_text = inside(folder, index["empty_text"])
        examples = tuple(_example(folder, entry, index["batch_size"]) for entry in index["samples"])
        listed = tuple((prompt["text"], prompt["seed"], inside(folder, prompt["file"])) for prompt in prompts)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FeatureError(f"The training data {folder} is damaged ({INDEX}: {error!r}). {REMEDY}") from error
    paths = (empty_text, *(path for example in examples for path in example.files), *(path for _, _, path in listed))
    for path in dict.fromkeys(paths):
        if not path.is_file():
            raise FeatureError(f"The encoded file {path} is missing. {REMEDY}")
    return FeatureSet(examples, empty_text, token_count(empty_text), listed)


def read_json(path: Path) -> Any:
    try:
        return files.parsed_json(path.read_bytes())
    except OSError as error:
        raise FeatureError(f"The training data {path} cannot be read ({error}). {REMEDY}") from error
    except ValueError as error:
        raise FeatureError(f"The training data {path} is damaged ({error}). Delete it. {REMEDY}") from error


def _example(folder: Path, entry: dict[str, Any], batch_size: int) -> Example:
    names = ("id", "image", "caption", "width", "height", "tokens", "repeats", "held_out")
    optional = ("is_reg", "caption_dropout_rate", "caption_dropout_every_n_epochs")
    if step := entry.get("token_warmup_step"):
        raise FeatureError(
            f"The training data {folder} was encoded by an earlier version for a token warm-up (token_warmup_step "
            f"{step}), which is no longer trained. Remove that key from the dataset config, and queue Encode Training "
            "Data and the training again: without it, it is another run."
        )
    listed = (entry.get(name, [[]])[0] for name in ("captions", "texts", "text_tokens"))
    texts = tuple(Text(caption, inside(folder, file), tokens) for caption, file, tokens in zip(*listed, strict=True))
    return Example(
        latent_path=inside(folder, entry["latent"]),
        text_path=inside(folder, entry["text"]),
        texts=texts,
        flipped_path=inside(folder, entry["flipped"]) if "flipped" in entry else None,
        mask_path=inside(folder, entry["mask"]) if "mask" in entry else None,
        variants=tuple(
            EncodedPicture(*(inside(folder, kinds[kind]) if kind in kinds else None for kind in PICTURE_FILES))
            for kinds in entry.get("variants", [])
        ),
        batch_size=entry.get("batch_size", batch_size),
        **{name: entry[name] for name in names},
        **{name: entry[name] for name in optional if name in entry},
    )


def inside(folder: Path, file: str) -> Path:
    return Path(os.path.normpath(folder / file))


def pictures(features: Features) -> list[dataset_config.ConfigPicture]:
    """The pictures that the features were made from, where the dataset config names them.

    Raises:
        DatasetError: the config, a folder or a caption can no longer be used.
    """
    return dataset_config.pictures(_config(features))


def picture_files(features: Features, images: set[str]) -> dict[str, Path]:
    """The files that these pictures were encoded from, by the hash of their content; those gone since are left out.

    Raises:
        DatasetError: the config, a folder or a caption can no longer be used.
    """
    paths = [picture.path for picture in pictures(features)] if images else []
    by_name = {path: [image for image in images if image.startswith(path.stem)] for path in paths}
    found = {named[0]: path for path, named in by_name.items() if named}
    for path in paths:
        if len(found) == len(images):
            break
        if not by_name[path] and (content := files.file_hash(path)) in images:
            found.setdefault(content, path)
    return found


def named_by_hash(file: Path) -> bool:
    """Whether a training file bears the first digits of its picture's hash, as Dataset TOML Writer names them."""
    return bool(_HASH.fullmatch(file.stem))


def _config(features: Features) -> dataset_config.DatasetGroup:
    folder = Path(features.folder)
    return dataset_config.read(folder / DATASET_CONFIG, folder.parent.parent)


def report(features: Features) -> str:
    """What was encoded, in lines for a person: subsets, pictures, buckets, texts, megabytes, held-out pictures."""
    loaded = load(features)
    trained = [example for example in loaded.examples if not example.held_out]
    per_epoch = sum(example.repeats for example in trained)
    sizes = Counter((example.width, example.height) for example in loaded.examples)
    paths = {path for example in loaded.examples for path in example.files} | {loaded.empty_text_path}
    texts = {path for path in paths if path.parent.name == "texts"}
    size = sum(path.stat().st_size for path in paths)
    return "\n".join(
        [
            f"{len(loaded.examples)} pictures, {len(loaded.examples) - len(trained)} of them held out",
            f"{per_epoch} per epoch with repeats, batch size {_sizes(loaded.examples)}",
            *([batch_sizes.told(trained, loaded.empty_tokens)] if trained else ()),
            *_subsets(pictures(features)),
            *leftovers(_config(features)),
            *(f"bucket {width} x {height}: {count}" for (width, height), count in sorted(sizes.items())),
            f"{len(texts)} texts, the empty caption among them",
            *_extras(trained, loaded),
            f"{megabytes(size)} in {Path(features.folder).parent}",
        ]
    )


def _subsets(pictures: Sequence[dataset_config.ConfigPicture]) -> list[str]:
    """A line for each subset of a dataset config."""
    counts = Counter((picture.dataset.buckets.resolution, picture.subset) for picture in pictures)
    return [
        f"subset {subset.source.name} at {width} x {height}: {count} pictures, {subset.describe()}"
        for ((width, height), subset), count in counts.items()
    ]


def _sizes(examples: Iterable[Example]) -> str:
    return ", ".join(str(size) for size in sorted({example.batch_size for example in examples}))


def _extras(trained: Sequence[Example], loaded: FeatureSet) -> list[str]:
    """The lines of a report that only some datasets have."""
    several = [len({text.path for text in example.texts}) for example in trained if example.texts]
    pictures = [len(example.all_pictures) for example in trained]
    lengths = {example.tokens for example in trained} - {loaded.empty_tokens}
    counted = (
        (sum(bool(example.flipped_path) for example in trained), "pictures encoded mirrored too"),
        (len(several), f"pictures with several texts, {max(several, default=0)} at most"),
        (sum(shown > 1 for shown in pictures), f"pictures in several variants, {max(pictures, default=1)} at most"),
        (sum(example.is_reg for example in trained), "regularisation pictures"),
        (sum(bool(example.mask_path) for example in loaded.examples), "pictures with a mask"),
        (len(loaded.prompts), "prompts for samples during training"),
    )
    lines = [f"{count} {what}" for count, what in counted if count]
    if lengths and min(lengths) < loaded.empty_tokens:
        lines.append(f"texts of {min(lengths)} T5 tokens, but sampling gives {loaded.empty_tokens} and more")
    return lines
