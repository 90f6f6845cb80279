"""How well the tiny FLUX draws: judges fitted on round trips of training pictures, asked about samples of other scenes.

    python worker.py impasto.embedded.judge_samples --folder FOLDER --comfyui COMFYUI [--samples 128] [--guidance 3.5]

FOLDER is the one that the trainings work in; what they have averaged so far is judged. Prints the figures as Markdown,
and writes `samples-<guidance>.jpg`, the first 64 samples. Before the transformer's second phase the guidance is a
classifier-free one, because the guidance embedding has learned nothing yet.
"""

from __future__ import annotations

import argparse
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..errors import TrainingError
from . import judges, learning, text_embeddings
from .paintings import FINISHES
from .scenes import Scene, caption
from .taesd import Autoencoder
from .train_decoder import measure, round_trips, trained
from .train_transformer import Prompts, draw, new_transformer
from .training_pictures import HELD_OUT, SHAPES, Pictures, held_out_pictures, scene_of, training_pictures

logger = logging.getLogger(__name__)

FITTED_ON = {"plain": 800, "impressionist": 300}  # square pictures, as far as there are so many
SHOWN, ROW = 64, 8
DRAWN_TOGETHER = 32
STEPS = 20


@dataclass(frozen=True)
class Decoded:
    """Round trips, uint8 `(n, height, width, 3)`, and their scenes."""

    pixels: np.ndarray
    scenes: list[Scene]


def decoded(model: Autoencoder, groups: Iterable[Pictures], finish: str, count: int) -> Decoded:
    """The round trips of up to `count` square pictures of one finish."""
    square = SHAPES[0][::-1]
    chosen = [group for group in groups if group.finish == finish and group.pixels.shape[1:3] == square]
    pixels = np.concatenate([group.pixels for group in chosen])[:count]
    indices = np.concatenate([group.indices for group in chosen])[:count]
    return Decoded(round_trips(model, pixels), [scene_of(int(index)) for index in indices])


ASKED: dict[str, Callable[[Scene], str]] = {
    "genre": lambda scene: scene.kind,
    "composition": judges.composition_of,
    "light": lambda scene: scene.light,
}


@dataclass(frozen=True)
class Panel:
    """All judges. Light and colour are judged within the composition, whose own they are."""

    finish: judges.Judge
    whole: dict[str, judges.Judge]  # genre and composition
    within: dict[tuple[str, str], judges.Judge]  # (what, composition) -> light or colour

    def shares(self, shown: Decoded) -> dict[str, float]:
        """Of how many pictures each judge finds what the scene has; of the finish: plain."""
        found = {"plain": self.finish.accuracy(shown.pixels, ["plain"] * len(shown.pixels))}
        for what, judge in self.whole.items():
            found[what] = judge.accuracy(shown.pixels, [ASKED[what](scene) for scene in shown.scenes])
        right: dict[str, float] = defaultdict(float)
        asked: Counter[str] = Counter()
        for (what, composition), judge in self.within.items():
            chosen = [i for i, scene in enumerate(shown.scenes) if judges.composition_of(scene) == composition]
            if chosen:
                labels = [_label(what, shown.scenes[i]) for i in chosen]
                right[what] += judge.accuracy(shown.pixels[chosen], labels) * len(chosen)
                asked[what] += len(chosen)
        return found | {what: right[what] / asked[what] for what in asked}


def _label(what: str, scene: Scene) -> str:
    if what == "light":
        return scene.light
    colour = judges.colour_of(scene)
    return colour[1] if colour else ""


def panel(plain: Decoded, impressionist: Decoded) -> Panel:
    both = np.concatenate([plain.pixels, impressionist.pixels])
    finish = judges.fit(
        judges.texture, both, ["plain"] * len(plain.pixels) + ["impressionist"] * len(impressionist.pixels)
    )
    whole = {
        what: judges.fit(judges.thumbnail, plain.pixels, [ASKED[what](scene) for scene in plain.scenes])
        for what in ("genre", "composition")
    }
    within = {}
    for composition in sorted({judges.composition_of(scene) for scene in plain.scenes}):
        chosen = [i for i, scene in enumerate(plain.scenes) if judges.composition_of(scene) == composition]
        for what in ("light", "colour"):
            labels = [_label(what, plain.scenes[i]) for i in chosen]
            if len(set(labels)) > 1:
                within[what, composition] = judges.fit(judges.thumbnail, plain.pixels[chosen], labels)
    return Panel(finish, whole, within)


@torch.no_grad()
def drawn(folder: Path, comfyui: Path, model: Autoencoder, scenes: list[Scene], guidance: float) -> Decoded:
    """A square sample for each scene's caption, by the averaged transformer of a folder."""
    transformer = new_transformer()
    state = learning.load_state(folder / "transformer.pt")
    if state is None:
        raise TrainingError(f"There is no {folder / 'transformer.pt'}. Run embedded.train_transformer first.")
    transformer.load_state_dict(state["average"])
    transformer = transformer.bfloat16()
    prompts = Prompts(*text_embeddings.embed(["", *(caption(scene) for scene in scenes)], comfyui))
    pixels = []
    for start in range(0, len(scenes), DRAWN_TOGETHER):
        index = 1 + torch.arange(start, min(start + DRAWN_TOGETHER, len(scenes)))
        untold = None if state["teacher"] else prompts[torch.zeros_like(index)]
        latents = draw(transformer, prompts[index], guidance, untold, seed=start + 1, steps=STEPS)
        pixels.append(learning.as_pixels(model.decode(latents)))
    return Decoded(np.concatenate(pixels), scenes)


def main() -> int:
    parser = argparse.ArgumentParser(description="Judge what the tiny FLUX draws.")
    parser.add_argument("--folder", type=Path, required=True, help="where pictures and states lie")
    parser.add_argument("--comfyui", type=Path, required=True, help="ComfyUI's folder, for its tokenizers")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--guidance", type=float, nargs="+", default=[3.5])
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    model, steps = trained(arguments.folder)
    logger.info("decoder after %d steps: %s", steps, measure(model, arguments.folder, per_shape=24))
    pictures = arguments.folder / "pictures"
    fitted = panel(*(decoded(model, training_pictures(pictures), f, FITTED_ON[f]) for f in FINISHES))
    held_out = {finish: decoded(model, held_out_pictures(pictures), finish, 1000) for finish in FINISHES}
    _tell("painted plain, held out", fitted.shares(held_out["plain"]))
    _tell("painted impressionist, held out", fitted.shares(held_out["impressionist"]))
    scenes = [scene_of(HELD_OUT + index) for index in range(arguments.samples)]
    for guidance in arguments.guidance:
        shown = drawn(arguments.folder, arguments.comfyui, model, scenes, guidance)
        _tell(f"samples, guidance {guidance}", fitted.shares(shown))
        first = list(shown.pixels[:SHOWN])
        rows = [first[start : start + ROW] for start in range(0, len(first), ROW)]
        learning.write_sheet(arguments.folder / f"samples-{guidance}.jpg", rows, quality=80)
    return 0


def _tell(what: str, shares: dict[str, float]) -> None:
    logger.info("| %s | %s |", what, " | ".join(f"{name} {share:.0%}" for name, share in shares.items()))
