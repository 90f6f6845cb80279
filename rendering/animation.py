"""How a picture changes from step to step, as an animation: each step held, cross-faded into the next, the last held
longer; written as animated WebP, GIF or APNG. What a video is made of, `video_frames`, another writes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from ..drawing.lettering import LINE_HEIGHT, draw_text, shortened, text_width
from ..drawing.palette import theme_of
from ..errors import ModelError, SettingsError, check_finite
from ..files import appearing, content_hash
from ..progress import Progress
from .grid import MAX_SIDE, SEAM, fitted, hatched, mosaic
from .picture_grid import PictureGrid, read

WEBP, GIF, APNG, MP4 = "WebP", "GIF", "APNG", "MP4"
FORMATS = (WEBP, GIF, APNG, MP4)
SUFFIXES = {WEBP: ".webp", GIF: ".gif", APNG: ".png", MP4: ".mp4"}
MOST_PIXELS = 2 * MAX_SIDE**2  # of all frames of an animated picture, which Pillow holds at once: 0.4 GB
LEAST_SIDE = 64  # pixels
WEBP_QUALITY = 90  # of 100: where strokes of a brush keep their edges
EXIF_MODEL, EXIF_MAKE = 0x0110, 0x010F  # where core's Save Animated WebP writes the prompt, and from where on the rest


@dataclass(frozen=True)
class Timing:
    """Seconds that a step stands, that it fades into the next, and that the last stands; and frames in a second."""

    hold: float = 0.8
    fade: float = 0.3
    last: float = 2.5
    frames_per_second: int = 12

    def __post_init__(self) -> None:
        check_finite(hold=self.hold, fade=self.fade, last=self.last)

    def between(self) -> int:
        """Frames between two steps."""
        return round(self.fade * self.frames_per_second)


@dataclass(frozen=True)
class Animation:
    """What is animated.

    Attributes:
        prompt: the row, from 1; 0 for all of them beside each other.
        size: of the longer side without the label, in pixels; 0 for as large as the pictures are.
        labelled: whether the step is written below.
    """

    grid: PictureGrid
    timing: Timing = Timing()
    prompt: int = 0
    size: int = 512
    labelled: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.prompt <= len(self.grid.rows):
            raise SettingsError(
                f"prompt is {self.prompt}, and the grid has {len(self.grid.rows)}. Give its number, or 0 for all."
            )

    def key(self) -> str:
        """Names the animation by all that it shows, what is missing included."""
        there = [file.is_file() for file in self.grid.files()]
        return content_hash([self.grid.key(), there, *astuple(self.timing), self.prompt, self.size, self.labelled])

    def stills(self) -> Iterator[Image.Image]:
        """One picture for each column, all of one size, whose sides are even, as a video needs them."""
        fields = [self._files(column) for column in range(len(self.grid.columns))]
        field = self._field(len(fields[0]))
        for column, files in enumerate(fields):
            picture = self._together(files, field)
            yield self._labelled(picture, column) if self.labelled else _even(picture, theme_of(self.grid.theme).paper)

    def _files(self, column: int) -> list[Path]:
        rows = self.grid.cells if self.prompt == 0 else self.grid.cells[self.prompt - 1 : self.prompt]
        return [file for row in rows for file in row[column]]

    def _field(self, count: int) -> tuple[int, int]:
        """Width and height of one of so many pictures that are shown together."""
        across, down = mosaic(count)
        parts = mosaic(max(len(cell) for row in self.grid.cells for cell in row))
        width, height = (
            (side - SEAM * (part - 1)) // part for side, part in zip(self.grid.cell_size, parts, strict=True)
        )
        wanted = self.size or max(across * width, down * height)
        frames = len(self.grid.columns) * (1 + self.timing.between())
        shape = across * width / (down * height)
        most = math.sqrt(MOST_PIXELS / frames * max(shape, 1 / shape))  # of the longer side
        share = max(LEAST_SIDE, min(wanted, most)) / max(across * width, down * height)
        share = min(share, 1.0)
        return max(1, round(width * share)), max(1, round(height * share))

    def _together(self, files: Sequence[Path], field: tuple[int, int]) -> Image.Image:
        theme = theme_of(self.grid.theme)
        across, down = mosaic(len(files))
        size = across * (field[0] + SEAM) - SEAM, down * (field[1] + SEAM) - SEAM
        together = Image.new("RGB", size, theme.paper)
        for number, file in enumerate(files):
            left, top = number % across * (field[0] + SEAM), number // across * (field[1] + SEAM)
            picture = read(file)
            shown = fitted(picture, field) if picture else hatched(field, _letter(field), theme)
            together.paste(shown, (left + (field[0] - shown.width) // 2, top + (field[1] - shown.height) // 2))
        return together

    def _labelled(self, picture: Image.Image, column: int) -> Image.Image:
        """`picture` over a strip: how far the training is as a line, the step, and what was measured."""
        theme, label = theme_of(self.grid.theme), self.grid.columns[column]
        letter = _letter(picture.size)
        line, margin = max(2, letter // 6), round(0.6 * letter)
        strip = line + round(letter * LINE_HEIGHT) + margin
        framed = _even(picture, theme.paper, below=strip)
        draw = ImageDraw.Draw(framed)
        top = picture.height
        share = column / max(1, len(self.grid.columns) - 1)
        draw.rectangle((0, top, picture.width - 1, top + line - 1), fill=theme.hairline)
        if share:
            done = round(share * picture.width)
            draw.rectangle((0, top, done - 1, top + line - 1), fill=theme.rust if label.marked else theme.blue)
        text_top, room = top + line + margin // 2, picture.width - margin
        text = shortened(label.text, letter, room)
        draw_text(draw, (margin // 2, text_top), text, letter, theme.rust if label.marked else theme.ink)
        left = room - text_width(text, letter) - margin
        small = max(11, round(0.8 * letter))
        note = label.note and shortened(label.note, small, left)
        if note and len(note) > 3:
            at = picture.width - margin // 2 - text_width(note, small)
            draw_text(draw, (at, text_top + (letter - small) * 0.9), note, small, theme.quiet)
        return framed


def _letter(size: tuple[int, int]) -> int:
    return max(13, round(min(size) / 22))


def _even(picture: Image.Image, paper: str, below: int = 0) -> Image.Image:
    """`picture` on paper whose sides are even, with room below."""
    size = -(-picture.width // 2) * 2, -(-(picture.height + below) // 2) * 2
    if size == picture.size:
        return picture
    larger = Image.new("RGB", size, paper)
    larger.paste(picture, (0, 0))
    return larger


def frames(animation: Animation, progress: Progress) -> Iterator[tuple[Image.Image, float]]:
    """Each frame with the seconds that it stands; asks between them whether to go on.

    Raises:
        ModelError: not one picture can be read.
    """
    if not any(file.is_file() for file in animation.grid.files()):
        raise ModelError("The grid has no picture that is still there. Queue it again, which makes them anew.")
    timing, total = animation.timing, len(animation.grid.columns)
    before: Image.Image | None = None
    for number, still in enumerate(animation.stills()):
        if before is not None:
            count = timing.between()
            for part in range(1, count + 1):
                yield Image.blend(before, still, part / (count + 1)), timing.fade / count
        progress(number, total, f"Drawing {animation.grid.columns[number].text}", still)
        yield still, timing.last if number == total - 1 else timing.hold
        before = still
    progress(total, total)


def video_frames(shown: Iterable[tuple[Image.Image, float]], frames_per_second: int) -> Iterator[Image.Image]:
    """Frames of equal length, each picture as often as its seconds ask for, none left out."""
    due = given = 0.0
    for picture, seconds in shown:
        due += seconds * frames_per_second
        count = max(1, round(due - given))
        given += count
        for _ in range(count):
            yield picture


def save(animation: Animation, file: Path, texts: Mapping[str, str], progress: Progress) -> None:
    """Write an animation by the suffix of `file`, see `write_animation`."""
    shown = list(frames(animation, progress))
    milliseconds = [max(20, round(seconds * 1000)) for _, seconds in shown]
    write_animation(file, [picture for picture, _ in shown], milliseconds, texts, animation.grid.about)


def write_animation(
    file: Path,
    pictures: Sequence[Image.Image],
    milliseconds: Sequence[int],
    texts: Mapping[str, str] = MappingProxyType({}),
    about: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Write pictures of one size as an animated WebP, GIF or APNG, by the suffix of `file`, which repeats for ever.

    Args:
        milliseconds: that each picture stands; a GIF has hundredths of a second.
        texts: the graph, as PNG texts and in WebP's Exif, where ComfyUI looks for it; GIF has no place for it.
        about: what an APNG says of itself beside that.

    Raises:
        SettingsError: another suffix.
        DiskError: it cannot be written.
    """
    kind = next((name for name, suffix in SUFFIXES.items() if suffix == file.suffix and name != MP4), None)
    if kind is None:
        known = ", ".join(suffix for name, suffix in SUFFIXES.items() if name != MP4)
        raise SettingsError(f"An animation cannot be written as '{file.suffix}'. Choose one of: {known}.")
    options: dict[str, Any] = {"save_all": True, "duration": list(milliseconds), "loop": 0}
    shown = [picture.convert("RGB") for picture in pictures]
    if kind == GIF:
        shown = [picture.quantize(256, Image.Quantize.MEDIANCUT) for picture in shown]
        options["disposal"] = 1
    elif kind == APNG:
        metadata = PngInfo()
        for key, text in texts.items():
            metadata.add_text(key, text)
        metadata.add_itxt("impasto", json.dumps(dict(about)))
        options |= {"pnginfo": metadata, "default_image": False}
    else:
        options |= {"quality": WEBP_QUALITY, "method": 4, "exif": _exif(texts)}
    with appearing(file) as temporary:
        shown[0].save(temporary, format="PNG" if kind == APNG else kind, append_images=shown[1:], **options)


def _exif(texts: Mapping[str, str]) -> Image.Exif:
    """As core's Save Animated WebP writes it, and ComfyUI's page reads it."""
    exif = Image.Exif()
    if "prompt" in texts:
        exif[EXIF_MODEL] = f"prompt:{texts['prompt']}"
    for number, (name, text) in enumerate((name, text) for name, text in texts.items() if name != "prompt"):
        exif[EXIF_MAKE - number] = f"{name}:{text}"
    return exif
