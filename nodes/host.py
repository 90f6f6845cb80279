"""Every call into ComfyUI: folders, progress and Cancel, memory, pictures. Nodes import from here, not from comfy.*."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import comfy.model_management
import comfy.utils
import folder_paths
from comfy_execution.utils import get_executing_context
from server import PromptServer

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from ..progress import Progress

PREVIEW_SIZE = 512  # pixels of the longer side of a live preview


def datasets_root() -> Path:
    """ComfyUI's first "datasets" folder; every dataset and every local source lies directly under it."""
    return Path(folder_paths.get_folder_paths("datasets")[0])


def runs_root() -> Path:
    return Path(folder_paths.get_output_directory()) / "impasto" / "runs"


def loras_root() -> Path:
    """`output/loras`, which ComfyUI lists among its LoRA folders."""
    return Path(folder_paths.get_output_directory()) / "loras"


def pack_models_root() -> Path:
    """Models that the pack makes for itself; no ComfyUI loader lists them."""
    return Path(folder_paths.models_dir) / "impasto"


def raise_if_cancelled() -> None:
    """Raise ComfyUI's `InterruptProcessingException` (a BaseException) if Cancel was pressed, and clear the flag."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def progress() -> Progress:
    """A `Progress` that fills the executing node's bar, text and preview, and raises when Cancel was pressed.

    To be made inside `execute`: the node it belongs to is taken from ComfyUI's executing context.
    """
    context = get_executing_context()
    node_id = context.node_id if context else None
    bar = comfy.utils.ProgressBar(1, node_id=node_id)
    shown = ""

    def report(done: int, total: int, text: str = "", preview: Image | None = None) -> None:
        nonlocal shown
        raise_if_cancelled()
        bar.update_absolute(done, max(total, 1), ("JPEG", preview, PREVIEW_SIZE) if preview else None)
        if text and text != shown and node_id is not None:
            shown = text
            server = PromptServer.instance
            server.send_progress_text(text, node_id, server.client_id)

    return report


def unload_models() -> None:
    """Give back all device memory that ComfyUI's models hold, before another process needs it."""
    comfy.model_management.unload_all_models()
    comfy.model_management.cleanup_models_gc()
    comfy.model_management.soft_empty_cache()


def image_batch(pictures: list[Image]) -> torch.Tensor:
    """PIL pictures of one size as a ComfyUI IMAGE: `(batch, height, width, 3)`, float32 in 0…1."""
    import numpy
    import torch

    return torch.from_numpy(numpy.stack([numpy.asarray(picture.convert("RGB")) for picture in pictures])).float() / 255
