"""The nodes that train: the FLUX LoRA trainer, and finding a run again."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from comfy_api.latest import io

from ..api.graphs import of_prompt
from ..api.jobs import note_run
from ..embedded import tiny_flux
from ..errors import ImpastoError, SettingsError, TrainingError
from ..files import write_whole
from ..job_log import LoggedJob, stage
from ..trainers.flux import detection
from ..trainers.flux.fingerprint import fingerprint as flux_fingerprint
from ..trainers.libraries import check_trainer
from ..trainers.lora import file_formats as lora_files
from ..trainers.preflight import check_settings, preflight
from ..trainers.run import create, launch, publish
from ..trainers.run import folder as runs
from ..trainers.run import launch_profiles as profiles
from ..trainers.run.samples import drawn_samples
from ..trainers.settings import SCHEDULERS
from . import results, sockets
from .host import execution, folders, memory, models, sampling
from .inputs import AS_BEFORE, anew, changed, number_or_as_before, over_links, refused
from .jobs import logged
from .trained import last_sample, told

logger = logging.getLogger(__name__)

CATEGORY = "Impasto/Training"
NEW_LORA = "a new LoRA"
RUN_KEY = "impasto_run"  # of the run's id among what a node shows: the page's panel asks for the rest
RETURNED_KEY = "impasto_returned"  # whether that run was finished before and is given back: no step was trained


def _lora_format() -> io.Combo.Input:
    return io.Combo.Input(
        "lora_format",
        options=list(lora_files.FORMATS),
        default=publish.CHECKPOINT_FORMAT,
        optional=True,
        advanced=True,
        tooltip="Names of the keys in the LoRA's file. ComfyUI loads all of them; diffusers is the most widely read.",
    )


def _launch_profile() -> io.Combo.Input:
    return io.Combo.Input(
        "launch_profile",
        options=profiles.names(folders.launch_profiles_folder()),
        default=profiles.ONE,
        optional=True,
        advanced=True,
        tooltip="On which processors to train: this one, all of this machine (with the base model whole on each, or "
        "sharded so that each holds a part), or an accelerate configuration in user/impasto/accelerate.",
    )


def _outputs() -> list[io.Output]:
    return [
        sockets.Run.Output("run", tooltip="The training run, for Progress Grid and Loss Plot."),
        io.LoraModel.Output("lora", tooltip="The finished LoRA's weights, for Load LoRA Model."),
        io.LossMap.Output("loss", tooltip="Loss of every step, for Plot Loss Graph."),
        # Any type: the server takes nothing else for a list that a core loader fills from a folder.
        io.AnyType.Output(
            "lora_name", tooltip="The LoRA's file, by a name that no other LoRA has; link it to lora_name of Load LoRA."
        ),
    ]


class FluxLoraTrainer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImpastoFluxLoraTrainer",
            display_name="FLUX LoRA Trainer",
            category=CATEGORY,
            description="Trains a FLUX.1 LoRA in a process of its own. Cancel finishes the step, saves and stops; "
            "queue again to go on from there. A finished run is returned at once.",
            search_aliases=["Train FLUX LoRA", "train", "lora", "flux", "finetune", "style lora", "dreambooth"],
            inputs=[
                io.Model.Input("model", tooltip="The FLUX.1 model to train on, from Load Diffusion Model."),
                sockets.Features.Input("features", tooltip="From Encode Training Data."),
                sockets.Training.Input("training", tooltip="From Training Settings."),
                io.String.Input(
                    "name",
                    default="my-style",
                    tooltip="Name of the LoRA: its files appear as output/loras/<name>/<name>.safetensors. Another "
                    "name is another run, trained from the start; to rename a finished LoRA, copy its file.",
                ),
                io.Combo.Input(
                    "start_from",
                    options=[NEW_LORA, *folders.lora_names()],
                    default=NEW_LORA,
                    optional=True,
                    tooltip="A LoRA to go on from, with the same layers and rank, instead of a new one.",
                ),
                _lora_format(),
                _launch_profile(),
            ],
            outputs=_outputs(),
            is_output_node=True,
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def validate_inputs(
        cls, name: str | None = None, start_from: str | None = None, launch_profile: str | None = None
    ) -> bool | str:
        """Refuse before anything runs what `execute` would refuse after hours of encoding.

        Their lists are not asked: they are older than what was put into the folders since.
        """
        return refused(
            ("", "", lambda _: check_trainer()),
            ("name", name, functools.partial(publish.lora_folder, folders.loras_root())),
            ("start_from", start_from, lambda lora: lora == NEW_LORA or _start_file(lora, name)),
            ("launch_profile", launch_profile, _launcher),
        )

    @classmethod
    def fingerprint_inputs(cls, start_from: str | None = NEW_LORA, **others: object) -> str | float:
        """Train anew when another LoRA has taken the name of the one to start from."""
        if over_links(start_from):
            return anew()
        if start_from == NEW_LORA:
            return ""
        try:
            return flux_fingerprint(folders.lora_path(start_from))
        except (ImpastoError, OSError) as error:
            return str(error)  # execute says it in full

    @classmethod
    def execute(
        cls,
        model,
        features,
        training,
        name,
        start_from=NEW_LORA,
        lora_format=publish.CHECKPOINT_FORMAT,
        launch_profile=profiles.ONE,
    ) -> io.NodeOutput:
        publish.lora_folder(folders.loras_root(), name)  # refused before the model is written out
        check_settings(training, lora_format)
        start = "" if start_from == NEW_LORA else str(_start_file(start_from, name))
        weights, fingerprint = base_of(model)
        job = runs.Job(
            name,
            training,
            features.folder,
            features.key,
            str(weights),
            fingerprint,
            start_lora=start,
            start_hash=flux_fingerprint(start) if start else "",
            prompts=features.prompts,
        )
        return _train(job, lora_format, launch_profile, cls.hidden)


class ContinueTraining(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImpastoContinueTraining",
            display_name="Continue Training",
            category=CATEGORY,
            description="Trains an earlier run for more steps, with a newly planned learning rate. The earlier run and "
            "its LoRAs stay; queueing again returns what is there.",
            search_aliases=["resume training", "extend run", "train longer", "more steps"],
            inputs=[
                io.Model.Input("model", tooltip="The FLUX.1 model that the run was trained on."),
                sockets.Run.Input("run", tooltip="From Training Run Loader or FLUX LoRA Trainer."),
                io.Int.Input(
                    "more_steps",
                    default=500,
                    min=1,
                    max=1_000_000,
                    tooltip="Optimiser steps after the last checkpoint.",
                ),
                number_or_as_before(io.Float, "learning_rate", "Peak learning rate of these steps.", step=1e-7),
                io.Combo.Input(
                    "scheduler",
                    options=[AS_BEFORE, *SCHEDULERS],
                    default=AS_BEFORE,
                    tooltip="How the learning rate goes on, planned anew for these steps.",
                ),
                _lora_format(),
                _launch_profile(),
            ],
            outputs=_outputs(),
            is_output_node=True,
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def validate_inputs(cls, launch_profile: str | None = None) -> bool | str:
        return refused(("", "", lambda _: check_trainer()), ("launch_profile", launch_profile, _launcher))

    @classmethod
    def execute(
        cls,
        model,
        run,
        more_steps,
        learning_rate,
        scheduler,
        lora_format=publish.CHECKPOINT_FORMAT,
        launch_profile=profiles.ONE,
    ) -> io.NodeOutput:
        check_settings(runs.Job.read(run).settings, lora_format)
        changes = changed({"learning_rate": learning_rate, "scheduler": scheduler})
        longer = create.continue_run(folders.runs_root(), run, more_steps, *base_of(model), **changes)
        return _train(runs.Job.read(longer), lora_format, launch_profile, cls.hidden)


def _launcher(launch_profile: str) -> tuple[str, ...]:
    return profiles.launch_arguments(launch_profile, folders.launch_profiles_folder())


def base_of(model) -> tuple[Path, str]:
    """The base model's file and what identifies its content; refused before any memory is given up for it."""
    weights = models.flux_weights_file(model)
    detection.inspect(weights)
    return weights, flux_fingerprint(weights)


def _start_file(lora: str, name: str | None) -> Path:
    """Where the LoRA to start from lies; `name` is that of the new one, None as long as it is not known."""
    file = folders.lora_path(lora).resolve()
    if name is not None and file.is_relative_to(publish.lora_folder(folders.loras_root(), name)):
        raise SettingsError(
            f"start_from is {lora}, which this node would write over as soon as it is done, and then begin anew from "
            "that. Give the new LoRA another name, or use Continue Training to go on with this one."
        )
    return file


def _train(job: runs.Job, lora_format: str, launch_profile: str, hidden) -> io.NodeOutput:
    run = create.run_of(folders.runs_root(), job)
    with logged("FLUX LoRA Trainer", run.path) as work:
        return _trained(run, job, lora_format, launch_profile, hidden, work)


def _trained(
    run: runs.Run, job: runs.Job, lora_format: str, launch_profile: str, hidden, work: LoggedJob
) -> io.NodeOutput:
    launcher = _launcher(launch_profile)
    if not run.has_finished(job.settings):
        with stage("check"):
            preflight(job, run, lora_format, profiles.is_sharded(launcher))
    create.create_run(folders.runs_root(), job)
    about = execution.place(hidden)
    graph = of_prompt(hidden.prompt or {}, about["node"])
    note_run(folders.user_root(), execution.prompt_id(), run.id, graph)
    execution.tell_of_run(run.id, about)
    returned = run.finished
    if not returned:
        # The graph as the browser sent it, else as the API did: the run says how it was made.
        workflow = (hidden.extra_pnginfo or {}).get("workflow") or hidden.prompt or {}
        write_whole(run.path / "workflow.json", json.dumps(workflow))
        memory.unload_models()
        try:
            _train_logged(run, launcher, work, about)
        except BaseException:
            _publish_so_far(run, job.name, lora_format)
            raise
    earlier = publish.displaced(run, job.name, folders.loras_root())
    notes: list[str] = []
    with stage("publish"):
        final = publish.publish(run, job.name, folders.loras_root(), lora_format, notes.append)
    if final is None:
        raise TrainingError(
            f"The run '{run.id}' is finished, but its checkpoints are gone from {run.path}. Delete that folder "
            "to train it again."
        )
    loss = {"loss": [record["loss"] for record in run.metrics() if "loss" in record]}
    lora_name = f"{final.parent.name}/{final.name}"
    shown = results.said(told(run, job, lora_name, earlier, returned, notes), last_sample(run))
    shown |= {RUN_KEY: [run.id], RETURNED_KEY: [returned]}
    return io.NodeOutput(run, models.load_lora(final), loss, lora_name, ui=shown)


def _train_logged(run: runs.Run, launcher: Sequence[str], work: LoggedJob, about: Mapping[str, str]) -> None:
    """Train in a process of its own, whose steps and memory are those of the job."""
    before = _steps(run)
    weights = Path(runs.Job.read(run).weights)
    decoder = tiny_flux.decoder_of(weights, folders.pack_models_root()) or sampling.preview_decoder()
    preview = functools.partial(sampling.latents_preview, decoder=decoder)
    with stage("train") as training:
        try:
            folder = folders.trainer_folder()
            progress = execution.progress(pictures=False)  # the page's panel shows every sample of each prompt
            launch.train(run, memory.on_cpu(), progress, preview, launcher, folder, about)
        except launch.StoppedOnRequest as error:
            raise execution.cancelled() from error
        finally:
            training.items += max(_steps(run) - before, 0)
            status = run.status()
            held = (status.get("peak_memory"), status.get("peak_device_memory"))
            work.saw_memory(*(size if isinstance(size, int) else 0 for size in held))


def _steps(run: runs.Run) -> int:
    return max((record["step"] for record in run.metrics()), default=0)


def _publish_so_far(run: runs.Run, name: str, lora_format: str) -> None:
    """What is trained so far is there to be used; what goes wrong with that must not hide why training ended."""
    try:
        publish.publish(run, name, folders.loras_root(), lora_format)
    except Exception:
        logger.exception(
            "The LoRAs trained so far are in %s, but could not be put into %s",
            run.path / "checkpoints",
            folders.loras_root(),
        )


class TrainingRunLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImpastoTrainingRunLoader",
            display_name="Training Run Loader",
            category=CATEGORY,
            description="Finds an earlier training run, finished or not, so that its grid and plots can be drawn.",
            search_aliases=["load run", "training history", "resume run"],
            inputs=[
                io.Combo.Input(
                    "run_id",
                    options=[runs.LATEST, *runs.list_runs(folders.runs_root())],
                    tooltip="A run in output/impasto/runs: the LoRA's name and a hash of everything that made it. "
                    "latest: the one trained last for at least one step, without those that Continue Training made.",
                )
            ],
            outputs=[sockets.Run.Output("run", tooltip="The run, for Progress Grid and Loss Plot.")],
        )

    @classmethod
    def validate_inputs(cls, run_id: str | None = None) -> bool | str:
        """Accept runs made after the list was; the latest may be one that this graph is about to train."""
        find = functools.partial(runs.find_run, folders.runs_root())
        return run_id == runs.LATEST or refused(("run_id", run_id, find))

    @classmethod
    def fingerprint_inputs(cls, run_id: str | None = None) -> str | float:
        """A run that has gone on is another output to ComfyUI, so that grids and plots of it are drawn anew."""
        if over_links(run_id):
            return anew()
        return runs.state_of(folders.runs_root(), run_id)

    @classmethod
    def execute(cls, run_id) -> io.NodeOutput:
        run = runs.find_run(folders.runs_root(), run_id)
        status = run.status()
        far = f"step {status['step']} of {status['total']}, " if {"step", "total"} <= status.keys() else ""
        shown = results.said(f"{run.id}\n{far}{status.get('state', 'not begun')}", last_sample(run))
        return io.NodeOutput(run, ui=shown)


class TrainingSamples(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImpastoTrainingSamples",
            display_name="Training Samples",
            category=CATEGORY,
            description="What the trainer drew at each checkpoint, as latents: decode them with VAE Decode.",
            search_aliases=["in-run samples", "training preview", "checkpoint samples"],
            inputs=[sockets.Run.Input("run", tooltip="The training run, finished or not.")],
            outputs=[
                io.Latent.Output("latents", tooltip="All samples, checkpoint by checkpoint, for VAE Decode."),
                io.String.Output("steps", tooltip="The training step of each sample, with commas between."),
            ],
        )

    @classmethod
    def execute(cls, run) -> io.NodeOutput:
        latents, steps = drawn_samples(run)
        line = f"{len(steps)} samples, of {len(set(steps))} checkpoints up to step {max(steps)}"
        shown = results.said(line, last_sample(run))
        return io.NodeOutput({"samples": latents}, ", ".join(map(str, steps)), ui=shown)


NODES = [FluxLoraTrainer, ContinueTraining, TrainingRunLoader, TrainingSamples]
