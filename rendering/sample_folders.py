"""Folders of samples that other trainers drew, told by how they name the files: which step, which prompt, which seed.

The names, as their sources write them: kohya's sd-scripts and ComfyUI-FluxTrainer (`library/flux_train_utils.py`,
`sample_image_inference`), ai-toolkit (`jobs/process/BaseSDTrainProcess.py`, `sample`) and SimpleTuner
(`helpers/training/validation_images.py`, `save_images`).
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import DatasetError

MOST_FILES = 100_000  # of a folder; a training draws hundreds
_PICTURE = r"\.(?:png|jpe?g|webp)"
# "[name_]000250_01_20260131120000[_42].png"; with "e000003" it was drawn at the end of an epoch.
_KOHYA = re.compile(
    r"(?:.*_)?(?P<epoch>e)?(?P<at>\d{6,9})_(?P<prompt>\d{2,6})_(?P<moment>\d{14})(?:_(?P<seed>\d{1,20}))?\.png"
)
_AI_TOOLKIT = re.compile(rf"(?P<moment>\d{{10,16}})__(?P<at>\d{{9}})_(?P<prompt>\d{{1,6}}){_PICTURE}")
# "step_250_<name of the prompt>_0_1024x1024.png"; earlier versions had no number before the size.
_SIMPLETUNER = re.compile(
    rf"step_(?P<at>\d{{1,9}})_(?P<prompt>.+?)(?:_(?P<index>\d{{1,4}}))?_(?P<size>\d{{2,5}}(?:x\d{{2,5}})?){_PICTURE}"
)
_PATTERNS = (("sd-scripts or FluxTrainer", _KOHYA), ("ai-toolkit", _AI_TOOLKIT), ("SimpleTuner", _SIMPLETUNER))


@dataclass(frozen=True)
class Sample:
    """One picture of a folder.

    Attributes:
        trainer: who named it.
        at: training step, or epoch, by `unit`.
        prompt: sorts and names its row: the number of the prompt, or SimpleTuner's name of it.
        seed: as the name has it; "" where it has none.
        moment: sorts pictures of the same place by when they were drawn.
    """

    file: Path
    trainer: str
    unit: str  # "step" or "epoch"
    at: int
    prompt: tuple[str, int]
    seed: str
    moment: int


def read_folder(folder: Path) -> list[Sample]:
    """The samples of a folder, of several of one place the last drawn; by step and prompt.

    Raises:
        DatasetError: no file has a name that one of the trainers gives.
    """
    newest: dict[tuple[str, int, tuple[str, int]], Sample] = {}
    for sample in _samples(folder):
        place = (sample.unit, sample.at, sample.prompt)
        if place not in newest or newest[place].moment <= sample.moment:
            newest[place] = sample
    if not newest:
        raise DatasetError(
            f"No picture in {folder} is named as sd-scripts and FluxTrainer (name_000250_00_20260131120000_42.png), "
            "ai-toolkit (1769860800000__000000250_0.jpg) or SimpleTuner (step_250_name_0_1024x1024.png) name their "
            "samples. Give the folder that they lie in: 'sample', 'samples' or 'validation_images'."
        )
    return sorted(newest.values(), key=lambda sample: (sample.unit, sample.at, sample.prompt))


def _samples(folder: Path) -> Iterator[Sample]:
    with os.scandir(folder) as entries:
        for number, entry in enumerate(entries):
            if number >= MOST_FILES:
                raise DatasetError(f"{folder} has more than {MOST_FILES:,} files. Give a folder of samples alone.")
            with contextlib.suppress(FileNotFoundError):  # while it is looked at, the other trainer may tidy up
                if (sample := sample_of(Path(entry.path))) and entry.is_file():
                    yield sample


def sample_of(file: Path) -> Sample | None:
    """What a file's name says of it; None where no trainer names its samples so."""
    for trainer, pattern in _PATTERNS:
        if found := pattern.fullmatch(file.name):
            parts = found.groupdict()
            prompt = parts["prompt"]
            row = ("", int(prompt)) if prompt.isdecimal() and pattern is not _SIMPLETUNER else (prompt, 0)
            if parts.get("index"):
                row = (prompt, int(parts["index"]))
            moment = int(parts.get("moment") or file.stat().st_mtime_ns)
            unit = "epoch" if parts.get("epoch") else "step"
            return Sample(file, trainer, unit, int(parts["at"]), row, parts.get("seed") or "", moment)
    return None
