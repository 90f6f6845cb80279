"""A search for settings by trial: all are trained a little, the better ones longer, until two are trained whole.

This is successive halving (Jamieson and Talwalkar 2016, arXiv:1502.07943). Each trial is an ordinary run that is asked
for more steps at every rung, so that nothing is trained twice; the learning rate is constant, so that a run's first
steps do not depend on how many will follow. From the second rung on those go further whose loss is to be expected
lowest on the next, not those that lead: a high rate leads early (`benchmarks/sweep.py`). Optuna draws what is tried,
and its journal under the server's user folder keeps it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import SettingsError, TrainingError
from ..files import content_hash
from .libraries import install_command, is_installed
from .search_space import Axis, Between, Value, points, settings_of
from .settings import Settings

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study

GRID, RANDOM = "grid", "random"
METHODS = (GRID, RANDOM)
MOST_TRIALS = 200
LEAST_STEPS = 4  # of the first rung
# Go on to the next rung at least: a high rate leads early and is overtaken late, which only a whole training shows.
LEAST_KEPT = 2


@dataclass(frozen=True)
class SweepPlan:
    """What is tried and for how long.

    Attributes:
        space: setting -> its values, or the numbers it lies between.
        method: of `METHODS`.
        trials: how many a random search draws; a grid has as many as it has points.
        kept: one of so many trials goes on to the next rung, `LEAST_KEPT` at least.
        seed: of what is drawn.
    """

    space: Mapping[str, Axis]
    method: str = GRID
    trials: int = 9
    kept: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        between = [name for name, axis in self.space.items() if isinstance(axis, Between)]
        if self.method == GRID and between:
            raise SettingsError(
                f"A grid needs single values, and {between[0]} is given from … to …. List values with commas between, "
                "or set method to random."
            )
        if not 1 < self.number <= MOST_TRIALS:
            raise SettingsError(
                f"The sweep would have {self.number} trials. Give between 2 and {MOST_TRIALS}: leave values out, or "
                "set method to random with fewer trials."
            )

    @property
    def number(self) -> int:
        """Of trials."""
        if self.method == RANDOM:
            return self.trials
        return math.prod(len(axis) for axis in self.space.values() if isinstance(axis, tuple))

    def rungs(self, steps: int) -> list[int]:
        """After how many steps the trials are compared, the last time after all; each in multiples of the first."""
        halvings = 0
        while self.kept ** (halvings + 1) <= self.number and steps // self.kept ** (halvings + 1) >= LEAST_STEPS:
            halvings += 1
        first = max(1, steps // self.kept**halvings)
        return [*(first * self.kept**rung for rung in range(halvings)), steps]


@dataclass(frozen=True)
class Criterion:
    """What trials are compared by.

    Attributes:
        name: as people read it.
        higher: whether more of it is better; a trial's loss is then its negative.
        beside: what else the table tells of a trial: heading -> what stands there, of what was `Reached.found`.
    """

    name: str
    higher: bool = False
    beside: Mapping[str, Callable[[Any], str]] = field(default_factory=dict)

    def value(self, loss: float) -> float:
        return 0.0 - loss if self.higher else loss

    @property
    def axis(self) -> str:
        return f"{self.name}, {'higher' if self.higher else 'lower'} is better"


HELD_OUT_LOSS = Criterion("held-out loss")


class Reached(NamedTuple):
    """What a trial was worth where it was compared with others.

    Attributes:
        steps: after so many; fewer than asked for where a person had it finish early.
        loss: the held-out loss, or what else judges: lower is better.
        learned: whether that is more than nothing, above the noise.
        spoiled: whether it lost what is to be kept.
        found: what the judge found, for it to tell.
    """

    steps: int
    loss: float
    learned: bool = True
    spoiled: bool = False
    found: Any = None


@dataclass
class Trial:
    """One choice of settings, and what came of it.

    Attributes:
        reached: what it was worth after so many steps.
        failure: why it failed; "" where it did not.
    """

    number: int
    chosen: Mapping[str, Value]
    reached: dict[int, Reached] = field(default_factory=dict)
    failure: str = ""

    @property
    def last(self) -> Reached:
        return self.reached[max(self.reached)] if self.reached else Reached(0, math.inf)

    @property
    def steps(self) -> int:
        """After how many steps it was measured last."""
        return self.last.steps

    @property
    def loss(self) -> float:
        """What it was worth there; infinite where it never was measured."""
        return self.last.loss

    @property
    def promise(self) -> float:
        """The loss to be expected on the next rung, if it takes off as much again: each rung is as many times as long.

        What leads by a high rate has stopped falling by then. On the first rung nothing is known of that.
        """
        losses = [self.reached[steps].loss for steps in sorted(self.reached)]
        return losses[-1] + (losses[-1] - losses[-2]) if len(losses) > 1 else self.loss

    @property
    def described(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.chosen.items())


@dataclass(frozen=True)
class Outcome:
    """All trials, the best first.

    What failed stands last; before it what learned nothing; before that what is spoiled; the others by how far they
    went, then by loss.
    """

    trials: tuple[Trial, ...]
    best: Settings
    steps_of_all: int  # what training every trial whole would have taken

    @property
    def share(self) -> float:
        """Of the steps that training every trial whole would have taken."""
        return sum(trial.steps for trial in self.trials) / self.steps_of_all

    def equals(self, are_alike: Callable[[Any, Any], bool]) -> list[Trial]:
        """Those that cannot be told from the best where they were compared last, both trained for as many steps.

        Args:
            are_alike: asked of what the judge found of the one and of the other.
        """
        best, *others = self.trials
        return [
            trial
            for trial in others
            if trial.steps in best.reached
            and not trial.failure
            and trial.last.spoiled <= best.last.spoiled
            and are_alike(trial.last.found, best.reached[trial.steps].found)
        ]

    def table(self, criterion: Criterion = HELD_OUT_LOSS) -> str:
        """A line for each trial, as Markdown."""
        heads = [*self.trials[0].chosen, "steps", criterion.name, *criterion.beside]
        lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
        for trial in self.trials:
            cells = [*map(str, trial.chosen.values()), str(trial.steps)]
            if trial.failure:
                cells += [f"failed: {trial.failure}"[:100].replace("|", "/"), *("" for _ in criterion.beside)]
            else:
                told = (tell(trial.last.found) for tell in criterion.beside.values())
                cells += [f"{criterion.value(trial.loss):.4f}", *told]
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join(lines)


def cheapest(trials: Sequence[Trial]) -> Trial | None:
    """The first with the smallest rank; None where all have the same."""
    ranks = [trial.chosen.get("rank", 0) for trial in trials]
    return trials[ranks.index(min(ranks))] if len(set(ranks)) > 1 else None


def check(plan: SweepPlan, base: Settings) -> None:
    """Refuse before anything is trained what every trial would be refused for, and what cannot be compared.

    Raises:
        SettingsError: the learning rate is planned for the number of steps, or still rises at the first rung.
        TrainingError: Optuna is not installed.
    """
    if base.scheduler != "constant":
        raise SettingsError(
            f"scheduler is {base.scheduler}: what a run has learned after some steps then depends on how many are to "
            "follow. Set it to constant in Training Settings for the sweep."
        )
    first = plan.rungs(base.steps)[0]
    warmup = plan.space.get("warmup_steps", (base.warmup_steps,))
    longest = warmup.high if isinstance(warmup, Between) else max(warmup)
    if longest >= first:
        raise SettingsError(
            f"warmup_steps is {longest}, and the trials are first compared after {first} steps, when none would have "
            "learned at its full rate. Set fewer warm-up steps, or more steps, for the sweep."
        )
    if not is_installed("optuna"):
        raise TrainingError(
            "A sweep needs optuna, which is not installed. Install it into ComfyUI's Python with "
            f"{install_command('optuna')}."
        )


Train = Callable[[Settings, str], Reached]  # trains a run as far as its `steps`; told which trial and rung


def search(plan: SweepPlan, base: Settings, journals: Path, key: Sequence[object], train: Train) -> Outcome:
    """Try settings on rung after rung; begun again with the same arguments, it goes on where it was.

    A trial that was finished early stands where it is and goes no further.

    Args:
        base: what is not swept; its `steps` are those of the last rung.
        journals: folder for Optuna's journal, which no request can write.
        key: what else decides the outcome: the data, the base model, the name, what judges but the held-out loss.
        train: a TrainingError or SettingsError that it raises fails the trial, and everything else (Cancel, a stop)
            ends the search for now.

    Raises:
        SettingsError, TrainingError: as `check`; or not one trial could be trained.
    """
    check(plan, base)
    study = _study(plan, journals / f"{content_hash([*key, base.deciding(), str(plan)])}.journal")
    trials = _asked(study, plan)
    rungs, alive = plan.rungs(base.steps), trials
    for rung, steps in enumerate(rungs, start=1):
        for place, trial in enumerate(alive, start=1):
            label = f"Rung {rung} of {len(rungs)}, trial {place} of {len(alive)}"
            try:
                reached = train(_on_rung(settings_of(base, trial.chosen), steps, rungs[0]), label)
                trial.reached[reached.steps] = reached
            except (TrainingError, SettingsError) as error:
                trial.failure = str(error)
        further = 0 if steps == base.steps else max(LEAST_KEPT, math.ceil(len(alive) / plan.kept))
        there = (each for each in alive if each.steps == steps and not each.failure)
        going_on = sorted(there, key=lambda each: (each.last.spoiled, each.promise, each.number))[:further]
        for trial in alive:
            if trial not in going_on:
                _tell(study, trial, whole=trial.steps == base.steps)
        alive = going_on
    best, *_ = ranked = sorted(trials, key=_rank)
    if best.failure:
        raise TrainingError(f"Not one trial could be trained. The first said: {best.failure}")
    return Outcome(tuple(ranked), settings_of(base, best.chosen), len(trials) * base.steps)


def _rank(trial: Trial) -> tuple[bool, bool, bool, int, float, int]:
    last = trial.last
    return bool(trial.failure), not last.learned, last.spoiled, -last.steps, last.loss, trial.number


def _on_rung(settings: Settings, steps: int, first: int) -> Settings:
    """Measured on every rung, all but the last multiples of the first, and ended by nothing but its steps."""
    return dataclasses.replace(
        settings, steps=steps, checkpoint_every=first, checkpoint_epochs=0, sample_steps=0, early_stop_patience=0
    )


def _study(plan: SweepPlan, journal: Path) -> Study:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal.parent.mkdir(parents=True, exist_ok=True)
    return optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(journal))),
        study_name="sweep",
        sampler=optuna.samplers.RandomSampler(seed=plan.seed),
        direction="minimize",
        load_if_exists=True,
    )


def _asked(study: Study, plan: SweepPlan) -> list[Trial]:
    """The trials of the journal, drawn now where there are none yet."""
    from optuna.trial import TrialState

    distributions = {name: _distribution(axis) for name, axis in plan.space.items()}
    # Optuna's own sampler of grids wants to run the search; a point that is enqueued is what the next trial gets.
    for point in points(plan.space)[len(study.trials) :] if plan.method == GRID else ():
        study.enqueue_trial(point)
    while len(study.trials) < plan.number or any(each.state == TrialState.WAITING for each in study.trials):
        study.ask(distributions)
    return [Trial(each.number, dict(each.params)) for each in study.trials[: plan.number]]


def _distribution(axis: Axis) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(axis, tuple):
        return CategoricalDistribution(list(axis))
    if axis.whole:
        return IntDistribution(int(axis.low), int(axis.high), log=axis.logarithmic)
    return FloatDistribution(axis.low, axis.high, log=axis.logarithmic)


def _tell(study: Study, trial: Trial, whole: bool) -> None:
    from optuna.trial import TrialState

    if study.trials[trial.number].state.is_finished():  # told before a stop
        return
    if trial.failure:
        study.tell(trial.number, state=TrialState.FAIL)
    elif whole:
        study.tell(trial.number, trial.loss)
    else:
        study.tell(trial.number, state=TrialState.PRUNED)
