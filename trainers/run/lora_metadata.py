"""What a LoRA file says of itself, in the keys that LoRA browsers show; safetensors metadata holds text only."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..features.feature_set import Example
    from .folder import Job, Run


def trigger_phrase(captions: Sequence[str]) -> str:
    """What stands before the first comma of every caption; "" if they differ, or if no caption goes on after it."""
    firsts = {caption.partition(",")[0].strip() for caption in captions}
    return firsts.pop() if len(firsts) == 1 and any("," in caption for caption in captions) else ""


def metadata(run: Run, job: Job, step: int, examples: Sequence[Example], guidance: bool) -> dict[str, str]:
    """Metadata of the LoRA file of `step`. No folder of the person's machine is in it, and no date: the same run gives
    the same file.

    Args:
        examples: trained on.
        guidance: whether the base is guidance-distilled (FLUX.1-dev) or not (FLUX.1-schnell).
    """
    settings = job.settings
    sizes = {f"{example.width}x{example.height}" for example in examples}
    largest = max(examples, key=lambda example: example.width * example.height)
    trigger = trigger_phrase([example.caption for example in examples])
    described = {
        "format": "pt",
        "impasto_run": run.id,
        "impasto_step": str(step),
        "impasto_base_fingerprint": job.fingerprint,
        "impasto_settings": json.dumps(settings.to_dict()),
        # kohya sd-scripts, library/train_util.py
        "ss_output_name": job.name,
        "ss_base_model_version": "flux1",
        "ss_sd_model_name": Path(job.weights).name,
        "ss_network_module": "networks.lora_flux",
        "ss_network_dim": str(settings.rank),
        # As in the file, where rsLoRA is folded into it (`adapter.add_lora`).
        "ss_network_alpha": str(settings.alpha * (math.sqrt(settings.rank) if settings.rslora else 1)),
        "ss_learning_rate": str(settings.learning_rate),
        "ss_optimizer": settings.optimizer,
        "ss_lr_scheduler": settings.scheduler,
        "ss_lr_warmup_steps": str(settings.warmup_steps),
        "ss_gradient_accumulation_steps": str(settings.gradient_accumulation),
        "ss_max_train_steps": str(settings.steps),
        "ss_steps": str(step),
        "ss_seed": str(settings.seed),
        "ss_num_train_images": str(sum(example.repeats for example in examples)),
        "ss_resolution": json.dumps(sorted(sizes)),
        # github.com/Stability-AI/ModelSpec
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"flux-1-{'dev' if guidance else 'schnell'}/lora",
        "modelspec.implementation": "https://github.com/black-forest-labs/flux",
        "modelspec.title": job.name,
        "modelspec.resolution": f"{largest.width}x{largest.height}",
    }
    return described | ({"modelspec.trigger_phrase": trigger} if trigger else {})
