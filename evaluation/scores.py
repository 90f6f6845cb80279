"""What each checkpoint's pictures are worth beside the base model's of the same prompts and seeds, how surely.

Never one merged number: a LoRA that paints one training picture over and over has the style, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy
from PIL import Image

from ..errors import TrainingError
from ..progress import Progress, silent
from .adherence import Adherence, adherence
from .calibration import FEWEST, Calibration, calibrate, calibrate_by_neighbours
from .copies import Copy, TrainingPictures
from .distances import LEAST_COUNT, Distance, distances_from_set, enough
from .measures import Measure, structure

CERTAINTY = 0.98  # of an interval: six checkpoints are compared with one base


@dataclass(frozen=True)
class Interval:
    """A mean, and between which values it lies with a certainty of 98 %, as far as these prompts tell."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Rows:
    """The pictures that are judged.

    Attributes:
        texts: the prompt of each row; rows of one text are one prompt with other seeds.
        steps: of each column, the base model's 0 first.
        pictures: by (row, column); a row that lacks one is left out of everything.
    """

    texts: tuple[str, ...]
    steps: tuple[int, ...]
    pictures: Mapping[tuple[int, int], Image.Image]

    @cached_property
    def rows(self) -> tuple[int, ...]:
        columns = range(len(self.steps))
        return tuple(row for row in range(len(self.texts)) if all((row, column) in self.pictures for column in columns))

    @cached_property
    def prompts(self) -> list[int]:
        """Of each row that counts, which of the different prompts it is of, from 0."""
        order: dict[str, int] = {}
        return [order.setdefault(self.texts[row], len(order)) for row in self.rows]

    @cached_property
    def different(self) -> list[str]:
        """The different prompts, in the order that `prompts` counts."""
        return list(dict.fromkeys(self.texts[row] for row in self.rows))

    def column(self, index: int) -> list[Image.Image]:
        return [self.pictures[row, index] for row in self.rows]


@dataclass(frozen=True)
class StyleScores:
    """One measure of style: how far it can be believed, and where each column's pictures lie, 0 base and 1 set."""

    name: str
    calibration: Calibration
    placed: tuple[numpy.ndarray, ...]


@dataclass(frozen=True)
class Scores:
    """Everything measured, by column.

    Attributes:
        style: one for each measure, and for an image network a second one, by neighbours.
        content: how much of the base model's composition each row keeps: 1 all of it, 0 no more than another prompt's.
        diversity: how different the seeds of a prompt are, beside the base model's: 1 as much; None with one seed each.
        copies: of training pictures; `Copy.picture` counts `painted.rows`.
        limit: likeness from which on a picture is a copy.
        adherence: to the prompts; None without a model that knows pictures and texts.
        distances: of each column's pictures as a whole from the set's; empty without an image network.
        too_few: why there are no distances, as people read it; "" where there are, or nothing to tell them by.
    """

    painted: Rows
    style: tuple[StyleScores, ...]
    content: tuple[numpy.ndarray, ...]
    diversity: tuple[float | None, ...]
    copies: tuple[tuple[Copy, ...], ...]
    limit: float
    adherence: Adherence | None = None
    distances: tuple[Distance, ...] = ()
    too_few: str = ""

    @property
    def lead(self) -> StyleScores:
        """The measure that tells the set from the base model best."""
        return max(self.style, key=lambda style: style.calibration.auc)

    def interval(self, values: numpy.ndarray) -> Interval:
        return interval(values, self.painted.prompts)


def score(
    painted: Rows,
    training: Sequence[Image.Image],
    round_trips: Sequence[Image.Image],
    measures: Sequence[Measure],
    progress: Progress = silent,
) -> Scores:
    """Measure all pictures.

    Args:
        painted: by the base model and the checkpoints.
        training: pictures of the set, cut to the shape that is painted: what may have been copied.
        round_trips: the same or others of the set, encoded and decoded by the VAE that decoded the painted ones, which
            softens what tells a style, in an order that means nothing.
        measures: of style.

    Raises:
        TrainingError: there are too few pictures to say anything.
    """
    check_enough(len(set(painted.prompts)), len(round_trips))
    columns = [painted.column(index) for index in range(len(painted.steps))]
    total = len(measures) + 2
    style, apart, fitting = [], [], None
    networks = any(measure.network for measure in measures)
    told = enough(len(painted.rows), len(round_trips))
    for done, measure in enumerate(measures):
        progress(done, total, f"Measuring {measure.name}")
        vectors, of_set = [measure.embed(pictures) for pictures in columns], measure.embed(round_trips)
        style += styles_by(measure, vectors, painted.prompts, of_set)
        if measure.network and told:
            apart += distances_from_set(measure.name, vectors, painted.prompts, of_set)
        if measure.embed_texts:
            fitting = adherence(vectors, measure.embed_texts(painted.different), painted.prompts)
    progress(total - 2, total, "Comparing what is shown")
    shown = [structure(pictures) for pictures in columns]
    progress(total - 1, total, "Looking for copies of training pictures")
    known = TrainingPictures(training)
    return Scores(
        painted,
        tuple(style),
        tuple(content_kept(shown[0], vectors, painted.prompts) for vectors in shown),
        _diversity(shown, painted.prompts),
        tuple(tuple(known.copies(pictures)) for pictures in columns),
        known.limit,
        fitting,
        tuple(apart),
        _too_few(len(painted.rows), len(round_trips)) if networks and not told else "",
    )


def styles_by(
    measure: Measure, columns: Sequence[numpy.ndarray], prompts: Sequence[int], of_set: numpy.ndarray
) -> list[StyleScores]:
    """What a measure says, in both ways where it is an image network's.

    Args:
        columns: its vectors of the base model's pictures, and of each checkpoint's.
        of_set: its vectors of the set's pictures.
    """
    base, *others = columns
    ways = [(measure.name, calibrate), (f"{measure.name}, CSLS", calibrate_by_neighbours)]
    found = []
    for name, way in ways[: 1 + measure.network]:
        calibration = way(base, prompts, of_set)
        placed = (calibration.base, *(calibration.place(vectors, prompts) for vectors in others))
        found.append(StyleScores(name, calibration, placed))
    return found


def _too_few(pictures: int, of_set: int) -> str:
    return (
        f"KID and CMMD are not told: they take at least {LEAST_COUNT} pictures of each step and of the set, and "
        f"there are {pictures} and {of_set}."
    )


def check_enough(prompts: int, pictures: int) -> None:
    """Refuse what nothing can be said of.

    Raises:
        TrainingError: there are too few different prompts, or pictures of the set.
    """
    if prompts < FEWEST or pictures < FEWEST:
        raise TrainingError(
            f"To judge a LoRA takes at least {FEWEST} different prompts and {FEWEST} pictures of its style; there are "
            f"{prompts} and {pictures}. Write more lines into Prompt Set, or load more of the dataset."
        )


def interval(values: numpy.ndarray, prompts: Sequence[int]) -> Interval:
    """The mean over rows, and how it varies when other prompts of the same kind are asked.

    Student's t over prompts: the pictures of one are alike, and count as one. A bootstrap of so few is too narrow.
    """
    from scipy.special import stdtrit

    numbers = numpy.bincount(prompts)
    mean, count = float(values.mean()), len(numbers)
    away = numpy.bincount(prompts, values) - mean * numbers
    error = float(numpy.sqrt(count / (count - 1) * (away**2).sum())) / len(values)
    half = float(stdtrit(count - 1, (1 + CERTAINTY) / 2)) * error
    return Interval(mean, mean - half, mean + half)


def content_kept(base: numpy.ndarray, vectors: numpy.ndarray, prompts: Sequence[int]) -> numpy.ndarray:
    """How much of the base model's composition each picture keeps, as `Scores.content`.

    Args:
        base, vectors: `measures.structure` of the base model's pictures, and of those of the same prompts and seeds.
    """
    kept = (base * vectors).sum(axis=1)
    others = numpy.not_equal.outer(prompts, prompts)
    floor = float((base @ base.T)[others].mean())
    return (kept - floor) / max(1 - floor, 1e-6)


def _diversity(shown: Sequence[numpy.ndarray], prompts: Sequence[int]) -> tuple[float | None, ...]:
    same = numpy.equal.outer(prompts, prompts) & ~numpy.eye(len(prompts), dtype=bool)
    if not same.any():
        return (None,) * len(shown)
    differences = [float(1 - (vectors @ vectors.T)[same].mean()) for vectors in shown]
    return tuple(value / max(differences[0], 1e-6) for value in differences)
