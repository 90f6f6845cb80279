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
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from full_size import DEV_BLOCKS, DEV_WIDTH, load_pack
from step_report import machine, report, summarise, table
from step_trainers import comfyui_folder, measure
from step_work import (
    ALTERNATIVES,
    COMFYUI,
    IMPASTO,
    PICTURES,
    RATE_SIZES,
    SETS,
    Contender,
    Work,
    matmul_rate,
    with_features,
    write_weights,
)


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
