"""The node that shows what a LoRA does: the base model beside it, at one strength or a row of them."""

from comfy_api.latest import io

from ..errors import ModelError, SettingsError
from ..prompting.seeds import listed_seeds
from ..rendering.cells import best_of, steps_wanted
from ..rendering.comparison import Comparison, NamedLora, compare, labelled, pairs, strengths_of
from ..rendering.painting import Sampling
from . import sockets
from .host import execution, folders, identity, sampling
from .inputs import (
    grid_inputs,
    lora_input,
    painter_inputs,
    picture_size_inputs,
    sampler_inputs,
    sampling_inputs,
    seeds_input,
)
from .picture_outputs import drawn, grid_outputs
from .rendering import checkpoints_of


class BaseVsLora(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImpastoBaseVsLora",
            display_name="Base vs LoRA",
            category="Impasto/Rendering",
            description="The base model and a LoRA side by side with the same prompts and seeds; or a row of "
            "strengths, negative ones too; or several LoRAs or checkpoints as rows. Every finished picture is kept.",
            search_aliases=["lora comparison", "strength sweep", "before after", "lora weight", "compare checkpoints"],
            inputs=[
                *painter_inputs("The model without the LoRA; each LoRA is put on it in turn."),
                sockets.Prompts.Input("prompts", tooltip="From Prompt Set: prompts with their seeds."),
                lora_input("A LoRA of ComfyUI's list."),
                io.String.Input(
                    "strengths",
                    default="1",
                    tooltip="The columns: strengths with commas between, as '-0.5, 0.5, 1, 1.5'. The base model stands "
                    "first, or where 0 is among them.",
                ),
                *picture_size_inputs(512),
                *sampling_inputs(),
                *sampler_inputs(),
                io.String.Input(
                    "more_loras",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="Further LoRAs of ComfyUI's list, one a line, each a row.",
                ),
                sockets.Run.Input("run", optional=True, tooltip="A run, of which checkpoints are rows as well."),
                io.String.Input(
                    "at_steps",
                    default="last",
                    optional=True,
                    tooltip="Which checkpoints of the run, for example '250, best, last'.",
                ),
                seeds_input(),
                *grid_inputs(),
            ],
            outputs=[
                io.Image.Output("comparison", tooltip="The pictures with labels; very many as several pages."),
                io.Image.Output("base", tooltip="For each picture of 'tuned', the base model's of the same seed."),
                io.Image.Output(
                    "tuned", tooltip="The pictures with a LoRA, row by row, for Image Compare and its like."
                ),
                *grid_outputs(),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def validate_inputs(cls, lora: str | None = None) -> bool | str:
        """ComfyUI's list is older than what was put into the folder since: `execute` looks itself."""
        return lora is None or isinstance(lora, str) or f"{lora!r} is given where a LoRA's name is wanted."

    @classmethod
    def execute(
        cls,
        model,
        clip,
        vae,
        prompts,
        lora,
        strengths,
        width,
        height,
        steps,
        guidance,
        sampler_name,
        scheduler,
        more_loras="",
        run=None,
        at_steps="last",
        seeds="",
        theme="light",
        cell_size=0,
    ) -> io.NodeOutput:
        names = [name for name in (lora, *map(str.strip, more_loras.splitlines())) if name and name != folders.NO_LORA]
        loras = labelled(names, [folders.lora_path(name) for name in names]) + _checkpoints(run, at_steps)
        if not loras:
            raise SettingsError("There is no LoRA to compare. Choose one of the list, or connect a run.")
        comparison = Comparison(
            folder=folders.comparisons_root(),
            loras=loras,
            strengths=strengths_of(strengths),
            prompts=prompts,
            sampling=Sampling(width, height, steps, guidance, sampler_name, scheduler),
            models=identity.sampling_identity(model, clip, vae),
            seeds=listed_seeds(seeds) if seeds.strip() else (),
            theme=theme,
            cell=cell_size,
        )
        painter = sampling.ComfyPainter(model, clip, vae, comparison.sampling)
        grid = compare(comparison, painter, execution.progress())
        pages, _, report = drawn(grid, folders.grids_root(), "base-vs-lora", cls.hidden)
        beside = list(pairs(comparison, grid))
        if not beside:
            raise ModelError("Not one picture with a LoRA could be made. See ComfyUI's log for which, and why.")
        base, tuned = (sampling.image_batch([pair[side] for pair in beside]) for side in (0, 1))
        return io.NodeOutput(pages, base, tuned, grid, report)


def _checkpoints(run, at_steps: str) -> tuple[NamedLora, ...]:
    if run is None:
        return ()
    adapters, held_out = checkpoints_of(run)
    steps = [step for step in steps_wanted(at_steps, adapters, best_of(adapters, held_out)) if step]
    lacking = [step for step in steps if step not in adapters]
    if lacking or not adapters:
        there = f"There are: {', '.join(map(str, adapters))}." if adapters else "It has none yet."
        raise SettingsError(
            f"The run '{run.id}' has no checkpoint of step {', '.join(map(str, lacking)) or at_steps}. {there}"
        )
    return tuple(NamedLora(f"{run.name}, step {step}", adapters[step]) for step in steps)


NODES = [BaseVsLora]
