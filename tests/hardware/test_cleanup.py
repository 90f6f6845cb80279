import sys

import pytest
import torch
from impasto.hardware.cleanup import DeviceMemory, HeldModel, MemoryState, Step, clean, report
from impasto.hardware.host_memory import host_memory, resident_memory, return_freed_heap, tensors_held

GIB = 1024**3


def state(resident: int = 4, host_free: int = 8, reserved: int = 6, free: int = 10) -> MemoryState:
    """A machine of 16 GiB with a card of 24 GiB."""
    card = DeviceMemory("cuda:0", 24 * GIB, free * GIB, reserved * GIB)
    return MemoryState((card,), resident * GIB, 16 * GIB, host_free * GIB, (HeldModel("Flux", "cuda:0", GIB, 2 * GIB),))


def test_each_action_is_told_with_the_figures_before_and_after():
    states = iter([state(), state(resident=3, reserved=2), state(resident=1, reserved=2)])
    done = []
    steps = [
        Step("Unload models", lambda: done.append("unload")),
        Step("Return freed heap", lambda: done.append("heap")),
    ]
    told = clean(steps, lambda: next(states), 0)
    assert done == ["unload", "heap"]
    assert "Unload models: process 4.00 GiB → 3.00 GiB; cuda:0 6.00 GiB → 2.00 GiB" in told
    assert "Return freed heap: process 3.00 GiB → 1.00 GiB" in told
    assert told.splitlines()[0].startswith("Before: process 4.00 GiB")
    assert told.splitlines()[-1].startswith("After: process 1.00 GiB")


def test_an_action_that_has_something_to_say_says_it():
    assert "Drop cached outputs: later" in clean([Step("Drop cached outputs", lambda: "later")], state, 0)


@pytest.mark.parametrize(("above", "acts"), [(0.57, True), (0.59, False), (1.0, False)])
def test_under_pressure_only_above_the_threshold_is_anything_done(above: float, acts: bool):
    """The card is 14 of 24 GiB full, the host 8 of 16."""
    done = []
    told = clean([Step("Unload models", lambda: done.append(1))], state, above)
    assert bool(done) == acts
    assert told.startswith("Before" if acts else "Nothing done: memory is 58% full")


def test_the_report_names_devices_models_and_tensors():
    held = torch.zeros(37, 41, 53)
    told = report(state(), tensors_held(1000), windows=False)
    assert "cuda:0: 10.00 GiB of 24.00 GiB free, 6.00 GiB reserved" in told
    assert "Flux on cuda:0: 1.00 GiB of 2.00 GiB loaded" in told
    assert "in 1 of 37×41×53 float32 on cpu" in told
    assert held.numel()


def test_windows_spilling_to_system_memory_is_warned_of():
    full = state(free=0)
    assert "Windows goes on in system memory" in report(full, (), windows=True)
    assert "Windows" not in report(full, (), windows=False)
    assert "Windows" not in report(state(), (), windows=True)


def test_with_several_cards_the_roomiest_is_suggested():
    one, two = DeviceMemory("cuda:0", 24 * GIB, GIB, 0), DeviceMemory("cuda:1", 12 * GIB, 9 * GIB, 0)
    told = report(MemoryState((one, two), 0, 16 * GIB, 8 * GIB, ()), (), windows=False)
    assert "Most room for the next model: cuda:1 (gpu:1), 9.00 GiB free" in told
    assert "Most room" not in report(state(), (), windows=False)


def test_a_storage_seen_by_several_tensors_is_counted_once():
    base = torch.zeros(1009, 1013)
    views = [base[:], base.view(-1)]
    mine = [held for held in tensors_held(10_000) if 1009 * 1013 in (held.size // 4, *held.shape)]
    assert sum(held.size for held in mine if held.size == 1009 * 1013 * 4) == 1009 * 1013 * 4
    assert views


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="malloc_trim is of Linux's glibc")
def test_freed_heap_goes_back_to_the_system():
    blocks = [bytes(60_000) for _ in range(4000)]  # below glibc's mmap threshold: they stay in the heap
    pins = blocks[::200]
    full = resident_memory()
    del blocks
    assert return_freed_heap()
    assert resident_memory() < full - 150 * 1024**2
    assert pins


def test_the_hosts_memory_is_known():
    total, free = host_memory()
    assert total > free > 0
