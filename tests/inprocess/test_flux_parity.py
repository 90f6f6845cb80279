"""ComfyUI's transformer, diffusers' and the trainer's forward pass must be one function, without and with a LoRA."""

import json
import logging

import pytest
import torch
from impasto.embedded.transformer_weights import transformer_weights
from impasto.trainers.flux import detection, loading
from impasto.trainers.flux.forward import patchify, position_ids, predict_velocity, unpatchify
from impasto.trainers.lora import adapter
from impasto.trainers.lora.targets import LoraShape
from safetensors.torch import load_file, save_file

SMALL = {"hidden_size": 128, "double_blocks": 1, "single_blocks": 3, "context_width": 96, "pooled_width": 40}
WIDER = {"hidden_size": 256, "double_blocks": 3, "single_blocks": 2, "context_width": 128, "pooled_width": 64}
RANK, ALPHA = 4, 6.0


def random_weights(guidance: bool, size: dict, seed: int = 0) -> dict[str, torch.Tensor]:
    """Every tensor of a FLUX.1 of this size, drawn so that each one shows in the output; no bias or gate is zero."""
    generator = torch.Generator().manual_seed(seed)

    def draw(key: str, like: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(like.shape, generator=generator)
        if like.dim() == 2:
            return noise * like.shape[1] ** -0.5
        return 1 + 0.2 * noise if "_norm." in key else 0.2 * noise

    weights = transformer_weights(**size)
    return {key: draw(key, weights[key]) for key in weights if guidance or not key.startswith("guidance_in.")}


def random_inputs(size: dict, seed: int = 1) -> tuple[torch.Tensor, ...]:
    """Latents of two pictures that are not square, their sigmas, T5 and pooled embeddings."""
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(2, 16, 12, 20, generator=generator)
    t5 = torch.randn(2, 9, size["context_width"], generator=generator)
    return latents, torch.tensor([0.1234567, 0.7654321]), t5, torch.randn(2, size["pooled_width"], generator=generator)


@torch.no_grad()
def comfyui_velocity(patcher, latents, sigma, t5, pooled, guidance: float) -> torch.Tensor:
    import comfy.model_management

    comfy.model_management.load_models_gpu([patcher], force_full_load=True)
    strength = torch.full((latents.shape[0],), guidance)
    return patcher.model.diffusion_model(latents.clone(), sigma, t5, y=pooled, guidance=strength)


@torch.no_grad()
def diffusers_velocity(transformer, latents, sigma, t5, pooled, guidance: float) -> torch.Tensor:
    """The forward pass of diffusers itself, as its pipeline calls it."""
    rows, columns = latents.shape[-2] // 2, latents.shape[-1] // 2
    ids = position_ids(t5.shape[1], rows, columns, latents.device)
    strength = torch.full_like(sigma, guidance) if transformer.config.guidance_embeds else None
    tokens = transformer(
        patchify(latents), t5, pooled, sigma, ids[t5.shape[1] :], ids[: t5.shape[1]], strength, return_dict=False
    )[0]
    return unpatchify(tokens, rows, columns)


def difference(first: torch.Tensor, second: torch.Tensor) -> float:
    assert first.shape == second.shape
    return (first - second).abs().max().item()


@pytest.fixture(params=[(SMALL, False), (WIDER, True)], ids=["small-schnell", "wider-dev"])
def flux(request, tmp_path):
    """(path of a FLUX.1 file, its size)."""
    size, guidance = request.param
    path = tmp_path / "flux.safetensors"
    save_file(random_weights(guidance, size), path)
    return path, size


@pytest.fixture
def comfyui_patcher(comfyui, flux):
    import comfy.sd

    return comfy.sd.load_diffusion_model(str(flux[0]), model_options={"dtype": torch.float32})


def test_comfyui_diffusers_and_the_trainer_predict_the_same_velocity(comfyui_patcher, flux):
    path, size = flux
    inputs = random_inputs(size)
    transformer = loading.load_transformer(path, "fp32")

    reference = comfyui_velocity(comfyui_patcher, *inputs, guidance=3.5)
    assert 0.3 < reference.std() < 3, "the comparison means something only for outputs of ordinary size"
    with torch.no_grad():
        assert difference(reference, predict_velocity(transformer, *inputs, guidance=3.5)) < 1e-5
    assert difference(reference, diffusers_velocity(transformer, *inputs, guidance=3.5)) < 1e-5


def fp8_layers(
    weights: dict[str, torch.Tensor], dtype: torch.dtype
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """(the weights with the blocks' matrices in fp8, the others in bfloat16; the scales by layer)."""
    tensors, scales = {key: weight.bfloat16() for key, weight in weights.items()}, {}
    for key, weight in weights.items():
        if weight.dim() == 2 and "_blocks." in key:
            scales[key.removesuffix(".weight")] = scale = weight.abs().amax() / torch.finfo(dtype).max * 1.37
            tensors[key] = (weight / scale).to(dtype)
    return tensors, scales


def described(text: dict) -> torch.Tensor:
    return torch.tensor(list(json.dumps(text).encode()), dtype=torch.uint8)


def save_scaled(path, family: str, weights: dict[str, torch.Tensor]) -> None:
    """Write `weights` as one of the families of scaled fp8 files that ComfyUI knows."""
    dtype = torch.float8_e5m2 if "e5m2" in family else torch.float8_e4m3fn
    tensors, scales = fp8_layers(weights, dtype)
    suffix = "scale_weight" if family.startswith("marker") else "weight_scale"
    tensors |= {f"{name}.{suffix}": scale for name, scale in scales.items()}
    conf, metadata = {"format": str(dtype).removeprefix("torch.")}, None
    if family.startswith("marker"):
        tensors |= {"scaled_fp8": torch.zeros(2, dtype=dtype)}
        tensors |= {f"{name}.scale_input": torch.tensor(0.5) for name in scales}
    elif family.startswith("metadata"):
        metadata = {"_quantization_metadata": json.dumps({"layers": {name: conf for name in scales}})}
    else:
        tensors |= {f"{name}.comfy_quant": described(conf) for name in scales}
        tensors |= {f"{name}.input_scale": torch.tensor(0.5) for name in scales}
    prefix = "model.diffusion_model." if "checkpoint" in family else ""
    save_file({prefix + key: tensor for key, tensor in tensors.items()}, path, metadata)


@pytest.mark.parametrize(
    "family",
    ["marker", "marker, checkpoint", "metadata", "described", "described, e5m2", "described, checkpoint"],
)
def test_scaled_fp8_files_mean_what_comfyui_makes_of_them(comfyui, tmp_path, family):
    import comfy.sd

    path, weights = tmp_path / "scaled.safetensors", random_weights(True, SMALL)
    save_scaled(path, family, weights)
    patcher = comfy.sd.load_diffusion_model(str(path))
    assert patcher.model.model_config.quant_config, "ComfyUI saw that the file is quantised"
    precision = {torch.float32: "fp32", torch.bfloat16: "bf16"}[patcher.model.get_dtype_inference()]
    transformer = loading.load_transformer(path, precision)
    theirs = patcher.model.diffusion_model.single_blocks[0].linear2.weight.dequantize()
    assert torch.equal(theirs, transformer.single_transformer_blocks[0].proj_out.weight)
    inputs = random_inputs(SMALL)
    reference = comfyui_velocity(patcher, *inputs, guidance=3.5)
    with torch.no_grad():
        assert difference(reference, predict_velocity(transformer, *inputs, guidance=3.5)) < 1e-5


def test_what_comfyui_saves_of_a_scaled_model_is_read_back(comfyui, tmp_path):
    import comfy.sd

    path, saved = tmp_path / "scaled.safetensors", tmp_path / "saved.safetensors"
    save_scaled(path, "marker", random_weights(True, SMALL))
    comfy.sd.save_checkpoint(str(saved), comfy.sd.load_diffusion_model(str(path)))
    ours, theirs = (loading.load_transformer(file, "fp8").state_dict() for file in (path, saved))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_plain_files_of_every_dtype_mean_what_comfyui_makes_of_them(comfyui, tmp_path, dtype):
    import comfy.sd

    path = tmp_path / "plain.safetensors"
    save_file({key: weight.to(dtype) for key, weight in random_weights(True, SMALL).items()}, path)
    patcher = comfy.sd.load_diffusion_model(str(path), model_options={"dtype": torch.float32})
    transformer, inputs = loading.load_transformer(path, "fp32"), random_inputs(SMALL)
    reference = comfyui_velocity(patcher, *inputs, guidance=3.5)
    with torch.no_grad():
        assert difference(reference, predict_velocity(transformer, *inputs, guidance=3.5)) < 1e-5


def test_the_guidance_reaches_only_a_distilled_model(flux):
    path, size = flux
    inputs = random_inputs(size)
    transformer = loading.load_transformer(path, "fp32")
    with torch.no_grad():
        changed = difference(predict_velocity(transformer, *inputs, 1.0), predict_velocity(transformer, *inputs, 3.5))
    assert (changed > 1e-3) == detection.inspect(path).guidance


def test_what_comfyui_saves_of_a_model_is_read_back(comfyui_patcher, flux, tmp_path):
    import comfy.sd

    saved = tmp_path / "saved.safetensors"
    comfy.sd.save_checkpoint(str(saved), comfyui_patcher)
    ours, theirs = (loading.load_transformer(path, "fp32") for path in (flux[0], saved))
    assert detection.inspect(saved).prefix == "model.diffusion_model."
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())


@pytest.fixture
def trained(flux, tmp_path):
    """(transformer with a LoRA, its B random, on every layer that any target set has; the file it is exported to)."""
    transformer = loading.load_transformer(flux[0], "fp32")
    adapter.add_lora(transformer, LoraShape(RANK, ALPHA, "all linear"), seed=3)
    generator = torch.Generator().manual_seed(4)
    for parameter in adapter.lora_parameters(transformer)[1::2]:
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    path = tmp_path / "lora.safetensors"
    save_file(adapter.lora_state_dict(transformer), path, {"format": "pt", "impasto_rank": str(RANK)})
    return transformer, path


def test_a_lora_does_the_same_in_comfyui_diffusers_and_the_trainer(comfyui_patcher, flux, trained, caplog):
    import comfy.sd
    from diffusers import FluxPipeline
    from diffusers.utils import logging as diffusers_logging

    path, size = flux
    transformer, lora = trained
    inputs = random_inputs(size)
    base = comfyui_velocity(comfyui_patcher, *inputs, guidance=1.0)
    diffusers_logging.enable_propagation()  # caplog listens at the root

    with caplog.at_level(logging.WARNING):
        patched, _ = comfy.sd.load_lora_for_models(comfyui_patcher, None, load_file(lora), 1.0, 0.0)
        in_comfyui = comfyui_velocity(patched, *inputs, guidance=1.0)
        pipeline = FluxPipeline(None, None, None, None, None, None, loading.load_transformer(path, "fp32"))
        pipeline.load_lora_weights(str(lora))
    # Both loaders name in a warning every key that they leave over; diffusers also says of a LoRA for the transformer
    # alone that it has nothing for the text encoder.
    assert [message for message in caplog.messages if "prefix='text_encoder'" not in message] == []

    with torch.no_grad():
        in_trainer = predict_velocity(transformer, *inputs, guidance=1.0)
    assert difference(base, in_comfyui) > 0.05, "the LoRA changes the velocity"
    assert difference(in_comfyui, in_trainer) < 1e-4
    assert difference(in_comfyui, diffusers_velocity(pipeline.transformer, *inputs, guidance=1.0)) < 1e-4


def test_comfyui_uses_every_tensor_of_the_lora(comfyui_patcher, trained):
    import comfy.lora

    _, lora = trained
    state = load_file(lora)
    loaded = comfy.lora.load_lora(state, comfy.lora.model_lora_keys_unet(comfyui_patcher.model, {}))
    used = set().union(*(patch.loaded_keys for patch in loaded.values()))
    assert {key for key in state if not key.endswith(".alpha")} <= used
    assert {patch.weights[2] for patch in loaded.values()} == {ALPHA}
    assert len(loaded) == len(state) // 3
    assert len(comfyui_patcher.clone().add_patches(loaded)) == len(loaded)


def test_diffusers_keeps_every_tensor_and_the_scale_of_the_lora(flux, trained):
    from diffusers import FluxPipeline

    transformer, lora = trained
    pipeline = FluxPipeline(None, None, None, None, None, None, loading.load_transformer(flux[0], "fp32"))
    pipeline.load_lora_weights(str(lora), adapter_name=adapter.ADAPTER)
    mine, theirs = dict(transformer.named_parameters()), dict(pipeline.transformer.named_parameters())
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items())
    layers = [module for module in pipeline.transformer.modules() if hasattr(module, "scaling")]
    assert {float(layer.scaling[adapter.ADAPTER]) for layer in layers} == {ALPHA / RANK}
