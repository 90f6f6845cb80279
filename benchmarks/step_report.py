"""What the benchmark of a training step tells: medians of the rounds, and ratios beside what is aimed at."""

from __future__ import annotations

import math
import os
import platform
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from step_work import ALTERNATIVES, COMFYUI, DIFFUSERS, IMPASTO, Contender, Work, step_flops

MIB = 2**20
PAGE = 4096  # bytes; what the kernel counts in, and the least that a ratio is made with
AIMS = {COMFYUI: (0.6, 0.5), DIFFUSERS: (1.05, 1.05)}  # at most this ratio in time and in memory
NO_COMPILER = "torch.compile does not work here"  # how the recipe's error begins


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
