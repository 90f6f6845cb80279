"""Encoded examples as the trainer reads them: the batches of an epoch, and what is drawn for one batch.

All of it are pure functions of the files, the seed and the place in the run, so that a resumed run goes on as if it had
never stopped, and a thread can read ahead.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ... import checksums, files
from ...errors import FeatureError
from ..flux.latents import latent_shape

if TYPE_CHECKING:
    from safetensors import safe_open
    from torch import Generator, Tensor

# Merely queueing again would give the cached result of a node whose inputs are the same.
REMEDY = (
    "Choose 'Unload Models and Execution Cache' in ComfyUI's menu, or restart it, and queue Encode Training Data again."
)


@dataclass(frozen=True)
class Text:
    """An encoded text: read with `FeatureSet.load_text`, its T5 embedding `tokens` long."""

    caption: str
    path: Path
    tokens: int


@dataclass(frozen=True)
class EncodedPicture:
    """The files of one variant of a picture: its latent, that of its mirror image, and its mask; None where not asked
    for."""

    latent_path: Path
    flipped_path: Path | None = None
    mask_path: Path | None = None

    @property
    def files(self) -> Iterator[Path]:
        yield from filter(None, (self.latent_path, self.flipped_path, self.mask_path))


@dataclass(frozen=True)
class Example:
    """One picture with its caption, as the trainer sees it. What a plain subset does not ask for has its default.

    Attributes:
        id: a hash of the picture's content, the caption and the bucket; never a position.
        caption: the text behind `text_path`.
        latent_path: read with `FeatureSet.load_latent`.
        text_path: read with `FeatureSet.load_text`.
        width: of the bucket, in pixels.
        height: of the bucket, in pixels.
        tokens: length of the T5 embedding; 256, and more for a longer caption.
        repeats: how often it comes in an epoch.
        held_out: never trained on; for measuring the loss.
        batch_size: of its dataset.
        texts: where there are several, the equally likely ones; `text_path` is that of the first.
        flipped_path: the latent of the mirrored picture, which stands in for the other half of the time.
        mask_path: read with `FeatureSet.load_mask`.
        is_reg: a regularisation picture, whose loss has a weight of its own.
        caption_dropout_rate: share of empty captions; None leaves it to the run.
        caption_dropout_every_n_epochs: every n-th epoch has only empty captions; 0 for none.
        image: SHA-256 of the picture's file.
        variants: what is shown in place of the picture as it is, each as often as that.
    """

    id: str
    caption: str
    latent_path: Path
    text_path: Path
    width: int
    height: int
    tokens: int
    repeats: int
    held_out: bool
    batch_size: int = 1
    texts: tuple[Text, ...] = ()
    flipped_path: Path | None = None
    mask_path: Path | None = None
    is_reg: bool = False
    caption_dropout_rate: float | None = None
    caption_dropout_every_n_epochs: int = 0
    image: str = ""
    variants: tuple[EncodedPicture, ...] = ()

    @property
    def varies(self) -> bool:
        """Whether more is drawn for it than the run's own caption dropout and its variant."""
        return bool(self.texts or self.flipped_path or self.caption_dropout_rate is not None)

    @property
    def all_pictures(self) -> tuple[EncodedPicture, ...]:
        """The picture as it is, and its variants."""
        return EncodedPicture(self.latent_path, self.flipped_path, self.mask_path), *self.variants

    @property
    def shape(self) -> tuple[Any, ...]:
        """Examples of equal shape can share a batch, whichever of their texts are drawn and dropped in an epoch."""
        lengths = tuple(sorted({text.tokens for text in self.all_texts}))
        return self.width, self.height, self.batch_size, lengths, self.caption_dropout_every_n_epochs

    @property
    def all_texts(self) -> tuple[Text, ...]:
        """Its texts as `texts` has them, also where it has one."""
        return self.texts or (Text(self.caption, self.text_path, self.tokens),)

    @property
    def files(self) -> Iterator[Path]:
        yield from filter(None, (self.latent_path, self.text_path, self.flipped_path, self.mask_path))
        yield from (text.path for text in self.texts)
        yield from (path for variant in self.variants for path in variant.files)


@dataclass(frozen=True)
class EncodedBatch:
    """What one batch is trained on.

    Attributes:
        latents: float32 `(batch, 16, height/8, width/8)`, scaled.
        t5: float32 `(batch, tokens, width)`.
        pooled: float32 `(batch, width)`.
        mask: weights of the loss in 0…1, float32 `(batch, 1, height/8, width/8)`; None where no picture has a mask.
        weights: of each picture's loss, float32 `(batch,)`; None without regularisation pictures.
        dropped: of each picture, whether it got the empty caption.
    """

    latents: Tensor
    t5: Tensor
    pooled: Tensor
    mask: Tensor | None
    weights: Tensor | None
    dropped: tuple[bool, ...]


@dataclass(frozen=True)
class FeatureSet:
    """What `load` found.

    Attributes:
        examples: every picture, those held out too.
        empty_text_path: the embedding of the empty caption, for caption dropout.
        empty_tokens: the length of its T5 embedding.
        prompts: text, seed and embedding of each prompt for samples during training.
    """

    examples: tuple[Example, ...]
    empty_text_path: Path
    empty_tokens: int
    prompts: tuple[tuple[str, int, Path], ...] = ()

    def load_latent(self, example: Example, flipped: bool = False, variant: int = 0) -> Tensor:
        """The scaled latent of `example`, or of its mirror image: float32 `(16, height/8, width/8)`, on the CPU.

        Args:
            variant: which of `example.all_pictures`.

        Raises:
            FeatureError: the file is missing, damaged or of another shape.
        """
        picture = example.all_pictures[variant]
        path = picture.flipped_path if flipped else picture.latent_path
        return _read_tensor(path, "latent", latent_shape(example.width, example.height))

    def load_mask(self, example: Example, variant: int = 0) -> Tensor:
        """Weights of the loss in 0…1, float32 `(1, height/8, width/8)`; ones where the example has no mask.

        Args:
            variant: as of `load_latent`.

        Raises:
            FeatureError: the file is missing, damaged or of another shape.
        """
        shape = (1, *latent_shape(example.width, example.height)[1:])
        if path := example.all_pictures[variant].mask_path:
            return _read_tensor(path, "mask", shape)
        return torch.ones(shape)

    def load_text(self, path: str | Path) -> tuple[Tensor, Tensor]:
        """T5's hidden states `(tokens, width)` and CLIP's pooled output `(width,)`: float32, on the CPU.

        Raises:
            FeatureError: the file is missing, damaged or of another shape.
        """
        t5, pooled = read_tensors(path, "t5", "pooled")
        if t5.ndim != 2 or pooled.ndim != 1:
            shapes = f"{tuple(t5.shape)} and {tuple(pooled.shape)}"
            raise FeatureError(f"{path} has shapes {shapes}, not (tokens, width) and (width,). Delete it. {REMEDY}")
        return t5.float(), pooled.float()

    def load_batch(
        self,
        batch: Sequence[Example],
        random: Generator,
        *,
        epoch: int,
        caption_dropout: float,
        prior_loss_weight: float,
    ) -> EncodedBatch:
        """What `batch` is trained on. A pure function of its arguments and the files.

        From `random` come, in this order: one number for the whole batch, which drops its captions by
        `caption_dropout`; and, only where an example `varies`, one number for each example's flip, then one for each
        example's own dropout, then one for each example's text; and, only where an example has variants, one number for
        each example's variant.

        Args:
            batch: examples of one shape, as `epoch_batches` gives them.
            epoch: counted from 0.
            caption_dropout: share of empty captions where the dataset config names none.
            prior_loss_weight: weight of the loss of regularisation pictures.

        Raises:
            FeatureError: a file is missing, damaged or of another shape.
        """
        together = torch.rand((), generator=random)
        varies = any(example.varies for example in batch)
        flips, drops, choices = torch.rand(3, len(batch), generator=random) if varies else torch.zeros(3, len(batch))
        texts = _chosen_texts([example.all_texts for example in batch], choices.tolist())
        one_by_one = texts[0].tokens == self.empty_tokens
        dropped = _dropped(batch, together, drops if one_by_one else None, epoch, caption_dropout)
        paths = [self.empty_text_path if drop else text.path for drop, text in zip(dropped, texts, strict=True)]
        t5, pooled = zip(*map(self.load_text, paths), strict=True)
        flipped = [bool(example.flipped_path and flip < 0.5) for example, flip in zip(batch, flips, strict=True)]
        several = any(example.variants for example in batch)
        numbers = (torch.rand(len(batch), generator=random) if several else torch.zeros(len(batch))).tolist()
        shown = [int(number * len(example.all_pictures)) for example, number in zip(batch, numbers, strict=True)]
        mask = weights = None
        if any(example.mask_path for example in batch):
            masks = map(self.load_mask, batch, shown)
            mask = torch.stack([mask.flip(-1) if flip else mask for mask, flip in zip(masks, flipped, strict=True)])
        if any(example.is_reg for example in batch):
            weights = torch.tensor([prior_loss_weight if example.is_reg else 1.0 for example in batch])
        latents = torch.stack(list(map(self.load_latent, batch, flipped, shown)))
        return EncodedBatch(latents, torch.stack(t5), torch.stack(pooled), mask, weights, dropped)


def _chosen_texts(options: Sequence[Sequence[Text]], choices: Sequence[float]) -> list[Text]:
    """One text for each example, by numbers in 0…1; those after the first are of the first one's length."""
    chosen: list[Text] = []
    for texts, choice in zip(options, choices, strict=True):
        fitting = [text for text in texts if not chosen or text.tokens == chosen[0].tokens]
        chosen.append(fitting[int(choice * len(fitting))])
    return chosen


def _dropped(
    batch: Sequence[Example], together: Tensor, alone: Tensor | None, epoch: int, caption_dropout: float
) -> tuple[bool, ...]:
    """Which examples of a batch get the empty caption, by numbers in 0…1.

    Args:
        batch: the examples.
        together: one number, for those whose rate is the run's.
        alone: a number for each of those with a rate of their own. None where the batch's texts are longer than the
            empty one: a batch has one length of text, so that all of it is dropped or nothing, by the mean rate.
        epoch: counted from 0.
        caption_dropout: the run's rate.
    """
    rates = [
        caption_dropout if example.caption_dropout_rate is None else example.caption_dropout_rate for example in batch
    ]
    if alone is None:
        rates = [sum(rates) / len(rates)] * len(rates)
    numbers = [
        together if alone is None or example.caption_dropout_rate is None else alone[place]
        for place, example in enumerate(batch)
    ]
    return tuple(
        bool(number < rate) or _is_dropped_epoch(example, epoch)
        for example, number, rate in zip(batch, numbers, rates, strict=True)
    )


def _is_dropped_epoch(example: Example, epoch: int) -> bool:
    """sd-scripts counts epochs from 1 here (train_network.py)."""
    every = example.caption_dropout_every_n_epochs
    return every > 0 and (epoch + 1) % every == 0


def epoch_batches(examples: Sequence[Example], seed: int, epoch: int) -> list[tuple[Example, ...]]:
    """The batches of one epoch: each example `repeats` times, shuffled, every batch of one shape.

    A pure function: the order is that of SHA-256 hashes of (seed, epoch, example, repeat), the same on every machine
    and Python, so that resuming needs no more than the step. Every epoch has as many batches. The last batch of a shape
    may be smaller, as in sd-scripts.
    """
    shapes: dict[tuple[Any, ...], list[tuple[str, Example]]] = defaultdict(list)
    for example in examples:
        members = shapes[example.shape]
        for repeat in range(example.repeats):
            members.append((files.content_hash([seed, epoch, example.id, repeat]), example))
    batches = []
    for members in shapes.values():
        members.sort(key=lambda member: member[0])
        batch_size = members[0][1].batch_size
        for start in range(0, len(members), batch_size):
            ranks, batch = zip(*members[start : start + batch_size], strict=True)
            batches.append((files.content_hash(ranks), batch))
    return [batch for _, batch in sorted(batches, key=lambda ranked: ranked[0])]


def _read_tensor(path: Path, name: str, expected: tuple[int, ...]) -> Tensor:
    (tensor,) = read_tensors(path, name)
    if tuple(tensor.shape) != expected:
        raise FeatureError(f"{path} has shape {tuple(tensor.shape)}, not {expected}. Delete it. {REMEDY}")
    return tensor


def read_tensors(path: str | Path, *names: str) -> list[Tensor]:
    """Tensors of an encoded file, by their names.

    Raises:
        FeatureError: the file is missing or damaged.
    """
    with _reading(path) as file:
        if damage := checksums.damage_of(Path(path)):
            raise FeatureError(f"The encoded file {damage}. {REMEDY} It is encoded again.")
        return [file.get_tensor(name) for name in names]


def token_count(path: Path) -> int:
    """The length of an encoded text's T5 embedding; only the file's header is read.

    Raises:
        FeatureError: the file is missing or damaged.
    """
    with _reading(path) as file:
        return file.get_slice("t5").get_shape()[0]


@contextlib.contextmanager
def _reading(path: str | Path) -> Iterator[safe_open]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise FeatureError(f"The encoded file {path} cannot be read ({error}). Delete it. {REMEDY}") from error
