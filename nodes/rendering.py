"""Pictures of a training run: its progress grid and its loss curve."""

from comfy_api.latest import io

from ..job_log import stage
from ..rendering.cells import Grid, Sampling, columns_of, render
from ..rendering.loss_plot import loss_plot
from ..trainers.run.checkpoints import ADAPTER_FILE
from . import sockets
from .host import execution, identity, sampling
from .inputs import picture_size_inputs, sampler_inputs
from .jobs import logged

CATEGORY = "Impasto/Rendering"


class ProgressGrid(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImpastoProgressGrid",
            display_name="Progress Grid",
            category=CATEGORY,
            description="Shows how a LoRA learned: a row for each prompt, a column for each checkpoint, the base model "
            "first. Every finished picture is kept with the run, so that a stopped or larger grid only makes what is "
            "missing.",
            search_aliases=["xy plot", "checkpoint comparison", "training samples", "image grid", "validation"],
            inputs=[
                sockets.Run.Input("run", tooltip="The training run whose checkpoints are compared."),
                sockets.Prompts.Input("prompts", tooltip="The rows, from Prompt Set: fixed prompts with fixed seeds."),
                io.Model.Input(
                    "model", tooltip="The model that the run was trained on; the checkpoints are put on it."
                ),
                io.Clip.Input("clip", tooltip="Encodes the prompts."),
                io.Vae.Input("vae", tooltip="Decodes the pictures."),
                *picture_size_inputs(512),
                io.Int.Input("steps", default=20, min=1, max=200, tooltip="Sampling steps of each picture."),
                io.Float.Input(
                    "guidance", default=3.5, min=0.0, max=100.0, step=0.1, tooltip="FLUX guidance while sampling."
                ),
                io.Int.Input(
                    "columns",
                    default=6,
                    min=2,
                    max=50,
                    tooltip="At most so many columns: the base model, and checkpoints evenly spread up to the last.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.05,
                    tooltip="How strongly the LoRA is applied; 1 is as trained.",
                    advanced=True,
                ),
                *sampler_inputs(),
            ],
            outputs=[
                io.Image.Output("grid", tooltip="The whole grid with its labels, as one picture."),
                io.Image.Output("pictures", tooltip="The pictures without labels, row by row from the base model on."),
            ],
        )

    @classmethod
    def execute(
        cls, run, prompts, model, clip, vae, width, height, steps, guidance, columns, strength, sampler_name, scheduler
    ) -> io.NodeOutput:
        with logged("Progress Grid", run.path):
            return cls._drawn(
                run,
                prompts,
                (model, clip, vae),
                Sampling(width, height, steps, guidance, sampler_name, scheduler),
                columns,
                strength,
            )

    @staticmethod
    def _drawn(run, prompts, models: tuple, wanted: Sampling, columns: int, strength: float) -> io.NodeOutput:
        adapters = {step: folder / ADAPTER_FILE for step, folder in run.checkpoints().items()}
        held_out = {row["step"]: row["held_out_loss"] for row in run.metrics() if "held_out_loss" in row}
        grid = Grid(
            name=run.id,
            folder=run.path / "grid",
            columns=columns_of(run.id, adapters, columns, held_out),
            prompts=prompts,
            sampling=wanted,
            strength=strength,
            models=identity.sampling_identity(*models),
        )
        cells = render(grid, sampling.ComfyPainter(*models, wanted, strength), execution.progress())
        pictures = [cells[place] for place in sorted(cells)]
        with stage("draw the grid"):
            whole = grid.picture(cells)
        return io.NodeOutput(sampling.image_batch([whole]), sampling.image_batch(pictures))


class LossPlot(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImpastoLossPlot",
            display_name="Loss Plot",
            category=CATEGORY,
            description="The loss of a training run over its steps: each step, the trend, and the held-out pictures.",
            search_aliases=["loss graph", "training curve", "metrics", "learning rate"],
            inputs=[sockets.Run.Input("run", tooltip="The training run, finished or not.")],
            outputs=[io.Image.Output("plot", tooltip="The loss curve as a picture, 1600 by 1000 pixels.")],
        )

    @classmethod
    def execute(cls, run) -> io.NodeOutput:
        return io.NodeOutput(sampling.image_batch([loss_plot(run.metrics(), run.id)]))


NODES = [ProgressGrid, LossPlot]
