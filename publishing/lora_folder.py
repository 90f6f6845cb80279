"""The folder of a published LoRA: weights, card, gallery and grid. The Hub gets the same files."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..dataset.pictures import PictureRefused, seen
from ..dataset.records import Dataset
from ..errors import SettingsError, TrainingError
from ..files import appearing, file_hash, link_or_copy, parsed_json, write_changed
from ..progress import silent
from ..rendering.picture_grid import PictureGrid
from ..trainers.lora.file_formats import read_metadata
from ..trainers.run.folder import Job, Run
from .model_card import BASE_MODELS, Card, GalleryPicture
from .rights import Rights
from .space import write_space

logger = logging.getLogger(__name__)

MOST_SAMPLES = 8  # of the gallery
PICTURE_SIDE = 1024  # pixels of the longer side of a picture in the gallery
CARD_FILE = "README.md"
GRID_FILE = "grid.png"
SPACE_FOLDER = "space"  # beside the LoRA's folder, for it is a repository of its own


@dataclass(frozen=True)
class Publication:
    """What is to be published.

    Attributes:
        name: of the LoRA; its file is called so.
        weights: the LoRA's file.
        run: that trained it.
        base: of `model_card.BASE_MODELS`.
        rights: in the pictures it was trained on.
        trigger: "" for the one that the file's metadata names.
        dataset: the pictures, None where they are not known.
        grid: whose last column is the gallery; None for none.
        repository: "owner/name" on the Hub, or "" where there is none.
    """

    name: str
    weights: Path
    run: Run
    base: str
    rights: Rights
    trigger: str = ""
    dataset: Dataset | None = None
    grid: PictureGrid | None = None
    repository: str = ""


@dataclass(frozen=True)
class Written:
    """A publication's folder, and the names of its files within; whatever else lies there is none of it."""

    folder: Path
    files: tuple[str, ...]


def write_folder(what: Publication, folder: Path) -> Written:
    """Write the LoRA's folder into `folder`, and the Space's beside it where a repository is known.

    What lies there already of the same publication is written only where it differs.

    Returns:
        The LoRA's folder.

    Raises:
        SettingsError: nobody is known to have a right to publish, or the LoRA was trained on another kind of model than
            `what.base`.
        TrainingError: the LoRA's file is gone.
    """
    what.rights.check()
    if not what.weights.is_file():
        raise TrainingError(f"The LoRA {what.weights} is gone. Queue FLUX LoRA Trainer, which puts it there again.")
    inside = folder / what.name
    weights = f"{what.name}.safetensors"
    metadata = read_metadata(what.weights)
    _check_base(what.base, metadata.get("modelspec.architecture", "").partition("/")[0])
    trigger = what.trigger or metadata.get("modelspec.trigger_phrase", "")
    _put(what.weights, inside / weights)
    card = Card(
        name=what.name,
        weights=weights,
        base=what.base,
        rights=what.rights,
        trigger=trigger,
        settings=Job.read(what.run).settings.to_dict(),
        samples=tuple(_gallery(what.grid, inside)) if what.grid else (),
        grid=_grid_page(what.grid, inside) if what.grid else "",
        records=what.dataset.records() if what.dataset else (),
        verdict=_verdict(what.run),
    )
    write_changed(inside / CARD_FILE, card.markdown())
    if what.repository:
        write_space(folder / SPACE_FOLDER, what.name, what.repository, weights, what.base, trigger)
    pictures = (*(sample.file for sample in card.samples), *filter(None, [card.grid]))
    return Written(inside, (CARD_FILE, weights, *pictures))


def _check_base(base: str, trained_on: str) -> None:
    """Refuse a base whose licence is not that of the model which the LoRA says it was trained on."""
    if trained_on and trained_on != BASE_MODELS[base].architecture:
        fitting = [name for name, model in BASE_MODELS.items() if model.architecture == trained_on]
        raise SettingsError(
            f"base_model is {base}, but the LoRA says that it was trained on {trained_on}, which has another licence. "
            f"Choose {' or '.join(fitting) or 'the one that it was trained on'}."
        )


def _put(weights: Path, place: Path) -> None:
    if place.is_file() and file_hash(place) == file_hash(weights):
        return
    with appearing(place) as temporary:
        temporary.unlink(missing_ok=True)
        link_or_copy(weights, temporary)


def _gallery(grid: PictureGrid, inside: Path) -> Iterator[GalleryPicture]:
    """The last column's pictures, a row each; without what a file says of the machine it was made on."""
    number = 0
    for label, row in zip(grid.rows, grid.cells, strict=True):
        for file in row[-1][:1]:
            if number == MOST_SAMPLES:
                return
            try:
                picture = seen(file, (PICTURE_SIDE, PICTURE_SIDE))
            except PictureRefused as refused:
                logger.warning("The gallery goes without %s: %s", file, refused)
                continue
            number += 1
            name = f"images/{number:02d}.jpg"
            _write(picture, inside / name, "JPEG", quality=92)
            yield GalleryPicture(name, label.text)


def _grid_page(grid: PictureGrid, inside: Path) -> str:
    """The first page of the grid, with no graph in it."""
    page = next(grid.pages(silent))
    _write(page, inside / GRID_FILE, "PNG", optimize=True)
    return GRID_FILE


def _write(picture: Image.Image, file: Path, format: str, **options: Any) -> None:
    data = io.BytesIO()
    picture.save(data, format, **options)
    write_changed(file, data.getvalue())


def _verdict(run: Run) -> Sequence[str]:
    """The sentences of the newest evaluation in a run's folder."""
    found = sorted((run.path / "evaluation").glob("*.json"), key=lambda file: file.stat().st_mtime_ns)
    for file in reversed(found):
        try:
            told = parsed_json(file.read_bytes())
            return tuple(line for line in told["verdict"]["why"] if isinstance(line, str))
        except (ValueError, KeyError, TypeError) as error:
            logger.warning("The card goes without the evaluation %s, which cannot be read: %s", file, error)
    return ()
