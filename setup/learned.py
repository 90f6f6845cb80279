"""What a graph has taught the tiny FLUX that draws: samples before and after, and what its judges find in them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..embedded.examination import Findings

SCENES = 48  # drawn before and after, none of them trained on
LOADER, CAPTIONER = "ImpastoTinyFluxLoader", "ImpastoMetadataCaptioner"


def trigger_word(prompt: dict[str, Any]) -> str | None:
    """What a graph puts before the labels of the paintings; None where there is nothing that the judges could judge."""
    inputs = {node["class_type"]: node["inputs"] for node in prompt.values()}
    if inputs.get(LOADER, {}).get("weights") != "pretrained" or CAPTIONER not in inputs:
        return None
    return str(inputs[CAPTIONER].get("trigger_word", ""))


def what_was_learned(lora: Path, trigger: str, comfyui: Path) -> str:
    """One sentence on a LoRA, by samples of scenes asked for in the words of Metadata Captioner.

    Args:
        comfyui: its folder, for the tokenizers.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of a kernel for 4 bit that nothing here uses
    from ..captioners.metadata import label_caption
    from ..embedded.examination import Examination, held_out_scenes
    from ..embedded.scenes import GENRES, Scene, caption

    def asked(scene: Scene) -> str:
        words = label_caption(GENRES[scene.kind], caption(scene))
        return f"{trigger}, {words}" if trigger else words

    examination = Examination(held_out_scenes(SCENES), comfyui, asked)
    before, after = (examination.judge(examination.draw(file)) for file in (None, lora))
    return sentence(before, after)


def sentence(before: Findings, after: Findings) -> str:
    kept = f"scene kept in {after.kept(before):.0%}" if before.right.any() else "no scene was right before"
    style = f"impressionist finish: {before.style:.0%} of {len(before.right)} samples before, {after.style:.0%} after"
    return f"{style}; {kept}"
