"""What is drawn, compared with pictures that a person looked at: as an eye sees it, not to the pixel, because Pillow,
FreeType and matplotlib set letters a little differently from version to version.

To draw them anew, and look at each: IMPASTO_REWRITE_GOLDENS=1 python -m pytest tests/rendering/test_golden_pictures.py
"""

import math
import os
import random
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
from impasto.progress import silent
from impasto.rendering.animation import Animation, Timing
from impasto.rendering.grid import Label
from impasto.rendering.loss_plot import loss_plot
from impasto.rendering.loss_series import Curve
from impasto.rendering.picture_grid import PictureGrid
from PIL import Image

FOLDER = Path(__file__).parent / "golden"
REWRITE = bool(os.environ.get("IMPASTO_REWRITE_GOLDENS"))
COARSE = 8  # pixels: what is compared are means over squares of this side, in which a letter's outline does not count
MEAN, LARGEST = 1.0, 45.0  # levels of 255 by which these may differ: on the whole, and at one place


def looks_like(picture: Image.Image, name: str) -> None:
    file = FOLDER / f"{name}.webp"
    if REWRITE:
        picture.save(file, quality=90, method=6)
    with Image.open(file) as golden:
        golden = golden.convert("RGB")
    assert picture.size == golden.size
    size = math.ceil(picture.width / COARSE), math.ceil(picture.height / COARSE)
    ours, theirs = (numpy.asarray(each.resize(size, Image.Resampling.BOX), dtype=float) for each in (picture, golden))
    difference = numpy.abs(ours - theirs)
    assert difference.mean() <= MEAN and difference.max() <= LARGEST, (difference.mean(), difference.max())


def gradient(row: int, column: int, size: tuple[int, int]) -> Image.Image:
    """A picture of which each edge and place can be told."""
    width, height = size
    across, down = numpy.meshgrid(numpy.linspace(0, 1, width), numpy.linspace(0, 1, height))
    bands = [160 * across + 60, 120 * down + 20 * row, 90 + 25 * column * (1 - across * down)]
    return Image.fromarray(numpy.stack(bands, axis=-1).clip(0, 255).astype(numpy.uint8))


@pytest.fixture
def grid(tmp_path) -> PictureGrid:
    cells = []
    for row in range(2):
        cells.append([])
        for column in range(3):
            file = tmp_path / f"{row}-{column}.png"
            if (row, column) != (1, 1):
                gradient(row, column, (144, 112)).save(file)
            cells[-1].append((file,))
    notes = ("held-out 0.9200", "best, held-out 0.5600", "held-out 0.5812")
    columns = [Label(text, note) for text, note in zip(("base model", "step 250", "step 500"), notes, strict=True)]
    columns[1] = replace(columns[1], marked=True)
    return PictureGrid(
        Label("harbours", "run harbours-1f83eb30,  144×112 pixels"),
        (Label('a harbour at dawn, "the blue hour"', "seed 3"), Label("a red barn", "seed 7")),
        tuple(columns),
        tuple(map(tuple, cells)),
        (144, 112),
    )


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_page(grid, theme):
    [page] = replace(grid, theme=theme).pages(silent)
    looks_like(page, f"page-{theme}")


def test_a_contact_sheet(grid):
    [page] = replace(grid, cell_size=(48, 37)).pages(silent)
    looks_like(page, "contact-sheet")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_still_of_an_animation(grid, theme):
    stills = list(Animation(replace(grid, theme=theme), Timing(), size=288).stills())
    looks_like(stills[1], f"still-{theme}")


def metrics(steps: int, best: int, seed: int) -> list[dict]:
    drawn = random.Random(seed)
    rows: list[dict] = [{"step": 0, "held_out_loss": 0.92}]
    for step in range(1, steps + 1):
        row = {"step": step, "loss": 0.55 + 0.35 * math.exp(-step / 80) + drawn.gauss(0, 0.08)}
        row |= {"learning_rate": 1e-4 * min(1, step / 30), "grad_norm": 0.1 + 0.3 * math.exp(-step / 90)}
        row["sigma"] = [1 / (1 + math.exp(-drawn.gauss(0.3, 1)))]
        if step % 50 == 0:
            row["held_out_loss"] = 0.56 + abs(step - best) / 900
            row["held_out_by_sigma"] = {"0.25": 0.8, "0.5": 0.5 + step / 4000, "1": 0.9}
        rows.append(row)
    return rows


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_loss_plot(theme):
    others = [Curve("meadows", metrics(400, 300, 2))] if theme == "dark" else []
    steps = range(50, 301, 50)
    picture = loss_plot(metrics(300, 200, 1), "harbours", "harbours-1f83eb30", steps, steps, others, theme)
    looks_like(picture.resize((800, 500), Image.Resampling.LANCZOS), f"loss-{theme}")


def test_an_eye_sees_a_wrong_place_and_overlooks_another_smoothing_of_letters(grid, monkeypatch):
    monkeypatch.setitem(globals(), "REWRITE", False)
    [page] = grid.pages(silent)
    looks_like(page.resize((page.width * 2, page.height * 2), Image.Resampling.BICUBIC).resize(page.size), "page-light")
    [shifted] = replace(grid, cells=(grid.cells[0][::-1], grid.cells[1])).pages(silent)
    with pytest.raises(AssertionError):
        looks_like(shifted, "page-light")
