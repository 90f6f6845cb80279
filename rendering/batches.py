"""Many pictures from prompts × seeds: as many at a time as memory holds, each kept as soon as it is done."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..dataset.pictures import PictureRefused, seen
from ..errors import ModelError
from ..files import appearing, content_hash, remove_partials, write_whole
from ..progress import Progress
from .painting import PromptToDraw, Sampling

BATCH_VERSION = 1  # raise when the same inputs would give another picture

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Memory:
    """What the caller knows of memory: whether an error says that none was left, and how to free what is unused."""

    ran_out: Callable[[BaseException], bool]
    free: Callable[[], None]


class BatchPainter(Protocol):
    """Samples several pictures of one prompt together; `nodes.host.sampling.ComfyPainter` does it with ComfyUI."""

    def encode(self, texts: Sequence[str]) -> None: ...

    def paint_batch(
        self, text: str, seeds: Sequence[int], on_step: Callable[[int], None]
    ) -> list[Image.Image | None]: ...


@dataclass(frozen=True)
class PictureBatch:
    """What a batch is of. `size` is the most pictures to sample at a time; `models` identifies MODEL, CLIP and VAE."""

    folder: Path
    jobs: tuple[PromptToDraw, ...]
    sampling: Sampling
    models: str
    size: int

    @property
    def manifest(self) -> Path:
        return self.folder / "manifest.jsonl"

    def file(self, job: PromptToDraw) -> Path:
        settings = [BATCH_VERSION, self.models, asdict(self.sampling), job.text, str(job.seed)]
        return self.folder / f"{content_hash(settings)}.png"


@dataclass(frozen=True)
class Painted:
    """The pictures in the order of the jobs, how many of them were there before, and the size that fitted at last."""

    files: tuple[Path, ...]
    found: int
    size: int

    def pictures(self) -> list[Image.Image]:
        return [_picture(file) for file in self.files]


def _picture(file: Path) -> Image.Image:
    try:
        return seen(file)
    except PictureRefused as refused:
        raise ModelError(
            f"The picture {file} cannot be read ({refused}). Delete it and queue again: it is painted anew."
        ) from refused


def paint_all(batch: PictureBatch, painter: BatchPainter, memory: Memory, progress: Progress) -> Painted:
    """Paint what is not there yet, prompt by prompt; on running out of memory, go on with half as many at a time.

    A cancelled batch keeps what is done, and goes on from there.

    Raises:
        ModelError: not even one picture fits into memory, or a model gives a picture that is not finite.
    """
    batch.folder.mkdir(parents=True, exist_ok=True)
    remove_partials(batch.folder)
    wanted = list(dict.fromkeys(batch.jobs))
    missing = [job for job in wanted if not batch.file(job).exists()]
    found = done = len(wanted) - len(missing)
    progress(done, len(wanted), "Encoding the prompts" if missing else "All pictures are there")
    painter.encode(sorted({job.text for job in missing}))
    size = batch.size
    for jobs in _by_text(missing):
        while jobs:
            tried = jobs[:size]
            pictures = _paint_what_fits(painter, memory, tried, lambda _: progress(done, len(wanted)))  # noqa: B023
            size = len(pictures) if len(pictures) < len(tried) else size
            for job, picture in zip(jobs, pictures, strict=False):
                _keep(batch, job, picture)
            _write_manifest(batch)
            jobs, done = jobs[len(pictures) :], done + len(pictures)
            progress(done, len(wanted), f"{done} of {len(wanted)} pictures, {size} at a time", pictures[-1])
        memory.free()
    _write_manifest(batch)
    return Painted(tuple(batch.file(job) for job in batch.jobs), found, size)


def _by_text(jobs: Sequence[PromptToDraw]) -> Iterator[list[PromptToDraw]]:
    """The jobs of each prompt together, prompts in the order of their first."""
    for text in dict.fromkeys(job.text for job in jobs):
        yield [job for job in jobs if job.text == text]


def _paint_what_fits(
    painter: BatchPainter, memory: Memory, jobs: list[PromptToDraw], on_step: Callable[[int], None]
) -> list[Image.Image | None]:
    """Pictures of the first of `jobs`: all of them, or half, a quarter … of them where memory runs out."""
    while True:
        try:
            return painter.paint_batch(jobs[0].text, [job.seed for job in jobs], on_step)
        except Exception as error:
            if not memory.ran_out(error):
                raise
            if len(jobs) == 1:
                raise ModelError(
                    "Memory does not hold even one picture at a time. Choose a smaller size, or put Memory Cleanup "
                    f"before this node ({error})."
                ) from error
        # Not in the handler: there the error's traceback still holds what was being computed.
        memory.free()
        jobs = jobs[: len(jobs) // 2]
        log.warning("Out of memory; going on with %d pictures at a time", len(jobs))


def _keep(batch: PictureBatch, job: PromptToDraw, picture: Image.Image | None) -> None:
    if picture is None:
        raise ModelError(
            f"The picture of '{job.text[:60]}' with seed {job.seed} has values that are not finite. Try another "
            "precision of the model or the VAE."
        )
    information = PngInfo()
    information.add_itxt("impasto", json.dumps(_entry(batch, job), ensure_ascii=False))
    with appearing(batch.file(job)) as temporary:
        picture.save(temporary, format="PNG", pnginfo=information)


def _entry(batch: PictureBatch, job: PromptToDraw) -> dict[str, object]:
    return {"file": batch.file(job).name, "text": job.text, "seed": job.seed, **asdict(batch.sampling)}


def _write_manifest(batch: PictureBatch) -> None:
    """A line for each job whose picture is there, in their order."""
    lines = [json.dumps(_entry(batch, job), ensure_ascii=False) for job in batch.jobs if batch.file(job).exists()]
    write_whole(batch.manifest, "".join(f"{line}\n" for line in lines))
