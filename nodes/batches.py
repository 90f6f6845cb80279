"""Batches of pictures, made in pieces that memory holds."""

from comfy_api.latest import io

from ..paths import child_of
from ..prompting.prompt_set import crossed
from ..rendering.batches import Memory, PictureBatch, paint_all
from ..rendering.painting import Sampling
from . import sockets
from .host import execution, folders, identity, memory
from .host import sampling as host_sampling
from .inputs import painter_inputs, picture_size_inputs, sampler_inputs


class BatchGenerator(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImpastoBatchGenerator",
            display_name="Batch Generator",
            category="Impasto/Rendering",
            description="Paints every prompt with every seed, as many pictures at a time as memory holds, and keeps "
            "each with a manifest as soon as it is done. Out of memory, it goes on with half as many at a time; "
            "cancelled, it goes on from there.",
            search_aliases=["batch", "bulk generation", "prompts x seeds", "many images", "out of memory"],
            inputs=[
                *painter_inputs("Any FLUX model, with or without LoRAs."),
                sockets.Prompts.Input("prompts", tooltip="The prompts, from Prompt Set."),
                io.String.Input(
                    "seeds",
                    default="",
                    tooltip="Seeds and ranges (100-120) with commas between them, as Seed Manager's 'seed_list': each "
                    "prompt is painted with each. Empty: every prompt with its own.",
                ),
                io.String.Input("name", default="batch", tooltip="Name of the folder in output/impasto/batches."),
                *picture_size_inputs(1024),
                io.Int.Input("steps", default=4, min=1, max=200, tooltip="Sampling steps: 4 for schnell, 20 for dev."),
                io.Float.Input(
                    "guidance", default=3.5, min=0.0, max=100.0, step=0.1, tooltip="FLUX guidance; schnell ignores it."
                ),
                io.Int.Input("at_a_time", default=4, min=1, max=64, tooltip="At most so many pictures together."),
                *sampler_inputs(" One that adds noise on the way depends on what is sampled together."),
            ],
            outputs=[
                io.Image.Output("images", tooltip="All: the first prompt with every seed, then the second …"),
                io.String.Output(
                    "manifest", tooltip="The manifest: a line of JSON for each picture with all it is of."
                ),
                io.String.Output("report", tooltip="How many pictures were made, found, and fitted at a time."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model,
        clip,
        vae,
        prompts,
        seeds,
        name,
        width,
        height,
        steps,
        guidance,
        at_a_time,
        sampler_name,
        scheduler,
    ) -> io.NodeOutput:
        sampling = Sampling(width, height, steps, guidance, sampler_name, scheduler)
        batch = PictureBatch(
            folder=child_of(folders.batches_root(), name, what="batch name"),
            jobs=crossed(prompts, seeds),
            sampling=sampling,
            models=identity.sampling_identity(model, clip, vae),
            size=at_a_time,
        )
        painter = host_sampling.ComfyPainter(model, clip, vae, sampling)
        painted = paint_all(
            batch, painter, Memory(memory.is_out_of_memory, memory.empty_device_caches), execution.progress()
        )
        report = f"{len(batch.jobs)} pictures in {batch.folder}: {painted.found} were there, {painted.size} at a time."
        return io.NodeOutput(host_sampling.image_batch(painted.pictures()), str(batch.manifest), report)


NODES = [BatchGenerator]
