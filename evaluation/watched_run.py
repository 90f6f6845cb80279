"""The pictures that a run stumbles over, found again on disk: a list for other nodes, a report, and a sheet."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..dataset import watch_list
from ..dataset.pictures import thumbnail
from ..drawing.contact_sheet import contact_sheet
from ..drawing.palette import LIGHT, Theme
from ..errors import DatasetError, TrainingError
from ..files import content_hash, file_hash, write_changed
from ..progress import Progress, silent
from ..trainers.features import index
from ..trainers.run.folder import Job
from .loss_watch import FEWEST_OBSERVATIONS, FEWEST_PICTURES, Observation, observations, watch
from .measuring_pass import VERSION, measure

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..trainers.features.feature_set import Example
    from ..trainers.run.folder import Run
    from .measuring_pass import Velocity

FOLDER = "watched"  # of a run
RESULT = "pictures.json"
SHOWN_DIGITS = 12  # of a picture's hash
LISTED = 20  # pictures in the report


@dataclass(frozen=True)
class WatchedPicture:
    """A picture to look at: the hash of its content, the digits by which it is named, its file ("" where it is gone),
    its caption, and why."""

    image: str
    digits: str
    file: str
    caption: str
    kind: str
    deviation: float
    reason: str


@dataclass(frozen=True)
class LossWatch:
    """What was found in a run, the surest first."""

    title: str
    pictures: tuple[WatchedPicture, ...]
    report: str

    @property
    def listed(self) -> str:
        return watch_list.written((one.digits, one.reason) for one in self.pictures)

    def sheet(self, theme: Theme = LIGHT) -> Image:
        """A contact sheet of the pictures, the reason under each."""
        return contact_sheet(
            self.title, [(Path(one.file), f"{one.digits[:8]} {one.reason}") for one in self.pictures], thumbnail, theme
        )


def watch_run(run: Run, velocity: Velocity | None = None, model: str = "", progress: Progress = silent) -> LossWatch:
    """Name the pictures of a run's training data to look at; what is found is kept in the run's folder.

    Args:
        velocity: a model to measure every picture with, as `measuring_pass.measure` takes it: the base model, for one
            that has learned the pictures has learned their wrong captions too. None: by training's losses alone.
        model: identity of that model.

    Raises:
        TrainingError: the run's folder is gone, or nothing is known of single pictures.
        FeatureError: the training data is gone or damaged.
    """
    if not run.path.is_dir():
        raise TrainingError(f"The folder of the run '{run.id}' is gone ({run.path}). Load another run.")
    job = Job.read(run)
    features = index.Features(job.features_folder, job.features_key)
    loaded = index.load(features)
    examples = {example.id: example for example in loaded.examples if not example.is_reg}
    trained = [one for one in observations(run.metrics()) if one.example in examples]
    measured = {}
    if velocity is not None:
        kept = run.path / FOLDER / f"{content_hash([VERSION, model, job.features_key])}.jsonl"
        kept.parent.mkdir(exist_ok=True)
        measured = measure(loaded, list(examples.values()), velocity, kept, progress)
    elif not trained:
        raise TrainingError(
            f"The run '{run.id}' was trained by a version that did not record the loss of each picture. Connect the "
            "base model to Loss Watch, which then measures every picture, or train anew."
        )
    found = watch(trained, measured)
    files = files_of(features, {examples[one.example].image for one in found})
    pictures = []
    for one in found:
        example = examples[one.example]
        file = files.get(example.image)
        digits = file.stem if file and index.named_by_hash(file) else example.image[:SHOWN_DIGITS]
        shown = (digits, str(file or ""), example.caption, one.kind, round(one.deviation, 2), one.reason)
        pictures.append(WatchedPicture(example.image, *shown))
    title = f"{run.name}: {len(pictures)} of {len(examples)} pictures to look at"
    result = LossWatch(title, tuple(pictures), _report(title, pictures, examples, trained, bool(measured)))
    without_paths = [{key: value for key, value in asdict(one).items() if key != "file"} for one in pictures]
    told = {"title": title, "pictures": without_paths}  # the page finds the files by their content
    write_changed(run.path / FOLDER / RESULT, (json.dumps(told, ensure_ascii=False, indent=1) + "\n").encode())
    return result


def files_of(features: index.Features, images: set[str]) -> dict[str, Path]:
    """Training's files by the hash of their content, as far as they are where they were and what they were."""
    try:
        return {
            image: file for image, file in index.picture_files(features, images).items() if file_hash(file) == image
        }
    except (DatasetError, OSError):
        return {}  # the training files were moved: what was found is told without thumbnails


def _report(
    title: str,
    pictures: list[WatchedPicture],
    examples: dict[str, Example],
    trained: list[Observation],
    measured: bool,
) -> str:
    lines = [f"{title}."]
    if len(examples) < FEWEST_PICTURES:
        lines.append(f"With fewer than {FEWEST_PICTURES} pictures nothing can be said of what is usual among them.")
    lines += [f"{one.digits[:8]} {one.reason}" for one in pictures[:LISTED]]
    if len(pictures) > LISTED:
        lines.append(f"… and {len(pictures) - LISTED} more.")
    if not measured:
        seen = len(trained) / max(1, len(examples))
        few = f", too few: {FEWEST_OBSERVATIONS} are needed" if seen < FEWEST_OBSERVATIONS else ""
        lines.append(
            f"By training's losses alone, {seen:.0f} of each picture on the mean{few}: these find what is plainly "
            "foreign and hardly any wrong caption. Connect the base model to measure every picture."
        )
    return "\n".join(lines)
