"""Train the decoder of the tiny FLUX's autoencoder on painted pictures of both finishes.

    python worker.py impasto.embedded.train_decoder --folder FOLDER [--steps 6000]

The encoder stays the one that is worked out (`autoencoder_weights`): its latents are nearly white over paintings,
previews show their colours, and they hold more than the decoder beside it takes out of them.

Run it again and it goes on from where it stopped; with more `--steps` a finished training goes on too. FOLDER holds the
pictures (`embedded.training_pictures` paints them; what is there when a run begins is used), and gets `decoder.pt`, the
state, saved every few minutes, and `decoder.jpg`, a sheet of round trips of scenes held out.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import TrainingError
from ..trainers.objective import generator
from . import learning
from .paintings import FINISHES
from .taesd import Autoencoder, worked_out
from .training_latents import latents_of
from .training_pictures import Pictures, held_out_pictures, training_pictures

logger = logging.getLogger(__name__)

SEED = 1
BATCH = 4
PEAK_RATE, WARM_UP, FALLING = 1e-3, 100, 0.5
AVERAGE_DECAY = 0.995
SAVE_EVERY, TELL_EVERY = 200, 20
SHOWN = 8  # scenes on the sheet
ABSOLUTE_ERROR = 0.1  # beside the squared error: it keeps edges sharp
NOISE = 0.1  # added to the latents of every other batch, because samples are never quite clean


@dataclass(frozen=True)
class RoundTripMeasures:
    """Of round trips of held-out scenes: PSNR in dB by finish, and each latent channel's mean and deviation."""

    psnr: dict[str, float]
    mean: list[float]
    deviation: list[float]

    def __str__(self) -> str:
        psnr = ", ".join(f"{finish} {value:.2f} dB" for finish, value in self.psnr.items())
        means, deviations = (sorted(values) for values in (self.mean, self.deviation))
        return (
            f"{psnr}; latents: mean {means[0]:.3f} to {means[-1]:.3f}, "
            f"deviation {deviations[0]:.3f} to {deviations[-1]:.3f}"
        )


class _Batches:
    """Batches of one shape each, drawn by step alone; every picture is mirrored half of the time."""

    def __init__(self, groups: list[Pictures]) -> None:
        shapes = sorted({group.pixels.shape[1:3] for group in groups})
        self.pixels = [
            np.concatenate([group.pixels for group in groups if group.pixels.shape[1:3] == shape]) for shape in shapes
        ]
        counts = torch.tensor([len(pixels) for pixels in self.pixels], dtype=torch.float64)
        self.shares = counts / counts.sum()

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Latents, and the pictures that they are to become again."""
        random = generator(SEED, "decoder", step)
        pixels = self.pixels[int(torch.multinomial(self.shares, 1, generator=random))]
        chosen = pixels[torch.randint(len(pixels), (BATCH,), generator=random).numpy()]
        mirrored = (torch.rand(BATCH, generator=random) < 0.5).numpy()
        chosen[mirrored] = chosen[mirrored, :, ::-1]
        latents = latents_of(chosen)
        return latents + torch.randn(latents.shape, generator=random) * (NOISE * (step % 2)), learning.as_tensor(chosen)


def beginning() -> nn.Sequential:
    """A decoder of random weights that shows grey.

    Not the worked-out one: what is lifted through its ReLUs by a constant moves with every weight, and training tears
    it apart at any useful rate.
    """
    torch.manual_seed(SEED)
    decoder = Autoencoder().taesd_decoder
    with torch.no_grad():
        decoder[-1].weight.mul_(0.1)
        decoder[-1].bias.fill_(0.5)
    return decoder.to(memory_format=torch.channels_last)


def train(folder: Path, steps: int) -> None:
    """Train up to `steps` steps in all, going on from the state that is there.

    Raises:
        TrainingError: nothing is painted yet.
    """
    groups = list(training_pictures(folder / "pictures"))
    if not groups:
        raise TrainingError(f"There are no pictures in {folder / 'pictures'}. Run embedded.training_pictures first.")
    batches = _Batches(groups)
    logger.info("%d pictures", sum(map(len, batches.pixels)))
    decoder = beginning()
    optimizer = torch.optim.AdamW(decoder.parameters(), betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    average = learning.AveragedWeights(decoder, AVERAGE_DECAY)
    first = 0
    if state := learning.load_state(folder / "decoder.pt"):
        decoder.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average.values, first = state["average"], state["step"]
    line = learning.ProgressLine(steps, TELL_EVERY)
    for step in range(first, steps):
        for group in optimizer.param_groups:
            group["lr"] = learning.learning_rate(step, steps, PEAK_RATE, WARM_UP, FALLING)
        latents, pictures = batches(step)
        with torch.autocast("cpu", torch.bfloat16):
            error = decoder(latents.to(memory_format=torch.channels_last)).float() - pictures
        loss = error.square().mean() + ABSOLUTE_ERROR * error.abs().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        average.update(decoder, step)
        line.step(step + 1, loss.item())
        if not (step + 1) % SAVE_EVERY or step + 1 == steps:
            saved = {"model": decoder.state_dict(), "optimizer": optimizer.state_dict(), "average": average.values}
            learning.save_state(folder / "decoder.pt", saved | {"step": step + 1})
            judged, _ = trained(folder)
            logger.info("held out: %s", measure(judged, folder, per_shape=6))
            write_round_trips(judged, folder)


def trained(folder: Path) -> tuple[Autoencoder, int]:
    """The worked-out encoder with the averaged decoder of a folder, and how many steps that was trained for.

    Raises:
        TrainingError: none has been trained there.
    """
    state = learning.load_state(folder / "decoder.pt")
    if state is None:
        raise TrainingError(f"There is no decoder.pt in {folder}. Run embedded.train_decoder first.")
    model = worked_out()
    model.taesd_decoder.load_state_dict(state["average"])
    return model.to(memory_format=torch.channels_last), state["step"]


@torch.no_grad()
def round_trips(model: Autoencoder, pixels: np.ndarray, batch: int = 16) -> np.ndarray:
    """Pictures of one shape, uint8 `(n, height, width, 3)`, encoded and decoded again."""
    decoded = []
    for start in range(0, len(pixels), batch):
        with torch.autocast("cpu", torch.bfloat16):
            decoded.append(learning.as_pixels(model.decode(latents_of(pixels[start : start + batch]))))
    return np.concatenate(decoded)


def measure(model: Autoencoder, folder: Path, per_shape: int) -> RoundTripMeasures:
    errors: dict[str, list[float]] = {finish: [] for finish in FINISHES}
    latents = []
    for group in held_out_pictures(folder / "pictures"):
        pixels = group.pixels[:per_shape]
        errors[group.finish] += list(((round_trips(model, pixels).astype(np.float32) - pixels) ** 2).mean((1, 2, 3)))
        latents.append(latents_of(group.pixels).movedim(1, 0).flatten(1))
    channels = torch.cat(latents, 1)
    psnr = {finish: float(np.mean(10 * np.log10(255**2 / np.array(values)))) for finish, values in errors.items()}
    return RoundTripMeasures(psnr, channels.mean(1).tolist(), channels.std(1).tolist())


def write_round_trips(model: Autoencoder, folder: Path) -> None:
    """Rows: plain, plain decoded, impressionist, impressionist decoded."""
    rows = []
    square = [group for group in held_out_pictures(folder / "pictures") if group.pixels.shape[1:3] == (128, 128)]
    for group in sorted(square, key=lambda group: FINISHES.index(group.finish)):
        pixels = group.pixels[:SHOWN]
        rows += [list(pixels), list(round_trips(model, pixels))]
    learning.write_sheet(folder / "decoder.jpg", rows)


def main() -> int:
    parser = argparse.ArgumentParser(description="Train the decoder of the tiny FLUX's autoencoder.")
    parser.add_argument("--folder", type=Path, required=True, help="where pictures, state and sheets are kept")
    parser.add_argument("--steps", type=int, default=6000, help="in all, those of earlier runs included")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train(arguments.folder, arguments.steps)
    return 0
