import psutil
import pytest
import torch
from impasto.hardware import memory


def test_free_memory_of_the_cpu_is_the_machines_available_memory():
    assert memory.free_device_memory(torch.device("cpu")) == pytest.approx(psutil.virtual_memory().available, rel=0.2)


def test_a_device_that_does_not_tell_its_memory_is_named():
    with pytest.raises(NotImplementedError, match="meta"):
        memory.free_device_memory(torch.device("meta"))


def test_a_device_whose_driver_does_not_tell_its_memory_is_named_with_the_reason(monkeypatch):
    def refuse(device):  # as torch's XPUCachingAllocator does
        raise RuntimeError("The device doesn't support querying the available free memory.")

    monkeypatch.setattr(torch.xpu, "mem_get_info", refuse)
    with pytest.raises(NotImplementedError, match="xpu:0 .*doesn't support querying"):
        memory.free_device_memory(torch.device("xpu", 0))


def test_tensors_count_for_as_long_as_they_live_and_views_do_not_count():
    before = torch.zeros(1000)
    with memory.AllocatedTensors() as allocated:
        first = torch.zeros(100)
        view = first[10:].reshape(3, 30)
        second = before + 1
        assert allocated.bytes == 4 * 1100
        del first
        assert allocated.bytes == 4 * 1100, "the view keeps it"
        del view, second
        before.mul_(2)
        assert (allocated.bytes, allocated.peak) == (0, 4 * 1100)


def test_what_autograd_keeps_counts_until_the_backward_pass():
    weight = torch.ones(1000, requires_grad=True)
    with memory.AllocatedTensors() as allocated:
        loss = weight.exp().sum()
        assert allocated.bytes == 4 * 1001, "exp keeps its result"
        loss.backward()
        del loss
        assert allocated.bytes == 4 * 1000, "the gradient is left"


def test_meta_tensors_are_counted_at_the_size_they_stand_for():
    with memory.AllocatedTensors() as allocated:
        huge = torch.empty(2**40, device="meta") + 1
    assert allocated.bytes == 4 * 2**40 == huge.nbytes


def test_more_reserved_than_the_card_has_is_warned_of():
    assert memory.spilled(reserved=8 * 2**30, total=8 * 2**30) == ""
    assert "system memory" in memory.spilled(reserved=9 * 2**30, total=8 * 2**30)
