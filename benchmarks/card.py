"""Everything that only a card can show, in the order of its value, within some minutes.

    python benchmarks/card.py --minutes 8               on a machine with a CUDA device
    python benchmarks/card.py --parts step products     some of it
    python benchmarks/card.py --pretend                 every line of it on the CPU, with a tiny model
    python benchmarks/card.py --table results.jsonl     the table of what was measured before

Each result is a line of JSON in the file named by --results the moment it is known; the table comes at the end, or at
the cut. A part is a process of its own: one that fails, hangs or loses the device costs itself alone, and its traceback
is in the file. While it runs, the next one already imports. Weights of FLUX.1-dev's size are drawn on the card, in the
layout that the loader reads: nothing is written but the results, and nothing is ever downloaded. What is missing is
said at the start. RESULTS.md says how to bring it to a machine without internet.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import importlib.util
import json
import logging
import math
import os
import signal
import subprocess
import sys
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from full_size import DEV_BLOCKS, DEV_WIDTH, REPOSITORY, architecture, load_pack
from train_step import (
    RATE_SIZES,
    bare_loop,
    machine,
    matmul_rate,
    peak_memory,
    product_flops,
    reserved_memory,
    reset_peak_memory,
    simulate_card,
    table,
)

BROUGHT = REPOSITORY / ".card" / "packages"  # unpacked from the zip that `card_kit.py` makes: what the machine lacks
RESULTS = REPOSITORY / "card-results.jsonl"
GIB = 2**30
RANK = 16
SIDES = (1024, 512)  # pixels
TOKENS = 512  # of T5
WARM_UP = 3  # steps that are not measured
LEAST = 3  # steps that are measured, however long they take
AHEAD = 10  # steps that the host may run ahead of the card
MEASURED = 4.0  # seconds of steps that are measured, at most
GRACE = 5.0  # seconds that a part has to end by itself before it is killed
WASTES = 5
NO_CARD = "there is no CUDA device"  # why the tests are skipped that wait for one
# What kernels that do the work are called; the rest of a profile is what could be left out.
WORK = ("gemm", "cutlass", "nvjet", "xmma", "::mm", "addmm", "_mm", "bmm", "flash", "fmha", "attention", "sdpa")
NEEDED = {
    "torch": "everything",
    "accelerate": "everything",
    "diffusers": "everything but the rates of matrix products",
    "peft": "everything but the rates of matrix products",
    "bitsandbytes": "nf4 and the presets, whose optimiser is adamw8bit",
    "pytest": "the tests that wait for a card",
}
# (part, what is measured) -> the name of the number, whether it shall be at least or at most, and the aim. RESULTS.md
# keeps them beside the results. Steps per second are those of an H200.
AIMS: dict[tuple[str, str], tuple[str, str, float]] = {
    ("step", "Impasto, bf16, 1024 px"): ("steps_per_second", ">=", 3.0),
    ("compiled", "Impasto, bf16, compiled, 1024 px"): ("steps_per_second", ">=", 3.0),
    ("products", "Impasto, int8 products, compiled, 1024 px"): ("steps_per_second", ">=", 4.0),
    ("products", "Impasto, fp8 products, compiled, 1024 px"): ("steps_per_second", ">=", 4.0),
    ("step", "Impasto, bf16, 512 px"): ("steps_per_second", ">=", 11.0),
    ("compiled", "Impasto, bf16, compiled, 512 px"): ("steps_per_second", ">=", 11.0),
    ("presets", "8 GB, time to no streaming"): ("ratio", "<=", 1.3),
}
PLANNED_WITHIN = 0.05  # of what the process takes of the card at most, its context aside


@dataclass(frozen=True)
class Part:
    """One process of measurements.

    Attributes:
        name: of the part.
        seconds: its share of the time, relative to the others'.
        measure: what it does.
        ready: what needs no card, done while the part before it is still measuring.
        needs: packages without which it is left out.
    """

    name: str
    seconds: float
    measure: Callable[[Bench], None]
    ready: Callable[[Bench], None] = lambda bench: bench.plan_ahead()
    needs: tuple[str, ...] = ("diffusers", "peft", "accelerate")


# ---- The results --------------------------------------------------------------------------------------------------


def append(results: Path, record: dict[str, Any]) -> None:
    """Write one line, so that it is on disk whatever comes next."""
    with open(results, "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read(results: Path) -> list[dict[str, Any]]:
    """Every whole line; a process that was killed may have left a torn one."""
    found = []
    for line in results.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


def report(records: Sequence[dict[str, Any]]) -> str:
    """Markdown: what was measured beside the aims, then what failed or was left out."""
    header = ("part", "measured", "s/step", "steps/s", "of matmul", "peak GB", "reserved GB", "taken GB", "planned GB")
    header += ("aim",)
    lines, others, failures = [], [], []
    for record in records:
        where = f"{record['part']}: {record['what']}"
        if "failure" in record:
            said = record["failure"].strip() or "without a word"
            failures.append(f"{where} failed: {said.splitlines()[-1]}")
        elif "seconds_per_step" in record:
            share = record.get("of_matmul")
            memory = [record.get(name) for name in ("peak", "reserved", "taken", "planned")]
            lines.append(
                (
                    record["part"],
                    record["what"],
                    f"{record['seconds_per_step']:.4f}",
                    f"{record['steps_per_second']:.2f}",
                    f"{share:.1%}" if share else "-",
                    *(f"{size / GIB:.2f}" if size else "-" for size in memory),
                    verdict(record),
                )
            )
        else:
            known = {name: value for name, value in record.items() if name not in ("part", "what")}
            aim = verdict(record)
            others.append(f"{where}: {json.dumps(known)}{f' (aim: {aim})' if aim else ''}")
    told = [table(header, lines)] if lines else []
    return "\n\n".join([*told, "\n".join(others), "\n".join(failures)]).strip()


def verdict(record: dict[str, Any]) -> str:
    """What was aimed at and whether it was reached; "" where nothing was."""
    said = []
    name, sign, aim = AIMS.get((record["part"], record["what"]), ("", "", math.nan))
    if name in record:
        met = record[name] >= aim if sign == ">=" else record[name] <= aim
        said.append(f"{name.replace('_', ' ')} {sign} {aim:g} {'met' if met else 'missed'}")
    if record.get("planned") and record.get("taken"):
        off = record["planned"] / record["taken"] - 1
        said.append(
            f"plan within {PLANNED_WITHIN:.0%} {'met' if abs(off) <= PLANNED_WITHIN else f'missed ({off:+.0%})'}"
        )
    return ", ".join(said)


# ---- What a part measures with ------------------------------------------------------------------------------------


class Bench:
    """A part at work: its model, its clock, and where its results go.

    Args:
        part: name of the part.
        results: the file.
        pretend: a tiny model on the CPU.
    """

    def __init__(self, part: str, results: Path, pretend: bool) -> None:
        import torch

        self.part, self.results, self.pretend = part, results, pretend
        self.deadline = math.inf  # by `time.monotonic`
        self.free_before = 0
        self.device = torch.device("cpu" if pretend else "cuda")
        width, blocks = (128, (1, 1)) if pretend else (DEV_WIDTH, DEV_BLOCKS)
        flux = architecture(width, blocks)
        self.flux = dataclasses.replace(flux, context_width=64, pooled_width=32) if pretend else flux
        self.tokens = 32 if pretend else TOKENS

    def begin(self, seconds: float) -> None:
        """Start the clock, and note what is free of the card; it is touched here for the first time."""
        self.deadline = time.monotonic() + seconds
        self.free_before = self.free()

    def free(self) -> int:
        """Bytes that the driver says are free; 0 on the CPU."""
        import torch

        return torch.cuda.mem_get_info()[0] if self.device.type == "cuda" else 0

    def pixels(self, side: int) -> int:
        """What a side of a picture really is; it is called the same where it is pretended."""
        return side // 16 if self.pretend else side

    def settings(self, **changes: Any) -> Any:
        """Of a run that trains every linear layer, as the bare loop does, nothing recomputed."""
        from impasto.trainers.settings import Settings

        usual = {"rank": RANK, "alpha": float(RANK), "targets": "all linear", "precision": "bf16"}
        return Settings(**usual | {"gradient_checkpointing": False} | changes)

    def record(self, what: str, **found: Any) -> None:
        append(self.results, {"part": self.part, "what": what, **found})

    def attempt(self, what: str, measure: Callable[[], dict[str, Any] | None]) -> dict[str, Any]:
        """Measure and write down what was found; what fails is written down too, and costs itself alone."""
        if time.monotonic() > self.deadline:
            self.record(what, failure="There was no time left for it")
            return {}
        found: dict[str, Any] = {}
        try:
            found = measure() or {}
            if found:
                self.record(what, **found)
        except Exception:  # whatever it is, the next measurement may do
            self.record(what, failure=traceback.format_exc())
        self.forget()
        return found

    def forget(self) -> None:
        """Give back what a measurement left; a model that is still referred to stays."""
        import torch

        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def weights(self) -> Iterator[tuple[str, Any]]:
        """Weights in the layout that the loader reads, drawn on the device, a tensor at a time."""
        import torch
        from impasto.trainers.flux.layout import layout
        from impasto.trainers.flux.loading import StoredWeight, divided

        torch.manual_seed(0)
        for source in layout(self.flux):
            drawn = torch.empty(source.shape, dtype=torch.bfloat16, device=self.device)
            # As full_size.write_random: matrices keep the size of what they multiply.
            drawn.normal_(0, source.shape[1] ** -0.5 if drawn.ndim == 2 else 0.2)
            if source.key.endswith("norm.scale"):
                drawn += 1
            for name, tensor in divided(source, drawn):
                yield name, StoredWeight(tensor, None)

    def transformer(self, precision: str, streamed: Sequence[int] = ()) -> Any:
        from impasto.trainers.flux.loading import assemble
        from impasto.trainers.flux.streaming import block_names

        host = block_names(self.flux, streamed)
        return assemble(self.flux, self.weights(), precision, in_host_memory=host, called="drawn")

    def learner(self, settings: Any) -> Any:
        """Our model, LoRA and optimiser as a run makes them; see `Learning`."""
        from accelerate import Accelerator
        from impasto.trainers.flux.streaming import streamed_indices
        from impasto.trainers.step import make_learner

        streamed = streamed_indices(self.flux.blocks, settings.streamed_blocks)
        transformer = self.transformer(settings.precision, streamed)
        accelerator = Accelerator(cpu=self.pretend, mixed_precision="no")
        compiler = "eager" if self.pretend else "inductor"
        learner = make_learner(transformer, settings, accelerator, self.device, streamed, compiler=compiler)
        learner.prepare()
        learner.train()
        return learner

    def batch(self, side: int | tuple[int, int], tokens: int = 0, batch: int = 1, pinned: bool = True) -> Any:
        """Random numbers of the shapes that are trained on, where the trainer's loader keeps them."""
        import torch
        from impasto.trainers.batches import Batch

        width, height = (self.pixels(length) // 8 for length in ((side, side) if isinstance(side, int) else side))
        latents, noise = torch.randn(batch, 16, height, width), torch.randn(batch, 16, height, width)
        t5 = torch.randn(batch, tokens or self.tokens, self.flux.context_width)
        made = Batch(latents, noise, torch.full((batch,), 0.5), t5, torch.randn(batch, self.flux.pooled_width))
        return made.pinned() if pinned and not self.pretend else made

    def timed(self, step: Callable[[], Any]) -> dict[str, Any]:
        """Seconds per step and peak memory, once warm; `step` returns the loss, on the device."""
        began = time.perf_counter()
        loss = float(step())
        first = time.perf_counter() - began
        for _ in range(0 if self.pretend else WARM_UP - 1):
            step()
        self.wait()
        reset_peak_memory()
        began, steps = time.perf_counter(), 0
        while steps < (1 if self.pretend else LEAST) or (time.perf_counter() - began < MEASURED and not self.pretend):
            loss = step()
            steps += 1
            if steps % AHEAD == 0:  # or the host would queue more than the time that is left
                self.wait()
        self.wait()
        seconds = (time.perf_counter() - began) / steps
        if not math.isfinite(loss := float(loss)):
            raise RuntimeError(f"the loss is {loss}")
        return {
            "seconds_per_step": seconds,
            "steps_per_second": 1 / seconds,
            "steps": steps,
            "first_step": first,
            "peak": peak_memory(),
            "reserved": reserved_memory(),
            "taken": self.free_before - self.free(),
            "loss": loss,
        }

    def wait(self) -> None:
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def trained(self, learner: Any, side: int | tuple[int, int], tokens: int = 0, batch: int = 1) -> dict[str, Any]:
        """Our step, beside what was planned for it and what the card could do at its own rate."""
        import torch

        made = self.batch(side, tokens, batch)
        if learner.settings.compile:
            torch.compiler.reset()  # or a second size would be computed by graphs for any size

        def step() -> Any:
            loss, _ = learner.add_gradients([made], positions=[0])
            learner.apply_gradients()
            return loss

        found = self.timed(step)
        return found | self.compared(found, made) | {"planned": self.planned(learner.settings, made)}

    def compared(self, found: dict[str, Any], made: Any) -> dict[str, Any]:
        """The share of the card's own rate for large products in bfloat16."""
        height, width = (8 * length for length in made.latents.shape[-2:])
        flops = _flops(self.flux, width, height, len(made.latents), made.t5.shape[1])
        return {"teraflop": flops / 1e12, "of_matmul": flops / found["seconds_per_step"] / self.rate()}

    def rate(self) -> float:
        """The card's rate for large products, measured once in each process."""
        return _rate("quick" if self.pretend else "cuda")

    def planned(self, settings: Any, made: Any) -> int:
        from impasto.trainers.memory.block_profile import BatchShape
        from impasto.trainers.memory.estimate import Budget, plan

        height, width = (8 * length for length in made.latents.shape[-2:])
        shape = BatchShape(width, height, len(made.latents), made.t5.shape[1])
        return plan(settings, Budget(self.flux, (shape,), self.device.type, None)).peak

    def plan_ahead(self) -> None:
        """Count and plan what most parts will ask for, which takes the processor some seconds and no card."""
        for side in SIDES:
            made = self.batch(side, pinned=False)
            _flops(self.flux, self.pixels(side), self.pixels(side), 1, self.tokens)
            for precision in ("bf16", "int8"):
                for checkpointing in (False, True):
                    self.planned(self.settings(precision=precision, gradient_checkpointing=checkpointing), made)


class Learning:
    """A learner that is made when it is first asked for, so that a failure is that measurement's; and let go of."""

    def __init__(self, bench: Bench, settings: Any) -> None:
        self.bench, self.settings, self.learner = bench, settings, None

    def __enter__(self) -> Learning:
        return self

    def __call__(self, checkpointing: bool | None = None) -> Any:
        """The learner; with or without gradient checkpointing, where that is said."""
        self.learner = self.learner or self.bench.learner(self.settings)
        if checkpointing is not None:
            changed = dataclasses.replace(self.learner.settings, gradient_checkpointing=checkpointing)
            self.learner.settings = changed
            self.learner.model.options["checkpointing"] = checkpointing
        return self.learner

    def __exit__(self, *_: object) -> None:
        import torch

        if self.learner and (ring := self.learner.model.options["streamed"]):
            ring.close()  # or its host memory would stay locked
        self.learner = None
        torch.compiler.reset()  # whose graphs may refer to it
        self.bench.forget()


_flops = cache(product_flops)


@cache
def _rate(size: str) -> float:
    side, repeats = RATE_SIZES[size]
    return matmul_rate(side, min(repeats, 200))


# ---- The parts ----------------------------------------------------------------------------------------------------


class _Reported:
    """pytest's plugin that writes down each test once it is over, and leaves out those that need no card."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        marks = {item: [mark.kwargs.get("reason") for mark in item.iter_markers("skipif")] for item in items}
        needing = [item for item in items if NO_CARD in marks[item]]
        without = [item for item in items if "notices" in item.name]
        chosen = without if self.bench.pretend else needing
        items[:] = sorted(chosen, key=lambda item: "compiled=True" in _parameters(item))  # which takes longest

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            failure = {"failure": str(report.longrepr)} if report.outcome != "passed" else {}
            name = report.nodeid.partition("::")[2] or report.nodeid
            if report.when != "teardown" or failure:
                self.bench.record(name, outcome=report.outcome, seconds=round(report.duration, 2), **failure)


def _parameters(item: Any) -> str:
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    return " ".join(f"{name}={value}" for name, value in parameters.items())


def tests(bench: Bench) -> None:
    """The tests that wait for a card."""
    import pytest

    module = REPOSITORY / "tests" / "trainers" / "test_on_a_card.py"
    status = int(pytest.main([str(module), "-q", "-p", "no:cacheprovider"], plugins=[_Reported(bench)]))
    if status not in (0, 1):  # tests that failed have told so
        raise RuntimeError(f"pytest ended with status {status}; what it said is in the log")


def rates(bench: Bench) -> None:
    """Of large products, in each precision that the card multiplies in."""
    bench.attempt("products in bf16", lambda: {"teraflops": bench.rate() / 1e12})
    for precision in ("int8", "fp8"):
        bench.attempt(f"products in {precision}", lambda name=precision: eight_bit_rate(bench, name))


def eight_bit_rate(bench: Bench, precision: str) -> dict[str, Any]:
    """Quantising included or not, and with the right side row by row, which our layers turn around first."""
    import torch
    from impasto.trainers.flux import products

    side, repeats = (128, 2) if bench.pretend else (8192, 100)
    if not products.available(precision, bench.device):
        return {"available": False}
    left = torch.randn(side, side, device=bench.device).bfloat16()
    values, scale = products.quantise_rows(precision, left)
    columns = scale.flatten()

    def rate(run: Callable[[], Any]) -> float:
        run()
        bench.wait()
        began = time.perf_counter()
        for _ in range(repeats):
            run()
        bench.wait()
        return 2 * side**3 * repeats / (time.perf_counter() - began) / 1e12

    found = {"with_quantising": rate(lambda: products.multiply(precision, left, values.t(), columns, torch.bfloat16))}
    if precision == "int8":
        found["alone"] = rate(lambda: torch._int_mm(values, values.t()))
        found["alone_by_rows"] = rate(lambda: torch._int_mm(values, values))
    return {"available": True, "teraops": found}


def plain_steps(bench: Bench) -> None:
    """bf16 without and with checkpointing, and the bare loop beside it."""
    with Learning(bench, bench.settings()) as ours:
        for checkpointing, side, name in bf16_cells():
            bench.attempt(f"Impasto, {name}", lambda on=checkpointing, side=side: bench.trained(ours(on), side))
    for wanted in (False, True):
        bare: dict[str, Callable[..., Any]] = {}
        for checkpointing, side, name in bf16_cells():
            if checkpointing == wanted:
                bench.attempt(
                    f"diffusers + PEFT, {name}",
                    lambda on=wanted, side=side, bare=bare: bare_step(bench, bare, on, side),
                )


def bf16_cells(compiled: str = "") -> list[tuple[bool, int, str]]:
    """(gradient checkpointing, side, what it is called), in the order of value."""
    return [
        (on, side, f"bf16{compiled}{', checkpointing' if on else ''}, {side} px")
        for on in (False, True)
        for side in SIDES
    ]


def bare_step(bench: Bench, bare: dict[str, Any], checkpointing: bool, side: int) -> dict[str, Any]:
    if not bare:
        bare["step"] = bare_loop(bench.transformer("bf16"), RANK, checkpointing)[1]
    made = bench.batch(side)
    there = made.to(bench.device)
    found = bench.timed(lambda: bare["step"](there.latents, there.t5, there.pooled))
    return found | bench.compared(found, made)


def compiled_steps(bench: Bench) -> None:
    with Learning(bench, bench.settings(compile=True)) as ours:
        for checkpointing, side, name in bf16_cells(", compiled"):
            bench.attempt(f"Impasto, {name}", lambda on=checkpointing, side=side: bench.trained(ours(on), side))


def eight_bit_products(bench: Bench) -> None:
    for compiled in (True, False):
        for precision in ("int8", "fp8"):
            settings = bench.settings(precision=precision, eight_bit_products=True, compile=compiled)
            at_sides(bench, f"Impasto, {precision} products{', compiled' if compiled else ''}", settings)


def at_sides(bench: Bench, name: str, settings: Any, sides: Sequence[int] = SIDES) -> None:
    """One learner at several sizes of pictures."""
    with Learning(bench, settings) as ours:
        for side in sides:
            bench.attempt(f"{name}, {side} px", lambda side=side: bench.trained(ours(), side))


def quantised_bases(bench: Bench) -> None:
    """Weights alone in 8 or 4 bits; the products are in bfloat16."""
    for precision in ("int8", "fp8", "nf4"):
        at_sides(bench, f"Impasto, {precision}", bench.settings(precision=precision))


def streaming(bench: Bench) -> None:
    """A quarter and all of the blocks kept in host memory, beside none, all recomputed."""
    total = bench.flux.blocks
    for count in (0, max(1, total // 4), total):
        settings = bench.settings(gradient_checkpointing=True, streamed_blocks=count)
        at_sides(bench, f"Impasto, bf16, checkpointing, {count} of {total} blocks streamed", settings, SIDES[:1])


CARDS = (8, 12, 16, 24)  # gigabytes: those that there are presets for


def presets(bench: Bench) -> None:
    """Each preset on a card of its size, simulated: what was planned, and what PyTorch took."""
    import torch

    for card in CARDS:
        name = f"{card} GB"
        found = bench.attempt(name, lambda card=card: on_card(bench, card))
        if bench.device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(1.0)
        if card == CARDS[0] and found:
            free = bench.attempt(
                f"{name}, nothing streamed, on the whole card", lambda: on_card(bench, CARDS[0], False)
            )
            ratio = {"ratio": found["seconds_per_step"] / free["seconds_per_step"]} if free else {}
            bench.attempt(f"{name}, time to no streaming", lambda ratio=ratio: ratio)


def on_card(bench: Bench, card: int, simulated: bool = True) -> dict[str, Any]:
    """A step of the preset for a card of so many gigabytes, there or on the whole of this one with nothing streamed."""
    preset, settings = preset_for(bench, card)
    bench.rate()  # while there is room for its matrices
    if simulated:
        simulate_card(card)
    else:
        settings = dataclasses.replace(settings, streamed_blocks=0)
    with Learning(bench, settings) as ours:
        found = bench.trained(ours(), (preset.width, preset.height), batch=preset.batch_size)
    return found | {"precision": settings.precision, "streamed_blocks": settings.streamed_blocks}


def preset_for(bench: Bench, card: int) -> tuple[Any, Any]:
    """The preset, and what the planner settles there."""
    from impasto.trainers.memory import choice
    from impasto.trainers.memory.block_profile import BatchShape
    from impasto.trainers.presets import PRESETS

    preset = PRESETS[f"{card} GB"]
    shape = BatchShape(bench.pixels(preset.width), bench.pixels(preset.height), preset.batch_size, bench.tokens)
    settings = choice.simulate(preset.settings, bench.flux, shape, card)
    if settings is None:
        raise RuntimeError(f"the planner finds no way to fit the preset for {card} GB")
    return preset, settings


def settle_presets(bench: Bench) -> None:
    for card in CARDS:
        preset_for(bench, card)


def attention_backends(bench: Bench) -> None:
    """What computes attention, each in the same model; what is to be compiled has one of its own, and comes last."""
    from impasto.trainers.attention import ATTENTION_BACKENDS

    for compiled in (False, True):
        with Learning(bench, bench.settings(compile=compiled)) as ours:
            for name, backend in ATTENTION_BACKENDS.items():
                if backend.compiled == compiled:
                    bench.attempt(f"{name}, {SIDES[0]} px", lambda name=name, ours=ours: attended(bench, ours, name))


def attended(bench: Bench, ours: Learning, name: str) -> dict[str, Any]:
    from impasto.trainers.attention import ATTENTION_BACKENDS
    from impasto.trainers.flux.forward import use_attention
    from impasto.trainers.libraries import check_installed
    from impasto.trainers.preflight import check_attention

    settings = dataclasses.replace(ours.settings, attention_backend=name)
    check_attention(settings, bench.device.type)
    check_installed(settings)
    learner = ours()
    use_attention(learner.transformer, ATTENTION_BACKENDS[name].called)
    return bench.trained(learner, SIDES[0])


def text_lengths(bench: Bench) -> None:
    with Learning(bench, bench.settings()) as ours:
        for tokens in (bench.tokens // 2, bench.tokens):
            for side in SIDES:
                name = f"{tokens} text tokens, {side} px"
                bench.attempt(name, lambda side=side, tokens=tokens: bench.trained(ours(), side, tokens))


def profile(bench: Bench) -> None:
    """Where one step's time goes: products, attention, and the largest of all else."""
    for compiled in (False, True):
        with Learning(bench, bench.settings(compile=compiled)) as ours:
            name = f"one step, bf16{', compiled' if compiled else ''}, {SIDES[0]} px"
            bench.attempt(name, lambda ours=ours: profiled(bench, ours()))


def profiled(bench: Bench, learner: Any) -> dict[str, Any]:
    import torch

    made = bench.batch(SIDES[0])

    def step() -> None:
        learner.add_gradients([made], positions=[0])
        learner.apply_gradients()

    for _ in range(1 if bench.pretend else WARM_UP):
        step()
    bench.wait()
    with torch.profiler.profile() as profiler:
        began = time.perf_counter()
        step()
        bench.wait()
        seconds = time.perf_counter() - began
    times = kernel_times(profiler, on_card=bench.device.type == "cuda")
    busy = sum(took for took, _ in times.values())
    wasted = {key: value for key, value in times.items() if not does_the_work(key)}
    worst = sorted(wasted.items(), key=lambda item: -item[1][0])[:WASTES]
    return {
        "seconds": seconds,
        "device_idle": max(0.0, seconds - busy),
        "products_and_attention": busy - sum(took for took, _ in wasted.values()),
        "wastes": [
            {"kernel": key[:160], "seconds": took, "calls": calls, "share": took / seconds}
            for key, (took, calls) in worst
        ],
    }


def kernel_times(profiler: Any, on_card: bool) -> dict[str, tuple[float, int]]:
    """Seconds and calls of each kernel on the card; of each operator where the CPU stands for it."""
    from torch.autograd import DeviceType

    times = {}
    for event in profiler.key_averages():
        if event.key.startswith(("Optimizer.", "ProfilerStep")):  # spans around kernels that count themselves
            continue
        if not on_card:
            times[event.key] = (event.self_cpu_time_total / 1e6, event.count)
        elif event.device_type == DeviceType.CUDA:
            times[event.key] = (event.self_device_time_total / 1e6, event.count)
    return times


def does_the_work(kernel: str) -> bool:
    """Whether this is a matrix product or attention. Triton's fused kernels bear the names of what they fuse with."""
    fused = kernel.startswith("triton_") and not kernel.startswith("triton_tem")
    return not fused and any(part in kernel.lower() for part in WORK)


PARTS = (
    Part("tests", 75, tests, ready=lambda bench: None, needs=("diffusers", "peft", "accelerate", "pytest")),
    Part("rates", 10, rates, ready=lambda bench: None, needs=()),
    Part("step", 65, plain_steps),
    Part("compiled", 80, compiled_steps),
    Part("products", 90, eight_bit_products),
    Part("quantised", 45, quantised_bases),
    Part("streaming", 25, streaming),
    Part("presets", 60, presets, settle_presets, ("diffusers", "peft", "accelerate", "bitsandbytes")),
    Part("attention", 40, attention_backends),
    Part("texts", 20, text_lengths),
    Part("profile", 40, profile),
)


# ---- Running the parts --------------------------------------------------------------------------------------------


def missing() -> dict[str, str]:
    """Packages that cannot be imported, and what is left out without them."""
    return {name: lost for name, lost in NEEDED.items() if importlib.util.find_spec(name) is None}


def use_brought() -> None:
    """Make packages importable that were brought along; what the machine has goes first."""
    zipped = BROUGHT.with_suffix(".zip")
    if zipped.is_file() and not BROUGHT.is_dir():
        half = BROUGHT.with_suffix(".part")
        zipfile.ZipFile(zipped).extractall(half)
        half.rename(BROUGHT)
    sys.path.append(str(BROUGHT))


def start(parts: Sequence[Part], results: Path, pretend: bool) -> subprocess.Popen[str]:
    """A process that imports, and then waits to be told how many seconds it has."""
    names = [part.name for part in parts]
    command = [sys.executable, __file__, "--measure", *names, "--results", str(results)]
    with open(results.with_suffix(".log"), "a", encoding="utf-8") as log:
        return subprocess.Popen(
            [*command, *(["--pretend"] if pretend else [])], stdin=subprocess.PIPE, stdout=log, stderr=log, text=True
        )


def measure(names: Sequence[str], results: Path, pretend: bool) -> None:
    """What such a process does."""
    logging.basicConfig(level=logging.INFO)
    work = [(part, Bench(part.name, results, pretend)) for part in PARTS if part.name in names]
    for part, bench in work:
        if part.needs:
            import peft  # noqa: F401 (what takes long, before there is anything to wait for)
            from impasto.trainers import preflight, step  # noqa: F401
        bench.attempt("getting ready", lambda part=part, bench=bench: part.ready(bench))
    asked = sys.stdin.readline()
    if not asked:  # whoever started it is gone
        return
    for part, bench in work:
        bench.begin(float(asked))
        bench.attempt("the whole part", lambda part=part, bench=bench: part.measure(bench))


def run(groups: Sequence[Sequence[Part]], results: Path, seconds: float, pretend: bool = False) -> None:
    """One process after the other, each with its share of the time that is left."""
    deadline = time.monotonic() + seconds
    waiting = start(groups[0], results, pretend)
    try:
        for number, group in enumerate(groups):
            child, later = waiting, groups[number + 1 :]
            if later:
                waiting = start(later[0], results, pretend)
            left = deadline - time.monotonic()
            own = sum(part.seconds for part in group)
            share = own / (own + sum(part.seconds for parts in later for part in parts))
            finish(child, group, results, left * share)
    finally:
        waiting.kill()
        waiting.wait()


def finish(child: subprocess.Popen[str], group: Sequence[Part], results: Path, seconds: float) -> None:
    """Let a process measure for so many seconds, and write down how it ended if not by itself."""
    names = ", ".join(part.name for part in group)
    began, failure = time.monotonic(), ""
    try:
        child.communicate(f"{max(seconds - GRACE, seconds / 2)}\n", timeout=max(seconds, 0.1))
        if child.returncode:
            log = results.with_suffix(".log").read_text(encoding="utf-8", errors="replace")
            failure = f"{log[-3000:]}\nThe process ended with status {child.returncode}"
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        failure = f"Cut off after its {seconds:.0f} seconds"
    finally:
        child.kill()  # nothing where it has ended
    took = time.monotonic() - began
    append(results, {"part": names, "what": "process", "seconds": took, **({"failure": failure} if failure else {})})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [part.name for part in PARTS]
    parser.add_argument("--minutes", type=float, default=8.0, help="for everything (default: 8)")
    parser.add_argument("--parts", nargs="+", choices=known, default=known, help="some of it, in this order of value")
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"lines of JSON (default: {RESULTS.name})")
    parser.add_argument("--pretend", action="store_true", help="a tiny model on the CPU: shows that it runs, no more")
    parser.add_argument("--table", type=Path, metavar="RESULTS", help="only print the table of such a file")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.table:
        print(report(read(arguments.table)))
        return 0
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    use_brought()
    load_pack()
    if arguments.measure:
        measure(arguments.measure, arguments.results, arguments.pretend)
        return 0
    lost = missing()
    for package, what in lost.items():
        print(f"{package} is not here. Left out: {what}.", flush=True)
    if "torch" in lost:
        return 2
    import torch

    if not arguments.pretend and not torch.cuda.is_available():
        parser.error("there is no CUDA device; --pretend shows on the CPU that it runs")
    parts = [part for part in PARTS if part.name in arguments.parts]
    left_out = [part.name for part in parts if set(part.needs) & lost.keys()]
    append(arguments.results, {"part": "start", "what": machine(), "missing": sorted(lost), "left_out": left_out})
    asked = [part for part in parts if part.name not in left_out]
    groups = [asked] if arguments.pretend else [[part] for part in asked]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the table is printed then, too
    try:
        if asked:
            run(groups, arguments.results, 60 * arguments.minutes, arguments.pretend)
    finally:
        print(report(read(arguments.results)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
