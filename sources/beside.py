"""The words that lie beside the pictures of a folder: caption files, metadata.jsonl and metadata.csv.

They are people's files: each is read whole or named with what is wrong with it, and so is each that is not used.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ..dataset.passed_over import MASK_ENDING, is_mask, named, told
from ..errors import writable
from ..files import parsed_json
from ..paths import folded
from ..texts import cleaned, decoded, one_line
from .import_pictures import COLUMNS, described

CAPTIONS = (".txt", ".caption")
LONGEST_CAPTION = 100_000  # bytes
LARGEST_METADATA = 256_000_000  # bytes
METADATA = ("metadata.jsonl", "metadata.csv")  # Hugging Face's imagefolder; the first counts more
_FILE_NAMES = ("file_name", "image_path", "filename", "image", "file")
_WHOLE_PATH = re.compile(r"[A-Za-z]:/|/")


class Beside:
    """What the text files of a folder say of the pictures in it.

    Attributes:
        pictures: those of the files that are pictures and no masks, in the order given.
    """

    def __init__(self, folder: Path, files: Sequence[Path], endings: Iterable[str]) -> None:
        kinds = set(endings)
        self._folder = folder
        self._files: dict[Path, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
        for path in files:
            self._files[path.parent][folded(path.name)].append(path)
        self._all = files
        found = [path for path in files if path.suffix.lower() in kinds]
        stems: dict[Path, set[str]] = defaultdict(set)
        for path in found:
            stems[path.parent].add(folded(path.stem))
        self._masks = [path for path in found if is_mask(path, stems[path.parent])]
        masks = set(self._masks)
        self.pictures = [path for path in found if path not in masks]
        self._used: set[Path] = set(self.pictures) | masks
        self._wrong: list[str] = []
        self._several_lines: list[Path] = []
        self._several_captions: list[Path] = []
        self._shared: dict[Path, list[str]] = defaultdict(list)
        self._metadata = self._read_metadata()
        self._described: set[tuple[Path, str]] = set()

    def words(self, picture: Path) -> dict[str, str]:
        """What is known of a picture, by field of the record; a caption file counts more than metadata."""
        words = dict(self._of_metadata(picture))
        for path in self._caption_files(picture):
            self._used.add(path)
            self._shared[path].append(picture.name)
            try:
                text = self._caption(path)
            except ValueError as error:
                self._wrong.append(
                    f"{self._place(path)} is not read, and {writable(picture.name)} has no caption: {error}."
                )
                return {field: word for field, word in words.items() if field != "text"} | {"text": ""}
            if text:
                return words | {"text": text}
        return words

    def mask(self, picture: Path) -> Path | None:
        """The mask that OneTrainer keeps beside a picture, which counts as used then; None where there is none."""
        found = self._files[picture.parent].get(folded(f"{picture.stem}{MASK_ENDING}.png"), [])
        masks = [path for path in found if path in self._masks]
        if masks:
            self._masks.remove(masks[0])
        return masks[0] if masks else None

    def notes(self) -> list[str]:
        """Lines on what was seen and not used, and on what was taken only in part; after all words were asked for."""
        lines = list(dict.fromkeys(self._wrong))
        if several := sorted(set(self._several_lines)):
            lines.append(
                f"{named('caption files have more than one line', several)}: the first is taken, as sd-scripts does."
            )
        if several := sorted(set(self._several_captions)):
            lines.append(f"{named('pictures have a list of captions', several)} in metadata: the first is taken.")
        for path, pictures in self._shared.items():
            if len(pictures) > 1:
                lines.append(
                    f"{self._place(path)} is the caption of several pictures: {writable(', '.join(pictures))}."
                )
        lacking = [name for place, name in self._unmet()]
        if lacking:
            shown = ", ".join(lacking[:5]) + (", …" if len(lacking) > 5 else "")
            lines.append(f"Not used: metadata of {len(lacking)} pictures that are not there ({writable(shown)}).")
        unused = [path for path in self._all if path not in self._used]
        remedy = (
            "For training by masks, turn on masks in Image Folder Loader, which puts each into its picture's alpha "
            "channel, and set alpha_mask"
        )
        return lines + told(unused, self._masks, remedy)

    def _unmet(self) -> Iterator[tuple[Path, str]]:
        for place, entries in self._metadata.items():
            for key, (name, _, _) in entries.items():
                if (place, key) not in self._described:
                    yield place, name

    def _caption_files(self, picture: Path) -> list[Path]:
        """Those that bear the picture's name, in the order in which they count; links may lead anywhere."""
        beside = self._files[picture.parent]
        found = []
        for base in (picture.stem, picture.name):
            for ending in CAPTIONS:
                alike = beside.get(folded(base + ending), [])
                found += sorted(alike, key=lambda path: (path.name != base + ending, path.name))
        return [path for path in found if not path.is_symlink()]

    def _caption(self, path: Path) -> str:
        """The first line with words.

        Raises:
            ValueError: it is no text, or too long for a caption; the text says how to mend it.
        """
        lines = [one_line(cleaned(line)) for line in re.split("[\r\n]", _text(path, LONGEST_CAPTION))]
        lines = [line for line in lines if line]
        if len(lines) > 1:
            self._several_lines.append(path)
        return lines[0] if lines else ""

    def _of_metadata(self, picture: Path) -> Mapping[str, str]:
        for place in picture.parents:
            entries = self._metadata.get(place)
            if not entries:
                continue
            key = folded(picture.relative_to(place).as_posix())
            if key not in entries:
                continue
            self._described.add((place, key))
            _, words, several = entries[key]
            if several:
                self._several_captions.append(picture)
            return words
        return {}

    def _read_metadata(self) -> dict[Path, dict[str, tuple[str, dict[str, str], bool]]]:
        """By folder and folded path from it: the name as written, the words, and whether there were more captions."""
        found: dict[Path, dict[str, tuple[str, dict[str, str], bool]]] = {}
        for place, names in self._files.items():
            for kind in METADATA:
                for path in names.get(kind, ()):
                    if not Path(os.path.realpath(path)).is_relative_to(self._folder):
                        continue
                    self._used.add(path)
                    for name, row in self._rows(path):
                        several = any(isinstance(row.get(column), list) for column in COLUMNS)
                        entry = name, described(row), several
                        found.setdefault(place, {}).setdefault(_key(name), entry)
        return found

    def _rows(self, path: Path) -> Iterator[tuple[str, dict[str, object]]]:
        try:
            text = _text(path, LARGEST_METADATA)
            rows = _csv_rows(text) if path.suffix.lower() == ".csv" else self._json_rows(path, text)
            for row in rows:
                lower = {str(column).strip().lower(): value for column, value in row.items()}
                name = next((lower[column] for column in _FILE_NAMES if isinstance(lower.get(column), str)), "")
                if name:
                    yield name, lower
        except ValueError as error:
            self._wrong.append(f"{self._place(path)} is not read: {error}.")

    def _json_rows(self, path: Path, text: str) -> Iterator[dict[str, object]]:
        wrong = []
        for number, line in enumerate(text.split("\n"), start=1):
            try:
                row = parsed_json(line) if line.strip() else None
            except ValueError:
                row = ()
            if isinstance(row, dict):
                yield row
            elif row is not None:
                wrong.append(str(number))
        if wrong:
            lines = ", ".join(wrong[:10])
            self._wrong.append(
                f"{self._place(path)}: {len(wrong)} lines are no JSON objects and not used (line {lines})."
            )

    def _place(self, path: Path) -> str:
        return writable(path.relative_to(self._folder).as_posix())


def _text(path: Path, most: int) -> str:
    if path.stat().st_size > most:
        raise ValueError(f"it has more than {most:,} bytes")
    try:
        return decoded(path.read_bytes(), utf_16=True)
    except OSError as error:
        raise ValueError(f"it cannot be read ({error.strerror})") from None


def _csv_rows(text: str) -> list[dict[str, object]]:
    """Rows of a table with commas, or as spreadsheets write them in other countries, with semicolons or tabs.

    Raises:
        ValueError: it is no table, or names no pictures.
    """
    try:
        for delimiter in (",", ";", "\t"):
            table = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
            columns = {(column or "").strip().lower() for column in table.fieldnames or ()}
            if columns & set(_FILE_NAMES):
                return list(table)
    except csv.Error as error:
        raise ValueError(f"it is not CSV ({error})") from None
    raise ValueError("its first line has no column file_name. Write one, for example file_name,text")


def _key(name: str) -> str:
    """A picture's name in metadata as its path from the metadata's folder; of a whole path, wherever from, the end."""
    path = name.strip().replace("\\", "/")
    if _WHOLE_PATH.match(path):
        path = path.rpartition("/")[2]
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return folded("/".join(parts))
