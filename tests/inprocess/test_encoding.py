"""Encode Training Data through ComfyUI's own VAE and CLIP classes: the trainer sees what sampling will see."""

import time
from types import SimpleNamespace

import numpy
import pytest
import torch
from impasto.errors import ModelError, NameRefused
from PIL import Image

CAPTION = "a red boat on a river, the (sails) white"


@pytest.fixture(scope="module")
def tiny_flux(comfyui):
    return load_tiny_flux(0)


def load_tiny_flux(seed):
    from impasto.nodes.embedded import TinyFluxLoader

    _, clip, vae = TinyFluxLoader.execute(seed=seed).args
    return SimpleNamespace(clip=clip, vae=vae)


@pytest.fixture
def config(tmp_path):
    """A dataset config of two pictures with captions."""
    for name, size in (("boat", (192, 128)), ("garden", (128, 128))):
        pixels = numpy.random.default_rng(len(name)).integers(0, 256, (size[1], size[0], 3), dtype=numpy.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(CAPTION if name == "boat" else "a garden")
    config = tmp_path / "dataset.toml"
    config.write_text(
        "[[datasets]]\nresolution = 128\nenable_bucket = true\nmin_bucket_reso = 64\nbucket_reso_steps = 32\n"
        '[[datasets.subsets]]\nimage_dir = "."\ncaption_extension = ".txt"\n'
    )
    return config


def execute(config, tiny_flux, **optional):
    """The node's own outputs."""
    from impasto.nodes.encoding import EncodeTrainingData

    config = SimpleNamespace(path=str(config))
    return EncodeTrainingData.execute(config, tiny_flux.clip, tiny_flux.vae, **optional).args


def encode(config, tiny_flux, **optional):
    from impasto.trainers.features import index

    found, report = execute(config, tiny_flux, **optional)
    return index.load(found), report


def with_lora(clip, strength, seed=0):
    """The CLIP with a rank-2 LoRA on one weight, as Load LoRA puts it there."""
    from comfy.weight_adapter import LoRAAdapter

    key = next(name for name in clip.cond_stage_model.state_dict() if name.endswith("k_proj.weight"))
    rows, columns = clip.cond_stage_model.state_dict()[key].shape
    random = torch.Generator().manual_seed(seed)
    up, down = torch.randn(rows, 2, generator=random), torch.randn(2, columns, generator=random)
    patched = clip.clone()
    assert patched.add_patches({key: LoRAAdapter({"up"}, (up, down, 2.0, None, None, None))}, strength)
    return patched


def test_the_latents_are_what_the_sampler_would_be_given(config, tiny_flux):
    """Core's VAEEncode, and the latent format that core applies before the model sees a latent."""
    import comfy.latent_formats
    from impasto.dataset.buckets import fit, read_picture
    from impasto.nodes.host import sampling

    from nodes import VAEEncode

    loaded, report = encode(config, tiny_flux)
    boat = next(example for example in loaded.examples if example.caption == CAPTION)
    picture = fit(read_picture(config.parent / "boat.png"), (boat.width, boat.height))
    (latent,) = VAEEncode().encode(tiny_flux.vae, sampling.image_batch([picture]))

    assert (boat.width, boat.height) == (160, 96)
    expected = comfy.latent_formats.Flux().process_in(latent["samples"])[0]
    torch.testing.assert_close(loaded.load_latent(boat), expected, rtol=0, atol=1e-6)
    assert "160 x 96: 1" in report


@pytest.mark.parametrize(("text", "weights"), [("a garden", False), ("", False), (CAPTION, True)])
def test_the_texts_are_what_clip_text_encode_gives(config, tiny_flux, text, weights):
    from nodes import CLIPTextEncode

    loaded, report = encode(config, tiny_flux, caption_weights=weights)
    assert ("1 captions with brackets, read as a prompt's weights" in report) == weights
    path = loaded.empty_text_path
    if text:
        path = next(example.text_path for example in loaded.examples if example.caption == text)
    ((hidden_states, options),) = CLIPTextEncode().encode(tiny_flux.clip, text)[0]

    t5, pooled = loaded.load_text(path)
    assert t5.shape[0] == 256
    assert torch.equal(t5, hidden_states[0])
    assert torch.equal(pooled, options["pooled_output"][0])
    assert "attention_mask" not in options


@pytest.mark.parametrize(
    "caption",
    [
        "Christ and Nicodemus (John 3:16)",
        "a map of the coast (scale 1:50000)",
        "Olive Trees (1906)",
        "a tag of a booru, saber \\(fate\\), and a path C:\\(old)",
        "unbalanced (brackets)) and a smile :) ((twice)",
        "the (sails:1.5) of (a (boat:0.2):3)",
    ],
)
def test_captions_are_read_literally_brackets_and_all(config, tiny_flux, caption):
    """Against the tokenizer libraries themselves, without ComfyUI's reader of prompts."""
    from impasto.nodes.host.encoders import literal

    tokens = tiny_flux.clip.tokenize(literal(caption))
    for name, tokenizer in (("l", tiny_flux.clip.tokenizer.clip_l), ("t5xxl", tiny_flux.clip.tokenizer.t5xxl)):
        expected = tokenizer.tokenizer(caption)["input_ids"]
        assert {weight for chunk in tokens[name] for _, weight in chunk} == {1.0}
        assert [token for token, _ in tokens[name][0]][: len(expected)] == expected

    (config.parent / "boat.txt").write_text(caption)
    loaded, report = encode(config, tiny_flux)
    path = next(example.text_path for example in loaded.examples if example.caption == caption)
    hidden_states, pooled = tiny_flux.clip.encode_from_tokens(tokens, return_pooled=True)
    assert torch.equal(loaded.load_text(path)[0], hidden_states[0])
    assert torch.equal(loaded.load_text(path)[1], pooled[0])
    assert "1 captions with brackets, read literally" in report


def test_a_caption_that_names_an_embedding_reads_no_file(config, tiny_flux, caplog):
    from impasto.nodes.host.encoders import literal

    for caption in ("embedding:relief on a wall", "a wall, embedding:relief (stone)"):
        tokens = tiny_flux.clip.tokenizer.clip_l.tokenize_with_weights(literal(caption))
        expected = tiny_flux.clip.tokenizer.clip_l.tokenizer(caption)["input_ids"]
        assert [token for token, _ in tokens[0]][: len(expected)] == expected
    assert "does not exist" not in caplog.text


def test_only_captions_with_brackets_are_encoded_anew_for_being_read_literally(config, tiny_flux):
    literal, weighed = (encode(config, tiny_flux, caption_weights=weights)[0] for weights in (False, True))
    paths = [{example.caption: example.text_path for example in found.examples} for found in (literal, weighed)]
    assert paths[0]["a garden"] == paths[1]["a garden"]
    assert paths[0][CAPTION] != paths[1][CAPTION]
    (config.parent / "boat.txt").write_text("a red boat")
    keys = {execute(config, tiny_flux, caption_weights=weights)[0].key for weights in (False, True)}
    assert len(keys) == 1


def test_prompts_have_the_embeddings_that_they_are_sampled_with(config, tiny_flux):
    from impasto.prompting.prompt_set import Prompt

    from nodes import CLIPTextEncode

    loaded, report = encode(config, tiny_flux, prompts=(Prompt("a harbour at dawn", 7), Prompt("boats", 2**64 - 1)))
    assert [(text, seed) for text, seed, _ in loaded.prompts] == [("a harbour at dawn", 7), ("boats", 2**64 - 1)]
    for text, _, path in loaded.prompts:
        ((hidden_states, options),) = CLIPTextEncode().encode(tiny_flux.clip, text)[0]
        t5, pooled = loaded.load_text(path)
        assert torch.equal(t5, hidden_states[0]) and torch.equal(pooled, options["pooled_output"][0])
    assert "2 prompts for samples" in report


def test_captions_that_vary_become_as_many_texts_as_the_widget_says(config, tiny_flux):
    config.write_text(config.read_text() + "enable_wildcard = true\n")
    (config.parent / "garden.txt").write_text("a {red|blue|green|white|black|grey} garden")
    loaded, report = encode(config, tiny_flux, caption_variants=3)
    assert {len(example.all_texts) for example in loaded.examples} == {1, 3}
    assert "1 pictures with several texts" in report


def test_texts_go_out_and_in_as_one_file_under_the_datasets_exports(config, tiny_flux):
    from impasto.nodes.encoding import ExportTextFeatures
    from impasto.trainers.features import index

    found, _ = execute(config, tiny_flux)
    name, report = ExportTextFeatures.execute(found, "my texts", "float32").args
    table = config.parent / "exports" / "text-features" / "my texts.parquet"
    assert table.is_file() and "2 rows" in report

    imported, _ = execute(config, tiny_flux, text_features=name)
    assert imported.key != found.key
    before, after = index.load(found), index.load(imported)
    for one, other in zip(before.examples, after.examples, strict=True):
        assert torch.equal(before.load_text(one.text_path)[0], after.load_text(other.text_path)[0])

    table.rename(config.parent / "my texts.parquet")  # where earlier versions wrote it
    assert execute(config, tiny_flux, text_features=name)[0].key == imported.key


@pytest.mark.parametrize("name", ["../texts", "/tmp/texts", "features/texts", ""])
def test_the_file_of_texts_cannot_lie_elsewhere(config, tiny_flux, name):
    from impasto.nodes.encoding import ExportTextFeatures

    found, _ = execute(config, tiny_flux)
    with pytest.raises(NameRefused):
        ExportTextFeatures.execute(found, name, "float32")
    if name:
        with pytest.raises(NameRefused):
            execute(config, tiny_flux, text_features=name)


def test_a_model_loaded_again_has_the_same_identity_and_another_family_another(tiny_flux):

    from impasto.nodes.host import encoders

    again, other = load_tiny_flux(0), load_tiny_flux(1)
    for encoder, socket in ((encoders.text_encoder, "clip"), (encoders.autoencoder, "vae")):
        assert encoder(getattr(again, socket)).identity == encoder(getattr(tiny_flux, socket)).identity
    assert encoders.text_encoder(other.clip).identity != encoders.text_encoder(tiny_flux.clip).identity
    with torch.inference_mode():
        weight = next(other.vae.first_stage_model.parameters())
        weight.mul_(1.001)
    assert encoders.autoencoder(other.vae).identity != encoders.autoencoder(tiny_flux.vae).identity


def test_a_lora_on_the_clip_is_part_of_its_identity_before_and_after_it_is_loaded(tiny_flux):

    from impasto.nodes.host import encoders

    clip = load_tiny_flux(0).clip
    bare = encoders.text_encoder(clip).identity
    identities = [encoders.text_encoder(with_lora(clip, *lora)).identity for lora in ((1.0, 0), (0.5, 0), (1.0, 1))]
    assert len({bare, *identities}) == 4

    patched = with_lora(clip, 1.0, 0)
    encoder = encoders.text_encoder(patched)
    assert encoder.identity == identities[0]
    changed = encoder.encode(CAPTION)[1]
    assert not torch.equal(changed, encoders.text_encoder(tiny_flux.clip).encode(CAPTION)[1])
    assert encoders.text_encoder(patched).identity == identities[0]  # the patch is now worked into the weights
    assert encoders.text_encoder(clip).identity == bare


def test_the_layer_that_clip_stops_at_is_part_of_its_identity(tiny_flux):

    from impasto.nodes.host import encoders

    clip = tiny_flux.clip.clone()
    clip.clip_layer(-2)
    assert encoders.text_encoder(clip).identity != encoders.text_encoder(tiny_flux.clip).identity


def test_what_cannot_be_recognised_again_is_refused(tiny_flux):

    from impasto.nodes.host import encoders

    clip = tiny_flux.clip.clone()
    clip.patcher.set_injections("bypass_lora", [object()])
    with pytest.raises(ModelError, match="injections"):
        encoders.text_encoder(clip)


def test_the_vae_of_another_model_is_refused(comfyui):
    import comfy.sd
    from comfy.taesd.taesd import TAESD
    from impasto.nodes.host import encoders

    vae = comfy.sd.VAE(sd=TAESD(latent_channels=4).state_dict())
    with pytest.raises(ModelError, match=r"4 latent channels.*ae\.safetensors"):
        encoders.autoencoder(vae)


def test_the_clip_of_another_model_is_refused(comfyui):
    from comfy.sdxl_clip import SDXLTokenizer
    from impasto.nodes.host import encoders

    clip = SimpleNamespace(tokenize=SDXLTokenizer().tokenize_with_weights)
    with pytest.raises(ModelError, match="g, l, but FLUX has l and t5xxl.*DualCLIPLoader"):
        encoders.text_encoder(clip)


def test_the_identity_of_t5_xxl_takes_under_a_second(comfyui):
    """On weights of T5-XXL's 4.7 billion parameters; the pages that are not looked at take no memory."""
    from impasto.nodes.host import identity

    def bf16(*shape):
        return torch.empty(shape, dtype=torch.bfloat16)

    weights = {"shared.weight": bf16(32128, 4096)}
    for block in range(24):
        weights |= {f"{block}.attention.{name}": bf16(4096, 4096) for name in "qkvo"}
        weights |= {f"{block}.wi_{number}": bf16(10240, 4096) for number in (0, 1)}
        weights |= {f"{block}.wo": bf16(4096, 10240)}
    assert sum(weight.numel() for weight in weights.values()) > 4.7e9
    model = SimpleNamespace(state_dict=lambda: weights)

    started = time.perf_counter()
    identity.model_identity(SimpleNamespace(model=model, backup={}, patches={}, object_patches_backup={}))
    assert time.perf_counter() - started < 1
