"""Paintings that need no download: scenes drawn, finished, and written as parquet in the schema of huggan/wikiart.

The shards hold labels only, as the real ones do; the true caption of each picture lies beside them in `captions.jsonl`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageFilter

from ..dataset.wikiart_labels import ARTISTS, STYLES
from ..dataset.wikiart_labels import GENRES as GENRE_LABELS
from ..errors import SettingsError
from ..files import appearing, content_hash, write_whole
from ..paths import Roots, child_in
from ..progress import Progress, silent
from . import cityscapes, landscapes, portraits, still_lifes
from .canvas import Canvas
from .finishes import ANY_STROKE, impressionist, plain
from .scenes import GENRES, KINDS, Scene, caption, scene

__all__ = ["FINISHES", "KINDS", "Scene", "caption", "draw", "paint", "scene", "wikiart_schema", "write_wikiart_shards"]

PAINTER_VERSION = 1  # raised when the same seed would paint other pictures
FINISHES = ("plain", "impressionist")
_STYLE_OF = {"plain": "Realism", "impressionist": "Impressionism"}
_DRAW = {
    "landscape": landscapes.draw,
    "portrait": portraits.draw,
    "cityscape": cityscapes.draw,
    "still life": still_lifes.draw,
}
# Strokes hide what is finer than they are, so their drawing can be smaller; a smooth finish needs more than it shows.
_DRAWING_SCALE = {"plain": 1.4, "impressionist": 0.6}
_SIDES = {  # width and height in pixels, all within 512..1024
    "landscape": ((1024, 768), (960, 640), (896, 704), (1024, 640), (768, 768), (832, 672), (704, 832)),
    "portrait": ((640, 832), (704, 896), (576, 768), (704, 704), (768, 1024), (616, 760)),
    "cityscape": ((896, 704), (704, 896), (1024, 768), (768, 768), (640, 832), (960, 672)),
    "still life": ((832, 672), (704, 832), (768, 768), (960, 736), (640, 768), (896, 672)),
}
_JPEG_QUALITY = 92
_ROW_GROUPS = 3  # per shard
BROAD_STROKE = 0.035  # least stroke that shows at 128 pixels behind an autoencoder that keeps 8 x 8 in one place
# Sources that are painted when they are asked for: the name of each among ComfyUI's datasets, and what is painted.
EMBEDDED_SOURCES: dict[str, dict[str, Any]] = {
    "embedded-wikiart": {"count": 64, "finishes": FINISHES},
    # What the tiny FLUX can be taught: scenes that it was not trained on, with their captions as titles.
    "embedded-brushwork": {"count": 44, "seed": 2000, "least_stroke": BROAD_STROKE, "titles": True},
}
UNFINISHED = "painting"  # a file that says so


def draw(scene: Scene, width: int, height: int) -> Canvas:
    """The scene drawn on a canvas of `width` x `height` pixels, not yet finished."""
    canvas = Canvas(width, height)
    _DRAW[scene.kind](canvas, scene)
    return canvas


def paint(scene: Scene, finish: str, width: int, height: int, least_stroke: float = ANY_STROKE) -> Image.Image:
    """Paint a scene, `width` x `height` pixels; the same arguments always give the same pixels.

    Args:
        least_stroke: width of the narrowest strokes of the impressionist finish, as a fraction of the picture's
            geometric mean side; see `finishes.impressionist`.

    Raises:
        SettingsError: `finish` is not one of `FINISHES`, or a side is under 64 pixels.
    """
    if finish not in FINISHES:
        raise SettingsError(f"There is no finish called '{finish}'. Choose one of: {', '.join(FINISHES)}.")
    if min(width, height) < 64:
        raise SettingsError(f"A picture of {width} x {height} pixels is too small to paint. Use at least 64 each way.")
    scale = _DRAWING_SCALE[finish]
    canvas = draw(scene, round(width * scale), round(height * scale))
    if finish == "plain":
        return plain(canvas, width, height, scene.seed)
    return impressionist(canvas, width, height, scene.seed, least_stroke)


@dataclass(frozen=True)
class _Row:
    """One picture of the set, before it is painted."""

    scene: Scene
    finish: str
    width: int
    height: int
    name: str
    flat: bool = False  # blurred and compressed to almost nothing
    least_stroke: float = ANY_STROKE

    def jpeg(self) -> tuple[bytes, Image.Image]:
        picture = paint(self.scene, self.finish, self.width, self.height, self.least_stroke)
        if self.flat:
            picture = picture.filter(ImageFilter.GaussianBlur(6))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=8 if self.flat else _JPEG_QUALITY)
        return buffer.getvalue(), picture


def paint_embedded_source(datasets_root: Roots, source: str, progress: Progress = silent) -> Path:
    """One of `EMBEDDED_SOURCES`, which shipped graphs read, painted unless something of its name is there already."""
    folder = child_in(datasets_root, source, what="source")
    if not folder.exists() or (folder / UNFINISHED).exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / UNFINISHED).touch()
        write_wikiart_shards(folder, **EMBEDDED_SOURCES[source], defects=True, progress=progress)
        (folder / UNFINISHED).unlink()
    return folder


def write_wikiart_shards(
    folder: str | Path,
    count: int,
    seed: int = 0,
    shards: int = 2,
    finishes: Sequence[str] = ("impressionist",),
    defects: bool = False,
    progress: Progress = silent,
    least_stroke: float = ANY_STROKE,
    titles: bool = False,
) -> list[Path]:
    """Paint a set and write it as `<folder>/data/train-0000N-of-0000M.parquet`; return the shards' paths.

    Scenes go through the kinds in turn. With several finishes each scene is painted in all of them, one row each.
    A set that is already there, painted with the same arguments, is returned at once.

    Args:
        folder: where `data/` and `captions.jsonl` (lines of `path`, `caption`) go.
        count: number of rows, at least one for each shard.
        seed: decides every scene.
        shards: number of files.
        finishes: of `FINISHES`.
        defects: add three rows that a quality filter must refuse: a side of 300 pixels at most, three times as wide as
            high, and under 0.05 bytes per pixel.
        progress: called after each picture, with the picture.
        least_stroke: see `paint`.
        titles: give each row its caption as its title, which the schema of huggan/wikiart does not have.

    Raises:
        SettingsError: an argument is out of its range.
    """
    if not 1 <= shards <= count:
        raise SettingsError(f"{count} paintings in {shards} shards cannot be written. Use from 1 to {count} shards.")
    if not finishes or set(finishes) - set(FINISHES):
        raise SettingsError(f"The finishes {tuple(finishes)} cannot be painted. Choose among: {', '.join(FINISHES)}.")
    folder = Path(folder)
    paths = [folder / "data" / f"train-{n:05}-of-{shards:05}.parquet" for n in range(shards)]
    more = [least_stroke, titles] if least_stroke != ANY_STROKE or titles else []
    key = content_hash([PAINTER_VERSION, count, seed, shards, list(finishes), defects, *more])
    complete = folder / "painted.txt"  # written last: what stands there is whole
    if complete.exists() and complete.read_text() == key and all(path.exists() for path in paths):
        return paths
    complete.unlink(missing_ok=True)

    rows = [replace(row, least_stroke=least_stroke) for row in _rows(count, seed, finishes)]
    rows += _defects(seed) if defects else []
    captions = [{"path": row.name, "caption": caption(row.scene)} for row in rows]
    write_whole(folder / "captions.jsonl", "".join(json.dumps(line) + "\n" for line in captions))
    done = 0
    for shard, path in enumerate(paths):
        jpegs = []
        part = rows[shard::shards]
        # numpy and Pillow let go of the interpreter while they work, so two threads keep two cores busy.
        with ThreadPoolExecutor(max_workers=2) as pool:
            for row, (data, picture) in zip(part, pool.map(_Row.jpeg, part), strict=True):
                jpegs.append(data)
                done += 1
                progress(done, len(rows), f"{done} of {len(rows)}\n{caption(row.scene)}", picture)
        _write_shard(path, part, jpegs, titles)
    write_whole(complete, key)
    return paths


def _rows(count: int, seed: int, finishes: Sequence[str]) -> Iterator[_Row]:
    for number in range(count):
        index, finish = number // len(finishes), finishes[number % len(finishes)]
        kind = KINDS[index % len(KINDS)]
        subject = scene(kind, seed * 1000 + index // len(KINDS))
        sides = _SIDES[kind]
        width, height = sides[int(subject.random(9).integers(len(sides)))]
        yield _Row(subject, finish, width, height, f"{kind.replace(' ', '-')}-{index:05}-{finish}.jpg")


def _defects(seed: int) -> list[_Row]:
    first = seed * 1000 + 900
    return [
        _Row(scene("landscape", first), "impressionist", 300, 240, "landscape-small.jpg"),
        _Row(scene("cityscape", first + 1), "impressionist", 1536, 512, "cityscape-panorama.jpg"),
        _Row(scene("landscape", first + 2), "plain", 768, 640, "landscape-overcompressed.jpg", flat=True),
    ]


def wikiart_schema():
    """The arrow schema of huggan/wikiart, with its labels in the metadata that the `datasets` library writes."""
    import pyarrow as pa

    labels = {"artist": ARTISTS, "genre": GENRE_LABELS, "style": STYLES}
    features = {"image": {"_type": "Image"}}
    features |= {column: {"names": list(names), "_type": "ClassLabel"} for column, names in labels.items()}
    fields = [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))]
    fields += [(column, pa.int64()) for column in labels]
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})


def _write_shard(path: Path, rows: list[_Row], jpegs: list[bytes], titles: bool) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "image": [{"bytes": data, "path": row.name} for row, data in zip(rows, jpegs, strict=True)],
        # A machine's picture is nobody's: it is never put under a painter's name.
        "artist": [ARTISTS.index("Unknown Artist")] * len(rows),
        "genre": [GENRE_LABELS.index(GENRES[row.scene.kind]) for row in rows],
        "style": [STYLES.index(_STYLE_OF[row.finish]) for row in rows],
    }
    table = pa.table(columns, schema=wikiart_schema())
    if titles:
        table = table.append_column("title", pa.array([caption(row.scene) for row in rows]))
    with appearing(path) as temporary:
        pq.write_table(table, temporary, row_group_size=-(-len(rows) // _ROW_GROUPS))
