"""Which pictures of a set training trips over: those whose loss lies far off its like, or whose caption misleads.

Two sources. Training's own losses, which `metrics.jsonl` names picture by picture, cost nothing and find what is
plainly foreign. A measuring pass (`measuring_pass`) compares, from the same noise, a picture with its caption and with
none: what is common to both falls out, so that a wrong caption shows, which by its loss alone is a difficult picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy

LIMIT = 3.5  # robust deviations: Iglewicz and Hoaglin, "How to Detect and Handle Outliers" (1993)
FEWEST_PICTURES = 12  # a median of fewer says nothing of what is usual
FEWEST_OBSERVATIONS = 4  # of one picture in training: a loss is as noisy as its sigma and noise
BANDS = (1.0, 0.4)  # of sigma, up to which losses are averaged: by the lower ones, empty places show
KNOTS = (0.1, 0.3, 0.5, 0.7, 0.9)  # of the curve that losses follow over sigma
REWEIGHTED = 20  # times, of a fit that outliers are not to bend
BIWEIGHT = 6.0  # median absolute deviations, 4 standard ones, from which on a value has no part in the deviation
OF_NORMAL = 1.4826  # median absolute deviation to standard deviation
CAPTION, HIGH, LOW = "caption", "too hard", "too easy"


@dataclass(frozen=True)
class Observation:
    """One picture in one step of training: its example's id, the step, sigma, and its error before any weight."""

    example: str
    step: int
    sigma: float
    loss: float


@dataclass(frozen=True)
class PictureErrors:
    """One picture in the measuring pass.

    Attributes:
        losses: sigma -> logarithm of the error with its caption, mean over noises.
        misled: mean logarithm of the error with its caption over that without any; above 0 the caption misleads.
    """

    losses: Mapping[float, float]
    misled: float


@dataclass(frozen=True)
class Watched:
    """A picture to look at.

    Attributes:
        example: its id.
        kind: `CAPTION`, `HIGH` or `LOW`.
        deviation: how far it lies off the set's median, in robust standard deviations.
        reason: why, for people.
    """

    example: str
    kind: str
    deviation: float
    reason: str


def observations(records: Iterable[Mapping[str, Any]]) -> list[Observation]:
    """What `Run.metrics` tells of single pictures; nothing for runs of before it did, or whose lines are damaged."""
    found = []
    for record in records:
        columns = [column for name in ("examples", "sigma", "losses") if isinstance(column := record.get(name), list)]
        if len(columns) < 3 or len({len(column) for column in columns}) > 1:
            continue
        for example, sigma, loss in zip(*columns, strict=True):
            if isinstance(example, str) and _is_number(sigma) and _is_number(loss) and loss > 0:
                found.append(Observation(example, record["step"], float(sigma), float(loss)))
    return found


def watch(trained: Sequence[Observation], measured: Mapping[str, PictureErrors]) -> list[Watched]:
    """The pictures to look at, the surest first; each once, a misleading caption before the rest.

    Args:
        trained: of training, where known.
        measured: by example, of the measuring pass, where it was made.
    """
    named = _misleading(measured)
    for table in _at_sigmas(measured):
        named += _off(table, "at the same noise")
    for table in _in_training(trained):
        named += _off(table, "in training")
    surest: dict[str, Watched] = {}
    for one in sorted(named, key=lambda one: (one.kind != CAPTION, -abs(one.deviation))):
        surest.setdefault(one.example, one)
    return sorted(surest.values(), key=lambda one: -abs(one.deviation))


def deviations(values: Sequence[float]) -> numpy.ndarray:
    """How many standard deviations each value lies off the median, by a deviation that outliers do not widen.

    It is the biweight one (Mosteller and Tukey, "Data Analysis and Regression", 1977): of 60 values the median absolute
    deviation itself is too uncertain, and a fifth of them may be outliers.
    """
    array = numpy.asarray(values, numpy.float64)
    off = array - numpy.median(array)
    middle = float(numpy.median(numpy.abs(off)))
    if middle == 0:
        return numpy.zeros_like(off)
    share = (off / (BIWEIGHT * middle)) ** 2
    inside = share < 1
    spread = (off[inside] ** 2 * (1 - share[inside]) ** 4).sum()
    turned = ((1 - share[inside]) * (1 - 5 * share[inside])).sum()
    return off / max(math.sqrt(len(off) * spread) / abs(turned), OF_NORMAL * middle / 2)


def normalised(trained: Sequence[Observation]) -> numpy.ndarray:
    """The logarithm of each loss over what is expected at its sigma and step, fitted over all pictures.

    A spline of second degree in sigma and the logarithm of the step, by least squares whose weights fall with the
    distance (Huber), so that foreign pictures do not bend what is expected of the others.
    """
    sigma = numpy.array([one.sigma for one in trained])
    step = numpy.log1p([one.step for one in trained])
    loss = numpy.log([one.loss for one in trained])
    columns = [
        numpy.ones_like(sigma),
        sigma,
        sigma**2,
        step,
        *(numpy.clip(sigma - knot, 0, None) ** 2 for knot in KNOTS),
    ]
    basis = numpy.column_stack(columns)
    weights = numpy.ones_like(loss)
    for _ in range(REWEIGHTED):
        root = numpy.sqrt(weights)
        fitted = numpy.linalg.lstsq(basis * root[:, None], loss * root, rcond=None)[0]
        left = loss - basis @ fitted
        scale = 1.5 * OF_NORMAL * float(numpy.median(numpy.abs(left))) or 1.0
        weights = 1 / numpy.maximum(1, numpy.abs(left) / scale)
    return left


def _in_training(trained: Sequence[Observation]) -> list[dict[str, float]]:
    """For each band of sigma: of each picture that was seen often enough in it, the mean of its normalised losses.

    A mean of few is brought nearer to 0, by as much as it is less certain than the others.
    """
    left = normalised(trained) if trained else ()
    tables = []
    for highest in BANDS:
        seen: dict[str, list[float]] = {}
        for one, value in zip(trained, left, strict=True):
            if one.sigma <= highest:
                seen.setdefault(one.example, []).append(float(value))
        often = {name: values for name, values in seen.items() if len(values) >= FEWEST_OBSERVATIONS}
        tables.append(_as_certain(often))
    return tables


def _as_certain(seen: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The mean of each, scaled so that all would vary alike in a set without outliers."""
    if len(seen) < FEWEST_PICTURES:
        return {}
    means = numpy.array([numpy.mean(values) for values in seen.values()])
    centred = means - numpy.median(means)
    once = float(numpy.median([numpy.var(values, ddof=1) for values in seen.values()]))  # of one observation
    uncertain = once / numpy.array([len(values) for values in seen.values()])
    usual = float(numpy.median(numpy.abs(centred)) * OF_NORMAL) ** 2
    between = max(0.0, usual - float(numpy.median(uncertain)))
    scale = numpy.sqrt((between + numpy.median(uncertain)) / (between + uncertain))
    return dict(zip(seen, (centred * scale).tolist(), strict=True))


def _at_sigmas(measured: Mapping[str, PictureErrors]) -> list[dict[str, float]]:
    sigmas = sorted({sigma for one in measured.values() for sigma in one.losses})
    return [{name: one.losses[sigma] for name, one in measured.items() if sigma in one.losses} for sigma in sigmas]


def _off(table: Mapping[str, float], where: str) -> list[Watched]:
    """Pictures whose logarithmic loss lies beyond the limit, on either side."""
    if len(table) < FEWEST_PICTURES:
        return []
    values = list(table.values())
    usual = float(numpy.median(values))
    return [
        Watched(name, HIGH if off > 0 else LOW, float(off), _why(float(off), math.exp(value - usual), where))
        for (name, value), off in zip(table.items(), deviations(values), strict=True)
        if abs(off) > LIMIT
    ]


def _why(off: float, times: float, where: str) -> str:
    lies = f"loss {times:.2g} times its like {where}, {abs(off):.1f} deviations off"
    if off > 0:
        return f"{HIGH}: {lies}; foreign to the set, damaged, or much busier than the rest"
    return f"{LOW}: {lies}; partly empty, a copy, or simpler than the rest"


def _misleading(measured: Mapping[str, PictureErrors]) -> list[Watched]:
    known = {name: one.misled for name, one in measured.items() if math.isfinite(one.misled)}
    if len(known) < FEWEST_PICTURES:
        return []
    return [
        Watched(
            name,
            CAPTION,
            float(off),
            f"{CAPTION}: the model errs {100 * math.expm1(value):.0f} % more with it than with none, {off:.1f} "
            "deviations off; it may be another picture's",
        )
        for (name, value), off in zip(known.items(), deviations(list(known.values())), strict=True)
        if off > LIMIT and value > 0
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
