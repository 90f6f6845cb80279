"""The attention backend of a run: honoured in every block, and refused before the base model is loaded."""

import dataclasses

import pytest
import torch
from diffusers.models import attention_dispatch
from impasto.embedded.transformer_weights import transformer_weights
from impasto.errors import SettingsError, TrainingError
from impasto.trainers.attention import ATTENTION_BACKENDS
from impasto.trainers.flux import loading
from impasto.trainers.flux.forward import predict_velocity, use_attention
from impasto.trainers.libraries import check_installed
from impasto.trainers.lora import adapter
from impasto.trainers.lora.targets import LoraShape
from impasto.trainers.preflight import check_attention
from impasto.trainers.settings import Settings
from safetensors.torch import save_file

from .. import small_job

SIZE = {"hidden_size": 128, "double_blocks": 1, "single_blocks": 1, "context_width": 96, "pooled_width": 40}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("flux") / "flux.safetensors"
    save_file(transformer_weights(**SIZE), path)
    return path


def gradients(path, backend: str = "", checkpointing: bool = False) -> list[torch.Tensor]:
    """Of the adapter, after one forward and backward pass."""
    transformer = loading.load_transformer(path, "fp32")
    parameters = adapter.add_lora(transformer, LoraShape(4, 4.0, "all linear"), seed=0)
    if backend:
        use_attention(transformer, backend)
    random = torch.Generator().manual_seed(1)
    latents, t5 = torch.randn(1, 16, 8, 12, generator=random), torch.randn(1, 7, 96, generator=random)
    pooled = torch.randn(1, 40, generator=random)
    velocity = predict_velocity(transformer, latents, torch.tensor([0.4]), t5, pooled, checkpointing=checkpointing)
    velocity.square().mean().backward()
    return [parameter.grad for parameter in parameters]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_another_backend_gives_the_gradients_of_the_native_one(path, checkpointing):
    expected = gradients(path)
    for name, backend in ATTENTION_BACKENDS.items():
        if backend.on_cpu:
            found = gradients(path, backend.called, checkpointing)
            assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(expected, found, strict=True)), name


def test_every_block_computes_by_the_backend_it_was_told(path, monkeypatch):
    counted = []
    original = attention_dispatch._AttentionBackendRegistry._backends["_native_math"]

    def count(**keywords):
        counted.append(keywords["query"].shape)
        return original(**keywords)

    monkeypatch.setitem(attention_dispatch._AttentionBackendRegistry._backends, "_native_math", count)
    gradients(path, "_native_math")
    assert len(counted) == SIZE["double_blocks"] + SIZE["single_blocks"]
    gradients(path)
    assert len(counted) == 2, "what one model is told does not reach another"


def test_diffusers_knows_every_backend_by_the_name_that_it_is_given():
    known = {backend.value for backend in attention_dispatch.AttentionBackendName}
    assert {backend.called for backend in ATTENTION_BACKENDS.values()} <= known
    assert all(name == backend.called.lstrip("_") for name, backend in ATTENTION_BACKENDS.items())


@pytest.mark.parametrize(
    ("settings", "device", "said"),
    [
        ({"attention_backend": "native_cudnn"}, "cpu", "native_cudnn, which does not train on the CPU"),
        ({"attention_backend": "flex", "compile": True}, "cpu", "flex, which does not train on the CPU"),
        ({"attention_backend": "native_flash", "precision": "fp32"}, "cuda", "does not compute in float32"),
        ({"attention_backend": "flex"}, "cuda", "unless compile is on.*set compile to on, or attention_backend to"),
    ],
)
def test_what_a_device_cannot_compute_is_refused_with_the_remedy(settings, device, said):
    with pytest.raises(SettingsError, match=f"attention_backend is .*{said}"):
        check_attention(Settings(**settings), device)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_default_is_refused_nowhere(device):
    for precision in ("fp32", "bf16", "nf4", "auto"):
        check_attention(Settings(precision=precision), device)


@pytest.mark.parametrize("name", [name for name, backend in ATTENTION_BACKENDS.items() if backend.package])
def test_a_backend_that_is_not_installed_is_named_with_what_installs_it(name, monkeypatch):
    package = ATTENTION_BACKENDS[name].package
    monkeypatch.setattr("impasto.trainers.libraries.is_installed", lambda asked: asked != package)
    with pytest.raises(TrainingError, match=f"The attention backend {name} needs {package}.*{package}"):
        check_installed(Settings(attention_backend=name))


def test_a_run_with_a_cards_backend_on_the_cpu_ends_before_the_base_model_is_loaded(tmp_path, monkeypatch):
    settings = dataclasses.replace(small_job.SETTINGS, attention_backend="native_cudnn")
    monkeypatch.setattr(small_job, "SETTINGS", settings)
    loaded = []
    monkeypatch.setattr(loading, "load_transformer", lambda *_, **__: loaded.append(1))
    job = small_job.SmallJob(small_job.write_inputs(tmp_path / "inputs"), tmp_path / "disk")
    with pytest.raises(SettingsError, match="native_cudnn, which does not train on the CPU"):
        job.queue()
    assert not loaded


def test_the_backend_decides_no_run_and_is_in_no_file_where_it_has_its_default():
    assert Settings(attention_backend="native_flash").deciding() == Settings().deciding()
    assert "attention_backend" not in Settings().to_dict()
    assert Settings.from_dict(Settings(attention_backend="flex").to_dict()).attention_backend == "flex"
