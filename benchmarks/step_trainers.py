"""The trainers that the benchmark of a training step compares, each as its own users run it."""

from __future__ import annotations

import itertools
import logging
import math
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from full_size import REPOSITORY
from step_meter import Meter, simulate_card
from step_work import COMFYUI, DIFFUSERS, IMPASTO, Contender, Work, examples


def measure(contender: Contender, work: Work) -> dict[str, Any]:
    """Train with one contender; a failure is a result too."""
    result: dict[str, Any] = {"contender": contender.name}
    trainer = {IMPASTO: train_impasto, COMFYUI: train_comfyui, DIFFUSERS: train_diffusers}[contender.trainer]
    try:
        if work.cap:
            simulate_card(work.cap)
        meter, parameters = trainer(contender, work)
        return result | meter.result() | {"parameters": parameters}
    except Exception as error:
        logging.exception("%s failed", contender.name)
        return result | {"failure": f"{type(error).__name__}: {' '.join(str(error).split())}"}


def train_impasto(contender: Contender, work: Work) -> tuple[Meter, int]:
    """Our recipe as the trainer's process runs it, metrics and checkpoint included; no held-out loss, no sample."""
    import accelerate  # noqa: F401 (imported here so that it is not measured as memory that training takes)
    import diffusers.optimization  # noqa: F401
    import peft  # noqa: F401
    import torch
    from diffusers import FluxTransformer2DModel  # noqa: F401
    from impasto.trainers import recipe
    from impasto.trainers.features import index as features_index
    from impasto.trainers.flux.fingerprint import fingerprint as flux_fingerprint
    from impasto.trainers.run import create
    from impasto.trainers.run import folder as runs
    from impasto.trainers.settings import Settings
    from safetensors.torch import load_file

    steps = work.warmup + work.steps
    everyones = {
        "rank": work.rank,
        "alpha": float(work.rank),
        "targets": "all linear",
        "caption_dropout": 0.0,
        "precision": "bf16" if torch.cuda.is_available() else "fp32",
        "gradient_checkpointing": bool(contender.interval),
        "checkpointing_interval": max(contender.interval, 1),
    }
    kept = {"steps": steps, "checkpoint_every": steps, "sample_steps": 0, "checkpoint_epochs": 0}
    settings = Settings.from_dict(everyones | contender.settings | kept)
    data = features_index.Features(str(work.features_folder), work.features_key)
    with tempfile.TemporaryDirectory(dir=work.folder) as runs_root:
        fingerprint = flux_fingerprint(work.weights)
        job = runs.Job("benchmark", settings, data.folder, data.key, str(work.weights), fingerprint)
        run = create.create_run(Path(runs_root), job)
        meter = Meter(work)

        asked = itertools.count()

        def step_done() -> bool:  # the recipe asks whether to stop before the first step, after each, and once more
            if 0 < next(asked) <= steps:
                meter.step_done()
            return False

        if not recipe.train_run(run, cpu=not torch.cuda.is_available(), stop_requested=step_done):
            raise RuntimeError(run.status()["error"])
        if skipped := [record["skipped"] for record in run.metrics() if "skipped" in record]:
            raise RuntimeError(f"{len(skipped)} of {steps} steps were left out: {skipped[0]}")
        saved = load_file(run.checkpoints()[steps] / "adapter.safetensors")
        parameters = sum(tensor.numel() for key, tensor in saved.items() if not key.endswith(".alpha"))
    return meter, parameters


def bare_loss(transformer: Any, latents: Any, t5: Any, pooled: Any, sigma: Any) -> Any:
    """The velocity loss at `sigma`, by diffusers' own forward pass as its pipeline calls it."""
    import torch
    from impasto.trainers.flux import forward as velocity

    dtype = transformer.x_embedder.weight.dtype
    noise = torch.randn_like(latents)
    noisy = torch.lerp(latents, noise, sigma.view(-1, 1, 1, 1))
    rows, columns = latents.shape[-2] // 2, latents.shape[-1] // 2
    ids = velocity.position_ids(t5.shape[1], rows, columns, latents.device)
    predicted = transformer(
        hidden_states=velocity.patchify(noisy).to(dtype),
        timestep=sigma.to(dtype),
        guidance=torch.ones_like(sigma),
        pooled_projections=pooled.to(dtype),
        encoder_hidden_states=t5.to(dtype),
        txt_ids=ids[: t5.shape[1]],
        img_ids=ids[t5.shape[1] :],
        return_dict=False,
    )[0]
    return torch.nn.functional.mse_loss(predicted.float(), velocity.patchify(noise - latents))


def train_diffusers(contender: Contender, work: Work) -> tuple[Meter, int]:
    """The shortest correct loop: diffusers' model and forward pass, PEFT's LoRA on the same layers, torch's AdamW."""
    import torch
    from diffusers import FluxTransformer2DModel  # noqa: F401
    from impasto.trainers.flux import loading

    meter = Meter(work)
    device, precision = ("cuda", "bf16") if torch.cuda.is_available() else ("cpu", "fp32")
    transformer = loading.load_transformer(work.weights, precision, device)
    parameters, step = bare_loop(transformer, work.rank, bool(contender.interval))
    pictures = examples(work)
    groups = [pictures[start : start + work.batch] for start in range(0, len(pictures), work.batch)]
    data = [tuple(torch.cat(tensors).to(device) for tensors in zip(*group, strict=True)) for group in groups]
    for number in range(work.warmup + work.steps):
        loss = step(*data[number % len(data)])
        if not math.isfinite(loss.item()):
            raise RuntimeError(f"the loss is {loss.item()}")
        meter.step_done()
    return meter, sum(parameter.numel() for parameter in parameters)


def bare_loop(transformer: Any, rank: int, checkpointing: bool) -> tuple[list[Any], Callable[..., Any]]:
    """The bare loop's parameters, and its step, of latents, T5 and pooled embeddings to the loss, all on the device."""
    import torch
    from impasto.trainers.lora import adapter
    from peft import LoraConfig

    layers = adapter.target_modules(transformer, "all linear")
    transformer.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=layers))
    parameters = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.data = parameter.data.float()
    if checkpointing:
        transformer.enable_gradient_checkpointing()
    transformer.train()
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)

    def step(latents: Any, t5: Any, pooled: Any) -> Any:
        loss = bare_loss(transformer, latents, t5, pooled, torch.rand(len(latents), device=latents.device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return parameters, step


def comfyui_folder() -> Path:
    return Path(os.environ.get("COMFYUI_PATH") or REPOSITORY / ".impasto" / "ComfyUI")


def import_comfyui(folder: str, attention: str = "default") -> Any:
    """ComfyUI's `comfy_extras.nodes_train`, with base directory `folder`; on the CPU unless there is a CUDA device."""
    import torch

    if str(comfyui_folder()) not in sys.path:
        sys.path.insert(0, str(comfyui_folder()))
    from comfy.cli_args import args

    # Must be set before comfy.model_management and folder_paths are imported.
    args.cpu = not torch.cuda.is_available()
    args.base_directory = folder
    args.use_pytorch_cross_attention = attention == "pytorch"
    from comfy_extras import nodes_train

    return nodes_train


def train_comfyui(contender: Contender, work: Work) -> tuple[Meter, int]:
    """ComfyUI's node as its server runs it: same loader, inference mode around it, its own defaults where not named."""
    nodes_train = import_comfyui(work.folder, work.attention)
    import comfy.sd
    import torch
    from impasto.trainers.flux.latents import unscale_latent

    meter = Meter(work)

    class StepMarker:  # in the place of comfy.utils.ProgressBar, whose reports to the browser leave steps out
        def __init__(self, total: int) -> None:
            pass

        def update(self, value: int) -> None:
            meter.step_done()

    nodes_train.ProgressBar = StepMarker
    settings = {option.id: option.default for option in nodes_train.TrainLoraNode.define_schema().inputs[3:]}
    settings |= {
        "steps": work.warmup + work.steps,
        "batch_size": work.batch,
        "rank": work.rank,
        "learning_rate": 1e-4,
        "training_dtype": "bf16" if torch.cuda.is_available() else "fp32",
        "lora_dtype": "fp32",
        "gradient_checkpointing": bool(contender.interval),
        "checkpoint_depth": contender.depth,
        "bypass_mode": contender.bypass,
    }
    with torch.inference_mode():  # execution.py runs every node inside it
        data = [tuple(tensor.clone() for tensor in example) for example in examples(work)]
        # The node gets what VAE Encode gives; ComfyUI scales it.
        latents = torch.cat([unscale_latent(latent) for latent, _, _ in data])
        positive = [[t5, {"pooled_output": pooled, "guidance": 1.0}] for _, t5, pooled in data]
        model = comfy.sd.load_diffusion_model(str(work.weights))
        output = nodes_train.TrainLoraNode.execute(
            model=[model],
            latents=[{"samples": latents}],
            positive=[positive],
            **{name: [value] for name, value in settings.items()},
        )
    lora, losses = output.args[0], output.args[1]["loss"]
    if not all(math.isfinite(loss) for loss in losses):
        raise RuntimeError(f"the losses are {losses}")
    return meter, sum(tensor.numel() for key, tensor in lora.items() if not key.endswith(".alpha"))
