"""In every format, a LoRA file does in ComfyUI and in diffusers exactly what was trained, with nothing left over."""

import logging

import pytest
import torch
from impasto.embedded.transformer_weights import transformer_weights
from impasto.trainers.flux import detection, layout, loading
from impasto.trainers.lora import adapter
from impasto.trainers.lora import file_formats as lora_files
from impasto.trainers.lora.targets import LoraShape
from safetensors.torch import load_file, save_file

SIZE = {"hidden_size": 128, "double_blocks": 2, "single_blocks": 2, "context_width": 96, "pooled_width": 40}
# alpha is never the rank, and blocks differ in rank.
PLAIN = {"rank": 4, "alpha": 6.0, "targets": "all linear", "block_ranks": "double 1: 2; single 0: 7"}
PARTIAL = {"rank": 4, "alpha": 1.0, "targets": "image attention", "rslora": True}
DORA = {"rank": 4, "alpha": 6.0, "targets": "all linear", "dora": True}


@pytest.fixture(scope="module")
def flux(tmp_path_factory):
    path = tmp_path_factory.mktemp("flux") / "flux.safetensors"
    save_file(transformer_weights(**SIZE), path)
    return path


@pytest.fixture(scope="module")
def patcher(comfyui, flux):
    import comfy.sd

    return comfy.sd.load_diffusion_model(str(flux), model_options={"dtype": torch.float32})


def trained(flux, **settings):
    """A transformer with a LoRA in which everything that can be trained is changed."""
    transformer = loading.load_transformer(flux, "fp32")
    generator = torch.Generator().manual_seed(4)
    for parameter in adapter.add_lora(transformer, LoraShape(**settings), seed=3):
        if parameter.dim() == 1:
            parameter.data *= 1 + 0.3 * torch.rand(parameter.shape, generator=generator)
        else:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return transformer


def written(transformer, tmp_path, format: str):
    path = tmp_path / f"{format}.safetensors"
    save_file(adapter.lora_state_dict(transformer), tmp_path / "ours.safetensors", {"format": "pt"})
    lora_files.export(tmp_path / "ours.safetensors", path, format)
    return path


def loaded_by_comfyui(patcher, state, caplog):
    """The patches, after checking that no tensor of the file was left over."""
    import comfy.lora

    caplog.clear()
    with caplog.at_level(logging.WARNING):
        patches = comfy.lora.load_lora(dict(state), comfy.lora.model_lora_keys_unet(patcher.model, {}))
    assert caplog.messages == []
    return patches


def weights_in_comfyui(patcher, patches) -> dict[str, torch.Tensor]:
    """Every weight of the blocks as ComfyUI computes with it, by its name in BFL's layout."""
    import comfy.lora

    patched = patcher.clone()
    assert len(patched.add_patches(patches, 1.0)) == len(patches)
    weights = {}
    for key, weight in patched.model.state_dict().items():
        if key.endswith(".weight") and "blocks." in key:
            own = patched.patches.get(key, [])
            weights[key.removeprefix("diffusion_model.")] = comfy.lora.calculate_weight(own, weight.clone(), key)
    return weights


def merged(flux, transformer) -> dict[str, torch.Tensor]:
    """The same weights, as PEFT merges its LoRA, or its DoRA, into the base."""
    state = {}
    for name, module in transformer.named_modules():
        if isinstance(module, torch.nn.Linear) and ".lora_" not in name and ".base_layer" not in name:
            state[f"{name}.weight"] = module.weight
    for name, layer in adapter._layers(transformer).items():
        lora_a, lora_b = (matrix[adapter.ADAPTER].weight for matrix in (layer.lora_A, layer.lora_B))
        weight = layer.base_layer.weight + layer.scaling[adapter.ADAPTER] * lora_b @ lora_a
        if adapter.ADAPTER in layer.lora_magnitude_vector:
            weight = layer.lora_magnitude_vector[adapter.ADAPTER].weight[:, None] * torch.nn.functional.normalize(
                weight
            )
        state[f"{name}.weight"] = weight
    joined = {}
    for source in layout.layout(detection.inspect(flux)):
        if source.key.endswith(".weight") and "blocks." in source.key:
            joined[source.key] = torch.cat([state[name] for name in source.parameters])
    return joined


def assert_equal_to_rounding(found: dict, expected: dict) -> None:
    for key, weight in expected.items():
        assert torch.allclose(found[key], weight, rtol=1e-5, atol=1e-5), key


@pytest.mark.parametrize("format", lora_files.FORMATS)
@pytest.mark.parametrize("settings", [PLAIN, PARTIAL], ids=["plain", "partial"])
@torch.no_grad()
def test_comfyui_patches_its_weights_with_what_was_trained(patcher, flux, tmp_path, caplog, format, settings):
    transformer = trained(flux, **settings)
    patches = loaded_by_comfyui(patcher, load_file(written(transformer, tmp_path, format)), caplog)
    assert_equal_to_rounding(weights_in_comfyui(patcher, patches), merged(flux, transformer))


@torch.no_grad()
def test_comfyui_patches_its_weights_with_a_dora(patcher, flux, tmp_path, caplog):
    transformer = trained(flux, **DORA)
    patches = loaded_by_comfyui(patcher, load_file(written(transformer, tmp_path, "comfyui")), caplog)
    assert_equal_to_rounding(weights_in_comfyui(patcher, patches), merged(flux, transformer))


@torch.no_grad()
def test_a_dora_in_diffusers_format_is_right_in_comfyui_and_in_diffusers(patcher, flux, tmp_path):
    import comfy.lora
    from diffusers import FluxPipeline

    transformer = trained(flux, **DORA)
    path = written(transformer, tmp_path, "diffusers")
    # Each leaves over the magnitudes that are for the other one.
    patches = comfy.lora.load_lora(load_file(path), comfy.lora.model_lora_keys_unet(patcher.model, {}), False)
    expected = merged(flux, transformer)
    assert_equal_to_rounding(weights_in_comfyui(patcher, patches), expected)

    other = loading.load_transformer(flux, "fp32")
    FluxPipeline(None, None, None, None, None, None, other).load_lora_weights(str(path), adapter_name=adapter.ADAPTER)
    ours, theirs = adapter.lora_parameters(transformer), adapter.lora_parameters(other)
    assert (
        len(ours)
        == len(theirs)
        == 3 * len(adapter.target_modules(loading.load_transformer(flux, "fp32"), "all linear"))
    )
    assert all(map(torch.equal, ours, theirs))


@pytest.mark.parametrize("settings", [PLAIN, PARTIAL], ids=["plain", "partial"])
def test_diffusers_keeps_every_tensor_and_every_scale(flux, tmp_path, settings):
    from diffusers import FluxPipeline

    transformer, other = trained(flux, **settings), loading.load_transformer(flux, "fp32")
    path = written(transformer, tmp_path, "diffusers")
    FluxPipeline(None, None, None, None, None, None, other).load_lora_weights(str(path), adapter_name=adapter.ADAPTER)
    ours, theirs = adapter._layers(transformer), adapter._layers(other)
    assert ours.keys() == theirs.keys()
    for name, layer in ours.items():
        assert theirs[name].scaling[adapter.ADAPTER] == pytest.approx(layer.scaling[adapter.ADAPTER], rel=1e-6)
    assert all(map(torch.equal, adapter.lora_parameters(transformer), adapter.lora_parameters(other)))


@torch.no_grad()
def test_training_goes_on_from_what_comfyui_s_own_trainer_and_saver_wrote(patcher, flux, caplog):
    import folder_paths
    from comfy_extras.nodes_train import SaveLoRA, _create_weight_adapter

    state = {}
    generator = torch.Generator().manual_seed(6)
    for name, module in patcher.model.named_modules():
        if isinstance(module, torch.nn.Linear) and "_blocks." in name:
            state |= _create_weight_adapter(module, name, {}, "LoRA", torch.float32, 8)[1]
    for tensor in state.values():
        if tensor.dim() == 2:
            tensor.data = torch.randn(tensor.shape, generator=generator) * 0.1
    SaveLoRA.execute({key: tensor.detach().contiguous() for key, tensor in state.items()}, "loras/core", 16)
    (path,) = (path for path in _files(folder_paths.get_output_directory(), "core_16_steps_*.safetensors"))

    transformer = loading.load_transformer(flux, "fp32")
    adapter.add_lora(transformer, LoraShape(16, 16.0, "all linear"), seed=0)
    adapter.load_existing(transformer, path)
    patches = loaded_by_comfyui(patcher, load_file(path), caplog)
    assert len(patches) == 2 * 10 + 2 * 3
    assert_equal_to_rounding(weights_in_comfyui(patcher, patches), merged(flux, transformer))


def _files(folder: str, pattern: str):
    from pathlib import Path

    return Path(folder).rglob(pattern)
