"""Time and memory of training steps, as they are taken in the process that trains."""

from __future__ import annotations

import gc
import time
from pathlib import Path
from typing import Any

from step_work import Work

OPERATORS = 20  # rows of a profile


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


def simulate_card(gigabytes: int) -> None:
    """Leave PyTorch what a card of this size has free when nothing else uses it; on the CPU, all."""
    import torch
    from impasto.trainers.memory.choice import TAKEN
    from impasto.trainers.memory.estimate import GIGABYTE

    if torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, (gigabytes * GIGABYTE - TAKEN) / total))
