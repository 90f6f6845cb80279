"""The node that animates a grid of pictures step by step."""

import re

from comfy_api.latest import io, ui

from ..files import remove_partials
from ..rendering import animation as animations
from ..rendering.animation import FORMATS, MP4, SUFFIXES, Animation, Timing
from . import results, sockets
from .host import execution, folders, sampling, video


class StepAnimation(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImpastoStepAnimation",
            display_name="Step Animation",
            category="Impasto/Rendering",
            description="Shows how pictures changed from step to step, one prompt or the whole grid, as an animated "
            "WebP, GIF or APNG, or as a video. The file lies in output/impasto/animations and holds the graph.",
            search_aliases=["gif", "animated webp", "apng", "mp4", "timelapse", "training video", "morph"],
            inputs=[
                sockets.PictureGrid.Input("picture_grid", tooltip="From Progress Grid, Sample Grid or Base vs LoRA."),
                io.Int.Input(
                    "prompt", default=0, min=0, max=100_000, tooltip="Number of the prompt; 0: all beside each other."
                ),
                io.Combo.Input("format", options=list(FORMATS), default=FORMATS[0], tooltip="Of the file."),
                io.Boolean.Input("label", default=True, tooltip="Write the step below the picture."),
                io.Float.Input(
                    "hold", default=0.8, min=0.0, max=60.0, step=0.1, tooltip="Seconds that each step stands."
                ),
                io.Float.Input(
                    "cross_fade", default=0.3, min=0.0, max=10.0, step=0.1, tooltip="Seconds from one into the next."
                ),
                io.Float.Input(
                    "last_hold", default=2.5, min=0.0, max=60.0, step=0.1, tooltip="Seconds that the last one stands."
                ),
                io.Int.Input(
                    "frames_per_second", default=12, min=1, max=60, tooltip="Of the cross-fades, and of the video."
                ),
                io.Int.Input(
                    "size",
                    default=512,
                    min=0,
                    max=4096,
                    tooltip="Longer side in pixels, the label aside; 0: as large as the pictures are together.",
                ),
            ],
            outputs=[
                io.Image.Output("frames", tooltip="One picture for each step, as they are shown."),
                io.Video.Output("video", tooltip="The animation as MP4, for Save Video and what else takes a video."),
                io.String.Output("file", tooltip="Where the animation lies."),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, picture_grid, prompt, format, label, hold, cross_fade, last_hold, frames_per_second, size
    ) -> io.NodeOutput:
        timing = Timing(hold, cross_fade, last_hold, frames_per_second)
        shown = Animation(picture_grid, timing, prompt, size, label)
        folder, texts = folders.animations_root(), execution.graph_texts(cls.hidden)
        remove_partials(folder)
        name = f"{_plain(picture_grid.title.text)}-{shown.key()}"
        file, movie = folder / f"{name}{SUFFIXES[format]}", folder / f"{name}{SUFFIXES[MP4]}"
        progress = execution.progress()
        if not movie.is_file():
            frames = animations.video_frames(animations.frames(shown, progress), frames_per_second)
            video.write_mp4(movie, frames, frames_per_second, texts)
        if not file.is_file():
            animations.save(shown, file, texts, progress)
        saved = ui.SavedResult(file.name, "impasto/animations", io.FolderType.output)
        preview = ui.PreviewVideo([saved]) if format == MP4 else ui.SavedImages([saved], is_animated=True)
        stills = sampling.image_batch(list(shown.stills()))
        said = results.said(f"{len(stills)} pictures, step by step: {file.name}")
        return io.NodeOutput(stills, video.video_of(movie), str(file), ui=said | preview.as_dict())


def _plain(title: str) -> str:
    """A title as the beginning of a file's name."""
    return re.sub(r"[^\w.+-]+", "-", title).strip("-.")[:60] or "grid"


NODES = [StepAnimation]
