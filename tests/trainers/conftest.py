"""A run that is small but whole: real pictures, real features, a real FLUX-shaped model, the real child process."""

from __future__ import annotations

import pytest
import torch
from impasto.embedded.transformer_weights import transformer_weights
from impasto.trainers.features import encoding as features
from impasto.trainers.features import index
from impasto.trainers.flux.fingerprint import fingerprint as flux_fingerprint
from impasto.trainers.recipe import train_run
from impasto.trainers.run import create
from impasto.trainers.run import folder as runs
from impasto.trainers.settings import Settings
from PIL import Image
from safetensors.torch import save_file

POOLED, CONTEXT = 32, 64


def encode_image(pixels: torch.Tensor) -> torch.Tensor:
    """Mean colours of 8 x 8 pixels, spread over 16 channels."""
    height, width, _ = pixels.shape
    means = pixels.reshape(height // 8, 8, width // 8, 8, 3).mean(dim=(1, 3)).permute(2, 0, 1)
    return (means.repeat(6, 1, 1)[:16] - 0.5) * 8


def encode_text(text: str) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(sum(map(ord, text)))
    return torch.randn(16, CONTEXT, generator=random), torch.randn(POOLED, generator=random)


def train(run: runs.Run, stop_at: int | None = None) -> bool:
    """Train in this process; asked to stop as soon as `stop_at` steps are done."""

    def stop_requested() -> bool:
        return stop_at is not None and max((record["step"] for record in run.metrics()), default=0) >= stop_at - 1

    return train_run(run, cpu=True, stop_requested=stop_requested)


@pytest.fixture(scope="session")
def tiny_features(tmp_path_factory) -> index.Features:
    """Twelve pictures in two buckets, two of them held out."""
    folder = tmp_path_factory.mktemp("dataset")
    pictures = folder / "train"
    pictures.mkdir()
    for number in range(12):
        size = (128, 64) if number % 3 else (64, 128)
        Image.new("RGB", size, (20 * number, 255 - 20 * number, 128)).save(pictures / f"{number}.png")
        (pictures / f"{number}.txt").write_text(f"picture {number}")
    config = folder / "dataset.toml"
    config.write_text(
        "[[datasets]]\nresolution = 96\nbatch_size = 2\nenable_bucket = true\n"
        "min_bucket_reso = 64\nmax_bucket_reso = 128\nbucket_reso_steps = 32\n"
        "validation_split = 0.2\nvalidation_seed = 1\n"
        f'[[datasets.subsets]]\nimage_dir = "{pictures.as_posix()}"\ncaption_extension = ".txt"\n'
    )
    return features.encode(config, features.Encoder("vae", encode_image), features.Encoder("clip", encode_text))


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny.safetensors"
    sizes = {
        "hidden_size": 128,
        "double_blocks": 1,
        "single_blocks": 1,
        "context_width": CONTEXT,
        "pooled_width": POOLED,
    }
    save_file(transformer_weights(**sizes, seed=0), path)
    return path


@pytest.fixture
def make_run(tmp_path, tiny_features, tiny_weights):
    """Make the run of some settings; each in a folder of its own when asked for under another root."""

    def make(root: str = "runs", weights=tiny_weights, **settings) -> runs.Run:
        defaults = {
            "steps": 8,
            "checkpoint_every": 4,
            "rank": 4,
            "alpha": 4.0,
            "learning_rate": 1e-3,
            "sample_steps": 2,
        }
        chosen = Settings(**defaults | settings)
        fingerprint = flux_fingerprint(weights)
        job = runs.Job("tiny", chosen, tiny_features.folder, tiny_features.key, str(weights), fingerprint)
        return create.create_run(tmp_path / root, job)

    return make
