"""Memory of devices through ComfyUI's memory management and torch.accelerator, with a stand-in for a device."""

from types import SimpleNamespace

import pytest
import torch

GIB = 1024**3
DEVICE = torch.device("hpu", 0)


@pytest.fixture
def device(comfyui, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A device of 24 GiB with 10 free and 6 reserved, of which 5 are unused; `log` is what was asked for, in order."""
    import comfy.model_management as management

    card = SimpleNamespace(reserved=6 * GIB, log=[])

    def emptied() -> None:
        card.log.append("torch.accelerator")
        card.reserved = GIB

    monkeypatch.setattr(management, "get_all_torch_devices", lambda *_: [DEVICE])
    monkeypatch.setattr(management, "get_torch_device_name", str)
    monkeypatch.setattr(management, "get_total_memory", lambda _: 24 * GIB)
    monkeypatch.setattr(management, "get_free_memory", lambda _: 10 * GIB)
    monkeypatch.setattr(management, "soft_empty_cache", lambda force: card.log.append("ComfyUI"))
    accelerator = SimpleNamespace(memory_reserved=lambda _: card.reserved, empty_cache=emptied)
    monkeypatch.setattr(torch, "accelerator", accelerator)
    return card


def test_cleanup_empties_caches_by_comfyui_first_and_tells_the_figures_of_the_device(device: SimpleNamespace):
    from impasto.nodes.memory import MemoryCleanup

    chosen = {"unload_models": False, "drop_outputs": False, "collect_garbage": False, "return_heap": False}
    value, told = MemoryCleanup.execute("anything", **chosen, empty_caches=True, only_above=0).args
    assert value == "anything"
    assert device.log == ["ComfyUI", "torch.accelerator"]
    assert "Empty device caches: " in told and "hpu:0 6.00 GiB → 1.00 GiB" in told


def test_the_report_has_the_device_as_comfyui_and_torch_tell(device: SimpleNamespace):
    from impasto.nodes.memory import MemoryReport

    _, told = MemoryReport.execute(tensors=False).args
    assert "hpu:0: 10.00 GiB of 24.00 GiB free, 6.00 GiB reserved by this process" in told


@pytest.mark.parametrize(("above", "acts"), [(58, True), (59, False)])
def test_under_pressure_the_devices_fill_decides(device: SimpleNamespace, monkeypatch, above: int, acts: bool):
    """14 of its 24 GiB are taken; the host's memory is empty."""
    from impasto.nodes.host import memory
    from impasto.nodes.memory import MemoryCleanup

    monkeypatch.setattr(memory, "host_memory", lambda: (16 * GIB, 16 * GIB))
    chosen = {"unload_models": False, "drop_outputs": False, "collect_garbage": False, "return_heap": False}
    MemoryCleanup.execute("anything", **chosen, empty_caches=True, only_above=above)
    assert bool(device.log) == acts
