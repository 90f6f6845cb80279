"""What to set otherwise when a run needs more memory than there is, and how to say it."""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import DiskError, ImpastoError
from ...files import disk_error
from ...out_of_memory import is_out_of_memory
from ...texts import first_line
from ..flux import quantisation
from ..flux.latents import PIXELS_PER_TOKEN
from ..libraries import install_command, is_installed
from ..optimizers import OPTIMIZERS
from .block_profile import BatchShape
from .estimate import Budget, fits, gigabytes, is_settled, plan, usable

if TYPE_CHECKING:
    from ..settings import Settings

SMALLER_PRECISIONS = ("bf16", "int8", "nf4")
SMALLER_OPTIMIZER = "adamw8bit"
SMALLER_SIDES = (1024, 768, 512, 384, 256)  # pixels; what a remedy proposes
SMALLER_RANKS = (64, 32, 16, 8, 4)
UNEXPLAINED = 0.9  # after running out of memory: a remedy has to need at most this part of what was planned
QUEUE_WITH_LESS = (
    "Queue again: training goes on from the last checkpoint, unless it is precision, optimizer, batch_size, resolution "
    "or rank that you set: that is another run, which begins at step 0."
)


def explained(error: Exception, settings: Settings, budget: Budget | None = None) -> str:
    """What to show for an exception raised while training; `settings` and `budget` as they were planned with."""
    if isinstance(told := disk_error(error) or error, DiskError):
        return f"{told} The checkpoints are whole: training goes on from the last one."
    if isinstance(error, ImpastoError):
        return str(error)
    if is_out_of_memory(error):
        # They hold tensors, and the checkpoint that the block failed in: its hooks would still take what the plan
        # below keeps for its backward pass, and there compute the real block again.
        traceback.clear_frames(error.__traceback__)
        return f"Out of memory while training: {first_line(error)} {cheaper(settings, budget)} {QUEUE_WITH_LESS}"
    return f"Training failed: {type(error).__name__}: {first_line(error)}. The full report is in the run's train.log."


def cheaper(settings: Settings, budget: Budget | None) -> str:
    """The cheapest change of settings that needs clearly less memory; `budget` is None before anything was planned."""
    if budget is None or not is_settled(settings):
        return "Close other programs that use memory."
    return after_running_out(settings, budget)


def after_running_out(settings: Settings, budget: Budget) -> str:
    """The remedy when memory ran out although the plan had room: it has to need clearly less than what was tried."""
    tried = int(UNEXPLAINED * plan(settings, budget).peak)
    free = tried if budget.free is None else min(budget.free, tried)
    return remedy(settings, dataclasses.replace(budget, free=free))


def remedy(settings: Settings, budget: Budget) -> str:
    """Name the cheapest change of settings that fits: the first that does alone, or as few as are needed together.

    In order: recompute all blocks, an 8-bit optimiser, less precision, streamed blocks, a smaller batch, a lower
    resolution, a lower rank.
    """
    made: list[tuple[_Change, ...]] = []
    state = (settings, budget)
    for alternatives in _changes(settings, budget):
        made.append(alternatives)
        state = _apply([changes[-1] for changes in made], settings, budget)
        if fits(*state):
            break
    else:
        least = plan(*state)
        return (
            f"Even the least that can be set needs {gigabytes(least.peak)}. Free memory on the device, or train on "
            f"another.{_by_installing(*state)}"
        )
    return _needed(made, settings, budget) + _by_installing(settings, budget)


def _by_installing(settings: Settings, budget: Budget) -> str:
    """A sentence where nf4 alone would fit, but is left out because what it needs is not installed; else ""."""
    smaller = dataclasses.replace(settings, precision="nf4")
    if usable(("nf4",)) or _size(settings.precision) <= _size("nf4") or not fits(smaller, budget):
        return ""
    need = gigabytes(plan(smaller, budget).peak)
    return (
        f" Or install bitsandbytes into ComfyUI's Python with {install_command('bitsandbytes')}: it allows precision "
        f"nf4, which needs {need}."
    )


@dataclass(frozen=True)
class _Change:
    """One thing to set otherwise: `said` completes 'Set …'."""

    said: str
    settings: tuple[tuple[str, Any], ...] = ()
    batch: int | None = None
    side: int | None = None

    def applied(self, settings: Settings, budget: Budget) -> tuple[Settings, Budget]:
        shapes = tuple(
            dataclasses.replace(_within(shape, self.side), batch=min(shape.batch, self.batch or shape.batch))
            for shape in budget.shapes
        )
        return dataclasses.replace(settings, **dict(self.settings)), dataclasses.replace(budget, shapes=shapes)


def _changes(settings: Settings, budget: Budget) -> Iterator[tuple[_Change, ...]]:
    """What lowers the need for memory, cheapest first; of each kind all degrees, mildest first."""
    if not settings.gradient_checkpointing:
        everything = (("gradient_checkpointing", True), ("checkpointing_interval", 1))
        yield (_Change("gradient_checkpointing to on", everything),)
    elif settings.checkpointing_interval > 1:
        yield (_Change("checkpointing_interval to 1", (("checkpointing_interval", 1),)),)
    current, smaller = OPTIMIZERS[settings.optimizer], OPTIMIZERS[SMALLER_OPTIMIZER]
    # Not where the learning rate is 1, which would tear the weights apart.
    larger = current.state > smaller.state and not current.finds_learning_rate
    if larger and budget.device_type != "cpu" and is_installed(smaller.package):
        yield (_Change(f"optimizer to {SMALLER_OPTIMIZER}", (("optimizer", SMALLER_OPTIMIZER),)),)
    if lower := [name for name in usable(SMALLER_PRECISIONS) if _size(name) < _size(settings.precision)]:
        yield tuple(_Change(f"precision to {name}", (("precision", name),)) for name in lower)
    total = budget.architecture.blocks
    if budget.can_stream and settings.streamed_blocks < total:
        steps = sorted({max(settings.streamed_blocks + 1, total * eighth // 8) for eighth in range(1, 9)})
        yield tuple(_Change(f"streamed_blocks to {count}", (("streamed_blocks", count),)) for count in steps)
    if max(shape.batch for shape in budget.shapes) > 1:
        yield (_Change("batch_size to 1 in Dataset TOML Writer", batch=1),)
    side = max((shape.width * shape.height) ** 0.5 for shape in budget.shapes)
    if smaller_sides := [value for value in SMALLER_SIDES if value < side]:
        yield tuple(_Change(f"resolution to {value} in Dataset TOML Writer", side=value) for value in smaller_sides)
    if smaller_ranks := [value for value in SMALLER_RANKS if value < settings.rank]:
        yield tuple(_Change(f"rank to {value}", (("rank", value),)) for value in smaller_ranks)


def _needed(made: Sequence[tuple[_Change, ...]], settings: Settings, budget: Budget) -> str:
    """Of changes that fit together at their strongest: take each at its mildest, then leave out what is not needed."""
    chosen = [alternatives[-1] for alternatives in made]
    for place, alternatives in reversed(list(enumerate(made))):
        trials = ([*chosen[:place], milder, *chosen[place + 1 :]] for milder in alternatives)
        chosen = next(trial for trial in trials if fits(*_apply(trial, settings, budget)))
    for change in chosen[:-1]:
        without = [other for other in chosen if other is not change]
        if fits(*_apply(without, settings, budget)):
            chosen = without
    need = gigabytes(plan(*_apply(chosen, settings, budget)).peak)
    *others, last = [change.said for change in chosen]
    listed = f"{', '.join(others)} and {last}" if others else last
    return f"Set {listed}: that needs {need}."


def _apply(changes: Sequence[_Change], settings: Settings, budget: Budget) -> tuple[Settings, Budget]:
    for change in changes:
        settings, budget = change.applied(settings, budget)
    return settings, budget


def _within(shape: BatchShape, side: int | None) -> BatchShape:
    """The shape at the resolution of `side`: as many pixels as its square, in the same proportions."""
    scale = side / (shape.width * shape.height) ** 0.5 if side else 1.0
    if scale >= 1:
        return shape
    step = PIXELS_PER_TOKEN
    width, height = (max(step, round(length * scale / step) * step) for length in (shape.width, shape.height))
    return dataclasses.replace(shape, width=width, height=height)


def _size(precision: str) -> int:
    return quantisation.weight_bytes((4096, 4096), precision)
