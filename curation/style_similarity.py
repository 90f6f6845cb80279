"""How far each picture looks from the rest of its set, by the embeddings of an image encoder.

The encoder comes from outside: here it is only known by what it gives. Embeddings are remembered with the dataset by
picture and encoder, so that another threshold, or one more picture, takes no encoding anew.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy
from PIL import Image, ImageOps

from ..dataset.pictures import seen
from ..dataset.records import Dataset, Record
from ..errors import ModelError
from ..files import append_lines, read_jsonl
from ..job_log import stage
from ..progress import Progress, silent
from .measurements import SAVE_EVERY

VERSION = 2  # raised when the same picture and encoder would give another embedding
BATCH = 8  # pictures encoded together; Cancel is looked for between two batches
# Iglewicz and Hoaglin, "How to Detect and Handle Outliers" (1993): a modified z-score over 3.5 is an outlier, where
# 0.6745 makes the median absolute deviation of a normal distribution its standard deviation.
OUTLIER_SCORE = 3.5
MAD_OF_NORMAL = 0.6745


@dataclass(frozen=True)
class PictureEncoder:
    """An image encoder."""

    identity: str  # the same for the same weights, also after a restart; hexadecimal digits
    side: int  # pixels of the square pictures that it takes
    encode: Callable[[Sequence[Image.Image]], numpy.ndarray]  # of squares, `(pictures, width)` float32
    name: str = "CLIP vision"  # of its kind, as people read it


def style_similarities(
    dataset: Dataset, records: Sequence[Record], encoder: PictureEncoder, progress: Progress = silent
) -> dict[Record, float]:
    """Cosine between each picture's embedding and the set's centroid (the mean of the embeddings, each of length 1).

    From -1 to 1, 1 where all pictures are alike. What is far from the centroid is in another style or shows something
    else: the encoder does not tell the two apart.

    Raises:
        ModelError: the encoder gives values that are not finite, or nothing but zeros.
        PictureRefused: a picture does not decode any more.
    """
    embeddings = _embeddings(dataset, records, encoder, progress)
    if not embeddings:
        return {}
    directions = numpy.stack([_direction(embeddings[record]) for record in records])
    centroid = directions.mean(axis=0)
    centroid /= max(float(numpy.linalg.norm(centroid)), float(numpy.finfo(numpy.float32).tiny))
    return dict(zip(records, (directions @ centroid).tolist(), strict=True))


def style_outliers(similarities: Mapping[Record, float]) -> tuple[Record, ...]:
    """Records much less similar to the centroid than most, the least similar first."""
    if not similarities:
        return ()
    values = numpy.array(list(similarities.values()))
    median = numpy.median(values)
    spread = numpy.median(numpy.abs(values - median))
    limit = median - OUTLIER_SCORE * spread / MAD_OF_NORMAL
    found = [record for record, value in similarities.items() if value < limit]
    return tuple(sorted(found, key=similarities.__getitem__))


def _embeddings(
    dataset: Dataset, records: Sequence[Record], encoder: PictureEncoder, progress: Progress
) -> dict[Record, numpy.ndarray]:
    """Embeddings in half precision, as they are stored, so that remembered and fresh ones score alike."""
    cache = Path(dataset.folder) / "measurements" / f"style-{encoder.identity}-{VERSION}.jsonl"
    known = {line["sha256"]: line["embedding"] for line in read_jsonl(cache, sha256=str, embedding=str)}
    found = {record: _unpacked(known[record.sha256]) for record in records if record.sha256 in known}
    waiting = [record for record in records if record not in found]
    progress(0, len(waiting), f"The style of {len(found)} pictures is known already")
    fresh: list[str] = []
    saved = time.monotonic()
    try:
        for start in range(0, len(waiting), BATCH):
            batch = waiting[start : start + BATCH]
            with stage("look at the style", len(batch)):
                squares = [_square(dataset.image_path(record), encoder.side) for record in batch]
                embeddings = encoder.encode(squares)
            for record, embedding in zip(batch, embeddings, strict=True):
                found[record] = _checked(embedding).astype("<f2")
                packed = base64.b64encode(found[record].tobytes()).decode()
                fresh.append(json.dumps({"sha256": record.sha256, "embedding": packed}))
            if time.monotonic() - saved > SAVE_EVERY:
                append_lines(cache, fresh)
                fresh, saved = [], time.monotonic()
            done = start + len(batch)
            progress(done, len(waiting), f"Looked at the style of {done} of {len(waiting)} pictures")
    finally:
        if fresh:
            append_lines(cache, fresh)
    return found


def _square(path: Path, side: int) -> Image.Image:
    """The middle of a picture, `side` x `side` pixels: what CLIP's own preprocessing looks at."""
    return ImageOps.fit(seen(path, (2 * side, 2 * side)), (side, side), Image.Resampling.BICUBIC)


def _checked(embedding: numpy.ndarray) -> numpy.ndarray:
    direction = _direction(embedding) if numpy.isfinite(embedding).all() and embedding.any() else None
    if direction is None:
        raise ModelError(
            "The image encoder gave an embedding that is not finite or all zeros. Its file is damaged, or of a model "
            "that ComfyUI cannot read: load another one with Load CLIP Vision."
        )
    return direction


def _direction(embedding: numpy.ndarray) -> numpy.ndarray:
    values = embedding.astype(numpy.float32)
    return values / numpy.linalg.norm(values)


def _unpacked(packed: str) -> numpy.ndarray:
    return numpy.frombuffer(base64.b64decode(packed), "<f2")
