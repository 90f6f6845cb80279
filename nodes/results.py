"""What stays on a node when it has ended: a sentence, pictures where it made some, and what it made for scripts.

All travel as the node's `ui` and are shown by `web/impasto.js`, also where ComfyUI's cache gave the result back and
after the page was loaded again. A node says its own sentence with `said`; of all others the report is it.
"""

from __future__ import annotations

import hashlib
import io as streams
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..dataset.config_writer import DatasetConfig
from ..dataset.records import Dataset
from ..errors import ImpastoError
from ..files import write_changed
from ..trainers.features.index import Features
from ..trainers.run.folder import Run
from . import sockets
from .host import folders

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..rendering.grid import Label
    from ..rendering.picture_grid import PictureGrid

logger = logging.getLogger(__name__)

GRID = "impasto_grid"  # of a grid's pictures, which the page lays one over the other
MOST_CELLS = 1_000  # of a grid that is told to the page: the history keeps each, and it is sent whole
KEY = "impasto"  # of the sentence among a node's ui; ComfyUI's own page shows "images" by itself
MADE = "impasto_made"  # of what it made as plain JSON, for scripts: one mapping, see `_made`
REPORTS = ("report", "note", "notes")  # outputs that say what a node did
LASTING = {kind.io_type for kind in (sockets.Dataset, sockets.DatasetConfig, sockets.Features, sockets.Run)}
LORA_NAME = "lora_name"  # output that names a LoRA as ComfyUI's lists do
LONGEST = 2_000  # characters
LARGEST_EXACT = 2**53  # whole numbers up to it are exact in JavaScript (ECMA-262, Number.MAX_SAFE_INTEGER + 1)
PICTURE_SIDE = 1024  # pixels of the longer side of a picture on a node


def said(text: str, pictures: Iterable[Image] | None = None) -> dict[str, Any]:
    """A node's `ui`: what it did, in a sentence or a few short lines, and small copies of its pictures.

    Args:
        pictures: None for a node that has none. ComfyUI joins what a node shows when it runs over a list, so that one
            that may have pictures gives an empty list in place of None.
    """
    shown: dict[str, Any] = {KEY: [text if len(text) <= LONGEST else f"{text[:LONGEST]} …"]}
    if pictures is not None:
        shown["images"] = [kept for picture in pictures if (kept := _kept(picture))]
    return shown


def completing(schema: io.Schema) -> Callable[[Any, Mapping[str, Any]], Any]:
    """A function that adds what a node shows to its output: the report, and the first picture of each of its IMAGEs."""
    names = [output.id or output.display_name for output in schema.outputs]
    reports = [names.index(name) for name in REPORTS if name in names]
    makes = any(output.get_io_type() in LASTING for output in schema.outputs)
    images = [place for place, output in enumerate(schema.outputs) if output.get_io_type() == io.Image.io_type]
    grids = [
        place for place, output in enumerate(schema.outputs) if output.get_io_type() == sockets.PictureGrid.io_type
    ]

    def completed(output: Any, inputs: Mapping[str, Any]) -> Any:
        if not isinstance(output, io.NodeOutput) or output.expand or output.block_execution is not None:
            return output
        shown = dict(output.ui if isinstance(output.ui, Mapping) else output.ui.as_dict() if output.ui else {})
        if KEY not in shown:
            texts = shown.get("text") or [output.args[place] for place in reports[:1] if len(output.args) > place]
            shown = said("\n".join(text for text in texts if isinstance(text, str)).strip()) | shown
        if doubtful := _rounded(inputs):
            shown[KEY] = ["\n".join(filter(None, [*shown[KEY], doubtful]))]
        if makes:
            made = _made(names, output.args)
            shown[MADE] = [made | {"report": shown[KEY][0]}] if made else []
        if images and "images" not in shown:
            shown |= {"images": said("", _pictures(output.args, images))["images"]}
        if grids:
            shown |= {GRID: [told for place in grids if (told := _grid(output.args[place]))]}
        output.ui = shown
        return output

    return completed


def _grid(grid: PictureGrid | None) -> dict[str, Any] | None:
    """A grid's labels, and its pictures as ComfyUI's page asks for them; None for no grid, or one too large."""
    if grid is None or sum(1 for _ in grid.files()) > MOST_CELLS:
        return None
    root = folders.output_root()

    def place(file: Path) -> dict[str, str] | None:
        file = file.resolve()
        if not file.is_relative_to(root) or not file.is_file():
            return None
        return {"filename": file.name, "subfolder": file.parent.relative_to(root).as_posix(), "type": "output"}

    def label(of: Label) -> dict[str, Any]:
        return {"text": of.text, "note": of.note, "marked": of.marked}

    return {
        "title": grid.title.text,
        "rows": [label(row) for row in grid.rows],
        "columns": [label(column) for column in grid.columns],
        "cells": [[[place(file) for file in cell] for cell in row] for row in grid.cells],
    }


def _made(names: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    """What a node's outputs are, by names that a later graph or call takes: `dataset` and its `revision`, the
    `dataset_config` as Dataset TOML Loader finds it, the key of the `features`, `run_id` with `best_step`, and `lora`.
    """
    made: dict[str, Any] = {}
    for name, value in zip(names, values, strict=False):
        if isinstance(value, Dataset):
            made |= {"dataset": value.name, "revision": value.revision}
        elif isinstance(value, DatasetConfig):
            file = Path(value.path)
            made["dataset_config"] = f"{file.parent.name}/{file.name}"
        elif isinstance(value, Features):
            made["features"] = value.key
        elif isinstance(value, Run):
            made |= {"run_id": value.id, "best_step": _best_step(value)}
        elif name == LORA_NAME and isinstance(value, str):
            made["lora"] = value
    return made


def _best_step(run: Run) -> int | None:
    try:
        return run.best_step()
    except ImpastoError:  # of a run whose settings are damaged: whoever trains it says so
        return None


def _rounded(inputs: Mapping[str, Any]) -> str:
    """Which whole number the page may have rounded, in a sentence; "" for none."""
    for name, value in inputs.items():
        if isinstance(value, int) and value > LARGEST_EXACT:
            return (
                f"{name} is {value}. A browser rounds whole numbers above {LARGEST_EXACT:,}: if you typed another one, "
                "use a smaller one, or Seed Manager's profile 'list', which takes all 64 bits as text."
            )
    return ""


def _pictures(values: tuple[Any, ...], places: list[int]) -> list[Image]:
    from .host import sampling  # which needs more of ComfyUI than a node without pictures does

    shown = [values[place] for place in places if len(values) > place and getattr(values[place], "ndim", 0) == 4]
    return [picture for batch in shown if len(batch) and (picture := sampling.picture(batch[0]))]


def _kept(picture: Image) -> dict[str, str] | None:
    """A small copy under ComfyUI's temp folder, named by its content, as its page asks for it."""
    small = picture.convert("RGB")
    small.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    data = streams.BytesIO()
    small.save(data, "JPEG", quality=90)
    content = data.getvalue()
    folder = folders.results_folder()
    file = folder / f"{hashlib.sha256(content).hexdigest()[:24]}.jpg"
    try:
        if not file.exists():
            write_changed(file, content)
    except Exception as error:  # the node has done its work; a full disk must not take that away
        logger.warning("A picture of a node's result cannot be shown: %s", error)
        return None
    return {"filename": file.name, "subfolder": f"{folder.parent.name}/{folder.name}", "type": "temp"}
