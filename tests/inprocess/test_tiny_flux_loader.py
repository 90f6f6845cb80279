"""The tiny FLUX through ComfyUI's own loading, encoding and autoencoding code."""

import os
from pathlib import Path

import pytest
import torch
from impasto.embedded import text_embeddings, train_transformer
from impasto.embedded.paintings import caption, paint, scene
from impasto.embedded.taesd import Autoencoder
from impasto.embedded.text_encoder_weights import T5_LEAST_TOKENS
from impasto.embedded.tiny_flux import pretrained_autoencoder_weights
from impasto.embedded.training_pictures import HELD_OUT, scene_of
from impasto.embedded.transformer_weights import DETAIL_VARIANCE, transformer_weights, velocity_coefficient
from impasto.trainers import sampler
from impasto.trainers.flux import loading

SCALE, SHIFT = 0.3611, 0.1159  # FLUX's
SAME = 0.01  # of 1: two computations of one picture, one of them in bfloat16


@pytest.fixture(scope="module")
def loaded(comfyui):
    from impasto.nodes.embedded import TinyFluxLoader

    with torch.inference_mode():
        return TinyFluxLoader.execute(seed=0).args


@pytest.fixture(scope="module")
def picture(comfyui):
    from impasto.nodes.host import sampling

    return sampling.image_batch([paint(scene("landscape", 0), "impressionist", 384, 256)])


pytestmark = pytest.mark.usefixtures("without_gradients")


def encode(clip, text):
    encoded = clip.encode_from_tokens(clip.tokenize(text), return_pooled=True, return_dict=True)
    return encoded["cond"], encoded["pooled_output"]


def test_the_loader_gives_comfyuis_own_flux_classes(loaded):
    import comfy.model_base
    import comfy.sd
    from comfy.text_encoders.flux import FluxClipModel, FluxTokenizer

    model, clip, vae = loaded
    assert type(model.model) is comfy.model_base.Flux
    assert model.model.diffusion_model.params.guidance_embed
    assert isinstance(clip, comfy.sd.CLIP)
    assert isinstance(clip.cond_stage_model, FluxClipModel)
    assert isinstance(clip.tokenizer, FluxTokenizer)
    assert isinstance(vae, comfy.sd.VAE)
    assert vae.latent_channels == 16


def test_the_model_remembers_its_file(loaded):
    import comfy.sd

    loader, arguments = loaded[0].cached_patcher_init[:2]
    assert loader is comfy.sd.load_diffusion_model
    assert os.path.isfile(arguments[0])


def test_nothing_of_it_is_listed_by_comfyuis_loaders(loaded, comfyui):
    import folder_paths

    for key in ("diffusion_models", "text_encoders", "vae", "vae_approx", "checkpoints"):
        assert not [name for name in folder_paths.get_filename_list(key) if "tiny" in name or "impasto" in name]


def test_core_loads_the_transformer_as_a_file_of_diffusion_models(loaded, comfyui):
    import folder_paths

    import nodes

    source = loaded[0].cached_patcher_init[1][0]
    target = os.path.join(folder_paths.get_folder_paths("diffusion_models")[-1], "linked.safetensors")
    os.makedirs(os.path.dirname(target), exist_ok=True)
    os.symlink(source, target)
    try:
        (model,) = nodes.UNETLoader().load_unet("linked.safetensors", "default")
    finally:
        os.unlink(target)
    mine, theirs = (patcher.model.diffusion_model.state_dict() for patcher in (loaded[0], model))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)


@pytest.mark.parametrize("size", [(128, 1, 1), (384, 1, 2)])
def test_every_weight_of_any_size_is_taken_by_comfyui(comfyui, size, caplog):
    import comfy.sd

    hidden, double, single = size
    weights = transformer_weights(hidden_size=hidden, double_blocks=double, single_blocks=single)
    model = comfy.sd.load_diffusion_model_state_dict(dict(weights)).model.diffusion_model
    assert sum(parameter.numel() for parameter in model.parameters()) == sum(map(torch.numel, weights.values()))
    assert not [record for record in caplog.records if "unet" in record.getMessage().lower() and record.levelno > 20]


@pytest.fixture(scope="module")
def velocity_of(comfyui):
    """The velocity of noisy latents at one sigma, from the tiny FLUX of one hidden size, told some prompt."""
    import comfy.sd

    def velocity(noisy, sigma, hidden=256):
        random = torch.Generator().manual_seed(3)
        model = comfy.sd.load_diffusion_model_state_dict(transformer_weights(hidden_size=hidden)).model.diffusion_model
        text, pooled = torch.randn(1, 256, 128, generator=random), torch.randn(1, 64, generator=random)
        return model(noisy, torch.tensor([sigma]), text, pooled, torch.tensor([3.5]))

    return velocity


@pytest.mark.parametrize("hidden", [128, 256, 384])
@pytest.mark.parametrize("sigma", [0.05, 0.5, 0.9])
def test_detail_gets_the_best_linear_velocity(velocity_of, hidden, sigma):
    noisy = torch.randn(1, 16, 32, 32, generator=torch.Generator().manual_seed(3))
    noisy *= ((1 - sigma) ** 2 * DETAIL_VARIANCE + sigma**2) ** 0.5
    velocity = velocity_of(noisy, sigma, hidden)
    slope = (velocity * noisy).mean() / (noisy * noisy).mean()
    assert slope == pytest.approx(velocity_coefficient(sigma, DETAIL_VARIANCE), abs=0.25)


def test_out_of_noise_come_clouds_of_colour(velocity_of):
    import comfy.latent_formats

    sigma = 0.9
    noise = torch.randn(1, 16, 32, 32, generator=torch.Generator().manual_seed(3))
    colours = torch.tensor(comfy.latent_formats.Flux().latent_rgb_factors)

    def likeness_of_neighbours(latents):
        shown = (latents[0].movedim(0, -1) @ colours).movedim(-1, 0)
        shown = shown - shown.mean((1, 2), keepdim=True)
        return ((shown[:, :, 2:] * shown[:, :, :-2]).mean() / (shown * shown).mean()).item()

    assert likeness_of_neighbours(noise) < 0.1
    assert likeness_of_neighbours(noise - sigma * velocity_of(noise, sigma)) > 0.5


def test_prompts_have_embeddings_of_their_own(loaded):
    clip = loaded[1]
    prompts = ["", "a red boat", "a blue boat", "a stone bridge over a river in a town, houses beyond it"]
    embeddings = [encode(clip, prompt) for prompt in prompts]
    for index, (tokens, pooled) in enumerate(embeddings):
        assert tokens.shape == (1, 256, 128)
        assert pooled.shape == (1, 64)
        for other_tokens, other_pooled in embeddings[:index]:
            assert (tokens - other_tokens).pow(2).mean() > 0.1
            assert (pooled - other_pooled).pow(2).mean() > 0.1
    again = encode(clip, prompts[1])
    assert torch.equal(again[0], embeddings[1][0]) and torch.equal(again[1], embeddings[1][1])


def test_a_long_prompt_is_not_cut(loaded):
    tokens, _ = encode(loaded[1], "a boat on the river " * 80)
    assert tokens.shape[1] > 256


def test_a_decoded_picture_is_a_soft_copy(loaded, picture):
    vae = loaded[2]
    decoded = vae.decode(vae.encode(picture))
    assert decoded.shape == picture.shape
    noise_ratio = -10 * torch.log10((decoded - picture).pow(2).mean())
    assert noise_ratio > 20  # decibel
    blocks = torch.nn.functional.avg_pool2d(picture.movedim(-1, 1), 8)
    blurred = torch.nn.functional.interpolate(blocks, scale_factor=8, mode="bilinear").movedim(1, -1)
    assert (decoded - picture).pow(2).mean() < 0.7 * (blurred - picture).pow(2).mean()


def test_a_uniform_picture_comes_back_without_a_frame(loaded):
    vae = loaded[2]
    for colour in ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.9, 0.2, 0.3)):
        flat = torch.tensor(colour).expand(1, 64, 96, 3).contiguous()
        off = (vae.decode(vae.encode(flat)) - flat).abs()
        assert off.mean() < 0.03
        assert off.max() < 0.12


def test_latents_are_in_fluxs_convention_and_previews_show_the_colours(loaded, picture):
    import comfy.latent_formats

    latents = (loaded[2].encode(picture) - SHIFT) * SCALE
    assert latents.shape == (1, 16, 32, 48)
    assert 0.5 < latents.std() < 1.6
    flux = comfy.latent_formats.Flux()
    preview = latents[0].movedim(0, -1) @ torch.tensor(flux.latent_rgb_factors)
    preview = (preview + torch.tensor(flux.latent_rgb_factors_bias) + 1) / 2
    blocks = torch.nn.functional.avg_pool2d(picture.movedim(-1, 1), 8)[0].movedim(0, -1)
    assert torch.allclose(preview, blocks, atol=1e-4)


@pytest.fixture(scope="module")
def pretrained(comfyui):
    from impasto.nodes.embedded import TinyFluxLoader

    with torch.inference_mode():
        return TinyFluxLoader.execute(seed=0, weights="pretrained").args


def test_a_graph_that_names_no_weights_gets_the_seeded_ones(loaded, pretrained):
    (seeded,), (learned,) = (model.cached_patcher_init[1][:1] for model in (loaded[0], pretrained[0]))
    assert "pretrained" not in seeded and "pretrained" in learned


ASKED = [caption(scene_of(HELD_OUT + index)) for index in range(4)]


def test_the_pretrained_family_reads_prompts_as_it_was_taught_to(pretrained, comfyui):
    t5, pooled = text_embeddings.embed(["", *ASKED], comfyui.path)
    for index, text in enumerate(["", *ASKED]):
        tokens, vector = encode(pretrained[1], text)
        assert tokens.shape == (1, T5_LEAST_TOKENS, 128)
        assert torch.allclose(tokens[0], t5[index], atol=1e-4) and torch.allclose(vector[0], pooled[index], atol=1e-4)
    tokens, _ = encode(pretrained[1], "a boat on the river " * 80)
    assert tokens.shape[1] > T5_LEAST_TOKENS


def sampled_by_comfyui(family, text, noise, steps):
    """A picture `(height, width, 3)` in 0…1 by core's Euler sampler, from this noise, at the sigmas of the trainer."""
    import comfy.sample
    import comfy.samplers

    model, clip, vae = family
    told = clip.encode_from_tokens_scheduled(clip.tokenize(text), add_dict={"guidance": 3.5})
    sigmas = torch.tensor(sampler.schedule(steps, noise.shape[-1] * noise.shape[-2] // 4))
    euler = comfy.samplers.sampler_object("euler")
    empty = torch.zeros_like(noise)
    latents = comfy.sample.sample_custom(model, noise, 1.0, euler, sigmas, told, told, empty, disable_pbar=True)
    return vae.decode(latents)[0]


@pytest.mark.parametrize("shape", [(128, 128), (160, 96)], ids=["square", "wide"])
def test_comfyui_draws_what_the_scripts_that_judge_it_draw(pretrained, comfyui, shape):
    steps = 8
    transformer = loading.load_transformer(Path(pretrained[0].cached_patcher_init[1][0]), "fp32")
    autoencoder = Autoencoder()
    autoencoder.load_state_dict(pretrained_autoencoder_weights())
    told = text_embeddings.embed(ASKED, comfyui.path)
    drawn = autoencoder.decode(train_transformer.draw(transformer, told, 3.5, shape=shape, seed=5, steps=steps))
    noise = train_transformer.starting_noise(len(ASKED), shape, seed=5)
    for index, text in enumerate(ASKED):
        theirs = sampled_by_comfyui(pretrained, text, noise[index : index + 1], steps)
        ours = drawn[index].clamp(0, 1).movedim(0, -1)
        assert ours.std() > 0.05, "a blank picture would be alike for nothing"
        assert (theirs - ours).abs().mean() < SAME
