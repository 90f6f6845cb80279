"""The node that searches for settings: many trained a little, the better ones longer."""

from __future__ import annotations

import dataclasses
import logging

from comfy_api.latest import io

from ..drawing.palette import theme_of
from ..errors import SettingsError, TrainingError
from ..progress import Progress
from ..rendering.sweep_chart import sweep_chart
from ..trainers.features.index import Features, load
from ..trainers.preflight import check_settings, preflight
from ..trainers.run import create, launch, publish
from ..trainers.run import folder as runs
from ..trainers.run import launch_profiles as profiles
from ..trainers.search_space import read_space
from ..trainers.settings import RANGES
from ..trainers.sweep import GRID, METHODS, Outcome, SweepPlan, check, search
from . import results, sockets
from .host import execution, folders, memory, sampling
from .inputs import refused, theme_input
from .jobs import logged
from .training import base_of

logger = logging.getLogger(__name__)

SPACE = "rank: 4, 16, 64\nlearning_rate: 5e-5, 1e-4, 4e-4"


class TrainingSweep(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImpastoTrainingSweep",
            display_name="Training Sweep",
            category="Impasto/Training",
            description="Searches for settings: trains all a little, the better ones longer, two of them whole, and "
            "compares them by held-out loss. Cancel keeps everything; queue again to go on.",
            search_aliases=["hyperparameter", "grid search", "optuna", "tune", "learning rate search", "best rank"],
            inputs=[
                io.Model.Input("model", tooltip="The FLUX.1 model to train on, from Load Diffusion Model."),
                sockets.Features.Input("features", tooltip="From Encode Training Data, with held-out pictures."),
                sockets.Training.Input(
                    "training", tooltip="What is not tried; scheduler constant. Its steps are those of the last rung."
                ),
                io.String.Input(
                    "space",
                    default=SPACE,
                    multiline=True,
                    tooltip="A line a setting: its name, a colon, its values with commas between, or for a random "
                    "search '1e-5 to 1e-3'.",
                ),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default=GRID,
                    optional=True,
                    tooltip="grid: every combination. random: so many of them, drawn.",
                ),
                io.Int.Input(
                    "trials", default=9, min=2, max=200, optional=True, tooltip="How many a random search draws."
                ),
                io.Int.Input(
                    "kept",
                    default=3,
                    min=2,
                    max=10,
                    optional=True,
                    tooltip="One of so many, but at least two, go on to the next rung, trained so many times as long.",
                ),
                io.Int.Input(
                    "seed", default=0, min=0, max=2**32 - 1, optional=True, tooltip="Of what a random search draws."
                ),
                io.String.Input(
                    "name",
                    default="sweep",
                    optional=True,
                    tooltip="Of the runs: give the best settings to a trainer with it.",
                ),
                theme_input(),
            ],
            outputs=[
                sockets.Training.Output("training", tooltip="The best settings, for FLUX LoRA Trainer."),
                sockets.Run.Output("run", tooltip="The best run."),
                io.Image.Output("chart", tooltip="All trials as parallel coordinates."),
                io.String.Output("report", tooltip="A line for each trial, as Markdown."),
            ],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, space: str | None = None, name: str | None = None) -> bool | str:
        return refused(
            ("space", space, read_space),
            ("name", name, lambda given: publish.lora_folder(folders.loras_root(), given)),
        )

    @classmethod
    def execute(
        cls,
        model,
        features,
        training,
        space,
        method=GRID,
        trials=9,
        kept=3,
        seed=0,
        name="sweep",
        theme="light",
    ) -> io.NodeOutput:
        plan = SweepPlan(read_space(space), method, trials, kept, seed)
        check(plan, training)
        check_settings(training, publish.CHECKPOINT_FORMAT)
        _check_held_out(features)
        weights, fingerprint = base_of(model)
        job = runs.Job(name, training, features.folder, features.key, str(weights), fingerprint)
        progress = execution.progress()
        memory.unload_models()
        journals = folders.user_root() / "sweeps"
        with logged("Training Sweep", journals):
            outcome = search(
                plan,
                training,
                journals,
                [name, features.key, fingerprint],
                lambda settings, label: _trained(dataclasses.replace(job, settings=settings), label, progress),
            )
        best = _run_of(dataclasses.replace(job, settings=outcome.best))
        said = _told(outcome, best.best_step())
        picture = sweep_chart(outcome.trials, f"Sweep of {name}", theme_of(theme))
        report = f"{said}\n\n{outcome.table()}"
        return io.NodeOutput(
            outcome.best, best, sampling.image_batch([picture]), report, ui=results.said(said, [picture])
        )


def _trained(job: runs.Job, label: str, progress: Progress) -> tuple[int, float]:
    """Train a run as far as its settings say; how far it came, and the held-out loss there.

    One that is there already is not trained again.

    Raises:
        TrainingError: the training failed, or has no held-out loss there.
    """
    steps, run = job.settings.steps, _run_of(job)
    if steps not in dict(run.evaluations()) and max(run.checkpoints(), default=0) <= steps:
        preflight(job, run, publish.CHECKPOINT_FORMAT, sharded=False)
        create.create_run(folders.runs_root(), job)
        launcher = profiles.launch_arguments(profiles.ONE, folders.launch_profiles_folder())

        def labelled(done: int, total: int, text: str = "", preview=None) -> None:
            progress(done, total, f"{label}\n{text}" if text else "", preview)

        try:
            launch.train(run, memory.on_cpu(), labelled, None, launcher, folders.trainer_folder())
        except launch.StoppedOnRequest as error:
            raise execution.cancelled() from error
    measured = dict(run.evaluations())
    came_to = steps if steps in measured else run.status().get("step")  # less where it was finished early
    if came_to not in measured or came_to > steps:
        raise TrainingError(
            f"The run '{run.id}' has no held-out loss at step {steps}: memory ran out while it was measured, which its "
            "train.log tells, or it was trained before with checkpoints at other steps. For that, give the sweep "
            "another name."
        )
    return came_to, measured[came_to]


def _run_of(job: runs.Job) -> runs.Run:
    """The run of a trial, also where it was trained for longer: at a constant rate its id has no part in that."""
    longest = dataclasses.replace(job.settings, steps=int(RANGES["steps"][1]))
    return create.run_of(folders.runs_root(), dataclasses.replace(job, settings=longest))


def _told(outcome: Outcome, lowest: int | None) -> str:
    """The outcome, a thought a line; `lowest` is the step at which the best run's held-out loss is."""
    best = outcome.trials[0]
    chosen = ", ".join(f"{name} {value}" for name, value in best.chosen.items())
    lines = [f"Best of {len(outcome.trials)}: {chosen}, held-out loss {best.loss:.4f}"]
    if lowest and lowest < best.steps:
        lines.append(f"It was lowest at step {lowest} of {best.steps}: so many may do")
    lines.append(f"Trained {outcome.share:.0%} of the steps that all of them would have taken")
    return "\n".join(lines)


def _check_held_out(features: Features) -> None:
    """Refuse before anything is trained what could not be compared afterwards."""
    if not any(example.held_out for example in load(features).examples):
        raise SettingsError(
            "The sweep compares by the loss on pictures that are not trained on, and none are held out. Set "
            "validation_split in Dataset TOML Writer, for example to 0.1, and encode again."
        )


NODES = [TrainingSweep]
