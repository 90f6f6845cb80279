import pickle
import shutil

import pytest
import torch
from impasto.embedded.transformer_weights import transformer_weights
from impasto.errors import ModelError
from impasto.trainers import flux_weights
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


@pytest.mark.parametrize("prefix", flux_weights.PREFIXES)
@pytest.mark.parametrize("guidance", [True, False])
def test_the_architecture_is_read_from_the_header(weights, save, prefix, guidance):
    kept = {key: tensor for key, tensor in weights.items() if guidance or "guidance_in" not in key}
    path = save({prefix + key: tensor for key, tensor in kept.items()})
    assert flux_weights.inspect(path) == flux_weights.FluxArchitecture(
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
    assert flux_weights.inspect(path).parameters == sum(tensor.numel() for tensor in weights.values())
    assert len(list(flux_weights.load_transformer(path, "fp32").parameters())) > 0


def test_every_weight_arrives_and_can_be_mapped_back(weights, save):
    path = save(weights)
    transformer = flux_weights.load_transformer(path, "fp32")
    assert not any(parameter.is_meta for parameter in transformer.parameters())
    back = flux_weights.diffusers_to_bfl(transformer.state_dict(), flux_weights.inspect(path))
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[key], weights[key]) for key in weights)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_other_precisions_are_cast(weights, save, stored):
    cast = {key: tensor.to(stored) for key, tensor in weights.items()}
    transformer = flux_weights.load_transformer(save(cast), "fp32")
    expected = cast["img_in.weight"].float()
    assert torch.equal(transformer.x_embedder.weight, expected)
    assert {parameter.dtype for parameter in transformer.parameters()} == {torch.float32}


def test_the_loaded_base_is_frozen_and_owns_its_memory(weights, save):
    path = save(weights)
    transformer = flux_weights.load_transformer(path, "fp32")
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(transformer.context_embedder.weight, weights["txt_in.weight"])
    assert not transformer.training
    assert not any(parameter.requires_grad for parameter in transformer.parameters())


def test_norms_named_as_comfyui_saves_them_are_known(weights, save):
    published = {key.replace("_norm.weight", "_norm.scale"): tensor for key, tensor in weights.items()}
    saved = {key.replace("_norm.scale", "_norm.weight"): tensor for key, tensor in weights.items()}
    assert published.keys() != saved.keys()
    first, second = (flux_weights.load_transformer(save(names), "fp32") for names in (published, saved))
    assert all(torch.equal(one, two) for one, two in zip(first.parameters(), second.parameters(), strict=True))


def refusal(path) -> str:
    with pytest.raises(ModelError) as refused:
        flux_weights.load_transformer(path)
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
    first = flux_weights.fingerprint(path)
    assert len(first) == 16
    assert flux_weights.fingerprint(copy) == flux_weights.fingerprint(annotated) == first


def test_a_changed_model_has_another_fingerprint(weights, save):
    first = flux_weights.fingerprint(save(weights))
    one_bias = weights | {"final_layer.linear.bias": weights["final_layer.linear.bias"] + 1e-3}
    merged = {key: tensor * 1.001 if "linear1" in key else tensor for key, tensor in weights.items()}
    renamed = {key.replace("guidance_in", "guidance_out"): tensor for key, tensor in weights.items()}
    assert len({first, *(flux_weights.fingerprint(save(other)) for other in (one_bias, merged, renamed))}) == 4


def test_the_fingerprint_reads_the_ends_of_a_large_tensor(save):
    large = torch.zeros(1_000_000)
    first = flux_weights.fingerprint(save({"large": large}))
    for place in (0, -1):
        changed = large.clone()
        changed[place] = 1
        assert flux_weights.fingerprint(save({"large": changed})) != first


def test_no_tensor_data_is_needed_to_inspect(weights, save, tmp_path):
    path = save(weights)
    length = int.from_bytes(path.read_bytes()[:8], "little")
    hollow = tmp_path / "hollow.safetensors"
    hollow.write_bytes(path.read_bytes()[: 8 + length])
    with open(hollow, "r+b") as file:
        file.truncate(path.stat().st_size)
    assert flux_weights.inspect(hollow) == flux_weights.inspect(path)
