"""Host memory and time to load a FLUX.1-dev in NF4 and to train one step on it, beside diffusers and bitsandbytes.

    .impasto/venv/bin/python benchmarks/full_size.py                about half an hour, 24 GB of disk, 9 GB of memory
    .impasto/venv/bin/python benchmarks/full_size.py --blocks 2 4   the same width with fewer blocks
    .impasto/venv/bin/python benchmarks/full_size.py --processes 2  also with the base sharded over two processes
    .impasto/venv/bin/python benchmarks/full_size.py --quick        under a minute; shows that it runs, measures nothing

A file of random bfloat16 weights is written, loaded by a process of its own on the CPU, trained on for one step and
removed. Counted is anonymous memory, which a process must have for itself; the pages of a file that it has mapped are
the system's to drop. The alternative, diffusers' `from_single_file` followed by bitsandbytes' `Linear4bit` layer by
layer (diffusers itself refuses to quantise without a GPU), is measured on two smaller files, because the large one
might not fit, and drawn out to the large one by a straight line. Linux only: memory is read from /proc.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
GB = 10**9
SAMPLED_EVERY = 0.005  # seconds
DEV_BLOCKS, DEV_WIDTH, T5_WIDTH, CLIP_WIDTH = (19, 38), 3072, 4096, 768
PEER_BLOCKS = ((1, 1), (2, 4))  # the two smaller files
POOL = 2**24  # random numbers that all weights are taken from, each from a place of its own
IMPASTO, SHARDED, PEER = "Impasto", "Impasto, sharded, each process", "diffusers + Linear4bit"
LOAD_AIM, STEP_AIM = 8.5 * GB, 12 * GB


@dataclass(frozen=True)
class Work:
    """What a measuring process is asked to do.

    Attributes:
        loader: `IMPASTO`, `SHARDED` or `PEER`.
        weights: the file to load.
        config: folder of the transformer's diffusers config.
        train: train one step after loading.
        resolution: side of the square picture, in pixels.
        tokens: length of the T5 embeddings.
        rank: of the LoRA.
        processes: that the base is sharded over by `SHARDED`; the first of them is measured.
    """

    loader: str
    weights: str
    config: str
    train: bool
    resolution: int
    tokens: int
    rank: int
    processes: int = 1


# ---- The file -----------------------------------------------------------------------------------------------------


def load_pack() -> None:
    """Make the repository importable as `impasto`, whatever its folder is called."""
    spec = importlib.util.spec_from_file_location(
        "impasto", REPOSITORY / "__init__.py", submodule_search_locations=[str(REPOSITORY)]
    )
    package = importlib.util.module_from_spec(spec)
    sys.modules["impasto"] = package
    spec.loader.exec_module(package)


def architecture(width: int, blocks: tuple[int, int]) -> Any:
    """A FLUX.1-dev of this width and depth."""
    from impasto.trainers.flux.layout import HEAD_WIDTH, FluxArchitecture

    double, single = blocks
    return FluxArchitecture(width, width // HEAD_WIDTH, double, single, T5_WIDTH, CLIP_WIDTH, 64, True, "", 0)


def write_random(path: Path, flux: Any) -> int:
    """Write every tensor of `flux` in bfloat16, a piece at a time; returns the file's size in bytes.

    Matrices have a standard deviation of 1 / sqrt(inputs), so that the velocity is of ordinary size.
    """
    import torch
    from impasto.trainers.flux.layout import layout

    sources, entries, end = layout(flux), {}, 0
    for source in sources:
        start, end = end, end + 2 * torch.Size(source.shape).numel()
        entries[source.key] = {"dtype": "BF16", "shape": list(source.shape), "data_offsets": [start, end]}
    header = json.dumps(entries).encode()
    random = torch.Generator().manual_seed(0)
    pool = torch.randn(POOL, generator=random)
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for source in sources:
            left, matrix = torch.Size(source.shape).numel(), len(source.shape) == 2
            while left:
                start = int(torch.randint(POOL // 2, (), generator=random))
                piece = pool[start : start + left] * (source.shape[1] ** -0.5 if matrix else 0.2)
                piece = piece + 1 if source.key.endswith("norm.scale") else piece
                file.write(piece.bfloat16().view(torch.int16).numpy())
                left -= len(piece)
    return path.stat().st_size


def refuse_what_does_not_fit(folder: Path, flux: Any, processes: int) -> None:
    from impasto.trainers.flux.loading import weight_sizes

    free, needed = shutil.disk_usage(folder).free, sum(weight_sizes(flux, "bf16").values()) + 2 * GB
    if free < needed:
        sys.exit(f"{folder} has {free / GB:.1f} GB free, the file needs {needed / GB:.1f}. Choose another --folder.")
    lines = Path("/proc/meminfo").read_text().splitlines()
    memory = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    needed = sum(weight_sizes(flux, "nf4").values()) + 3 * GB * processes
    if memory < needed:
        sys.exit(
            f"{memory / GB:.1f} GB of memory are free, the model needs about {needed / GB:.1f}. Use fewer --blocks."
        )


# ---- Measuring, in a process of its own ---------------------------------------------------------------------------


@contextlib.contextmanager
def watched(result: dict[str, float]) -> Iterator[None]:
    """Put into `result` the largest anonymous memory (bytes) meanwhile, and the seconds by clock and by processor."""
    done = threading.Event()
    peak = anonymous_memory()

    def watch() -> None:
        nonlocal peak
        while not done.wait(SAMPLED_EVERY):
            peak = max(peak, anonymous_memory())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    clock, processor = time.perf_counter(), time.process_time()
    yield
    result["seconds"], result["cpu_seconds"] = time.perf_counter() - clock, time.process_time() - processor
    done.set()
    watcher.join()
    result["peak"], result["after"] = peak, anonymous_memory()


def anonymous_memory() -> int:
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))


def measured(work: Work) -> dict[str, Any]:
    load_pack()
    import bitsandbytes  # noqa: F401 (imports are not measured)
    import torch
    from diffusers import FluxTransformer2DModel  # noqa: F401
    from impasto.trainers import recipe  # noqa: F401
    from impasto.trainers.flux import loading, sharding

    # One block at a time is read and quantised by every process, and then split.
    mesh = sharding.make_mesh(torch.device("cpu"), work.processes) if work.loader == SHARDED else None
    shard = mesh and partial(sharding.shard, mesh=mesh)
    load: dict[str, float] = {"before": anonymous_memory()}
    with watched(load):
        peer = work.loader == PEER
        transformer = load_peer(work) if peer else loading.load_transformer(work.weights, "nf4", shard=shard)
    if not work.train:
        return {"load": load}
    step: dict[str, float] = {}
    with watched(step):
        trained = train_step(transformer, work, mesh)
    return {"load": load, "step": step | trained, "threads": torch.get_num_threads()}


def load_peer(work: Work) -> Any:
    """The shortest way with the public tools; the same layers are quantised as by ours."""
    import torch
    from bitsandbytes.nn import Linear4bit, Params4bit
    from diffusers import FluxTransformer2DModel

    transformer = FluxTransformer2DModel.from_single_file(
        work.weights, config=work.config, torch_dtype=torch.bfloat16, local_files_only=True
    )
    for name, module in list(transformer.named_modules()):
        if type(module) is torch.nn.Linear and "transformer_blocks." in name:
            layer = Linear4bit(
                *(module.in_features, module.out_features, module.bias is not None),
                **{"compute_dtype": torch.bfloat16, "quant_type": "nf4", "device": "meta"},
            )
            layer.weight = Params4bit(module.weight.data, requires_grad=False, quant_type="nf4", module=layer)
            layer.bias = module.bias
            parent, _, child = name.rpartition(".")
            setattr(transformer.get_submodule(parent), child, layer.to("cpu"))
    return transformer


def train_step(transformer: Any, work: Work, mesh: Any) -> dict[str, float]:
    """One step of a LoRA on the attention layers, with gradient checkpointing."""
    import torch
    from impasto.trainers import objective
    from impasto.trainers.flux import sharding
    from impasto.trainers.lora import adapter
    from impasto.trainers.lora.targets import LoraShape
    from impasto.trainers.settings import Settings
    from impasto.trainers.step import VelocityModel

    transformer.train()
    parameters = adapter.add_lora(transformer, LoraShape(work.rank, float(work.rank), "attention"), seed=0)
    model = VelocityModel(transformer, Settings(guidance=1.0, gradient_checkpointing=True), None)
    if mesh:
        sharding.as_root(model, mesh)
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    random, side = torch.Generator().manual_seed(0), work.resolution // 8
    latents, noise = (torch.randn(1, 16, side, side, generator=random) for _ in range(2))
    t5, pooled = torch.randn(1, work.tokens, T5_WIDTH, generator=random), torch.randn(1, CLIP_WIDTH, generator=random)
    sigma = torch.tensor([0.5])
    noisy = objective.noisy_latents(latents, noise, sigma)
    loss = objective.velocity_loss(model(noisy, sigma, t5, pooled), latents, noise)
    loss.backward()
    optimizer.step()
    moved = sum(bool(b.any()) for b in parameters[1::2])
    if not loss.isfinite() or moved < len(parameters) // 2:
        raise RuntimeError(f"The step went wrong: loss {loss.item()}, {moved} of {len(parameters) // 2} layers learnt.")
    return {"loss": loss.item(), "trained": sum(parameter.numel() for parameter in parameters)}


def in_child(work: Work) -> dict[str, Any]:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(work.processes)]
    launcher = [sys.executable, *(torchrun if work.loader == SHARDED else [])]
    command = [*launcher, __file__, "--measure", json.dumps(asdict(work))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"{work.loader} failed with {done.returncode}; what it said is above.")
    return json.loads(done.stdout.splitlines()[-1])


# ---- The report ---------------------------------------------------------------------------------------------------


def run(arguments: argparse.Namespace, folder: Path) -> str:
    width = 128 if arguments.quick else arguments.hidden_size
    blocks = (1, 1) if arguments.quick else tuple(arguments.blocks)
    resolution, tokens = (64, 16) if arguments.quick else (arguments.resolution, arguments.tokens)
    # diffusers reads single files of FLUX.1's own width only.
    sizes = [*(PEER_BLOCKS if width == DEV_WIDTH and not arguments.no_peer else ()), blocks]
    rows, points = [], []
    from impasto.trainers.flux.loading import empty_transformer

    for size in sizes:
        flux, weights = architecture(width, size), folder / "flux.safetensors"
        refuse_what_does_not_fit(folder, flux, arguments.processes)
        if size is not sizes[-1]:
            empty_transformer(flux).save_config(folder)  # which the alternative asks for
        started = time.perf_counter()
        stored = write_random(weights, flux)
        print(f"wrote {stored / GB:.2f} GB in {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
        last = (IMPASTO, SHARDED) if arguments.processes > 1 else (IMPASTO,)
        for loader in last if size is sizes[-1] else (IMPASTO, PEER):
            shape = resolution, tokens, arguments.rank
            work = Work(loader, str(weights), str(folder), size is sizes[-1], *shape, arguments.processes)
            result = in_child(work)
            rows.append((loader, size, stored, result))
            print(f"{loader}, {size}: {json.dumps(result)}", file=sys.stderr, flush=True)
            if loader == PEER:
                points.append((stored, result["load"]["peak"]))
        weights.unlink()
    return report(rows, points, width, resolution, tokens, arguments.rank)


def report(
    rows: list[tuple[str, tuple[int, int], int, dict[str, Any]]],
    points: list[tuple[int, float]],
    width: int,
    resolution: int,
    tokens: int,
    rank: int,
) -> str:
    import torch

    load_average = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    blocks, stored, last = next(row[1:] for row in reversed(rows) if row[0] == IMPASTO)
    lines = [
        f"{platform.platform(terse=True)} {platform.machine()}, CPU, {last['threads']} thread(s), "
        f"torch {torch.__version__}  ",
        f"Load average over the last 1, 5 and 15 minutes: {load_average}  ",
        f"Hidden size {width}; one step: {resolution} px, {tokens} text tokens, rank {rank}, attention, batch 1",
        "",
        row("loading in NF4", "blocks", "file GB", "peak GB", "of file", "kept GB", "seconds", "CPU s"),
        row("---", *["---:"] * 7),
    ]
    for loader, (double, single), size, result in rows:
        load = result["load"]
        gigabytes = (f"{number:.2f}" for number in (size / GB, load["peak"] / GB, load["peak"] / size))
        seconds = (f"{load[name]:.0f}" for name in ("seconds", "cpu_seconds"))
        lines.append(row(loader, f"{double} + {single}", *gigabytes, f"{load['after'] / GB:.2f}", *seconds))
    peak = last["load"]["peak"]
    if len(points) == 2:
        (x1, y1), (x2, y2) = points
        line = y1 + (y2 - y1) / (x2 - x1) * (stored - x1)
        cells = f"{stored / GB:.2f}", f"{line / GB:.2f}", f"{line / stored:.2f}", "-", "-", "-"
        lines.append(row(f"{PEER}, by a line", f"{blocks[0]} + {blocks[1]}", *cells))
        lines += ["", f"Ours takes {peak / line:.2f} of that peak."]
    step = last["step"]
    if rows[-1][0] == SHARDED:
        load, sharded_step = rows[-1][-1]["load"], rows[-1][-1]["step"]
        lines += [
            "",
            f"Sharded, each process takes {load['peak'] / peak:.2f} of that to load, and for the step "
            f"{sharded_step['peak'] / GB:.2f} GB, {sharded_step['peak'] / step['peak']:.2f} of one process's.",
        ]
    lines += [
        "",
        f"Of each peak, the imported libraries are {last['load']['before'] / GB:.2f} GB.",
        f"One training step: peak {step['peak'] / GB:.2f} GB, {step['seconds']:.1f} s by the clock, "
        f"{step['cpu_seconds']:.1f} s of processor time, {step['trained'] / 1e6:.1f} M parameters trained, "
        f"loss {step['loss']:.3f}.",
        f"Aims: loading under {LOAD_AIM / GB:g} GB {verdict(peak < LOAD_AIM)}, "
        f"the step under {STEP_AIM / GB:g} GB {verdict(step['peak'] < STEP_AIM)}.",
    ]
    return "\n".join(lines)


def row(name: str, *cells: str) -> str:
    return f"| {name:<33} | {' | '.join(f'{cell:>7}' for cell in cells)} |"


def verdict(met: bool) -> str:
    return "met" if met else "missed"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, nargs=2, default=DEV_BLOCKS, metavar=("DOUBLE", "SINGLE"))
    parser.add_argument("--hidden-size", type=int, default=DEV_WIDTH, help="a multiple of 128")
    parser.add_argument("--resolution", type=int, default=256, help="of the step, in pixels")
    parser.add_argument("--tokens", type=int, default=256, help="of T5")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--processes", type=int, default=1, help="shard the base over so many, too")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch (default: all)")
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()), help="where the file goes meanwhile"
    )
    parser.add_argument("--no-peer", action="store_true", help="leave out the alternative")
    parser.add_argument("--quick", action="store_true", help="a tiny model: shows that it runs, measures nothing")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        result = measured(Work(**json.loads(arguments.measure)))
        if os.environ.get("RANK", "0") == "0":
            print(json.dumps(result))
        return 0
    if not Path("/proc/self/status").exists():
        parser.error("this benchmark reads memory from /proc, which only Linux has")
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # before torch is imported, here and in the children
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # on a busy machine, waiting threads would burn its time
    # What is freed goes back to the system; glibc would keep some of it, more or less by the order of sizes.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(2**20)
    os.environ["HF_HUB_OFFLINE"] = "1"
    load_pack()
    with tempfile.TemporaryDirectory(prefix="impasto-full-size-", dir=arguments.folder) as folder:
        print(run(arguments, Path(folder)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
