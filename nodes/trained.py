"""What the trainer's node says of a run that has ended."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..dataset.pictures import PictureRefused, thumbnail
from ..progress import duration
from ..trainers.run import folder as runs
from ..trainers.run import launch
from . import results

if TYPE_CHECKING:
    from PIL.Image import Image


def told(
    run: runs.Run, job: runs.Job, lora_name: str, earlier: Path | None, returned: bool, notes: Sequence[str] = ()
) -> str:
    """What became of a finished run, a thought a line.

    Args:
        lora_name: of its own LoRA file, as ComfyUI lists it.
        earlier: the file that the LoRA which had this name has become.
        returned: it was trained before.
        notes: what publishing told.
    """
    own = [record for record in run.metrics() if record["step"] > job.first_step]
    done = run.status().get("step", job.settings.steps)
    took = duration(sum(record.get("seconds", 0.0) for record in own))
    early = "finished early, as you asked" if run.status().get("finished_early") else "stopped early"
    steps = f"{done} steps" if done == job.settings.steps else f"{early}, {done} of {job.settings.steps} steps"
    lines = [f"{'Trained before' if returned else 'Finished'}: {steps} in {took}"]
    if measured := run.evaluations():
        step, best = min(measured, key=lambda evaluation: evaluation[1])
        lines.append(f"Best held-out loss {best:.3f} at step {step}")
    lines.append(f"→ loras/{job.name}/{job.name}.safetensors")
    lines.append(f"as {lora_name}, which stays this one's")
    if earlier:
        lines.append(f"The LoRA that had this name is now {earlier.parent.name}/{earlier.name}")
    return "\n".join([*lines, *notes])


def last_sample(run: runs.Run) -> list[Image]:
    """What the trainer drew last, small, as it was shown while it trained; a damaged one is left out."""
    for sample in list(run.samples().values())[-1:]:
        with contextlib.suppress(PictureRefused, OSError):
            return [thumbnail(sample.with_name(launch.PREVIEW), results.PICTURE_SIDE)]
    return []
