"""The colours: a warm neutral paper, on which paintings keep their own colours, or a dark one."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import SettingsError

PAPER = "#f5f4f1"
INK = "#262422"
QUIET = "#837d74"  # notes, axes: read second
HAIRLINE = "#dedad2"
ABSENT = "#eceae5"  # the ground of a picture that is not there
HATCHING = "#d9d5cc"
THIN = "#b9b0a2"  # single measurements behind their trend
BLUE = "#2f5d7c"  # what was measured
RUST = "#c2562d"  # what stands against it: held out, refused, beyond a limit


@dataclass(frozen=True)
class Theme:
    """The same colours on one ground; what each is for stands beside the constants of their names."""

    paper: str = PAPER
    ink: str = INK
    quiet: str = QUIET
    hairline: str = HAIRLINE
    absent: str = ABSENT
    hatching: str = HATCHING
    thin: str = THIN
    blue: str = BLUE
    rust: str = RUST
    more: tuple[str, ...] = ("#5f7d3c", "#8a4f7d", "#a98324", "#3d7f7a")  # of further runs, told apart by hue and light


LIGHT = Theme()
DARK = Theme(
    paper="#1d1c1a",
    ink="#edeae4",
    quiet="#9d968b",
    hairline="#35322e",
    absent="#262422",
    hatching="#3a3733",
    thin="#5d564d",
    blue="#7fb2d6",
    rust="#e5855a",
    more=("#a5c57c", "#c994bd", "#dcb95c", "#7cc2bb"),
)
THEMES = {"light": LIGHT, "dark": DARK}


def theme_of(name: str) -> Theme:
    """
    Raises:
        SettingsError: there is no theme of that name.
    """
    if name not in THEMES:
        raise SettingsError(f"There is no theme '{name[:40]}'. Choose one of: {', '.join(THEMES)}.")
    return THEMES[name]
