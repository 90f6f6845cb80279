"""A small job from pictures to a published LoRA, as its nodes do it one after the other, in this process.

Queued again, it does what is not done yet, however often; all that it writes lies under one folder, its disk.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path

import torch
from impasto import checksums
from impasto.captioners.metadata import MetadataCaptioner
from impasto.captioners.runner import caption_dataset
from impasto.dataset.config_writer import TomlSettings, write_dataset_toml
from impasto.embedded.transformer_weights import transformer_weights
from impasto.errors import TrainingError
from impasto.sources.folder import load_folder
from impasto.trainers import preflight, recipe
from impasto.trainers.features.encoding import Encoder, encode
from impasto.trainers.flux.fingerprint import fingerprint
from impasto.trainers.run import create
from impasto.trainers.run import folder as runs
from impasto.trainers.run.publish import publish
from impasto.trainers.run.samples import drawn_samples
from impasto.trainers.settings import Settings
from PIL import Image
from safetensors.torch import load_file, save_file

POOLED, CONTEXT = 24, 32
NAME = "garden"
TOML = TomlSettings(
    resolution=64, min_bucket_reso=64, max_bucket_reso=128, bucket_reso_steps=32, batch_size=2, validation_split=0.2
)
SETTINGS = Settings(
    steps=4,
    checkpoint_every=2,
    rank=2,
    alpha=2.0,
    targets="image attention",
    learning_rate=1e-3,
    sample_steps=1,
    precision="fp32",
)
GENRES = ("landscape", "portrait", "still_life", "cityscape", "marina", "abstract")


class Stopped(Exception):
    """The job was stopped where it was to be."""


def write_inputs(folder: Path) -> Path:
    """The user's own files, which the job only reads: six pictures with their labels, and a base model."""
    pictures = folder / "pictures" / NAME
    pictures.mkdir(parents=True)
    lines = []
    for number, genre in enumerate(GENRES):
        picture = Image.radial_gradient("L").resize((64, 64))
        picture = Image.merge("RGB", [picture.point(lambda v, k=k: (v * k) % 256) for k in (1, number + 2, 3)])
        if number == 1:
            picture.putalpha(Image.linear_gradient("L").resize((64, 64)))  # written anew for the trainers
        picture.save(pictures / f"{number}.png")
        lines.append({"file_name": f"{number}.png", "genre": genre, "title": f"Picture {number}"})
    (pictures / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    sizes = {"hidden_size": 128, "double_blocks": 1, "single_blocks": 1}
    save_file(
        transformer_weights(**sizes, context_width=CONTEXT, pooled_width=POOLED, seed=0), folder / "flux.safetensors"
    )
    return folder


class SmallJob:
    """The job of these inputs on this disk.

    Args:
        inputs: what `write_inputs` wrote.
        disk: where all that the job makes is to lie.
    """

    def __init__(self, inputs: Path, disk: Path) -> None:
        self.inputs = inputs
        self.disk = disk
        self.weights = inputs / "flux.safetensors"

    def queue(self, stop_after: int | None = None, after_stage: Callable[[str], None] = lambda stage: None) -> dict:
        """Do everything once, as after a restart; the tensors that the job came to, by file.

        Raises:
            ImpastoError, or what else a stage raises, also where the trainer would only have told of it.
            Stopped: training was stopped after the step `stop_after`.
        """
        checksums._compared.clear()  # a process that starts has compared nothing
        dataset, _ = load_folder(self.disk / "datasets", self.inputs / "pictures", NAME, NAME, "PNG")
        after_stage("load")
        dataset = asyncio.run(caption_dataset(dataset, MetadataCaptioner())).dataset
        after_stage("caption")
        config = write_dataset_toml(dataset, TOML).path
        after_stage("config")
        prompts = [("a harbour", 7)]
        features = encode(config, Encoder("vae", encode_picture), Encoder("clip", encode_text), prompts=prompts)
        after_stage("encode")
        job = runs.Job(
            *(NAME, SETTINGS, features.folder, features.key, str(self.weights), fingerprint(self.weights)),
            prompts=features.prompts,
        )
        run = create.create_run(self.disk / "output" / "runs", job)
        after_stage("begin")
        if not run.finished:
            preflight.preflight(job, run)
            self._train(run, stop_after, after_stage)
        after_stage("train")
        final = publish(run, NAME, self.disk / "loras")
        after_stage("publish")
        if final is None:
            raise Stopped
        return self._results(run)

    def _train(self, run: runs.Run, stop_after: int | None, after_stage: Callable[[str], None]) -> None:
        def stop_requested() -> bool:
            done = max(run.checkpoints(), default=0)
            if done:  # it is asked for between a checkpoint and its measuring, too
                after_stage("checkpoint")
            return stop_after is not None and done >= stop_after

        raised = _Raised()
        recipe.logger.addHandler(raised)
        try:
            if not recipe.train_run(run, cpu=True, stop_requested=stop_requested):
                raise raised.error or TrainingError(run.status().get("error", ""))
        finally:
            recipe.logger.removeHandler(raised)

    def _results(self, run: runs.Run) -> dict[str, torch.Tensor]:
        found = {}
        for file in sorted((self.disk / "loras").rglob("*.safetensors")):
            tensors = load_file(file)
            found |= {f"{file.name}: {key}": tensor.clone() for key, tensor in tensors.items()}
        latents, steps = drawn_samples(run)
        return found | {f"sample of step {step}": latent.clone() for step, latent in zip(steps, latents, strict=True)}


class _Raised(logging.Handler):
    """Keeps what the trainer caught and told of."""

    def __init__(self) -> None:
        super().__init__()
        self.error: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.error = record.exc_info[1]


def encode_picture(pixels: torch.Tensor) -> torch.Tensor:
    return (pixels[::8, ::8].permute(2, 0, 1).repeat(6, 1, 1)[:16] - 0.5) * 4


def encode_text(text: str) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(sum(place * ord(letter) for place, letter in enumerate(text, start=1)))
    return torch.randn(8, CONTEXT, generator=random), torch.randn(POOLED, generator=random)
