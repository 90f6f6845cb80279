"""What Training Sweep compares its trials by: the held-out loss, or the style of pictures that are painted."""

from __future__ import annotations

import dataclasses
from collections.abc import Container
from pathlib import Path
from typing import Protocol

from ..errors import SettingsError
from ..evaluation.evaluate import measures_with, of_the_set
from ..evaluation.style_judge import StyleFound, StyleJudge
from ..evaluation.verdict import share
from ..progress import Progress
from ..rendering.cells import Grid
from ..rendering.painting import Sampling
from ..trainers.features.index import Features, load
from ..trainers.run.checkpoints import ADAPTER_FILE
from ..trainers.run.folder import Run
from ..trainers.sweep import HELD_OUT_LOSS, Criterion, Outcome, Reached, Trial, cheapest
from .host import encoders, identity, sampling

STYLE = "style"
REFERENCES = 100  # pictures of the set that are looked at, as by Evaluate LoRA


class Judging(Protocol):
    """Says what a trial is worth where it has come to.

    Attributes:
        key: what of it decides the outcome; nothing for the held-out loss, whose journals are older than the choice.
        keeps_all: whether the checkpoint of every rung has to stay.
        lacking: why a run may have nothing to judge at a step.
    """

    criterion: Criterion
    key: list[object]
    keeps_all: bool
    lacking: str

    def there(self, run: Run) -> Container[int]:
        """The steps at which it can be judged."""

    def reached(self, run: Run, step: int, progress: Progress) -> Reached:
        """What it is worth at one of them."""

    def remarks(self, outcome: Outcome, run: Run) -> list[str]:
        """On the best trial, which is `run`, as people read it."""


class ByLoss:
    """By the loss on pictures that are not trained on.

    Raises:
        SettingsError: none are held out.
    """

    criterion, key, keeps_all = HELD_OUT_LOSS, [], False
    lacking = "no held-out loss at step {}: memory ran out while it was measured, which its train.log tells"

    def __init__(self, features: Features) -> None:
        if not any(example.held_out for example in load(features).examples):
            raise SettingsError(
                "The sweep compares by the loss on pictures that are not trained on, and none are held out. Set "
                "validation_split in Dataset TOML Writer, for example to 0.1, and encode again; or judge by style."
            )

    def there(self, run: Run) -> dict[int, float]:
        return dict(run.evaluations())

    def reached(self, run: Run, step: int, progress: Progress) -> Reached:
        return Reached(step, self.there(run)[step])

    def remarks(self, outcome: Outcome, run: Run) -> list[str]:
        return of_losses(outcome, run.best_step())


class ByStyle:
    """By how near pictures that trials paint come to the set's style.

    Raises:
        SettingsError: something that it takes is not connected.
        TrainingError: there are too few prompts or pictures, or no measure tells the set from the base model.
    """

    keeps_all = True
    lacking = "no LoRA of step {}: it was removed"

    def __init__(
        self, name: str, folder: Path, dataset, prompts, models, clip_vision, size: Sampling, progress: Progress
    ) -> None:
        model, clip, vae = models
        _check_connected(dataset=dataset, prompts=prompts, clip=clip, vae=vae)
        known = identity.sampling_identity(*models)
        # One folder for all runs: pictures are named by the LoRA's content, and the base model's are painted once.
        grid = Grid(name, folder, (), tuple(prompts), size, 1.0, known)
        encoder = encoders.picture_encoder(clip_vision) if clip_vision else None
        seen = of_the_set(dataset, REFERENCES, size, lambda picture: sampling.round_trip(vae, picture), progress)
        painter = sampling.ComfyPainter(model, clip, vae, size)
        self._judge = StyleJudge(grid, painter, seen, measures_with(encoder), progress)
        self.criterion = Criterion(
            f"style by {self._judge.measure}",
            higher=True,
            beside={
                "98 % certain": lambda found: f"{found.style.low:.2f} to {found.style.high:.2f}",
                "content kept": lambda found: share(found.content),
                "copies of the set": lambda found: f"{found.copies}",
            },
        )
        shown = [[prompt.text, prompt.seed] for prompt in prompts]
        pictures = sorted(record.sha256 for record in dataset.records())
        self.key = [STYLE, self._judge.measure, pictures, shown, known, dataclasses.asdict(size)]

    def there(self, run: Run) -> dict[int, Path]:
        adapters = {step: folder / ADAPTER_FILE for step, folder in run.checkpoints().items()}
        return {step: file for step, file in adapters.items() if file.is_file()}

    def reached(self, run: Run, step: int, progress: Progress) -> Reached:
        found = self._judge.judged(step, self.there(run)[step], progress)
        return Reached(step, -found.style.mean, found.learned, found.spoiled, found)

    def remarks(self, outcome: Outcome, run: Run) -> list[str]:
        return of_styles(outcome)


def of_losses(outcome: Outcome, lowest: int | None) -> list[str]:
    """What held-out losses say of the best trial; `lowest` is the step at which its own was lowest."""
    best, *others = outcome.trials
    said = []
    if lowest and lowest < best.steps:
        said.append(f"It was lowest at step {lowest} of {best.steps}: so many may do")
    second = next((trial for trial in others if trial.steps == best.steps and not trial.failure), None)
    if second:
        cheaper = ", and is cheaper" if cheapest([best, second]) is second else ""
        said.append(
            f"{second.described} lies {second.loss - best.loss:.4f} above it{cheaper}. How much of that is chance the "
            "losses of one seed cannot tell: train both with another seed"
        )
    return said


def of_styles(outcome: Outcome) -> list[str]:
    """What the pictures say of the best trial, and of those that are as good as far as can be told."""
    best, *others = outcome.trials
    said = ["The base model's pictures are at 0, the set's at 1", *best.last.found.sentences]
    sound = [step for step, reached in best.reached.items() if reached.learned and not reached.spoiled]
    if best.last.spoiled and sound:
        said.append(f"At step {max(sound)} it had kept more: so many may do")
    if any(trial.steps > best.steps and not trial.failure for trial in others):
        said.append(
            f"It was trained for {best.steps} steps only: those trained further learned nothing, or keep too little of "
            "the composition"
        )
    equals = outcome.equals(StyleFound.is_like)
    as_far = [trial for trial in equals if trial.steps == best.steps]
    left = [trial for trial in equals if trial.steps != best.steps]
    if as_far:
        listed = "; to ".join(trial.described for trial in as_far)
        said.append(f"No difference above the noise to {listed}{_cheaper(best, as_far)}")
    if left:
        said.append(
            f"{len(left)} trained for fewer steps could not be told from it after as many{_cheaper(best, left)}"
        )
    return said


def _cheaper(best: Trial, others: list[Trial]) -> str:
    """Which of those that are as good has the smallest rank, if not the best one."""
    cheap = cheapest([best, *others])
    return f". The cheapest is {cheap.described}" if cheap and cheap is not best else ""


def _check_connected(**inputs: object) -> None:
    if missing := [name for name, given in inputs.items() if given is None]:
        raise SettingsError(
            f"judge is {STYLE}, and nothing is connected to {' and '.join(missing)}. Connect what Evaluate LoRA takes, "
            f"or set judge to {HELD_OUT_LOSS.name}."
        )
