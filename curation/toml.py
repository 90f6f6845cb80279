"""The dataset TOML of kohya sd-scripts, and the folder of pictures with captions that it points to.

Rules: sd-scripts `library/config_util.py` (scopes, types, defaults) and `library/train_util.py` (buckets). What they
would assert on later, in training, is refused here with the reason.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import DatasetError, SettingsError
from ..files import appearing, content_hash, remove_partials, write_whole
from ..progress import Progress, silent
from .records import Dataset, Record

STEM_LENGTH = 16  # hexadecimal digits of the picture's SHA-256 that name it among the training files
CAPTION_EXTENSION = ".txt"  # written out, because sd-scripts' own default is ".caption"
FLUX_PIXELS_PER_TOKEN = 16  # 8 of the autoencoder, 2 of the transformer's patches
FLUX_BUCKET_STEP = 32  # sd-scripts flux_train_network.py: bucket_reso_steps must be divisible by it


@dataclass(frozen=True)
class DatasetConfig:
    """A dataset TOML on disk."""

    path: str  # absolute
    hash: str  # of the dataset's revision and the settings, the same wherever the file lies


@dataclass(frozen=True)
class TomlSettings:
    """The settings of sd-scripts' schema that this dataset is written with, in its own names.

    Raises:
        SettingsError: a value is out of range, or sd-scripts would refuse the combination.
    """

    resolution: int = 512  # pixels: the area of a bucket is at most its square
    batch_size: int = 1
    num_repeats: int = 1  # times each picture is shown in an epoch
    enable_bucket: bool = True
    min_bucket_reso: int = 256  # pixels
    max_bucket_reso: int = 1024  # pixels
    bucket_reso_steps: int = 64  # pixels
    bucket_no_upscale: bool = False
    validation_split: float = 0.0  # share of the pictures held out; 0 is not written, because sd-scripts refuses it
    validation_seed: int = 0

    def __post_init__(self) -> None:
        for name in (
            "batch_size",
            "num_repeats",
            "resolution",
            "min_bucket_reso",
            "max_bucket_reso",
            "bucket_reso_steps",
        ):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}. It must be at least 1.")
        if not math.isfinite(self.validation_split) or not 0 <= self.validation_split < 1:
            raise SettingsError(
                f"validation_split is {self.validation_split}. It is the share of pictures held out: "
                "0 for none, and less than 1."
            )
        if self.enable_bucket:
            self._check_buckets()
        elif self.resolution % FLUX_PIXELS_PER_TOKEN:
            raise SettingsError(
                f"resolution is {self.resolution}. Without buckets it is the training size itself, so it must be a "
                f"multiple of {FLUX_PIXELS_PER_TOKEN}: use {_nearest(self.resolution, FLUX_PIXELS_PER_TOKEN)}, "
                "or switch enable_bucket on."
            )

    def _check_buckets(self) -> None:
        steps = self.bucket_reso_steps
        if steps % FLUX_BUCKET_STEP:
            raise SettingsError(
                f"bucket_reso_steps is {steps}. FLUX needs a multiple of {FLUX_BUCKET_STEP}: use "
                f"{_nearest(steps, FLUX_BUCKET_STEP)}."
            )
        for name in ("min_bucket_reso", "max_bucket_reso"):
            if getattr(self, name) % steps:
                raise SettingsError(
                    f"{name} is {getattr(self, name)}. It must be a multiple of bucket_reso_steps ({steps}), because "
                    f"bucket sides are counted in steps from it: use {_nearest(getattr(self, name), steps)}."
                )
        if self.resolution < self.min_bucket_reso:
            raise SettingsError(
                f"resolution {self.resolution} is under min_bucket_reso {self.min_bucket_reso}. "
                f"Lower min_bucket_reso to {self.resolution // steps * steps or steps} or raise the resolution."
            )
        if self.resolution > self.max_bucket_reso:
            raise SettingsError(
                f"resolution {self.resolution} is over max_bucket_reso {self.max_bucket_reso}. "
                f"Raise max_bucket_reso to {-(-self.resolution // steps) * steps} or lower the resolution."
            )


def write_dataset_toml(dataset: Dataset, settings: TomlSettings, progress: Progress = silent) -> DatasetConfig:
    """Write `train/<revision>/` (picture and caption side by side) and `<revision>-<settings>.toml` beside it.

    What is there already and whole is left alone, so that the same call again changes no file.

    Raises:
        DatasetError: a picture has no caption or its file is missing.
    """
    records = dataset.records()
    _refuse_uncaptioned(dataset, records)
    train = Path(dataset.folder) / "train" / dataset.revision
    _write_training_files(dataset, records, train, progress)
    path = Path(dataset.folder) / f"{dataset.revision}-{content_hash(asdict(settings), 8)}.toml"
    text = _toml_text(dataset, settings, train)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_whole(path, text)
    return DatasetConfig(str(path), content_hash({"revision": dataset.revision, "settings": asdict(settings)}))


def _refuse_uncaptioned(dataset: Dataset, records: Sequence[Record]) -> None:
    bare = [record for record in records if not record.text.strip()]
    if bare:
        raise DatasetError(
            f"{len(bare)} of the {len(records)} pictures of dataset '{dataset.name}' have no caption (the first is "
            f"{bare[0].file_name}). Run a captioner first, for example Metadata Captioner."
        )


def _write_training_files(dataset: Dataset, records: Sequence[Record], train: Path, progress: Progress) -> None:
    """Fill the folder at once, or leave one alone that has every file. The pictures are hard links where possible."""
    pairs = {f"{record.sha256[:STEM_LENGTH]}{Path(record.file_name).suffix}": record for record in records}
    names = {name for image in pairs for name in (image, Path(image).with_suffix(CAPTION_EXTENSION).name)}
    if train.is_dir() and names <= {path.name for path in train.iterdir()}:
        return
    remove_partials(train.parent)
    with appearing(train) as folder:
        folder.mkdir(parents=True)
        for done, (name, record) in enumerate(pairs.items(), start=1):
            _link(dataset, record, folder / name)
            # sd-scripts reads the first line only
            caption = " ".join(record.text.split())
            (folder / name).with_suffix(CAPTION_EXTENSION).write_text(caption + "\n", encoding="utf-8", newline="\n")
            progress(done, len(pairs), f"Training file {done} of {len(pairs)}")


def _link(dataset: Dataset, record: Record, target: Path) -> None:
    image = dataset.image_path(record)
    if not image.is_file():
        raise DatasetError(
            f"The picture {image} of dataset '{dataset.name}' is missing. "
            f"Load it from its source ({record.source}) again."
        )
    try:
        os.link(image, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(image, target)


def _toml_text(dataset: Dataset, settings: TomlSettings, train: Path) -> str:
    import tomlkit

    document = tomlkit.document()
    document.add(
        tomlkit.comment(f"Dataset {dataset.name}, revision {dataset.revision}. Written by Impasto in the schema of")
    )
    document.add(
        tomlkit.comment("kohya-ss/sd-scripts, docs/config_README-en.md; any trainer that reads it can be used.")
    )
    document.add(tomlkit.nl())
    subset = tomlkit.table()
    # forward slashes work on Windows too, where backslashes would be escapes
    subset.update({"image_dir": train.as_posix(), "num_repeats": settings.num_repeats})
    subset.add("caption_extension", CAPTION_EXTENSION)
    table = tomlkit.table()
    table.update(_dataset_keys(settings))
    table.add(tomlkit.nl())
    table.add("subsets", tomlkit.aot())
    table["subsets"].append(subset)
    document.add("datasets", tomlkit.aot())
    document["datasets"].append(table)
    return tomlkit.dumps(document)


def _dataset_keys(settings: TomlSettings) -> dict[str, Any]:
    """The keys of sd-scripts' `datasets` scope; `num_repeats` belongs to the subset."""
    keys = asdict(settings)
    del keys["num_repeats"]
    if settings.validation_split == 0:
        del keys["validation_split"], keys["validation_seed"]
    return keys


def _nearest(value: int, step: int) -> int:
    return max(step, round(value / step) * step)
