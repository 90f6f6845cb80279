"""Latents and text embeddings on disk: encoded once, each file keyed by all that decides it, read by the trainer.

Beside the dataset config lies `features/`: `latents/<key>.safetensors`, `masks/` and `texts/`, shared by all revisions,
so that a changed caption costs one text and no picture, and `<key>/index.json`, which lists the files of one revision
and is written last. What encodes is not known here: it comes in as two `Encoder`s.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import checksums, files
from ...dataset import buckets, picture_variants
from ...dataset import config_reader as dataset_config
from ...dataset.caption_variants import DEFAULT_VARIANTS
from ...dataset.picture_variants import PictureVariant
from ...errors import FeatureError, ModelError
from ...job_log import stage
from ...progress import Progress, silent
from ...texts import megabytes
from ..flux.latents import PIXELS_PER_LATENT, latent_shape, scale_latent
from .feature_set import read_tensors, token_count
from .index import DATASET_CONFIG, INDEX, VERSION, Features, inside
from .plan import Planned, plan

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from .text_table import TextTable

logger = logging.getLogger(__name__)

COMPARED_TOGETHER = 100  # files, between two looks at Cancel
PREVIEW_EVERY = 1.0  # seconds
BYTES_PER_VALUE = 4  # of a latent, float32


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


def encode(
    config_path: str | Path,
    autoencoder: Encoder,
    text_encoder: Encoder,
    progress: Progress = silent,
    caption_variants: int = DEFAULT_VARIANTS,
    prompts: Sequence[tuple[str, int]] = (),
    text_table: TextTable | None = None,
    prompt_of: Callable[[str], str] = str,
) -> Features:
    """Encode what the dataset config names and what is not yet encoded; texts first, so that each model is loaded once.

    A file that is no longer as it was written (a flipped bit) is encoded again, and told in the log. Each file appears
    whole, so that a stopped or killed call goes on where it was; with nothing missing no encoder is called.

    Args:
        config_path: the dataset config.
        autoencoder: for the pictures.
        text_encoder: for the captions.
        progress: told of every picture and text.
        caption_variants: how many texts a caption becomes that sd-scripts would change at random at every step.
        prompts: text and seed of samples during training; encoded too, but no part of the features' key.
        text_table: gives the captions' embeddings in place of the text encoder.
        prompt_of: a caption as the text encoder is to be given it, where it reads more than the bare text in a prompt.

    Raises:
        DatasetError: the config, a picture or a caption cannot be used; the text names the file.
        ModelError: an encoder is not FLUX's.
        FeatureError: an encoder's result is not finite, or a file cannot be read.
        DiskError: a file cannot be written; what is encoded stays.
    """
    group = dataset_config.read(config_path)
    with stage("look at pictures and captions") as looking:
        planned = plan(dataset_config.pictures(group), caption_variants, progress)
        looking.items += len(planned)
    named = _Names(autoencoder.identity, text_encoder.identity, text_table.identity if text_table else None, prompt_of)
    batch_size = group.datasets[0].batch_size
    index = {
        "version": VERSION,
        "batch_size": batch_size,
        "samples": [_entry(example, named, batch_size) for example in planned],
        "empty_text": named.text(""),
    }
    key = files.content_hash(index)
    folder = Path(os.path.abspath(config_path)).parent / "features" / key
    for place in (folder, *(folder.parent / kind for kind in ("texts", "latents", "masks"))):
        files.remove_partials(place)
    captions = {
        inside(folder, named.caption(text, example)): (example, text) for example in planned for text in example.texts
    }
    texts = {inside(folder, named.text(text)): text for text in ("", *(text for text, _ in prompts))}
    if not text_table:
        texts |= {path: prompt_of(text) for path, (_, text) in captions.items()}
    latents = {
        inside(folder, file): _Picture(example, kind, variant)
        for example in planned
        for variant in (None, *example.variants)
        for kind, file in named.of_picture(example, variant).items()
    }
    _encode_missing(texts, latents, autoencoder, text_encoder, progress)
    if text_table:
        _import_missing(text_table, captions, inside(folder, index["empty_text"]), progress)
    # For whoever asks later what these features were made from; the trainer's run keeps a copy.
    files.write_changed(folder / DATASET_CONFIG, Path(config_path).read_bytes())
    listed = _write_prompts(folder, [{"text": text, "seed": seed, "file": named.text(text)} for text, seed in prompts])
    _write_index(folder, index)  # a damaged one is written anew
    return Features(str(folder), key, listed)


@dataclass(frozen=True)
class _Picture:
    """What one file is encoded from; `variant` is None for the picture as it is."""

    example: Planned
    kind: str  # of `index.PICTURE_FILES`
    variant: PictureVariant | None

    def read(self) -> Image:
        """Its pixels, or those of its mask, at the bucket's size."""
        path, size = self.example.path, self.example.size
        whole = buckets.read_alpha(path) if self.kind == "mask" else buckets.read_picture(path)
        return picture_variants.shown(whole, self.variant, size) if self.variant else buckets.fit(whole, size)


@dataclass(frozen=True)
class _Names:
    """The file of everything encoded, relative to the index's folder: a hash of all that decides its content.

    Attributes:
        autoencoder: its identity.
        text_encoder: its identity.
        table: identity of the Parquet file that the captions come from, if they do.
        prompt_of: as in `encode`.
    """

    autoencoder: str
    text_encoder: str
    table: str | None
    prompt_of: Callable[[str], str]

    def text(self, text: str) -> str:
        """Of a text that is encoded here, as the encoder is given it."""
        return self._of_text(self.text_encoder, text)

    def caption(self, caption: str, example: Planned) -> str:
        if self.table:
            return self._of_text(self.table, example.image, caption)
        return self.text(self.prompt_of(caption))

    def _of_text(self, *parts: str) -> str:
        return f"../texts/{files.content_hash([VERSION, *parts], 32)}.safetensors"

    def of_picture(self, example: Planned, variant: PictureVariant | None = None) -> dict[str, str]:
        """Those that come from the picture alone, by their kind; `variant` is None for the picture as it is."""
        options = dict(example.options)
        varied = [dataclasses.astuple(variant)] if variant else []
        made = {"latent": [VERSION, self.autoencoder, example.image, example.size, *varied]}
        if "flip_aug" in options:
            made["flipped"] = [VERSION, self.autoencoder, example.image, example.size, "flipped", *varied]
        if "alpha_mask" in options:
            made["mask"] = [VERSION, example.image, example.size, *([variant.box] if variant else [])]
        return {
            kind: f"../{'masks' if kind == 'mask' else 'latents'}/{files.content_hash(parts, 32)}.safetensors"
            for kind, parts in made.items()
        }


def _entry(example: Planned, named: _Names, batch_size: int) -> dict[str, Any]:
    """An example as the index lists it; what a plain subset does not ask for is left out."""
    entry = {
        "id": example.id,
        "image": example.image,
        "caption": example.caption,
        **named.of_picture(example),
        "text": named.caption(example.caption, example),
        "width": example.size[0],
        "height": example.size[1],
        "repeats": example.repeats,
        "held_out": example.held_out,
    }
    entry |= {name: value for name, value in example.options if name not in ("flip_aug", "alpha_mask")}
    if example.variants:
        entry["variants"] = [named.of_picture(example, variant) for variant in example.variants]
    if len(example.texts) > 1:
        # Lists in a list, which had more than one of them while there was a token warm-up.
        entry["captions"] = [example.texts]
        entry["texts"] = [[named.caption(text, example) for text in example.texts]]
    if example.batch_size != batch_size:
        entry["batch_size"] = example.batch_size
    return entry


def _write_index(folder: Path, index: dict[str, Any]) -> None:
    """List the files of this revision, with the T5 lengths of its texts."""
    for entry in index["samples"]:
        entry["tokens"] = token_count(inside(folder, entry["text"]))
        if "texts" in entry:
            entry["text_tokens"] = [[token_count(inside(folder, file)) for file in stage] for stage in entry["texts"]]
    files.write_changed(folder / INDEX, json.dumps(index, indent=1, ensure_ascii=False).encode())


def _write_prompts(folder: Path, prompts: Sequence[dict[str, Any]]) -> str:
    """List the prompts of samples during training in a file named by their hash, which never changes; its name."""
    if not prompts:
        return ""
    name = f"prompts-{files.content_hash(prompts)}.json"
    files.write_changed(folder / name, json.dumps(prompts, indent=1, ensure_ascii=False).encode())
    return name


def _encode_missing(
    texts: Mapping[Path, str],
    latents: Mapping[Path, _Picture],
    autoencoder: Encoder,
    text_encoder: Encoder,
    progress: Progress,
) -> None:
    missing_texts, missing_latents = _missing(texts, progress), _missing(latents, progress)
    total = len(missing_texts) + len(missing_latents)
    if told := _cost_of_variants(missing_latents.values()):
        logger.info(told)
        progress(0, total, told)
    for done, (path, text) in enumerate(missing_texts.items()):
        progress(done, total, f"Encoding caption {done + 1} of {len(missing_texts)}")
        with stage("encode captions", 1):
            files.write_changed(path, _encoded_text(text, text_encoder))
    shown = -math.inf
    for done, (path, wanted) in enumerate(missing_latents.items()):
        example, kind = wanted.example, wanted.kind
        with stage("read pictures", 1):
            picture = wanted.read()
        due = time.monotonic() - shown >= PREVIEW_EVERY
        shown = time.monotonic() if due else shown
        progress(
            len(missing_texts) + done,
            total,
            f"Encoding picture {done + 1} of {len(missing_latents)}: {example.path.name}",
            picture if due else None,
        )
        with stage("encode pictures", 1):
            content = _mask(picture) if kind == "mask" else _encoded_latent(picture, kind, example, autoencoder)
            files.write_changed(path, content)
    progress(max(total, 1), max(total, 1), "Encoded")


def _cost_of_variants(missing: Iterable[_Picture]) -> str:
    """What is about to be encoded, where variants of pictures are among it; else ""."""
    latents = [picture for picture in missing if picture.kind != "mask"]
    varied = sum(picture.variant is not None for picture in latents)
    if not varied:
        return ""
    values = sum(math.prod(latent_shape(*picture.example.size)) for picture in latents)
    count = len({picture.example.image for picture in latents})
    return (
        f"To encode: {len(latents)} latents of {count} pictures, {varied} of them variants, which take "
        f"{megabytes(values * BYTES_PER_VALUE)}"
    )


def _import_missing(
    table: TextTable, captions: Mapping[Path, tuple[Planned, str]], empty_text: Path, progress: Progress
) -> None:
    """Take the captions' embeddings that are not there yet from a Parquet file; the empty text tells their widths."""
    missing = {(example.image, text): path for path, (example, text) in _missing(captions, progress).items()}
    if not missing:
        return
    t5, pooled = read_tensors(empty_text, "t5", "pooled")
    pictures = {example.image: example.path for example, _ in captions.values()}
    for image, text, *embeddings in table.rows(missing, pictures, (t5.shape[-1], len(pooled)), progress):
        if not all(tensor.isfinite().all() for tensor in embeddings):
            raise FeatureError(f"The embedding of '{text[:60]}' in {table.path} is not finite. Export it again.")
        files.write_changed(missing[image, text], _serialised(t5=embeddings[0], pooled=embeddings[1]))


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


def _encoded_latent(picture: Image, kind: str, example: Planned, autoencoder: Encoder) -> bytes:
    import numpy
    import torch

    pixels = numpy.asarray(picture, dtype=numpy.float32) / 255
    if kind == "flipped":
        pixels = numpy.ascontiguousarray(pixels[:, ::-1])
    raw = autoencoder.encode(torch.from_numpy(pixels))
    expected = latent_shape(*example.size)
    if tuple(raw.shape) != expected:
        raise ModelError(
            f"The VAE gave a latent of shape {tuple(raw.shape)} instead of {expected}: it is not FLUX's. "
            "Load FLUX's autoencoder (ae.safetensors) with Load VAE."
        )
    _check_finite(f"picture {example.path}", "--fp32-vae", raw)
    return _serialised(latent=scale_latent(raw.float()))


def _mask(alpha: Image) -> bytes:
    """The mean of each 8 x 8 pixels, which is how sd-scripts brings masks to the latent's size (mode "area")."""
    import numpy
    import torch

    values = numpy.asarray(alpha, dtype=numpy.float32) / 255
    height, width = (side // PIXELS_PER_LATENT for side in values.shape)
    means = values.reshape(height, PIXELS_PER_LATENT, width, PIXELS_PER_LATENT).mean((1, 3))
    return _serialised(mask=torch.from_numpy(means)[None])


def _check_finite(what: str, option: str, *tensors: Tensor) -> None:
    if not all(tensor.isfinite().all() for tensor in tensors):
        raise FeatureError(f"Encoding the {what} gave values that are not finite. Start ComfyUI with {option}.")


def _serialised(**tensors: Tensor) -> bytes:
    import safetensors.torch

    whole = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    return checksums.sealed(safetensors.torch.save(whole, checksums.UNSEALED))


def _missing(wanted: Mapping[Path, Any], progress: Progress) -> dict[Path, Any]:
    """What is not there yet, or no longer as it was written: that is encoded again."""
    missing, compared, damaged = {}, 0, 0
    for done, (path, job) in enumerate(wanted.items()):
        if not path.is_file():
            missing[path] = job
            continue
        if damage := checksums.damage_of(path):
            damaged += 1
            logger.warning("%s. It is encoded again", damage)
            missing[path] = job
        compared += 1
        if compared % COMPARED_TOGETHER == 1:
            again = f"; {damaged} damaged, which are encoded again" if damaged else ""
            progress(done, len(wanted), f"Comparing what is encoded already{again}")
    return missing
