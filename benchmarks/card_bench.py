"""What a part of `card.py` measures with: a model of FLUX.1-dev's size, a clock, the plan, and the card's own rate."""

from __future__ import annotations

import dataclasses
import gc
import math
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from card_results import append
from full_size import DEV_BLOCKS, DEV_WIDTH, architecture
from step_meter import peak_memory, reserved_memory, reset_peak_memory
from step_work import RATE_SIZES, matmul_rate, product_flops

RANK = 16
SIDES = (1024, 512)  # pixels
TOKENS = 512  # of T5
WARM_UP = 3  # steps that are not measured
LEAST = 3  # steps that are measured, however long they take
AHEAD = 10  # steps that the host may run ahead of the card
MEASURED = 4.0  # seconds of steps that are measured, at most


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
