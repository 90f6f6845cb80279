"""The pictures that grids made of a run's checkpoints, put beside each other again from what is written in each."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..dataset.pictures import PictureRefused, opened
from ..files import has_types, parsed_json
from ..trainers.run.folder import Run
from .routing import PREFIX, Call, Reply
from .runs import run_of

FOLDER = "grid"  # of a run's folder: where nodes keep every cell as a file of its own
MOST_PICTURES = 5_000  # of a run that are read, the newest
BASE = 0  # step of the base model, whose pictures no strength changes
NOT_SAMPLING = ("run", "step", "prompt", "seed", "strength")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Cell:
    address: str
    step: int
    strength: float
    row: tuple[str, int]  # prompt and seed
    sampling: str  # everything else that was written, as JSON


def described(call: Call) -> Reply:
    """A grid for each way of sampling and each strength of the LoRA, those made last first.

    Each is told as a node's result tells the page of its grid, `title`, `rows`, `columns` and `cells`, but that a
    picture is named by its address; and has `strength` and `sampling`.
    """
    run = run_of(call)
    by_sampling: dict[str, list[_Cell]] = {}
    for cell in _cells(run):
        by_sampling.setdefault(cell.sampling, []).append(cell)
    best = run.best_step() if by_sampling else None
    grids = [grid for sampling, cells in by_sampling.items() for grid in _grids(run, sampling, cells, best)]
    return Reply({"run": run.id, "name": run.name, "grids": grids[::-1]})


def _cells(run: Run) -> Iterator[_Cell]:
    """In the order in which they were made."""
    files = sorted((run.path / FOLDER).glob("*.png"), key=lambda file: (file.stat().st_mtime_ns, file.name))
    for file in files[-MOST_PICTURES:]:
        if (about := _written_in(file)) is not None:
            sampling = {name: value for name, value in about.items() if name not in NOT_SAMPLING}
            yield _Cell(
                f"{PREFIX}/runs/{quote(run.id)}/files/{FOLDER}/{quote(file.name)}",
                about["step"],
                float(about["strength"]),
                (about["prompt"], about["seed"]),
                json.dumps(sampling, sort_keys=True),
            )


def _written_in(file: Path) -> dict[str, Any] | None:
    """What the picture is of; None where it says nothing of it or cannot be read."""
    try:
        with opened(file) as picture:
            about = parsed_json(picture.info.get("impasto", "null"))
    except (PictureRefused, OSError, ValueError) as error:
        logger.debug("%s is left out of its grid: %s", file, error)
        return None
    wanted = {"step": int, "prompt": str, "seed": int, "strength": float}
    return about if isinstance(about, dict) and has_types(about, **wanted) else None


def _grids(run: Run, sampling: str, cells: list[_Cell], best: int | None) -> Iterator[dict[str, Any]]:
    base = [cell for cell in cells if cell.step == BASE]
    for strength in sorted({cell.strength for cell in cells if cell.step != BASE} or {1.0}):
        shown = base + [cell for cell in cells if cell.step != BASE and cell.strength == strength]
        rows, steps = list(dict.fromkeys(cell.row for cell in shown)), sorted({cell.step for cell in shown})
        placed = {(cell.row, cell.step): cell.address for cell in shown}
        yield {
            "title": run.name,
            "strength": strength,
            "sampling": parsed_json(sampling),
            "rows": [_label(prompt, f"seed {seed}") for prompt, seed in rows],
            "columns": [_label(f"step {step}" if step else "base", "", step == best) for step in steps],
            "cells": [[[placed.get((row, step))] for step in steps] for row in rows],
        }


def _label(text: str, note: str, marked: bool = False) -> dict[str, Any]:
    return {"text": text, "note": note, "marked": marked}
