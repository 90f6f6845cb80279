"""Makes a run's folder, or finds it again: the same inputs are the same run; and one that goes on from another."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

from ...errors import TrainingError
from ...files import appearing, content_hash, link_or_copy, write_changed, write_whole
from ...paths import child_of
from ..features.index import DATASET_CONFIG
from ..settings import FIXED
from . import checkpoints
from .folder import MAX_RUN_ID_LENGTH, Job, Run


def run_of(runs_root: Path, job: Job) -> Run:
    """The run that `job` defines, whether it has been made or not.

    Raises:
        NameRefused: the name is not plain.
        TrainingError: the run has been trained for more steps than it is now asked for.
    """
    child_of(runs_root, job.name, what="LoRA name")
    run_id = f"{job.name.strip()}-{content_hash(job.identity(), 8)}"
    run = Run(run_id, str(child_of(runs_root, run_id, what="run id", longest=MAX_RUN_ID_LENGTH)))
    done = max(run.checkpoints(), default=0)
    if done > job.settings.steps:
        raise TrainingError(
            f"The run '{run.id}' has already been trained for {done} steps, more than the {job.settings.steps} asked "
            f"for. Set steps to {done} or more, or use an earlier checkpoint's LoRA: {job.name}-<step>.safetensors."
        )
    return run


def create_run(runs_root: Path, job: Job) -> Run:
    """Make, or find again, the folder of the run that `job` defines.

    Raises:
        NameRefused, TrainingError: as `run_of`.
    """
    run = run_of(runs_root, job)
    job = dataclasses.replace(job, name=job.name.strip())
    run.path.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):  # features that something else made
        write_changed(run.path / DATASET_CONFIG, (Path(job.features_folder) / DATASET_CONFIG).read_bytes())
    job.write(run)
    return run


def continue_run(
    runs_root: Path, earlier: Run, more_steps: int, weights: Path, fingerprint: str, **changes: Any
) -> Run:
    """Make, or find again, the run that goes on from `earlier`'s last checkpoint for `more_steps`.

    The learning rate is planned anew from there, with its warm-up; optimiser state and data order go on. `earlier`
    stays as it is.

    Args:
        changes: settings that are to be others from here on.

    Raises:
        TrainingError: as `longer_job`.
    """
    job = longer_job(earlier, more_steps, weights, fingerprint, **changes)
    run = create_run(runs_root, job)
    if not run.checkpoints():
        last = earlier.checkpoints()[job.first_step]
        records = [record for record in earlier.metrics() if record["step"] <= job.first_step]
        write_whole(run.path / "metrics.jsonl", "".join(json.dumps(record) + "\n" for record in records))
        with appearing(run.path / "checkpoints" / last.name) as temporary:
            shutil.copytree(last, temporary, copy_function=link_or_copy)
    return run


def longer_job(earlier: Run, more_steps: int, weights: Path, fingerprint: str, **changes: Any) -> Job:
    """What the run is asked to do that goes on from `earlier`'s last checkpoint; nothing is made.

    Raises:
        TrainingError: `earlier` has no checkpoint, was trained on another model, or a change makes its state useless.
    """
    job = Job.read(earlier)
    step = max(earlier.checkpoints(), default=0)
    if not step:
        raise TrainingError(
            f"The run '{earlier.id}' has no checkpoint to continue from. Queue FLUX LoRA Trainer with its settings."
        )
    if fingerprint != job.fingerprint:
        raise TrainingError(
            f"The run '{earlier.id}' was trained on {job.weights}, and {weights} holds other weights. "
            "Its LoRA would be wrong there: load the model it was trained on."
        )
    checkpoints.check(earlier.checkpoints()[step])
    settings = dataclasses.replace(job.settings, **changes, steps=step + more_steps)
    if settings.warmup_steps >= more_steps and settings.warmup_steps:
        raise TrainingError(
            f"The run '{earlier.id}' warms its learning rate up over {settings.warmup_steps} steps, and only "
            f"{more_steps} more are asked for: it would never reach it. Ask for more steps than that."
        )
    for name in FIXED:
        asked, trained = getattr(settings, name), getattr(job.settings, name)
        if asked != trained:
            raise TrainingError(
                f"{name} was {trained} in the run '{earlier.id}' and is {asked} now, which its checkpoint cannot go on "
                f"with. Leave it at {trained}, or begin a new run with start_from."
            )
    return dataclasses.replace(job, settings=settings, weights=str(weights), continued_from=earlier.id, first_step=step)
