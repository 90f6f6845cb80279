"""Which checkpoint of a run to keep."""

from comfy_api.latest import io

from ..errors import SettingsError
from ..evaluation.evaluate import evaluate
from ..evaluation.run_page import sections
from ..rendering.cells import Grid, columns_of
from ..rendering.painting import Sampling
from . import results, sockets
from .host import encoders, execution, sampling
from .inputs import (
    checkpoint_inputs,
    painter_inputs,
    picture_size_inputs,
    sampler_inputs,
    sampling_inputs,
    seeds_input,
    theme_input,
)
from .jobs import logged
from .rendering import checkpoints_of, kept_with


class EvaluateLora(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImpastoEvaluateLora",
            display_name="Evaluate LoRA",
            category="Impasto/Rendering",
            description="Which checkpoint to keep: measures of each how near it came to the style of the training set, "
            "what it kept of the base model's pictures, how much its seeds differ, and what it copied. First it finds "
            "out which of its measures can be believed on this set. Pictures are shared with Progress Grid.",
            search_aliases=["judge", "best checkpoint", "overfitting", "score", "lora quality", "compare checkpoints"],
            inputs=[
                sockets.Run.Input("run", tooltip="The training run whose checkpoints are judged."),
                sockets.Dataset.Input(
                    "dataset", tooltip="The pictures that it was trained on: the style, and what may have been copied."
                ),
                sockets.Prompts.Input(
                    "prompts",
                    tooltip="From Prompt Set: at least 4 prompts that no training picture has, better 8, with 2 seeds "
                    "each. More of them make the answer surer.",
                ),
                *painter_inputs(
                    "The model that the run was trained on.",
                    decodes="Decodes the pictures, and softens the set's as it softens those.",
                ),
                *picture_size_inputs(512),
                *sampling_inputs(),
                *checkpoint_inputs(50),
                *sampler_inputs(),
                io.Int.Input(
                    "references",
                    default=100,
                    min=4,
                    max=1000,
                    tooltip="At most so many pictures of the set are looked at, in the order of their hashes.",
                    advanced=True,
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="From Load CLIP Vision: one more measure of style, beside strokes and palette.",
                ),
                seeds_input(),
                theme_input(),
                io.Clip.Input(
                    "clip_text",
                    optional=True,
                    tooltip="From Load CLIP, the text encoder of the same CLIP as clip_vision, with its projection: "
                    "tells how well pictures fit their prompts.",
                ),
            ],
            outputs=[
                io.String.Output("verdict", tooltip="Which step to keep, why, and whether that is more than noise."),
                io.Int.Output("keep", tooltip="The step to keep; 0 where none is better than the base model."),
                io.Image.Output("chart", tooltip="Style gained and content kept over the steps, with their certainty."),
                io.String.Output("page", tooltip="File of a web page with everything: it needs nothing beside it."),
            ],
        )

    @classmethod
    def execute(
        cls,
        run,
        dataset,
        prompts,
        model,
        clip,
        vae,
        width=512,
        height=512,
        steps=20,
        guidance=3.5,
        columns=6,
        strength=1.0,
        sampler_name="euler",
        scheduler="simple",
        references=100,
        clip_vision=None,
        seeds="",
        theme="light",
        clip_text=None,
    ) -> io.NodeOutput:
        encoder, embed_texts = _encoders(clip_vision, clip_text)
        wanted = Sampling(width, height, steps, guidance, sampler_name, scheduler)
        adapters, held_out = checkpoints_of(run)
        grid = Grid(
            columns=columns_of(run.id, adapters, columns, held_out),
            **kept_with(run, prompts, (model, clip, vae), wanted, strength, seeds, theme),
        )
        with logged("Evaluate LoRA", run.path):
            judged = evaluate(
                grid,
                sampling.ComfyPainter(model, clip, vae, grid.sampling),
                dataset,
                references,
                lambda picture: sampling.round_trip(vae, picture),
                encoder,
                run.path / "evaluation",
                execution.progress(),
                _of_run(run),
                embed_texts,
            )
        said = "\n".join(judged.verdict.sentences)
        return io.NodeOutput(
            said,
            judged.verdict.keep or 0,
            sampling.image_batch([judged.chart]),
            str(judged.page),
            ui=results.said(said, [judged.chart]),
        )


def _encoders(clip_vision, clip_text):
    """What encodes pictures, and prompts in the same space; None for each that is not connected.

    Raises:
        SettingsError: there are prompts and no pictures to compare them with.
        ModelError: the two have no space in common.
    """
    if clip_text is None:
        return encoders.picture_encoder(clip_vision) if clip_vision else None, None
    if clip_vision is None:
        raise SettingsError(
            "clip_text is connected and clip_vision is not: prompts are compared with what CLIP sees in the pictures. "
            "Connect Load CLIP Vision with the image encoder of the same CLIP, or disconnect clip_text."
        )
    return encoders.picture_encoder(clip_vision), encoders.prompt_encoder(clip_text, clip_vision)


def _of_run(run) -> list[str]:
    """What the run's folder tells for the page; nothing for a folder that holds checkpoints alone."""
    return sections(run) if (run.path / "settings.toml").is_file() else []


NODES = [EvaluateLora]
