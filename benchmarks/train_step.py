"""Seconds per training step and peak memory: Impasto's recipe, ComfyUI's TrainLoraNode, a bare diffusers + PEFT loop.

    .impasto/venv/bin/python benchmarks/train_step.py                      about half an hour
    .impasto/venv/bin/python benchmarks/train_step.py --sets precision     some of it, beside the two alternatives
    .impasto/venv/bin/python benchmarks/train_step.py --full-size          as large as FLUX.1-dev; needs a CUDA device
    .impasto/venv/bin/python benchmarks/train_step.py --cap 8 12 16 24     the presets on smaller cards, simulated
    .impasto/venv/bin/python benchmarks/train_step.py --profile            where our time goes, by PyTorch's profiler
    .impasto/venv/bin/python benchmarks/train_step.py --quick              a minute; shows that it runs, no more

All train a LoRA of the same rank on the same seeded weights, latents and texts, LoRA in float32, AdamW. Every
measurement is a process of its own; the contenders take turns, so that a busy machine hurts all alike. On the CPU the
aims are judged by processor time: with one thread it is what the clock shows on an idle machine.
ComfyUI is the one in COMFYUI_PATH, else in .impasto/ComfyUI. Linux only: memory is read from /proc.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import itertools
import json
import logging
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from full_size import DEV_BLOCKS, DEV_WIDTH, architecture, load_pack, write_random

REPOSITORY = Path(__file__).resolve().parent.parent
MIB = 2**20
PAGE = 4096  # bytes; what the kernel counts in, and the least that a ratio is made with
IMPASTO, COMFYUI, DIFFUSERS = "Impasto", "TrainLoraNode", "diffusers + PEFT"
POOLED_WIDTH = 768  # CLIP-L's
PICTURES = 4
OPERATORS = 20  # rows of a profile
# Side of the matrices, how many products: on a card some seconds of them, after which its clock is that of training.
RATE_SIZES = {"cuda": (8192, 1000), "cpu": (2048, 3), "quick": (256, 3)}
AIMS = {COMFYUI: (0.6, 0.5), DIFFUSERS: (1.05, 1.05)}  # at most this ratio in time and in memory


@dataclass(frozen=True)
class Contender:
    """One trainer in one mode.

    Attributes:
        trainer: `IMPASTO`, `COMFYUI` or `DIFFUSERS`.
        interval: gradient checkpointing of every so many-th block; 0 for none. Only ours knows more than 0 and 1.
        depth: TrainLoraNode's `checkpoint_depth`; 1, its default, is the model as a whole, 2 is each block.
        bypass: TrainLoraNode's `bypass_mode`: the LoRA beside the layer instead of added to its weight.
        label: what sets this mode of ours apart.
        settings: of ours, where they differ from everyone's.
    """

    trainer: str
    interval: int = 1
    depth: int = 1
    bypass: bool = False
    label: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        if self.trainer != COMFYUI:
            return f"{self.trainer}, {self.label}" if self.label else self.trainer
        default = " (its default)" if self == Contender(COMFYUI) else ""
        depth = f", depth {self.depth}" if self.interval else ""
        return f"{COMFYUI}{', bypass' if self.bypass else ''}{depth}{default}"

    @property
    def state(self) -> str:
        return {0: "no", 1: "yes"}.get(self.interval, f"1 in {self.interval}")

    @property
    def plain(self) -> bool:
        """Whether this is something that all trainers have."""
        return not self.label and self.interval < 2


ALTERNATIVES = (Contender(DIFFUSERS), Contender(COMFYUI))
SETS = {
    "trainers": (
        Contender(IMPASTO),
        *ALTERNATIVES,
        Contender(COMFYUI, depth=2),
        Contender(COMFYUI, bypass=True),
        Contender(COMFYUI, depth=2, bypass=True),
        Contender(IMPASTO, 0),
        Contender(DIFFUSERS, 0),
        Contender(COMFYUI, 0),
        Contender(COMFYUI, 0, bypass=True),
    ),
    "precision": tuple(
        Contender(IMPASTO, label=name, settings={"precision": name}) for name in ("bf16", "fp8", "int8", "nf4")
    ),
    "checkpointing": (Contender(IMPASTO, 2),),
    "streaming": (Contender(IMPASTO, label="6 blocks streamed", settings={"streamed_blocks": 6}),),
    "compile": (Contender(IMPASTO, label="compiled", settings={"compile": True}),),
}
NO_COMPILER = "torch.compile does not work here"  # how the recipe's error begins


@dataclass(frozen=True)
class Work:
    """What everyone is asked to do; a file of it is handed to the measuring processes.

    Attributes:
        folder: holds the weights and the features.
        hidden_size, double_blocks, single_blocks: of the transformer.
        context_width: width of the T5 embeddings.
        width, height: of the pictures, in pixels.
        batch: pictures per batch.
        tokens: length of the T5 embeddings.
        rank: of the LoRA.
        warmup: steps that are not measured, at least 1.
        steps: steps that are measured.
        attention: ComfyUI's; "pytorch" as on a CUDA device, or "default", which on the CPU is sub-quadratic.
        features_key: of the features in `folder`.
        cap: gigabytes of the card that is simulated; 0 for the card as it is.
        profile: whether to profile the measured steps, which makes them slower.
    """

    folder: str
    hidden_size: int
    double_blocks: int
    single_blocks: int
    context_width: int
    width: int
    height: int
    batch: int
    tokens: int
    rank: int
    warmup: int
    steps: int
    attention: str
    features_key: str = ""
    cap: int = 0
    profile: bool = False

    @property
    def weights(self) -> Path:
        return Path(self.folder) / "transformer.safetensors"

    @property
    def pictures(self) -> Path:
        """Where everything lies that depends on the size of the pictures and batches."""
        return Path(self.folder) / f"{self.width}x{self.height}x{self.batch}"

    @property
    def features_folder(self) -> Path:
        return self.pictures / "features" / self.features_key


# ---- What is trained on -------------------------------------------------------------------------------------------


def write_weights(work: Work) -> None:
    """Write seeded weights: in bfloat16 where there is a CUDA device to train in it, else in float32."""
    import torch
    from impasto.embedded.transformer_weights import transformer_weights
    from safetensors.torch import save_file

    if torch.cuda.is_available():
        flux = architecture(work.hidden_size, (work.double_blocks, work.single_blocks))
        write_random(work.weights, dataclasses.replace(flux, context_width=work.context_width))
        return
    weights = transformer_weights(
        hidden_size=work.hidden_size,
        double_blocks=work.double_blocks,
        single_blocks=work.single_blocks,
        context_width=work.context_width,
        pooled_width=POOLED_WIDTH,
        seed=0,
    )
    save_file(weights, work.weights)


def with_features(work: Work) -> Work:
    return dataclasses.replace(work, features_key=encode_features(work))


def encode_features(work: Work) -> str:
    """Encode pictures of noise with stand-ins for VAE and CLIP: for time and memory only the shapes matter."""
    import torch
    from impasto.trainers.features import encoding as features
    from PIL import Image

    def encode_image(pixels: torch.Tensor) -> torch.Tensor:
        return torch.randn(16, pixels.shape[0] // 8, pixels.shape[1] // 8, generator=random)

    def encode_text(text: str) -> tuple[torch.Tensor, torch.Tensor]:
        t5 = torch.randn(work.tokens, work.context_width, generator=random)
        return t5, torch.randn(POOLED_WIDTH, generator=random)

    random = torch.Generator().manual_seed(0)
    pictures = work.pictures / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    for number in range(PICTURES):
        Image.new("RGB", (work.width, work.height), (number, 0, 0)).save(pictures / f"{number}.png")
        (pictures / f"{number}.txt").write_text(f"picture {number}")
    config = work.pictures / "dataset.toml"
    config.write_text(
        f"[[datasets]]\nresolution = [{work.width}, {work.height}]\nbatch_size = {work.batch}\n"
        f'[[datasets.subsets]]\nimage_dir = "{pictures.as_posix()}"\ncaption_extension = ".txt"\n'
    )
    return features.encode(config, features.Encoder("vae", encode_image), features.Encoder("clip", encode_text)).key


def examples(work: Work) -> list[tuple[Any, Any, Any]]:
    """(latent, T5, pooled) of every picture, each with a batch axis of 1."""
    from impasto.trainers.features.index import Features, load

    loaded = load(Features(str(work.features_folder), work.features_key))
    return [
        (loaded.load_latent(example)[None], *(text[None] for text in loaded.load_text(example.text_path)))
        for example in loaded.examples
    ]


def step_flops(work: Work) -> int:
    """Operations of a step's matrix products: forward pass and gradients of the inputs.

    Neither what is recomputed nor the LoRA counts: it is what a step needs at least, the same for every trainer.
    """
    from impasto.trainers.flux import detection

    return product_flops(detection.inspect(work.weights), work.width, work.height, work.batch, work.tokens)


def product_flops(flux: Any, width: int, height: int, batch: int, tokens: int) -> int:
    """`step_flops` of an architecture, for pictures of this size in pixels."""
    import torch
    from impasto.trainers.flux import forward as velocity
    from impasto.trainers.flux import loading
    from torch.utils.flop_counter import FlopCounterMode

    transformer = loading.empty_transformer(flux).requires_grad_(False)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        latents = torch.empty(batch, flux.in_channels // 4, height // 8, width // 8, requires_grad=True)
        t5 = torch.empty(batch, tokens, flux.context_width, requires_grad=True)
        pooled = torch.empty(batch, flux.pooled_width)
        velocity.predict_velocity(transformer, latents, torch.empty(batch), t5, pooled).sum().backward()
    return counter.get_total_flops()


def matmul_rate(side: int, repeats: int) -> float:
    """Operations per second of large matrix products: bfloat16 by the clock on a CUDA device, else float32 by processor
    time."""
    import torch

    cuda = torch.cuda.is_available()
    device, dtype = ("cuda", torch.bfloat16) if cuda else ("cpu", torch.float32)
    clock = time.perf_counter if cuda else time.process_time
    matrix, product = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))

    def seconds() -> float:
        began = clock()
        for _ in range(repeats):
            torch.mm(matrix, matrix, out=product)
        if cuda:
            torch.cuda.synchronize()
        return clock() - began

    seconds()
    return 2 * side**3 * repeats / min(seconds() for _ in range(3))


# ---- Measuring, in a process of its own ---------------------------------------------------------------------------


class Meter:
    """Takes the time at the end of every step, and forgets the memory peak of loading once the warm-up is over.

    A CUDA device is waited for before and after the measured steps only: within them it may run behind, as it does in
    training, so that its times are the mean of all steps.
    """

    def __init__(self, work: Work) -> None:
        import torch

        self.warmup, self.last = work.warmup, work.warmup + work.steps
        self.marks: list[tuple[float, float]] = []  # clock and processor time, in seconds
        self.cuda = torch.cuda.is_available()
        self.imported = 0 if self.cuda else resident_memory("VmRSS")
        reset_peak_memory()
        self.peak_before = self.reserved_before = 0
        self.profiler = torch.profiler.profile() if work.profile else None

    def step_done(self) -> None:
        import torch

        if self.cuda and len(self.marks) + 1 in (self.warmup, self.last):
            torch.cuda.synchronize()
        self.marks.append((time.perf_counter(), time.process_time()))
        if len(self.marks) == self.warmup:
            self.peak_before, self.reserved_before = peak_memory(), reserved_memory()
            reset_peak_memory()
            if self.profiler:
                self.profiler.start()
        elif self.profiler and len(self.marks) == self.last:
            self.profiler.stop()

    def operators(self) -> str:
        """A table of the operators that took most of the device's time; of the processor's where it is the device."""
        order = "self_device_time_total" if self.cuda else "self_cpu_time_total"
        averages = self.profiler.key_averages()
        return averages.table(sort_by=order, row_limit=OPERATORS, max_name_column_width=60)

    def result(self) -> dict[str, Any]:
        in_steps = peak_memory()
        if len(self.marks) != self.last:
            raise RuntimeError(f"{len(self.marks)} steps were counted, not {self.last}")
        marks = self.marks[self.warmup - 1 :]
        steps = len(marks) - 1 if self.cuda else 1
        marks = [marks[0], marks[-1]] if self.cuda else marks
        pairs = list(zip(marks, marks[1:], strict=False))
        return {
            "seconds": [(later[0] - earlier[0]) / steps for earlier, later in pairs],
            "processor_seconds": [(later[1] - earlier[1]) / steps for earlier, later in pairs],
            "imported": self.imported,
            "peak": max(self.peak_before, in_steps),
            "peak_in_steps": in_steps,
            "reserved": max(self.reserved_before, reserved_memory()),
        } | ({"operators": self.operators()} if self.profiler else {})


def resident_memory(field: str) -> int:
    """`VmRSS` (now) or `VmHWM` (at most since the last reset) of this process, in bytes: memory that is in RAM."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def peak_memory() -> int:
    """Bytes: on a CUDA device what PyTorch allocated there, else the resident set of the process."""
    import torch

    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else resident_memory("VmHWM")


def reserved_memory() -> int:
    """Bytes that PyTorch took of a CUDA device, gaps included: what has to fit on a card. 0 on the CPU."""
    import torch

    return torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0


def reset_peak_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # Linux, proc(5): resets VmHWM to VmRSS


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


def simulate_card(gigabytes: int) -> None:
    """Leave PyTorch what a card of this size has free when nothing else uses it; on the CPU, all."""
    import torch
    from impasto.trainers.memory.choice import TAKEN
    from impasto.trainers.memory.estimate import GIGABYTE

    if torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, (gigabytes * GIGABYTE - TAKEN) / total))


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


# ---- Running the measuring processes and telling the result -------------------------------------------------------


def run_in_child(contenders: Sequence[Contender], work: Work) -> list[dict[str, Any]]:
    """Measure in a fresh process; more than one contender in it only where nothing is to be learned from memory."""
    asked = [dataclasses.asdict(value) for value in (work, *contenders)]
    command = [sys.executable, __file__, "--measure", json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True)
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"contender"')]
    if len(results) != len(contenders):
        raise SystemExit(f"Measuring ended with status {done.returncode}:\n{done.stderr[-4000:]}")
    return results


def measured(asked: str) -> None:
    """What a measuring process does: a line of JSON for each contender."""
    load_pack()
    work, *contenders = json.loads(asked)
    for contender in contenders:
        print(json.dumps(measure(Contender(**contender), Work(**work))), flush=True)


@dataclass(frozen=True)
class Row:
    """All rounds of one contender: medians; `failure` says why there are none.

    Attributes:
        seconds: per step.
        processor_seconds: per step, all threads together; less disturbed by what else runs on the machine.
        peak: largest resident set (CUDA: allocation) of the process, loading included, in bytes.
        above_imports: `peak` less the resident set before the model was loaded.
        in_steps: the same for the measured steps alone.
        reserved: largest memory that PyTorch took of a CUDA device, in bytes.
        parameters: how many numbers are trained.
    """

    contender: Contender
    seconds: float = math.nan
    processor_seconds: float = math.nan
    peak: float = math.nan
    above_imports: float = math.nan
    in_steps: float = math.nan
    reserved: float = math.nan
    parameters: int = 0
    failure: str = ""


def summarise(contender: Contender, results: Sequence[dict[str, Any]]) -> Row:
    failure = next((result["failure"] for result in results if "failure" in result), "")
    if failure:
        return Row(contender, failure=failure)

    def median(value: Callable[[dict[str, Any]], float]) -> float:
        return statistics.median(value(result) for result in results)

    return Row(
        contender,
        seconds=statistics.median(second for result in results for second in result["seconds"]),
        processor_seconds=statistics.median(second for result in results for second in result["processor_seconds"]),
        peak=median(lambda result: result["peak"]),
        above_imports=median(lambda result: max(result["peak"] - result["imported"], PAGE)),
        in_steps=median(lambda result: max(result["peak_in_steps"] - result["imported"], PAGE)),
        reserved=median(lambda result: result["reserved"]),
        parameters=results[0]["parameters"],
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, the first column flush left, the others flush right."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = []
    for first, *others in (header, rule, *rows):
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def measurements_table(rows: Sequence[Row], flops: int, rate: float, cuda: bool) -> str:
    header = ("trainer", "checkpointing", "s/step", "CPU s/step", "of matmul", "peak MiB", "above imports", "in steps")
    header += ("trained",)
    lines = []
    for row in rows:
        cells = ["not available" if NO_COMPILER in row.failure else "fails"] * (len(header) - 2)
        if not row.failure:
            seconds = [f"{value:.3f}" for value in (row.seconds, row.processor_seconds)]
            share = flops / rate / getattr(row, time_field(cuda))
            memory = [f"{value / MIB:,.0f}" for value in (row.peak, row.above_imports, row.in_steps)]
            cells = [*seconds, f"{share:.1%}", *memory, f"{row.parameters / 1e6:.2f} M"]
        lines.append((row.contender.name, row.contender.state, *cells))
    return table(header, lines)


def time_field(cuda: bool) -> str:
    return "seconds" if cuda else "processor_seconds"


def ratios_table(rows: Sequence[Row], cuda: bool) -> str:
    """Ours divided by the others': below 1 is better for us."""
    fields = ("seconds", "processor_seconds", "peak", "above_imports", "in_steps")
    header = ("Impasto divided by", "checkpointing", "time", "CPU time", "peak", "above imports", "in steps", "aim")
    lines = []
    for ours, other in pairs(rows):
        ratios = dict(zip(fields, (getattr(ours, field) / getattr(other, field) for field in fields), strict=True))
        time_aim, memory_aim = AIMS[other.contender.trainer]
        time_ratio = ratios[time_field(cuda)]
        aim = f"time {verdict(time_ratio, time_aim)}, peak {verdict(ratios['peak'], memory_aim)}"
        states = ours.contender.state
        if other.contender.state != states:
            states = f"{states} / {other.contender.state}"
        lines.append((other.contender.name, states, *(f"{ratio:.3g}" for ratio in ratios.values()), aim))
    return table(header, lines)


def pairs(rows: Sequence[Row]) -> Iterator[tuple[Row, Row]]:
    """(ours, another's) with the same gradient checkpointing.

    A trainer that cannot do without is compared with ours without, too: that is the choice people have.
    """
    needs_it = {row.contender.trainer for row in rows if row.failure and not row.contender.interval}
    trained = [row for row in rows if row.contender.plain and not row.failure]
    for ours in (row for row in trained if row.contender.trainer == IMPASTO):
        for other in (row for row in trained if row.contender.trainer != IMPASTO):
            if other.contender.interval == ours.contender.interval or (
                other.contender.interval and other.contender.trainer in needs_it
            ):
                yield ours, other


def modes_table(rows: Sequence[Row], cuda: bool) -> str:
    """What only ours can do, divided by the alternatives with gradient checkpointing."""
    alternatives = [row for row in rows if row.contender in ALTERNATIVES and not row.failure]
    header = ["mode of Impasto", "checkpointing"]
    for row in alternatives:
        header += [f"time to {row.contender.trainer}", f"peak to {row.contender.trainer}"]
    lines = []
    for ours in (row for row in rows if not row.contender.plain and not row.failure):
        ratios = [
            getattr(ours, field) / getattr(row, field) for row in alternatives for field in (time_field(cuda), "peak")
        ]
        lines.append((ours.contender.name, ours.contender.state, *(f"{ratio:.3g}" for ratio in ratios)))
    return table(header, lines)


def verdict(ratio: float, aim: float) -> str:
    return f"<= {aim} {'met' if ratio <= aim else 'missed'}"


def report(work: Work, rows: Sequence[Row], rate: float) -> str:
    import torch
    from impasto.trainers.flux import detection

    cuda = torch.cuda.is_available()
    precision = "bf16" if cuda else "fp32"
    flops = step_flops(work)
    lines = [
        f"Transformer of {detection.inspect(work.weights).parameters / 1e6:.1f} M parameters: "
        f"hidden size {work.hidden_size}, {work.double_blocks} double and {work.single_blocks} single blocks  ",
        f"{work.width} x {work.height} px, {work.tokens} text tokens, rank {work.rank}, batch {work.batch}, "
        f"{precision}; ComfyUI's attention: {work.attention}  ",
        f"Matrix products of a step: {flops / 1e12:.4g} TFLOP; large {precision} ones here: {rate / 1e12:.4g} TFLOP/s",
        "",
        measurements_table(rows, flops, rate, cuda),
        "",
        ratios_table(rows, cuda),
    ]
    if any(not row.contender.plain for row in rows):
        lines += ["", modes_table(rows, cuda)]
    for row in rows:
        if row.failure:
            state = {"no": "without", "yes": "with"}.get(row.contender.state, f"{row.contender.state} blocks with")
            lines += ["", f"{row.contender.name}, {state} gradient checkpointing, fails: {row.failure}"]
    return "\n".join(lines)


def machine() -> str:
    import torch

    cuda = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} thread(s)"
    loads = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    return (
        f"{platform.platform()}, {device}, torch {torch.__version__}  \n"
        f"Load average over the last 1, 5 and 15 minutes: {loads}"
    )


def groups(contenders: Sequence[Contender], quick: bool) -> list[tuple[Contender, ...]]:
    """Who is measured together in a process: each alone, but with `quick` all that import the same."""
    if not quick:
        return [(contender,) for contender in contenders]
    comfyui = tuple(contender for contender in contenders if contender.trainer == COMFYUI)
    return [tuple(contender for contender in contenders if contender not in comfyui), comfyui]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="see that it runs: tiny sizes whatever else is asked for")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), help="what to measure (default: all)")
    parser.add_argument("--full-size", action="store_true", help="FLUX.1-dev's size, at 512 and 1024 px, batch 1 and 4")
    parser.add_argument("--cap", nargs="+", type=int, metavar="GB", help="all presets, on cards of so many gigabytes")
    parser.add_argument("--presets", nargs="+", metavar="NAME", help="with --cap, some of the presets only")
    parser.add_argument("--profile", action="store_true", help="our modes in the chosen sets, by operators")
    parser.add_argument("--folder", type=Path, help="where weights go meanwhile; 24 GB at full size (default: /tmp)")
    parser.add_argument("--weights", type=Path, help="keep the weights in this file, and use them if it is there")
    parser.add_argument("--hidden-size", type=int, default=768, help="a multiple of 128 (default: 768)")
    parser.add_argument("--double-blocks", type=int, default=4)
    parser.add_argument("--single-blocks", type=int, default=8)
    parser.add_argument("--resolutions", nargs="+", type=int, help="sides of the pictures in pixels (default: 256)")
    parser.add_argument("--batches", nargs="+", type=int, help=f"pictures per batch, up to {PICTURES} (default: 1)")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--steps", type=int, default=6, help="measured steps per process (default: 6)")
    parser.add_argument("--warmup", type=int, default=2, help="steps per process before them (default: 2)")
    parser.add_argument("--rounds", type=int, default=3, help="processes per contender (default: 3)")
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU (default: 1)")
    parser.add_argument("--attention", choices=("pytorch", "default"), default="pytorch", help="ComfyUI's attention")
    parser.add_argument("--json", type=Path, help="also write every measurement here")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measured(arguments.measure)
        return 0
    if not sys.platform.startswith("linux"):
        parser.error("this benchmark reads memory from /proc, which only Linux has")
    if not (comfyui_folder() / "comfy_extras" / "nodes_train.py").is_file() and not (
        arguments.cap or arguments.profile
    ):
        parser.error(f"there is no ComfyUI in {comfyui_folder()}: run ./quickstart.sh, or set COMFYUI_PATH")
    # Before torch is imported, here and in the measuring processes.
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    load_pack()
    import torch

    if (arguments.full_size or arguments.cap) and not (arguments.quick or torch.cuda.is_available()):
        parser.error("this needs a CUDA device; benchmarks/full_size.py measures a full-size model on the CPU")
    with tempfile.TemporaryDirectory(prefix="impasto-benchmark-", dir=arguments.folder) as folder:
        work = work_asked_for(arguments, folder)
        if arguments.weights:
            work.weights.symlink_to(arguments.weights.resolve())
        if not work.weights.exists():
            write_weights(work)
        found = (caps if arguments.cap else profiles if arguments.profile else benchmark)(arguments, work)
    print(machine(), found, sep="\n\n")
    return 0


def work_asked_for(arguments: argparse.Namespace, folder: str) -> Work:
    quick = arguments.quick
    full_size = (arguments.full_size or arguments.cap) and not quick
    double, single = DEV_BLOCKS if full_size else (arguments.double_blocks, arguments.single_blocks)
    return Work(
        folder=folder,
        hidden_size=128 if quick else DEV_WIDTH if full_size else arguments.hidden_size,
        double_blocks=1 if quick else double,
        single_blocks=1 if quick else single,
        context_width=64 if quick else 4096,
        width=64,
        height=64,
        batch=1,
        tokens=16 if quick else 512 if full_size else 256,
        rank=arguments.rank,
        warmup=1 if quick else arguments.warmup,
        steps=2 if quick else arguments.steps,
        attention=arguments.attention,
    )


def benchmark(arguments: argparse.Namespace, work: Work) -> str:
    """Every contender at every size that is asked for."""
    import torch

    quick = arguments.quick
    contenders = [Contender(IMPASTO), *ALTERNATIVES]
    contenders += [one for name in arguments.sets for one in SETS[name] if one not in contenders]
    cells = sizes(arguments, work)
    measurements = [compare(contenders, cell, quick, 1 if quick else arguments.rounds) for cell in cells]
    if arguments.json:
        arguments.json.write_text(json.dumps(measurements, indent=1))
    rate = matmul_rate(*RATE_SIZES["quick" if quick else "cuda" if torch.cuda.is_available() else "cpu"])
    reports = []
    for cell, results in zip(cells, measurements, strict=True):
        rows = [
            summarise(contender, [result for result in results if result["mode"] == index])
            for index, contender in enumerate(contenders)
        ]
        reports.append(report(cell, rows, rate))
    return "\n\n".join(reports)


def sizes(arguments: argparse.Namespace, work: Work) -> list[Work]:
    """The work at every size of pictures and batches that is asked for."""
    full_size = arguments.full_size
    sides = [64] if arguments.quick else arguments.resolutions or ([512, 1024] if full_size else [256])
    batches = arguments.batches or ([1, 4] if full_size else [1])
    return [
        with_features(dataclasses.replace(work, width=side, height=side, batch=batch))
        for side in sides
        for batch in batches
    ]


def profiles(arguments: argparse.Namespace, work: Work) -> str:
    """Where the time of our steps goes, for each of our modes and at every size that is asked for."""
    modes = [one for name in arguments.sets for one in SETS[name] if one.trainer == IMPASTO]
    found = []
    for cell in sizes(arguments, dataclasses.replace(work, profile=True)):
        for contender in modes:
            (result,) = run_in_child([contender], cell)
            tell("profile", result)
            title = f"{contender.name}, checkpointing: {contender.state}; {cell.width} px, batch {cell.batch}"
            found.append(f"{title}\n\n{result.get('operators') or result['failure']}")
    return "\n\n".join(found)


def compare(contenders: Sequence[Contender], work: Work, quick: bool, rounds: int) -> list[dict[str, Any]]:
    """All measurements; `mode` counts the contenders."""
    found = []
    turns = groups(contenders, quick)
    for turn in range(rounds):
        for group in turns[turn % len(turns) :] + turns[: turn % len(turns)]:
            for contender, result in zip(group, run_in_child(group, work), strict=True):
                found.append(result | {"mode": contenders.index(contender)})
                tell(f"round {turn + 1}", result)
    return found


def tell(where: str, result: dict[str, Any]) -> None:
    seconds = f"{statistics.median(result['seconds']):.3f} s/step" if "seconds" in result else "fails"
    print(f"{where}: {result['contender']}: {seconds}", file=sys.stderr, flush=True)


def caps(arguments: argparse.Namespace, work: Work) -> str:
    """Every preset on every card that is simulated, as the planner would have it run there."""
    from impasto.trainers.flux import detection
    from impasto.trainers.memory import block_profile, choice
    from impasto.trainers.memory import estimate as memory_plan
    from impasto.trainers.presets import PRESETS

    flux = detection.inspect(work.weights)
    header = ("preset", "card GB", "picture", "batch", "precision", "streamed", "planned GB", "peak GB")
    header += ("reserved GB", "s/step")
    lines, failures = [], []
    for name in arguments.presets or PRESETS:
        preset = PRESETS[name]
        width, height = (64, 64) if arguments.quick else (preset.width, preset.height)
        cell = with_features(dataclasses.replace(work, width=width, height=height, batch=preset.batch_size))
        shape = block_profile.BatchShape(width, height, preset.batch_size, work.tokens)
        for card in arguments.cap:
            about = (name, str(card), f"{width} x {height}", str(preset.batch_size))
            settings = choice.simulate(preset.settings, flux, shape, card)
            if settings is None:
                lines.append((*about, preset.settings.precision, *["does not fit"] * 5))
                continue
            budget = memory_plan.Budget(flux, (shape,), "cuda", 0)
            uncompiled = {"compile": False} if arguments.quick else {}  # the compiler takes longer than all the rest
            contender = Contender(IMPASTO, label=name, settings=settings.to_dict() | uncompiled)
            (result,) = run_in_child([contender], dataclasses.replace(cell, cap=card))
            tell(f"{card} GB", result)
            row = summarise(contender, [result])
            planned = memory_plan.plan(settings, budget).peak
            numbers = [f"{value / memory_plan.GIGABYTE:.2f}" for value in (planned, row.peak, row.reserved)]
            measured = ["fails"] * 3 if row.failure else [*numbers[1:], f"{row.seconds:.3f}"]
            lines.append((*about, settings.precision, str(settings.streamed_blocks), numbers[0], *measured))
            failures += [f"\n{name} on {card} GB fails: {row.failure}"] if row.failure else []
    return "\n".join([table(header, lines), *failures])


if __name__ == "__main__":
    sys.exit(main())
