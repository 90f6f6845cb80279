"""How near one LoRA after another comes to a set's style: for a search that compares them while they are trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy
from PIL import Image

from ..errors import TrainingError
from ..progress import Progress, silent
from ..rendering.cells import Column, Grid, render
from ..rendering.painting import Painter
from .copies import TrainingPictures
from .evaluate import rows_of
from .measures import Measure, structure
from .scores import Interval, Rows, check_enough, content_kept, interval, styles_by
from .verdict import is_apart, is_better, is_lost, none_tells, share

BASE = Column(0, None)


@dataclass(frozen=True, eq=False)
class StyleFound:
    """What a LoRA's pictures are worth beside the base model's of the same prompts and seeds.

    Attributes:
        gained: how far each lies nearer to the set: on the mean 0 is where the base model's lie, 1 where the set's do.
        kept: how much of the base model's composition each keeps: 1 all of it.
        prompts: which of the different prompts each is of, from 0.
        copies: how many repeat a picture of the set.
    """

    gained: numpy.ndarray
    kept: numpy.ndarray
    prompts: Sequence[int]
    copies: int

    @property
    def style(self) -> Interval:
        return interval(self.gained, self.prompts)

    @property
    def content(self) -> Interval:
        return interval(self.kept, self.prompts)

    @property
    def learned(self) -> bool:
        """Whether it is nearer to the set's style than the base model, above the noise."""
        return is_better(self.style)

    @property
    def spoiled(self) -> bool:
        """Whether it no longer paints what the prompts ask for."""
        return is_lost(float(self.kept.mean()))

    def is_like(self, other: StyleFound) -> bool:
        """Whether the two are equally near to the style, as far as these prompts tell."""
        return not is_apart(interval(self.gained - other.gained, self.prompts))

    @property
    def sentences(self) -> list[str]:
        """What to know of it beside how near it is, as people read it."""
        said = []
        if not self.learned:
            said.append("That is no nearer to the set's style than the base model, above the noise: nothing is learned")
        said.append(f"It keeps {share(self.content)} of the base model's composition")
        if self.spoiled:
            said.append("That is little: look whether it still paints what the prompts ask for")
        if self.copies:
            said.append(f"{self.copies} of its {len(self.gained)} pictures repeat training pictures")
        return said


class StyleJudge:
    """Judges by the measure that tells the set from the base model best, which is found before the first LoRA.

    Attributes:
        measure: its name.
    """

    def __init__(
        self,
        grid: Grid,
        painter: Painter,
        pictures: tuple[Sequence[Image.Image], Sequence[Image.Image]],
        measures: Sequence[Measure],
        progress: Progress = silent,
    ) -> None:
        """Paint and measure the base model's pictures.

        Args:
            grid: prompts, sampling and where the pictures are kept; its columns do not matter.
            pictures: of the set, and the same as the VAE shows them: `evaluate.of_the_set`.

        Raises:
            TrainingError: there are too few prompts or pictures, or no measure tells the set from the base model.
            ModelError: not one picture of the base model is finite.
        """
        self._grid, self._painter = grid, painter
        training, round_trips = pictures
        check_enough(len({prompt.text for prompt in grid.prompts}), len(round_trips))
        self._base = self._painted([BASE], progress)
        self._prompts, base = self._base.prompts, self._base.column(0)
        check_enough(len(set(self._prompts)), len(round_trips))  # some may not be finite
        tried = []
        for done, measure in enumerate(measures):
            progress(done, len(measures), f"Measuring {measure.name}")
            ways = styles_by(measure, [measure.embed(base)], self._prompts, measure.embed(round_trips))
            tried += [(way, measure) for way in ways]
        lead, self._measure = max(tried, key=lambda each: each[0].calibration.auc)
        if not lead.calibration.trusted:
            raise TrainingError(f"{none_tells(lead)}. Connect a CLIP vision model, or judge by held-out loss.")
        self.measure, self._calibration = lead.name, lead.calibration
        self._shown, self._known = structure(base), TrainingPictures(training)

    def judged(self, step: int, adapter: Path, progress: Progress = silent) -> StyleFound:
        """Paint with a LoRA of so many steps what is not painted yet, and measure it.

        Raises:
            TrainingError: some of its pictures are not finite, so that it cannot be compared with others.
            ModelError: the LoRA is another model's.
        """
        painted = self._painted([BASE, Column(step, adapter)], progress)
        if missing := len(self._base.rows) - len(painted.rows):
            raise TrainingError(
                f"{missing} of its {len(self._base.rows)} pictures at step {step} are not finite: its rate may be too "
                "high."
            )
        pictures = painted.column(1)
        placed = self._calibration.place(self._measure.embed(pictures), self._prompts)
        return StyleFound(
            placed - self._calibration.base,
            content_kept(self._shown, structure(pictures), self._prompts),
            self._prompts,
            len(self._known.copies(pictures)),
        )

    def _painted(self, columns: Sequence[Column], progress: Progress) -> Rows:
        grid = replace(self._grid, columns=tuple(columns))
        return rows_of(grid, render(grid, self._painter, progress))
