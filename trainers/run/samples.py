"""The samples of a run: latents that the trainer drew at its checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ... import checksums
from ...errors import TrainingError
from ...files import appearing
from ..flux.latents import unscale_latent

if TYPE_CHECKING:
    from torch import Tensor

    from .folder import Run


def save_samples(run: Run, step: int, latents: Tensor) -> None:
    """Keep what was drawn at a step: scaled latents `(prompts, 16, h, w)`."""
    from safetensors.torch import save_file

    with appearing(run.samples_file(step)) as temporary:
        save_file({"latents": latents.cpu().contiguous()}, temporary, checksums.UNSEALED)
        checksums.seal(temporary)


def drawn_samples(run: Run) -> tuple[Tensor, list[int]]:
    """All samples of a run as raw latents `(samples, 16, h, w)`, which a VAE decodes, and the step of each.

    Raises:
        TrainingError: the run has drawn none, or one is not as it was written.
    """
    import torch
    from safetensors.torch import load_file

    found = {}
    for step, file in run.samples().items():
        if damage := checksums.damage_of(file):
            raise TrainingError(
                f"The sample of step {step} is damaged: {damage}. Delete the folder {file.parent}, and queue again: "
                "the samples of the other steps are shown. Progress Grid draws any step anew."
            )
        found[step] = load_file(file)["latents"]
    if not found and run.finished:
        raise TrainingError(
            f"The run '{run.id}' has no samples, and a finished run draws none afterwards: use Progress Grid. For "
            "samples of further steps, set sample_steps above 0 in Training Settings, queue FLUX LoRA Trainer, and "
            "then train for longer with Continue Training."
        )
    if not found:
        raise TrainingError(
            f"The run '{run.id}' has no samples. Set sample_steps above 0 in Training Settings, and train to its first "
            "checkpoint."
        )
    steps = [step for step, latents in found.items() for _ in latents]
    return unscale_latent(torch.cat(list(found.values()))), steps
