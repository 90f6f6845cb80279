"""LoRA files of a FLUX.1 with 8 channels: their names, and that a LoRA does the same in every format."""

import pytest
import torch
from impasto.errors import SettingsError, TrainingError
from impasto.trainers.lora import file_formats as lora_files
from impasto.trainers.lora.file_formats import FORMATS, PREFIX, check_format, convert, read
from impasto.trainers.lora.targets import TARGETS, LoraShape, is_target
from safetensors.torch import save_file

HIDDEN = 8
IMAGE = "transformer.transformer_blocks.1.attn"
SINGLE = "transformer.single_transformer_blocks.0"
QKV = {f"{IMAGE}.to_q": 1, f"{IMAGE}.to_k": 1, f"{IMAGE}.to_v": 1}
LINEAR1 = {f"{SINGLE}.attn.to_q": 1, f"{SINGLE}.attn.to_k": 1, f"{SINGLE}.attn.to_v": 1, f"{SINGLE}.proj_mlp": 4}


def layer(name: str, outputs: int = 1, inputs: int = 1, rank: int = 4, alpha: float = 6.0, seed: int = 0) -> dict:
    """A layer in our form; `outputs` and `inputs` in units of the hidden size."""
    generator = torch.Generator().manual_seed(seed + sum(map(ord, name)))
    return {
        f"{name}.lora_A.weight": torch.randn(rank, inputs * HIDDEN, generator=generator),
        f"{name}.lora_B.weight": torch.randn(outputs * HIDDEN, rank, generator=generator),
        f"{name}.alpha": torch.tensor(alpha),
    }


def layers(sizes: dict[str, int], **settings) -> dict:
    return {key: tensor for name, outputs in sizes.items() for key, tensor in layer(name, outputs, **settings).items()}


def whole() -> dict:
    """A LoRA with a layer of every kind."""
    plain = {f"{IMAGE}.to_out.0": (1, 1), f"{SINGLE}.proj_out": (1, 5), f"{SINGLE}.norm.linear": (3, 1)}
    plain |= {"transformer.transformer_blocks.0.ff.net.0.proj": (4, 1), "transformer.norm_out.linear": (2, 1)}
    plain |= {"transformer.transformer_blocks.0.ff_context.net.2": (1, 4)}
    state = layers(QKV) | layers(LINEAR1)
    for name, (outputs, inputs) in plain.items():
        state |= layer(name, outputs, inputs)
    return state


def effect(state: dict, name: str) -> torch.Tensor:
    """What a loader that knows (alpha / rank) · B·A adds to the layer's weight, whatever A and B are called."""
    endings = [(".lora_A.weight", ".lora_B.weight"), (".lora_down.weight", ".lora_up.weight")]
    down, up = next((state[name + down], state[name + up]) for down, up in endings if name + down in state)
    return state.get(f"{name}.alpha", torch.tensor(float(len(down)))) / len(down) * (up @ down)


def effects(state: dict, names) -> torch.Tensor:
    return torch.cat([effect(state, name) for name in names])


def file_of(tmp_path, state: dict, metadata: dict | None = None):
    path = tmp_path / "lora.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, path, metadata)
    return path


def assert_same_effect(one: dict, other: dict) -> None:
    names = {key.removesuffix(".alpha") for key in one if key.endswith(".alpha")}
    assert names == {key.removesuffix(".alpha") for key in other if key.endswith(".alpha")}
    for name in names:
        assert torch.allclose(effect(one, name), effect(other, name), rtol=1e-5, atol=1e-5), name


@pytest.mark.parametrize("format", lora_files.FORMATS)
def test_a_lora_comes_back_from_every_format(tmp_path, format):
    state = whole()
    back = read(file_of(tmp_path, convert(state, format)))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], tensor) for key, tensor in state.items())


def test_the_default_format_is_our_own():
    state = whole()
    assert convert(state, "diffusers") == state


def test_names_are_those_of_sd_scripts():
    # networks/lora_flux.py: the module's name in BFL's model with underscores for dots
    assert {key.split(".")[0] for key in convert(whole(), "kohya")} == {
        "lora_unet_double_blocks_0_img_mlp_0",
        "lora_unet_double_blocks_0_txt_mlp_2",
        "lora_unet_double_blocks_1_img_attn_proj",
        "lora_unet_double_blocks_1_img_attn_qkv",
        "lora_unet_single_blocks_0_linear1",
        "lora_unet_single_blocks_0_linear2",
        "lora_unet_single_blocks_0_modulation_lin",
        "lora_unet_final_layer_adaLN_modulation_1",
    }
    endings = {key.partition(".")[2] for key in convert(whole(), "kohya")}
    assert endings == {"lora_down.weight", "lora_up.weight", "alpha"}


def test_names_are_those_of_comfyui_s_trainer():
    converted = convert(layers(QKV), "comfyui")
    module = "diffusion_model.double_blocks.1.img_attn.qkv"
    assert converted.keys() == {f"{module}.lora_down.weight", f"{module}.lora_up.weight", f"{module}.alpha"}


@pytest.mark.parametrize("sizes", [QKV, LINEAR1], ids=["qkv", "linear1"])
@pytest.mark.parametrize(("rank", "alpha"), [(4, 4.0), (4, 6.0), (8, 1.0), (3, 7.0)])
def test_a_fused_layer_is_as_strong_as_its_parts(sizes, rank, alpha):
    state = layers(sizes, rank=rank, alpha=alpha)
    converted = convert(state, "comfyui")
    module = next(iter(converted)).removesuffix(".lora_down.weight")
    assert torch.allclose(effect(converted, module), effects(state, sizes), rtol=1e-6, atol=1e-6)
    assert len(converted[f"{module}.lora_down.weight"]) == len(sizes) * rank
    assert converted[f"{module}.alpha"].item() == pytest.approx(alpha * len(sizes))


def test_parts_of_different_rank_and_alpha_are_fused_exactly(tmp_path):
    state = {}
    for index, (name, outputs) in enumerate(LINEAR1.items()):
        state |= layer(name, outputs, rank=2 + index, alpha=1.0 + index)
    converted = convert(state, "kohya")
    assert torch.allclose(
        effect(converted, "lora_unet_single_blocks_0_linear1"), effects(state, LINEAR1), rtol=1e-5, atol=1e-5
    )
    back = read(file_of(tmp_path, converted))
    assert_same_effect(state, back)
    assert [len(back[f"{name}.lora_A.weight"]) for name in LINEAR1] == [2, 3, 4, 5]


def test_a_layer_that_is_trained_in_part_leaves_the_rest_alone(tmp_path):
    state = layers({name: outputs for name, outputs in LINEAR1.items() if "proj_mlp" not in name})
    converted = convert(state, "comfyui")
    module = "diffusion_model.single_blocks.0.linear1"
    assert converted[f"{module}.lora_up.weight"].shape == (7 * HIDDEN, 12)
    assert not effect(converted, module)[3 * HIDDEN :].any()
    assert_same_effect(state, read(file_of(tmp_path, converted)))


@pytest.mark.parametrize("outputs", [3, 7], ids=["qkv", "linear1"])
def test_the_shared_down_matrix_of_a_lora_by_sd_scripts_is_not_cut(tmp_path, outputs):
    module = "lora_unet_double_blocks_1_img_attn_qkv" if outputs == 3 else "lora_unet_single_blocks_0_linear1"
    names = QKV if outputs == 3 else LINEAR1
    file = {
        f"{module}.lora_down.weight": torch.randn(4, HIDDEN),
        f"{module}.lora_up.weight": torch.randn(outputs * HIDDEN, 4),
        f"{module}.alpha": torch.tensor(1.0),
    }
    state = read(file_of(tmp_path, file))
    assert torch.allclose(effects(state, names), effect(file, module), rtol=1e-6, atol=1e-6)
    assert {len(state[f"{name}.lora_A.weight"]) for name in names} == {4}
    again = convert(state, "kohya")
    assert again.keys() == file.keys()
    assert all(torch.equal(again[key], tensor) for key, tensor in file.items())


def test_a_file_without_alpha_has_its_rank_for_alpha(tmp_path):
    state = layers(QKV)
    path = file_of(tmp_path, {key: tensor for key, tensor in state.items() if not key.endswith(".alpha")})
    assert {tensor.item() for key, tensor in read(path).items() if key.endswith(".alpha")} == {4.0}


@pytest.mark.parametrize(
    ("prefix", "underscores", "endings"),
    [
        ("transformer.", False, ("lora_A.weight", "lora_B.weight")),  # ai-toolkit, diffusers, SimpleTuner
        ("", False, ("lora_A.default.weight", "lora_B.default.weight")),
        ("base_model.model.", False, ("lora_A.weight", "lora_B.weight")),  # PEFT
        ("lora_transformer_", True, ("lora_down.weight", "lora_up.weight")),  # OneTrainer
        ("lycoris_", True, ("lora_down.weight", "lora_up.weight")),  # SimpleTuner through LyCORIS
    ],
)
def test_names_of_other_trainers_are_known(tmp_path, prefix, underscores, endings):
    state = whole()
    file = {}
    for key, tensor in state.items():
        module, _, ending = key.removeprefix("transformer.").rpartition(".lora_" if "lora_" in key else ".")
        name = prefix + (module.replace(".", "_") if underscores else module)
        file[f"{name}.{ending if ending == 'alpha' else endings['B' in ending]}"] = tensor.bfloat16()
    back = read(file_of(tmp_path, file))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], tensor.bfloat16().float()) for key, tensor in state.items())


def test_diffusers_reads_our_kohya_files_at_full_strength():
    from diffusers import FluxPipeline

    widths = {"attn.to_q": 3072, "attn.to_k": 3072, "attn.to_v": 3072, "proj_mlp": 12288}
    names = {f"{SINGLE}.{part}": outputs // HIDDEN for part, outputs in widths.items()}
    state = {}
    for index, (name, outputs) in enumerate(names.items()):
        state |= layer(name, outputs, inputs=3072 // HIDDEN, rank=2 + index, alpha=5.0)
    loaded = FluxPipeline.lora_state_dict(convert(state, "kohya"))
    assert len(loaded) == 2 * len(names)
    for name in names:
        product = loaded[f"{name}.lora_B.weight"] @ loaded[f"{name}.lora_A.weight"][:, :64]
        assert torch.allclose(product, effect(state, name)[:, :64], rtol=1e-4, atol=1e-4)


def with_dora(state: dict) -> dict:
    for key in [key for key in state if key.endswith(".lora_B.weight")]:
        name, outputs = key.removesuffix(".lora_B.weight"), len(state[key])
        state |= {f"{name}.lora_magnitude_vector": torch.rand(outputs), f"{name}.dora_scale": torch.rand(outputs, 1)}
    return state


def test_a_dora_s_scale_is_in_comfyui_s_layout_row_by_row(tmp_path):
    state = with_dora(layers(LINEAR1))
    converted = convert(state, "comfyui")
    expected = torch.cat([state[f"{name}.dora_scale"] for name in LINEAR1])
    assert torch.equal(converted["diffusion_model.single_blocks.0.linear1.dora_scale"], expected)
    back = read(file_of(tmp_path, converted))
    assert all(torch.equal(back[f"{name}.dora_scale"], state[f"{name}.dora_scale"]) for name in LINEAR1)
    assert not any("magnitude" in key for key in converted)


@pytest.mark.parametrize(
    ("state", "format", "named"),
    [
        (with_dora(layers(QKV)), "kohya", "sd-scripts has no DoRA"),
        (with_dora(layers({f"{IMAGE}.to_q": 1})), "comfyui", "only a part of 'double_blocks.1.img_attn.qkv'"),
        (layers(QKV), "safetensors", "no LoRA file format 'safetensors'.*kohya"),
        (layer("transformer.other"), "kohya", "'other'"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(state, format, named):
    with pytest.raises(SettingsError, match=named):
        convert(state, format)


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("format", FORMATS)
def test_a_dora_is_refused_before_training_exactly_where_the_format_could_not_hold_it_after(format, targets):
    parts = {name: rows for parts in lora_files._fused_modules(1).values() for name, rows in parts.items()}
    trained = {
        f"{PREFIX}{name}": sum(stop - start for start, stop in rows)
        for name, rows in parts.items()
        if is_target(name, targets)
    }
    before = refusal(check_format, format, LoraShape(4, 4.0, targets, dora=True))
    assert before == refusal(convert, with_dora(layers(trained)), format)
    check_format(format, LoraShape(4, 4.0, targets))


def refusal(check, *arguments) -> str | None:
    try:
        check(*arguments)
    except SettingsError as error:
        return str(error)


def test_a_format_is_refused_before_training_by_its_name():
    with pytest.raises(SettingsError, match="no LoRA file format 'safetensors'.*kohya"):
        check_format("safetensors")


def test_an_exported_file_keeps_its_metadata(tmp_path):
    source = file_of(tmp_path, whole(), {"ss_network_dim": "4"})
    target = tmp_path / "kohya.safetensors"
    lora_files.export(source, target, "kohya")
    assert lora_files._load(target)[1] == {"ss_network_dim": "4"}
    assert_same_effect(whole(), read(target))


NOT_A_NUMBER = layers(QKV)
NOT_A_NUMBER[f"{IMAGE}.to_q.lora_A.weight"][0, 0] = float("nan")


@pytest.mark.parametrize(
    ("state", "named"),
    [
        (
            layers(QKV) | {"lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha": torch.ones(())},
            "a text encoder.*lora_te1",
        ),
        (layers(QKV) | {"text_encoder.text_model.x.lora_A.weight": torch.ones(4, 8)}, "a text encoder"),
        (
            layers(QKV) | {"diffusion_model.img_in.diff_b": torch.ones(8)},
            "changed norms, biases or whole weights.*on top of it",
        ),
        ({"lora_unet_double_blocks_0_img_mlp_0.lokr_w1": torch.ones(8, 8)}, "a LoKr"),
        ({"lora_unet_double_blocks_0_img_mlp_0.hada_w1_a": torch.ones(8, 8)}, "a LoHa"),
        ({"model.diffusion_model.img_in.lokr_w1": torch.ones(8, 8)}, r"a LoKr .*Choose a LoRA of FLUX\.1\.$"),
        (layer("transformer.transformer_blocks.1.attn.to_x"), "something that FLUX.1 lacks"),
        (layer("transformer.transformer_blocks.99999999999.attn.to_q"), "something that FLUX.1 lacks"),
        ({f"{IMAGE}.to_q.lora_A.weight": torch.ones(4, 8)}, "incomplete.*transformer_blocks.1.attn.to_q"),
        (layers(QKV) | {f"{IMAGE}.to_q.lora_A.weight": torch.ones(3, 8)}, "incomplete"),
        (layers(QKV) | {f"{IMAGE}.to_q.dora_scale": torch.ones(1, 8)}, "a magnitude for each input"),
        (NOT_A_NUMBER, "not finite"),
        (layers(QKV) | {f"{IMAGE}.to_q.lora_down.weight": torch.ones(4, 8)}, "twice, under two names"),
        (layers(QKV) | convert(layers(QKV), "kohya"), "twice, under two names"),
    ],
)
def test_a_file_that_is_no_whole_lora_of_the_transformer_is_refused(tmp_path, state, named):
    with pytest.raises(TrainingError, match=named):
        read(file_of(tmp_path, state))


@pytest.mark.parametrize(
    ("key", "family"),
    [
        ("transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj.lora_A.weight", "a LoRA of FLUX.2"),
        ("diffusion_model.double_stream_modulation_img.lin.lora_A.weight", "a LoRA of FLUX.2"),
        ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.alpha", "Stable Diffusion 1.5 or 2"),
        ("lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q.lora_down.weight", "a LoRA of SDXL"),
        ("unet.down_blocks.2.attentions.0.transformer_blocks.9.attn1.to_q.lora_A.weight", "a LoRA of SDXL"),
        ("lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight", "a LoRA of Stable Diffusion 3"),
        ("diffusion_model.layers.0.attention.qkv.lora_A.weight", "a LoRA of Z-Image or Lumina"),
        ("lora_unet_layers_3_attention_to_q.lora_down.weight", "a LoRA of Z-Image or Lumina"),
        ("diffusion_model.blocks.0.self_attn.q.lora_A.weight", "a LoRA of Wan"),
        ("lora_unet_blocks_0_cross_attn_k.lora_down.weight", "a LoRA of Wan"),
        ("transformer.transformer_blocks.0.img_mlp.net.0.proj.lora_A.weight", "a LoRA of Qwen-Image"),
        ("transformer.double_blocks.0.img_attn_qkv.lora_A.weight", "a LoRA of HunyuanVideo"),
        ("lora_unet_double_blocks_0_img_mlp_fc1.lora_down.weight", "a LoRA of HunyuanVideo"),
        ("diffusion_model.double_stream_blocks.0.block.attn1.to_q.lora_A.weight", "a LoRA of HiDream"),
        ("diffusion_model.distilled_guidance_layer.layers.0.in_layer.lora_A.weight", "a LoRA of Chroma"),
        ("transformer.transformer_blocks.0.attn1.to_q.lora_A.weight", "a LoRA of LTX-Video or PixArt"),
        ("bundle_emb.mucha.t5", "embeddings for a text encoder"),
        ("t5xxl", "embeddings for a text encoder"),
        ("lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", "a LoRA of text encoders alone"),
        ("model.diffusion_model.img_in.weight", "a whole model"),
        ("single_blocks.0.norm.key_norm.scale", "a FLUX.1 control LoRA"),
        ("double_blocks.0.ip_adapter.k_proj.weight", "an IP-Adapter"),
    ],
)
def test_what_cannot_be_read_is_named_by_its_family_and_never_to_be_put_on_the_model(tmp_path, key, family):
    with pytest.raises(TrainingError, match=family) as refused:
        read(file_of(tmp_path, {key: torch.ones(4, 8)}))
    assert key in str(refused.value) and str(refused.value).endswith("Choose a LoRA of FLUX.1.")


def test_layers_of_flux_2_that_are_called_as_those_of_flux_1_are_known_by_their_outputs(tmp_path):
    name = "diffusion_model.single_blocks.0.linear1"
    file = {f"{name}.lora_A.weight": torch.ones(4, 8), f"{name}.lora_B.weight": torch.ones(9 * 8, 4)}
    with pytest.raises(TrainingError, match=r"such as FLUX\.2: its layer '.*linear1' has 72 outputs"):
        read(file_of(tmp_path, file))


def test_a_file_that_is_missing_or_torn_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="no LoRA file"):
        read(tmp_path / "lora.safetensors")
    path = file_of(tmp_path, whole())
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(TrainingError, match="not a whole safetensors file"):
        read(path)


def test_the_order_of_parts_and_modules_does_not_matter(tmp_path):
    state = whole()
    turned = dict(reversed(state.items()))
    for format in lora_files.FORMATS:
        assert_same_effect(state, read(file_of(tmp_path, convert(turned, format))))
