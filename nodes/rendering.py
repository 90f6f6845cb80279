"""Pictures of a training: its progress grid, the samples that were drawn during it, and its loss curve."""

from __future__ import annotations

from pathlib import Path

from comfy_api.latest import io

from ..errors import SettingsError, TrainingError
from ..prompting.seeds import listed_seeds
from ..rendering import samples
from ..rendering.cells import Grid, best_of, columns_of, render
from ..rendering.loss_plot import MOST_OTHERS, loss_plot
from ..rendering.loss_series import Curve, held_out_by_step, metrics_of_loss_map
from ..rendering.painting import Sampling
from ..trainers.run import folder as runs
from ..trainers.run.checkpoints import ADAPTER_FILE
from . import results, sockets
from .host import execution, folders, identity, sampling
from .inputs import (
    anew,
    checkpoint_inputs,
    grid_inputs,
    over_links,
    painter_inputs,
    picture_size_inputs,
    sampler_inputs,
    sampling_inputs,
    seeds_input,
    theme_input,
)
from .jobs import logged
from .picture_outputs import drawn, grid_outputs

CATEGORY = "Impasto/Rendering"


def _steps_input() -> io.Input:
    return io.String.Input(
        "at_steps",
        default="",
        optional=True,
        tooltip="The columns, as steps with commas between: '0, 250, 500, best, last'; 0 is the base model, best has "
        "the lowest held-out loss. Empty: evenly spread.",
    )


def checkpoints_of(run: runs.Run) -> tuple[dict[int, Path], dict[int, float]]:
    """A run's LoRAs by step, and its held-out losses.

    Raises:
        TrainingError: its folder is gone.
    """
    if not run.path.is_dir():
        raise TrainingError(f"The folder of the run '{run.id}' is gone ({run.path}). Load another run.")
    adapters = {step: folder / ADAPTER_FILE for step, folder in run.checkpoints().items()}
    return adapters, held_out_by_step(run.metrics())


def kept_with(run: runs.Run, prompts, models: tuple, wanted: Sampling, strength: float, seeds: str, theme: str) -> dict:
    """What every `Grid` of a run says but its columns, so that all that show the run share its pictures."""
    return {
        "name": run.id,
        "folder": run.path / "grid",
        "prompts": prompts,
        "sampling": wanted,
        "strength": strength,
        "models": identity.sampling_identity(*models),
        "title": run.name,
        "seeds": listed_seeds(seeds) if seeds.strip() else (),
        "theme": theme,
    }


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
                *painter_inputs("The model that the run was trained on; the checkpoints are put on it."),
                *picture_size_inputs(512),
                *sampling_inputs(),
                *checkpoint_inputs(1000),
                *sampler_inputs(),
                _steps_input(),
                seeds_input(),
                *grid_inputs(),
            ],
            outputs=[
                io.Image.Output("grid", tooltip="The grid with its labels; a very large one as several pages."),
                io.Image.Output("pictures", tooltip="The pictures without labels, row by row from the base model on."),
                *grid_outputs(),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(
        cls,
        run,
        prompts,
        model,
        clip,
        vae,
        width,
        height,
        steps,
        guidance,
        columns,
        strength,
        sampler_name,
        scheduler,
        at_steps="",
        seeds="",
        theme="light",
        cell_size=0,
    ) -> io.NodeOutput:
        wanted = Sampling(width, height, steps, guidance, sampler_name, scheduler)
        adapters, held_out = checkpoints_of(run)
        grid = Grid(
            columns=columns_of(run.id, adapters, columns, held_out, at_steps),
            cell=cell_size,
            **kept_with(run, prompts, (model, clip, vae), wanted, strength, seeds, theme),
        )
        painter = sampling.ComfyPainter(model, clip, vae, grid.sampling)
        with logged("Progress Grid", run.path):
            shown = render(grid, painter, execution.progress())
        best = best_of(adapters, held_out)
        lowest = f"Step {best} has the lowest held-out loss ({held_out[best]:.4f})." if best is not None else ""
        seen = any(column.best for column in grid.columns)
        pages, pictures, report = drawn(shown, run.path / "grids", run.name, cls.hidden, "" if seen else lowest)
        ends = " to ".join(dict.fromkeys([shown.columns[0].text, shown.columns[-1].text]))
        prompts = f"{len(shown.rows)} prompt{'s' if len(shown.rows) > 1 else ''}"
        told = " ".join(filter(None, [f"{run.name}: {prompts}, {ends}.", lowest if seen else "", report]))
        return io.NodeOutput(pages, pictures, shown, report, ui=results.said(told))


class SampleGrid(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImpastoSampleGrid",
            display_name="Sample Grid",
            category=CATEGORY,
            description="The progress grid of pictures that were drawn during a training: by FLUX LoRA Trainer, or by "
            "sd-scripts, FluxTrainer, ai-toolkit or SimpleTuner into a folder. Nothing is sampled.",
            search_aliases=["training samples", "sample images", "validation images", "kohya samples", "ai-toolkit"],
            inputs=[
                sockets.Run.Input("run", optional=True, tooltip="A run that drew samples; or give a folder."),
                io.Vae.Input("vae", optional=True, tooltip="Decodes the samples of a run."),
                sockets.Prompts.Input(
                    "prompts", optional=True, tooltip="What the rows of a folder are of, in the other trainer's order."
                ),
                io.String.Input(
                    "folder",
                    default="",
                    optional=True,
                    tooltip="A folder in ComfyUI's input or output folder, for example 'my-style/samples'.",
                ),
                io.Int.Input(
                    "columns",
                    default=6,
                    min=1,
                    max=1000,
                    optional=True,
                    tooltip="At most so many columns, evenly spread up to the last.",
                ),
                _steps_input(),
                *grid_inputs(),
            ],
            outputs=[
                io.Image.Output("grid", tooltip="The grid with its labels; a very large one as several pages."),
                io.Image.Output("pictures", tooltip="The pictures without labels, row by row."),
                *grid_outputs(),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def fingerprint_inputs(cls, **inputs) -> float:
        """A folder gets more pictures while a training goes on, and so does a run."""
        return anew()

    @classmethod
    def execute(
        cls, run=None, vae=None, prompts=(), folder="", columns=6, at_steps="", theme="light", cell_size=0
    ) -> io.NodeOutput:
        if (run is None) == (not folder.strip()):
            raise SettingsError("Connect a run, or give a folder of samples: one of the two.")
        if run is not None:
            if vae is None:
                raise SettingsError("The samples of a run are latents. Connect a VAE, which decodes them.")
            grid = samples.grid_of_run(
                run,
                lambda file: sampling.decode_scaled_latents(vae, file),
                identity.model_identity(vae.patcher),
                columns,
                at_steps,
                execution.progress(),
                cell_size,
                theme,
            )
            kept, name = run.path / "grids", f"{run.name}-samples"
        else:
            place = folders.folder_of_pictures(folder)
            grid = samples.grid_of_folder(place, prompts, columns, at_steps, cell_size, theme)
            kept, name = folders.grids_root(), place.name
        pages, pictures, report = drawn(grid, kept, name, cls.hidden)
        return io.NodeOutput(pages, pictures, grid, report)


class LossPlot(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImpastoLossPlot",
            display_name="Loss Plot",
            category=CATEGORY,
            description="The loss of a training run over its steps: each step, the trend, and the held-out pictures; "
            "with learning rate, gradient norm, sigmas, and where checkpoints and pictures were made. Several "
            "runs are laid over each other. ComfyUI's own LOSS_MAP is taken too.",
            search_aliases=["loss graph", "training curve", "metrics", "learning rate", "loss map", "compare runs"],
            inputs=[
                sockets.Run.Input("run", optional=True, tooltip="The training run, finished or not."),
                io.LossMap.Input(
                    "loss_map",
                    optional=True,
                    tooltip="The losses of ComfyUI's Train LoRA or another trainer, alone or laid over the run.",
                ),
                io.String.Input(
                    "other_runs",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="Runs to lay over it: their ids, one a line, as Training Run Loader lists them.",
                ),
                theme_input(),
            ],
            outputs=[io.Image.Output("plot", tooltip="The loss curve as a picture, 1600 by 1000 pixels.")],
        )

    @classmethod
    def fingerprint_inputs(cls, other_runs="", **others) -> str | float:
        """The runs that are only named go on, too."""
        if over_links(other_runs):
            return anew()
        names = [name.strip() for name in other_runs.splitlines() if name.strip()]
        return " ".join(runs.state_of(folders.runs_root(), name) for name in names)

    @classmethod
    def execute(cls, run=None, loss_map=None, other_runs="", theme="light") -> io.NodeOutput:
        if run is not None and not run.path.is_dir():
            raise TrainingError(f"The folder of the run '{run.id}' is gone ({run.path}). Load another run.")
        named = [name.strip() for name in other_runs.splitlines() if name.strip()]
        found = [runs.find_run(folders.runs_root(), name) for name in named[:MOST_OTHERS]]
        shown = [each for each in (run, *found) if each is not None]
        names = [each.name for each in shown]
        curves = [Curve(each.name if names.count(each.name) == 1 else each.id, each.metrics()) for each in shown]
        if loss_map is not None:
            curves.append(Curve("loss map", _losses(loss_map)))
        if not curves:
            raise SettingsError("There is nothing to plot. Connect a run or a LOSS_MAP, or name a run in other_runs.")
        first, *others = curves
        marks = {}
        if shown:
            marks = {"run": shown[0].id, "checkpoints": [*shown[0].checkpoints()], "pictures": [*shown[0].samples()]}
        picture = loss_plot(first.metrics, first.name, **marks, others=others, theme=theme)
        told = "\n".join(map(_told, curves))
        return io.NodeOutput(sampling.image_batch([picture]), ui=results.said(told, [picture]))


def _told(curve: Curve) -> str:
    """How long a run was, and where its held-out loss was lowest."""
    steps = sum("loss" in record for record in curve.metrics)
    held_out = held_out_by_step(curve.metrics)
    best = best_of(dict.fromkeys(held_out), held_out)
    return f"{curve.name}: {steps} steps" + (f", best held-out {held_out[best]:.4f} at step {best}" if best else "")


def _losses(loss_map) -> list[dict]:
    try:
        return metrics_of_loss_map(loss_map)
    except ValueError as error:
        raise SettingsError(f"loss_map cannot be read: {error}. Connect it to Train LoRA's output.") from error


NODES = [ProgressGrid, SampleGrid, LossPlot]
