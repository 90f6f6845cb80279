"""The nodes that train: settings, the FLUX LoRA trainer, and finding a run again."""

from __future__ import annotations

import json

from comfy_api.latest import io

from ..files import write_whole
from ..trainers import adapter, flux_weights, launch, runs
from ..trainers.settings import OPTIMIZERS, PRECISIONS, RANGES, SCHEDULERS, TIMESTEP_SAMPLINGS, Settings
from . import host, sockets

CATEGORY = "Impasto/Training"
DEFAULTS = Settings()


def _int(name: str, tooltip: str, **more) -> io.Int.Input:
    low, high = RANGES[name]
    return io.Int.Input(name, default=getattr(DEFAULTS, name), min=int(low), max=int(high), tooltip=tooltip, **more)


def _float(name: str, tooltip: str, step: float, **more) -> io.Float.Input:
    low, high = RANGES[name]
    default = getattr(DEFAULTS, name)
    return io.Float.Input(name, default=default, min=low, max=high, step=step, tooltip=tooltip, **more)


def _combo(name: str, options: tuple[str, ...], tooltip: str, **more) -> io.Combo.Input:
    return io.Combo.Input(name, options=list(options), default=getattr(DEFAULTS, name), tooltip=tooltip, **more)


class TrainingSettings(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImpastoTrainingSettings",
            display_name="Training Settings",
            category=CATEGORY,
            description="Every hyperparameter of a FLUX.1 LoRA run. The defaults are a sound start for a painting "
            "style with 20 to 1,000 pictures.",
            search_aliases=["hyperparameters", "learning rate", "lora rank", "train settings", "steps"],
            inputs=[
                _int("steps", "Optimiser steps in all. Style LoRAs usually need 1,000 to 2,000."),
                _float("learning_rate", "Peak learning rate, reached after the warm-up. 1e-4 suits AdamW.", 1e-6),
                _int("rank", "Rank of the LoRA matrices: how much it can learn, and how large the file is."),
                _float("alpha", "The LoRA is scaled by alpha / rank. Keep it equal to the rank for scale 1.", 0.5),
                _combo("targets", tuple(adapter.TARGETS), "Which linear layers of the transformer get a LoRA."),
                _combo("optimizer", OPTIMIZERS, "adamw8bit keeps its state in 8 bits; it needs bitsandbytes."),
                _combo("scheduler", SCHEDULERS, "How the learning rate goes on after the warm-up."),
                _int("warmup_steps", "Steps over which the learning rate rises from 0."),
                _combo(
                    "timestep_sampling",
                    TIMESTEP_SAMPLINGS,
                    "Which noise levels are trained: sigmoid favours the middle ones, flux_shift follows FLUX's "
                    "sampler at this resolution.",
                ),
                _float("caption_dropout", "Share of batches trained with an empty caption.", 0.01),
                _int("checkpoint_every", "Steps between checkpoints. Each becomes a LoRA file and a grid column."),
                _int("seed", "Decides the initial weights, the order, the noise and the caption dropout."),
                _combo(
                    "precision",
                    PRECISIONS,
                    "Of the frozen base model; the LoRA is always fp32. auto: bf16 on a GPU, fp32 on the CPU.",
                    advanced=True,
                ),
                io.Boolean.Input(
                    "gradient_checkpointing",
                    default=DEFAULTS.gradient_checkpointing,
                    tooltip="Recompute each block in the backward pass: far less memory, about a third more time.",
                    advanced=True,
                ),
                _int("gradient_accumulation", "Batches per optimiser step.", advanced=True),
                _float("weight_decay", "Decoupled weight decay of AdamW.", 0.001, advanced=True),
                _float(
                    "max_grad_norm",
                    "Gradients are clipped to this norm; 0 switches that off.",
                    0.1,
                    advanced=True,
                ),
                _float("guidance", "Guidance embedding while training: 1.0 for FLUX.1-dev.", 0.1, advanced=True),
                _int("sample_steps", "Sampling steps of the preview at each checkpoint; 0 for none.", advanced=True),
            ],
            outputs=[sockets.Training.Output("training", tooltip="The settings, for FLUX LoRA Trainer.")],
        )

    @classmethod
    def execute(cls, **settings) -> io.NodeOutput:
        return io.NodeOutput(Settings(**settings))


class FluxLoraTrainer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImpastoFluxLoraTrainer",
            display_name="FLUX LoRA Trainer",
            category=CATEGORY,
            description="Trains a FLUX.1 LoRA in a process of its own. Cancel finishes the step, saves and stops; "
            "queue again to go on from there. A finished run is returned at once.",
            search_aliases=["train lora", "flux training", "finetune", "style lora", "dreambooth"],
            inputs=[
                io.Model.Input("model", tooltip="The FLUX.1 model to train on, from Load Diffusion Model."),
                sockets.Features.Input("features", tooltip="From Encode Training Data."),
                sockets.Training.Input("training", tooltip="From Training Settings."),
                io.String.Input(
                    "name",
                    default="my-style",
                    tooltip="Name of the LoRA: its files appear as output/loras/<name>/<name>.safetensors.",
                ),
            ],
            outputs=[
                sockets.Run.Output("run", tooltip="The training run, for Progress Grid and Loss Plot."),
                io.LoraModel.Output("lora", tooltip="The finished LoRA's weights, for Load LoRA Model."),
                io.LossMap.Output("loss", tooltip="Loss of every step, for Plot Loss Graph."),
                # Any type: the server takes nothing else for a list that a core loader fills from a folder.
                io.AnyType.Output("lora_name", tooltip="The LoRA's file name; link it to lora_name of Load LoRA."),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(cls, model, features, training, name) -> io.NodeOutput:
        runs.lora_folder(host.loras_root(), name)
        weights = host.flux_weights_file(model)
        flux_weights.inspect(weights)  # refuses what cannot be trained on before any memory is given up
        fingerprint = flux_weights.fingerprint(weights)
        job = runs.Job(name, training, features.folder, features.key, str(weights), fingerprint)
        run = runs.create_run(host.runs_root(), job)
        write_whole(run.path / "workflow.json", json.dumps(cls._workflow()))
        if not run.finished:
            host.unload_models()
            try:
                launch.train(run, host.on_cpu(), host.progress(), host.latents_preview, host.accelerate_config())
            except BaseException:
                runs.publish(run, name, host.loras_root())  # what is trained so far is there to be used
                raise
        final = runs.publish(run, name, host.loras_root())
        loss = {"loss": [record["loss"] for record in run.metrics() if "loss" in record]}
        return io.NodeOutput(run, host.load_lora(final), loss, f"{final.parent.name}/{final.name}")

    @classmethod
    def _workflow(cls) -> dict:
        """The graph as the browser sent it, else as the API did: the run says how it was made."""
        return (cls.hidden.extra_pnginfo or {}).get("workflow") or cls.hidden.prompt or {}


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
                    options=runs.list_runs(host.runs_root()),
                    tooltip="A run in output/impasto/runs: the LoRA's name and a hash of everything that made it.",
                )
            ],
            outputs=[sockets.Run.Output("run", tooltip="The run, for Progress Grid and Loss Plot.")],
        )

    @classmethod
    def validate_inputs(cls, run_id: str) -> bool:
        return True  # find_run answers for itself: it also knows runs made after this list was

    @classmethod
    def fingerprint_inputs(cls, run_id: str) -> str:
        """A run that has gone on is another output to ComfyUI, so that grids and plots of it are drawn anew."""
        return runs.state_of(host.runs_root(), run_id)

    @classmethod
    def execute(cls, run_id) -> io.NodeOutput:
        return io.NodeOutput(runs.find_run(host.runs_root(), run_id))


NODES = [TrainingSettings, FluxLoraTrainer, TrainingRunLoader]
