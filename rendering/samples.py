"""Grids of pictures that were drawn during a training: by ours, as latents that a VAE decodes, or by other trainers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..dataset.pictures import PictureRefused, opened
from ..errors import DatasetError, ImpastoError, ModelError, TrainingError
from ..files import appearing, content_hash, file_hash, has_types, parsed_json, remove_partials
from ..progress import Progress
from ..trainers.run.folder import Job, Run
from .cells import best_of, spread, steps_wanted
from .grid import Label
from .loss_series import held_out_by_step
from .painting import PromptToDraw
from .picture_grid import PictureGrid
from .sample_folders import Sample, read_folder

Decode = Callable[[Path], Sequence[Image.Image | None]]  # a file of latents -> its pictures; None: not finite


def grid_of_run(
    run: Run, decode: Decode, vae: str, count: int, wanted: str, progress: Progress, size: int = 0, theme: str = "light"
) -> PictureGrid:
    """The samples that the trainer drew, a row for each prompt; decoded once, and kept in the run's folder.

    Args:
        decode: gives the pictures of a file of latents.
        vae: identity of the autoencoder; pictures of another are other pictures.
        count: at most so many columns, evenly spread; or the steps `wanted`, as `cells.steps_wanted` reads them.
        size: of a cell's longer side, in pixels; 0 for that of the pictures.

    Raises:
        TrainingError: the run has drawn none, or is gone.
        ModelError: not one picture is finite.
    """
    files = run.samples()
    if not files:
        raise TrainingError(
            f"The run '{run.id}' has drawn no samples in {run.path}. Set sample_steps above 0 in Training Settings and "
            "train to the first checkpoint; or take Progress Grid, which draws any checkpoint."
        )
    held_out = held_out_by_step(run.metrics())
    best = best_of(files, held_out)
    steps = steps_wanted(wanted, files, best) or spread(sorted(files), max(1, count))
    decoded: dict[int, list[Path]] = {}
    remove_partials(run.path / "grid")
    for number, step in enumerate(steps):
        progress(number, len(steps), f"Decoding the samples of step {step}")
        decoded[step] = _decoded(run, step, files.get(step), decode, vae)
    there = [file for pictures in decoded.values() for file in pictures if file.is_file()]
    if not there and any(step in files for step in steps):
        raise ModelError(
            f"Not one sample of the run '{run.id}' is finite. Connect the VAE of FLUX.1, in a wider precision "
            "(ComfyUI's --fp32-vae)."
        )
    prompts = _prompts_of(run, max(map(len, decoded.values()), default=0))
    columns = tuple(_column(step, "step", held_out, best) for step in steps)
    nowhere = run.path / "grid" / "sample-gone.png"
    cells = tuple(
        tuple((decoded[step][row] if row < len(decoded[step]) else nowhere,) for step in steps)
        for row in range(len(prompts))
    )
    note = f"run {run.id},  drawn during training"
    about = {"run": run.id, "steps": steps}
    return PictureGrid(Label(run.name, note), prompts, columns, cells, _size(there, size), theme, about)


def _decoded(run: Run, step: int, latents: Path | None, decode: Decode, vae: str) -> list[Path]:
    """The files of a step's pictures, made where they are not there yet; none where nothing was drawn."""
    if latents is None or not latents.is_file():
        return []
    key = content_hash([file_hash(latents), vae])
    kept = run.path / "grid" / f"samples-{step:06d}-{key}.json"
    count = parsed_json(kept.read_bytes()) if kept.is_file() else None
    if isinstance(count, int) and 0 < count < 10_000:
        files = [_sample_file(run, step, key, number) for number in range(count)]
        if all(file.is_file() for file in files):
            return files
    pictures = decode(latents)
    files = [_sample_file(run, step, key, number) for number in range(len(pictures))]
    for file, picture in zip(files, pictures, strict=True):
        if picture is not None:
            metadata = PngInfo()
            metadata.add_itxt("impasto", json.dumps({"run": run.id, "step": step}))
            with appearing(file) as temporary:
                picture.save(temporary, format="PNG", pnginfo=metadata)
    with appearing(kept) as temporary:
        temporary.write_text(json.dumps(len(files)), encoding="utf-8")
    return files


def _sample_file(run: Run, step: int, key: str, number: int) -> Path:
    return run.path / "grid" / f"sample-{step:06d}-{number:03d}-{key}.png"


def _prompts_of(run: Run, count: int) -> tuple[Label, ...]:
    """What the samples are of: the prompts that were encoded with the data; numbers where these cannot be read."""
    listed: Any = None
    try:
        job = Job.read(run)
        if job.prompts:
            listed = parsed_json((Path(job.features_folder) / job.prompts).read_bytes())
    except (ImpastoError, OSError, ValueError):
        pass
    known = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    if len(known) != count or not all(has_types(entry, text=str, seed=int) for entry in known):
        return tuple(Label(f"prompt {number + 1}") for number in range(count))
    return tuple(Label(entry["text"], f"seed {entry['seed']}") for entry in known)


def grid_of_folder(
    folder: Path, prompts: Sequence[PromptToDraw], count: int, wanted: str, size: int = 0, theme: str = "light"
) -> PictureGrid:
    """The samples that another trainer drew into a folder; nothing is copied.

    Args:
        prompts: what the rows are of, in the order of the trainer's list; empty for what the files' names tell.
        count, wanted, size: as of `grid_of_run`.

    Raises:
        DatasetError: there is no such folder, or none of its files is a sample.
    """
    if not folder.is_dir():
        raise DatasetError(f"There is no folder {folder}. Put the samples there, or write its name otherwise.")
    samples = read_folder(folder)
    unit = _unit(samples)
    by_place = {(sample.at, sample.prompt): sample for sample in samples if sample.unit == unit}
    known = {at: folder for at, _ in by_place}
    steps = steps_wanted(wanted, known, None) or _spread_from_base(sorted(known), count)
    rows = sorted({prompt for _, prompt in by_place})
    nowhere = folder / "no such sample"
    cells = tuple(
        tuple((by_place[at, row].file if (at, row) in by_place else nowhere,) for at in steps) for row in rows
    )
    labels = tuple(_row_label(row, prompts, by_place, steps) for row in rows)
    note = f"drawn by {samples[0].trainer}"
    files = [file for row in cells for (file,) in row if file is not nowhere]
    columns = tuple(_column(at, unit, {}, None) for at in steps)
    return PictureGrid(Label(_title(folder), note), labels, columns, cells, _size(files, size), theme, {"steps": steps})


def _unit(samples: Sequence[Sample]) -> str:
    """Steps or epochs, whichever more pictures were drawn at: the two cannot stand on one axis."""
    epochs = sum(sample.unit == "epoch" for sample in samples)
    return "epoch" if epochs > len(samples) - epochs else "step"


def _spread_from_base(steps: list[int], count: int) -> list[int]:
    """Evenly spread, a picture of the base model first where one was drawn."""
    base = steps[:1] if steps[0] == 0 and count > 1 else []
    return base + spread(steps[len(base) :], max(1, count - len(base)))


def _row_label(
    row: tuple[str, int],
    prompts: Sequence[PromptToDraw],
    samples: Mapping[tuple[int, tuple[str, int]], Sample],
    steps: Sequence[int],
) -> Label:
    seeds = {samples[at, row].seed for at in steps if (at, row) in samples}
    note = f"seed {seeds.pop()}" if len(seeds) == 1 and "" not in seeds else ""
    name, index = row
    if name:
        return Label(name.replace("_", " "), note or (f"no. {index + 1}" if index else ""))
    return Label(prompts[index].text if index < len(prompts) else f"prompt {index + 1}", note)


def _column(at: int, unit: str, held_out: Mapping[int, float], best: int | None) -> Label:
    note = f"held-out {held_out[at]:.4f}" if at in held_out else ""
    text = f"{unit} {at}" if at else "base model"
    return Label(text, f"best, {note}" if at == best else note, at == best)


def _title(folder: Path) -> str:
    """The folder's name, or that of the training it belongs to."""
    plain = folder.name.lower() in ("sample", "samples", "validation_images")
    return folder.parent.name if plain else folder.name


def _size(files: Sequence[Path], longest: int) -> tuple[int, int]:
    """Of a cell: as the first picture that can be read, or as large as was asked for."""
    for file in files:
        try:
            with opened(file) as picture:
                width, height = picture.size
        except PictureRefused:
            continue
        share = min(1.0, (longest or 1024) / max(width, height))
        return max(1, round(width * share)), max(1, round(height * share))
    return 512, 512
