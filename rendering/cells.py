"""The progress grid of a run: which checkpoints are its columns, and every prompt painted with each of them, kept in
the run folder, so that a later grid makes only what is missing.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import SettingsError, TrainingError, check_finite
from ..files import file_hash
from ..progress import Progress
from .grid import SEAM, Label, mosaic
from .painting import Painter, PictureToPaint, PromptToDraw, Sampling, Weights, paint_missing, painting_name
from .picture_grid import PictureGrid, Preview, check_number

MOST_COLUMNS = 1000

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Column:
    """One checkpoint: the step it was saved at and its LoRA file, or step 0 and None for the base model.

    `note` is written below the step, for example the held-out loss; `best` marks the column.
    """

    step: int
    adapter: Path | None
    note: str = ""
    best: bool = False

    @property
    def label(self) -> Label:
        return Label(f"step {self.step}" if self.adapter else "base model", self.note, self.best)


@dataclass(frozen=True)
class Grid:
    """What a grid is of.

    Attributes:
        name: the run's id, which is written into every picture.
        folder: where the pictures are kept, one PNG a cell.
        columns: the checkpoints, base model first.
        prompts: the rows.
        sampling: how each picture is sampled.
        strength: of the LoRA.
        models: identity of the MODEL, CLIP and VAE; pictures of other models are other pictures.
        title: what the grid is called, where that is not the run's id.
        seeds: each cell shows a picture with each of these; empty for one, with the prompt's own.
        theme: "light" or "dark".
        cell: pixels of a cell's longer side as it is drawn; 0 for that of the pictures.
    """

    name: str
    folder: Path
    columns: tuple[Column, ...]
    prompts: tuple[PromptToDraw, ...]
    sampling: Sampling
    strength: float
    models: str
    title: str = ""
    seeds: tuple[int, ...] = ()
    theme: str = "light"
    cell: int = 0

    def __post_init__(self) -> None:
        check_finite(strength=self.strength)

    def seeds_of(self, prompt: PromptToDraw) -> tuple[int, ...]:
        return self.seeds or (prompt.seed,)


def steps_wanted(text: str, checkpoints: Mapping[int, Path], best: int | None) -> list[int]:
    """What a person typed as steps, "0, 250, best, last", in ascending order, each once; empty for nothing typed.

    Raises:
        SettingsError: a word is none of these.
    """
    named = {"base": 0, "last": max(checkpoints, default=0)} | ({"best": best} if best is not None else {})
    steps = set()
    for word in re.split(r"[,;\s]+", text.strip().lower()):
        if not word:
            continue
        if word == "best" and best is None:
            continue  # nothing was held out, or not measured yet: the report says so
        if word not in named and not re.fullmatch(r"[0-9]{1,9}", word):
            raise SettingsError(
                f"'{word[:40]}' is no step. Write steps with commas between, for example '0, 250, best, last'; empty "
                "for evenly spread ones."
            )
        steps.add(named[word] if word in named else int(word))
    if len(steps) > MOST_COLUMNS:
        raise SettingsError(f"{len(steps)} steps are asked for. Ask for at most {MOST_COLUMNS}.")
    return sorted(steps)


def best_of(checkpoints: Mapping[int, Path], held_out: Mapping[int, float]) -> int | None:
    """The checkpoint with the lowest held-out loss of at least two that were measured; None where there are fewer."""
    measured = {step: held_out[step] for step in checkpoints if step and math.isfinite(held_out.get(step, math.nan))}
    return min(measured, key=lambda step: (measured[step], step)) if len(measured) > 1 else None


def columns_of(
    run: str, checkpoints: Mapping[int, Path], count: int, held_out: Mapping[int, float], wanted: str = ""
) -> tuple[Column, ...]:
    """The base model and at most `count - 1` checkpoints, evenly spread, the last always among them; or those wanted.

    Args:
        run: the run's name, for the error.
        checkpoints: step -> LoRA file.
        count: columns, at least 2.
        held_out: step -> held-out loss, written below the steps it is known for.
        wanted: steps as `steps_wanted` reads them; one without a checkpoint is a column all the same, and stays empty.

    Raises:
        TrainingError: there is no checkpoint yet.
        SettingsError: `wanted` cannot be read.
    """
    steps = sorted(checkpoints)
    if not steps:
        raise TrainingError(
            f"The run '{run}' has no checkpoint to show yet. Let it train until its first one, or load another run."
        )
    best = best_of(checkpoints, held_out)
    chosen = steps_wanted(wanted, checkpoints, best) or [0, *spread(steps, max(count, 2) - 1)]
    last = checkpoints[steps[-1]]
    notes = {step: f"held-out {loss:.4f}" for step, loss in held_out.items()}
    if best is not None:
        notes[best] = f"best, {notes[best]}"
    return tuple(
        Column(
            step,
            checkpoints.get(step, last.parent.parent / f"step-{step:06d}" / last.name) if step else None,
            notes.get(step, ""),
            step == best,
        )
        for step in chosen
    )


def spread(steps: list[int], count: int) -> list[int]:
    """At most `count` of `steps` at equal distances in steps from the base model's 0 to the last, each once."""
    if len(steps) <= count:
        return steps
    targets = [steps[-1] * number / count for number in range(1, count + 1)]
    nearest = {min(steps, key=lambda step: abs(step - target)) for target in targets}
    return sorted(nearest)


def render(grid: Grid, painter: Painter, progress: Progress) -> PictureGrid:
    """Make every cell that is not in the grid's folder yet, checkpoint by checkpoint.

    Returns:
        The whole grid. A checkpoint whose LoRA file is gone, or whose pictures are not finite (a diverged training),
        has places without a file; the log says so.

    Raises:
        ModelError: no picture at all is finite, or a LoRA is another model's.
    """
    whole, paintings = _planned(grid)
    paint_missing(paintings, grid.sampling, painter, progress, Preview(whole))
    return whole


def _planned(grid: Grid) -> tuple[PictureGrid, list[PictureToPaint]]:
    """Where each picture lies, named by everything that makes it; and those to be made, checkpoint by checkpoint."""
    check_number(len(grid.prompts), len(grid.columns), max(1, len(grid.seeds)))
    files: dict[tuple[int, int], list[Path]] = {}
    paintings = []
    for index, column in enumerate(grid.columns):
        weights = _weights(grid, column)
        for row, prompt in enumerate(grid.prompts):
            for seed in grid.seeds_of(prompt):
                name = painting_name(grid.models, weights or [], prompt.text, seed, grid.sampling)
                file = grid.folder / f"step-{column.step:06d}-{name if weights is not None else 'gone'}.png"
                files.setdefault((row, index), []).append(file)
                if weights is not None:
                    paintings.append(_painting(grid, file, column, row, seed))
    title = Label(grid.title or grid.name, _note(grid))
    rows = tuple(Label(prompt.text, _seeds_said(grid.seeds_of(prompt))) for prompt in grid.prompts)
    cells = tuple(
        tuple(tuple(files[row, column]) for column in range(len(grid.columns))) for row in range(len(grid.prompts))
    )
    columns = tuple(column.label for column in grid.columns)
    about = {"run": grid.name, "steps": [column.step for column in grid.columns]}
    return PictureGrid(title, rows, columns, cells, _cell_size(grid), grid.theme, about), paintings


def _weights(grid: Grid, column: Column) -> list[object] | None:
    """What names a column's weights; None where its LoRA file is gone."""
    if column.adapter is None:
        return []  # the base model's pictures do not depend on the LoRA's strength
    try:
        return [file_hash(column.adapter), grid.strength]
    except FileNotFoundError:
        log.warning("%s has no LoRA file any more (%s): its column stays empty", column.label.text, column.adapter)
        return None


def _painting(grid: Grid, file: Path, column: Column, row: int, seed: int) -> PictureToPaint:
    prompt = grid.prompts[row]
    called = f"{column.label.text}, prompt {row + 1} of {len(grid.prompts)}"
    about = {"run": grid.name, "step": column.step, "prompt": prompt.text, "seed": seed}
    return PictureToPaint(
        file, Weights(column.adapter, grid.strength, column.label.text), prompt.text, seed, called, about
    )


def _seeds_said(seeds: tuple[int, ...]) -> str:
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))}"


def _cell_size(grid: Grid) -> tuple[int, int]:
    """Of a cell with all its seeds, each picture at its own size, or as large as was asked for."""
    across, down = mosaic(max(1, len(grid.seeds)))
    width, height = across * (grid.sampling.width + SEAM) - SEAM, down * (grid.sampling.height + SEAM) - SEAM
    share = min(1.0, grid.cell / max(width, height)) if grid.cell else 1.0
    return max(1, round(width * share)), max(1, round(height * share))


def _note(grid: Grid) -> str:
    run = f"run {grid.name},  " if grid.title and grid.title != grid.name else ""
    return f"{run}{grid.sampling.described()},  LoRA strength {grid.strength:g}"
