"""Paintings as the ArtGAN archive unpacks them: `<Style>/<artist>_<title>.jpg`, with genres in its csv files.

The archive is https://github.com/cs-chan/ArtGAN, "WikiArt Dataset"; wikiart_csv.zip holds `genre_class.txt` (lines of
`number name`) and `genre_train.csv`, `genre_val.csv` (lines of `path,number`).
"""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

from ..dataset.wikiart_labels import STYLES
from ..errors import DatasetError, encodable
from ..paths import folded
from ..texts import decoded
from .source import Row

_YEAR = re.compile(r"-(1[0-9]{3}|20[0-9]{2})(?:-[0-9])?$")  # "water-lilies-1919", "water-lilies-1919-2"


def is_archive(folder: Path) -> bool:
    return any(_pictures(folder / style) for style in STYLES)


def find_styles(folder: Path) -> list[Path]:
    """The style folders, in the order of their names."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and _pictures(path))


def find_pictures(style: Path) -> list[Path]:
    """The paintings of a style folder, in the order of their names; a `Row` counts them from 0."""
    return sorted(_pictures(style))


def read_archive(folder: Path) -> list[Row]:
    """Every painting of the archive, labelled by its folder, its file name and the csv files.

    Raises:
        DatasetError: a csv file is not UTF-8; the text names the line.
    """
    genres = _genres(folder)
    return [
        _row(index, number, picture, genres.get(folded(f"{style.name}/{picture.name}"), ""))
        for index, style in enumerate(find_styles(folder))
        for number, picture in enumerate(find_pictures(style))
    ]


def _row(shard: int, number: int, picture: Path, genre: str) -> Row:
    artist, _, title = encodable(picture.stem).partition("_")
    year = _YEAR.search(title)
    words = title[: year.start()] if year else title
    called = " ".join(filter(None, re.split(r"[-_]", words))).capitalize()
    return Row(shard, number, artist, genre, encodable(picture.parent.name), called, year[1] if year else "", "")


def _pictures(style: Path) -> list[Path]:
    return [path for path in style.glob("*_*.jpg") if path.is_file()]


def _genres(folder: Path) -> dict[str, str]:
    """Genre by folded "<Style>/<file>", as far as the csv files know; they lie in the archive's folder or one below."""
    classes: dict[str, str] = {}
    for path in _beside(folder, "genre_class.txt"):
        for line in _text(path).split("\n"):
            number, _, name = line.strip().partition(" ")
            classes[number] = name.strip()
    genres: dict[str, str] = {}
    for path in (*_beside(folder, "genre_train.csv"), *_beside(folder, "genre_val.csv")):
        try:
            for cells in csv.reader(io.StringIO(_text(path), newline="")):
                if len(cells) == 2:
                    genres[folded(cells[0])] = classes.get(cells[1].strip(), "")
        except csv.Error as error:
            raise DatasetError(f"{path} is not CSV ({error}). Take it from wikiart_csv.zip again.") from None
    return genres


def _text(path: Path) -> str:
    try:
        return decoded(path.read_bytes())
    except ValueError as error:
        raise DatasetError(f"{path} cannot be read: {error}.") from None


def _beside(folder: Path, name: str) -> list[Path]:
    return [path for path in (folder / name, *sorted(folder.glob(f"*/{name}"))) if path.is_file()]
