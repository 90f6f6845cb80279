"""Training learns from the embedded paintings and from their captions: runs that cannot do either show it.

Real paintings and captions, encoded by ComfyUI's own VAE and CLIP classes; a FLUX-shaped model of a million weights.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from impasto.embedded.paintings import Scene, caption, paint, scene
from impasto.embedded.transformer_weights import transformer_weights
from impasto.trainers import recipe
from impasto.trainers.features import encoding as features
from impasto.trainers.features import index
from impasto.trainers.features import plan as planning
from impasto.trainers.flux.fingerprint import fingerprint as flux_fingerprint
from impasto.trainers.run import create
from impasto.trainers.run import folder as runs
from impasto.trainers.settings import Settings
from safetensors.torch import save_file

# What the picture shows and in which light decides its colours, and the caption tells both.
SUBJECTS = (
    ("landscape", "river", "noon"),
    ("landscape", "snow", "morning"),
    ("landscape", "sailboats", "dusk"),
    ("cityscape", "rain", "evening"),
)
PICTURES = 6  # of each; a third of all is held out
SETTINGS = {
    "steps": 40,
    "checkpoint_every": 40,
    "learning_rate": 2e-3,
    "rank": 16,
    "targets": "all linear",
    "caption_dropout": 0.0,
    "gradient_checkpointing": False,
    "sample_steps": 0,
}


def scenes_of(kind: str, composition: str, light: str) -> list[Scene]:
    found = (scene(kind, seed) for seed in range(300))
    return [each for each in found if (each.composition, each.light) == (composition, light)][:PICTURES]


@pytest.fixture(scope="module")
def encoded(comfyui, tmp_path_factory) -> dict[str, index.Features]:
    """The same pictures twice: with their captions, and with those of the training pictures dealt out anew."""
    from impasto.nodes.embedded import TinyFluxLoader
    from impasto.nodes.host import encoders

    _, clip, vae = TinyFluxLoader.execute(seed=0).args
    folder = tmp_path_factory.mktemp("paintings")
    captions = {}
    for number, painted in enumerate(shown for subject in SUBJECTS for shown in scenes_of(*subject)):
        picture = folder / f"{number:02}.png"
        paint(painted, "impressionist", 96, 96).save(picture)
        captions[picture] = caption(painted)
    (folder / "dataset.toml").write_text(
        "[[datasets]]\nresolution = 96\nbatch_size = 4\nvalidation_split = 0.34\nvalidation_seed = 1\n"
        '[[datasets.subsets]]\nimage_dir = "."\ncaption_extension = ".txt"\n'
    )

    def encode(captions: dict[Path, str]) -> index.Features:
        for picture, text in captions.items():
            picture.with_suffix(".txt").write_text(text)
        return features.encode(folder / "dataset.toml", encoders.autoencoder(vae), encoders.text_encoder(clip))

    theirs = encode(captions)
    trained = {example.image for example in index.load(theirs).examples if not example.held_out}
    pictures = [picture for picture in captions if planning.file_hash(picture) in trained]
    dealt = [captions[picture] for picture in pictures]
    random.Random(0).shuffle(dealt)
    return {"theirs": theirs, "shuffled": encode(captions | dict(zip(pictures, dealt, strict=True)))}


@pytest.fixture(scope="module")
def learnt(encoded, tmp_path_factory):
    """By how much a run lowers the loss on the held-out pictures, of the base model's."""
    folder = tmp_path_factory.mktemp("runs")
    weights = folder / "transformer.safetensors"
    save_file(transformer_weights(hidden_size=128, double_blocks=1, single_blocks=1, seed=0), weights)

    def train(captions: str = "theirs", **changes) -> float:
        data, settings = encoded[captions], Settings(**SETTINGS | changes)
        fingerprint = flux_fingerprint(weights)
        job = runs.Job(captions, settings, data.folder, data.key, str(weights), fingerprint)
        run = create.create_run(folder, job)
        assert recipe.train_run(run, cpu=True, stop_requested=lambda: False), run.status()["error"]
        untrained, *_, trained = run.metrics()
        return 1 - trained["held_out_loss"] / untrained["held_out_loss"]

    return train


@pytest.fixture(scope="module")
def proper(learnt) -> float:
    return learnt()


def test_the_pictures_are_the_same_and_only_captions_of_training_pictures_change_places(encoded):
    theirs, shuffled = (
        {example.image: (example.caption, example.held_out) for example in index.load(found).examples}
        for found in encoded.values()
    )
    assert sorted(theirs.values()) == sorted(shuffled.values())
    moved = {image for image in theirs if theirs[image] != shuffled[image]}
    assert len(moved) > len(theirs) // 3 and not any(theirs[image][1] for image in moved)


def test_the_held_out_loss_falls_far_below_the_base_models(proper):
    assert proper > 0.3


def test_without_a_learning_rate_it_stays_where_it_was(learnt):
    assert abs(learnt(learning_rate=1e-8)) < 0.001


def test_with_shuffled_captions_it_falls_less(proper, learnt):
    assert learnt("shuffled") < proper - 0.03
