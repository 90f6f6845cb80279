"""The node that searches for settings: many trained a little, the better ones longer."""

from __future__ import annotations

import dataclasses
import logging

from comfy_api.latest import io

from ..drawing.palette import theme_of
from ..errors import TrainingError
from ..progress import Progress
from ..rendering.painting import Sampling
from ..rendering.sweep_chart import sweep_chart
from ..trainers.preflight import check_settings, preflight
from ..trainers.run import create, launch, publish
from ..trainers.run import folder as runs
from ..trainers.run import launch_profiles as profiles
from ..trainers.search_space import read_space
from ..trainers.settings import RANGES
from ..trainers.sweep import GRID, HELD_OUT_LOSS, METHODS, Outcome, Reached, SweepPlan, check, search
from . import results, sockets
from .host import execution, folders, memory, sampling
from .inputs import picture_size_inputs, refused, theme_input
from .jobs import logged
from .sweep_judging import STYLE, ByLoss, ByStyle, Judging
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
            "compares them by held-out loss, or by how near they come to the set's style. Cancel keeps everything; "
            "queue again to go on.",
            search_aliases=["hyperparameter", "grid search", "optuna", "tune", "learning rate search", "best rank"],
            inputs=[
                io.Model.Input("model", tooltip="The FLUX.1 model to train on, from Load Diffusion Model."),
                sockets.Features.Input(
                    "features", tooltip="From Encode Training Data, with held-out pictures where their loss judges."
                ),
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
                    "seed",
                    default=0,
                    min=0,
                    max=2**32 - 1,
                    control_after_generate=io.ControlAfterGenerate.fixed,  # another seed is another search
                    optional=True,
                    tooltip="Of what a random search draws.",
                ),
                io.String.Input(
                    "name",
                    default="sweep",
                    optional=True,
                    tooltip="Of the runs: give the best settings to a trainer with it.",
                ),
                theme_input(),
                io.Combo.Input(
                    "judge",
                    options=[HELD_OUT_LOSS.name, STYLE],
                    default=HELD_OUT_LOSS.name,
                    optional=True,
                    tooltip="What trials are compared by. style: pictures of each are painted and measured as by "
                    "Evaluate LoRA, which takes dataset, prompts, clip and vae.",
                ),
                sockets.Dataset.Input("dataset", optional=True, tooltip="For style: the pictures that have it."),
                sockets.Prompts.Input(
                    "prompts",
                    optional=True,
                    tooltip="For style: from Prompt Set, at least 4 that no training picture has, better 8, with "
                    "2 seeds each.",
                ),
                io.Clip.Input("clip", optional=True, tooltip="For style: encodes the prompts."),
                io.Vae.Input("vae", optional=True, tooltip="For style: decodes the pictures."),
                io.ClipVision.Input(
                    "clip_vision", optional=True, tooltip="For style: one more measure, beside strokes and palette."
                ),
                *picture_size_inputs(512, optional=True),
                io.Int.Input(
                    "sampling_steps",
                    default=20,
                    min=1,
                    max=200,
                    optional=True,
                    tooltip="Of each picture that is painted to judge the style.",
                ),
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
        judge=HELD_OUT_LOSS.name,
        dataset=None,
        prompts=None,
        clip=None,
        vae=None,
        clip_vision=None,
        width=512,
        height=512,
        sampling_steps=20,
    ) -> io.NodeOutput:
        plan = SweepPlan(read_space(space), method, trials, kept, seed)
        check(plan, training)
        check_settings(training, publish.CHECKPOINT_FORMAT)
        weights, fingerprint = base_of(model)
        job = runs.Job(name, training, features.folder, features.key, str(weights), fingerprint)
        progress = execution.progress()
        journals = folders.user_root() / "sweeps"
        with logged("Training Sweep", journals):
            judging: Judging
            if judge == STYLE:
                size, models = Sampling(width, height, sampling_steps), (model, clip, vae)
                kept_in = journals / "pictures"
                judging = ByStyle(name, kept_in, dataset, prompts, models, clip_vision, size, progress)
            else:
                judging = ByLoss(features)
            outcome = search(
                plan,
                training,
                journals,
                [name, features.key, fingerprint, *judging.key],
                lambda settings, label: _tried(dataclasses.replace(job, settings=settings), label, progress, judging),
            )
        best = _run_of(dataclasses.replace(job, settings=outcome.best))
        said = _told(outcome, judging, best)
        picture = sweep_chart(outcome.trials, judging.criterion, f"Sweep of {name}", theme_of(theme))
        report = f"{said}\n\n{outcome.table(judging.criterion)}"
        return io.NodeOutput(
            outcome.best, best, sampling.image_batch([picture]), report, ui=results.said(said, [picture])
        )


def _tried(job: runs.Job, label: str, progress: Progress, judging: Judging) -> Reached:
    """Train a run as far as its settings say, and judge it there. One that is there already is not trained again.

    Raises:
        TrainingError: the training failed, or has nothing to judge there.
    """
    if judging.keeps_all:
        job = dataclasses.replace(job, settings=dataclasses.replace(job.settings, keep_checkpoints=0))
    steps, run = job.settings.steps, _run_of(job)

    def labelled(done: int, total: int, text: str = "", preview=None) -> None:
        progress(done, total, f"{label}\n{text}" if text else "", preview)

    if steps not in judging.there(run) and max(run.checkpoints(), default=0) <= steps:
        preflight(job, run, publish.CHECKPOINT_FORMAT, sharded=False)
        create.create_run(folders.runs_root(), job)
        launcher = profiles.launch_arguments(profiles.ONE, folders.launch_profiles_folder())
        memory.unload_models()
        try:
            launch.train(run, memory.on_cpu(), labelled, None, launcher, folders.trainer_folder())
        except launch.StoppedOnRequest as error:
            raise execution.cancelled() from error
    there = judging.there(run)
    came_to = steps if steps in there else run.status().get("step")  # less where it was finished early
    if came_to not in there or came_to > steps:
        raise TrainingError(
            f"The run '{run.id}' has {judging.lacking.format(steps)}, or it was trained before with checkpoints at "
            "other steps. For that, give the sweep another name."
        )
    return judging.reached(run, came_to, labelled)


def _run_of(job: runs.Job) -> runs.Run:
    """The run of a trial, also where it was trained for longer: at a constant rate its id has no part in that."""
    longest = dataclasses.replace(job.settings, steps=int(RANGES["steps"][1]))
    return create.run_of(folders.runs_root(), dataclasses.replace(job, settings=longest))


def _told(outcome: Outcome, judging: Judging, run: runs.Run) -> str:
    """The outcome, a thought a line; `run` is the best trial's."""
    best, criterion = outcome.trials[0], judging.criterion
    lines = [f"Best of {len(outcome.trials)}: {best.described}, {criterion.name} {criterion.value(best.loss):.4f}"]
    lines += judging.remarks(outcome, run)
    lines.append(f"Trained {outcome.share:.0%} of the steps that all of them would have taken")
    return "\n".join(lines)


NODES = [TrainingSweep]
