"""The dataset TOML of kohya sd-scripts, and the folder of pictures with captions that it points to.

Rules: sd-scripts `library/config_util.py` (scopes, types, defaults) and `library/train_util.py` (buckets, caching).
What they would assert on later, in training, is refused here with the reason. TOMLs that people wrote are for
`config_editor`, the formats of other trainers for `exports`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from .. import checksums
from ..errors import DatasetError, SettingsError
from ..files import appearing, content_hash, link_or_copy, remove_partials, write_changed
from ..progress import Progress, silent
from ..texts import one_line
from .config_keys import MoreKeys, read_more_keys
from .config_schema import BY_NAME, CAPTION_EXTENSION, KEYS
from .normalise import PNG_SIGNATURE, for_trainers
from .pictures import PictureRefused
from .records import Dataset, Record
from .schema_key import FLUX_TRAINER, SD_SCRIPTS, TARGETS, Key, frozen_fields

logger = logging.getLogger(__name__)

STEM_LENGTH = 16  # hexadecimal digits of the picture's SHA-256 that name it among the training files
HEAVIER = 2  # times as often as the pictures that are to weigh less come the others
FLUX_PIXELS_PER_TOKEN = 16  # 8 of the autoencoder, 2 of the transformer's patches
FLUX_BUCKET_STEP = 32  # sd-scripts flux_train_network.py: bucket_reso_steps must be divisible by it


@dataclass(frozen=True)
class DatasetConfig:
    """A dataset TOML on disk."""

    path: str  # absolute
    hash: str  # of the pictures, captions and settings; of a dataset of ours the same wherever the file lies


_WITH_WIDGET = [key for key in KEYS if key.widget]
_Keys: Any = frozen_fields("_Keys", _WITH_WIDGET, writers=True)
# By the setting that says so: what each cache means for whatever changes from step to step.
_CACHES = {"cached_text": "encoding every caption only once", "cached_latents": "encoding every picture only once"}


@dataclass(frozen=True)
class TomlSettings(_Keys):
    """The keys of sd-scripts' schema that this dataset is written with, and what the writer itself is told.

    Raises:
        SettingsError: a value is out of range, or sd-scripts would refuse the combination.
    """

    target: str = SD_SCRIPTS  # one of TARGETS: who is to read the file
    cached_text: bool = True  # trained from cached text encoder outputs, as FLUX normally is
    cached_latents: bool = True
    resolution_height: int = 0  # pixels; 0 is the same as `resolution`, which is then the width
    regularisation_repeats: int = 1  # `num_repeats` of the regularisation pictures, where there are any
    more_keys: str = ""  # lines of TOML, as `read_more_keys` takes them

    @property
    def more(self) -> MoreKeys:
        return read_more_keys(self.more_keys, [field.name for field in fields(self)])

    @property
    def sides(self) -> tuple[int, int]:
        """Width and height, pixels."""
        return self.resolution, self.resolution_height or self.resolution

    def __post_init__(self) -> None:
        if not math.isfinite(self.validation_split) or not 0 <= self.validation_split < 1:
            raise SettingsError(
                f"validation_split is {self.validation_split}. It is the share of pictures held out: "
                "0 for none, and less than 1."
            )
        for key in _WITH_WIDGET:
            _check_value(key, getattr(self, key.name))
        if self.regularisation_repeats < 1:
            raise SettingsError(f"regularisation_repeats is {self.regularisation_repeats}. It must be at least 1.")
        if self.resolution_height < 0:
            raise SettingsError(f"resolution_height is {self.resolution_height}. It is in pixels, 0 for a square.")
        if self.shuffle_caption and not self.caption_separator:
            raise SettingsError("caption_separator is empty, but shuffle_caption needs it to part captions: use ','.")
        self._check_target()
        self._check_caches()
        self._check_more_keys()
        if self.enable_bucket:
            self._check_buckets()
            return
        for side in self.sides:
            if side % FLUX_PIXELS_PER_TOKEN:
                raise SettingsError(
                    f"resolution is {side}. Without buckets it is the training size itself, so it must be a "
                    f"multiple of {FLUX_PIXELS_PER_TOKEN}: use {_nearest(side, FLUX_PIXELS_PER_TOKEN)}, "
                    "or switch enable_bucket on."
                )

    def _asked(self, keys: Iterable[Key]) -> list[Key]:
        """Those of the keys that are not as the writer has them by itself."""
        return [key for key in keys if getattr(self, key.name) != key.written_default]

    def _check_target(self) -> None:
        if self.target not in TARGETS:
            raise SettingsError(f"target is '{self.target}'. Choose one of: {', '.join(TARGETS)}.")
        unknown = [
            key.name for key in self._asked(_WITH_WIDGET) if self.target not in key.known_to and not key.only_with
        ]
        if unknown:
            raise SettingsError(
                f"{unknown[0]} is {getattr(self, unknown[0])}, but the sd-scripts of February 2025 that FluxTrainer "
                "carries does not know that key and would refuse the file. Set validation_split to 0 and "
                "resize_interpolation to the trainer's own, or choose the target sd-scripts."
            )

    def _check_caches(self) -> None:
        for cache, meaning in _CACHES.items():
            asked = self._asked(key for key in _WITH_WIDGET if key.frozen_by == cache)
            if getattr(self, cache) and asked:
                name = asked[0].name
                raise SettingsError(
                    f"{name} is {getattr(self, name)}, but {cache} means {meaning}, so it could not change from step "
                    f"to step and sd-scripts would stop or pass it over. Set {name} back, or switch {cache} off and "
                    "train without that cache."
                )
        if not (self.cached_latents or self.enable_bucket or self.random_crop):
            # train_util.py, __getitem__: what is not cached is scaled to a bucket only
            width, height = self.sides
            raise SettingsError(
                f"enable_bucket and cached_latents are both off, where sd-scripts scales no picture and stops at the "
                f"first that is not exactly {width} x {height}. Switch enable_bucket on, or cached_latents."
            )

    def _check_more_keys(self) -> None:
        if self.more.of_subset.get("cache_info") and self.validation_split:
            # train_util.py, load_dreambooth_dir: the pictures are split, the captions of its cache are not
            raise SettingsError(
                f"cache_info = true in more_keys and validation_split {self.validation_split} do not go together: "
                "sd-scripts would give pictures the captions of others. Remove cache_info, or set validation_split to "
                "0."
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
        shorter, longer = sorted(self.sides)
        if shorter < self.min_bucket_reso:
            raise SettingsError(
                f"resolution {shorter} is under min_bucket_reso {self.min_bucket_reso}. "
                f"Lower min_bucket_reso to {shorter // steps * steps or steps} or raise the resolution."
            )
        if longer > self.max_bucket_reso:
            raise SettingsError(
                f"resolution {longer} is over max_bucket_reso {self.max_bucket_reso}. "
                f"Raise max_bucket_reso to {-(-longer // steps) * steps} or lower the resolution."
            )


def _check_value(key: Key, value: Any) -> None:
    if key.choices and value not in ("", *key.choices):
        raise SettingsError(f"{key.name} is '{value}'. Choose one of: {', '.join(key.choices)}.")
    if key.kind is str and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise SettingsError(f"{key.name} has half a character in it, which no file can hold. Type it anew.")
    if key.most is not None and not key.least <= value <= key.most:  # refuses NaN too
        raise SettingsError(f"{key.name} is {value}. It is a share, from {key.least} to {key.most}.")
    if key.least is not None and not key.least <= value < math.inf:
        raise SettingsError(f"{key.name} is {value}. It must be at least {key.least}.")


def write_dataset_toml(
    dataset: Dataset,
    settings: TomlSettings,
    progress: Progress = silent,
    regularisation: Dataset | None = None,
    lighter: Dataset | None = None,
) -> DatasetConfig:
    """Write `train/<revision>/` (picture and caption side by side) and `<revision>-<settings>.toml` beside it.

    What is there already and whole is left alone, so that the same call again changes no file. Pictures for
    `regularisation` (prior preservation) get a `train` folder in their own dataset, a subset with `is_reg`, and their
    revision in the name of the TOML; so do those of `lighter`, of which the others come `HEAVIER` times as often.

    Raises:
        DatasetError: a picture has no caption or its file is missing, or both datasets are the same.
    """
    more = settings.more.of_subset
    alpha, class_tokens = more.get("alpha_mask", False), more.get("class_tokens", "")
    train = write_training_files(dataset, progress, class_tokens, alpha)
    of_subsets = {train: _subset_keys(settings)}
    written: dict[str, Any] = _dataset_keys(settings) | of_subsets[train]
    revisions = [dataset.revision]
    if lighter is not None:
        of_subsets[write_training_files(lighter, progress, class_tokens, alpha)] = of_subsets[train]
        of_subsets[train] = of_subsets[train] | {"num_repeats": HEAVIER * settings.num_repeats}
        revisions.append(lighter.revision)
        written["lighter"] = {"revision": lighter.revision, "heavier": HEAVIER}
    if regularisation is not None:
        _refuse_the_same(dataset, regularisation)
        own_train = write_training_files(regularisation, progress, keep_alpha=alpha)
        of_subsets[own_train] = _regularisation_keys(settings)
        revisions.append(regularisation.revision)
        written["regularisation"] = {"revision": regularisation.revision} | of_subsets[own_train]
    path = Path(dataset.folder) / f"{'-'.join(revisions)}-{content_hash(written, 8)}.toml"
    text = _toml_text(dataset, settings, of_subsets)
    write_changed(path, text)
    return DatasetConfig(str(path), content_hash({"revision": dataset.revision, "settings": written}))


def _refuse_the_same(dataset: Dataset, regularisation: Dataset) -> None:
    if (dataset.folder, dataset.revision) == (regularisation.folder, regularisation.revision):
        raise DatasetError(
            f"The dataset '{dataset.name}' is connected as regularisation too, and sd-scripts reads a folder only "
            "once. Connect other pictures as regularisation, of what the base model paints without the LoRA."
        )


def write_training_files(
    dataset: Dataset, progress: Progress = silent, class_tokens: str = "", keep_alpha: bool = False
) -> Path:
    """Fill `train/<revision>/` with each picture and its caption, `<stem>.txt`, and return that folder.

    Pictures are hard links where possible. Those that trainers would read differently are written anew: upright, sRGB,
    opaque, 8 bits, as JPEG or PNG.

    Args:
        class_tokens: the caption that trainers take for pictures without one, which then get no caption file.
        keep_alpha: leave transparent pictures transparent, for trainers that mask by it; the folder is
            `train/<revision>-alpha/`.

    Raises:
        DatasetError: a picture has no caption or its file is missing.
    """
    records = dataset.records()
    if not class_tokens:
        _refuse_uncaptioned(dataset, records)
    train = Path(dataset.folder) / "train" / f"{dataset.revision}{'-alpha' * keep_alpha}"
    _write_training_files(dataset, records, train, keep_alpha, progress)
    return train


def _refuse_uncaptioned(dataset: Dataset, records: Sequence[Record]) -> None:
    bare = [record for record in records if not _one_line(record.text)]
    if bare:
        raise DatasetError(
            f"{len(bare)} of the {len(records)} pictures of dataset '{dataset.name}' have no caption (the first is "
            f"{bare[0].file_name}). Run a captioner first, for example Metadata Captioner."
        )


def _one_line(caption: str) -> str:
    """As a caption file has it: sd-scripts reads the first line only, and would keep a byte order mark as a letter.
    JSON can give half a character (a lone surrogate), which no file can."""
    return one_line(caption.encode(errors="ignore").decode().replace("\ufeff", ""))


def _write_training_files(
    dataset: Dataset, records: Sequence[Record], train: Path, keep_alpha: bool, progress: Progress
) -> None:
    """Fill the folder at once, or leave one alone that has every file as it was written."""
    stems = {record.sha256[:STEM_LENGTH]: record for record in records}
    there = list(train.iterdir()) if train.is_dir() else []
    captions = {path.stem for path in there if path.suffix == CAPTION_EXTENSION}
    captioned = {stem for stem, record in stems.items() if _one_line(record.text)}
    pictures = {path.stem for path in there if path.suffix != CAPTION_EXTENSION}
    sums = Path(dataset.folder) / "sums" / f"{train.name}.json"
    changed = checksums.changed_since(sums, train)
    _refuse_changed_captions(changed)
    if captioned <= captions and stems.keys() <= pictures and not changed:
        return
    for picture in changed:
        logger.warning("%s has other content than was written. The training files are written anew", picture)
    remove_partials(train.parent)
    with appearing(train) as folder:
        folder.mkdir(parents=True)
        for done, (stem, record) in enumerate(stems.items(), start=1):
            _put_picture(dataset, record, folder / stem, keep_alpha)
            if stem in captioned:
                caption = f"{_one_line(record.text)}\n"
                (folder / stem).with_suffix(CAPTION_EXTENSION).write_text(caption, encoding="utf-8", newline="\n")
            progress(done, len(stems), f"Training file {done} of {len(stems)}")
        checksums.write_sums(sums, folder)


def _refuse_changed_captions(changed: Iterable[Path]) -> None:
    """A caption that a person has written there is not to be lost, nor a damaged one to be trained on."""
    for caption in (path for path in changed if path.suffix == CAPTION_EXTENSION):
        raise DatasetError(
            f"The caption file {caption} is not as it was written: it is damaged, or was edited by hand. Delete it, "
            "and queue again, which writes it anew; captions are edited in Caption Editor."
        )


def _put_picture(dataset: Dataset, record: Record, target: Path, keep_alpha: bool) -> None:
    """Put a picture at `target` with its extension: the stored file, or a copy that every trainer reads the same."""
    image = _stored(dataset, record)
    try:
        written = for_trainers(image, keep_alpha)
    except (PictureRefused, OSError) as error:
        raise DatasetError(
            f"The picture {image} of dataset '{dataset.name}' cannot be read ({error}). Run Quality Filter first."
        ) from error
    if written is None:
        link_picture(dataset, record, target.with_suffix(image.suffix))
    else:
        target.with_suffix(".png" if written.startswith(PNG_SIGNATURE) else ".jpg").write_bytes(written)


def link_picture(dataset: Dataset, record: Record, target: Path) -> None:
    """Put a picture at `target`, as a hard link where the file system has them, else as a copy."""
    link_or_copy(_stored(dataset, record), target)


def _stored(dataset: Dataset, record: Record) -> Path:
    image = dataset.image_path(record)
    if not image.is_file():
        raise DatasetError(
            f"The picture {image} of dataset '{dataset.name}' is missing. "
            f"Load it from its source ({record.source}) again."
        )
    if not checksums.has_content(image, record.sha256):
        raise DatasetError(
            f"The picture {image} of dataset '{dataset.name}' is damaged: it has other content than was stored. Delete "
            f"it, and queue again from the node that loads the dataset, which stores it anew ({record.source})."
        )
    return image


def _toml_text(dataset: Dataset, settings: TomlSettings, of_subsets: Mapping[Path, dict[str, Any]]) -> str:
    import tomlkit

    document = tomlkit.document()
    for line in (
        f"Dataset {dataset.name}, revision {dataset.revision}. Written by Impasto in the schema of",
        "kohya-ss/sd-scripts, docs/config_README-en.md; any trainer that reads it can be used.",
    ):
        document.add(tomlkit.comment(line))
    document.add(tomlkit.nl())
    table = tomlkit.table()
    table.update(_dataset_keys(settings))
    table.add(tomlkit.nl())
    table.add("subsets", tomlkit.aot())
    for train, keys in of_subsets.items():
        subset = tomlkit.table()
        # forward slashes work on Windows too, where backslashes would be escapes
        subset.update({"image_dir": train.as_posix()} | keys)
        table["subsets"].append(subset)
    document.add("datasets", tomlkit.aot())
    document["datasets"].append(table)
    return tomlkit.dumps(document)


def _dataset_keys(settings: TomlSettings) -> dict[str, Any]:
    """The keys that are written into `[[datasets]]`."""
    keys = _written(settings, of_dataset=True)
    # FluxTrainer reads the resolution itself, and only as a list
    if settings.target == FLUX_TRAINER or len(set(settings.sides)) > 1:
        keys["resolution"] = list(settings.sides)
    return keys | settings.more.of_dataset


def _subset_keys(settings: TomlSettings) -> dict[str, Any]:
    """The keys that are written into `[[datasets.subsets]]`, except `image_dir`."""
    return _written(settings, of_dataset=False) | settings.more.of_subset


def _written(settings: TomlSettings, of_dataset: bool) -> dict[str, Any]:
    """Where a default is wanted, most keys are left out."""
    values = {key.name: getattr(settings, key.name, key.written_default) for key in KEYS if key.widget or key.always}
    asked = {name for name, value in values.items() if BY_NAME[name].always or value != BY_NAME[name].written_default}
    return {
        name: value
        for name, value in values.items()
        if BY_NAME[name].of_dataset == of_dataset and (BY_NAME[name].only_with or name) in asked
    }


def _regularisation_keys(settings: TomlSettings) -> dict[str, Any]:
    """Of the other subset's keys only those that sd-scripts asserts to be the same in a batch (train_util.py,
    get_item_for_caching): a trigger word in caption_prefix, for one, is not for regularisation pictures."""
    shared = {name: value for name, value in _subset_keys(settings).items() if BY_NAME[name].same_in_a_batch}
    own = {"num_repeats": settings.regularisation_repeats, "caption_extension": CAPTION_EXTENSION, "is_reg": True}
    return own | shared


def _nearest(value: int, step: int) -> int:
    return max(step, round(value / step) * step)
