"""Seconds per training step and peak memory: Impasto's recipe, ComfyUI's TrainLoraNode, a bare diffusers + PEFT loop.

    .impasto/venv/bin/python benchmarks/train_step.py            about a quarter of an hour
    .impasto/venv/bin/python benchmarks/train_step.py --quick    under a minute; shows that it runs, measures nothing

All train a LoRA of the same rank on the same seeded weights, latents and texts, one picture per batch, LoRA in float32,
AdamW. Every measurement is a process of its own; the contenders take turns, so that a busy machine hurts all alike.
On the CPU the aims are judged by processor time: with one thread it is what the clock shows on an idle machine.
ComfyUI is the one in COMFYUI_PATH, else in .impasto/ComfyUI. Linux only: memory is read from /proc.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import importlib.util
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
MIB = 2**20
PAGE = 4096  # bytes; what the kernel counts in, and the least that a ratio is made with
IMPASTO, COMFYUI, DIFFUSERS = "Impasto", "TrainLoraNode", "diffusers + PEFT"
POOLED_WIDTH = 768  # CLIP-L's
PICTURES = 4
AIMS = {COMFYUI: (0.6, 0.5), DIFFUSERS: (1.05, 1.05)}  # at most this ratio in time and in memory


@dataclass(frozen=True)
class Contender:
    """One trainer in one mode.

    Attributes:
        trainer: `IMPASTO`, `COMFYUI` or `DIFFUSERS`.
        checkpointing: gradient checkpointing.
        depth: TrainLoraNode's `checkpoint_depth`; 1, its default, is the model as a whole, 2 is each block.
        bypass: TrainLoraNode's `bypass_mode`: the LoRA beside the layer instead of added to its weight.
    """

    trainer: str
    checkpointing: bool
    depth: int = 1
    bypass: bool = False

    @property
    def name(self) -> str:
        if self.trainer != COMFYUI:
            return self.trainer
        default = " (its default)" if self == Contender(COMFYUI, checkpointing=True) else ""
        depth = f", depth {self.depth}" if self.checkpointing else ""
        return f"{COMFYUI}{', bypass' if self.bypass else ''}{depth}{default}"

    @property
    def state(self) -> str:
        return "yes" if self.checkpointing else "no"


CONTENDERS = (
    Contender(IMPASTO, True),
    Contender(DIFFUSERS, True),
    Contender(COMFYUI, True, depth=1),
    Contender(COMFYUI, True, depth=2),
    Contender(COMFYUI, True, depth=1, bypass=True),
    Contender(COMFYUI, True, depth=2, bypass=True),
    Contender(IMPASTO, False),
    Contender(DIFFUSERS, False),
    Contender(COMFYUI, False),
    Contender(COMFYUI, False, bypass=True),
)


@dataclass(frozen=True)
class Work:
    """What everyone is asked to do; a file of it is handed to the measuring processes.

    Attributes:
        folder: holds the weights and the features.
        hidden_size, double_blocks, single_blocks: of the transformer.
        context_width: width of the T5 embeddings.
        resolution: side of the square pictures, in pixels.
        tokens: length of the T5 embeddings.
        rank: of the LoRA.
        warmup: steps that are not measured, at least 1.
        steps: steps that are measured.
        attention: ComfyUI's; "pytorch" as on a CUDA device, or "default", which on the CPU is sub-quadratic.
        features_key: of the features in `folder`.
    """

    folder: str
    hidden_size: int
    double_blocks: int
    single_blocks: int
    context_width: int
    resolution: int
    tokens: int
    rank: int
    warmup: int
    steps: int
    attention: str
    features_key: str = ""

    @property
    def weights(self) -> Path:
        return Path(self.folder) / "transformer.safetensors"

    @property
    def file(self) -> Path:
        return Path(self.folder) / "work.json"

    @property
    def features_folder(self) -> Path:
        return Path(self.folder) / "features" / self.features_key


# ---- What is trained on -------------------------------------------------------------------------------------------


def load_pack() -> None:
    """Make the repository importable as `impasto`, whatever its folder is called."""
    spec = importlib.util.spec_from_file_location(
        "impasto", REPOSITORY / "__init__.py", submodule_search_locations=[str(REPOSITORY)]
    )
    package = importlib.util.module_from_spec(spec)
    sys.modules["impasto"] = package
    spec.loader.exec_module(package)


def prepare(work: Work) -> Work:
    """Write the seeded weights, in the dtype they are trained in, and the features."""
    import torch
    from impasto.embedded.transformer_weights import transformer_weights
    from safetensors.torch import save_file

    weights = transformer_weights(
        hidden_size=work.hidden_size,
        double_blocks=work.double_blocks,
        single_blocks=work.single_blocks,
        context_width=work.context_width,
        pooled_width=POOLED_WIDTH,
        seed=0,
    )
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    save_file({key: tensor.to(dtype) for key, tensor in weights.items()}, work.weights)
    work = dataclasses.replace(work, features_key=encode_features(work))
    work.file.write_text(json.dumps(dataclasses.asdict(work)))
    return work


def encode_features(work: Work) -> str:
    """Encode pictures of noise with stand-ins for VAE and CLIP: for time and memory only the shapes matter."""
    import torch
    from impasto.trainers import features
    from PIL import Image

    def encode_image(pixels: torch.Tensor) -> torch.Tensor:
        return torch.randn(16, pixels.shape[0] // 8, pixels.shape[1] // 8, generator=random)

    def encode_text(text: str) -> tuple[torch.Tensor, torch.Tensor]:
        t5 = torch.randn(work.tokens, work.context_width, generator=random)
        return t5, torch.randn(POOLED_WIDTH, generator=random)

    random = torch.Generator().manual_seed(0)
    pictures = Path(work.folder) / "pictures"
    pictures.mkdir()
    for number in range(PICTURES):
        Image.new("RGB", (work.resolution, work.resolution), (number, 0, 0)).save(pictures / f"{number}.png")
        (pictures / f"{number}.txt").write_text(f"picture {number}")
    config = Path(work.folder) / "dataset.toml"
    config.write_text(
        f"[[datasets]]\nresolution = {work.resolution}\nbatch_size = 1\n"
        f'[[datasets.subsets]]\nimage_dir = "{pictures.as_posix()}"\ncaption_extension = ".txt"\n'
    )
    return features.encode(config, features.Encoder("vae", encode_image), features.Encoder("clip", encode_text)).key


def samples(work: Work) -> list[tuple[Any, Any, Any]]:
    """(latent, T5, pooled) of every picture, each with a batch axis of 1."""
    from impasto.trainers import features

    loaded = features.load(features.Features(str(work.features_folder), work.features_key))
    return [
        (loaded.load_latent(sample)[None], *(text[None] for text in loaded.load_text(sample.text_path)))
        for sample in loaded.samples
    ]


# ---- Measuring, in a process of its own ---------------------------------------------------------------------------


class Meter:
    """Takes the time at the end of every step, and forgets the memory peak of loading once the warm-up is over."""

    def __init__(self, warmup: int) -> None:
        import torch

        self.warmup = warmup
        self.marks: list[tuple[float, float]] = []  # clock and processor time, in seconds
        self.imported = 0 if torch.cuda.is_available() else resident_memory("VmRSS")
        reset_peak_memory()
        self.peak_before = 0

    def step_done(self) -> None:
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.marks.append((time.perf_counter(), time.process_time()))
        if len(self.marks) == self.warmup:
            self.peak_before = peak_memory()
            reset_peak_memory()

    def result(self) -> dict[str, Any]:
        in_steps = peak_memory()
        marks = self.marks[self.warmup - 1 :]
        pairs = list(zip(marks, marks[1:], strict=False))
        return {
            "seconds": [later[0] - earlier[0] for earlier, later in pairs],
            "processor_seconds": [later[1] - earlier[1] for earlier, later in pairs],
            "imported": self.imported,
            "peak": max(self.peak_before, in_steps),
            "peak_in_steps": in_steps,
        }


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


def reset_peak_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    Path("/proc/self/clear_refs").write_text("5")  # Linux, proc(5): resets VmHWM to VmRSS


def measure(contender: Contender, work: Work) -> dict[str, Any]:
    """Train with one contender; a failure is a result too."""
    result: dict[str, Any] = {"contender": CONTENDERS.index(contender)}
    trainer = {IMPASTO: train_impasto, COMFYUI: train_comfyui, DIFFUSERS: train_diffusers}[contender.trainer]
    try:
        meter, parameters = trainer(contender, work)
    except Exception as error:
        logging.exception("%s failed", contender.name)
        return result | {"failure": f"{type(error).__name__}: {' '.join(str(error).split())}"}
    return result | meter.result() | {"parameters": parameters}


def train_impasto(contender: Contender, work: Work) -> tuple[Meter, int]:
    """Our recipe as the trainer's process runs it, metrics and checkpoint included; no held-out loss, no sample."""
    import accelerate  # noqa: F401 (imported here so that it is not measured as memory that training takes)
    import diffusers.optimization  # noqa: F401
    import peft  # noqa: F401
    import torch
    from diffusers import FluxTransformer2DModel  # noqa: F401
    from impasto.trainers import features, flux_weights, recipe, runs
    from impasto.trainers.settings import Settings
    from safetensors.torch import load_file

    steps = work.warmup + work.steps
    settings = Settings(
        steps=steps,
        rank=work.rank,
        alpha=work.rank,
        targets="all linear",
        caption_dropout=0.0,
        gradient_checkpointing=contender.checkpointing,
        checkpoint_every=steps,
        sample_steps=0,
    )
    data = features.Features(str(work.features_folder), work.features_key)
    with tempfile.TemporaryDirectory(dir=work.folder) as runs_root:
        fingerprint = flux_weights.fingerprint(work.weights)
        job = runs.Job("benchmark", settings, data.folder, data.key, str(work.weights), fingerprint)
        run = runs.create_run(Path(runs_root), job)
        meter = Meter(work.warmup)

        def step_done() -> bool:  # the recipe asks after every step whether to stop
            meter.step_done()
            return False

        if not recipe.train_run(run, cpu=not torch.cuda.is_available(), stop_requested=step_done):
            raise RuntimeError(run.status()["error"])
        saved = load_file(run.checkpoints()[steps] / "adapter.safetensors")
        parameters = sum(tensor.numel() for key, tensor in saved.items() if not key.endswith(".alpha"))
    return meter, parameters


def train_diffusers(contender: Contender, work: Work) -> tuple[Meter, int]:
    """The shortest correct loop: diffusers' model and forward pass, PEFT's LoRA on the same layers, torch's AdamW."""
    import torch
    from diffusers import FluxTransformer2DModel  # noqa: F401
    from impasto.trainers import adapter, flux_weights, velocity
    from peft import LoraConfig

    meter = Meter(work.warmup)
    device, precision = ("cuda", "bf16") if torch.cuda.is_available() else ("cpu", "fp32")
    transformer = flux_weights.load_transformer(work.weights, precision, device)
    dtype = transformer.x_embedder.weight.dtype
    layers = adapter.target_modules(transformer, "all linear")
    transformer.add_adapter(LoraConfig(r=work.rank, lora_alpha=work.rank, target_modules=layers))
    parameters = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.data = parameter.data.float()
    if contender.checkpointing:
        transformer.enable_gradient_checkpointing()
    transformer.train()
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    data = [tuple(tensor.to(device) for tensor in sample) for sample in samples(work)]
    guidance = torch.ones(1, device=device)
    for step in range(work.warmup + work.steps):
        latents, t5, pooled = data[step % len(data)]
        noise = torch.randn_like(latents)
        sigma = torch.rand(1, device=device)
        noisy = (1 - sigma) * latents + sigma * noise
        rows, columns = latents.shape[-2] // 2, latents.shape[-1] // 2
        ids = velocity.position_ids(t5.shape[1], rows, columns, device)
        predicted = transformer(
            hidden_states=velocity.patchify(noisy).to(dtype),
            timestep=sigma.to(dtype),
            guidance=guidance,
            pooled_projections=pooled.to(dtype),
            encoder_hidden_states=t5.to(dtype),
            txt_ids=ids[: t5.shape[1]],
            img_ids=ids[t5.shape[1] :],
            return_dict=False,
        )[0]
        loss = torch.nn.functional.mse_loss(predicted.float(), velocity.patchify(noise - latents))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if not math.isfinite(loss.item()):
            raise RuntimeError(f"the loss is {loss.item()}")
        meter.step_done()
    return meter, sum(parameter.numel() for parameter in parameters)


def comfyui_folder() -> Path:
    return Path(os.environ.get("COMFYUI_PATH") or REPOSITORY / ".impasto" / "ComfyUI")


def import_comfyui(work: Work) -> Any:
    """ComfyUI's `comfy_extras.nodes_train`, on the CPU unless there is a CUDA device."""
    import torch

    if str(comfyui_folder()) not in sys.path:
        sys.path.insert(0, str(comfyui_folder()))
    from comfy.cli_args import args

    # Must be set before comfy.model_management and folder_paths are imported.
    args.cpu = not torch.cuda.is_available()
    args.base_directory = work.folder
    args.use_pytorch_cross_attention = work.attention == "pytorch"
    from comfy_extras import nodes_train

    return nodes_train


def train_comfyui(contender: Contender, work: Work) -> tuple[Meter, int]:
    """ComfyUI's node as its server runs it: same loader, inference mode around it, its own defaults where not named."""
    nodes_train = import_comfyui(work)
    import comfy.sd
    import torch
    from impasto.trainers.features import FLUX_LATENT_SCALE, FLUX_LATENT_SHIFT

    meter = Meter(work.warmup)

    class StepMarker:  # in the place of comfy.utils.ProgressBar, whose reports to the browser leave steps out
        def __init__(self, total: int) -> None:
            pass

        def update(self, value: int) -> None:
            meter.step_done()

    nodes_train.ProgressBar = StepMarker
    settings = {option.id: option.default for option in nodes_train.TrainLoraNode.define_schema().inputs[3:]}
    settings |= {
        "steps": work.warmup + work.steps,
        "rank": work.rank,
        "learning_rate": 1e-4,
        "training_dtype": "bf16" if torch.cuda.is_available() else "fp32",
        "lora_dtype": "fp32",
        "gradient_checkpointing": contender.checkpointing,
        "checkpoint_depth": contender.depth,
        "bypass_mode": contender.bypass,
    }
    with torch.inference_mode():  # execution.py runs every node inside it
        data = [tuple(tensor.clone() for tensor in sample) for sample in samples(work)]
        # The node gets what VAE Encode gives; ComfyUI scales it.
        latents = torch.cat([latent / FLUX_LATENT_SCALE + FLUX_LATENT_SHIFT for latent, _, _ in data])
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
    command = [sys.executable, __file__, "--measure", str(work.file)]
    command += [str(CONTENDERS.index(contender)) for contender in contenders]
    done = subprocess.run(command, capture_output=True, text=True)
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"contender"')]
    if len(results) != len(contenders):
        raise SystemExit(f"Measuring ended with status {done.returncode}:\n{done.stderr[-4000:]}")
    return results


def measured(work_file: Path, indices: Sequence[int]) -> None:
    """What a measuring process does: a line of JSON for each contender."""
    load_pack()
    work = Work(**json.loads(work_file.read_text()))
    for index in indices:
        print(json.dumps(measure(CONTENDERS[index], work)), flush=True)


@dataclass(frozen=True)
class Row:
    """All rounds of one contender: medians; `failure` says why there are none.

    Attributes:
        seconds: per step.
        processor_seconds: per step, all threads together; less disturbed by what else runs on the machine.
        peak: largest resident set (CUDA: allocation) of the process, loading included, in bytes.
        above_imports: `peak` less the resident set before the model was loaded.
        in_steps: the same for the measured steps alone.
        parameters: how many numbers are trained.
    """

    contender: Contender
    seconds: float = math.nan
    processor_seconds: float = math.nan
    peak: float = math.nan
    above_imports: float = math.nan
    in_steps: float = math.nan
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


def measurements_table(rows: Sequence[Row]) -> str:
    header = ("trainer", "checkpointing", "s/step", "CPU s/step", "peak MiB", "above imports", "in steps", "trained")
    lines = []
    for row in rows:
        cells = ["fails"] * (len(header) - 2)
        if not row.failure:
            seconds = [f"{value:.3f}" for value in (row.seconds, row.processor_seconds)]
            memory = [f"{value / MIB:,.0f}" for value in (row.peak, row.above_imports, row.in_steps)]
            cells = [*seconds, *memory, f"{row.parameters / 1e6:.2f} M"]
        lines.append((row.contender.name, row.contender.state, *cells))
    return table(header, lines)


def ratios_table(rows: Sequence[Row], cuda: bool) -> str:
    """Ours divided by the others': below 1 is better for us."""
    fields = ("seconds", "processor_seconds", "peak", "above_imports", "in_steps")
    header = ("Impasto divided by", "checkpointing", "time", "CPU time", "peak", "above imports", "in steps", "aim")
    lines = []
    for ours, other in pairs(rows):
        ratios = dict(zip(fields, (getattr(ours, field) / getattr(other, field) for field in fields), strict=True))
        time_aim, memory_aim = AIMS[other.contender.trainer]
        time_ratio = ratios["seconds" if cuda else "processor_seconds"]
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
    needs_it = {row.contender.trainer for row in rows if row.failure and not row.contender.checkpointing}
    for ours in (row for row in rows if row.contender.trainer == IMPASTO and not row.failure):
        for other in (row for row in rows if row.contender.trainer != IMPASTO and not row.failure):
            if other.contender.checkpointing == ours.contender.checkpointing or (
                other.contender.checkpointing and other.contender.trainer in needs_it
            ):
                yield ours, other


def verdict(ratio: float, aim: float) -> str:
    return f"<= {aim} {'met' if ratio <= aim else 'missed'}"


def report(work: Work, rows: Sequence[Row], parameters: int) -> str:
    import torch

    cuda = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} thread(s)"
    loads = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    lines = [
        f"{platform.platform()}, {device}, torch {torch.__version__}",
        f"Load average over the last 1, 5 and 15 minutes: {loads}",
        f"Transformer of {parameters / 1e6:.1f} M parameters: hidden size {work.hidden_size}, "
        f"{work.double_blocks} double and {work.single_blocks} single blocks",
        f"{work.resolution} px, {work.tokens} text tokens, rank {work.rank}, batch 1, {'bf16' if cuda else 'fp32'}; "
        f"ComfyUI's attention: {work.attention}",
        "",
        measurements_table(rows),
        "",
        ratios_table(rows, cuda),
    ]
    for row in rows:
        if row.failure:
            checkpointing = "with" if row.contender.checkpointing else "without"
            lines += ["", f"{row.contender.name}, {checkpointing} gradient checkpointing, fails: {row.failure}"]
    return "\n".join(lines)


def groups(quick: bool) -> list[tuple[Contender, ...]]:
    """Who is measured together in a process: each alone, but with `quick` all that import the same."""
    if not quick:
        return [(contender,) for contender in CONTENDERS]
    comfyui = tuple(contender for contender in CONTENDERS if contender.trainer == COMFYUI)
    return [tuple(contender for contender in CONTENDERS if contender not in comfyui), comfyui]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="see that it runs: tiny sizes whatever else is asked for")
    parser.add_argument("--hidden-size", type=int, default=768, help="a multiple of 128 (default: 768)")
    parser.add_argument("--double-blocks", type=int, default=4)
    parser.add_argument("--single-blocks", type=int, default=8)
    parser.add_argument("--resolution", type=int, default=256, help="side of the pictures in pixels (default: 256)")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--steps", type=int, default=6, help="measured steps per process (default: 6)")
    parser.add_argument("--warmup", type=int, default=2, help="steps per process before them (default: 2)")
    parser.add_argument("--rounds", type=int, default=3, help="processes per contender (default: 3)")
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU (default: 1)")
    parser.add_argument("--attention", choices=("pytorch", "default"), default="pytorch", help="ComfyUI's attention")
    parser.add_argument("--json", type=Path, help="also write every measurement here")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measured(Path(arguments.measure[0]), [int(index) for index in arguments.measure[1:]])
        return 0
    if not Path("/proc/self/clear_refs").exists():
        parser.error("this benchmark reads memory from /proc, which only Linux has")
    if not (comfyui_folder() / "comfy_extras" / "nodes_train.py").is_file():
        parser.error(f"there is no ComfyUI in {comfyui_folder()}: run ./quickstart.sh, or set COMFYUI_PATH")
    # Before torch is imported, here and in the measuring processes.
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    with tempfile.TemporaryDirectory(prefix="impasto-benchmark-") as folder:
        print(benchmark(arguments, folder))
    return 0


def benchmark(arguments: argparse.Namespace, folder: str) -> str:
    quick = arguments.quick
    load_pack()
    work = prepare(
        Work(
            folder=folder,
            hidden_size=128 if quick else arguments.hidden_size,
            double_blocks=1 if quick else arguments.double_blocks,
            single_blocks=1 if quick else arguments.single_blocks,
            context_width=64 if quick else 4096,
            resolution=64 if quick else arguments.resolution,
            tokens=16 if quick else 256,
            rank=arguments.rank,
            warmup=1 if quick else arguments.warmup,
            steps=2 if quick else arguments.steps,
            attention=arguments.attention,
        )
    )
    from impasto.trainers import flux_weights

    parameters = flux_weights.inspect(work.weights).parameters
    results: list[dict[str, Any]] = []
    turns = groups(quick)
    for turn in range(1 if quick else arguments.rounds):
        for group in turns[turn % len(turns) :] + turns[: turn % len(turns)]:
            results += run_in_child(group, work)
            for result in results[-len(group) :]:
                contender = CONTENDERS[result["contender"]]
                seconds = f"{statistics.median(result['seconds']):.3f} s/step" if "seconds" in result else "fails"
                print(f"round {turn + 1}: {contender.name}: {seconds}", file=sys.stderr, flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))
    by_contender = [[result for result in results if result["contender"] == index] for index in range(len(CONTENDERS))]
    rows = [summarise(contender, found) for contender, found in zip(CONTENDERS, by_contender, strict=True)]
    return report(work, rows, parameters)


if __name__ == "__main__":
    sys.exit(main())
