"""The image networks that people load with Load CLIP Vision, and a CLIP's two halves, small and with seeded weights.

ComfyUI's own classes and loaders throughout; what they make of CLIP's files is compared with transformers.
"""

from __future__ import annotations

import numpy
import pytest
import torch
from impasto.errors import ModelError, SettingsError
from PIL import Image
from safetensors.torch import load_file

from .test_style_filter import SMALL, clip_vision

TEXTS = ["a harbour at dawn", "a barn (old:1.4) in the snow", "two boats"]
TEXT = {
    "vocab_size": 49408,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "eos_token_id": 49407,
    "bos_token_id": 49406,
}
VISION = SMALL | {"projection_dim": 32}
DINO = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "layer_norm_eps": 1e-6,
    "image_size": 28,
    "patch_size": 14,
    "num_channels": 3,
}
NETWORKS = {
    "DINOv2": DINO | {"model_type": "dinov2", "use_mask_token": True, "use_swiglu_ffn": False},
    "DINOv3": DINO
    | {"model_type": "dinov3", "num_register_tokens": 4, "intermediate_size": 64, "rope_theta": 100.0, "image_size": 32}
    | {"patch_size": 16},
    "SigLIP": {key: value for key, value in SMALL.items() if key != "projection_dim"}
    | {"model_type": "siglip_vision_model", "hidden_act": "gelu_pytorch_tanh"},
    "SigLIP 2": {key: value for key, value in SMALL.items() if key != "projection_dim"}
    | {"model_type": "siglip2_vision_model", "image_size": -1, "patch_size": 16, "num_patches": 16},
    "CLIP vision": SMALL | {"model_type": "clip_vision_model"},
}


pytestmark = pytest.mark.usefixtures("without_gradients")


def seeded(config):
    from comfy.clip_vision import ClipVisionModel

    model = ClipVisionModel(config)
    generator = torch.Generator().manual_seed(0)
    for weight in model.model.parameters():
        weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    return model


def noise(seed, size=(64, 48)):
    return Image.fromarray(numpy.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), numpy.uint8))


@pytest.mark.parametrize("family", NETWORKS)
def test_whatever_load_clip_vision_gives_becomes_one_vector_a_picture(comfyui, family):
    from impasto.nodes.host import encoders

    encoder = encoders.picture_encoder(seeded(NETWORKS[family]))
    assert encoder.name == family and encoder.side > 0
    squares = [noise(seed, (encoder.side, encoder.side)) for seed in (0, 1, 0)]
    rows = encoder.encode(squares)
    assert rows.shape == (3, SMALL["projection_dim"] if family == "CLIP vision" else 32)
    assert numpy.isfinite(rows).all() and numpy.allclose(rows[0], rows[2], atol=1e-4)
    assert not numpy.allclose(rows[0], rows[1], atol=1e-3)


@pytest.fixture(scope="module")
def whole_clip(comfyui, tmp_path_factory):
    """A CLIP as transformers writes it, in one file with both halves; that model, and the file's tensors."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=32)).eval()
    for weight in model.parameters():
        weight.data.copy_(weight + 0.2 * torch.randn_like(weight))
    folder = tmp_path_factory.mktemp("clip")
    model.save_pretrained(folder, safe_serialization=True)
    return model, load_file(folder / "model.safetensors")


def text_half(tensors):
    """What Load CLIP makes of a CLIP-L, but for its size, which no file tells that; the vision half is left over."""
    import comfy.sd
    from comfy import sd1_clip
    from comfy.supported_models_base import ClipTarget

    target = ClipTarget(sd1_clip.SD1Tokenizer, sd1_clip.SD1ClipModel)
    return comfy.sd.CLIP(target, state_dict=[dict(tensors)], model_options={"clip_l_model_config": TEXT})


def vision_half(tensors, **changes):
    from comfy.clip_vision import ClipVisionModel

    model = ClipVisionModel(VISION | {"model_type": "clip_vision_model"} | changes)
    missing, _ = model.load_sd(dict(tensors))
    assert not missing
    return model


def test_cosines_of_pictures_and_prompts_are_those_of_the_whole_clip(whole_clip):
    from impasto.nodes.host import encoders
    from transformers import CLIPTokenizer

    model, tensors = whole_clip
    pair = text_half(tensors), vision_half(tensors)
    texts = [text.replace("(old:1.4)", "old") for text in TEXTS]
    got = encoders.prompt_encoder(*pair)(TEXTS)  # weights of a prompt count for no cosine
    tokenizer = pair[0].tokenizer.clip_l.tokenizer
    assert isinstance(tokenizer, CLIPTokenizer)
    tokens = tokenizer(texts, padding="max_length", max_length=77, return_tensors="pt")["input_ids"]
    expected = model.text_projection(model.text_model(input_ids=tokens).pooler_output)
    assert numpy.allclose(got, expected.numpy(), atol=1e-2)  # ComfyUI keeps these weights in half precision

    squares = [noise(seed, (28, 28)) for seed in range(2)]
    pixels = torch.stack([torch.from_numpy(numpy.array(square)).float() / 255 for square in squares]).permute(
        0, 3, 1, 2
    )
    mean, spread = (torch.tensor(values).view(3, 1, 1) for values in (pair[1].image_mean, pair[1].image_std))
    seen = model.visual_projection(model.vision_model(pixel_values=(pixels - mean) / spread).pooler_output)
    assert numpy.allclose(encoders.picture_encoder(pair[1]).encode(squares), seen.numpy(), atol=1e-2)


def test_the_text_encoder_is_left_as_it_was(whole_clip):
    from impasto.nodes.host import encoders

    clip, vision = text_half(whole_clip[1]), vision_half(whole_clip[1])
    before = clip.encode_from_tokens(clip.tokenize(TEXTS[0]), return_pooled=True)
    encoders.prompt_encoder(clip, vision)(TEXTS)
    after = clip.encode_from_tokens(clip.tokenize(TEXTS[0]), return_pooled=True)
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_halves_that_share_no_space_are_refused_with_what_to_load(whole_clip, tiny):
    from impasto.nodes.host import encoders

    _, tensors = whole_clip
    clip, vision = text_half(tensors), vision_half(tensors)
    with pytest.raises(ModelError, match=r"not of one CLIP: 16 numbers of a picture, and 32 \(CLIP L\) of a text"):
        encoders.prompt_encoder(clip, clip_vision(0))
    for family in ("SigLIP", "SigLIP 2", "DINOv2", "DINOv3"):
        with pytest.raises(ModelError, match=f"clip_vision holds {family}, whose pictures share no space"):
            encoders.prompt_encoder(clip, seeded(NETWORKS[family]))
    without = {key: value for key, value in tensors.items() if key != "text_projection.weight"}
    without["text_projection.weight"] = torch.zeros(32, 32)  # what ComfyUI puts where a file has none
    with pytest.raises(ModelError, match="holds no text projection"):
        encoders.prompt_encoder(text_half(without), vision)


def test_prompts_without_pictures_to_compare_them_with_are_refused(comfyui):
    from impasto.nodes.evaluation import _encoders

    with pytest.raises(SettingsError, match="clip_text is connected and clip_vision is not"):
        _encoders(None, object())
    assert _encoders(None, None) == (None, None)
