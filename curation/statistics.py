"""What a dataset consists of: counts, sizes, buckets, caption lengths and colour, as numbers, a figure and a sheet.

How pictures fall into buckets and how long a text is in tokens belong to training and the text encoders: both come in
as functions.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image

from .. import token_limits
from ..dataset.pictures import PictureRefused, thumbnail
from ..dataset.records import Dataset, Record
from ..drawing.charts import LONGEST_LABEL, as_picture, calm, draw_limit, draw_single, new_figure, plain
from ..drawing.contact_sheet import MOST_CELLS, contact_sheet
from ..drawing.palette import LIGHT, Theme
from ..progress import Progress, silent
from .measurements import measures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 1760, 1240  # pixels of the figure
TOKEN_BINS = 24
BARS = 10  # in one chart; what is rarer is counted together
# Name, and tokens that it reads.
TEXT_ENCODERS = {"clip": ("CLIP", token_limits.CLIP_L), "t5": ("T5", token_limits.T5_DEV)}

Bucket = Callable[[int, int], tuple[int, int]]  # width and height of a picture -> of its bucket
TokenCounts = Callable[[str], tuple[int, int]]  # caption -> tokens, in the order of `TEXT_ENCODERS`


@dataclass(frozen=True)
class Statistics:
    """What was counted, as plain values that JSON takes."""

    name: str
    revision: str
    pictures: int
    megabytes: float
    genres: Mapping[str, int]  # most frequent first; "" for unknown
    styles: Mapping[str, int]
    artists: Mapping[str, int]
    sizes: Sequence[tuple[int, int]]  # width and height of each picture, pixels
    resolution: int
    buckets: Mapping[str, int]  # "704x384" -> pictures
    buckets_of: str  # whose rules these are
    captions: int  # pictures that have one
    tokens: Mapping[str, Sequence[int]]  # of each caption, by key of `TEXT_ENCODERS`
    colourfulness: Sequence[float]  # of each picture that decodes
    undecodable: int

    def as_json(self) -> dict[str, Any]:
        """The same with each series of numbers as its least, median, mean and greatest."""
        shorter = [min(size) for size in self.sizes]
        return {
            "dataset": self.name,
            "revision": self.revision,
            "pictures": self.pictures,
            "megabytes": self.megabytes,
            "genres": _named(self.genres),
            "styles": _named(self.styles),
            "artists": _named(self.artists),
            "shorter_side": summary(shorter),
            "aspect": summary([round(width / height, 3) for width, height in self.sizes]),
            "resolution": self.resolution,
            "buckets_of": self.buckets_of,
            "buckets": dict(self.buckets),
            "captions": self.captions,
            "tokens": {
                key: summary(counts) | {"over_limit": sum(count > TEXT_ENCODERS[key][1] for count in counts)}
                for key, counts in self.tokens.items()
            },
            "colourfulness": summary(self.colourfulness),
            "undecodable": self.undecodable,
        }


def statistics(
    dataset: Dataset,
    resolution: int,
    bucket: Bucket,
    count_tokens: TokenCounts,
    progress: Progress = silent,
    buckets_of: str = "",
) -> Statistics:
    """Count everything; pictures are measured once and remembered, as by the quality filter.

    Args:
        resolution: pixels, of the square whose area the buckets have.
        buckets_of: whose rules `bucket` follows, in words.
    """
    records = dataset.records()
    seen = measures(dataset, records, progress)
    measured = {record: found for record, found in seen.items() if not isinstance(found, PictureRefused)}
    colourfulness = [found.colourfulness for found in measured.values()]
    # a record has the sides of the file, which a camera may have had turned
    sizes = [measured[record].size if record in measured else (record.width, record.height) for record in records]
    captions = [record.text for record in records if record.text]
    tokens: dict[str, list[int]] = {key: [] for key in TEXT_ENCODERS}
    for done, text in enumerate(captions, start=1):
        for key, count in zip(TEXT_ENCODERS, count_tokens(text), strict=True):
            tokens[key].append(count)
        if done % 100 == 0 or done == len(captions):
            progress(done, len(captions), f"Counted the tokens of {done} of {len(captions)} captions")
    buckets = Counter(bucket(*size) for size in sizes)
    return Statistics(
        name=dataset.name,
        revision=dataset.revision,
        pictures=len(records),
        megabytes=round(sum(record.size for record in records) / 1e6, 2),
        genres=_counted(record.genre for record in records),
        styles=_counted(record.style for record in records),
        artists=_counted(record.artist for record in records),
        sizes=sizes,
        resolution=resolution,
        buckets_of=buckets_of,
        buckets={f"{width}x{height}": count for (width, height), count in sorted(buckets.items())},
        captions=len(captions),
        tokens=tokens,
        colourfulness=colourfulness,
        undecodable=len(records) - len(colourfulness),
    )


def summary(values: Sequence[float]) -> dict[str, float]:
    """Least, median, mean and greatest; nothing for no values."""
    if not values:
        return {}
    ordered = sorted(values)
    middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    mean = math.fsum(ordered) / len(ordered)
    return {"least": ordered[0], "median": round(middle, 3), "mean": round(mean, 3), "greatest": ordered[-1]}


def _counted(labels: Any) -> dict[str, int]:
    return dict(sorted(Counter(labels).items(), key=lambda item: (-item[1], item[0])))


def _named(counts: Mapping[str, int]) -> dict[str, int]:
    return {label or "unknown": count for label, count in counts.items()}


def draw(found: Statistics, theme: Theme = LIGHT) -> Image.Image:
    """One figure of eight charts, 1760 x 1240 pixels."""
    figure = new_figure(WIDTH, HEIGHT, found.name, theme)
    note = f"{found.pictures} pictures, {found.megabytes:g} MB, {found.captions} with a caption"
    artists = len(set(found.artists) - {""})
    note += f", artists known by name: {artists}" if artists else ""
    figure.text(36 / WIDTH, 1 - 66 / HEIGHT, plain(note), color=theme.quiet, fontsize=11, va="top")
    # the names of genres, styles and artists stand to the left of their bars
    grid = {"left": 0.115, "right": 0.975, "top": 0.885, "bottom": 0.055, "hspace": 0.4}
    top = figure.add_gridspec(3, 3, wspace=0.62, **grid)
    for place, (name, counts) in enumerate(
        [("genres", found.genres), ("styles", found.styles), ("artists", found.artists)]
    ):
        _draw_bars(figure.add_subplot(top[0, place]), name, counts, theme)
    lower = figure.add_gridspec(3, 3, wspace=0.2, **grid | {"left": 0.045})
    _draw_sizes(figure.add_subplot(lower[1, 0]), found, theme)
    _draw_buckets(figure.add_subplot(lower[1, 1:]), found, theme)
    for place, key in enumerate(TEXT_ENCODERS):
        _draw_tokens(figure.add_subplot(lower[2, place]), key, found.tokens[key], theme)
    _draw_colour(figure.add_subplot(lower[2, 2]), found, theme)
    return as_picture(figure)


def _draw_bars(axes: Axes, name: str, counts: Mapping[str, int], theme: Theme) -> None:
    calm(axes, name, grid="x", theme=theme)
    shown = list(_named(counts).items())
    if len(shown) > BARS:
        rest = shown[BARS - 1 :]
        shown = [*shown[: BARS - 1], (f"{len(rest)} more", sum(count for _, count in rest))]
    labels = [_shortened(label.replace("_", " ")) for label, _ in shown]
    numbers = [count for _, count in shown]
    axes.barh(range(len(shown)), numbers, color=theme.blue, height=0.7)
    axes.set_yticks(range(len(shown)), labels)
    axes.set_ylim(max(len(shown), 4) - 0.4, -0.6)
    axes.set_xlim(0, 1.15 * max(numbers))
    axes.xaxis.get_major_locator().set_params(integer=True, nbins=4)
    for row, count in enumerate(numbers):
        axes.annotate(
            f"{count}", (count, row), (4, 0), textcoords="offset points", color=theme.quiet, fontsize=8, va="center"
        )


def _shortened(label: str) -> str:
    return plain(label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 1] + "…")


def _draw_sizes(axes: Axes, found: Statistics, theme: Theme) -> None:
    calm(axes, "width and height, px", grid="both", theme=theme)
    counts = Counter(found.sizes)
    areas = [12 + 30 * math.log2(count) for count in counts.values()]
    axes.scatter(*zip(*counts, strict=True), s=areas, color=theme.blue, alpha=0.45, linewidths=0)
    most = 1.08 * max(max(size) for size in counts)
    axes.plot([0, most], [0, most], color=theme.hairline, linewidth=1)
    side = found.resolution
    axes.plot([0, side, side], [side, side, 0], color=theme.rust, linewidth=1)
    _note(axes, f"{side} px", (side, 0), (3, 3), theme.rust)
    axes.set_xlim(0, most)
    axes.set_ylim(0, most)


def _draw_buckets(axes: Axes, found: Statistics, theme: Theme) -> None:
    calm(axes, f"aspect buckets at {found.resolution} px, {found.buckets_of}", theme=theme)
    by_aspect = sorted(found.buckets, key=lambda size: int(size.split("x")[0]) / int(size.split("x")[1]))
    numbers = [found.buckets[size] for size in by_aspect]
    axes.bar(range(len(numbers)), numbers, color=theme.blue, width=min(0.7, 0.12 * len(numbers)))
    every = math.ceil(len(numbers) / 14)
    labels = [size.replace("x", " x ") if not place % every else "" for place, size in enumerate(by_aspect)]
    axes.set_xticks(range(len(numbers)), labels)
    axes.set_xlim(-0.7, len(numbers) - 0.3)
    axes.yaxis.get_major_locator().set_params(integer=True, nbins=5)
    for place, count in enumerate(numbers if len(numbers) <= 40 else []):
        axes.annotate(
            f"{count}", (place, count), (0, 2), textcoords="offset points", color=theme.quiet, fontsize=8, ha="center"
        )


def _draw_tokens(axes: Axes, key: str, counts: Sequence[int], theme: Theme) -> None:
    called, limit = TEXT_ENCODERS[key]
    calm(axes, f"caption length in {called} tokens", theme=theme)
    if not counts:
        _say(axes, "no captions", theme)
        return
    most = max(counts)
    least = min(counts)
    over = sum(count > limit for count in counts)
    if least == most:
        draw_single(axes, most, len(counts), theme.blue)
        draw_limit(axes, limit, least - 0.5, most + 0.5, theme.rust)
    else:
        axes.hist(counts, bins=whole_bins(least, most), color=theme.blue)
        axes.xaxis.get_major_locator().set_params(integer=True)
        draw_limit(axes, limit, least - 0.5, most + 0.5, theme.rust)
    said = f"{over} of {len(counts)} over {limit}" if over else f"all within {limit}"
    axes.set_xlabel(said, color=theme.rust if over else theme.quiet, fontsize=9)
    axes.yaxis.get_major_locator().set_params(integer=True, nbins=4)


def whole_bins(least: int, most: int) -> list[float]:
    """Edges of at most `TOKEN_BINS` bins that all hold equally many whole numbers, with none of these on an edge."""
    width = -(-(most - least + 1) // TOKEN_BINS)
    bins = -(-(most - least + 1) // width)
    return [least - 0.5 + width * place for place in range(bins + 1)]


def _draw_colour(axes: Axes, found: Statistics, theme: Theme) -> None:
    calm(axes, "colourfulness (Hasler and Süsstrunk)", theme=theme)
    if not found.colourfulness:
        _say(axes, "no picture decodes", theme)
        return
    if min(found.colourfulness) == max(found.colourfulness):
        draw_single(axes, found.colourfulness[0], len(found.colourfulness), theme.blue)
    else:
        axes.hist(found.colourfulness, bins=24, color=theme.blue)
        axes.yaxis.get_major_locator().set_params(integer=True, nbins=4)
    if found.undecodable:
        axes.set_xlabel(f"{found.undecodable} pictures do not decode", color=theme.rust, fontsize=9)


def _note(axes: Axes, text: str, place: tuple[float, float], offset: tuple[int, int], color: str) -> None:
    """A small number at a place in the units of the axes, moved by points."""
    axes.annotate(text, place, offset, textcoords="offset points", fontsize=8, color=color)


def _say(axes: Axes, text: str, theme: Theme) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(0.5, 0.5, text, color=theme.quiet, fontsize=10, ha="center", transform=axes.transAxes)


def sheet(dataset: Dataset, theme: Theme = LIGHT) -> Image.Image:
    """A contact sheet of up to 60 pictures, evenly spaced through the dataset, with title, artist or caption."""
    records = dataset.records()
    step = max(1, math.ceil(len(records) / MOST_CELLS))
    shown = records[::step]
    title = f"{dataset.name}: {len(shown)} of {len(records)} pictures" if step > 1 else f"{dataset.name}: all pictures"
    return contact_sheet(title, [(dataset.image_path(record), _words(record)) for record in shown], thumbnail, theme)


def _words(record: Record) -> str:
    if record.title or record.artist:
        return record.known_as
    return f"{record.known_as} {record.text or record.genre.replace('_', ' ')}".rstrip()
