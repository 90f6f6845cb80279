"""A dataset from a folder of pictures, with the captions that lie beside them.

Understood are the words that lie beside the pictures (`beside`), and kohya's folders `<repeats>_<words>`, whose words
are the caption of pictures that have none.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from ..dataset.normalise import masked, normalised
from ..dataset.other_trainers import KOHYA
from ..dataset.passed_over import TRIGGER_PLACEHOLDER, deeper, placeholders
from ..dataset.pictures import PictureRefused, reads_heif, store_picture
from ..dataset.records import Dataset
from ..errors import DatasetError, NameRefused, encodable
from ..files import content_hash, remove_partials
from ..job_log import stage
from ..paths import Roots, choice, existing_child, told
from ..progress import Progress, silent
from ..texts import megabytes, one_line
from .beside import Beside
from .import_pictures import Imported, ImportRefused, dataset_folder, stored_as_dataset

PICTURES = {
    *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff", ".jp2", ".ppm", ".pgm"),
    *(".qoi", ".psd", ".mpo"),
}
HEIF = {".heic", ".heif", ".hif"}
LARGEST_FILE = 512_000_000  # bytes; more is no picture of at most `pictures.MAX_PIXELS`
LOAD_DEEPER = "Turn on whole_tree in Image Folder Loader, or load each of those folders by itself"


def find_folder(root: Roots, folder: str) -> Path:
    """A folder under `root`, by names with slashes between them.

    Raises:
        NameRefused: a name is none, or a link leads out of the root.
        DatasetError: there is no such folder.
    """
    names = folder.strip().rstrip("/").split("/")
    path = existing_child(root, *names, what="folder", holds=Path.is_dir)
    if path is None or not path.is_dir():
        remedy = choice(root, names, otherwise="There is none there yet.")
        raise DatasetError(f"There is no folder '{folder}' under {told(root)}. {remedy}")
    return path


def folder_fingerprint(root: Roots, folder: str, whole_tree: bool = False) -> str:
    """Changes when a picture or a caption is added, removed or rewritten. Raises what `find_folder` raises."""
    states = ((str(path), path.stat()) for path in _files(find_folder(root, folder), whole_tree))
    return content_hash([[path, state.st_size, state.st_mtime_ns] for path, state in states])


def load_folder(
    datasets_root: Roots,
    root: Roots,
    folder: str,
    name: str,
    kind: str,
    progress: Progress = silent,
    keep_metadata: bool = False,
    whole_tree: bool = False,
    trigger_word: str = "",
    masks: bool = False,
) -> tuple[Dataset, str]:
    """Store the pictures of a folder and of the folders directly in it; the folder stays as it is.

    Args:
        kind: what is written as `normalised` says.
        keep_metadata: as `store_picture`.
        whole_tree: take the pictures of all folders below it.
        trigger_word: put in the place of ai-toolkit's [trigger] in captions; empty leaves that as it is.
        masks: put OneTrainer's masks into the pictures' alpha channel, for training with alpha_mask.

    Returns:
        The dataset in the order of the files' names, and a report.

    Raises:
        NameRefused: a name is not plain, the dataset's is a source's, or it is that of the folder itself.
        DatasetError: there is no such folder, or no picture in it.
    """
    source, target = find_folder(root, folder), dataset_folder(datasets_root, name)
    if source == target or target.is_relative_to(source):
        raise NameRefused(
            f"The dataset name '{name}' would put the dataset into the folder that it is made from, {source}. "
            "Choose another name."
        )
    beside = Beside(source, list(_files(source, whole_tree)), PICTURES | HEIF if reads_heif() else PICTURES)
    files = beside.pictures
    if not files:
        raise DatasetError(
            f"The folder {source} and the folders in it hold no pictures. Put some in, or choose another. "
            + " ".join([*beside.notes(), *deeper([] if whole_tree else _below(source), LOAD_DEEPER)])
        )
    remove_partials(target / "images")
    outcome: list[Imported | ImportRefused] = []
    with stage("store pictures", len(files)):
        for done, path in enumerate(files, start=1):
            there = path.relative_to(source).as_posix()
            place = encodable(there)  # an old archive's names are not UTF-8
            try:
                data, changes = normalised(_bytes(path, source), kind)
                if masks and (mask := beside.mask(path)):
                    data, changes = masked(data, _bytes(mask, source)), (*changes, "masked")
                words = _words(path, source, beside)
                if trigger_word.strip() and "text" in words:
                    words["text"] = words["text"].replace(TRIGGER_PLACEHOLDER, one_line(trigger_word))
                stored = store_picture(target, data, keep_metadata)
                outcome.append(Imported(f"{source.name}/{place}", stored, words, changes))
            except PictureRefused as refused:
                outcome.append(ImportRefused(f"{source.name}/{place}", refused))
            progress(done, len(files), f"Picture {done} of {len(files)}: {place}")
    captions = [item.words.get("text", "") for item in outcome if isinstance(item, Imported)]
    left = [] if whole_tree else _below(source)
    notes = [*beside.notes(), *deeper(left, LOAD_DEEPER), *placeholders(captions)]
    return stored_as_dataset(target, outcome, "files", [*_repeats(files, source), *notes])


def _files(folder: Path, whole_tree: bool = False) -> Iterator[Path]:
    """Files in the folder and in those directly in it, or in all below it, in the order of their names; each folder
    once, links or not.
    """
    return _files_in(folder, {os.path.realpath(folder)}, sys.maxsize if whole_tree else 1)


def _files_in(folder: Path, seen: set[str], levels: int) -> Iterator[Path]:
    if not levels:
        yield from sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
        return
    for entry in sorted(folder.iterdir(), key=lambda entry: (entry.is_symlink(), entry)):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            place = os.path.realpath(entry)
            # A whole tree is that of the folder, and no link leads to another part of the disk.
            if place not in seen and (levels == 1 or not entry.is_symlink()):
                seen.add(place)
                yield from _files_in(entry, seen, levels - 1)
        elif entry.is_file():
            yield entry


def _bytes(path: Path, folder: Path) -> bytes:
    if not Path(os.path.realpath(path)).is_relative_to(folder):
        raise PictureRefused("address", "a link that leads out of the folder")
    if path.stat().st_size > LARGEST_FILE:
        raise PictureRefused("too_large", f"more than {megabytes(LARGEST_FILE, 0)}")
    return path.read_bytes()


def _kohya_folder(path: Path, source: Path) -> re.Match[str] | None:
    """The nearest folder around a picture, the one that is loaded among them, with repeats in its name."""
    around = path.relative_to(source.parent).parts[:-1]
    return next((found for name in reversed(around) if (found := KOHYA.fullmatch(name))), None)


def _words(path: Path, source: Path, beside: Beside) -> dict[str, str]:
    """What is known of a picture; the folder's name counts least."""
    words = beside.words(path)
    kohya = _kohya_folder(path, source)
    if kohya and "text" not in words:
        words["text"] = encodable(one_line(kohya[2]))
    return words


def _below(folder: Path) -> list[Path]:
    """The folders two down, in which no picture is looked for."""
    inside = (entry for entry in sorted(folder.iterdir()) if entry.is_dir() and not entry.is_symlink())
    return [
        entry
        for place in inside
        if not place.name.startswith(".")
        for entry in sorted(place.iterdir())
        if entry.is_dir() and not entry.is_symlink() and not entry.name.startswith(".")
    ]


def _repeats(files: list[Path], source: Path) -> list[str]:
    """A note on kohya's repeats, which a dataset does not have: they belong to the training config."""
    folders = {kohya[0]: int(kohya[1]) for path in files if (kohya := _kohya_folder(path, source))}
    if not folders:
        return []
    counts = ", ".join(f"{encodable(name)} {count}" for name, count in folders.items())
    if len(set(folders.values())) == 1:
        return [f"Repeats by the folders' names: {counts}. Set num_repeats in Dataset TOML Writer."]
    return [f"Repeats by the folders' names: {counts}. A dataset has one number: load each folder by itself."]
