"""What the loss plot shows of a run, read from its metrics: series over the steps, their trend, and sigmas."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Series = tuple[list[int], list[float]]  # steps, values
BINS = 20  # of sigma, from 0 to 1
MOST_LOSSES = 2_000_000  # of a LOSS_MAP, which anybody may send


@dataclass(frozen=True)
class Curve:
    """A run to be laid over another: what it is called, and its metrics."""

    name: str
    metrics: Sequence[Mapping[str, Any]]


def series(records: Sequence[Mapping[str, Any]], key: str) -> Series:
    """Steps and values of `key`, finite ones only: a run stops at a loss that is not."""
    found = [(record["step"], float(record[key])) for record in records if _is_number(record.get(key))]
    finite = [(step, value) for step, value in found if math.isfinite(value)]
    return [step for step, _ in finite], [value for _, value in finite]


def held_out_by_step(records: Iterable[Mapping[str, Any]]) -> dict[int, float]:
    """The held-out loss at each step that was measured."""
    return {record["step"]: record["held_out_loss"] for record in records if "held_out_loss" in record}


def by_sigma(records: Sequence[Mapping[str, Any]]) -> dict[float, Series]:
    """The held-out loss at each sigma that was measured on its own, in ascending order of sigma."""
    found: dict[float, tuple[list[int], list[float]]] = {}
    for record in records:
        measured = record.get("held_out_by_sigma")
        for sigma, loss in measured.items() if isinstance(measured, Mapping) else ():
            try:
                at, value = float(sigma), float(loss)
            except (TypeError, ValueError):  # no number: of a damaged line, or another program's
                continue
            if math.isfinite(at) and math.isfinite(value):
                steps, values = found.setdefault(at, ([], []))
                steps.append(record["step"])
                values.append(value)
    return dict(sorted(found.items()))


def sigma_bins(records: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[float]]:
    """How often a sigma of each twentieth of 0…1 was trained on, and the mean loss of those steps (NaN for none).

    A step's loss counts for each sigma of its batch: for one picture at a time it is that sigma's own.
    """
    counts, sums = [0] * BINS, [0.0] * BINS
    for record in records:
        sigmas, loss = record.get("sigma"), record.get("loss")
        if not isinstance(sigmas, list) or not isinstance(loss, int | float) or not math.isfinite(loss):
            continue
        for sigma in sigmas:
            if _is_number(sigma) and 0 <= sigma <= 1:
                place = min(BINS - 1, int(sigma * BINS))
                counts[place] += 1
                sums[place] += loss
    return counts, [total / count if count else math.nan for total, count in zip(sums, counts, strict=True)]


def metrics_of_loss_map(loss_map: Any) -> list[dict[str, Any]]:
    """ComfyUI's LOSS_MAP (`{"loss": [...]}`, numbers or tensors of one) as metrics, its first loss that of step 1.

    Raises:
        ValueError: it is none.
    """
    losses = loss_map.get("loss") if isinstance(loss_map, Mapping) else None
    if not isinstance(losses, Sequence) or len(losses) > MOST_LOSSES:
        raise ValueError("a LOSS_MAP holds a list of numbers named 'loss'")
    try:
        return [{"step": step, "loss": float(loss)} for step, loss in enumerate(losses, start=1)]
    except (TypeError, RuntimeError) as error:  # RuntimeError: a tensor of several numbers
        raise ValueError(f"a loss of the LOSS_MAP is no number ({error})") from error


def trend(values: Sequence[float], time_constant: float) -> list[float]:
    """Average around each value with weights that fall by e in `time_constant` steps, into the past and the future.

    Unlike an exponential moving average it neither lags behind nor starts at the first, noisy value.
    """
    keep = math.exp(-1 / time_constant)
    ahead = reversed(_running_sums(reversed(values), keep))
    behind = _running_sums(values, keep)
    # Both sums hold the value itself; it is to count once.
    return [
        (past + future - value) / (past_weight + future_weight - 1)
        for (past, past_weight), (future, future_weight), value in zip(behind, ahead, values, strict=True)
    ]


def _running_sums(values: Iterable[float], keep: float) -> list[tuple[float, float]]:
    """After each value: the sum of all so far, weighted by `keep` to the power of their age, and of those weights."""
    weighted, weight, sums = 0.0, 0.0, []
    for value in values:
        weighted, weight = keep * weighted + value, keep * weight + 1
        sums.append((weighted, weight))
    return sums


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
