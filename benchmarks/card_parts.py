"""The parts of `card.py`, in the order of their value: what each measures, and what it needs."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from card_bench import RANK, SIDES, WARM_UP, Bench, Learning
from full_size import REPOSITORY
from step_meter import simulate_card
from step_trainers import bare_loop

WASTES = 5
NO_CARD = "there is no CUDA device"  # why the tests are skipped that wait for one
# What kernels that do the work are called; the rest of a profile is what could be left out.
WORK = ("gemm", "cutlass", "nvjet", "xmma", "::mm", "addmm", "_mm", "bmm", "flash", "fmha", "attention", "sdpa")


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
