"""Pictures that may differ in all that a picture is sampled with: each kept in a folder as soon as it is done, under a
name that hashes what decides it, so that a stop loses at most one and what is asked for again is only what is missing.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..dataset.pictures import PictureRefused, seen
from ..errors import ModelError, check_finite
from ..files import appearing, content_hash, file_hash, remove_partials
from ..progress import Progress
from .painting import Sampling

SPEC_VERSION = 1  # raise when the same inputs would give another picture
PREVIEW_SIDE = 160  # pixels of a picture's longer side in a live preview

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PictureSpec:
    """All that decides one picture but the models.

    Attributes:
        text: the prompt.
        seed: of the noise, and of what a sampler adds on the way.
        sampling: how it is sampled.
        adapter: the LoRA file, or None for the model as it is.
        strength: of the LoRA.
        toward: seed of a second noise, which is mixed in by `share`; None for none.
        share: of the way from the first noise to the second, on a sphere (`noise.slerp`), 0 … 1.
    """

    text: str
    seed: int
    sampling: Sampling
    adapter: Path | None = None
    strength: float = 1.0
    toward: int | None = None
    share: float = 0.0

    def __post_init__(self) -> None:
        check_finite(strength=self.strength, share=self.share)

    @property
    def weights(self) -> tuple[Path | None, float]:
        """What the model is patched with; no strength changes a model without a LoRA."""
        return self.adapter, self.strength if self.adapter else 0.0

    def about(self) -> dict[str, object]:
        """What the picture's own file says of it. No folder is in it."""
        lora = {"lora": self.adapter.name, "strength": self.strength} if self.adapter else {}
        noise = {"toward": self.toward, "share": self.share} if self.toward is not None else {}
        return {"prompt": self.text, "seed": self.seed} | lora | noise | asdict(self.sampling)


class SpecPainter(Protocol):
    """Samples pictures with a model; `nodes.host.spec_painter.ComfySpecPainter` does it with ComfyUI."""

    def encode(self, texts: Sequence[str]) -> None:
        """Encode all texts at once, so that text encoders and model need not take turns in memory."""

    def use(self, adapter: Path | None, strength: float) -> None:
        """Apply a LoRA file to the model, or none.

        Raises:
            ModelError: the LoRA is another model's, or gone.
        """

    def paint(self, spec: PictureSpec, on_step: Callable[[int], None]) -> Image.Image | None:
        """Sample a picture with what `use` applied; calls `on_step` with the number of steps done. None: the picture
        is not finite."""


@dataclass(frozen=True)
class PaintedSpecs:
    """Where each picture lies, those that are not finite left out; how many were there before."""

    files: Mapping[PictureSpec, Path]
    found: int

    def pictures(self, specs: Iterable[PictureSpec], most_pixels: int) -> Iterator[Image.Image]:
        """The pictures of `specs` in their order, as many as have together at most so many pixels."""
        for spec in specs:
            most_pixels -= spec.sampling.width * spec.sampling.height
            if most_pixels < 0:
                return
            if file := self.files.get(spec):
                yield seen(file)


# Given small pictures of what is there, and the newest: what is shown while painting goes on.
Preview = Callable[[Mapping[PictureSpec, Image.Image], Image.Image], Image.Image]


def paint_specs(
    specs: Sequence[PictureSpec],
    folder: Path,
    models: str,
    painter: SpecPainter,
    progress: Progress,
    preview: Preview = lambda small, newest: newest,
) -> PaintedSpecs:
    """Paint what is not in `folder` yet, each LoRA put on once.

    A picture that is not finite has no file; the log says so.

    Args:
        models: identity of the MODEL, CLIP and VAE; pictures of other models are other pictures.

    Raises:
        ModelError: no picture at all is finite, or a LoRA is another model's or gone.
    """
    paths = _paths(specs, folder, models)
    wanted = {path: spec for spec, path in paths.items()}  # without a LoRA, two strengths are one picture
    remove_partials(folder)
    small = {path: _small(picture) for path, spec in wanted.items() if (picture := _kept(path, spec.sampling))}
    missing = [spec for path, spec in wanted.items() if path not in small]
    found, total = len(small), sum(spec.sampling.steps for spec in wanted.values())
    done = sum(wanted[path].sampling.steps for path in small)
    if missing:
        progress(done, total, "Encoding the prompts")
        # One LoRA before anything is sampled: one of another model is refused before the first picture.
        painter.use(*max((spec.weights for spec in missing), key=lambda weights: weights[0] is not None))
        painter.encode(list(dict.fromkeys(spec.text for spec in missing)))
    for weights, group in _by_weights(missing):
        painter.use(*weights)
        for spec in group:
            text = f"Picture {len(small) + 1} of {len(wanted)}"
            picture = painter.paint(spec, _reporter(progress, done, total, spec.sampling.steps, text))
            done += spec.sampling.steps
            if picture is None:
                log.warning("'%s' with seed %d gives no finite picture: its place stays empty", spec.text, spec.seed)
                continue
            _save(paths[spec], picture, spec)
            small[paths[spec]] = _small(picture)
            there = {each: small[path] for each, path in paths.items() if path in small}
            progress(done, total, text, preview(there, picture))
    if not small:
        raise ModelError(
            "Not one picture is finite. Check that MODEL, CLIP and VAE belong together, and load the VAE in a wider "
            "precision (ComfyUI's --fp32-vae)."
        )
    return PaintedSpecs({spec: path for spec, path in paths.items() if path in small}, found)


def _paths(specs: Sequence[PictureSpec], folder: Path, models: str) -> dict[PictureSpec, Path]:
    hashes = {adapter: _hash_of(adapter) for adapter in {spec.adapter for spec in specs} if adapter}
    named = {}
    for spec in dict.fromkeys(specs):
        lora = [hashes[spec.adapter], spec.strength] if spec.adapter else []
        noise = [str(spec.seed)] + ([str(spec.toward), spec.share] if spec.toward is not None else [])
        made_of = [SPEC_VERSION, models, lora, spec.text, noise, asdict(spec.sampling)]
        named[spec] = folder / f"{content_hash(made_of)}.png"
    return named


def _hash_of(adapter: Path) -> str:
    try:
        return file_hash(adapter)
    except FileNotFoundError:
        raise ModelError(f"The LoRA {adapter} is not there any more. Put it back, or choose another.") from None


def _by_weights(specs: Sequence[PictureSpec]) -> Iterator[tuple[tuple[Path | None, float], list[PictureSpec]]]:
    for weights in dict.fromkeys(spec.weights for spec in specs):
        yield weights, [spec for spec in specs if spec.weights == weights]


def _reporter(progress: Progress, done: int, total: int, steps: int, text: str) -> Callable[[int], None]:
    progress(done, total, text)
    return lambda step: progress(done + step, total, f"{text}: step {step} of {steps}")


def _small(picture: Image.Image) -> Image.Image:
    small = picture.copy()
    small.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    return small


def _kept(path: Path, sampling: Sampling) -> Image.Image | None:
    """The picture kept at `path`; one that a failing disk damaged is made again like one that is not there."""
    try:
        picture = seen(path)
    except PictureRefused:
        return None
    return picture if picture.size == (sampling.width, sampling.height) else None


def _save(path: Path, picture: Image.Image, spec: PictureSpec) -> None:
    metadata = PngInfo()
    metadata.add_itxt("impasto", json.dumps(spec.about(), ensure_ascii=False))
    with appearing(path) as temporary:
        picture.save(temporary, format="PNG", pnginfo=metadata)
