"""The base model beside LoRAs: the same prompts and seeds at one strength or a row of them, a row for each LoRA."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..errors import SettingsError
from ..files import file_hash
from ..progress import Progress
from .grid import SEAM, Label, mosaic
from .painting import Painter, PictureToPaint, PromptToDraw, Sampling, Weights, paint_missing, painting_name
from .picture_grid import PictureGrid, Preview, check_number, on_paper, read

STRONGEST = 10.0  # as core's LoRA loaders have it in their sliders' middle: beyond it there is noise alone
MOST_STRENGTHS = 50

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NamedLora:
    """A LoRA file, and what it is called beside its row."""

    label: str
    file: Path


@dataclass(frozen=True)
class Comparison:
    """What is compared.

    Attributes:
        folder: where the pictures are kept.
        loras: a row for each, with each prompt.
        strengths: the columns beside the base model, which stands where 0 is among them, else first.
        models: identity of the MODEL, CLIP and VAE.
        seeds: each cell shows a picture with each; empty for one, with the prompt's own.
        cell: pixels of a cell's longer side as drawn; 0 for that of the pictures.
    """

    folder: Path
    loras: tuple[NamedLora, ...]
    strengths: tuple[float, ...]
    prompts: tuple[PromptToDraw, ...]
    sampling: Sampling
    models: str
    seeds: tuple[int, ...] = ()
    theme: str = "light"
    cell: int = 0

    @property
    def columns(self) -> tuple[float, ...]:
        return self.strengths if 0.0 in self.strengths else (0.0, *self.strengths)

    def rows(self) -> list[tuple[NamedLora, PromptToDraw]]:
        return [(lora, prompt) for prompt in self.prompts for lora in self.loras]


def strengths_of(text: str) -> tuple[float, ...]:
    """What a person typed as strengths, "-0.5, 0.5, 1, 1.5", each once, in that order.

    Raises:
        SettingsError: one is no number or out of range, there is none beside 0, or there are too many.
    """
    found: list[float] = []
    for word in re.split(r"[,;\s]+", text.strip().replace("\u2212", "-")):
        if not word:
            continue
        if not re.fullmatch(r"[+-]?(\d{1,3}(\.\d{0,6})?|\.\d{1,6})", word) or abs(float(word)) > STRONGEST:
            raise SettingsError(
                f"'{word[:40]}' is no strength. Write numbers from -{STRONGEST:g} to {STRONGEST:g} with commas "
                "between, for example '-0.5, 0.5, 1, 1.5'."
            )
        if (strength := float(word) + 0.0) not in found:  # -0.0 is 0.0
            found.append(strength)
    if not any(found):
        raise SettingsError("There is no strength to compare the base model with. Write some, for example '0.5, 1'.")
    if len(found) > MOST_STRENGTHS:
        raise SettingsError(f"{len(found)} strengths are given. Give at most {MOST_STRENGTHS}.")
    return tuple(found)


def compare(comparison: Comparison, painter: Painter, progress: Progress) -> PictureGrid:
    """Make every picture that is not in the folder yet: the base model's, then each LoRA's, strength after strength.

    A LoRA whose file is gone has places without a file; the log says so.

    Raises:
        ModelError: no picture at all is finite, or a LoRA is another model's.
    """
    files, paintings = _planned(comparison)
    rows = comparison.rows()
    grid = PictureGrid(
        title=_title(comparison),
        rows=tuple(_row_label(comparison, lora, prompt) for lora, prompt in rows),
        columns=tuple(_column_label(strength) for strength in comparison.columns),
        cells=tuple(tuple(files[lora, prompt, strength] for strength in comparison.columns) for lora, prompt in rows),
        cell_size=_cell_size(comparison),
        theme=comparison.theme,
        about={"loras": [lora.label for lora in comparison.loras], "strengths": list(comparison.columns)},
    )
    paint_missing(paintings, comparison.sampling, painter, progress, Preview(grid))
    return grid


Place = tuple[NamedLora, PromptToDraw, float]


def _planned(comparison: Comparison) -> tuple[dict[Place, tuple[Path, ...]], list[PictureToPaint]]:
    check_number(len(comparison.rows()), len(comparison.columns), max(1, len(comparison.seeds)))
    files: dict[Place, tuple[Path, ...]] = {}
    paintings = []
    hashes = {lora: _hash(lora) for lora in comparison.loras}
    for lora in comparison.loras:
        for strength in sorted(comparison.columns, key=lambda each: (each != 0.0, each)):
            for number, prompt in enumerate(comparison.prompts, start=1):
                made = [
                    _painting(comparison, lora, hashes[lora], strength, prompt, number, seed)
                    for seed in comparison.seeds or (prompt.seed,)
                ]
                files[lora, prompt, strength] = tuple(painting.file for painting in made)
                paintings += [painting for painting in made if hashes[lora] or strength == 0.0]
    # The base model's pictures are every LoRA's, and come first.
    return files, sorted(paintings, key=lambda painting: painting.weights.adapter is not None)


def _hash(lora: NamedLora) -> str:
    try:
        return file_hash(lora.file)
    except FileNotFoundError:
        log.warning("The LoRA %s is gone (%s): its row stays empty", lora.label, lora.file)
        return ""


def _painting(
    comparison: Comparison, lora: NamedLora, digest: str, strength: float, prompt: PromptToDraw, number: int, seed: int
) -> PictureToPaint:
    tuned = strength != 0.0
    named = [digest or "gone", strength] if tuned else []
    name = painting_name(comparison.models, named, prompt.text, seed, comparison.sampling)
    weights = Weights(lora.file, strength, lora.label) if tuned else Weights(None, 0.0)
    called = f"{lora.label} at {strength:g}" if tuned else "base model"
    about = {"lora": lora.label if tuned else "", "prompt": prompt.text, "seed": seed}
    file = comparison.folder / f"{name}.png"
    return PictureToPaint(
        file, weights, prompt.text, seed, f"{called}, prompt {number} of {len(comparison.prompts)}", about
    )


def _title(comparison: Comparison) -> Label:
    loras = comparison.loras
    text = loras[0].label if len(loras) == 1 else f"{len(loras)} LoRAs"
    prompt = f"{comparison.prompts[0].text},  " if len(loras) > 1 and len(comparison.prompts) == 1 else ""
    return Label(f"Base and {text}", prompt + comparison.sampling.described())


def _row_label(comparison: Comparison, lora: NamedLora, prompt: PromptToDraw) -> Label:
    seeds = comparison.seeds or (prompt.seed,)
    seed = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))}"
    if len(comparison.loras) == 1:
        return Label(prompt.text, seed)
    if len(comparison.prompts) == 1:
        return Label(lora.label, seed)
    return Label(prompt.text, f"{lora.label}, {seed}")


def _column_label(strength: float) -> Label:
    return Label(f"strength {strength:g}".replace("-", "\u2212") if strength else "base model")


def _cell_size(comparison: Comparison) -> tuple[int, int]:
    across, down = mosaic(max(1, len(comparison.seeds)))
    sampling = comparison.sampling
    width, height = across * (sampling.width + SEAM) - SEAM, down * (sampling.height + SEAM) - SEAM
    share = min(1.0, comparison.cell / max(width, height)) if comparison.cell else 1.0
    return max(1, round(width * share)), max(1, round(height * share))


def pairs(comparison: Comparison, grid: PictureGrid) -> Iterator[tuple[Image.Image, Image.Image]]:
    """For each picture with a LoRA, row by row: the base model's of the same prompt and seed, and it."""
    base = comparison.columns.index(0.0)
    size = comparison.sampling.width, comparison.sampling.height
    for row in grid.cells:
        plain = [read(file) for file in row[base]]
        for column, files in enumerate(row):
            if column == base:
                continue
            for before, file in zip(plain, files, strict=True):
                if before and (after := read(file)):
                    yield on_paper(before, size, grid.theme), on_paper(after, size, grid.theme)


def labelled(names: Sequence[str], files: Sequence[Path]) -> tuple[NamedLora, ...]:
    """LoRAs by what people call them, without the ending of the file; each file once."""
    found = {
        file: NamedLora(re.sub(r"\.safetensors$", "", name), file) for name, file in zip(names, files, strict=True)
    }
    return tuple(found.values())
