"""Sampled pictures that are kept one by one: each in a file named by all that makes it, so that a stop loses at most
the picture being made, and what is asked for again is only what is missing. Weights are loaded once, each LoRA put on
in turn.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..dataset.pictures import PictureRefused, seen
from ..errors import ModelError, check_finite
from ..files import appearing, content_hash, remove_partials
from ..job_log import stage
from ..progress import Progress

CELL_VERSION = 1  # raise when the same inputs would give another picture

log = logging.getLogger(__name__)


class PromptToDraw(Protocol):
    """What `prompting.prompt_set.Prompt` looks like from here."""

    @property
    def text(self) -> str: ...
    @property
    def seed(self) -> int: ...


@dataclass(frozen=True)
class Sampling:
    """How pictures are sampled: pixels, sampler steps, FLUX's guidance, ComfyUI's sampler and scheduler names."""

    width: int = 512
    height: int = 512
    steps: int = 20
    guidance: float = 3.5
    sampler_name: str = "euler"
    scheduler: str = "simple"

    def __post_init__(self) -> None:
        check_finite(guidance=self.guidance)

    def described(self) -> str:
        """In words, as a picture's title line says it."""
        return (
            f"{self.width}×{self.height} pixels,  {self.steps} steps of {self.sampler_name}, "
            f"{self.scheduler} schedule,  guidance {self.guidance:g}"
        )


@dataclass(frozen=True)
class Weights:
    """A LoRA file at a strength, or the base model alone (`adapter` None); `label` names it to people."""

    adapter: Path | None = None
    strength: float = 1.0
    label: str = "base model"


@dataclass(frozen=True)
class PictureToPaint:
    """One picture to be made: its file, what of, and what to write into it beside the sampling."""

    file: Path
    weights: Weights
    text: str
    seed: int
    called: str  # for progress: "step 250, prompt 2 of 4"
    about: Mapping[str, Any] = field(default_factory=dict)


class Painter(Protocol):
    """Samples pictures with a model; `nodes.host.sampling.ComfyPainter` does it with ComfyUI."""

    def encode(self, texts: Sequence[str]) -> None:
        """Encode all texts at once, so that text encoders and model need not take turns in memory."""

    def use(self, adapter: Path | None, strength: float) -> None:
        """Apply a LoRA file to the base model, or none.

        Raises:
            ModelError: the LoRA is another model's.
            FileNotFoundError: the file is gone.
        """

    def paint(self, text: str, seed: int, on_step: Callable[[int], None]) -> Image.Image | None:
        """Sample an encoded text; calls `on_step` with the number of steps done. None: the picture is not finite."""


class Watcher(Protocol):
    """Puts pictures together as they come to be; `picture_grid.Preview` is one."""

    def put(self, file: Path, picture: Image.Image) -> None: ...
    def picture(self) -> Image.Image: ...


def painting_name(models: str, weights: Sequence[object], text: str, seed: int, sampling: Sampling) -> str:
    """Sixteen digits that name a picture by everything that makes it.

    Args:
        models: identity of the MODEL, CLIP and VAE.
        weights: hash of the LoRA's file and its strength; empty for the base model, which no strength changes.
    """
    return content_hash([CELL_VERSION, models, list(weights), text, seed, asdict(sampling)])


def paint_missing(
    paintings: Sequence[PictureToPaint],
    sampling: Sampling,
    painter: Painter,
    progress: Progress,
    watcher: Watcher | None = None,
) -> set[Path]:
    """Make every picture whose file is not there or not whole, in the order given, weights after weights.

    A LoRA whose file is gone meanwhile, and pictures that are not finite (a diverged training), are passed over; the
    log says so.

    Args:
        watcher: is given each picture that is there, and asked for a preview of the whole after each that was made.

    Returns:
        The files that are there.

    Raises:
        ModelError: no picture at all is finite, or a LoRA is another model's.
    """
    for folder in {painting.file.parent for painting in paintings}:
        remove_partials(folder)
    steps, total = sampling.steps, len({painting.file for painting in paintings})
    there = _whole(paintings, sampling, progress, total, watcher)
    missing = list({each.file: each for each in paintings if each.file not in there}.values())
    if missing:
        _refuse_early(missing, painter)
        progress(steps * len(there), steps * total, "Encoding the prompts")
    with stage("encode prompts"):
        painter.encode(list(dict.fromkeys(painting.text for painting in missing)))
    gone: set[Weights] = set()
    used: Weights | None = None
    for painting in missing:
        if painting.weights in gone:
            continue
        if used != painting.weights and not _applied(painting.weights, painter):
            gone.add(painting.weights)
            continue
        used = painting.weights
        report = _reporter(steps, total, progress, len(there), painting.called)
        report(0)
        with stage("paint pictures", 1):
            picture = painter.paint(painting.text, painting.seed, report)
        if picture is None:
            log.warning(
                "%s gives no finite picture of '%s': its cell stays empty", painting.weights.label, painting.text
            )
            continue
        _save(painting, picture, sampling)
        there.add(painting.file)
        if watcher:
            watcher.put(painting.file, picture)
        report(steps, watcher.picture() if watcher else None)
    if missing and not there and not gone:
        raise ModelError(
            "Not one picture of the grid is finite, the base model's neither. Check that MODEL, CLIP and VAE belong "
            "together, and load the VAE in a wider precision (ComfyUI's --fp32-vae)."
        )
    return there


def _whole(
    paintings: Sequence[PictureToPaint],
    sampling: Sampling,
    progress: Progress,
    total: int,
    watcher: Watcher | None,
) -> set[Path]:
    """The files that hold a whole picture of this size; one that a failing disk damaged is made again."""
    there: set[Path] = set()
    for file in dict.fromkeys(painting.file for painting in paintings):
        if not file.is_file():
            continue
        try:
            picture = seen(file)
        except PictureRefused:
            continue
        if picture.size != (sampling.width, sampling.height):
            continue
        there.add(file)
        if watcher:
            watcher.put(file, picture)
        if len(there) % 100 == 0:  # of thousands, reading them takes a minute, in which Cancel is to work
            progress(sampling.steps * len(there), sampling.steps * total, f"{len(there)} pictures are there")
    return there


def _refuse_early(missing: Sequence[PictureToPaint], painter: Painter) -> None:
    """Apply one LoRA before anything is sampled: one of another model is refused before the base model's pictures."""
    for weights in dict.fromkeys(painting.weights for painting in missing if painting.weights.adapter):
        with contextlib.suppress(FileNotFoundError):  # gone: told when its turn comes, and the next one is tried
            painter.use(weights.adapter, weights.strength)
            return


def _applied(weights: Weights, painter: Painter) -> bool:
    """Put a checkpoint or LoRA on the model; False where its file is gone, which the log says."""
    try:
        with stage("apply checkpoints", 1):
            painter.use(weights.adapter, weights.strength)
    except FileNotFoundError:
        log.warning("%s is gone (%s): its pictures stay empty", weights.label, weights.adapter)
        return False
    return True


def _reporter(steps: int, total: int, progress: Progress, done: int, text: str) -> Callable[..., None]:
    def report(step: int, preview: Image.Image | None = None) -> None:
        progress(done * steps + step, total * steps, f"{text}: step {step} of {steps}", preview)

    return report


def _save(painting: PictureToPaint, picture: Image.Image, sampling: Sampling) -> None:
    metadata = PngInfo()
    about = dict(painting.about) | asdict(sampling) | {"strength": painting.weights.strength}
    metadata.add_itxt("impasto", json.dumps(about))
    with appearing(painting.file) as temporary:
        picture.save(temporary, format="PNG", pnginfo=metadata)
