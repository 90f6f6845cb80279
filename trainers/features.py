"""Latents and text embeddings on disk: encoded once, each file keyed by all that decides it, read by the trainer.

Beside the dataset config lies `features/`: `latents/<key>.safetensors` and `texts/<key>.safetensors`, shared by all
revisions, so that a changed caption costs one text and no picture, and `<key>/index.json`, which lists the files of one
revision and is written last. What encodes is not known here: it comes in as two `Encoder`s.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import files
from ..errors import DatasetError, FeatureError, ModelError
from ..progress import Progress, silent
from . import buckets, dataset_config

if TYPE_CHECKING:
    from PIL.Image import Image
    from safetensors import safe_open
    from torch import Tensor

VERSION = 1  # to be raised when the same picture, caption and models would give other files
FLUX_LATENT_SHIFT = 0.1159  # black-forest-labs/flux util.py, ae_params.shift_factor
FLUX_LATENT_SCALE = 0.3611  # black-forest-labs/flux util.py, ae_params.scale_factor
LATENT_CHANNELS = 16
PIXELS_PER_LATENT = 8  # the FLUX autoencoder's downscaling of each side
PREVIEW_EVERY = 1.0  # seconds
INDEX = "index.json"
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
class Sample:
    """One picture with its caption, as the trainer sees it.

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


@dataclass(frozen=True)
class FeatureSet:
    """What `load` found. `empty_text_path` is the embedding of the empty caption, for caption dropout."""

    samples: tuple[Sample, ...]
    batch_size: int
    empty_text_path: Path

    def load_latent(self, sample: Sample) -> Tensor:
        """The scaled latent of `sample`: float32 `(16, height/8, width/8)`, on the CPU.

        Raises:
            FeatureError: the file is missing, damaged or of another shape.
        """
        (latent,) = _tensors(sample.latent_path, "latent")
        expected = _latent_shape(sample.width, sample.height)
        if tuple(latent.shape) != expected:
            shape = tuple(latent.shape)
            raise FeatureError(f"{sample.latent_path} has shape {shape}, not {expected}. Delete it. {REMEDY}")
        return latent

    def load_text(self, path: str | Path) -> tuple[Tensor, Tensor]:
        """T5's hidden states `(tokens, width)` and CLIP's pooled output `(width,)`: float32, on the CPU.

        Raises:
            FeatureError: the file is missing, damaged or of another shape.
        """
        t5, pooled = _tensors(path, "t5", "pooled")
        if t5.ndim != 2 or pooled.ndim != 1:
            shapes = f"{tuple(t5.shape)} and {tuple(pooled.shape)}"
            raise FeatureError(f"{path} has shapes {shapes}, not (tokens, width) and (width,). Delete it. {REMEDY}")
        return t5, pooled


@dataclass(frozen=True)
class _Planned:
    """A sample before it is encoded: the picture's path and content hash, its caption and its bucket."""

    path: Path
    image: str
    caption: str
    size: tuple[int, int]
    repeats: int
    held_out: bool

    @property
    def id(self) -> str:
        return files.content_hash([self.image, self.caption, self.size])


def scale_latent(raw: Tensor) -> Tensor:
    """The autoencoder's raw latent as the transformer sees it. The only place where this is done."""
    return (raw - FLUX_LATENT_SHIFT) * FLUX_LATENT_SCALE


def encode(
    config_path: str | Path, autoencoder: Encoder, text_encoder: Encoder, progress: Progress = silent
) -> Features:
    """Encode what the dataset config names and what is not yet encoded; texts first, so that each model is loaded once.

    Each file appears whole, so that a stopped or killed call goes on where it was; with nothing missing no encoder is
    called.

    Raises:
        DatasetError: the config, a picture or a caption cannot be used; the text names the file.
        ModelError: an encoder is not FLUX's.
        FeatureError: an encoder's result is not finite, or a file cannot be written.
    """
    group = dataset_config.read(config_path)
    planned = _plan(dataset_config.pictures(group), progress)
    index = {
        "version": VERSION,
        "batch_size": group.datasets[0].batch_size,
        "samples": [_entry(sample, autoencoder.identity, text_encoder.identity) for sample in planned],
        "empty_text": _text_file("", text_encoder.identity),
    }
    key = files.content_hash(index)
    folder = Path(os.path.abspath(config_path)).parent / "features" / key
    for place in (folder, folder.parent / "texts", folder.parent / "latents"):
        files.remove_partials(place)
    captions = ("", *(sample.caption for sample in planned))
    texts = {_inside(folder, _text_file(caption, text_encoder.identity)): caption for caption in captions}
    latents = {_inside(folder, _latent_file(sample, autoencoder.identity)): sample for sample in planned}
    _encode_missing(texts, latents, autoencoder, text_encoder, progress)
    if not (folder / INDEX).is_file():
        tokens = {caption: _token_count(path) for path, caption in texts.items()}
        for entry in index["samples"]:
            entry["tokens"] = tokens[entry["caption"]]
        # For whoever asks later what these features were made from; the trainer's run keeps a copy.
        _write(folder / DATASET_CONFIG, Path(config_path).read_bytes())
        _write(folder / INDEX, json.dumps(index, indent=1, ensure_ascii=False).encode())
    return Features(str(folder), key)


def _entry(sample: _Planned, autoencoder: str, text_encoder: str) -> dict[str, Any]:
    """A sample as the index lists it; files are relative to the index's folder."""
    return {
        "id": sample.id,
        "image": sample.image,
        "caption": sample.caption,
        "latent": _latent_file(sample, autoencoder),
        "text": _text_file(sample.caption, text_encoder),
        "width": sample.size[0],
        "height": sample.size[1],
        "repeats": sample.repeats,
        "held_out": sample.held_out,
    }


def _latent_file(sample: _Planned, autoencoder: str) -> str:
    return f"../latents/{files.content_hash([VERSION, autoencoder, sample.image, sample.size], 32)}.safetensors"


def _text_file(caption: str, text_encoder: str) -> str:
    return f"../texts/{files.content_hash([VERSION, text_encoder, caption], 32)}.safetensors"


def _plan(pictures: Sequence[dataset_config.Picture], progress: Progress) -> list[_Planned]:
    """Hash every picture and find its bucket; by id, so that neither names nor folders decide the order.

    A picture that is named twice with the same caption and bucket becomes one sample with the sum of the repeats.
    """
    images = []
    for done, picture in enumerate(pictures):
        progress(done, len(pictures), f"Reading picture {done + 1} of {len(pictures)}")
        images.append(_file_hash(picture.path))
    held_out = _held_out(pictures, images)
    planned: dict[str, _Planned] = {}
    for picture, image in zip(pictures, images, strict=True):
        sample = _Planned(picture.path, image, picture.caption, _bucket(picture), picture.repeats, image in held_out)
        if sample.id in planned:
            sample = dataclasses.replace(sample, repeats=sample.repeats + planned[sample.id].repeats)
        planned[sample.id] = sample
    return [planned[id] for id in sorted(planned)]


def _bucket(picture: dataset_config.Picture) -> tuple[int, int]:
    size = buckets.upright_size(picture.path)
    try:
        return buckets.assign(*size, picture.dataset.buckets)
    except DatasetError as error:
        raise DatasetError(f"The picture {picture.path} cannot be used: {error}") from error


def _held_out(pictures: Sequence[dataset_config.Picture], images: Sequence[str]) -> set[str]:
    """Content hashes of the pictures held out: in each dataset the first of an order drawn by `validation_seed`.

    By content, so that a picture that two subsets name is never trained on and measured with. At least one of four or
    more pictures, and never all.

    Raises:
        DatasetError: datasets with different seeds hold out every picture between them.
    """
    by_dataset: dict[dataset_config.Dataset, set[str]] = defaultdict(set)
    for picture, image in zip(pictures, images, strict=True):
        by_dataset[picture.dataset].add(image)
    held_out: set[str] = set()
    for dataset, members in by_dataset.items():
        if dataset.validation_split:
            least = 1 if len(members) >= 4 else 0
            count = min(max(round(dataset.validation_split * len(members)), least), len(members) - 1)
            order = sorted(members, key=lambda image: files.content_hash([dataset.validation_seed, image]))
            held_out.update(order[:count])
    if held_out == set(images):
        raise DatasetError("validation_split holds out every picture. Lower it, or use one validation_seed for all.")
    return held_out


def _encode_missing(
    texts: dict[Path, str],
    latents: dict[Path, _Planned],
    autoencoder: Encoder,
    text_encoder: Encoder,
    progress: Progress,
) -> None:
    missing_texts = {path: text for path, text in texts.items() if not path.is_file()}
    missing_latents = {path: sample for path, sample in latents.items() if not path.is_file()}
    total = len(missing_texts) + len(missing_latents)
    for done, (path, text) in enumerate(missing_texts.items()):
        progress(done, total, f"Encoding caption {done + 1} of {len(missing_texts)}")
        _write(path, _encoded_text(text, text_encoder))
    shown = -math.inf
    for done, (path, sample) in enumerate(missing_latents.items()):
        picture = buckets.fit(buckets.read_picture(sample.path), sample.size)
        due = time.monotonic() - shown >= PREVIEW_EVERY
        shown = time.monotonic() if due else shown
        progress(
            len(missing_texts) + done,
            total,
            f"Encoding picture {done + 1} of {len(missing_latents)}: {sample.path.name}",
            picture if due else None,
        )
        _write(path, _encoded_latent(picture, sample, autoencoder))
    progress(max(total, 1), max(total, 1), "Encoded")


def _encoded_text(text: str, text_encoder: Encoder) -> bytes:
    t5, pooled = text_encoder.encode(text)
    if t5.ndim != 2 or pooled.ndim != 1:
        raise ModelError(
            f"The CLIP gave embeddings of shape {tuple(t5.shape)} and {tuple(pooled.shape)} instead of (tokens, width) "
            "and (width,). Load FLUX's two text encoders with DualCLIPLoader, type flux."
        )
    _check_finite(f"caption '{text[:60]}'", "--fp32-text-enc", t5, pooled)
    return _serialised(t5=t5, pooled=pooled)


def _encoded_latent(picture: Image, sample: _Planned, autoencoder: Encoder) -> bytes:
    import numpy
    import torch

    raw = autoencoder.encode(torch.from_numpy(numpy.asarray(picture, dtype=numpy.float32) / 255))
    expected = _latent_shape(*sample.size)
    if tuple(raw.shape) != expected:
        raise ModelError(
            f"The VAE gave a latent of shape {tuple(raw.shape)} instead of {expected}: it is not FLUX's. "
            "Load FLUX's autoencoder (ae.safetensors) with Load VAE."
        )
    _check_finite(f"picture {sample.path}", "--fp32-vae", raw)
    return _serialised(latent=scale_latent(raw.float()))


def _latent_shape(width: int, height: int) -> tuple[int, int, int]:
    return LATENT_CHANNELS, height // PIXELS_PER_LATENT, width // PIXELS_PER_LATENT


def _check_finite(what: str, option: str, *tensors: Tensor) -> None:
    if not all(tensor.isfinite().all() for tensor in tensors):
        raise FeatureError(f"Encoding the {what} gave values that are not finite. Start ComfyUI with {option}.")


def _serialised(**tensors: Tensor) -> bytes:
    import safetensors.torch

    return safetensors.torch.save({name: tensor.float().cpu().contiguous() for name, tensor in tensors.items()})


def _write(path: Path, content: bytes) -> None:
    try:
        files.write_whole(path, content)
    except OSError as error:
        raise FeatureError(
            f"{path} could not be written ({error}). Make room or mend that, then queue again: what is encoded stays."
        ) from error


def _file_hash(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise DatasetError(f"The picture {path} cannot be read ({error}). Replace or remove it.") from error
    return digest.hexdigest()


def load(features: Features) -> FeatureSet:
    """Read the index of encoded training data and check that every file it names is there; no tensor is read.

    Raises:
        FeatureError: the index or a file is missing, or of another version.
    """
    folder = Path(features.folder)
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except OSError as error:
        raise FeatureError(f"The training data {folder / INDEX} cannot be read ({error}). {REMEDY}") from error
    except json.JSONDecodeError as error:
        raise FeatureError(f"The training data {folder / INDEX} is damaged ({error}). Delete it. {REMEDY}") from error
    if index["version"] != VERSION:
        raise FeatureError(f"The training data {folder} is of version {index['version']}, not {VERSION}. {REMEDY}")
    loaded = FeatureSet(
        samples=tuple(_sample(folder, entry) for entry in index["samples"]),
        batch_size=index["batch_size"],
        empty_text_path=_inside(folder, index["empty_text"]),
    )
    for path in (loaded.empty_text_path, *(p for s in loaded.samples for p in (s.latent_path, s.text_path))):
        if not path.is_file():
            raise FeatureError(f"The encoded file {path} is missing. {REMEDY}")
    return loaded


def _sample(folder: Path, entry: dict[str, Any]) -> Sample:
    fields = {name: entry[name] for name in ("id", "caption", "width", "height", "tokens", "repeats", "held_out")}
    return Sample(latent_path=_inside(folder, entry["latent"]), text_path=_inside(folder, entry["text"]), **fields)


def _inside(folder: Path, file: str) -> Path:
    return Path(os.path.normpath(folder / file))


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


def epoch_batches(samples: Sequence[Sample], batch_size: int, seed: int, epoch: int) -> list[tuple[Sample, ...]]:
    """The batches of one epoch: each sample `repeats` times, shuffled, every batch of one shape.

    A pure function: the order is that of SHA-256 hashes of (seed, epoch, sample, repeat), the same on every machine and
    Python, so that resuming needs no more than the step. The last batch of a shape may be smaller, as in sd-scripts.
    """
    shapes: dict[tuple[int, int, int], list[tuple[str, Sample]]] = defaultdict(list)
    for sample in samples:
        for repeat in range(sample.repeats):
            rank = files.content_hash([seed, epoch, sample.id, repeat])
            shapes[sample.width, sample.height, sample.tokens].append((rank, sample))
    batches = []
    for members in shapes.values():
        members.sort(key=lambda member: member[0])
        for start in range(0, len(members), batch_size):
            ranks, batch = zip(*members[start : start + batch_size], strict=True)
            batches.append((files.content_hash(ranks), batch))
    return [batch for _, batch in sorted(batches, key=lambda ranked: ranked[0])]


def report(features: Features) -> str:
    """What was encoded, in lines for a person: pictures, buckets, texts, megabytes, held-out pictures."""
    loaded = load(features)
    trained = [sample for sample in loaded.samples if not sample.held_out]
    sizes = Counter((sample.width, sample.height) for sample in loaded.samples)
    texts = {sample.text_path for sample in loaded.samples} | {loaded.empty_text_path}
    latents = {sample.latent_path for sample in loaded.samples}
    megabytes = sum(path.stat().st_size for path in texts | latents) / 1e6
    return "\n".join(
        [
            f"{len(loaded.samples)} pictures, {len(loaded.samples) - len(trained)} of them held out",
            f"{sum(sample.repeats for sample in trained)} per epoch with repeats, batch size {loaded.batch_size}",
            *(f"bucket {width} x {height}: {count}" for (width, height), count in sorted(sizes.items())),
            f"{len(texts)} texts, the empty caption among them",
            f"{megabytes:.1f} MB in {Path(features.folder).parent}",
        ]
    )
