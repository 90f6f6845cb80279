"""What lies in a folder of pictures and is not used, told in lines for a person, with what to do about it."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from ..errors import writable
from ..paths import folded

TRIGGER_PLACEHOLDER = "[trigger]"  # ai-toolkit puts its trigger_word in its place
# OneTrainer, modules/dataLoader/mixin/DataLoaderText2ImageMixin.py: beside x.jpg as x-masklabel.png
MASK_ENDING = "-masklabel"
_MASKS = (MASK_ENDING, "-condlabel")
_CAPTIONS = (".txt", ".caption", ".cap")
_NAMES_SHOWN = 5
_MOST_LOOKED_AT = 20_000  # files in deeper folders
_OF_SYSTEMS = ("thumbs.db", "desktop.ini", "icon\r")
_UNREAD = {
    "HEIC pictures": (
        (".heic", ".heif", ".hif"),
        "Install pillow-heif into ComfyUI's Python (pip install pillow-heif), with which Image Folder Loader reads "
        "them, or save them as JPEG",
    ),
    "JPEG XL pictures": ((".jxl",), "Save them as JPEG or PNG"),
    "raw files of cameras": (
        (".cr2", ".cr3", ".nef", ".nrw", ".arw", ".dng", ".orf", ".rw2", ".raf", ".pef", ".srw", ".x3f", ".raw"),
        "Develop them into JPEG or TIFF",
    ),
}
_PICTURES = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff"),
    *(ending for endings, _ in _UNREAD.values() for ending in endings),
)


def by_name(paths: Iterable[Path]) -> dict[str, Path]:
    """Folded name -> path, the first of several in the order of their names."""
    found: dict[str, Path] = {}
    for path in sorted(paths):
        found.setdefault(folded(path.name), path)
    return found


def is_mask(picture: Path, stems: Collection[str]) -> bool:
    """Whether a picture is the mask that OneTrainer keeps beside another, by the folded stems of all."""
    stem = folded(picture.stem)
    return any(stem.endswith(ending) and stem.removesuffix(ending) in stems for ending in _MASKS)


def told(unused: Iterable[Path], masks: Sequence[Path] = (), remedy_of_masks: str = "") -> list[str]:
    """A line for each kind of files that were seen and not used.

    Args:
        unused: the files, without masks.
        masks: OneTrainer's.
        remedy_of_masks: what to do with them.
    """
    left = sorted(path for path in unused if not path.name.startswith(".") and path.name.lower() not in _OF_SYSTEMS)
    lines = [f"Not used: {named('masks of OneTrainer', masks)}. {remedy_of_masks}."] if masks else []
    for what, (endings, remedy) in _UNREAD.items():
        if found := [path for path in left if path.suffix.lower() in endings]:
            lines.append(f"Not used: {named(what, found)}. {remedy}.")
            left = [path for path in left if path not in set(found)]
    if captions := [path for path in left if path.suffix.lower() in _CAPTIONS]:
        lines.append(f"Not used: {named('caption files that belong to no picture', captions)}. Name them as pictures.")
        left = [path for path in left if path not in set(captions)]
    if left:
        counts = Counter(path.suffix.lower() or "without an ending" for path in left)
        kinds = ", ".join(f"{count} {ending}" for ending, count in counts.most_common())
        lines.append(f"Not used: {named('other files', left)}: {writable(kinds)}.")
    return lines


def named(what: str, paths: Sequence[Path]) -> str:
    """ "12 masks (a.png, b.png, c.png, d.png, e.png, …)" """
    shown = ", ".join(writable(path.name) for path in paths[:_NAMES_SHOWN])
    return f"{len(paths)} {what} ({shown}{', …' if len(paths) > _NAMES_SHOWN else ''})"


def deeper(folders: Iterable[Path], remedy: str) -> list[str]:
    """A line on the pictures in `folders` and below, of which none is used; none where there are none."""
    counts: dict[Path, int] = defaultdict(int)
    looked = 0
    for folder, names in _below(folders):
        looked += len(names)
        if count := sum(os.path.splitext(name)[1].lower() in _PICTURES for name in names):
            counts[folder] += count
        if looked > _MOST_LOOKED_AT:
            break
    if not counts:
        return []
    shown = ", ".join(writable(folder.name) for folder in list(counts)[:_NAMES_SHOWN])
    many = " or more" if looked > _MOST_LOOKED_AT else ""
    return [f"Not used: {sum(counts.values())}{many} pictures in deeper folders ({shown}). {remedy}."]


def _below(folders: Iterable[Path]) -> Iterator[tuple[Path, list[str]]]:
    for top in folders:
        for folder, below, names in os.walk(top):
            below[:] = sorted(name for name in below if not name.startswith("."))
            yield Path(folder), [name for name in names if not name.startswith(".")]


def placeholders(captions: Iterable[str]) -> list[str]:
    """A line where captions have ai-toolkit's [trigger] in them, which nothing here replaces."""
    count = sum(TRIGGER_PLACEHOLDER in caption for caption in captions)
    if not count:
        return []
    return [
        f"{count} captions have {TRIGGER_PLACEHOLDER} in them, in whose place ai-toolkit puts a trigger word; here it "
        "stays as it is. Give trigger_word in Image Folder Loader, or replace it with Caption Editor."
    ]
