import json
import logging
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import torch
from impasto.embedded.transformer_weights import transformer_weights
from impasto.errors import ModelError, SettingsError
from impasto.trainers.flux import detection, layout, loading, quantisation
from impasto.trainers.flux.fingerprint import fingerprint as flux_fingerprint
from impasto.trainers.flux.forward import predict_velocity
from impasto.trainers.lora import adapter
from impasto.trainers.lora.targets import LoraShape
from safetensors.torch import load_file, save_file

SIZE = {"hidden_size": 128, "double_blocks": 1, "single_blocks": 2, "context_width": 96, "pooled_width": 40}


@pytest.fixture(scope="module")
def weights():
    return transformer_weights(**SIZE)


@pytest.fixture
def save(tmp_path):
    def write(tensors, name="flux.safetensors", metadata=None):
        save_file(tensors, tmp_path / name, metadata)
        return tmp_path / name

    return write


def without(tensors, *keys):
    return {key: tensor for key, tensor in tensors.items() if key not in keys}


def mapped_back(state, architecture):
    """Diffusers' state dict in the BFL layout: each part where `layout` says that it came from."""
    joined = {}
    for source in layout.layout(architecture):
        joined[source.key] = torch.full(source.shape, float("nan"))
        for name, ranges in source.parameters.items():
            parts = state[name].split([stop - start for start, stop in ranges])
            for (start, stop), rows in zip(ranges, parts, strict=True):
                joined[source.key][start:stop] = rows
    return joined


@pytest.mark.parametrize("prefix", detection.PREFIXES)
@pytest.mark.parametrize("guidance", [True, False])
def test_the_architecture_is_read_from_the_header(weights, save, prefix, guidance):
    kept = {key: tensor for key, tensor in weights.items() if guidance or "guidance_in" not in key}
    path = save({prefix + key: tensor for key, tensor in kept.items()})
    assert detection.inspect(path) == layout.FluxArchitecture(
        hidden_size=128,
        heads=1,
        double_blocks=1,
        single_blocks=2,
        context_width=96,
        pooled_width=40,
        in_channels=64,
        guidance=guidance,
        prefix=prefix,
        parameters=sum(tensor.numel() for tensor in kept.values()),
    )


def test_a_whole_checkpoint_is_read_without_its_autoencoder_and_text_encoders(weights, save):
    checkpoint = {f"model.diffusion_model.{key}": tensor for key, tensor in weights.items()}
    path = save(checkpoint | {"vae.decoder.conv_in.weight": torch.zeros(3), "text_encoders.t5.scale": torch.zeros(3)})
    assert detection.inspect(path).parameters == sum(tensor.numel() for tensor in weights.values())
    assert len(list(loading.load_transformer(path, "fp32").parameters())) > 0


def test_every_weight_arrives_and_can_be_mapped_back(weights, save):
    path = save(weights)
    transformer = loading.load_transformer(path, "fp32")
    assert not any(parameter.is_meta for parameter in transformer.parameters())
    back = mapped_back(transformer.state_dict(), detection.inspect(path))
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[key], weights[key]) for key in weights)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_other_precisions_are_cast(weights, save, stored):
    cast = {key: tensor.to(stored) for key, tensor in weights.items()}
    transformer = loading.load_transformer(save(cast), "fp32")
    expected = cast["img_in.weight"].float()
    assert torch.equal(transformer.x_embedder.weight, expected)
    assert {parameter.dtype for parameter in transformer.parameters()} == {torch.float32}


def test_the_loaded_base_is_frozen_and_owns_its_memory(weights, save):
    path = save(weights)
    transformer = loading.load_transformer(path, "fp32")
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(transformer.context_embedder.weight, weights["txt_in.weight"])
    assert not transformer.training
    assert not any(parameter.requires_grad for parameter in transformer.parameters())


def test_norms_named_as_comfyui_saves_them_are_known(weights, save):
    published = {key.replace("_norm.weight", "_norm.scale"): tensor for key, tensor in weights.items()}
    saved = {key.replace("_norm.scale", "_norm.weight"): tensor for key, tensor in weights.items()}
    assert published.keys() != saved.keys()
    first, second = (loading.load_transformer(save(names), "fp32") for names in (published, saved))
    assert all(torch.equal(one, two) for one, two in zip(first.parameters(), second.parameters(), strict=True))


def refusal(path) -> str:
    with pytest.raises(ModelError) as refused:
        loading.load_transformer(path)
    assert str(path) in str(refused.value)
    assert "Choose" in str(refused.value) or "Download" in str(refused.value) or "save it" in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        (["model.diffusion_model.input_blocks.0.0.weight"], "SDXL"),
        (["model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"], "Stable Diffusion 3"),
        (["distilled_guidance_layer.norms.0.scale", "img_in.weight", "double_blocks.0.img_attn.qkv.weight"], "Chroma"),
        (["double_stream_modulation_img.lin.weight", "img_in.weight", "double_blocks.0.img_attn.qkv.weight"], "FLUX.2"),
        (["head.modulation", "blocks.0.self_attn.q.weight"], "Wan"),
        (["transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight"], "LoRA"),
        (["lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight"], "LoRA"),
        (["single_transformer_blocks.0.attn.to_q.weight"], "diffusers' layout"),
        (["encoder.conv_in.weight"], "'encoder.conv_in.weight'"),
    ],
)
def test_another_model_is_refused_by_name(save, keys, named):
    assert named in refusal(save({key: torch.zeros(4, 4) for key in keys}))


def test_a_fill_or_control_model_is_refused(weights, save):
    assert "384" in refusal(save(weights | {"img_in.weight": torch.zeros(128, 384)}))


def test_a_missing_weight_is_named(weights, save):
    assert "'double_blocks.0.txt_mlp.2.bias'" in refusal(save(without(weights, "double_blocks.0.txt_mlp.2.bias")))
    assert "'single_blocks.0.linear2.weight'" in refusal(save(without(weights, "single_blocks.0.linear2.weight")))
    assert "'txt_in.weight'" in refusal(save(without(weights, "txt_in.weight")))


def test_an_unknown_weight_is_named_not_ignored(weights, save):
    assert "'txt_norm.weight'" in refusal(save(weights | {"txt_norm.weight": torch.zeros(96)}))


def test_a_weight_of_another_shape_is_named(weights, save):
    assert "'txt_in.bias' (129,)" in refusal(save(weights | {"txt_in.bias": torch.zeros(129)}))


@pytest.mark.parametrize("mark", ["txt_in.scale_weight", "txt_in.weight_scale", "txt_in.comfy_quant"])
def test_scaled_weights_are_refused_instead_of_read_without_their_scale(weights, save, mark):
    assert f"'{mark}'" in refusal(save(weights | {mark: torch.ones(1)}))


def described(description: object) -> torch.Tensor:
    return torch.tensor(list(json.dumps(description).encode()), dtype=torch.uint8)


@pytest.mark.parametrize("name", ["nvfp4", "mxfp8", "int8_tensorwise", "convrot_w4a4", "q7", None])
def test_weights_packed_for_inference_kernels_are_refused_by_their_format(weights, save, name):
    text = refusal(save(weights | {"txt_in.comfy_quant": described({"format": name})}))
    assert "'txt_in'" in text
    assert repr(name) in text


def test_a_description_that_cannot_be_read_is_refused(weights, save):
    assert "'txt_in.comfy_quant'" in refusal(save(weights | {"txt_in.comfy_quant": torch.full((3,), 255).byte()}))
    assert "'txt_in.comfy_quant'" in refusal(save(weights | {"txt_in.comfy_quant": torch.ones(3).bfloat16()}))
    assert "'txt_in'" in refusal(save(weights | {"txt_in.comfy_quant": described(["float8_e4m3fn"])}))
    assert "'txt_in'" in refusal(save(weights | {"txt_in.comfy_quant": described({"format": [1]})}))
    assert "metadata" in refusal(save(weights, metadata={"_quantization_metadata": '{"layers": 3}'}))


@pytest.mark.parametrize("scale", [None, torch.ones(128, 1), torch.ones(128)])
def test_a_scale_that_comfyui_could_not_use_is_refused(weights, save, scale):
    scaled = weights | {"txt_in.comfy_quant": described({"format": "float8_e4m3fn"})}
    assert "'txt_in.weight_scale'" in refusal(save(scaled | ({} if scale is None else {"txt_in.weight_scale": scale})))


def test_how_a_checkpoints_text_encoder_is_packed_does_not_matter(weights, save):
    checkpoint = {f"model.diffusion_model.{key}": tensor for key, tensor in weights.items()}
    path = save(checkpoint | {"text_encoders.t5.comfy_quant": described({"format": "nvfp4"})})
    assert detection.inspect(path).double_blocks == 1


def test_a_marker_without_scales_marks_nothing(weights, save):
    path = save(weights | {"scaled_fp8": torch.zeros(0)})
    assert torch.equal(loading.load_transformer(path, "fp32").context_embedder.weight, weights["txt_in.weight"])


def test_integer_weights_are_refused(weights, save):
    assert "I8" in refusal(save(weights | {"txt_in.weight": torch.zeros(128, 96, dtype=torch.int8)}))


@pytest.mark.parametrize("kept", [0, 5, 8, 200, 100_000, -1])
def test_a_truncated_file_is_refused(weights, save, kept):
    path = save(weights)
    path.write_bytes(path.read_bytes()[:kept])
    assert "not a whole safetensors file" in refusal(path)


@pytest.mark.parametrize(
    "header", [b"not json", b"[]", b'{"a": 1}', b'{"a": {"dtype": "F32", "shape": [1]}}', b"\xff\xfe"]
)
def test_a_nonsensical_header_is_refused(tmp_path, header):
    path = tmp_path / "flux.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    assert "not a whole safetensors file" in refusal(path)


def test_gguf_and_pickles_are_refused_unopened(tmp_path):
    class Explosive:
        def __reduce__(self):
            return (shutil.rmtree, (str(tmp_path),))

    gguf, archive, bare = (tmp_path / name for name in ("flux.gguf", "flux.ckpt", "flux.safetensors"))
    gguf.write_bytes(b"GGUF" + bytes(100))
    torch.save(Explosive(), archive)
    bare.write_bytes(pickle.dumps(Explosive()))
    assert "GGUF" in refusal(gguf)
    assert "pickle" in refusal(archive)
    assert "pickle" in refusal(bare)
    assert "There is no model file" in refusal(tmp_path / "gone.safetensors")


def test_a_copy_has_the_same_fingerprint_whatever_its_name_and_metadata(weights, save, tmp_path):
    path = save(weights)
    copy = tmp_path / "copy.safetensors"
    shutil.copy(path, copy)
    annotated = save(load_file(path), "annotated.safetensors", {"modelspec.title": "another"})
    first = flux_fingerprint(path)
    assert len(first) == 16
    assert flux_fingerprint(copy) == flux_fingerprint(annotated) == first


def test_a_changed_model_has_another_fingerprint(weights, save):
    first = flux_fingerprint(save(weights))
    one_bias = weights | {"final_layer.linear.bias": weights["final_layer.linear.bias"] + 1e-3}
    merged = {key: tensor * 1.001 if "linear1" in key else tensor for key, tensor in weights.items()}
    renamed = {key.replace("guidance_in", "guidance_out"): tensor for key, tensor in weights.items()}
    assert len({first, *(flux_fingerprint(save(other)) for other in (one_bias, merged, renamed))}) == 4


def test_the_fingerprint_reads_the_ends_of_a_large_tensor(save):
    large = torch.zeros(1_000_000)
    first = flux_fingerprint(save({"large": large}))
    for place in (0, -1):
        changed = large.clone()
        changed[place] = 1
        assert flux_fingerprint(save({"large": changed})) != first


def test_no_tensor_data_is_needed_to_inspect(weights, save, tmp_path):
    path = save(weights)
    length = int.from_bytes(path.read_bytes()[:8], "little")
    hollow = tmp_path / "hollow.safetensors"
    hollow.write_bytes(path.read_bytes()[: 8 + length])
    with open(hollow, "r+b") as file:
        file.truncate(path.stat().st_size)
    assert detection.inspect(hollow) == detection.inspect(path)


# ---- Quantised bases ----------------------------------------------------------------------------------------------

BLOCKS = {"hidden_size": 256, "double_blocks": 2, "single_blocks": 3, "context_width": 96, "pooled_width": 40}
# Relative error of the velocity at most, and cosine of the LoRA's gradient at least, both beside the float32 base.
ACCURACY = {"bf16": (0.02, 0.999), "int8": (0.03, 0.999), "fp8": (0.06, 0.995), "nf4": (0.18, 0.95)}


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory):
    """A FLUX.1 file whose weights are normally distributed, as trained ones about are, and all show in the velocity."""
    generator, drawn = torch.Generator().manual_seed(0), {}
    for key, like in transformer_weights(**BLOCKS).items():
        noise = torch.randn(like.shape, generator=generator)
        drawn[key] = noise * like.shape[1] ** -0.5 if like.dim() == 2 else 0.2 * noise + ("_norm." in key)
    path = tmp_path_factory.mktemp("ordinary") / "flux.safetensors"
    save_file(drawn, path)
    return path


def inputs() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    latents, t5, pooled = (torch.randn(size, generator=generator) for size in ((2, 16, 12, 20), (2, 9, 96), (2, 40)))
    return latents, torch.tensor([0.2, 0.8]), t5, pooled


def trained(path, precision: str, steps: int = 1) -> tuple[torch.Tensor, torch.Tensor, list[float]]:
    """The base's velocity, the LoRA's first gradient, and the loss at each step towards a velocity of its own."""
    transformer = loading.load_transformer(path, precision)
    with torch.no_grad():
        velocity = predict_velocity(transformer, *inputs())
    transformer.train()
    parameters = adapter.add_lora(transformer, LoraShape(4, 4.0, "all linear"), seed=0)
    optimizer, losses, gradient = torch.optim.AdamW(parameters, lr=3e-3), [], torch.empty(0)
    target = torch.randn(velocity.shape, generator=torch.Generator().manual_seed(2))
    for step in range(steps):
        loss = (predict_velocity(transformer, *inputs(), checkpointing=True) - target).square().mean()
        loss.backward()
        if step == 0:
            gradient = torch.cat([parameter.grad.flatten() for parameter in parameters])
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert all(b.any() for b in parameters[1::2]), "every layer of the LoRA has left its start"
    return velocity, gradient, losses


@pytest.mark.parametrize("precision", ACCURACY)
def test_a_cheaper_base_says_nearly_the_same_and_teaches_the_lora_nearly_the_same(ordinary, precision):
    expected, expected_gradient, _ = trained(ordinary, "fp32")
    velocity, gradient, losses = trained(ordinary, precision, steps=5)
    error, cosine = ACCURACY[precision]
    assert (velocity - expected).norm() < error * expected.norm()
    assert torch.cosine_similarity(gradient, expected_gradient, dim=0) > cosine
    assert losses[-1] < 0.95 * losses[0]


@pytest.mark.parametrize("precision", quantisation.QUANTISED)
def test_what_the_blocks_multiply_by_is_quantised_and_nothing_else(ordinary, precision):
    transformer = loading.load_transformer(ordinary, precision)
    linears = {name: module for name, module in transformer.named_modules() if isinstance(module, torch.nn.Linear)}
    quantised = {name for name, module in linears.items() if isinstance(module, quantisation.QuantisedLinear)}
    assert quantised == {name for name in linears if name.split(".")[0].endswith("transformer_blocks")}
    assert {linears[name].values.dtype for name in quantised} == {torch.int8 if precision == "int8" else torch.uint8}
    stored = {id(linears[name].get_parameter(part)) for name in quantised for part in linears[name].stored_dtypes}
    assert {tensor.dtype for tensor in transformer.parameters() if id(tensor) not in stored} == {torch.bfloat16}
    assert not any(parameter.requires_grad or parameter.is_meta for parameter in transformer.parameters())


@pytest.mark.parametrize("precision", quantisation.PRECISIONS)
def test_the_sizes_announced_are_those_of_the_loaded_weights(ordinary, precision):
    sizes = loading.weight_sizes(detection.inspect(ordinary), precision)
    transformer = loading.load_transformer(ordinary, precision)
    assert sum(sizes.values()) == sum(tensor.nbytes for tensor in transformer.parameters())
    block = "transformer_blocks.1."
    announced = sum(size for name, size in sizes.items() if name.startswith(block))
    assert announced == sum(tensor.nbytes for tensor in transformer.transformer_blocks[1].parameters())


@pytest.mark.parametrize(("precision", "gigabytes"), [("bf16", 23.8), ("fp8", 12.0), ("int8", 12.0), ("nf4", 6.2)])
def test_flux_dev_takes_what_is_known_of_it(precision, gigabytes):
    dev = layout.FluxArchitecture(3072, 24, 19, 38, 4096, 768, 64, True, "", 11_901_408_320)
    assert sum(loading.weight_sizes(dev, precision).values()) / 1e9 == pytest.approx(gigabytes, abs=0.05)


@pytest.mark.parametrize("precision", quantisation.QUANTISED)
def test_the_same_file_is_quantised_to_the_same_bytes(ordinary, precision):
    first, second = (loading.load_transformer(ordinary, precision) for _ in range(2))
    assert all(torch.equal(one, two) for one, two in zip(first.parameters(), second.parameters(), strict=True))


def test_an_fp8_file_stays_as_it_is_in_fp8(weights, save):
    cast = {key: tensor.to(torch.float8_e4m3fn) for key, tensor in weights.items()}
    layer = loading.load_transformer(save(cast), "fp8").single_transformer_blocks[0].proj_out
    assert torch.equal(layer.values.view(torch.float8_e4m3fn), cast["single_blocks.0.linear2.weight"])
    assert (layer.scale == 1).all()


def test_the_log_names_the_precision_in_use(ordinary, caplog):
    with caplog.at_level(logging.INFO):
        loading.load_transformer(ordinary, "int8")
    assert "46 of 126 tensors in int8, the others in torch.bfloat16" in caplog.text


def test_float16_is_read_but_never_computed_in(weights, save):
    path = save({key: tensor.half() for key, tensor in weights.items()})
    for precision in quantisation.PRECISIONS:
        dtypes = {parameter.dtype for parameter in loading.load_transformer(path, precision).parameters()}
        assert torch.float16 not in dtypes
    with pytest.raises(SettingsError, match="fp16"):
        loading.load_transformer(path, "fp16")


def test_loading_tells_how_far_it_is_and_can_be_stopped(weights, save):
    heard = []

    def listen(done: int, total: int, text: str = "", preview: object = None) -> None:
        heard.append((done, total, text))
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loading.load_transformer(save(weights), "fp8", progress=listen)
    assert [done for done, _, _ in heard] == list(range(6))
    assert heard[0][1] > 50
    assert "fp8" in heard[0][2]


@pytest.mark.skipif(sys.platform != "linux", reason="anonymous memory is read from /proc")
def test_the_unquantised_model_is_never_in_memory(tmp_path):
    """Only what lies in the file's memory map is as large as the file, and that is not the process's own."""
    path = tmp_path / "flux.safetensors"
    save_file(transformer_weights(hidden_size=384, double_blocks=3, single_blocks=4), path)
    anonymous = []

    def measure(*_: object) -> None:
        status = Path("/proc/self/status").read_text()
        anonymous.append(next(int(line.split()[1]) * 1024 for line in status.splitlines() if "RssAnon" in line))

    loading.load_transformer(path, "nf4")  # what the libraries allocate once
    transformer = loading.load_transformer(path, "nf4", progress=measure)
    assert sum(tensor.nbytes for tensor in transformer.parameters()) < path.stat().st_size / 6
    assert max(anonymous) - anonymous[0] < path.stat().st_size / 3
