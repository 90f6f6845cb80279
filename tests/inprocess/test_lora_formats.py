"""In every format, a LoRA file does in ComfyUI and in diffusers exactly what was trained, with nothing left over."""

import logging

import pytest
import torch
from impasto.embedded.transformer_weights import transformer_weights
from impasto.errors import TrainingError
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


# What other programs write: prefix, whether names are dotted, endings of A and B; and whether ComfyUI follows it.
DIFFUSERS_NAMES = {
    "diffusers": ("transformer.", True, ".lora_A.weight", ".lora_B.weight", True),
    "DiffSynth": ("", True, ".lora_A.default.weight", ".lora_B.default.weight", True),
    "OneTrainer": ("lora_transformer_", False, ".lora_down.weight", ".lora_up.weight", True),
    "SimpleTuner, LyCORIS": ("lycoris_", False, ".lora_down.weight", ".lora_up.weight", True),
    "old diffusers": ("transformer.", True, "_lora.down.weight", "_lora.up.weight", True),
    "older diffusers": ("transformer.", True, ".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight", True),
    "default_0": ("transformer.", True, ".lora_A.default_0.weight", ".lora_B.default_0.weight", False),
    "an adapter's name": ("transformer.", True, ".lora_A.my-style.weight", ".lora_B.my-style.weight", False),
    "PEFT": ("base_model.model.", True, ".lora_A.weight", ".lora_B.weight", False),
    "old SimpleTuner": ("transformer.base_model.model.", True, ".lora_A.weight", ".lora_B.weight", False),
}
BFL_NAMES = {
    "ComfyUI": ("diffusion_model.", True, ".lora_down.weight", ".lora_up.weight", True),
    "ai-toolkit": ("diffusion_model.", True, ".lora_A.weight", ".lora_B.weight", True),
    "kohya": ("lora_unet_", False, ".lora_down.weight", ".lora_up.weight", True),
    "a checkpoint's prefix": ("model.diffusion_model.", True, ".lora_A.weight", ".lora_B.weight", False),
}
# Module -> outputs and inputs; every kind of layer, those outside of the blocks too (OneTrainer's preset "full").
OF_EVERY_KIND = {
    "transformer_blocks.0.attn.to_q": (128, 128),
    "transformer_blocks.0.attn.to_k": (128, 128),
    "transformer_blocks.1.attn.add_v_proj": (128, 128),
    "transformer_blocks.1.ff.net.0.proj": (512, 128),
    "transformer_blocks.0.norm1_context.linear": (768, 128),
    "single_transformer_blocks.1.attn.to_v": (128, 128),
    "single_transformer_blocks.1.proj_mlp": (512, 128),
    "single_transformer_blocks.0.proj_out": (128, 640),
    "single_transformer_blocks.0.norm.linear": (384, 128),
    "x_embedder": (128, 64),
    "context_embedder": (128, 96),
    "time_text_embed.timestep_embedder.linear_1": (128, 256),
    "time_text_embed.guidance_embedder.linear_2": (128, 128),
    "time_text_embed.text_embedder.linear_1": (128, 40),
    "norm_out.linear": (256, 128),
    "proj_out": (64, 128),
}


def lora_of(sizes: dict[str, tuple[int, int]]) -> dict[str, torch.Tensor]:
    """A LoRA in our form, with an alpha that is not the rank."""
    generator, state = torch.Generator().manual_seed(8), {}
    for name, (outputs, inputs) in sizes.items():
        state[f"transformer.{name}.lora_A.weight"] = torch.randn(3, inputs, generator=generator)
        state[f"transformer.{name}.lora_B.weight"] = torch.randn(outputs, 3, generator=generator)
        state[f"transformer.{name}.alpha"] = torch.tensor(1.5)
    return state


def renamed(state, prefix: str, dotted: bool, lora_a: str, lora_b: str) -> dict[str, torch.Tensor]:
    endings = {".lora_A.weight": lora_a, ".lora_B.weight": lora_b, ".alpha": ".alpha"}
    endings |= {".lora_down.weight": lora_a, ".lora_up.weight": lora_b}
    file = {}
    for key, tensor in state.items():
        ending = next(ending for ending in endings if key.endswith(ending))
        name = key.removesuffix(ending).removeprefix("transformer.").removeprefix("diffusion_model.")
        file[f"{prefix}{name if dotted else name.replace('.', '_')}{endings[ending]}"] = tensor.contiguous()
    return file


def added_by_comfyui(patcher, file) -> dict[str, torch.Tensor]:
    """What ComfyUI's Load LoRA adds to each weight, by its name in BFL's layout."""
    import comfy.lora
    import comfy.lora_convert

    converted = comfy.lora_convert.convert_lora(dict(file))
    patches = comfy.lora.load_lora(converted, comfy.lora.model_lora_keys_unet(patcher.model, {}), False)
    patched = patcher.clone()
    patched.add_patches(patches, 1.0)
    state = patched.model.state_dict()
    return {
        key.removeprefix("diffusion_model.").removesuffix(".weight"): comfy.lora.calculate_weight(
            own, torch.zeros_like(state[key]), key
        )
        for key, own in patched.patches.items()
    }


def added_by_ours(path) -> dict[str, torch.Tensor]:
    """The same of what training starts from."""
    converted, added = lora_files.convert(lora_files.read(path), "comfyui"), {}
    for key, up in converted.items():
        if key.endswith(".lora_up.weight"):
            name = key.removesuffix(".lora_up.weight")
            scale = converted[f"{name}.alpha"] / up.shape[1]
            added[name.removeprefix("diffusion_model.")] = scale * up @ converted[f"{name}.lora_down.weight"]
    return added


def assert_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys() and expected
    assert_equal_to_rounding(found, expected)


@pytest.mark.parametrize("program", [*DIFFUSERS_NAMES, *BFL_NAMES])
def test_training_starts_from_what_comfyui_makes_of_a_file(patcher, tmp_path, program):
    state = lora_of(OF_EVERY_KIND)
    if program in BFL_NAMES:
        state = lora_files.convert(state, "comfyui")
    *names, is_followed = {**DIFFUSERS_NAMES, **BFL_NAMES}[program]
    file = renamed(state, *names)
    save_file(file, tmp_path / "lora.safetensors")
    theirs = added_by_comfyui(patcher, file)
    assert bool(theirs) == is_followed  # else no error may advise to load it there
    ours = added_by_ours(tmp_path / "lora.safetensors")
    assert_same(ours, theirs if is_followed else added_by_comfyui(patcher, state))


def test_training_starts_from_what_comfyui_makes_of_a_lora_by_xlabs(patcher, tmp_path):
    import comfy.lora_convert

    generator, file = torch.Generator().manual_seed(5), {}
    sizes = {
        f"double_blocks.0.processor.{part}_lora{stream}": rows
        for part, rows in (("qkv", 384), ("proj", 128))
        for stream in (1, 2)
    }
    for name, rows in sizes.items() | {("single_blocks.1.processor.qkv_lora", 384)}:
        file[f"{name}.down.weight"] = torch.randn(4, 128, generator=generator)
        file[f"{name}.up.weight"] = torch.randn(rows, 4, generator=generator)
    file["single_blocks.1.processor.proj_lora.down.weight"] = torch.randn(4, 640, generator=generator)
    file["single_blocks.1.processor.proj_lora.up.weight"] = torch.randn(128, 4, generator=generator)
    save_file(file, tmp_path / "lora.safetensors")
    # ComfyUI knows the layout by the last blocks of the real FLUX, and renames it so.
    assert not added_by_comfyui(patcher, file)
    assert_same(
        added_by_ours(tmp_path / "lora.safetensors"),
        added_by_comfyui(patcher, comfy.lora_convert.convert_uso_lora(file)),
    )


@torch.no_grad()
def test_a_lora_of_the_embedders_and_the_output_goes_on_being_trained(patcher, flux, tmp_path):
    state = lora_of(OF_EVERY_KIND)
    save_file(state, tmp_path / "full.safetensors")
    narrow = loading.load_transformer(flux, "fp32")
    adapter.add_lora(narrow, LoraShape(4, 4.0, "all linear"), seed=0)
    with pytest.raises(TrainingError, match="such as 'context_embedder'.*such as 'whole transformer'"):
        adapter.load_existing(narrow, tmp_path / "full.safetensors")

    transformer = loading.load_transformer(flux, "fp32")
    adapter.add_lora(transformer, LoraShape(4, 4.0, "whole transformer", block_ranks="single: 5"), seed=0)
    adapter.load_existing(transformer, tmp_path / "full.safetensors")
    for format in lora_files.FORMATS:
        path = written(transformer, tmp_path, format)
        theirs = {name: delta for name, delta in added_by_comfyui(patcher, load_file(path)).items() if delta.any()}
        assert_same(theirs, added_by_comfyui(patcher, state))


@pytest.mark.parametrize(
    ("file", "is_followed"),
    [
        ({f"lycoris_transformer_blocks_0_attn_to_q.lokr_{part}": torch.ones(2, 2) for part in ("w1", "w2")}, True),
        (
            {
                f"lora_unet_double_blocks_0_img_mod_lin.hada_{part}": torch.ones(4, 4)
                for part in ("w1_a", "w1_b", "w2_a", "w2_b")
            },
            True,
        ),
        ({"diffusion_model.img_in.diff_b": torch.ones(128)}, True),
        ({"diffusion_model.double_blocks.0.img_attn.norm.query_norm.diff": torch.ones(128)}, True),
        ({f"model.diffusion_model.img_in.lokr_{part}": torch.ones(2, 2) for part in ("w1", "w2")}, False),
        ({"base_model.model.x_embedder.diff": torch.ones(2, 2)}, False),
    ],
)
def test_comfyui_s_own_node_is_advised_exactly_where_it_loads_the_file(patcher, tmp_path, file, is_followed):
    import comfy.lora

    patches = comfy.lora.load_lora(dict(file), comfy.lora.model_lora_keys_unet(patcher.model, {}), False)
    assert bool(patches) == is_followed
    save_file(file, tmp_path / "lora.safetensors")
    with pytest.raises(TrainingError) as refused:
        lora_files.read(tmp_path / "lora.safetensors")
    assert ("on top of it" in str(refused.value)) == is_followed


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
