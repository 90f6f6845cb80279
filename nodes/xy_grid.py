"""The node of grids in which rows and columns change one thing each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from comfy_api.latest import io

from ..files import content_hash, write_changed
from ..paths import child_of
from ..rendering import xy_grid
from ..rendering.cells import Sampling
from ..rendering.picture_specs import PaintedSpecs, PictureSpec, paint_specs
from ..rendering.xy_grid import FromDisk, Known, XYGrid, api_form, axis
from . import sockets
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
from .rendering import checkpoints_of

MOST_IN_BATCH = 160_000_000  # pixels of all pictures together: 1.9 GB as ComfyUI's IMAGE


class LoraXYGrid(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        axes = list(xy_grid.AXES)
        return io.Schema(
            node_id="ImpastoLoraXYGrid",
            display_name="LoRA XY Grid",
            category="Impasto/Rendering",
            description="A grid of pictures whose columns change one thing and whose rows another: prompt, seed, "
            "LoRA, its strength, checkpoint of a run, guidance, steps or sampler. Each picture is kept as soon as it "
            "is done, so that a stopped or changed grid only paints what is missing.",
            search_aliases=["xy plot", "xyz plot", "lora comparison", "parameter sweep", "strength sweep", "grid"],
            inputs=[
                *painter_inputs("A FLUX model; LoRAs and checkpoints are put on it in turn."),
                io.Combo.Input(
                    "x_axis", options=axes, default=xy_grid.STRENGTH, tooltip="What changes from column to column."
                ),
                io.String.Input(
                    "x_values",
                    multiline=True,
                    default="0\n0.5\n1",
                    tooltip="Its values, one a line. A LoRA by its name in ComfyUI's list, or 'none'; a checkpoint by "
                    "its step, or 'base'.",
                ),
                io.Combo.Input(
                    "y_axis",
                    options=[xy_grid.NO_AXIS, *axes],
                    default=xy_grid.NO_AXIS,
                    tooltip="What changes from row to row; none for a single row.",
                ),
                io.String.Input("y_values", multiline=True, default="", tooltip="Its values, one a line."),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    default="a quiet harbour at dawn",
                    tooltip="The prompt, where no axis changes it. Taken as it stands.",
                ),
                seed_input("Seed of the noise, where no axis changes it.", default=42),
                lora_input("The LoRA, where no axis changes it."),
                lora_strength_input("Its strength, where no axis changes it; that of the LoRAs and checkpoints too."),
                *picture_size_inputs(512),
                io.Int.Input(
                    "steps", default=20, min=1, max=200, tooltip="Sampling steps, where no axis changes them."
                ),
                io.Float.Input(
                    "guidance",
                    default=3.5,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="FLUX guidance, where no axis changes it.",
                ),
                io.String.Input(
                    "name", default="grid", tooltip="Title of the grid, and its folder in output/impasto/grids."
                ),
                io.Boolean.Input(
                    "save_api",
                    default=False,
                    tooltip="Write beside each picture a graph in API format that gives it by ComfyUI's own nodes.",
                ),
                *sampler_inputs(),
                sockets.Run.Input("run", optional=True, tooltip="The run whose checkpoints an axis names."),
            ],
            outputs=[
                io.Image.Output("grid", tooltip="The whole grid with its labels, as one picture."),
                io.Image.Output("pictures", tooltip="The pictures row by row, as many as 1.9 GB of memory hold."),
                io.String.Output("report", tooltip="How many pictures were painted and found, and where they lie."),
                sockets.PictureGrid.Output("picture_grid", tooltip="What is shown where, for Step Animation."),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, lora: str | None = None) -> bool | str:
        """Accept a LoRA that was made after the list was; `execute` names one that is not there."""
        return True

    @classmethod
    def fingerprint_inputs(cls, x_axis=None, x_values=None, y_axis=None, y_values=None, lora=None, **values):
        """Another file under a LoRA's name is another LoRA."""
        if over_links(x_axis, x_values, y_axis, y_values, lora):
            return anew()
        typed = {x_axis: x_values, y_axis: y_values}.get(xy_grid.LORA, "").splitlines()[: xy_grid.MOST_VALUES]
        return content_hash([folders.lora_state(name.strip()) for name in [lora, *typed] if name.strip()])

    @classmethod
    def execute(
        cls,
        model,
        clip,
        vae,
        x_axis,
        x_values,
        y_axis=xy_grid.NO_AXIS,
        y_values="",
        prompt="",
        seed=42,
        lora="none",
        strength=1.0,
        width=512,
        height=512,
        steps=20,
        guidance=3.5,
        name="grid",
        save_api=False,
        sampler_name="euler",
        scheduler="simple",
        run=None,
    ) -> io.NodeOutput:
        checkpoints = checkpoints_of(run)[0] if run else None
        known = Known(folders.lora_path, checkpoints, sampling.sampler_names())
        base = PictureSpec(
            prompt,
            seed,
            Sampling(width, height, steps, guidance, sampler_name, scheduler),
            folders.chosen_lora(lora),
            strength,
        )
        folder = child_of(folders.grids_root(), name, what="name of the grid")
        down = None if y_axis == xy_grid.NO_AXIS else axis(y_axis, y_values, known)
        grid = XYGrid(folder.name, base, axis(x_axis, x_values, known), down)
        cells = grid.cells()
        painted = paint_specs(
            list(cells.values()),
            folder,
            identity.sampling_identity(model, clip, vae),
            ComfySpecPainter(model, clip, vae),
            execution.progress(),
            grid.preview,
        )
        report = [_told(painted, cells, folder)]
        if save_api:
            report.append(_save_api_forms(cls.hidden, painted))
        pictures = list(painted.pictures(cells.values(), MOST_IN_BATCH))
        if len(pictures) < len(cells):
            report.append(f"'pictures' holds the first {len(pictures)}, all of them lie in the folder.")
        return io.NodeOutput(
            sampling.image_batch([grid.picture(FromDisk(cells, painted))]),
            sampling.image_batch(pictures),
            " ".join(filter(None, report)),
            grid.picture_grid(painted.files, folder),
        )


def _told(painted: PaintedSpecs, cells: Mapping, folder: Path) -> str:
    empty = sum(spec not in painted.files for spec in cells.values())
    said = f" {empty} cells are not finite, and left empty." if empty else ""
    pictures = len(set(painted.files.values()))
    return f"{len(cells)} cells, {pictures} pictures in {folder}: {painted.found} were there.{said}"


def _save_api_forms(hidden, painted: PaintedSpecs) -> str:
    """Write them beside the pictures; a checkpoint's only where ComfyUI lists a LoRA of the same content."""
    node_id = str(hidden.unique_id)
    if node_id not in hidden.prompt:  # one that another node made while the graph ran
        return "No graphs were written, because this node does not stand in the queued graph itself."
    without = 0
    for spec, file in painted.files.items():
        lora = folders.lora_named(spec.adapter) if spec.adapter else None
        if spec.adapter and lora is None:
            without += 1
            continue
        form = api_form(hidden.prompt, node_id, spec, lora)
        write_changed(file.with_suffix(".json"), json.dumps(form, indent=1, ensure_ascii=False))
    if not without:
        return "The graph of each lies beside it."
    return f"The graph of each lies beside it, but for {without} whose checkpoint ComfyUI lists under no name."


NODES = [LoraXYGrid]
