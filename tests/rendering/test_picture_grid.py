"""Grids of files as pages: what is shown where, in how many pages, and with how much memory."""

import gc
import json
import weakref
from dataclasses import replace

import pytest
from impasto.errors import SettingsError
from impasto.progress import silent
from impasto.rendering.grid import Label
from impasto.rendering.picture_grid import MOST_PIXELS, PictureGrid, Preview, pictures, save_pages
from PIL import Image, ImageChops, ImageColor


def colour(row, column, part=0):
    return (40 + row, 40 + column, 200 - 50 * part)


def grid_in(folder, rows=2, columns=3, size=(64, 48), parts=1, missing=(), **changes):
    cells = []
    for row in range(rows):
        cells.append([])
        for column in range(columns):
            files = [folder / f"{row}-{column}-{part}.png" for part in range(parts)]
            for part, file in enumerate(files):
                if (row, column) not in missing:
                    Image.new("RGB", size, colour(row, column, part)).save(file)
            cells[-1].append(tuple(files))
    grid = PictureGrid(
        Label("gardens", "run gardens-12345678"),
        tuple(Label(f"prompt {row}", "seed 1") for row in range(rows)),
        tuple(Label(f"step {column}") for column in range(columns)),
        tuple(map(tuple, cells)),
        size,
        about={"run": "gardens-12345678"},
    )
    return replace(grid, **changes)


def where(picture, wanted):
    difference = ImageChops.difference(picture, Image.new("RGB", picture.size, wanted)).convert("RGB")
    alike = [band.point(lambda value: 255 if value == 0 else 0) for band in difference.split()]
    return ImageChops.multiply(ImageChops.multiply(alike[0], alike[1]), alike[2]).getbbox()


def test_each_picture_is_drawn_pixel_for_pixel_in_its_place(tmp_path):
    grid = grid_in(tmp_path, size=(512, 512))
    noise = Image.effect_noise((512, 512), 80).convert("RGB")
    noise.save(grid.cells[1][2][0])
    [page] = grid.pages(silent)
    left, top, right, bottom = where(page, colour(1, 1))
    assert (right - left, bottom - top) == (512, 512)
    step = where(page, colour(0, 1))[0] - where(page, colour(0, 0))[0]
    assert page.crop((left + step, top, right + step, bottom)).tobytes() == noise.tobytes()


def test_hairlines_are_one_colour_from_full_size_down_to_a_contact_sheet(tmp_path):
    for side in (32, 128, 512):
        grid = grid_in(tmp_path, size=(side, side))
        [page] = grid.pages(silent)
        rule = where(page, ImageColor.getrgb("#dedad2"))
        assert rule[3] - rule[1] == max(1, max(13, round(side / 13)) // 14)


def test_the_seeds_of_a_cell_lie_in_it_at_their_own_size(tmp_path):
    grid = grid_in(tmp_path, 1, 1, parts=3, cell_size=(2 * 64 + 2, 2 * 48 + 2))
    [page] = grid.pages(silent)
    boxes = [where(page, colour(0, 0, part)) for part in range(3)]
    assert all((right - left, bottom - top) == (64, 48) for left, top, right, bottom in boxes)
    assert boxes[1][0] == boxes[0][2] + 2 and boxes[2][1] == boxes[0][3] + 2


def test_a_missing_file_is_hatched_and_nothing_is_shifted(tmp_path):
    [whole] = grid_in(tmp_path).pages(silent)
    (tmp_path / "0-1-0.png").unlink()
    [holed] = grid_in(tmp_path, missing=[(0, 1)]).pages(silent)
    assert ImageChops.difference(whole, holed).getbbox() == where(whole, colour(0, 1))


def test_a_damaged_file_is_hatched_and_the_log_names_it(tmp_path, caplog):
    grid = grid_in(tmp_path)
    (tmp_path / "1-0-0.png").write_bytes(b"no picture")
    [page] = grid.pages(silent)
    assert where(page, colour(1, 0)) is None and "1-0-0.png" in caplog.text


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_page_has_the_colours_of_its_theme(tmp_path, theme):
    [page] = grid_in(tmp_path, theme=theme).pages(silent)
    assert (sum(page.getpixel((0, 0))) > 600) == (theme == "light")
    assert where(page, colour(1, 2))


def test_an_unknown_theme_is_named(tmp_path):
    with pytest.raises(SettingsError, match="no theme 'sepia'.*light, dark"):
        list(grid_in(tmp_path, theme="sepia").pages(silent))


def test_one_cell_is_a_grid(tmp_path):
    [page] = grid_in(tmp_path, 1, 1).pages(silent)
    assert where(page, colour(0, 0))


def test_eight_thousand_cells_are_paged_and_memory_holds_a_page_not_the_cells(tmp_path):
    shared, gone = tmp_path / "one.png", tmp_path / "gone.png"
    Image.new("RGB", (64, 64), (200, 30, 30)).save(shared)
    grid = replace(
        grid_in(tmp_path, 1, 1),
        rows=tuple(Label(f"prompt {row}") for row in range(40)),
        columns=tuple(Label(f"step {column}") for column in range(200)),
        cells=tuple(tuple((gone if (row + column) % 50 else shared,) for column in range(200)) for row in range(40)),
        cell_size=(512, 512),
    )
    sizes, earlier = [], []
    for page in grid.pages(silent):
        sizes.append(page.size)
        earlier.append(weakref.ref(page))
        del page
        gc.collect()
        assert sum(ref() is not None for ref in earlier) <= 1
    assert len(sizes) == 4 and [len(columns) for _, columns in grid.spans()] == [50] * 4
    assert sum(width * height for width, height in sizes) <= MOST_PIXELS
    small = next(pictures(replace(grid, cells=(((shared,),) * 200,) * 40), silent))
    assert small.width * small.height * 8000 <= MOST_PIXELS


def test_more_pictures_than_a_grid_can_show_are_refused_before_any_is_made(tmp_path):
    grid = grid_in(tmp_path, 1, 1)
    with pytest.raises(SettingsError, match="200 rows, 101 columns and 1 seeds are 20,200 pictures.*at most 20,000"):
        replace(grid, rows=grid.rows * 200, columns=grid.columns * 101, cells=(grid.cells[0] * 101,) * 200)


def test_pages_are_kept_with_the_workflow_and_the_run(tmp_path):
    grid = grid_in(tmp_path)
    [(file, picture)] = save_pages(grid, tmp_path / "pages", "gardens", {"workflow": '{"nodes": ["é"]}'}, silent)
    with Image.open(file) as saved:
        assert json.loads(saved.text["workflow"]) == {"nodes": ["é"]}
        assert json.loads(saved.text["impasto"]) == {"run": "gardens-12345678", "page": 1, "pages": 1}
        assert saved.convert("RGB").tobytes() == picture.tobytes()
    assert [again for again, _ in save_pages(grid, tmp_path / "pages", "gardens", {}, silent)] == [file]


def test_the_preview_shows_what_there_is_and_does_not_change_while_it_is_sent(tmp_path):
    grid = grid_in(tmp_path)
    preview = Preview(grid)
    preview.put(tmp_path / "0-0-0.png", Image.new("RGB", (64, 48), colour(0, 0)))
    first = preview.picture()
    before = first.tobytes()
    preview.put(tmp_path / "0-1-0.png", Image.new("RGB", (64, 48), colour(0, 1)))
    assert where(first, colour(0, 0)) and not where(first, colour(0, 1)) and first.tobytes() == before
    assert where(preview.picture(), colour(0, 1))


def test_scripts_that_no_font_here_draws_are_named(tmp_path):
    rows = (Label("a harbour"), Label("\U00012000\U00012001 \U0001f9ff"))  # cuneiform, and an emoji of 2018
    assert "Cuneiform" in replace(grid_in(tmp_path), rows=rows).said_unreadable()
    assert not grid_in(tmp_path).said_unreadable()
