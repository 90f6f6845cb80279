"""Quality Filter with ComfyUI's own CLIP vision models, small and with random weights."""

from __future__ import annotations

import numpy
import pytest
import torch
from PIL import Image

from ..curation.test_quality import encoded

LIMITS = {"min_side": 32, "max_aspect": 3.0, "min_bytes_per_pixel": 0.0, "duplicate_distance": -1}
COLOURS = ((190, 60, 60), (190, 90, 60), (190, 60, 90), (60, 60, 190), (160, 60, 60))
NUMBER = len(COLOURS)  # pictures, one of them blue among the red
SMALL = {
    "hidden_act": "quick_gelu",
    "hidden_size": 32,
    "image_size": 28,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_channels": 3,
    "num_hidden_layers": 2,
    "patch_size": 14,
    "projection_dim": 16,
}


def clip_vision(seed: int, kind: str = "clip_vision_model"):
    """As core's loader makes it, of a size that no file has."""
    from comfy.clip_vision import ClipVisionModel

    config = SMALL | {"model_type": kind}
    if kind == "siglip_vision_model":
        del config["projection_dim"]  # the real one has none either
    model = ClipVisionModel(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.model.parameters():
            weight.copy_(0.5 * torch.randn(weight.shape, generator=generator))
    return model


@pytest.fixture(autouse=True)
def as_comfyui_executes_nodes():
    with torch.inference_mode():
        yield


@pytest.fixture
def dataset(comfyui, request):
    from impasto.nodes.sources import ImageFolderLoader

    name = request.node.name.partition("[")[0]
    folder = comfyui.base / "input" / name
    folder.mkdir(parents=True)
    for number in range(NUMBER):
        noise = numpy.random.default_rng(number).integers(-60, 61, (64, 64 + 16 * number, 3))
        pixels = (noise + COLOURS[number]).astype(numpy.uint8)
        (folder / f"{number}.jpg").write_bytes(encoded(Image.fromarray(pixels)))
    return ImageFolderLoader.execute("input", name, name, "JPEG").args[0]


def expected(dataset, model) -> list[float]:
    """The same scores by core's own CLIP Vision Encode, a picture at a time."""
    from impasto.nodes.host.sampling import image_batch

    from nodes import CLIPVisionEncode

    embeds = []
    for record in dataset.records():
        picture = Image.open(dataset.image_path(record)).convert("RGB")
        middle = picture.crop(((picture.width - 64) // 2, 0, (picture.width + 64) // 2, 64)).resize((28, 28), 3)
        [output] = CLIPVisionEncode().encode(model, image_batch([middle]), "center")
        embeds.append(torch.nn.functional.normalize(output["image_embeds"][0].float(), dim=0))
    centroid = torch.nn.functional.normalize(torch.stack(embeds).mean(0), dim=0)
    return [float(embed @ centroid) for embed in embeds]


def test_pictures_are_scored_by_their_likeness_to_the_set_as_core_encodes_them(comfyui, dataset):
    from impasto.nodes.dataset import QualityFilter

    model = clip_vision(0)
    wanted = expected(dataset, model)
    lowest, second = sorted(wanted)[:2]
    assert second - lowest > 0.005
    kept, _, report, _ = QualityFilter.execute(
        dataset, clip_vision=model, min_style=(lowest + second) / 2, **LIMITS
    ).args
    assert len(kept.records()) == NUMBER - 1
    [refusal] = kept.refusals()
    assert refusal.rule == "min_style" and refusal.measured == pytest.approx(lowest, abs=2e-3)
    assert dataset.records()[wanted.index(lowest)].file_name == refusal.file_name
    assert "style likeness" in report


def test_embeddings_are_remembered_by_the_models_weights(comfyui, dataset, monkeypatch):
    from impasto.nodes.dataset import QualityFilter

    encoded_pictures = []

    def scored(model) -> str:
        encode = model.encode_image
        monkeypatch.setattr(model, "encode_image", lambda image: encoded_pictures.extend(image) or encode(image))
        return QualityFilter.execute(dataset, clip_vision=model, **LIMITS).args[2]

    first = scored(clip_vision(0))
    assert len(encoded_pictures) == NUMBER
    assert scored(clip_vision(0)) == first and len(encoded_pictures) == NUMBER  # as after a restart
    assert scored(clip_vision(1)) != first and len(encoded_pictures) == 2 * NUMBER


def test_siglip_which_comfyui_does_not_pool_is_scored_too(comfyui, dataset):
    from impasto.nodes.dataset import QualityFilter

    report = QualityFilter.execute(dataset, clip_vision=clip_vision(0, "siglip_vision_model"), **LIMITS).args[2]
    assert f"{NUMBER} pictures in, {NUMBER} kept" in report and "unlike the set in style" in report
