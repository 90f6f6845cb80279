"""Cleaning memory step by step with figures before and after each, and a report of who holds what.

What the steps do, and where the figures of the devices come from, is handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .host_memory import TensorsHeld

GIBIBYTE = 1024**3
SPILL_FREE = 0.02  # of a device's memory: with less than this free, Windows has begun to use the host's instead


@dataclass(frozen=True)
class DeviceMemory:
    """One device, in bytes: its memory, what is free of it, and what this process has reserved."""

    name: str
    total: int
    free: int
    reserved: int

    @property
    def used(self) -> float:
        """Part of the memory that is taken, by any process: 0 … 1."""
        return 1 - self.free / self.total if self.total else 0.0


@dataclass(frozen=True)
class HeldModel:
    """A model that ComfyUI keeps on a device, in bytes."""

    name: str
    device: str
    loaded: int
    size: int


@dataclass(frozen=True)
class MemoryState:
    """What is held at one moment. `resident`, `host_total` and `host_free` are bytes of the host's memory."""

    devices: tuple[DeviceMemory, ...]
    resident: int
    host_total: int
    host_free: int
    models: tuple[HeldModel, ...]

    @property
    def pressure(self) -> float:
        """The fuller of host and devices: 0 … 1."""
        return max([1 - self.host_free / self.host_total, *(device.used for device in self.devices)])


@dataclass(frozen=True)
class Step:
    """One action; `act` returns what to say instead of the figures, where there is something."""

    name: str
    act: Callable[[], str | None]


def clean(steps: Sequence[Step], measure: Callable[[], MemoryState], above: float) -> str:
    """Take the steps in order if memory is fuller than `above` (0 … 1; 0: always), and report the figures of each."""
    state = measure()
    if above and state.pressure < above:
        return f"Nothing done: memory is {state.pressure:.0%} full, below {above:.0%}.\n{_figures(state)}"
    lines = [f"Before: {_figures(state)}"]
    for step in steps:
        before, said, state = state, step.act(), measure()
        lines.append(f"{step.name}: {said or _change(before, state)}")
    return "\n".join([*lines, f"After: {_figures(state)}"])


def report(state: MemoryState, tensors: Sequence[TensorsHeld], windows: bool) -> str:
    """Devices, the models on them and the largest tensors, with a warning and a suggestion where there is cause."""
    lines = [_figures(state)]
    for device in state.devices:
        lines.append(
            f"{device.name}: {_amount(device.free)} of {_amount(device.total)} free, "
            f"{_amount(device.reserved)} reserved by this process"
        )
        if windows and device.reserved and device.free < SPILL_FREE * device.total:
            lines.append(
                f"  {device.name} is full: Windows goes on in system memory, many times slower. Free memory, load a "
                "smaller model, or turn the driver's 'CUDA sysmem fallback' off."
            )
    lines.append("Models held by ComfyUI:" if state.models else "ComfyUI holds no model.")
    lines += [
        f"  {model.name} on {model.device}: {_amount(model.loaded)} of {_amount(model.size)} loaded"
        for model in state.models
    ]
    lines += ["Largest tensors of this process:"] if tensors else []
    lines += [f"  {_tensors(held)}" for held in tensors]
    return "\n".join([*lines, *_suggestion(state.devices)])


def roomiest(devices: Sequence[DeviceMemory]) -> int | None:
    """The place among `devices` of the one with most free memory; None where there is no choice."""
    return max(range(len(devices)), key=lambda place: devices[place].free) if len(devices) > 1 else None


def _suggestion(devices: Sequence[DeviceMemory]) -> list[str]:
    place = roomiest(devices)
    if place is None:
        return []
    device = devices[place]
    return [
        f"Most room for the next model: {device.name} (gpu:{place}), {_amount(device.free)} free. Encoder Placement "
        "puts CLIP and VAE there, core's Select Model Device the diffusion model."
    ]


def _tensors(held: TensorsHeld) -> str:
    shape = "×".join(map(str, held.shape)) or "scalar"
    return f"{_amount(held.size)} in {held.count} of {shape} {held.dtype} on {held.device}"


def _figures(state: MemoryState) -> str:
    host = f"process {_amount(state.resident)}, host {_amount(state.host_free)} of {_amount(state.host_total)} free"
    return "; ".join([host, *(f"{device.name} {_amount(device.reserved)} reserved" for device in state.devices)])


def _change(before: MemoryState, after: MemoryState) -> str:
    changes = [f"process {_amount(before.resident)} → {_amount(after.resident)}"]
    changes += [
        f"{new.name} {_amount(old.reserved)} → {_amount(new.reserved)}"
        for old, new in zip(before.devices, after.devices, strict=False)
    ]
    return "; ".join(changes)


def _amount(size: int) -> str:
    return f"{size / GIBIBYTE:.2f} GiB"
