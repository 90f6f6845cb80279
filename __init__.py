"""Impasto: from paintings to a finished FLUX.1 style LoRA inside one ComfyUI graph."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """Called by ComfyUI; everything else about the pack is imported from here on, not before."""
    from .nodes import ImpastoExtension

    return ImpastoExtension()
