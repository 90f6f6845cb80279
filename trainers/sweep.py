"""A search for settings by trial: all are trained a little, the better ones longer, until two are trained whole.

This is successive halving (Jamieson and Talwalkar 2016, arXiv:1502.07943). Each trial is an ordinary run that is asked
for more steps at every rung, so that nothing is trained twice; the learning rate is constant, so that a run's first
steps do not depend on how many will follow. Optuna draws what is tried, and its journal under the server's user folder
keeps it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

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


@dataclass
class Trial:
    """One choice of settings, and what came of it.

    Attributes:
        losses: held-out loss after so many steps.
        failure: why it failed; "" where it did not.
    """

    number: int
    chosen: Mapping[str, Value]
    losses: dict[int, float] = field(default_factory=dict)
    failure: str = ""

    @property
    def steps(self) -> int:
        """After how many steps it was measured last."""
        return max(self.losses, default=0)

    @property
    def loss(self) -> float:
        """The held-out loss there; infinite where there is none."""
        return self.losses.get(self.steps, math.inf)


@dataclass(frozen=True)
class Outcome:
    """All trials, the best first: what failed last, what went further before what did not, then by loss."""

    trials: tuple[Trial, ...]
    best: Settings
    steps_of_all: int  # what training every trial whole would have taken

    @property
    def share(self) -> float:
        """Of the steps that training every trial whole would have taken."""
        return sum(trial.steps for trial in self.trials) / self.steps_of_all

    def table(self) -> str:
        """A line for each trial, as Markdown."""
        names = list(self.trials[0].chosen)
        lines = ["| " + " | ".join([*names, "steps", "held-out loss"]) + " |", "|" + "---|" * (len(names) + 2)]
        for trial in self.trials:
            loss = f"failed: {trial.failure}"[:100] if trial.failure else f"{trial.loss:.4f}"
            values = [f"{trial.chosen[name]}" for name in names]
            lines.append("| " + " | ".join([*values, str(trial.steps), loss.replace("|", "/")]) + " |")
        return "\n".join(lines)


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


# Trains a run as far as the settings' `steps`; told which trial and rung. Gives how far it came, which is less where a
# person had it finish early, and the held-out loss there.
Train = Callable[[Settings, str], tuple[int, float]]


def search(plan: SweepPlan, base: Settings, journals: Path, key: Sequence[object], train: Train) -> Outcome:
    """Try settings on rung after rung; begun again with the same arguments, it goes on where it was.

    A trial that was finished early stands where it is and goes no further.

    Args:
        base: what is not swept; its `steps` are those of the last rung.
        journals: folder for Optuna's journal, which no request can write.
        key: what else decides the outcome: the data, the base model, the name.
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
                came_to, loss = train(_on_rung(settings_of(base, trial.chosen), steps, rungs[0]), label)
                trial.losses[came_to] = loss
            except (TrainingError, SettingsError) as error:
                trial.failure = str(error)
        further = 0 if steps == base.steps else max(LEAST_KEPT, math.ceil(len(alive) / plan.kept))
        going_on = sorted((each for each in alive if each.steps == steps and not each.failure), key=_rank)[:further]
        for trial in alive:
            if trial not in going_on:
                _tell(study, trial, whole=trial.steps == base.steps)
        alive = going_on
    best, *_ = ranked = sorted(trials, key=_rank)
    if best.failure:
        raise TrainingError(f"Not one trial could be trained. The first said: {best.failure}")
    return Outcome(tuple(ranked), settings_of(base, best.chosen), len(trials) * base.steps)


def _rank(trial: Trial) -> tuple[bool, int, float, int]:
    return bool(trial.failure), -trial.steps, trial.loss, trial.number


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
