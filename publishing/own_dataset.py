"""Whether a dataset is the one that a run was trained on, by what the run's encoded training data names.

A card that shows another set's sources and rights would be untrue, however it came about.
"""

from __future__ import annotations

from pathlib import Path

from ..dataset.records import Dataset
from ..errors import DatasetError, FeatureError, SettingsError
from ..trainers.features import index
from ..trainers.run.folder import Job, Run


def check_own(run: Run, dataset: Dataset) -> str:
    """Refuse a dataset that lacks pictures which the run was trained on; other captions of the same are no matter.

    Regularisation pictures come from a dataset of their own and are left out.

    Returns:
        What a person should know: that it could not be checked, or that the dataset has more; "" for nothing.

    Raises:
        SettingsError: pictures that the run was trained on are not in the dataset.
        DatasetError: the dataset's manifest is gone.
    """
    job = Job.read(run)
    features = index.Features(job.features_folder, job.features_key)
    known = {record.sha256 for record in dataset.records()}
    try:
        trained = {example.image for example in index.load(features).examples if not example.is_reg}
    except FeatureError:
        return (
            f"Whether the run was trained on dataset '{dataset.name}' could not be checked: its encoded training data "
            f"no longer lies in {job.features_folder}."
        )
    files = _files(features, trained - known)
    missing = {image for image in trained - known if not _stands_for(files.get(image), known)}
    if missing:
        came_from = f" It was trained on {_folders(features)}." if files else ""
        raise SettingsError(
            f"Dataset '{dataset.name}', revision {dataset.revision}, is not the one that the run '{run.id}' was "
            f"trained on: {len(missing):,} of the {len(trained):,} pictures of the training are not in it.{came_from} "
            "Connect the dataset that went into Dataset TOML Writer for this run, or none."
        )
    if len(known) > len(trained):
        return (
            f"The run was trained on {len(trained):,} of the {len(known):,} pictures of dataset '{dataset.name}'; the "
            "card tells of all of them."
        )
    return ""


def _files(features: index.Features, images: set[str]) -> dict[str, Path]:
    try:
        return index.picture_files(features, images)
    except DatasetError:
        return {}


def _stands_for(file: Path | None, known: set[str]) -> bool:
    """Whether a training file was made from a picture of the set: it bears the first digits of that one's hash."""
    return file is not None and index.named_by_hash(file) and any(image.startswith(file.stem) for image in known)


def _folders(features: index.Features) -> str:
    return ", ".join(sorted({str(picture.path.parent) for picture in index.pictures(features)}))
