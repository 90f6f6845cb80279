"""What a LoRA adds to each block as a picture: a row for each part of the blocks, a bar for each block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from ..drawing.lettering import LINE_HEIGHT, draw_text, shortened, text_width, wrap
from ..drawing.palette import ABSENT, BLUE, HAIRLINE, INK, PAPER, QUIET

MARGIN, LETTER, SMALL, LARGE = 40, 18, 15, 28  # pixels
GAP = 4  # pixels between two bars
NARROWEST, WIDEST = 16, 48  # pixels of a bar
GROUP_GAP = 48  # pixels between the double and the single blocks
ROW = 150  # pixels of the highest bar
LEAST_WIDTH = 900  # pixels
KINDS = ("double", "single")

# Kind of block ("double", "single"), its number from 0, part of it -> Frobenius norm of what is added there.
BlockNorms = Mapping[tuple[str, int, str], float]


def lora_weights(title: str, note: str, norms: BlockNorms) -> Image.Image:
    """Draw the norms, an RGB picture. All bars have one scale; a block without a layer of that part has a pale place.

    Args:
        title: the LoRA's name.
        note: what is to be said of it, under the title, wrapped into at most 3 lines.
        norms: of each part of each block that has any; not necessarily of all blocks.
    """
    parts = list(dict.fromkeys(part for _, _, part in norms))
    groups = _groups(norms)
    most = max(norms.values(), default=0.0)
    width = max(LEAST_WIDTH, *(group.right + MARGIN for group in groups), 0)
    lines = wrap(note, SMALL, width - 2 * MARGIN, 3) if note else []
    top = MARGIN + _line(LARGE) + len(lines) * _line(SMALL) + _line(LETTER)
    row = _line(LETTER) + ROW + 2 * _line(SMALL) + LETTER
    height = top + len(parts) * row + MARGIN // 2
    picture = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(picture)
    draw_text(draw, (MARGIN, MARGIN - LARGE // 3), shortened(title, LARGE, width - 2 * MARGIN), LARGE, INK)
    for number, line in enumerate(lines):
        draw_text(draw, (MARGIN, MARGIN + _line(LARGE) + number * _line(SMALL)), line, SMALL, QUIET)
    for number, part in enumerate(parts):
        own = {key[:2]: norm for key, norm in norms.items() if key[2] == part}
        _row(draw, top + number * row, part, own, groups, most)
    return picture


@dataclass(frozen=True)
class _Group:
    """The bars of one kind of block: how many there are, where the first begins and how wide each is, in pixels."""

    kind: str
    count: int
    left: int
    bar: int

    @property
    def right(self) -> int:
        return self.left + self.count * (self.bar + GAP) - GAP

    def bar_at(self, number: int) -> int:
        return self.left + number * (self.bar + GAP)


def _line(size: int) -> int:
    return round(size * LINE_HEIGHT)


def _groups(norms: BlockNorms) -> list[_Group]:
    counts = {kind: 1 + max((number for one, number, _ in norms if one == kind), default=-1) for kind in KINDS}
    room = (LEAST_WIDTH - 2 * MARGIN - GROUP_GAP) // max(1, sum(counts.values())) - GAP
    bar, left, groups = max(NARROWEST, min(WIDEST, room)), MARGIN, []
    for kind, count in counts.items():
        if count:
            groups.append(_Group(kind, count, left, bar))
            left = GROUP_GAP + max(groups[-1].right, left + round(text_width(_caption(kind), SMALL)))
    return groups


def _caption(kind: str) -> str:
    return f"{kind} blocks"


def _row(
    draw: ImageDraw.ImageDraw,
    top: int,
    part: str,
    norms: Mapping[tuple[str, int], float],
    groups: Sequence[_Group],
    most: float,
) -> None:
    draw_text(draw, (MARGIN, top), part, LETTER, INK)
    said = f"   at most {max(norms.values()):.3g}"
    draw_text(draw, (MARGIN + text_width(part, LETTER), top + (LETTER - SMALL)), said, SMALL, QUIET)
    ground = top + _line(LETTER) + ROW
    for group in groups:
        draw.line((group.left, ground, group.right - 1, ground), fill=HAIRLINE)
        for number in range(group.count):
            x, norm = group.bar_at(number), norms.get((group.kind, number))
            if norm is None:
                draw.rectangle((x, ground - 6, x + group.bar - 1, ground - 1), fill=ABSENT)
            elif norm:
                high = max(1, round((ROW - 8) * norm / most))
                draw.rectangle((x, ground - high, x + group.bar - 1, ground - 1), fill=BLUE)
            if number % 5 == 0:
                _centred(draw, x + group.bar / 2, ground + 2, str(number))
        draw_text(draw, (group.left, ground + 2 + round(SMALL * 1.05)), _caption(group.kind), SMALL, QUIET)


def _centred(draw: ImageDraw.ImageDraw, middle: float, top: float, text: str) -> None:
    draw_text(draw, (middle - text_width(text, SMALL) / 2, top), text, SMALL, QUIET)
