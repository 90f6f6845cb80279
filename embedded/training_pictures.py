"""The pictures that the tiny FLUX's pretrained weights learn from: scenes of many seeds, painted once and kept on disk.

    python worker.py impasto.embedded.training_pictures --folder FOLDER [--scenes 6000] [--both 1500]

Scene `index` is of kind `index % 4`, seed `index // 4`, and of one of `SHAPES`, whichever its index draws. The strokes
of the impressionist finish are wide enough to outlive an autoencoder that keeps 8 x 8 pixels in one place of latents.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..files import appearing
from .paintings import BROAD_STROKE, FINISHES, PAINTER_VERSION, paint
from .scenes import KINDS, Scene, scene

logger = logging.getLogger(__name__)

LEAST_STROKE = BROAD_STROKE  # 4.5 pixels at 128
SHAPES = ((128, 128), (144, 112), (112, 144), (160, 96), (96, 160))  # width and height in pixels: 60 to 64 image tokens
_SHARES = (0.4, 0.15, 0.15, 0.15, 0.15)
SHARD = 200  # scenes painted between two files
HELD_OUT = 4_000_000  # from this index on, scenes are for judging only
HELD_OUT_SCENES = 256
DATA_VERSION = f"painter {PAINTER_VERSION}, least stroke {LEAST_STROKE}"


@dataclass(frozen=True)
class Pictures:
    """Pictures of one shape: `pixels` uint8 (n, height, width, 3), `indices` (n,) of their scenes, and the finish."""

    finish: str
    indices: np.ndarray
    pixels: np.ndarray


def scene_of(index: int) -> Scene:
    return scene(KINDS[index % len(KINDS)], index // len(KINDS))


def shape_of(index: int) -> tuple[int, int]:
    """Width and height in pixels; independent of the composition, which goes round with the seed."""
    return SHAPES[int(np.random.default_rng((index, 11)).choice(len(SHAPES), p=_SHARES))]


def paint_training_pictures(folder: str | Path, scenes: int, both: int) -> None:
    """Paint what is missing: `scenes` plain scenes, the first `both` in the other finish too, held-out ones in both.

    Files appear whole, `SHARD` scenes at a time, so that training can begin on those that are there.
    """
    folder = Path(folder)
    _paint_shard(folder / "held-out.npz", range(HELD_OUT, HELD_OUT + HELD_OUT_SCENES), FINISHES)
    for start in range(0, scenes, SHARD):
        finishes = FINISHES if start < both else FINISHES[:1]
        _paint_shard(folder / f"scenes-{start:06d}.npz", range(start, start + SHARD), finishes)
        logger.info("painted %d of %d scenes", min(start + SHARD, scenes), scenes)


def _paint_shard(path: Path, indices: range, finishes: tuple[str, ...]) -> None:
    if path.exists():
        return
    arrays: dict[str, np.ndarray] = {}
    for shape in SHAPES:
        chosen = [index for index in indices if shape_of(index) == shape]
        if not chosen:
            continue
        name = "x".join(map(str, shape))
        arrays[f"indices {name}"] = np.array(chosen)
        for finish in finishes:
            painted = [np.asarray(paint(scene_of(index), finish, *shape, LEAST_STROKE)) for index in chosen]
            arrays[f"{finish} {name}"] = np.stack(painted)
    with appearing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def training_pictures(folder: str | Path) -> Iterator[Pictures]:
    """What is painted so far, a shard, a finish and a shape at a time, in a fixed order."""
    for path in sorted(Path(folder).glob("scenes-*.npz")):
        yield from _read(path)


def held_out_pictures(folder: str | Path) -> Iterator[Pictures]:
    """The scenes that nothing is trained on, in both finishes."""
    yield from _read(Path(folder) / "held-out.npz")


def _read(path: Path) -> Iterator[Pictures]:
    with np.load(path) as file:
        for key in file.files:
            finish, _, name = key.rpartition(" ")
            if finish in FINISHES:
                yield Pictures(finish, file[f"indices {name}"], file[key])


def main() -> int:
    parser = argparse.ArgumentParser(description="Paint the pictures that the tiny FLUX learns from.")
    parser.add_argument("--folder", type=Path, required=True, help="where the pictures are kept")
    parser.add_argument("--scenes", type=int, default=6000)
    parser.add_argument("--both", type=int, default=1500, help="how many of them in both finishes")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    paint_training_pictures(arguments.folder, arguments.scenes, arguments.both)
    return 0
