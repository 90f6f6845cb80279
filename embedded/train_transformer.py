"""Train the tiny FLUX's transformer to draw the painter's scenes, in the plain finish only.

    python worker.py impasto.embedded.train_transformer --folder FOLDER --comfyui COMFYUI [--steps N]
        [--guidance-steps N]

First by flow matching on latents and true captions (guidance 1), then with the guidance embedding told a number from 1
to 5 and the velocity that classifier-free guidance makes of the first phase's average as the target. Run it again and
it goes on from where it stopped. FOLDER holds the pictures (`embedded.training_pictures` paints them), and gets
`transformer.pt`, the state, and `transformer-<step>.jpg`, sheets of samples of scenes held out.

Several processes share each batch when each has RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set, as by `torchrun`.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..errors import TrainingError
from ..trainers.flux.blocks import blocks
from ..trainers.flux.forward import TIMESTEPS, predict_velocity
from ..trainers.objective import generator, noisy_latents, velocity_loss
from ..trainers.sampler import sample
from . import learning, text_embeddings
from .autoencoder_weights import colour_directions
from .scenes import caption
from .taesd import worked_out
from .text_encoder_weights import CLIP_WIDTH, T5_WIDTH
from .training_latents import Latents
from .training_pictures import HELD_OUT, SHAPES, held_out_pictures, scene_of, training_pictures
from .transformer_weights import HEAD_WIDTH, PATCH_CHANNELS

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

logger = logging.getLogger(__name__)

SEED = 1
HEADS, DOUBLE_BLOCKS, SINGLE_BLOCKS = 2, 2, 4
ROPE_AXES = (16, 56, 56)
BATCH = 32
PEAK_RATE, MIDDLE_RATE, WARM_UP, FALLING = 1e-3, 3e-4, 100, 0.4  # the second phase falls from the middle rate to 0
AVERAGE_DECAY = 0.997
# Of the error in a place's mean colour, beside the error of everything: 3 of 16 directions hold what a person sees
# first, and the finer ones, as wide as these in latents, can be told from the caption least.
COLOUR_SHARE = 1.0
SIGMA_MEAN = 0.2  # of the logit of sigma, whose deviation is 1
GUIDANCE = (1.0, 5.0)  # what the guidance embedding is told in the second phase
GUIDANCE_STRENGTH = 0.6  # guidance g is a classifier-free guidance of 1 + 0.6 (g - 1): 2.5 at FLUX's usual 3.5
SAVE_EVERY, TELL_EVERY, SHOW_EVERY = 50, 10, 600
JUDGED_SIGMAS = (0.25, 0.5, 0.75, 0.95)
SHEET = 16  # pictures


def new_transformer() -> FluxTransformer2DModel:
    """Of the family's size, 9.2 million parameters; modulations and the last layer start at zero."""
    from diffusers import FluxTransformer2DModel

    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=PATCH_CHANNELS,
        num_layers=DOUBLE_BLOCKS,
        num_single_layers=SINGLE_BLOCKS,
        attention_head_dim=HEAD_WIDTH,
        num_attention_heads=HEADS,
        joint_attention_dim=T5_WIDTH,
        pooled_projection_dim=CLIP_WIDTH,
        guidance_embeds=True,
        axes_dims_rope=ROPE_AXES,
    )
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
            modulation = name.endswith(("norm1.linear", "norm1_context.linear", "norm.linear", "norm_out.linear"))
            if modulation or name == "proj_out":
                nn.init.zeros_(module.weight)
    return transformer


@torch.no_grad()
def guidance_means_nothing(transformer: FluxTransformer2DModel) -> None:
    """Make the embedding of every guidance the one of 1.0, the only one that the first phase has told."""
    embed = transformer.time_text_embed
    one = embed.guidance_embedder(embed.time_proj(torch.tensor([TIMESTEPS])))[0]
    embed.guidance_embedder.linear_2.weight.zero_()
    embed.guidance_embedder.linear_2.bias.copy_(one)


@dataclass(frozen=True)
class Prompts:
    """Embeddings of all prompts, one row each; row 0 is the empty one."""

    t5: Tensor
    pooled: Tensor

    def __getitem__(self, index: Tensor) -> tuple[Tensor, Tensor]:
        return self.t5[index], self.pooled[index]


def guided(transformer: nn.Module, noisy: Tensor, sigma: Tensor, told: tuple, untold: tuple, scale: float) -> Tensor:
    """Classifier-free guidance: untold + scale (told - untold), each an answer to (T5, pooled) embeddings."""
    both = [torch.cat(pair) for pair in zip(told, untold, strict=True)]
    answers = predict_velocity(transformer, torch.cat((noisy, noisy)), torch.cat((sigma, sigma)), *both)
    with_prompt, without = answers.chunk(2)
    return without + scale * (with_prompt - without)


def visible_error(error: Tensor) -> Tensor:
    """The mean square of an error in velocity `(batch, 16, h, w)`, and once more that of its mean colours."""
    colours = torch.einsum("nchw,kc->nkhw", error, torch.tensor(colour_directions()))
    return error.square().mean() + COLOUR_SHARE * colours.square().mean()


class Training:
    """bfloat16 weights that compute, float32 ones that learn, their average, the first phase's average as teacher."""

    def __init__(self, folder: Path, prompts: Prompts, steps: int, guidance_steps: int) -> None:
        self.folder, self.prompts = folder, prompts
        self.steps, self.total = steps, steps + guidance_steps
        torch.manual_seed(SEED)
        self.master = new_transformer()
        self.model = new_transformer().bfloat16()
        self.optimizer = torch.optim.AdamW(self.master.parameters(), betas=(0.9, 0.98), weight_decay=0.01, fused=True)
        self.average = learning.AveragedWeights(self.master, AVERAGE_DECAY)
        self.teacher: nn.Module | None = None
        self.done = 0
        if state := learning.load_state(folder / "transformer.pt"):
            self.master.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.average.values, self.done = state["average"], state["step"]
            if state["teacher"]:
                self._teach_by(state["teacher"])
        self._copy_weights()

    def _teach_by(self, weights: dict[str, Tensor]) -> None:
        self.teacher = new_transformer().bfloat16().requires_grad_(False)
        self.teacher.load_state_dict(weights)

    def _begin_second_phase(self) -> None:
        """Go on from the first phase's average, which becomes the teacher, with every guidance meaning what 1 did."""
        self._teach_by(self.average.values)
        self.average.into(self.master)
        guidance_means_nothing(self.master)
        self.average = learning.AveragedWeights(self.master, AVERAGE_DECAY)
        self._copy_weights()

    def _copy_weights(self) -> None:
        with torch.no_grad():
            torch._foreach_copy_(list(self.model.parameters()), list(self.master.parameters()))

    def loss(self, latents: Tensor, chosen: Tensor, random: torch.Generator) -> Tensor:
        sigma = torch.sigmoid(torch.randn(len(latents), generator=random) + SIGMA_MEAN)
        noise = torch.randn(latents.shape, generator=random)
        noisy, told = noisy_latents(latents, noise, sigma), self.prompts[chosen]
        if self.teacher is None:
            return visible_error(predict_velocity(self.model, noisy, sigma, *told).float() - (noise - latents))
        low, high = GUIDANCE
        guidance = low + (high - low) * torch.rand((), generator=random).item()
        scale = 1 + GUIDANCE_STRENGTH * (guidance - 1)
        with torch.no_grad():
            target = guided(self.teacher, noisy, sigma, told, self.prompts[torch.zeros_like(chosen)], scale)
        answer = predict_velocity(self.model, noisy, sigma, *told, guidance=guidance)
        return visible_error(answer.float() - target.float())

    def step(self, latents: Latents) -> float:
        """One step; of several processes each takes its share of the batch, and all their gradients are averaged."""
        if self.done == self.steps and self.teacher is None:
            self._begin_second_phase()
        rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        random = generator(SEED, "transformer", self.done, rank)
        if self.done < self.steps:
            rate = learning.learning_rate(self.done, self.steps, PEAK_RATE, WARM_UP, FALLING, MIDDLE_RATE)
        else:
            rate = MIDDLE_RATE * (1 - (self.done - self.steps) / (self.total - self.steps))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self.loss(*latents.batch(BATCH // world, random), random)
        loss.backward()
        gradient = torch.cat([parameter.grad.float().flatten() for parameter in self.model.parameters()])
        if world > 1:
            torch.distributed.all_reduce(gradient)
            gradient /= world
        gradient *= min(1.0, 1.0 / (gradient.norm().item() + 1e-6))
        parameters = list(self.master.parameters())
        for parameter, part in zip(parameters, gradient.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = part.view_as(parameter)
        self.optimizer.step()
        self.model.zero_grad()
        self._copy_weights()
        self.average.update(self.master, self.done if self.teacher is None else self.done - self.steps)
        self.done += 1
        return loss.item()

    def save(self) -> None:
        state = {
            "model": self.master.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.values,
            "teacher": self.teacher.state_dict() if self.teacher else None,
            "step": self.done,
        }
        learning.save_state(self.folder / "transformer.pt", state)


@torch.no_grad()
def held_out_loss(transformer: nn.Module, held_out: Latents, prompts: Prompts) -> list[float]:
    """Mean squared error of the velocity at `JUDGED_SIGMAS`, on 64 square scenes held out, told their captions."""
    group = max(held_out.shapes, key=lambda shape: len(shape.latents))
    latents, told = group.latents[:64].float(), prompts[group.captions[:64]]
    losses = []
    for sigma in JUDGED_SIGMAS:
        sigmas = torch.full((len(latents),), sigma)
        noise = torch.randn(latents.shape, generator=generator(SEED, "held out", str(sigma)))
        answer = predict_velocity(transformer, noisy_latents(latents, noise, sigmas), sigmas, *told)
        losses.append(velocity_loss(answer, latents, noise).item())
    return losses


@torch.no_grad()
def draw(
    transformer: nn.Module,
    told: tuple[Tensor, Tensor],
    guidance: float,
    untold: tuple[Tensor, Tensor] | None = None,
    shape: tuple[int, int] = SHAPES[0],
    seed: int = SEED,
    steps: int = 16,
) -> Tensor:
    """Scaled latents of one picture for each of the (T5, pooled) embeddings, by Euler's method.

    Args:
        untold: the empty prompt's embeddings; with them `guidance` is a classifier-free one, by two passes.
        shape: width and height in pixels.
    """
    count = len(told[0])

    def velocity(latents: Tensor, sigma: float) -> Tensor:
        sigmas = torch.full((count,), sigma)
        if untold is None:
            return predict_velocity(transformer, latents, sigmas, *told, guidance=guidance)
        return guided(transformer, latents, sigmas, told, untold, guidance)

    return sample(velocity, starting_noise(count, shape, seed), steps)


def starting_noise(count: int, shape: tuple[int, int] = SHAPES[0], seed: int = SEED) -> Tensor:
    """What `draw` begins with, `(count, 16, height/8, width/8)`; `shape` is width and height in pixels."""
    width, height = shape
    return torch.randn(count, PATCH_CHANNELS // 4, height // 8, width // 8, generator=generator(seed, "draw"))


def write_samples(path: Path, transformer: nn.Module, prompts: Prompts, captions: Sequence[int], second: bool) -> None:
    index = torch.tensor(captions)
    if second:
        latents = draw(transformer, prompts[index], 3.5)
    else:
        latents = draw(transformer, prompts[index], 2.5, prompts[torch.zeros_like(index)])
    pixels = list(learning.as_pixels(worked_out().decode(latents)))
    learning.write_sheet(path, [pixels[start : start + 8] for start in range(0, len(pixels), 8)])


def train(folder: Path, comfyui: Path, steps: int, guidance_steps: int, compiled: bool = False) -> None:
    """Train `steps` and then `guidance_steps`, going on from the state that is there.

    Args:
        compiled: by torch.compile, a graph for each size of picture: two thirds of the time, after minutes.

    Raises:
        TrainingError: nothing is painted yet.
    """
    latents = Latents(group for group in training_pictures(folder / "pictures") if group.finish == "plain")
    if not latents.shapes:
        raise TrainingError(f"There are no pictures in {folder / 'pictures'}. Run embedded.training_pictures first.")
    held_out = Latents(group for group in held_out_pictures(folder / "pictures") if group.finish == "plain")
    prompts = Prompts(*text_embeddings.embed(latents.prompts, comfyui))
    judged = Prompts(*text_embeddings.embed(held_out.prompts, comfyui))
    logger.info("%d pictures, %d prompts", sum(len(s.latents) for s in latents.shapes), len(latents.prompts))
    training = Training(folder, prompts, steps, guidance_steps)
    if compiled:
        for block in blocks(training.model):
            block.compile(dynamic=False)
    first = int(os.environ.get("RANK", 0)) == 0
    line = learning.ProgressLine(training.total, TELL_EVERY)
    while training.done < training.total:
        loss = training.step(latents)
        if not first:
            continue
        line.step(training.done, loss)
        if not training.done % SAVE_EVERY or training.done in (steps, training.total):
            training.save()
        if not training.done % SHOW_EVERY or training.done == training.total:
            averaged = training.average.into(new_transformer()).bfloat16()
            losses = held_out_loss(averaged, held_out, judged)
            logger.info("held out: %s at sigma %s", [round(value, 4) for value in losses], JUDGED_SIGMAS)
            captions = [held_out.prompts.index(text) for text in _shown_captions()]
            path = folder / f"transformer-{training.done:05d}.jpg"
            write_samples(path, averaged, judged, captions, second=training.teacher is not None)


def _shown_captions() -> list[str]:
    return [caption(scene_of(HELD_OUT + index)) for index in range(SHEET)]


def main() -> int:
    parser = argparse.ArgumentParser(description="Train the tiny FLUX's transformer.")
    parser.add_argument("--folder", type=Path, required=True, help="where pictures, state and sheets are kept")
    parser.add_argument("--comfyui", type=Path, required=True, help="ComfyUI's folder, for its tokenizers")
    parser.add_argument("--steps", type=int, default=12000, help="of the first phase, those of earlier runs included")
    parser.add_argument("--guidance-steps", type=int, default=1500, help="of the second phase")
    parser.add_argument("--compile", action="store_true", help="needs a C++ compiler")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        torch.distributed.init_process_group("gloo")
    train(arguments.folder, arguments.comfyui, arguments.steps, arguments.guidance_steps, arguments.compile)
    return 0
