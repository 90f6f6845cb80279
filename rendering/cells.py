"""The pictures of a progress grid: every prompt with every chosen checkpoint, each kept in the run folder as soon as it
is done, so that a stop loses at most the picture being made and a later grid makes only what is missing.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..dataset.pictures import PictureRefused, seen
from ..errors import ModelError, TrainingError, check_finite
from ..files import appearing, content_hash, file_hash, remove_partials
from ..job_log import stage
from ..progress import Progress
from .grid import Label, progress_grid

CELL_VERSION = 1  # raise when the same inputs would give another picture
PREVIEW_CELL = 160  # pixels of a cell's longer side in the live preview

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


@dataclass(frozen=True)
class Column:
    """One checkpoint: the step it was saved at and its LoRA file, or step 0 and None for the base model.

    `note` is written below the step, for example the held-out loss.
    """

    step: int
    adapter: Path | None
    note: str = ""

    @property
    def label(self) -> Label:
        return Label(f"step {self.step}" if self.adapter else "base model", self.note)


@dataclass(frozen=True)
class Grid:
    """What a grid is of.

    Attributes:
        name: the run's name, the title.
        folder: where the pictures are kept, one PNG a cell.
        columns: the checkpoints, base model first.
        prompts: the rows.
        sampling: how each picture is sampled.
        strength: of the LoRA.
        models: identity of the MODEL, CLIP and VAE; pictures of other models are other pictures.
    """

    name: str
    folder: Path
    columns: tuple[Column, ...]
    prompts: tuple[PromptToDraw, ...]
    sampling: Sampling
    strength: float
    models: str

    def __post_init__(self) -> None:
        check_finite(strength=self.strength)

    def picture(self, cells: Mapping[tuple[int, int], Image.Image], longest: int | None = None) -> Image.Image:
        """The grid with the cells there are, in full size or with a cell's longer side at most `longest` pixels."""
        width, height = self.sampling.width, self.sampling.height
        share = min(1.0, longest / max(width, height)) if longest else 1.0
        return progress_grid(
            Label(self.name, self._note()),
            [Label(prompt.text, f"seed {prompt.seed}") for prompt in self.prompts],
            [column.label for column in self.columns],
            cells,
            (round(width * share), round(height * share)),
        )

    def _note(self) -> str:
        sampling = self.sampling
        return (
            f"{sampling.width}×{sampling.height} pixels,  {sampling.steps} steps of {sampling.sampler_name}, "
            f"{sampling.scheduler} schedule,  guidance {sampling.guidance:g},  LoRA strength {self.strength:g}"
        )


class Painter(Protocol):
    """Samples pictures with a model; `nodes.host.sampling.ComfyPainter` does it with ComfyUI."""

    def encode(self, texts: Sequence[str]) -> None:
        """Encode all texts at once, so that text encoders and model need not take turns in memory."""

    def use(self, adapter: Path | None) -> None:
        """Apply a LoRA file to the base model, or none.

        Raises:
            ModelError: the LoRA is another model's.
        """

    def paint(self, text: str, seed: int, on_step: Callable[[int], None]) -> Image.Image | None:
        """Sample an encoded text; calls `on_step` with the number of steps done. None: the picture is not finite."""


def columns_of(
    run: str, checkpoints: Mapping[int, Path], count: int, held_out: Mapping[int, float]
) -> tuple[Column, ...]:
    """The base model and at most `count - 1` checkpoints, evenly spread, the last always among them.

    Args:
        run: the run's name, for the error.
        checkpoints: step -> LoRA file.
        count: columns, at least 2.
        held_out: step -> held-out loss, written below the steps it is known for.

    Raises:
        TrainingError: there is no checkpoint yet.
    """
    steps = sorted(checkpoints)
    if not steps:
        raise TrainingError(
            f"The run '{run}' has no checkpoint to show yet. Let it train until its first one, or load another run."
        )
    chosen = _spread(steps, max(count, 2) - 1)
    notes = {step: f"held-out {loss:.4f}" for step, loss in held_out.items()}
    return (
        Column(0, None, notes.get(0, "")),
        *(Column(step, checkpoints[step], notes.get(step, "")) for step in chosen),
    )


def _spread(steps: list[int], count: int) -> list[int]:
    """At most `count` of `steps` at equal distances in steps from the base model's 0 to the last, each once."""
    if len(steps) <= count:
        return steps
    targets = [steps[-1] * number / count for number in range(1, count + 1)]
    nearest = {min(steps, key=lambda step: abs(step - target)) for target in targets}
    return sorted(nearest)


def render(grid: Grid, painter: Painter, progress: Progress) -> dict[tuple[int, int], Image.Image]:
    """Make every cell that is not in the grid's folder yet, checkpoint by checkpoint.

    Returns:
        The pictures by (row, column). A checkpoint whose LoRA file is gone, or whose pictures are not finite (a
        diverged training), has none; the log says so.

    Raises:
        ModelError: no picture at all is finite, or a LoRA is another model's.
    """
    remove_partials(grid.folder)
    paths = _paths(grid)
    pictures = {path: picture for path in set(paths.values()) if (picture := _load(path, grid.sampling))}
    missing = {place: path for place, path in paths.items() if path not in pictures}
    _refuse_early(grid, missing, painter)
    steps = grid.sampling.steps
    if missing:
        progress(steps * (len(paths) - len(missing)), steps * len(paths), "Encoding the prompts")
    with stage("encode prompts"):
        painter.encode([grid.prompts[row].text for row in sorted({row for row, _ in missing})])

    def cells() -> dict[tuple[int, int], Image.Image]:
        return {place: pictures[path] for place, path in paths.items() if path in pictures}

    for index, column in enumerate(grid.columns):
        rows = [row for row in range(len(grid.prompts)) if (row, index) in missing]
        if rows:
            with stage("apply checkpoints", 1):
                painter.use(column.adapter)
        for row in rows:
            if paths[row, index] in pictures:  # the same prompt and seed twice
                continue
            done = sum(path in pictures for path in paths.values())
            text = f"{column.label.text}, prompt {row + 1} of {len(grid.prompts)}"
            report = _reporter(steps, len(paths), progress, done, text)
            report(0)
            with stage("paint pictures", 1):
                picture = painter.paint(grid.prompts[row].text, grid.prompts[row].seed, report)
            if picture is None:
                log.warning("%s gives no finite picture of '%s': its cell stays empty", *_named(grid, row, index))
                continue
            _save(paths[row, index], picture, grid, row, index)
            pictures[paths[row, index]] = picture
            report(steps, grid.picture(cells(), PREVIEW_CELL))
    if not pictures:
        raise ModelError(
            "Not one picture of the grid is finite, the base model's neither. Check that MODEL, CLIP and VAE belong "
            "together, and load the VAE in a wider precision (ComfyUI's --fp32-vae)."
        )
    return cells()


def _refuse_early(grid: Grid, missing: Mapping[tuple[int, int], Path], painter: Painter) -> None:
    """Apply one LoRA before anything is sampled: one of another model is refused before the base model's pictures."""
    adapters = [grid.columns[index].adapter for _, index in missing if grid.columns[index].adapter]
    if adapters:
        painter.use(adapters[0])


def _reporter(steps: int, total: int, progress: Progress, done: int, text: str) -> Callable[..., None]:
    def report(step: int, preview: Image.Image | None = None) -> None:
        progress(done * steps + step, total * steps, f"{text}: step {step} of {steps}", preview)

    return report


def _named(grid: Grid, row: int, index: int) -> tuple[str, str]:
    return grid.columns[index].label.text, grid.prompts[row].text


def _paths(grid: Grid) -> dict[tuple[int, int], Path]:
    """Where each cell's picture lies: named by everything that makes it. Columns whose LoRA file is gone have none."""
    paths = {}
    for index, column in enumerate(grid.columns):
        if column.adapter and not column.adapter.is_file():
            log.warning("%s has no LoRA file any more (%s): its column stays empty", column.label.text, column.adapter)
            continue
        # The base model's pictures do not depend on the LoRA's strength.
        weights = [file_hash(column.adapter), grid.strength] if column.adapter else []
        for row, prompt in enumerate(grid.prompts):
            made_of = [CELL_VERSION, grid.models, weights, prompt.text, prompt.seed, asdict(grid.sampling)]
            paths[row, index] = grid.folder / f"step-{column.step:06d}-{content_hash(made_of)}.png"
    return paths


def _load(path: Path, sampling: Sampling) -> Image.Image | None:
    """The picture kept at `path`; one that a failing disk damaged is made again like one that is not there."""
    try:
        picture = seen(path)
    except PictureRefused:
        return None
    return picture if picture.size == (sampling.width, sampling.height) else None


def _save(path: Path, picture: Image.Image, grid: Grid, row: int, index: int) -> None:
    prompt = grid.prompts[row]
    about = {"run": grid.name, "step": grid.columns[index].step, "prompt": prompt.text, "seed": prompt.seed}
    metadata = PngInfo()
    metadata.add_itxt("impasto", json.dumps(about | asdict(grid.sampling) | {"strength": grid.strength}))
    with appearing(path) as temporary:
        picture.save(temporary, format="PNG", pnginfo=metadata)
