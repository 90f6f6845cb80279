"""Models beside plain FLUX.1 files in training, encoding and sampling: GGUF, other layouts, attached code."""

from types import SimpleNamespace

import gguf
import pytest
import torch
from impasto.embedded.transformer_weights import transformer_weights
from impasto.errors import ModelError
from impasto.trainers.flux import detection, layout, loading
from impasto.trainers.settings import Settings
from safetensors.torch import load_file, save_file

from . import ggml
from .test_training_node import encoded, held, node  # noqa: F401 (fixtures)

SIZE = {"hidden_size": 256, "double_blocks": 1, "single_blocks": 1}
KINDS = ("Q8_0", "Q4_0", "Q5_1", "BF16", *ggml.SCALES)


@pytest.fixture(scope="module")
def weights():
    return transformer_weights(**SIZE)


@pytest.fixture(scope="module")
def q8(weights, tmp_path_factory):
    return ggml.write(tmp_path_factory.mktemp("gguf") / "flux.gguf", weights)


def stands_for(path) -> dict[str, torch.Tensor]:
    """What the tensors of a .gguf file stand for, as the package reads them from the file."""
    tensors = gguf.GGUFReader(path).tensors
    return {tensor.name: torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type)) for tensor in tensors}


def named_as_published(path) -> dict[str, torch.Tensor]:
    return {layout.canonical(key.removeprefix("diffusion_model.")): value for key, value in load_file(path).items()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_gguf_model_is_written_out_as_what_it_stands_for(comfyui, weights, tmp_path, kind):
    from impasto.nodes.host import models

    file = ggml.write(tmp_path / "flux.gguf", weights, kind)
    written = models.flux_weights_file(ggml.load(file))
    expected = stands_for(file)
    found = named_as_published(written)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value.reshape(found[key].shape).to(found[key].dtype)), key
    assert {value.dtype for key, value in found.items() if "blocks" in key and value.ndim == 2} == {torch.bfloat16}
    architecture = detection.inspect(written)
    assert (architecture.double_blocks, architecture.single_blocks, architecture.hidden_size) == (1, 1, 256)


def test_training_computes_with_a_gguf_model_what_comfyui_does(comfyui, q8):
    from impasto.nodes.host import models
    from impasto.trainers.flux.forward import predict_velocity

    model = ggml.load(q8)
    generator = torch.Generator().manual_seed(1)
    latents, t5, pooled = (torch.randn(shape, generator=generator) for shape in ((1, 16, 8, 8), (1, 6, 128), (1, 64)))
    sigma = torch.tensor([0.4])
    flux = model.model.diffusion_model
    with torch.no_grad():
        sampled = flux(latents, sigma, context=t5, y=pooled, guidance=torch.tensor([2.0]))
        trained = predict_velocity(
            loading.load_transformer(models.flux_weights_file(model), "fp32"), latents, sigma, t5, pooled, guidance=2.0
        )
    assert torch.allclose(trained, sampled, atol=0.02 * sampled.abs().max())


def test_a_gguf_model_with_a_lora_is_written_out_with_it(comfyui, q8, tmp_path):
    from impasto.nodes.host import models

    name = "diffusion_model.double_blocks.0.img_attn.proj"
    lora = {f"{name}.lora_A.weight": torch.randn(4, 256), f"{name}.lora_B.weight": torch.randn(256, 4)}
    save_file(lora, tmp_path / "lora.safetensors")
    model = ggml.load(q8)
    patched = models.with_lora(model, tmp_path / "lora.safetensors", 0.5)
    plain, merged = (load_file(models.flux_weights_file(each))[f"{name}.weight"] for each in (model, patched))
    delta = 0.5 * lora[f"{name}.lora_B.weight"] @ lora[f"{name}.lora_A.weight"]
    assert torch.allclose(merged.float(), plain.float() + delta, rtol=2**-7, atol=2**-7)


def test_a_gguf_model_is_known_by_its_content(comfyui, weights, q8, tmp_path):
    from impasto.nodes.host import identity

    first, again = ggml.load(q8), ggml.load(q8)
    assert any(value.is_meta for value in first.model.state_dict().values())
    known = identity.model_identity(first)
    assert known == identity.model_identity(again)

    fine_tuned = {name: value + 1e-3 * value.std() * torch.sign(value) for name, value in weights.items()}
    other = ggml.load(ggml.write(tmp_path / "tuned.gguf", fine_tuned))
    coarser = ggml.load(ggml.write(tmp_path / "coarser.gguf", weights, "Q4_0"))
    again.model.diffusion_model.img_in.__class__.dequant_dtype = torch.float16  # as its advanced loader sets it
    assert len({known, *(identity.model_identity(each) for each in (other, coarser, again))}) == 4


def test_a_gguf_model_is_trained_on(node, held, q8, tmp_path):  # noqa: F811
    from impasto.errors import TrainingError

    model = ggml.load(q8)
    with pytest.raises(TrainingError, match="its checkpoints are gone"):  # nothing was trained
        node.execute(model, encoded(model, tmp_path), Settings(steps=1), "of-gguf")
    assert held == ["unload", "train"]


def test_a_gguf_type_that_cannot_be_read_and_a_missing_package_are_named(comfyui, q8, monkeypatch):
    import sys

    from impasto.nodes.host import models, stored_weights

    model = ggml.load(q8)
    weight = SimpleNamespace(tensor_type=999, tensor_shape=(1, 256), as_subclass=lambda _: torch.zeros(3).byte())
    with pytest.raises(ModelError, match=r"'x' in the type 999, which the installed package gguf cannot read.*Q8_0"):
        stored_weights.dequantised(weight, "x")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ModelError, match=r"the Python package gguf, and that is not installed.*gguf'"):
        models._write_dequantised(model, models.pack_models_root() / "baked" / "never.safetensors")


@torch.inference_mode()
def test_pictures_are_sampled_with_a_gguf_model_and_text_encoder_and_a_lora(comfyui, tmp_path):
    import comfy.sd
    from impasto.embedded.text_encoder_weights import CLIP_CONFIG, T5_CONFIG
    from impasto.embedded.tiny_flux import make_tiny_flux
    from impasto.nodes.embedded import TinyFluxLoader
    from impasto.nodes.host import encoders, folders, identity, sampling
    from impasto.rendering.cells import Sampling

    family = make_tiny_flux(folders.pack_models_root())
    tiny_model, tiny_clip, vae = TinyFluxLoader.execute(seed=0).args
    model = ggml.load(ggml.write(tmp_path / "flux.gguf", load_file(family.transformer)))
    packed = ggml.read(ggml.write(tmp_path / "t5.gguf", load_file(family.t5), whole="DenseReluDense"))
    options = {"model_config": dict(CLIP_CONFIG), "t5xxl_model_config": dict(T5_CONFIG), "dtype": torch.float32}
    clip = comfy.sd.load_text_encoder_state_dicts(
        [load_file(family.clip_l), packed],
        None,
        comfy.sd.CLIPType.FLUX,
        options | {"custom_operations": ggml.operations()},
    )
    assert any(value.is_meta for value in clip.patcher.model.state_dict().values())

    hidden, pooled = encoders.text_encoder(clip).encode("a pond")
    exact, _ = encoders.text_encoder(tiny_clip).encode("a pond")
    assert torch.allclose(hidden, exact, atol=0.1 * exact.abs().max()) and not torch.equal(hidden, exact)

    name = "transformer.transformer_blocks.0.attn.to_out.0"
    lora = {f"{name}.lora_A.weight": torch.randn(4, 256), f"{name}.lora_B.weight": torch.randn(256, 4)}
    save_file(lora, tmp_path / "lora.safetensors")
    painter = sampling.ComfyPainter(model, clip, vae, Sampling(64, 64, 2, 3.5, "euler", "simple"))
    painter.encode(["a pond"])
    pictures = []
    for adapter in (None, tmp_path / "lora.safetensors"):
        painter.use(adapter, 1.0)
        pictures.append(painter.paint("a pond", 1, lambda step: None))
    assert all(pictures) and pictures[0].tobytes() != pictures[1].tobytes()
    assert identity.sampling_identity(model, clip, vae) != identity.sampling_identity(tiny_model, clip, vae)


def as_diffusers(weights: dict[str, torch.Tensor], architecture) -> dict[str, torch.Tensor]:
    return {
        name: torch.cat([weights[source.key][start:stop] for start, stop in ranges])
        for source in layout.layout(architecture)
        for name, ranges in source.parameters.items()
    }


@pytest.mark.parametrize("kind", ["diffusers", "keys beside the model's", "another prefix", "a pickle"])
def test_a_flux_that_core_can_load_is_trained_on_whatever_its_file_is_like(comfyui, weights, tmp_path, kind):
    from impasto.nodes.host import models

    path = tmp_path / ("flux.ckpt" if kind == "a pickle" else "flux.safetensors")
    architecture = detection.check_shapes("x", {key: tuple(value.shape) for key, value in weights.items()})
    beside = {key: torch.ones(3) for key in ("double_blocks.0.img_attn.ema", "conditioner.scale")}
    stored = {
        "diffusers": as_diffusers(weights, architecture),
        "keys beside the model's": weights | beside,
        "another prefix": {f"net.{key}": value for key, value in weights.items()},
        "a pickle": weights,
    }[kind]
    torch.save(stored, path) if kind == "a pickle" else save_file(stored, path)
    with pytest.raises(ModelError):
        detection.inspect(path)
    written = models.flux_weights_file(models.load_diffusion_model(path))
    save_file(weights, tmp_path / "published.safetensors")
    ours, published = (loading.load_transformer(file, "fp32") for file in (written, tmp_path / "published.safetensors"))
    for one, two in zip(ours.parameters(), published.parameters(), strict=True):
        assert torch.allclose(one, two, rtol=2**-8)  # core may load float32 as bfloat16


def test_a_plain_file_is_trained_on_where_it_lies(comfyui, weights, tmp_path):
    from impasto.nodes.host import models

    save_file(weights, tmp_path / "flux.safetensors")
    assert models.flux_weights_file(models.load_diffusion_model(tmp_path / "flux.safetensors")).parent == tmp_path


def test_what_could_not_be_trained_on_is_refused_before_anything_is_written(comfyui, weights, tmp_path):
    from impasto.nodes.host import folders, models

    fill = dict(weights) | {"img_in.weight": torch.zeros(256, 384)}
    save_file(fill, tmp_path / "fill.safetensors")
    save_file(weights, tmp_path / "flux.safetensors")
    packed = models.load_diffusion_model(tmp_path / "flux.safetensors")
    packed.cached_patcher_init = None
    whole = torch.nn.Parameter(torch.zeros(256, 256, dtype=torch.int8), requires_grad=False)
    packed.model.diffusion_model.double_blocks[0].img_attn.proj.weight = whole
    bypassed = models.load_diffusion_model(tmp_path / "flux.safetensors")
    bypassed.set_injections("bypass_lora", [Attached()])
    before = set((folders.pack_models_root() / "baked").glob("*"))
    for model, named in (
        (models.load_diffusion_model(tmp_path / "fill.safetensors"), "fill.safetensors takes 384 channels"),
        (packed, r"holds 'double_blocks.0.img_attn.proj.weight' as torch.int8, quantised by the node"),
        (bypassed, "The MODEL carries injections"),
    ):
        with pytest.raises(ModelError, match=named):
            models.flux_weights_file(model)
    assert set((folders.pack_models_root() / "baked").glob("*")) == before


class Attached:
    """Anything that a node may put into a model."""


def multiplied(by):
    return lambda executor, *arguments: executor(*arguments) * by


def module_s_own(executor, *arguments):
    return executor(*arguments)


def test_models_that_differ_in_what_is_attached_to_them_are_told_apart(tiny):
    from comfy.hooks import HookGroup
    from impasto.nodes.host import identity

    model, clip, vae = tiny

    def changed(change):
        clone = model.clone()
        change(clone)
        return clone

    def wrapped(wrapper):
        return changed(lambda clone: clone.add_wrapper("apply_model", wrapper))

    variants = [
        model,
        wrapped(multiplied(1)),
        wrapped(multiplied(2)),
        wrapped(module_s_own),
        changed(lambda clone: clone.add_object_patch("diffusion_model.extra", Attached())),
        changed(lambda clone: clone.add_object_patch("diffusion_model.extra", Attached())),
        changed(lambda clone: clone.set_model_sampler_cfg_function(multiplied(1))),
        changed(lambda clone: clone.set_model_attn1_patch(multiplied(1))),
        changed(lambda clone: clone.set_injections("bypass_lora", [Attached()])),
        changed(lambda clone: clone.set_attachments("mask", torch.zeros(64, 64))),
        changed(lambda clone: clone.set_attachments("mask", torch.zeros(64, 64).index_fill(0, torch.tensor(9), 1))),
        changed(lambda clone: clone.set_attachments("strength", 1.0)),
        changed(lambda clone: clone.set_attachments("strength", 2.0)),
        changed(lambda clone: setattr(clone, "forced_hooks", HookGroup())),
        changed(lambda clone: clone.set_additional_models("control", [model.clone()])),
    ]
    found = [identity.sampling_identity(each, clip, vae) for each in variants]
    assert len(set(found)) == len(variants)
    assert found == [identity.sampling_identity(each.clone(), clip, vae) for each in variants]
    assert found[3] == identity.sampling_identity(wrapped(module_s_own), clip, vae)  # as after a restart

    hooked = clip.clone()
    hooked.apply_hooks_to_conds = HookGroup()
    assert identity.sampling_identity(model, hooked, vae) != found[0]


def test_faster_arithmetic_on_the_same_weights_is_another_model(tiny):
    from impasto.nodes.host import identity

    model, clip, vae = tiny
    plain = identity.sampling_identity(model, clip, vae)
    optimizations = model.model.model_config.optimizations
    optimizations["fp8"] = True  # as UNETLoader's fp8_e4m3fn_fast sets it
    try:
        assert identity.sampling_identity(model, clip, vae) != plain
    finally:
        optimizations["fp8"] = False
    assert identity.sampling_identity(model, clip, vae) == plain


def test_a_schedule_of_another_kind_with_the_same_sigmas_is_another_model(tiny):
    import comfy.model_sampling as sampling
    from impasto.nodes.host import identity

    model, clip, vae = tiny

    def scheduled(*bases):
        kind = type("ModelSamplingAdvanced", bases, {})
        made, clone = kind(model.model.model_config), model.clone()
        clone.add_object_patch("model_sampling", made)
        return clone

    flow = scheduled(sampling.ModelSamplingFlux, sampling.CONST)
    noise = scheduled(sampling.ModelSamplingFlux, sampling.EPS)
    assert torch.equal(*(each.get_model_object("model_sampling").sigmas for each in (flow, noise)))
    assert len({identity.sampling_identity(each, clip, vae) for each in (flow, noise)}) == 2


def test_a_model_is_the_same_while_another_one_s_schedule_is_in_its_place(tiny):
    from comfy_extras.nodes_model_advanced import ModelSamplingFlux
    from impasto.nodes.host import identity

    model, clip, vae = tiny
    shifted = ModelSamplingFlux().patch(model, 3.0, 0.5, 512, 512)[0]
    before = [identity.sampling_identity(each, clip, vae) for each in (model, shifted)]
    shifted.patch_model(load_weights=False)
    try:
        assert [identity.sampling_identity(each, clip, vae) for each in (model, shifted)] == before
    finally:
        shifted.unpatch_model(unpatch_weights=False)


def test_a_lora_whose_layers_core_turns_round_is_recognised_again(tiny, tmp_path):
    """OneTrainer's LoRA of the output: core's patch has a function of a module with it."""
    from impasto.nodes.host import identity, models

    name = "lora_transformer_norm_out_linear"
    lora = {f"{name}.lora_down.weight": torch.ones(2, 256), f"{name}.lora_up.weight": torch.ones(512, 2)}
    save_file(lora, tmp_path / "lora.safetensors")

    def patched():
        import comfy.sd

        return comfy.sd.load_lora_for_models(tiny[0], None, models.load_lora(tmp_path / "lora.safetensors"), 1.0, 0)[0]

    assert identity.model_identity(patched()) == identity.model_identity(patched()) != identity.model_identity(tiny[0])
    described = str([patch[-1] for patches in patched().patches.values() for patch in patches])
    assert "function" in described  # else the test shows nothing


def test_no_two_objects_ever_have_the_same_name(comfyui):
    from impasto.nodes.host.attached_code import name_of

    kept = Attached()
    name = name_of(kept)
    names = [name_of(Attached()) for _ in range(1000)]  # most of them at the address of the one before
    assert len({name, *names}) == 1001 and name_of(kept) == name


def test_an_encoder_with_code_attached_is_refused(tiny):
    from impasto.nodes.host import encoders

    _, clip, vae = tiny
    clip = clip.clone()
    clip.patcher.add_wrapper("apply_model", multiplied(2))
    with pytest.raises(ModelError, match="The CLIP carries wrappers from another node"):
        encoders.text_encoder(clip)
    encoders.autoencoder(vae)
