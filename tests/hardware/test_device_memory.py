"""Stand-ins for torch's device modules: the CPU has no memory of its own to tell of."""

from types import SimpleNamespace

import pytest
import torch
from impasto.hardware.device_memory import empty_cache, reserved_memory

GAUDI, APPLE, DIRECTML = torch.device("hpu", 0), torch.device("mps", 0), torch.device("privateuseone", 0)


def failing(error: Exception):
    def call(*_):
        raise error

    return call


BEFORE_2_9 = SimpleNamespace()
APPLES_BEFORE_2_13 = SimpleNamespace(
    memory_reserved=failing(RuntimeError("Allocator for mps is not a DeviceAllocator.")),
    empty_cache=failing(RuntimeError("Allocator for mps is not a DeviceAllocator.")),
)
OF_ANOTHER_KIND = SimpleNamespace(
    memory_reserved=failing(ValueError("hpu doesn't match the current accelerator cuda."))
)


def test_any_kind_of_device_is_asked_through_torch_accelerator(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "accelerator", SimpleNamespace(memory_reserved={GAUDI: 6}.__getitem__))
    assert reserved_memory(GAUDI) == 6


@pytest.mark.parametrize("accelerator", [BEFORE_2_9, OF_ANOTHER_KIND])
def test_where_that_has_no_answer_the_devices_own_module_is_asked(monkeypatch: pytest.MonkeyPatch, accelerator):
    monkeypatch.setattr(torch, "accelerator", accelerator)
    monkeypatch.setattr(torch, "hpu", SimpleNamespace(memory_reserved={GAUDI: 5}.__getitem__), raising=False)
    assert reserved_memory(GAUDI) == 5


def test_apples_memory_is_told_by_its_driver(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "accelerator", APPLES_BEFORE_2_13)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 4)
    assert reserved_memory(APPLE) == 4


def test_what_nothing_tells_is_0():
    assert reserved_memory(DIRECTML) == reserved_memory(torch.device("cpu")) == 0


def test_caches_are_emptied_through_torch_accelerator_and_only_once(monkeypatch: pytest.MonkeyPatch):
    emptied = []
    monkeypatch.setattr(torch, "accelerator", SimpleNamespace(empty_cache=lambda: emptied.append("accelerator")))
    monkeypatch.setattr(torch, "get_device_module", failing(AssertionError("not needed")))
    empty_cache()
    assert emptied == ["accelerator"]


@pytest.mark.parametrize("accelerator", [BEFORE_2_9, APPLES_BEFORE_2_13])
def test_where_that_cannot_the_devices_own_module_does(monkeypatch: pytest.MonkeyPatch, accelerator):
    emptied = []
    monkeypatch.setattr(torch, "accelerator", accelerator)
    monkeypatch.setattr(torch, "get_device_module", lambda: SimpleNamespace(empty_cache=lambda: emptied.append("own")))
    empty_cache()
    assert emptied == ["own"]


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator")
def test_without_an_accelerator_nothing_is_done():
    empty_cache()
    assert reserved_memory(torch.device("cuda", 0)) == 0
