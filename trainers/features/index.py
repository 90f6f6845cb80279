"""The index of encoded training data: which files one revision of a dataset has, read and checked, and its report."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ... import files
from ...dataset import config_reader as dataset_config
from ...errors import FeatureError
from .feature_set import REMEDY, FeatureSet, Sample, Text, token_count

VERSION = 1  # to be raised when the same picture, caption and models would give other files
INDEX = "index.json"
DATASET_CONFIG = "dataset.toml"


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
    if index["version"] != VERSION:
        raise FeatureError(f"The training data {folder} is of version {index['version']}, not {VERSION}. {REMEDY}")
    empty_text = inside(folder, index["empty_text"])
    samples = tuple(_sample(folder, entry, index["batch_size"]) for entry in index["samples"])
    prompts = read_json(folder / features.prompts) if features.prompts else []
    listed = tuple((prompt["text"], prompt["seed"], inside(folder, prompt["file"])) for prompt in prompts)
    paths = (empty_text, *(path for sample in samples for path in sample.files), *(path for _, _, path in listed))
    for path in dict.fromkeys(paths):
        if not path.is_file():
            raise FeatureError(f"The encoded file {path} is missing. {REMEDY}")
    return FeatureSet(samples, empty_text, token_count(empty_text), listed)


def read_json(path: Path) -> Any:
    try:
        return files.parsed_json(path.read_bytes())
    except OSError as error:
        raise FeatureError(f"The training data {path} cannot be read ({error}). {REMEDY}") from error
    except ValueError as error:
        raise FeatureError(f"The training data {path} is damaged ({error}). Delete it. {REMEDY}") from error


def _sample(folder: Path, entry: dict[str, Any], batch_size: int) -> Sample:
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
    return Sample(
        latent_path=inside(folder, entry["latent"]),
        text_path=inside(folder, entry["text"]),
        texts=texts,
        flipped_path=inside(folder, entry["flipped"]) if "flipped" in entry else None,
        mask_path=inside(folder, entry["mask"]) if "mask" in entry else None,
        batch_size=entry.get("batch_size", batch_size),
        **{name: entry[name] for name in names},
        **{name: entry[name] for name in optional if name in entry},
    )


def inside(folder: Path, file: str) -> Path:
    return Path(os.path.normpath(folder / file))


def pictures(features: Features) -> list[dataset_config.Picture]:
    """The pictures that the features were made from, where the dataset config names them.

    Raises:
        DatasetError: the config, a folder or a caption can no longer be used.
    """
    folder = Path(features.folder)
    return dataset_config.pictures(dataset_config.read(folder / DATASET_CONFIG, folder.parent.parent))


def report(features: Features) -> str:
    """What was encoded, in lines for a person: subsets, pictures, buckets, texts, megabytes, held-out pictures."""
    loaded = load(features)
    trained = [sample for sample in loaded.samples if not sample.held_out]
    sizes = Counter((sample.width, sample.height) for sample in loaded.samples)
    paths = {path for sample in loaded.samples for path in sample.files} | {loaded.empty_text_path}
    texts = {path for path in paths if path.parent.name == "texts"}
    megabytes = sum(path.stat().st_size for path in paths) / 1e6
    return "\n".join(
        [
            f"{len(loaded.samples)} pictures, {len(loaded.samples) - len(trained)} of them held out",
            f"{sum(sample.repeats for sample in trained)} per epoch with repeats, batch size {_sizes(loaded.samples)}",
            *_subsets(pictures(features)),
            *(f"bucket {width} x {height}: {count}" for (width, height), count in sorted(sizes.items())),
            f"{len(texts)} texts, the empty caption among them",
            *_extras(trained, loaded),
            f"{megabytes:.1f} MB in {Path(features.folder).parent}",
        ]
    )


def _subsets(pictures: Sequence[dataset_config.Picture]) -> list[str]:
    """A line for each subset of a dataset config."""
    counts = Counter((picture.dataset.buckets.resolution, picture.subset) for picture in pictures)
    return [
        f"subset {subset.source.name} at {width} x {height}: {count} pictures, {subset.describe()}"
        for ((width, height), subset), count in counts.items()
    ]


def _sizes(samples: Iterable[Sample]) -> str:
    return ", ".join(str(size) for size in sorted({sample.batch_size for sample in samples}))


def _extras(trained: Sequence[Sample], loaded: FeatureSet) -> list[str]:
    """The lines of a report that only some datasets have."""
    several = [len({text.path for text in sample.texts}) for sample in trained if sample.texts]
    lengths = {sample.tokens for sample in trained} - {loaded.empty_tokens}
    counted = (
        (sum(bool(sample.flipped_path) for sample in trained), "pictures encoded mirrored too"),
        (len(several), f"pictures with several texts, {max(several, default=0)} at most"),
        (sum(sample.is_reg for sample in trained), "regularisation pictures"),
        (sum(bool(sample.mask_path) for sample in loaded.samples), "pictures with a mask"),
        (len(loaded.prompts), "prompts for samples during training"),
    )
    lines = [f"{count} {what}" for count, what in counted if count]
    if lengths and min(lengths) < loaded.empty_tokens:
        lines.append(f"texts of {min(lengths)} T5 tokens, but sampling gives {loaded.empty_tokens} and more")
    return lines
