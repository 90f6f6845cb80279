"""Latents and text embeddings on disk: encoded once, each file keyed by all that decides it, read by the trainer.

Beside the dataset config lies `features/`: `latents/<key>.safetensors`, `masks/` and `texts/`, shared by all revisions,
so that a changed caption costs one text and no picture, and `<key>/index.json`, which lists the files of one revision
and is written last. What encodes is not known here: it comes in as two `Encoder`s.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import files
from ..errors import FeatureError, ModelError
from ..progress import Progress, silent
from . import buckets, dataset_config
from .caption_variants import DEFAULT_VARIANTS
from .planning import Planned, plan

if TYPE_CHECKING:
    from PIL.Image import Image
    from safetensors import safe_open
    from torch import Generator, Tensor

    from .text_table import TextTable

VERSION = 1  # to be raised when the same picture, caption and models would give other files
FLUX_LATENT_SHIFT = 0.1159  # black-forest-labs/flux util.py, ae_params.shift_factor
FLUX_LATENT_SCALE = 0.3611  # black-forest-labs/flux util.py, ae_params.scale_factor
LATENT_CHANNELS = 16
PIXELS_PER_LATENT = 8  # the FLUX autoencoder's downscaling of each side
PREVIEW_EVERY = 1.0  # seconds
INDEX = "index.json"
PROMPTS = "prompts.json"
DATASET_CONFIG = "dataset.toml"
# Merely queueing again would give the cached result of a node whose inputs are the same.
REMEDY = (
    "Choose 'Unload Models and Execution Cache' in ComfyUI's menu, or restart it, and queue Encode Training Data again."
)


@dataclass(frozen=True)
class Features:
    """Encoded training data: `folder` holds index.json, and its name is `key`."""

    folder: str
    key: str


@dataclass(frozen=True)
class Encoder:
    """An autoencoder or a pair of text encoders.

    Attributes:
        identity: a hash of all that decides what `encode` returns; the same after a restart.
        encode: for pictures, float `(height, width, 3)` in 0…1 to the raw latent `(16, height/8, width/8)`; for texts,
            a string to T5's hidden states `(tokens, width)` and CLIP's pooled output `(width,)`.
    """

    identity: str
    encode: Callable[[Any], Any]


@dataclass(frozen=True)
class Text:
    """An encoded text: read with `FeatureSet.load_text`, its T5 embedding `tokens` long."""

    caption: str
    path: Path
    tokens: int


@dataclass(frozen=True)
class Sample:
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
        texts: where there are several, the equally likely ones of each stage of the token warm-up and, last, of the
            rest of the run; `text_path` is the first of the last.
        token_warmup_step: optimiser step at which the warm-up is over; under 1 it is a share of all steps.
        flipped_path: the latent of the mirrored picture, which stands in for the other half of the time.
        mask_path: read with `FeatureSet.load_mask`.
        is_reg: a regularisation picture, whose loss has a weight of its own.
        caption_dropout_rate: share of empty captions; None leaves it to the run.
        caption_dropout_every_n_epochs: every n-th epoch has only empty captions; 0 for none.
        image: SHA-256 of the picture's file.
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
    texts: tuple[tuple[Text, ...], ...] = ()
    token_warmup_step: float = 0
    flipped_path: Path | None = None
    mask_path: Path | None = None
    is_reg: bool = False
    caption_dropout_rate: float | None = None
    caption_dropout_every_n_epochs: int = 0
    image: str = ""

    @property
    def varies(self) -> bool:
        """Whether more is drawn for it than the run's own caption dropout."""
        return bool(self.texts or self.flipped_path or self.caption_dropout_rate is not None)

    @property
    def shape(self) -> tuple[Any, ...]:
        """Samples of equal shape can share a batch, whichever of their texts are drawn and dropped in an epoch."""
        lengths = tuple(tuple(sorted({text.tokens for text in stage})) for stage in self.stages)
        schedule = self.token_warmup_step, self.caption_dropout_every_n_epochs
        return self.width, self.height, self.batch_size, lengths, schedule

    @property
    def stages(self) -> tuple[tuple[Text, ...], ...]:
        """Its texts as `texts` has them, also where it has one."""
        return self.texts or ((Text(self.caption, self.text_path, self.tokens),),)

    def texts_at(self, step: int, steps: int) -> tuple[Text, ...]:
        """The texts that may be drawn at an optimiser step, of `steps` in all."""
        warmup = self.token_warmup_step
        warmup = math.floor(warmup * steps) if warmup < 1 else warmup
        stages = self.stages
        return stages[math.floor(step * (len(stages) - 1) / warmup)] if step < warmup else stages[-1]

    @property
    def files(self) -> Iterator[Path]:
        yield from filter(None, (self.latent_path, self.text_path, self.flipped_path, self.mask_path))
        yield from (text.path for stage in self.texts for text in stage)


@dataclass(frozen=True)
class Draw:
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
        samples: every picture, those held out too.
        batch_size: of the first dataset; each sample has its own.
        empty_text_path: the embedding of the empty caption, for caption dropout.
        empty_tokens: the length of its T5 embedding.
        prompts: text, seed and embedding of each prompt for samples during training.
    """

    samples: tuple[Sample, ...]
    batch_size: int
    empty_text_path: Path
    empty_tokens: int
    prompts: tuple[tuple[str, int, Path], ...] = ()

    def load_latent(self, sample: Sample, flipped: bool = False) -> Tensor:
        """The scaled latent of `sample`, or of its mirror image: float32 `(16, height/8, width/8)`, on the CPU.

        Raises:
            FeatureError: the file is missing, damaged or of another shape.
        """
        return _tensor(
            sample.flipped_path if flipped else sample.latent_path, "latent", _latent_shape(sample.width, sample.height)
        )

    def load_mask(self, sample: Sample) -> Tensor:
        """Weights of the loss in 0…1, float32 `(1, height/8, width/8)`; ones where the sample has no mask.

        Raises:
            FeatureError: the file is missing, damaged or of another shape.
        """
        shape = (1, *_latent_shape(sample.width, sample.height)[1:])
        if sample.mask_path:
            return _tensor(sample.mask_path, "mask", shape)
        import torch

        return torch.ones(shape)

    def load_text(self, path: str | Path) -> tuple[Tensor, Tensor]:
        """T5's hidden states `(tokens, width)` and CLIP's pooled output `(width,)`: float32, on the CPU.

        Raises:
            FeatureError: the file is missing, damaged or of another shape.
        """
        t5, pooled = _tensors(path, "t5", "pooled")
        if t5.ndim != 2 or pooled.ndim != 1:
            shapes = f"{tuple(t5.shape)} and {tuple(pooled.shape)}"
            raise FeatureError(f"{path} has shapes {shapes}, not (tokens, width) and (width,). Delete it. {REMEDY}")
        return t5.float(), pooled.float()

    def draw(
        self,
        batch: Sequence[Sample],
        random: Generator,
        *,
        epoch: int,
        step: int,
        steps: int,
        caption_dropout: float,
        prior_loss_weight: float,
    ) -> Draw:
        """What `batch` is trained on. A pure function of its arguments and the files.

        From `random` come, in this order: one number for the whole batch, which drops its captions by
        `caption_dropout`; and, only where a sample `varies`, one number for each sample's flip, then one for each
        sample's own dropout, then one for each sample's text.

        Args:
            batch: samples of one shape, as `epoch_batches` gives them.
            epoch: counted from 0.
            step: optimiser steps done, for the token warm-up.
            steps: optimiser steps of the run.
            caption_dropout: share of empty captions where the dataset config names none.
            prior_loss_weight: weight of the loss of regularisation pictures.

        Raises:
            FeatureError: a file is missing, damaged or of another shape.
        """
        import torch

        together = torch.rand((), generator=random)
        varies = any(sample.varies for sample in batch)
        flips, drops, choices = torch.rand(3, len(batch), generator=random) if varies else torch.zeros(3, len(batch))
        flipped = [bool(sample.flipped_path and flip < 0.5) for sample, flip in zip(batch, flips, strict=True)]
        texts = _chosen_texts([sample.texts_at(step, steps) for sample in batch], choices.tolist())
        rates = [
            caption_dropout if sample.caption_dropout_rate is None else sample.caption_dropout_rate for sample in batch
        ]
        if texts[0].tokens == self.empty_tokens:
            numbers = [
                together if sample.caption_dropout_rate is None else drop
                for sample, drop in zip(batch, drops, strict=True)
            ]
        else:  # A batch has one length of text, so that all of it is dropped or nothing.
            numbers, rates = [together] * len(batch), [sum(rates) / len(rates)] * len(batch)
        dropped = tuple(
            bool(number < rate) or _is_dropped_epoch(sample, epoch)
            for sample, number, rate in zip(batch, numbers, rates, strict=True)
        )
        paths = [self.empty_text_path if drop else text.path for drop, text in zip(dropped, texts, strict=True)]
        t5, pooled = zip(*map(self.load_text, paths), strict=True)
        masks = [
            self.load_mask(sample).flip(-1) if flip else self.load_mask(sample)
            for sample, flip in zip(batch, flipped, strict=True)
            if any(sample.mask_path for sample in batch)
        ]
        weights = [prior_loss_weight if sample.is_reg else 1.0 for sample in batch]
        return Draw(
            latents=torch.stack([self.load_latent(*pair) for pair in zip(batch, flipped, strict=True)]),
            t5=torch.stack(t5),
            pooled=torch.stack(pooled),
            mask=torch.stack(masks) if masks else None,
            weights=torch.tensor(weights) if any(sample.is_reg for sample in batch) else None,
            dropped=dropped,
        )


def _chosen_texts(options: Sequence[Sequence[Text]], choices: Sequence[float]) -> list[Text]:
    """One text for each sample, by numbers in 0…1; those after the first are of the first one's length."""
    chosen: list[Text] = []
    for texts, choice in zip(options, choices, strict=True):
        fitting = [text for text in texts if not chosen or text.tokens == chosen[0].tokens]
        chosen.append(fitting[int(choice * len(fitting))])
    return chosen


def _is_dropped_epoch(sample: Sample, epoch: int) -> bool:
    """sd-scripts counts epochs from 1 here (train_network.py)."""
    every = sample.caption_dropout_every_n_epochs
    return every > 0 and (epoch + 1) % every == 0


def scale_latent(raw: Tensor) -> Tensor:
    """The autoencoder's raw latent as the transformer sees it. The only place where this is done."""
    return (raw - FLUX_LATENT_SHIFT) * FLUX_LATENT_SCALE


def encode(
    config_path: str | Path,
    autoencoder: Encoder,
    text_encoder: Encoder,
    progress: Progress = silent,
    caption_variants: int = DEFAULT_VARIANTS,
    prompts: Sequence[tuple[str, int]] = (),
    text_table: TextTable | None = None,
) -> Features:
    """Encode what the dataset config names and what is not yet encoded; texts first, so that each model is loaded once.

    Each file appears whole, so that a stopped or killed call goes on where it was; with nothing missing no encoder is
    called.

    Args:
        config_path: the dataset config.
        autoencoder: for the pictures.
        text_encoder: for the captions.
        progress: told of every picture and text.
        caption_variants: how many texts a caption becomes that sd-scripts would change at random at every step.
        prompts: text and seed of samples during training; encoded too, but no part of the features' key.
        text_table: gives the captions' embeddings in place of the text encoder.

    Raises:
        DatasetError: the config, a picture or a caption cannot be used; the text names the file.
        ModelError: an encoder is not FLUX's.
        FeatureError: an encoder's result is not finite, or a file cannot be read or written.
    """
    group = dataset_config.read(config_path)
    pictures = dataset_config.pictures(group)
    planned = plan(pictures, caption_variants, progress)
    named = _Names(autoencoder.identity, text_encoder.identity, text_table.identity if text_table else None)
    batch_size = group.datasets[0].batch_size
    index = {
        "version": VERSION,
        "batch_size": batch_size,
        "samples": [_entry(sample, named, batch_size) for sample in planned],
        "empty_text": named.text(""),
    }
    key = files.content_hash(index)
    folder = Path(os.path.abspath(config_path)).parent / "features" / key
    for place in (folder, *(folder.parent / kind for kind in ("texts", "latents", "masks"))):
        files.remove_partials(place)
    captions = {
        _inside(folder, named.text(text, sample)): (sample, text) for sample in planned for text in sample.texts
    }
    texts = {_inside(folder, named.text(text)): text for text in ("", *(text for text, _ in prompts))}
    if not text_table:
        texts |= {path: text for path, (_, text) in captions.items()}
    latents = {
        _inside(folder, file): (kind, sample) for sample in planned for kind, file in named.of_picture(sample).items()
    }
    _encode_missing(texts, latents, autoencoder, text_encoder, progress)
    if text_table:
        _import_missing(text_table, captions, _inside(folder, index["empty_text"]), progress)
    _write_prompts(folder, [(text, seed, named.text(text)) for text, seed in prompts])
    if not (folder / INDEX).is_file():
        for entry in index["samples"]:
            _add_lengths(entry, folder)
        index["subsets"] = _subsets(pictures)
        # For whoever asks later what these features were made from; the trainer's run keeps a copy.
        _write(folder / DATASET_CONFIG, Path(config_path).read_bytes())
        _write(folder / INDEX, json.dumps(index, indent=1, ensure_ascii=False).encode())
    return Features(str(folder), key)


@dataclass(frozen=True)
class _Names:
    """The file of everything encoded, relative to the index's folder: a hash of all that decides its content.

    Attributes:
        autoencoder: its identity.
        text_encoder: its identity.
        table: identity of the Parquet file that the captions come from, if they do.
    """

    autoencoder: str
    text_encoder: str
    table: str | None

    def text(self, text: str, sample: Planned | None = None) -> str:
        """Of a text, which is a caption of `sample` or else is always encoded here."""
        source = [self.table, sample.image] if self.table and sample else [self.text_encoder]
        return f"../texts/{files.content_hash([VERSION, *source, text], 32)}.safetensors"

    def of_picture(self, sample: Planned) -> dict[str, str]:
        """Those that come from the picture alone, by their kind."""
        options = dict(sample.options)
        made = {"latent": [VERSION, self.autoencoder, sample.image, sample.size]}
        if "flip_aug" in options:
            made["flipped"] = [VERSION, self.autoencoder, sample.image, sample.size, "flipped"]
        if "alpha_mask" in options:
            made["mask"] = [VERSION, sample.image, sample.size]
        return {
            kind: f"../{'masks' if kind == 'mask' else 'latents'}/{files.content_hash(parts, 32)}.safetensors"
            for kind, parts in made.items()
        }


def _entry(sample: Planned, named: _Names, batch_size: int) -> dict[str, Any]:
    """A sample as the index lists it; what a plain subset does not ask for is left out."""
    entry = {
        "id": sample.id,
        "image": sample.image,
        "caption": sample.caption,
        **named.of_picture(sample),
        "text": named.text(sample.caption, sample),
        "width": sample.size[0],
        "height": sample.size[1],
        "repeats": sample.repeats,
        "held_out": sample.held_out,
    }
    entry |= {name: value for name, value in sample.options if name not in ("flip_aug", "alpha_mask")}
    if len(sample.texts) > 1:
        entry["captions"] = sample.stages
        entry["texts"] = [[named.text(text, sample) for text in stage] for stage in sample.stages]
    if sample.batch_size != batch_size:
        entry["batch_size"] = sample.batch_size
    return entry


def _add_lengths(entry: dict[str, Any], folder: Path) -> None:
    """Write the T5 lengths of a sample's texts into its entry."""
    entry["tokens"] = _token_count(_inside(folder, entry["text"]))
    if "texts" in entry:
        entry["text_tokens"] = [[_token_count(_inside(folder, file)) for file in stage] for stage in entry["texts"]]


def _subsets(pictures: Sequence[dataset_config.Picture]) -> list[str]:
    """What the config says of each subset, for the report."""
    counts = Counter(picture.subset for picture in pictures)
    return [f"{subset.source.name}: {count} x {subset.describe()}" for subset, count in counts.items()]


def _write_prompts(folder: Path, prompts: Sequence[tuple[str, int, str]]) -> None:
    """List the prompts of samples during training, in place of those of before."""
    content = json.dumps(
        [{"text": text, "seed": seed, "file": file} for text, seed, file in prompts], indent=1
    ).encode()
    if not prompts:
        files.remove(folder / PROMPTS)
    elif not (folder / PROMPTS).is_file() or (folder / PROMPTS).read_bytes() != content:
        _write(folder / PROMPTS, content)


def _encode_missing(
    texts: Mapping[Path, str],
    latents: Mapping[Path, tuple[str, Planned]],
    autoencoder: Encoder,
    text_encoder: Encoder,
    progress: Progress,
) -> None:
    missing_texts = {path: text for path, text in texts.items() if not path.is_file()}
    missing_latents = {path: job for path, job in latents.items() if not path.is_file()}
    total = len(missing_texts) + len(missing_latents)
    for done, (path, text) in enumerate(missing_texts.items()):
        progress(done, total, f"Encoding caption {done + 1} of {len(missing_texts)}")
        _write(path, _encoded_text(text, text_encoder))
    shown = -math.inf
    for done, (path, (kind, sample)) in enumerate(missing_latents.items()):
        picture = buckets.fit(
            buckets.read_alpha(sample.path) if kind == "mask" else buckets.read_picture(sample.path), sample.size
        )
        due = time.monotonic() - shown >= PREVIEW_EVERY
        shown = time.monotonic() if due else shown
        progress(
            len(missing_texts) + done,
            total,
            f"Encoding picture {done + 1} of {len(missing_latents)}: {sample.path.name}",
            picture if due else None,
        )
        _write(path, _mask(picture) if kind == "mask" else _encoded_latent(picture, kind, sample, autoencoder))
    progress(max(total, 1), max(total, 1), "Encoded")


def _import_missing(
    table: TextTable, captions: Mapping[Path, tuple[Planned, str]], empty_text: Path, progress: Progress
) -> None:
    """Take the captions' embeddings that are not there yet from a Parquet file; the empty text tells their widths."""
    missing = {(sample.image, text): path for path, (sample, text) in captions.items() if not path.is_file()}
    if not missing:
        return
    t5, pooled = _tensors(empty_text, "t5", "pooled")
    pictures = {sample.image: sample.path for sample, _ in captions.values()}
    for image, text, *embeddings in table.rows(missing, pictures, (t5.shape[-1], len(pooled)), progress):
        if not all(tensor.isfinite().all() for tensor in embeddings):
            raise FeatureError(f"The embedding of '{text[:60]}' in {table.path} is not finite. Export it again.")
        _write(missing[image, text], _serialised(t5=embeddings[0], pooled=embeddings[1]))


def _encoded_text(text: str, text_encoder: Encoder) -> bytes:
    """In the dtype that the encoder gave, which loses nothing."""
    t5, pooled = text_encoder.encode(text)
    if t5.ndim != 2 or pooled.ndim != 1:
        raise ModelError(
            f"The CLIP gave embeddings of shape {tuple(t5.shape)} and {tuple(pooled.shape)} instead of (tokens, width) "
            "and (width,). Load FLUX's two text encoders with DualCLIPLoader, type flux."
        )
    _check_finite(f"caption '{text[:60]}'", "--fp32-text-enc", t5, pooled)
    return _serialised(t5=t5, pooled=pooled)


def _encoded_latent(picture: Image, kind: str, sample: Planned, autoencoder: Encoder) -> bytes:
    import numpy
    import torch

    pixels = numpy.asarray(picture, dtype=numpy.float32) / 255
    if kind == "flipped":
        pixels = numpy.ascontiguousarray(pixels[:, ::-1])
    raw = autoencoder.encode(torch.from_numpy(pixels))
    expected = _latent_shape(*sample.size)
    if tuple(raw.shape) != expected:
        raise ModelError(
            f"The VAE gave a latent of shape {tuple(raw.shape)} instead of {expected}: it is not FLUX's. "
            "Load FLUX's autoencoder (ae.safetensors) with Load VAE."
        )
    _check_finite(f"picture {sample.path}", "--fp32-vae", raw)
    return _serialised(latent=scale_latent(raw.float()))


def _mask(alpha: Image) -> bytes:
    """The mean of each 8 x 8 pixels, which is how sd-scripts brings masks to the latent's size (mode "area")."""
    import numpy
    import torch

    values = numpy.asarray(alpha, dtype=numpy.float32) / 255
    height, width = (side // PIXELS_PER_LATENT for side in values.shape)
    means = values.reshape(height, PIXELS_PER_LATENT, width, PIXELS_PER_LATENT).mean((1, 3))
    return _serialised(mask=torch.from_numpy(means)[None])


def _latent_shape(width: int, height: int) -> tuple[int, int, int]:
    return LATENT_CHANNELS, height // PIXELS_PER_LATENT, width // PIXELS_PER_LATENT


def _check_finite(what: str, option: str, *tensors: Tensor) -> None:
    if not all(tensor.isfinite().all() for tensor in tensors):
        raise FeatureError(f"Encoding the {what} gave values that are not finite. Start ComfyUI with {option}.")


def _serialised(**tensors: Tensor) -> bytes:
    import safetensors.torch

    return safetensors.torch.save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})


def _write(path: Path, content: bytes) -> None:
    try:
        files.write_whole(path, content)
    except OSError as error:
        raise FeatureError(
            f"{path} could not be written ({error}). Make room or mend that, then queue again: what is encoded stays."
        ) from error


def load(features: Features) -> FeatureSet:
    """Read the index of encoded training data and check that every file it names is there; no tensor is read.

    Raises:
        FeatureError: the index or a file is missing, damaged or of another version.
    """
    folder = Path(features.folder)
    index = _json(folder / INDEX)
    if index["version"] != VERSION:
        raise FeatureError(f"The training data {folder} is of version {index['version']}, not {VERSION}. {REMEDY}")
    empty_text = _inside(folder, index["empty_text"])
    samples = tuple(_sample(folder, entry, index["batch_size"]) for entry in index["samples"])
    prompts = _json(folder / PROMPTS) if (folder / PROMPTS).is_file() else []
    listed = tuple((prompt["text"], prompt["seed"], _inside(folder, prompt["file"])) for prompt in prompts)
    paths = (empty_text, *(path for sample in samples for path in sample.files), *(path for _, _, path in listed))
    for path in dict.fromkeys(paths):
        if not path.is_file():
            raise FeatureError(f"The encoded file {path} is missing. {REMEDY}")
    return FeatureSet(samples, index["batch_size"], empty_text, _token_count(empty_text), listed)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FeatureError(f"The training data {path} cannot be read ({error}). {REMEDY}") from error
    except json.JSONDecodeError as error:
        raise FeatureError(f"The training data {path} is damaged ({error}). Delete it. {REMEDY}") from error


def _sample(folder: Path, entry: dict[str, Any], batch_size: int) -> Sample:
    names = ("id", "image", "caption", "width", "height", "tokens", "repeats", "held_out")
    optional = ("is_reg", "caption_dropout_rate", "caption_dropout_every_n_epochs", "token_warmup_step")
    listed = (entry.get(name, []) for name in ("captions", "texts", "text_tokens"))
    texts = tuple(
        tuple(Text(caption, _inside(folder, file), tokens) for caption, file, tokens in zip(*stage, strict=True))
        for stage in zip(*listed, strict=True)
    )
    return Sample(
        latent_path=_inside(folder, entry["latent"]),
        text_path=_inside(folder, entry["text"]),
        texts=texts,
        flipped_path=_inside(folder, entry["flipped"]) if "flipped" in entry else None,
        mask_path=_inside(folder, entry["mask"]) if "mask" in entry else None,
        batch_size=entry.get("batch_size", batch_size),
        **{name: entry[name] for name in names},
        **{name: entry[name] for name in optional if name in entry},
    )


def _inside(folder: Path, file: str) -> Path:
    return Path(os.path.normpath(folder / file))


def _tensor(path: Path, name: str, expected: tuple[int, ...]) -> Tensor:
    (tensor,) = _tensors(path, name)
    if tuple(tensor.shape) != expected:
        raise FeatureError(f"{path} has shape {tuple(tensor.shape)}, not {expected}. Delete it. {REMEDY}")
    return tensor


def _tensors(path: str | Path, *names: str) -> list[Tensor]:
    with _reading(path) as file:
        return [file.get_tensor(name) for name in names]


def _token_count(path: Path) -> int:
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


def epoch_batches(samples: Sequence[Sample], seed: int, epoch: int) -> list[tuple[Sample, ...]]:
    """The batches of one epoch: each sample `repeats` times, shuffled, every batch of one shape.

    A pure function: the order is that of SHA-256 hashes of (seed, epoch, sample, repeat), the same on every machine and
    Python, so that resuming needs no more than the step. Every epoch has as many batches. The last batch of a shape may
    be smaller, as in sd-scripts.
    """
    shapes: dict[tuple[Any, ...], list[tuple[str, Sample]]] = defaultdict(list)
    for sample in samples:
        members = shapes[sample.shape]
        for repeat in range(sample.repeats):
            members.append((files.content_hash([seed, epoch, sample.id, repeat]), sample))
    batches = []
    for members in shapes.values():
        members.sort(key=lambda member: member[0])
        batch_size = members[0][1].batch_size
        for start in range(0, len(members), batch_size):
            ranks, batch = zip(*members[start : start + batch_size], strict=True)
            batches.append((files.content_hash(ranks), batch))
    return [batch for _, batch in sorted(batches, key=lambda ranked: ranked[0])]


def report(features: Features) -> str:
    """What was encoded, in lines for a person: subsets, pictures, buckets, texts, megabytes, held-out pictures."""
    loaded = load(features)
    trained = [sample for sample in loaded.samples if not sample.held_out]
    sizes = Counter((sample.width, sample.height) for sample in loaded.samples)
    paths = {path for sample in loaded.samples for path in sample.files} | {loaded.empty_text_path}
    texts = {path for path in paths if path.parent.name == "texts"}
    megabytes = sum(path.stat().st_size for path in paths) / 1e6
    return "\n".join(
        [
            f"{len(loaded.samples)} pictures, {len(loaded.samples) - len(trained)} of them held out",
            f"{sum(sample.repeats for sample in trained)} per epoch with repeats, batch size {_sizes(loaded.samples)}",
            *(f"subset {line}" for line in _json(Path(features.folder) / INDEX).get("subsets", [])),
            *(f"bucket {width} x {height}: {count}" for (width, height), count in sorted(sizes.items())),
            f"{len(texts)} texts, the empty caption among them",
            *_extras(trained, loaded),
            f"{megabytes:.1f} MB in {Path(features.folder).parent}",
        ]
    )


def _sizes(samples: Iterable[Sample]) -> str:
    return ", ".join(str(size) for size in sorted({sample.batch_size for sample in samples}))


def _extras(trained: Sequence[Sample], loaded: FeatureSet) -> list[str]:
    """The lines of a report that only some datasets have."""
    several = [len({text.path for text in sample.stages[-1]}) for sample in trained if sample.texts]
    lengths = {sample.tokens for sample in trained} - {loaded.empty_tokens}
    counted = (
        (sum(bool(sample.flipped_path) for sample in trained), "pictures encoded mirrored too"),
        (len(several), f"pictures with several texts, {max(several, default=0)} at most"),
        (sum(sample.is_reg for sample in trained), "regularisation pictures"),
        (sum(bool(sample.mask_path) for sample in loaded.samples), "pictures with a mask"),
        (len(loaded.prompts), "prompts for samples during training"),
    )
    lines = [f"{count} {what}" for count, what in counted if count]
    if lengths and min(lengths) < loaded.empty_tokens:
        lines.append(f"texts of {min(lengths)} T5 tokens, but sampling gives {loaded.empty_tokens} and more")
    return lines
