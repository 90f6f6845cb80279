"""Everything that a training is refused for, once: the node asks before it gives up memory, the trainer's process again
before it loads the base model. What only that process can tell, of its launcher, memory and disk, is here too."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import SettingsError, TrainingError
from ..hardware.memory import free_device_memory
from ..texts import megabytes
from .attention import ATTENTION_BACKENDS
from .batches import TrainingData
from .features import index
from .flux import detection, loading
from .flux.fingerprint import fingerprint
from .libraries import check_installed
from .lora import adapter
from .lora import file_formats as lora_files
from .memory import choice, estimate
from .memory.remedy import remedy
from .optimizers import OPTIMIZERS
from .run import checkpoints
from .run.publish import CHECKPOINT_FORMAT

if TYPE_CHECKING:
    from accelerate import Accelerator

    from .features.feature_set import FeatureSet
    from .memory.estimate import Budget
    from .run.checkpoints import Checkpoint
    from .run.folder import Job, Run
    from .settings import Settings

logger = logging.getLogger(__name__)

HELD_OUT_PICTURES = 8  # evaluated at most: with 4 sigmas each, 32 forward passes per evaluation


def preflight(job: Job, run: Run, lora_format: str = CHECKPOINT_FORMAT, sharded: bool = False) -> TrainingData:
    """What `run` is to be trained on, once nothing more speaks against `job`. No tensor of the base model is loaded.

    Args:
        job: what is asked for.
        run: of that job, whether its folder has been made or not.
        lora_format: that the LoRA is to be published in.
        sharded: whether it is known already that the launch profile shards the base.

    Raises:
        SettingsError: as `check_settings`; or the model has no such layers or blocks.
        TrainingError: as `check_settings`; the base is to be sharded and streamed; the LoRA to start from does not fit,
            or the checkpoint to begin with is gone; the features or the weights are not those of the run, do not belong
            together, or are not enough for what is asked for.
        ModelError: there are no weights, or they are damaged.
        FeatureError: the training data is missing or damaged.
    """
    check_settings(job.settings, lora_format)
    if sharded:
        _check_sharding(job.settings)
    checkpoint = checkpoints.latest(run.path / "checkpoints")
    _check_beginning(job, run, checkpoint)
    _check_lora(job, from_scratch=checkpoint is None)
    _check_places(job)
    data = _training_data(job)
    _check_widths(job, data.features)
    return data


def check_settings(settings: Settings, lora_format: str = CHECKPOINT_FORMAT) -> None:
    """Refuse what can be told before there is a model.

    Raises:
        SettingsError: no such format, or one that cannot hold the LoRA.
        TrainingError: a library that the settings ask for is not installed.
    """
    check_installed(settings)
    lora_files.check_format(lora_format, settings.lora)


def _check_lora(job: Job, from_scratch: bool = True) -> None:
    """Refuse blocks that the model lacks, and a LoRA to start from that does not fit.

    Args:
        job: what is asked for.
        from_scratch: whether no checkpoint takes the place of the LoRA to start from.

    Raises:
        SettingsError, TrainingError: as `adapter.check`.
        ModelError: there are no weights, or they are damaged.
    """
    settings, start = job.settings, job.start_lora if from_scratch else ""
    if not (settings.block_ranks or start):  # every model has the named targets, and the check loads diffusers
        return
    empty = loading.empty_transformer(detection.inspect(job.weights))
    adapter.check(empty, settings.lora, start)


def _check_beginning(job: Job, run: Run, checkpoint: Checkpoint | None) -> None:
    """Refuse a run that goes on from another's checkpoint, and has none."""
    if job.first_step and not checkpoint:
        raise TrainingError(
            f"The run goes on from step {job.first_step} of '{job.continued_from}', but there is no checkpoint to "
            f"begin with. Delete the folder {run.path / 'checkpoints'}, and queue Continue Training again. Where "
            f"state.pt is missing in '{job.continued_from}' too, delete its last checkpoint and its status.json, and "
            "train that run again first."
        )


def _check_places(job: Job) -> None:
    """Refuse other contents where a person has set the places of a copied run anew.

    Raises:
        TrainingError: the features or the weights are not those that the run is of.
        ModelError: there are no weights, or they are damaged.
    """
    if Path(job.features_folder).name != job.features_key:
        raise TrainingError(
            f"features_folder is {job.features_folder}, but this run is of the features {job.features_key}. Set "
            "features_folder in its settings.toml to the folder of that name."
        )
    if fingerprint(job.weights) != job.fingerprint:
        raise TrainingError(
            f"{job.weights} holds other weights than those that this run is of (fingerprint {job.fingerprint}). "
            "Set weights in its settings.toml to a copy of the same file."
        )


def _training_data(job: Job) -> TrainingData:
    features = index.load(index.Features(job.features_folder, job.features_key, job.prompts))
    training = tuple(example for example in features.examples if not example.held_out)
    held_out = tuple(example for example in features.examples if example.held_out)[:HELD_OUT_PICTURES]
    if not training:
        raise TrainingError(
            f"The features in {job.features_folder} hold no picture to train on (all are held out). "
            "Set a smaller validation_split in Dataset TOML Writer, or add pictures."
        )
    if job.settings.early_stop_patience and not held_out:
        raise TrainingError(
            f"early_stop_patience is {job.settings.early_stop_patience}, but no picture is held out to tell when "
            "the LoRA becomes no better. Set a validation_split in Dataset TOML Writer, which holds out at least "
            "one of four pictures, or set early_stop_patience to 0."
        )
    return TrainingData(features, training, held_out)


def _check_widths(job: Job, features: FeatureSet) -> None:
    architecture = detection.inspect(job.weights)
    t5, pooled = features.load_text(features.empty_text_path)
    expected = architecture.context_width, architecture.pooled_width
    if (t5.shape[-1], pooled.shape[-1]) != expected:
        raise TrainingError(
            f"The text features are {t5.shape[-1]} and {pooled.shape[-1]} wide, but {job.weights} takes "
            f"{expected[0]} and {expected[1]}. Encode the training data with the CLIP that belongs to this model."
        )


def check_launch(accelerator: Accelerator, settings: Settings, sharded: bool) -> None:
    """Refuse a launch profile that this trainer cannot train or save with, and what its device cannot compute.

    Raises:
        TrainingError: it is for DeepSpeed or Megatron, or shards a base that is to be streamed.
        SettingsError: as `check_attention`.
    """
    if accelerator.distributed_type in ("DEEPSPEED", "MEGATRON_LM"):
        raise TrainingError(
            f"The launch profile is for {accelerator.distributed_type.value}, which this trainer does not save "
            "from. Choose one for several GPUs with FSDP, which shards the base, or without."
        )
    if sharded and accelerator.num_processes > 1:
        _check_sharding(settings)
    check_attention(settings, accelerator.device.type)


def check_attention(settings: Settings, device_type: str) -> None:
    """Refuse an attention backend that would fail in the first block, once the base model is loaded.

    Raises:
        SettingsError: it has no kernel on this device or for this precision, or is to be compiled and is not.
    """
    name = settings.attention_backend
    backend, lacks = ATTENTION_BACKENDS[name], ""
    if device_type == "cpu" and not backend.on_cpu:
        lacks = "does not train on the CPU"
    elif device_type != "cpu" and settings.precision == "fp32" and not backend.in_fp32:
        lacks = "does not compute in float32, which precision fp32 asks for"
    elif backend.compiled and not settings.compile:
        lacks = "writes out the attention of every token to every other unless compile is on"
    if lacks:
        raise SettingsError(
            f"attention_backend is {name}, which {lacks}. In Training Memory Settings, set "
            f"{'compile to on, or ' if backend.compiled and device_type != 'cpu' else ''}attention_backend to native."
        )


def _check_sharding(settings: Settings) -> None:
    if settings.streamed_blocks > 0:
        raise TrainingError(
            f"streamed_blocks is {settings.streamed_blocks}, but the launch profile shards the base (FSDP). "
            "Set streamed_blocks to 0, or choose a launch profile without FSDP."
        )


def check_resumable(state: dict[str, Any], processes: int) -> None:
    """Refuse to go on from a checkpoint's state with other batches than the run began with.

    Raises:
        TrainingError: it was trained by another number of processes.
    """
    if state["processes"] != processes:
        raise TrainingError(
            f"The run was trained by {state['processes']} processes and is to go on with {processes}, which would "
            "give it other batches. Choose the launch profile it was begun with, or begin another run."
        )


def free_memory(accelerator: Accelerator) -> int | None:
    """Bytes that each process may use; all processes come to the same answer. None where PyTorch cannot tell."""
    device = accelerator.device
    try:
        free = free_device_memory(device)
    except NotImplementedError:
        return None
    if accelerator.num_processes == 1:
        return free
    free = free // accelerator.num_processes if device.type == "cpu" else free
    return int(accelerator.gather(torch.tensor([float(free)], device=device)).min().item())


def plan_memory(settings: Settings, budget: Budget, precision: str | None = None) -> tuple[Settings, str]:
    """Settle what is left to the free memory, and say what the run needs.

    Args:
        precision: that the run began with, which the weights depend on; None when it begins.

    Raises:
        SettingsError: nothing that is left to choose fits.
    """
    if precision:
        settings = dataclasses.replace(settings, precision=precision)
    if settings.precision == "auto" or settings.streamed_blocks < 0:
        settings = choice.choose(settings, budget)
    plan = estimate.forecast(settings, budget)
    if not estimate.fits(settings, budget):
        # Settings that were chosen by hand are tried all the same: it is a prediction.
        plan += f" {remedy(settings, budget)}"
    return settings, plan


def check_disk(folder: Path, lora: int, checkpoints_to_come: int, settings: Settings) -> str:
    """What to warn of where the checkpoints that are to be kept have no room; "" where they have.

    Args:
        folder: of the run.
        lora: size of its trained parameters in bytes.
        checkpoints_to_come: how many there will be.

    Raises:
        TrainingError: not even one checkpoint has room.
    """
    # The LoRA as it is saved and as it is trained, with the optimiser's state and the moving average.
    size = lora * (2 + OPTIMIZERS[settings.optimizer].state + bool(settings.ema_decay))
    kept = min(checkpoints_to_come, settings.keep_checkpoints or checkpoints_to_come)
    needed = size + lora * max(kept - 1, 0)  # of all but the newest, the LoRA alone is kept
    free = shutil.disk_usage(folder).free
    says = f"{folder} has {megabytes(free, 0)} free"
    logger.info("A checkpoint takes about %s, all %d %s; %s", megabytes(size, 0), kept, megabytes(needed, 0), says)
    if free < size:
        raise TrainingError(
            f"A checkpoint takes about {megabytes(size, 0)}, but {says}. "
            "Free some space and queue again, or choose a smaller rank."
        )
    if free >= needed:
        return ""
    return (
        f"{kept} checkpoints are to be kept and take about {megabytes(needed, 0)}, but {says}. Free some "
        "space, or set keep_checkpoints in Checkpoint Settings: that makes no other run."
    )
