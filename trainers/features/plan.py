"""What a dataset config asks to be encoded: pictures hashed, in buckets, held out, balanced, and with their texts."""

from __future__ import annotations

import dataclasses
import glob
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ... import files
from ...dataset import buckets
from ...dataset.caption_variants import variants
from ...dataset.config_reader import ConfigPicture, DatasetBlock
from ...dataset.picture_variants import PictureVariant
from ...dataset.picture_variants import variants as picture_variants
from ...errors import DatasetError
from ...progress import Progress


@dataclass(frozen=True)
class Planned:
    """An example before it is encoded.

    Attributes:
        path: of the picture.
        image: SHA-256 of the picture's file.
        texts: the equally likely ones, see `caption_variants.variants`.
        size: of its bucket, (width, height) in pixels.
        repeats: how often it comes in an epoch.
        held_out: never trained on.
        batch_size: of its dataset.
        options: what else its subset asks for, in the names of `feature_set.Example`; nothing for a plain subset.
        variants: of the picture, beside the picture as it is.
    """

    path: Path
    image: str
    texts: tuple[str, ...]
    size: tuple[int, int]
    repeats: int
    held_out: bool
    batch_size: int
    options: tuple[tuple[str, Any], ...]
    variants: tuple[PictureVariant, ...] = ()

    @property
    def caption(self) -> str:
        """The text by which it is evaluated and shown."""
        return self.texts[0]

    @property
    def id(self) -> str:
        # The texts are in a list of their own, as in the index, where there once were more lists.
        more = [[self.texts], self.options] if len(self.texts) > 1 or self.options else []
        varied = [{"variants": [dataclasses.astuple(variant) for variant in self.variants]}] if self.variants else []
        return files.content_hash([self.image, self.caption, self.size, *more, *varied])


def plan(pictures: Sequence[ConfigPicture], caption_variants: int, progress: Progress) -> list[Planned]:
    """Every example, by id, so that neither names nor folders decide the order.

    A picture that is named twice, with the same text, bucket and options, becomes one example with the sum of the
    repeats. Pictures held out are taken as they are: not mirrored or varied, with one text.

    Raises:
        DatasetError: a picture cannot be used, or every one is held out.
    """
    images = []
    for done, picture in enumerate(pictures):
        progress(done, len(pictures), f"Reading picture {done + 1} of {len(pictures)}")
        images.append(file_hash(picture.path))
        _check_stored(picture.path, images[-1])
    held_out = _held_out(pictures, images)
    repeats = _balanced(pictures, images, held_out)
    planned: dict[str, Planned] = {}
    for picture, image, times in zip(pictures, images, repeats, strict=True):
        if times:
            example = _example(picture, image, times, image in held_out, caption_variants)
            if twin := planned.get(example.id):
                repeats_of_both, smaller = example.repeats + twin.repeats, min(example.batch_size, twin.batch_size)
                example = dataclasses.replace(example, repeats=repeats_of_both, batch_size=smaller)
            planned[example.id] = example
    return [planned[id] for id in sorted(planned)]


def _example(picture: ConfigPicture, image: str, repeats: int, held_out: bool, caption_variants: int) -> Planned:
    subset = picture.subset
    texts = variants(picture.caption, subset.captions, image, caption_variants)
    size = buckets.upright_size(picture.path)
    bucket = _bucket(picture, size)
    varied = () if held_out else picture_variants(size, bucket, subset.pictures, image)
    options: dict[str, Any] = {}
    if held_out:
        texts = texts[:1]
    else:
        options = {
            "flip_aug": subset.flip_aug,
            "is_reg": subset.is_reg,
            "caption_dropout_rate": subset.caption_dropout_rate,
            "caption_dropout_every_n_epochs": subset.caption_dropout_every_n_epochs,
        }
    options["alpha_mask"] = subset.alpha_mask
    # A rate of 0 is one of its own: the run's does not hold for it.
    given = tuple(
        (name, value)
        for name, value in options.items()
        if value or (name == "caption_dropout_rate" and value is not None)
    )
    batch_size = picture.dataset.batch_size
    return Planned(picture.path, image, texts, bucket, repeats, held_out, batch_size, given, varied)


def file_hash(path: Path) -> str:
    """SHA-256 of a picture's file, hexadecimal.

    Raises:
        DatasetError: it cannot be read.
    """
    try:
        return files.file_hash(path)
    except OSError as error:
        raise DatasetError(f"The picture {path} cannot be read ({error}). Replace or remove it.") from error


def _check_stored(path: Path, image: str) -> None:
    """Refuse a picture that is a link to one of a dataset of the pack, which are named by their content.

    Raises:
        DatasetError: it has not the content that it is named by.
    """
    for stored in (path.parent.parent.parent / "images").glob(f"{glob.escape(path.stem)}*{glob.escape(path.suffix)}"):
        if re.fullmatch(r"[0-9a-f]{64}", stored.stem) and stored.stem != image and os.path.samefile(stored, path):
            raise DatasetError(
                f"The picture {stored} is damaged: it has other content than was stored. Delete it and the folder "
                f"{path.parent}, and queue again from the node that loads the dataset, which stores it anew."
            )


def _bucket(picture: ConfigPicture, size: tuple[int, int]) -> tuple[int, int]:
    try:
        return buckets.assign(*size, picture.dataset.buckets)
    except DatasetError as error:
        raise DatasetError(f"The picture {picture.path} cannot be used: {error}") from error


def _held_out(pictures: Sequence[ConfigPicture], images: Sequence[str]) -> set[str]:
    """Content hashes of the pictures held out: in each dataset the first of an order drawn by `validation_seed`.

    By content, so that a picture that two subsets name is never trained on and measured with. At least one of four or
    more pictures, and all only where the share is 1, of a dataset for validation alone. Regularisation pictures are not
    split, as in sd-scripts.

    Raises:
        DatasetError: datasets with different seeds hold out every picture between them.
    """
    by_dataset: dict[DatasetBlock, set[str]] = defaultdict(set)
    for picture, image in zip(pictures, images, strict=True):
        if not picture.subset.is_reg:
            by_dataset[picture.dataset].add(image)
    held_out: set[str] = set()
    for dataset, members in by_dataset.items():
        if dataset.validation_split:
            least = 1 if len(members) >= 4 else 0
            most = len(members) if dataset.validation_split == 1 else len(members) - 1
            count = min(max(round(dataset.validation_split * len(members)), least), most)
            order = sorted(members, key=lambda image: files.content_hash([dataset.validation_seed, image]))
            held_out.update(order[:count])
    if held_out == set().union(*by_dataset.values()):
        raise DatasetError("validation_split holds out every picture. Lower it, or use one validation_seed for all.")
    return held_out


def _balanced(pictures: Sequence[ConfigPicture], images: Sequence[str], held_out: set[str]) -> list[int]:
    """How often each picture comes in an epoch: as its subset says, and regularisation pictures as often as the others.

    As sd-scripts does it in each dataset (DreamBoothDataset): they are taken with their repeats until there are as many
    as pictures to train on; those beyond are left out, and where they are too few, each comes once more in turn.
    """
    repeats = [picture.repeats for picture in pictures]
    regular: dict[DatasetBlock, list[int]] = defaultdict(list)
    trained: dict[DatasetBlock, int] = defaultdict(int)
    for place, (picture, image) in enumerate(zip(pictures, images, strict=True)):
        if picture.subset.is_reg:
            regular[picture.dataset].append(place)
        elif image not in held_out:
            trained[picture.dataset] += picture.repeats
    for dataset, places in regular.items():
        # By content, not by name; held-out pictures are not trained on here either.
        places.sort(key=lambda place: images[place])
        usable = [place for place in places if images[place] not in held_out]
        _share_out(repeats, places, usable, trained[dataset])
    return repeats


def _share_out(repeats: list[int], places: Iterable[int], usable: Sequence[int], wanted: int) -> None:
    """Set the `repeats` of `places`: those `usable` come `wanted` times together, or a little more often."""
    given = {place: repeats[place] for place in usable}
    for place in places:
        repeats[place] = 0
    total = 0
    first = True
    while usable and total < wanted:
        for place in usable:
            more = given[place] if first else 1
            repeats[place] += more
            total += more
            if total >= wanted:
                break
        first = False
