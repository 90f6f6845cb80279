"""Our training settings as the job of another trainer: ai-toolkit, SimpleTuner and sd-scripts, beside a dataset export.

Only what those projects' own files have is written; what they lack is named. Base models are named as the Hub has them,
or as files to be filled in: no path of this machine but the dataset's gets into a job.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import SettingsError
from ..files import write_changed
from .settings import Settings

BASE_MODEL = "black-forest-labs/FLUX.1-dev"
OUTPUT = "output"  # relative: where the other trainer runs

# Our optimisers as the others call them: ai-toolkit (toolkit/optimizer.py), SimpleTuner
# (simpletuner/helpers/training/optimizer_param.py), sd-scripts (library/train_util.py, get_optimizer).
_OPTIMIZERS: Mapping[str, tuple[str, str, str]] = {
    "adamw": ("adamw", "adamw_bf16", "AdamW"),
    "adamw8bit": ("adamw8bit", "bnb-adamw8bit", "AdamW8bit"),
    "paged_adamw8bit": ("adamw8bit", "bnb-adamw8bit-paged", "PagedAdamW8bit"),
    "adafactor": ("adafactor", "torch-adafactor", "Adafactor"),
    "prodigy": ("prodigy", "prodigy", "Prodigy"),
    "schedule_free_adamw": ("", "adamw_schedulefree", "AdamWScheduleFree"),
    "lion8bit": ("lion8bit", "bnb-lion8bit", "Lion8bit"),
}
_PLACES = {"ai-toolkit": 0, "SimpleTuner": 1, "sd-scripts": 2}
# Settings that none of the others' files has, or that have another meaning there.
_OURS = ("targets", "block_ranks", "rslora", "dora", "checkpointing_interval", "early_stop_patience", "mode_scale")


def write_job(format: str, config: Path, name: str, settings: Settings) -> tuple[Path, str]:
    """Write the job that trains on an exported dataset, beside the export's config.

    Args:
        format: of the export.
        config: the file that the export wrote for that trainer.
        name: of the LoRA.

    Returns:
        The job's file, and what to do with it, with what could not be taken over.

    Raises:
        SettingsError: the format's trainer has no job file that is written here, or not the optimiser.
    """
    check_job(format, settings)
    file, text, note = JOBS[format](config, name, settings)
    write_changed(file, text)
    default = Settings()
    left = [each for each in _OURS if getattr(settings, each) != getattr(default, each)]
    return file, f"{note} Not taken over: {', '.join(left)}." if left else note


def check_job(format: str, settings: Settings) -> None:
    """
    Raises:
        SettingsError: as `write_job`.
    """
    if format not in JOBS:
        raise SettingsError(
            f"No job is written for {format}. Choose {' or '.join(JOBS)}, or take the training settings away."
        )
    if not _OPTIMIZERS[settings.optimizer][_PLACES[format]]:
        raise SettingsError(f"{format} has no optimiser like {settings.optimizer}. Choose another, adamw for one.")


def _optimizer(settings: Settings, trainer: str) -> str:
    return _OPTIMIZERS[settings.optimizer][_PLACES[trainer]]


def _ai_toolkit(config: Path, name: str, settings: Settings) -> tuple[Path, str, str]:
    """A job of ostris/ai-toolkit, as its config/examples/train_lora_flux_24gb.yaml."""
    import yaml

    train: dict[str, Any] = {
        "batch_size": 1,
        "steps": settings.steps,
        "gradient_accumulation": settings.gradient_accumulation,
        "train_unet": True,
        "train_text_encoder": False,
        "gradient_checkpointing": settings.gradient_checkpointing,
        "noise_scheduler": "flowmatch",
        "timestep_type": {"uniform": "linear", "flux_shift": "flux_shift", "shift": "shift"}.get(
            settings.timestep_sampling, "sigmoid"
        ),
        "optimizer": _optimizer(settings, "ai-toolkit"),
        "optimizer_params": {"weight_decay": settings.weight_decay},
        "lr": settings.learning_rate,
        "lr_scheduler": settings.scheduler,
        "max_grad_norm": settings.max_grad_norm,
        "dtype": "bf16",
        "disable_sampling": True,  # as long as nobody has written prompts into "sample"
    }
    if settings.ema_decay:
        train["ema_config"] = {"use_ema": True, "ema_decay": settings.ema_decay}
    process = {
        "type": "sd_trainer",
        "training_folder": OUTPUT,
        "device": "cuda:0",
        "network": {"type": "lora", "linear": settings.rank, "linear_alpha": settings.rank},
        "save": {
            "dtype": "float16",
            "save_every": settings.checkpoint_every,
            "max_step_saves_to_keep": settings.keep_checkpoints or 1000,
        },
        "datasets": yaml.safe_load(config.read_text(encoding="utf-8"))["datasets"],
        "train": train,
        "model": {
            "name_or_path": BASE_MODEL,
            "is_flux": True,
            "quantize": settings.precision not in ("bf16", "fp32"),
        },
        "sample": {
            "sampler": "flowmatch",
            "sample_every": settings.checkpoint_every,
            "width": 1024,
            "height": 1024,
            "prompts": [],
            "neg": "",
            "seed": settings.seed,
            "walk_seed": True,
            "guidance_scale": 4,
            "sample_steps": max(settings.sample_steps, 1),
        },
    }
    job = {
        "job": "extension",
        "config": {"name": name, "process": [process]},
        "meta": {"name": "[name]", "version": "1.0"},
    }
    text = yaml.safe_dump(job, sort_keys=False, allow_unicode=True, width=10_000)
    alpha = (
        "" if settings.alpha == settings.rank else f" It scales FLUX LoRAs by 1: use alpha {settings.rank} here too."
    )
    warmup = " It has no warm-up." if settings.warmup_steps else ""
    note = "Run it with python run.py job.yaml in ai-toolkit. For samples, write prompts and take disable_sampling out."
    return config.with_name("job.yaml"), text, f"{note}{alpha}{warmup}"


def _simple_tuner(config: Path, name: str, settings: Settings) -> tuple[Path, str, str]:
    """The config.json of bghira/SimpleTuner, as its examples/flux.peft-lora."""
    job = {
        "model_family": "flux",
        "model_type": "lora",
        "lora_type": "standard",
        "pretrained_model_name_or_path": BASE_MODEL,
        "data_backend_config": config.as_posix(),
        "output_dir": f"{OUTPUT}/{name}",
        "lora_rank": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.lora_dropout,
        "max_train_steps": settings.steps,
        "num_train_epochs": 0,
        "train_batch_size": 1,
        "gradient_accumulation_steps": settings.gradient_accumulation,
        "gradient_checkpointing": settings.gradient_checkpointing,
        "learning_rate": settings.learning_rate,
        "optimizer": _optimizer(settings, "SimpleTuner"),
        "lr_scheduler": _warm(settings),
        "lr_warmup_steps": settings.warmup_steps,
        "max_grad_norm": settings.max_grad_norm,
        "caption_dropout_probability": settings.caption_dropout,
        "mixed_precision": "bf16",
        "base_model_precision": {"int8": "int8-quanto", "fp8": "fp8-quanto", "nf4": "nf4-bnb"}.get(
            settings.precision, "no_change"
        ),
        "checkpoint_step_interval": settings.checkpoint_every,
        "checkpoints_total_limit": settings.keep_checkpoints or 1000,
        "seed": settings.seed % 2**32,
        "use_ema": bool(settings.ema_decay),
        "report_to": "none",
        "disable_bucket_pruning": True,
        "validation_disable": True,
    }
    if settings.ema_decay:
        job["ema_decay"] = settings.ema_decay
    note = "Copy it to SimpleTuner's config/config.json and start simpletuner train."
    return config.with_name("config.json"), json.dumps(job, indent=2, ensure_ascii=False) + "\n", note


def _sd_scripts(config: Path, name: str, settings: Settings) -> tuple[Path, str, str]:
    """The --config_file of kohya-ss/sd-scripts' flux_train_network.py."""
    import tomlkit

    job: dict[str, Any] = {
        "pretrained_model_name_or_path": "flux1-dev.safetensors",
        "clip_l": "clip_l.safetensors",
        "t5xxl": "t5xxl_fp16.safetensors",
        "ae": "ae.safetensors",
        "dataset_config": config.as_posix(),
        "output_dir": OUTPUT,
        "output_name": name,
        "save_model_as": "safetensors",
        "save_precision": "bf16",
        "save_every_n_steps": settings.checkpoint_every,
        "network_module": "networks.lora_flux",
        "network_dim": settings.rank,
        "network_alpha": settings.alpha,
        "network_train_unet_only": True,
        "max_train_steps": settings.steps,
        "learning_rate": settings.learning_rate,
        "optimizer_type": _optimizer(settings, "sd-scripts"),
        "optimizer_args": [f"weight_decay={settings.weight_decay}"],
        "lr_scheduler": _warm(settings),
        "lr_warmup_steps": settings.warmup_steps,
        "lr_scheduler_num_cycles": settings.scheduler_cycles,
        "max_grad_norm": settings.max_grad_norm,
        "gradient_accumulation_steps": settings.gradient_accumulation,
        "gradient_checkpointing": settings.gradient_checkpointing,
        "mixed_precision": "bf16",
        "fp8_base": settings.precision not in ("bf16", "fp32"),
        "timestep_sampling": "sigma" if settings.timestep_sampling == "mode" else settings.timestep_sampling,
        "sigmoid_scale": settings.timestep_scale,
        "discrete_flow_shift": settings.timestep_shift,
        "weighting_scheme": "mode" if settings.timestep_sampling == "mode" else settings.loss_weighting,
        "model_prediction_type": "raw",
        "guidance_scale": settings.guidance,
        "prior_loss_weight": settings.prior_loss_weight,
        "seed": settings.seed % 2**32,
        "sdpa": True,
        "cache_latents": True,
        "cache_latents_to_disk": True,
        "cache_text_encoder_outputs": True,
        "cache_text_encoder_outputs_to_disk": True,
    }
    if settings.lora_dropout:
        job["network_dropout"] = settings.lora_dropout
    if settings.streamed_blocks > 0:
        job["blocks_to_swap"] = settings.streamed_blocks
    dropout = " caption_dropout does not go with its cached captions." if settings.caption_dropout else ""
    note = (
        "Put the paths of your four model files into it, and run accelerate launch flux_train_network.py --config_file "
        f"train.toml in sd-scripts.{dropout}"
    )
    return config.with_name("train.toml"), tomlkit.dumps(job), note


def _warm(settings: Settings) -> str:
    """diffusers' name of the schedule: its constant one has no warm-up."""
    warm = settings.warmup_steps and settings.scheduler == "constant"
    return "constant_with_warmup" if warm else settings.scheduler


Writer = Callable[[Path, str, Settings], tuple[Path, str, str]]
JOBS: dict[str, Writer] = {"ai-toolkit": _ai_toolkit, "SimpleTuner": _simple_tuner, "sd-scripts": _sd_scripts}
