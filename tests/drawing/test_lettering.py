"""Letters of any script: which are drawn, in which order, and what is said where no font has them."""

import pytest
from impasto.drawing import lettering
from impasto.drawing.lettering import CHART_FONT, draw_text, text_width, unreadable
from impasto.drawing.palette import THEMES
from PIL import Image, ImageColor, ImageDraw

RED, BLUE = (255, 0, 0), (0, 0, 255)


def test_what_every_font_here_has_is_readable():
    assert unreadable('a harbour, "quoted" – 100 % naïve шёпот Ωμέγα\n\ttab') == []


def test_scripts_without_a_font_are_named_once_in_their_order():
    # Cuneiform, an emoji, cuneiform again, Anatolian hieroglyphs: no font that the pack looks for has them.
    assert unreadable("\U00012000 a \U0001f9ff\U00012001 \U00014400") == ["Cuneiform", "emoji", "Anatolian"]


def test_right_to_left_text_is_told_where_pillow_cannot_lay_it_out(monkeypatch):
    monkeypatch.setattr(lettering, "_lays_out", lambda: False)
    assert any("right-to-left" in said for said in unreadable("مرفأ"))
    assert not any("right-to-left" in said for said in unreadable("harbour"))


def drawn(text: str) -> Image.Image:
    picture = Image.new("L", (600, 60), 0)
    draw_text(ImageDraw.Draw(picture), (0, 0), text, 40, 255)
    return picture


def test_a_line_that_begins_at_the_right_has_its_first_word_at_the_right():
    first = drawn("\u05e9")  # a Hebrew letter alone
    mixed = drawn("\u05e9 abc")
    letters = text_width("abc", 40)
    wide = mixed.getbbox()[2]
    # Latin stands first from the left, the Hebrew letter behind it.
    assert wide > letters and mixed.crop((0, 0, int(letters), 60)).getbbox() is not None
    tail = mixed.crop((int(letters), 0, 600, 60))
    assert abs((tail.getbbox()[2] - tail.getbbox()[0]) - (first.getbbox()[2] - first.getbbox()[0])) <= 2


def test_the_letters_of_charts_are_matplotlibs():
    assert text_width("harbour", 40, CHART_FONT) != text_width("harbour", 40)


@pytest.mark.parametrize("name", THEMES)
def test_in_each_theme_what_is_to_be_read_stands_out_from_its_ground(name):
    """WCAG 2.2: a contrast of 4.5 for text, 3 for large text and lines that mean something."""
    theme = THEMES[name]
    assert contrast(theme.ink, theme.paper) >= 12
    assert contrast(theme.quiet, theme.paper) >= 3.5
    assert all(contrast(colour, theme.paper) >= 3 for colour in (theme.blue, theme.rust, *theme.more))
    assert contrast(theme.thin, theme.paper) >= 1.9


def contrast(one: str, other: str) -> float:
    lights = sorted((_luminance(colour) for colour in (one, other)), reverse=True)
    return (lights[0] + 0.05) / (lights[1] + 0.05)


def _luminance(colour: str) -> float:
    parts = [value / 255 for value in ImageColor.getrgb(colour)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
