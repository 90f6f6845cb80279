"""A dataset in the formats of other trainers and of the Hugging Face Hub; kohya's own is `dataset.config_writer`'s."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from ..dataset.config_schema import CAPTION_EXTENSION
from ..dataset.config_writer import TomlSettings, link_picture, write_dataset_toml, write_training_files
from ..dataset.records import Dataset, Record
from ..errors import SettingsError
from ..files import appearing, content_hash, remove_partials, write_changed
from ..progress import Progress, silent
from .dataset_card import dataset_card

CARD = "README.md"  # the name that the Hub looks for
IMAGE_FOLDER = "Hugging Face imagefolder"  # in FORMATS
TRAIN, ROWS = "train", "metadata.jsonl"  # within it


@dataclass(frozen=True)
class ExportSettings:
    """What the formats say beside pictures and captions.

    Raises:
        SettingsError: a value is out of range.
    """

    resolution: int = 512  # pixels: side of the square that has the area of a bucket
    num_repeats: int = 1  # times each picture is shown in an epoch
    caption_dropout_rate: float = 0.05  # share of pictures trained with an empty caption
    license: str = "other"  # identifier of the Hub, for the card

    def __post_init__(self) -> None:
        for name in ("resolution", "num_repeats"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}. It must be at least 1.")
        if not math.isfinite(self.caption_dropout_rate) or not 0 <= self.caption_dropout_rate <= 1:
            raise SettingsError(f"caption_dropout_rate is {self.caption_dropout_rate}. It is a share, from 0 to 1.")


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
        folder: absolute; holds `config` and the card.
        config: the file that the trainer or the Hub reads.
        note: what a person must do or know.
    """

    folder: str
    config: str
    note: str


def export_dataset(dataset: Dataset, format: str, settings: ExportSettings, progress: Progress = silent) -> Export:
    """Write the dataset in one of `FORMATS`, with a dataset card, under its `exports` folder.

    What is there already and whole is left alone.

    Raises:
        DatasetError: a picture has no caption, or its file is missing or damaged.
        SettingsError: the format is unknown, or the license is no identifier.
    """
    if format not in FORMATS:
        raise SettingsError(f"format is '{format}'. Choose one of: {', '.join(FORMATS)}.")
    card = dataset_card(dataset, settings.license)
    place = f"{dataset.revision}-{content_hash(asdict(settings), 8)}"
    folder = Path(dataset.folder) / "exports" / format.lower().replace(" ", "-") / place
    config, note = FORMATS[format](dataset, folder, settings, progress)
    write_changed(folder / CARD, card)
    return Export(str(folder), str(config), note)


def _ai_toolkit(dataset: Dataset, folder: Path, settings: ExportSettings, progress: Progress) -> tuple[Path, str]:
    """The block of `datasets` in a config of ostris/ai-toolkit (toolkit/config_modules.py, DatasetConfig)."""
    import yaml

    block = {
        "folder_path": write_training_files(dataset, progress).as_posix(),
        "caption_ext": CAPTION_EXTENSION.lstrip("."),  # as in its examples
        "caption_dropout_rate": settings.caption_dropout_rate,
        "num_repeats": settings.num_repeats,
        "resolution": [settings.resolution],
        "buckets": True,
        "shuffle_tokens": False,
        "cache_latents_to_disk": True,
    }
    text = yaml.safe_dump({"datasets": [block]}, sort_keys=False, allow_unicode=True, width=10_000)
    write_changed(folder / "datasets.yaml", text)
    return folder / "datasets.yaml", "Put the list under config.process[0].datasets of the ai-toolkit job."


def _simple_tuner(dataset: Dataset, folder: Path, settings: ExportSettings, progress: Progress) -> tuple[Path, str]:
    """`multidatabackend.json` of bghira/SimpleTuner (documentation/DATALOADER.md): pictures and the text embeddings."""
    images = {
        "id": f"{dataset.name}-{dataset.revision}",
        "type": "local",
        "dataset_type": "image",
        "instance_data_dir": write_training_files(dataset, progress).as_posix(),
        "crop": False,
        "resolution": settings.resolution,
        "resolution_type": "pixel_area",  # the area of a square of that side, as kohya counts
        "caption_strategy": "textfile",
        "repeats": settings.num_repeats - 1,  # how often again: 0 shows each picture once
        "metadata_backend": "discovery",
        "cache_dir_vae": (folder / "cache" / "vae").as_posix(),
    }
    embeddings = {
        "id": f"{dataset.name}-text-embeds",
        "type": "local",
        "dataset_type": "text_embeds",
        "default": True,
        "cache_dir": (folder / "cache" / "text").as_posix(),
    }
    path = folder / "multidatabackend.json"
    write_changed(path, json.dumps([images, embeddings], indent=2, ensure_ascii=False) + "\n")
    return path, (
        "Name this file in data_backend_config of SimpleTuner's config.json, and set caption_dropout_probability to "
        f"{settings.caption_dropout_rate} there: it is not part of this file."
    )


def _one_trainer(dataset: Dataset, folder: Path, settings: ExportSettings, progress: Progress) -> tuple[Path, str]:
    """A list of concepts of Nerogar/OneTrainer (modules/util/config/ConceptConfig.py), which takes what is left out as
    its own default."""
    concept = {
        "__version": 2,
        "name": dataset.name,
        "path": write_training_files(dataset, progress).as_posix(),
        "seed": 0,
        "enabled": True,
        "type": "STANDARD",
        "include_subdirectories": False,
        "image_variations": 1,
        "text_variations": 1,
        "balancing": float(settings.num_repeats),
        "balancing_strategy": "REPEATS",
        "loss_weight": 1.0,
        "image": {
            "__version": 0,
            "enable_crop_jitter": False,
            "enable_random_flip": False,
            "enable_resolution_override": True,
            "resolution_override": str(settings.resolution),
        },
        "text": {"__version": 0, "prompt_source": "sample", "enable_tag_shuffling": False},
    }
    path = folder / "concepts.json"
    write_changed(path, json.dumps([concept], indent=4, ensure_ascii=False) + "\n")
    return path, (
        "Put this file into OneTrainer's training_concepts folder and choose it under concepts. Caption dropout is "
        f"not part of it: set the dropout probability of the text encoders to {settings.caption_dropout_rate}."
    )


def _sd_scripts(dataset: Dataset, folder: Path, settings: ExportSettings, progress: Progress) -> tuple[Path, str]:
    """The dataset config of kohya-ss/sd-scripts, in the export's folder; Dataset TOML Writer has all of its keys."""
    usual, side = TomlSettings(), settings.resolution
    keys = TomlSettings(
        resolution=side,
        num_repeats=settings.num_repeats,
        min_bucket_reso=min(usual.min_bucket_reso, max(side, usual.bucket_reso_steps)),
        max_bucket_reso=max(usual.max_bucket_reso, side),
    )
    written = write_dataset_toml(dataset, keys, progress)
    path = folder / "dataset.toml"
    write_changed(path, Path(written.path).read_text(encoding="utf-8"))
    return path, "Name this file in dataset_config of sd-scripts. Cached captions, as usual for FLUX, know no dropout."


def image_folder_files(dataset: Dataset) -> tuple[str, ...]:
    """Names within its folder of the files of an export as imagefolder."""
    pictures = (f"{TRAIN}/{Path(record.file_name).name}" for record in dataset.records())
    return (CARD, f"{TRAIN}/{ROWS}", *pictures)


def _image_folder(dataset: Dataset, folder: Path, settings: ExportSettings, progress: Progress) -> tuple[Path, str]:
    """Hugging Face's imagefolder: `train/metadata.jsonl` and the pictures beside it."""
    records = dataset.records()
    train = folder / TRAIN
    rows = "".join(json.dumps(_row(record)) + "\n" for record in records)  # ASCII escapes: a row stays a line
    names = {Path(record.file_name).name for record in records}
    if not train.is_dir() or not names <= {path.name for path in train.iterdir()}:
        remove_partials(folder)
        with appearing(train) as partial:
            partial.mkdir(parents=True)
            for done, record in enumerate(records, start=1):
                if not (target := partial / Path(record.file_name).name).exists():
                    link_picture(dataset, record, target)
                progress(done, len(records), f"Picture {done} of {len(records)}")
    write_changed(train / ROWS, rows)
    if any(sign in str(folder) for sign in "*?[]"):
        return train / ROWS, (
            f"Upload the folder {folder} to the Hub, or copy it to a path without * ? [ ], which load_dataset reads as "
            "a pattern."
        )
    return train / ROWS, (
        f"Load it with load_dataset('imagefolder', data_dir={str(folder)!r}), or upload the folder to the Hub."
    )


def _row(record: Record) -> dict[str, object]:
    columns = asdict(record)
    del columns["size"], columns["source_sha256"]
    return columns | {"file_name": Path(record.file_name).name}


Writer = Callable[[Dataset, Path, ExportSettings, Progress], tuple[Path, str]]
FORMATS: dict[str, Writer] = {
    "ai-toolkit": _ai_toolkit,
    "SimpleTuner": _simple_tuner,
    IMAGE_FOLDER: _image_folder,
    "OneTrainer": _one_trainer,
    "sd-scripts": _sd_scripts,
}
