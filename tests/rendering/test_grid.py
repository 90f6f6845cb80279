import pytest
from impasto.drawing.lettering import text_width, wrap
from impasto.drawing.palette import ABSENT, HATCHING, PAPER
from impasto.rendering.grid import MAX_SIDE, Label, progress_grid
from PIL import Image, ImageChops, ImageColor

RED, GREEN, BLUE = (200, 30, 30), (30, 160, 60), (40, 60, 190)
TITLE = Label("gardens", "256×256 pixels")


def cell(color, size=(64, 64)):
    return Image.new("RGB", size, color)


def rows(count):
    return [Label(f"prompt {number}", "seed 1") for number in range(count)]


def columns(count):
    return [Label(f"step {number}") for number in range(count)]


def box_of(picture, color):
    """Bounding box of all pixels of exactly this colour."""
    difference = ImageChops.difference(picture, Image.new("RGB", picture.size, color))
    return difference.convert("L").point(lambda value: 255 if value == 0 else 0).getbbox()


def test_every_picture_lies_in_its_row_and_column_in_full():
    cells = {(0, 0): cell(RED), (0, 1): cell(GREEN), (1, 0): cell(BLUE)}
    picture = progress_grid(TITLE, rows(2), columns(2), cells, (64, 64))
    red, green, blue = (box_of(picture, color) for color in (RED, GREEN, BLUE))
    assert all((right - left, bottom - top) == (64, 64) for left, top, right, bottom in (red, green, blue))
    assert red[1] == green[1] and green[0] > red[2]  # beside it
    assert red[0] == blue[0] and blue[1] > red[3]  # below it


def test_a_missing_picture_is_hatched_and_the_others_stay_where_they_are():
    every = {(0, 0): cell(RED), (0, 1): cell(GREEN), (0, 2): cell(BLUE)}
    whole = progress_grid(TITLE, rows(1), columns(3), every, (64, 64))
    holed = progress_grid(TITLE, rows(1), columns(3), {k: v for k, v in every.items() if k != (0, 1)}, (64, 64))
    gap = box_of(whole, GREEN)
    assert ImageChops.difference(whole, holed).getbbox() == gap
    shades = [sum(color) for _, color in holed.crop(gap).getcolors(64 * 64)]
    ground, lines = sum(ImageColor.getrgb(ABSENT)), sum(ImageColor.getrgb(HATCHING))
    assert max(shades) == ground and lines <= min(shades) < ground - 20
    assert box_of(holed, BLUE) == box_of(whole, BLUE)


def test_a_picture_of_another_shape_is_fitted_without_being_stretched():
    picture = progress_grid(TITLE, rows(1), columns(1), {(0, 0): cell(RED, (200, 100))}, (64, 64))
    left, top, right, bottom = box_of(picture, RED)
    assert (right - left, bottom - top) == (64, 32)


def ink_boxes(picture):
    """Where anything but paper is, as an L picture of 0 and 255."""
    paper = Image.new("RGB", picture.size, PAPER)
    return ImageChops.difference(picture, paper).convert("L").point(lambda value: 255 if value else 0)


LONG = "a harbour at dawn with many boats and a very long description " * 20


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (256, 256), (512, 288), (288, 512)])
@pytest.mark.parametrize(
    "text", [LONG, "Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichen" * 9, "睡蓮の池" * 90]
)
def test_labels_never_reach_into_a_picture_another_label_or_the_margin(size, text):
    label = Label(text, text)
    cells = {(row, column): cell(RED, size) for row in range(2) for column in range(2)}
    labelled = progress_grid(Label(text, text), [label] * 2, [label] * 2, cells, size)
    bare = progress_grid(Label(""), [Label("", text[:1])] * 2, [Label("", text[:1])] * 2, cells, size)
    assert box_of(labelled, RED) is not None
    assert labelled.width == bare.width
    left, top, right, bottom = ink_boxes(labelled).getbbox()
    assert left >= 8 and top >= 8 and right <= labelled.width - 8 and bottom <= labelled.height - 8
    reds = [count for count, color in labelled.getcolors(labelled.width * labelled.height) if color == RED]
    assert reds == [4 * size[0] * size[1]]  # no letter lies on a picture
    # Between the labels and the first column, and between the two rows of labels, nothing but paper.
    first_left, first_top = box_of(labelled, RED)[:2]
    ink = ink_boxes(labelled)
    assert ink.crop((first_left - 6, first_top, first_left, labelled.height)).getbbox() is None
    assert any(
        ink.crop((0, y, first_left, y + 1)).getbbox() is None for y in range(first_top + size[1], labelled.height - 60)
    )


def test_wrapped_lines_fit_their_width_and_keep_every_word():
    text = "a quiet harbour at dawn, fishing boats with red sails"
    lines = wrap(text, 20, 180, max_lines=10)
    assert len(lines) > 1 and " ".join(lines) == text
    assert all(text_width(line, 20) <= 180 for line in lines)


@pytest.mark.parametrize("text", [LONG, "x" * 500, "睡蓮の池" * 90, "مرفأ عند الفجر " * 40])
def test_what_does_not_fit_ends_in_an_ellipsis_and_still_fits(text):
    lines = wrap(text, 20, 180, max_lines=3)
    assert len(lines) == 3 and lines[-1].endswith("…")
    assert all(text_width(line, 20) <= 180 for line in lines)


def test_letters_outside_latin_are_drawn_by_a_font_that_has_them():
    # The empty box that stands for a missing letter has one width; real letters of these words do not.
    assert len({text_width(letter, 40) for letter in "шiжёαΩ"}) > 3


def test_control_characters_and_line_breaks_in_a_prompt_become_spaces():
    assert wrap("one\ttwo\x00three", 20, 1000, max_lines=2) == ["one two three"]


def test_a_grid_too_large_to_look_at_is_shrunk_as_a_whole():
    picture = progress_grid(TITLE, rows(2), columns(40), {(0, 0): cell(RED, (1024, 1024))}, (1024, 1024))
    assert max(picture.size) <= MAX_SIDE
    assert box_of(picture, RED) is not None


def test_labels_are_readable_at_any_size():
    """The letters of 'step 7' are at least 9 pixels high at 32-pixel cells, and grow with the cells."""
    heights = []
    for side in (32, 512):
        with_label = progress_grid(TITLE, rows(1), [Label("H")], {}, (side, side))
        without = progress_grid(TITLE, rows(1), [Label(" ")], {}, (side, side))
        left, top, right, bottom = ImageChops.difference(with_label, without).getbbox()
        heights.append(bottom - top)
    assert heights[0] >= 9 and heights[1] >= 25
