"""The node of picture sequences: from seed to seed, from prompt to prompt, from strength to strength."""

from __future__ import annotations

from pathlib import Path

from comfy_api.latest import io

from ..errors import ModelError
from ..files import content_hash
from ..paths import child_of
from ..prompting.seeds import listed_seeds
from ..rendering.animation import GIF, SUFFIXES, WEBP, write_animation
from ..rendering.cells import Sampling
from ..rendering.picture_specs import PictureSpec, paint_specs
from ..rendering.sequence import MOST_PIXELS, SEEDS, STRENGTHS, WAYS, durations, frames, parse_strengths
from . import results
from .host import execution, folders, identity, sampling
from .host.spec_painter import ComfySpecPainter
from .inputs import (
    anew,
    lora_input,
    lora_strength_input,
    over_links,
    painter_inputs,
    picture_size_inputs,
    sampler_inputs,
    seed_input,
)


class GenerationSequence(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImpastoGenerationSequence",
            display_name="Generation Sequence",
            category="Impasto/Rendering",
            description="A sequence of pictures as a batch and as an animation: the noise goes from seed to seed on a "
            "sphere, one noise goes through a list of prompts, or a LoRA goes from strength to strength. Each frame is "
            "kept as soon as it is done.",
            search_aliases=["animation", "slerp", "seed travel", "prompt travel", "morph", "interpolation", "gif"],
            is_output_node=True,
            inputs=[
                *painter_inputs("A FLUX model, with or without LoRAs.", decodes="Decodes the frames."),
                io.Combo.Input("way", options=list(WAYS), default=SEEDS, tooltip="What changes from frame to frame."),
                io.String.Input(
                    "prompts",
                    multiline=True,
                    default="a quiet harbour at dawn",
                    tooltip="One prompt; through prompts: one a line, each a frame. Taken as they stand.",
                ),
                io.String.Input(
                    "seeds", default="1, 2, 3", tooltip="Between seeds: two or more, as Seed Manager's 'seed_list'."
                ),
                seed_input("Seed of every frame on the other two ways.", default=42),
                io.String.Input("strengths", default="0, 1", tooltip="Between strengths: two or more of the LoRA."),
                io.Int.Input(
                    "between",
                    default=8,
                    min=1,
                    max=500,
                    tooltip="Frames from one seed or strength to the next, the first of them included.",
                ),
                io.Boolean.Input("closed", default=False, tooltip="Go back to the first at the end, for a loop."),
                lora_input("A LoRA to put on the model."),
                lora_strength_input("Its strength, where the way does not change it."),
                *picture_size_inputs(512),
                io.Int.Input("steps", default=20, min=1, max=200, tooltip="Sampling steps of each frame."),
                io.Float.Input(
                    "guidance", default=3.5, min=0.0, max=100.0, step=0.1, tooltip="FLUX guidance while sampling."
                ),
                io.Float.Input(
                    "frames_per_second", default=8.0, min=0.1, max=50.0, step=0.5, tooltip="Speed of the animation."
                ),
                io.Float.Input("hold", default=1.0, min=0.0, max=60.0, step=0.5, tooltip="Seconds more for the last."),
                io.Combo.Input(
                    "format",
                    options=[SUFFIXES[kind].removeprefix(".") for kind in (WEBP, GIF)],
                    default="webp",
                    tooltip="webp has all colours, gif 256.",
                ),
                io.String.Input("name", default="sequence", tooltip="The folder in output/impasto/sequences."),
                *sampler_inputs(" One that adds noise on the way makes the frames jump."),
            ],
            outputs=[
                io.Image.Output("frames", tooltip="The frames in their order."),
                io.String.Output("animation", tooltip="The file of the animation."),
            ],
        )

    @classmethod
    def validate_inputs(cls, lora: str | None = None) -> bool | str:
        """Accept a LoRA that was made after the list was; `execute` names one that is not there."""
        return True

    @classmethod
    def fingerprint_inputs(cls, lora=None, **values):
        """Another file under a LoRA's name is another LoRA."""
        return anew() if over_links(lora) else content_hash(folders.lora_state(lora))

    @classmethod
    def execute(
        cls,
        model,
        clip,
        vae,
        way,
        prompts,
        seeds="",
        seed=42,
        strengths="",
        between=8,
        closed=False,
        lora="none",
        strength=1.0,
        width=512,
        height=512,
        steps=20,
        guidance=3.5,
        frames_per_second=8.0,
        hold=1.0,
        format="webp",
        name="sequence",
        sampler_name="euler",
        scheduler="simple",
    ) -> io.NodeOutput:
        lines = [line.strip() for line in prompts.splitlines() if line.strip()]
        made_with = Sampling(width, height, steps, guidance, sampler_name, scheduler)
        base = PictureSpec(prompts.strip(), seed, made_with, folders.chosen_lora(lora), strength)
        specs = frames(
            way,
            base,
            seeds=listed_seeds(seeds) if way == SEEDS else (),
            prompts=lines,
            strengths=parse_strengths(strengths) if way == STRENGTHS else (),
            between=between,
            closed=closed,
        )
        folder = child_of(folders.sequences_root(), name, what="name of the sequence")
        models = identity.sampling_identity(model, clip, vae)
        painted = paint_specs(specs, folder, models, ComfySpecPainter(model, clip, vae), execution.progress())
        if lost := [spec for spec in specs if spec not in painted.files]:
            raise ModelError(
                f"{len(lost)} of {len(specs)} frames are not finite, the first at strength {lost[0].strength:g}. Leave "
                "those values out, or load the VAE in a wider precision (ComfyUI's --fp32-vae)."
            )
        pictures = list(painted.pictures(specs, MOST_PIXELS))
        files = [painted.files[spec].name for spec in specs]
        file = folder / f"{folder.name}-{content_hash([files, frames_per_second, hold])}.{format}"
        if not file.exists():
            write_animation(file, pictures, durations(len(pictures), frames_per_second, hold))
        report = f"{len(pictures)} frames, {painted.found} of them were there before: {file.name}"
        return io.NodeOutput(sampling.image_batch(pictures), str(file), ui=results.said(report) | _animated(file))


def _animated(file: Path) -> dict:
    """As core's SaveAnimatedWEBP shows what it saved."""
    subfolder = file.parent.relative_to(folders.output_root()).as_posix()
    return {"images": [{"filename": file.name, "subfolder": subfolder, "type": "output"}], "animated": (True,)}


NODES = [GenerationSequence]
