"""Animations of a grid: what is shown for how long, and what the files of each kind hold."""

import json
from dataclasses import replace

import pytest
from impasto.errors import ModelError, SettingsError
from impasto.progress import silent
from impasto.rendering.animation import APNG, GIF, SUFFIXES, WEBP, Animation, Timing, frames, save, video_frames
from PIL import Image

from .test_picture_grid import colour, grid_in, where

TIMING = Timing(hold=0.5, fade=0.2, last=2.0, frames_per_second=10)
TEXTS = {"prompt": '{"1": {}}', "workflow": '{"nodes": []}'}


def shown(animation):
    return list(frames(animation, silent))


def test_each_step_is_held_faded_into_the_next_and_the_last_held_longer(tmp_path):
    seconds = [length for _, length in shown(Animation(grid_in(tmp_path), TIMING))]
    assert seconds == [0.5, 0.1, 0.1, 0.5, 0.1, 0.1, 2.0]


def test_a_fade_lies_evenly_between_its_two_steps(tmp_path):
    grid = grid_in(tmp_path, 1, 2, size=(64, 64))
    Image.new("RGB", (64, 64), (0, 0, 0)).save(grid.cells[0][0][0])
    Image.new("RGB", (64, 64), (240, 240, 240)).save(grid.cells[0][1][0])
    middles = [picture.getpixel((30, 30))[0] for picture, _ in shown(Animation(grid, TIMING, labelled=False))]
    assert middles == [0, 80, 160, 240]


def test_without_a_fade_there_is_one_frame_a_step(tmp_path):
    assert len(shown(Animation(grid_in(tmp_path), Timing(fade=0.0)))) == 3


def test_one_prompt_is_shown_alone_and_zero_shows_all(tmp_path):
    grid = grid_in(tmp_path, 3, 2)
    alone, together = (next(Animation(grid, TIMING, prompt, labelled=False).stills()) for prompt in (2, 0))
    assert alone.size == (64, 48) and where(alone, colour(1, 0)) == (0, 0, 64, 48)
    assert together.size == (130, 98) and all(where(together, colour(row, 0)) for row in range(3))
    with pytest.raises(SettingsError, match="prompt is 4, and the grid has 3"):
        Animation(grid, TIMING, 4)


def test_every_frame_has_one_size_with_even_sides(tmp_path):
    grid = grid_in(tmp_path, 3, 2, size=(63, 47))
    for labelled in (True, False):
        sizes = {picture.size for picture, _ in shown(Animation(grid, TIMING, labelled=labelled))}
        assert len(sizes) == 1 and all(side % 2 == 0 for side in sizes.pop())


def test_the_label_stands_below_the_picture_and_never_on_it(tmp_path):
    grid = grid_in(tmp_path, 1, 2, size=(128, 128))
    plain, labelled = (next(Animation(grid, TIMING, labelled=each).stills()) for each in (False, True))
    assert labelled.height > plain.height
    assert labelled.crop((0, 0, 128, 128)).tobytes() == plain.tobytes()


def test_a_missing_step_is_hatched_and_does_not_shorten_the_animation(tmp_path):
    grid = grid_in(tmp_path)
    grid.cells[0][1][0].unlink()
    grid.cells[1][1][0].unlink()
    pictures = shown(Animation(grid, replace(TIMING, fade=0.0)))
    assert len(pictures) == 3 and len(pictures[1][0].getcolors(100_000)) > 10


def test_a_grid_whose_files_are_gone_says_so(tmp_path):
    grid = grid_in(tmp_path)
    for file in grid.files():
        file.unlink()
    with pytest.raises(ModelError, match="no picture that is still there"):
        shown(Animation(grid, TIMING))


def test_a_video_has_equal_frames_that_add_up_to_the_seconds(tmp_path):
    times = shown(Animation(grid_in(tmp_path), Timing(0.55, 0.25, 1.3, 7)))
    assert abs(len(list(video_frames(times, 7))) - 7 * sum(length for _, length in times)) <= 1


@pytest.mark.parametrize("kind", [WEBP, GIF, APNG])
def test_files_hold_the_frames_their_lengths_and_the_graph(tmp_path, kind):
    animation = Animation(grid_in(tmp_path), TIMING)
    file = tmp_path / f"animation{SUFFIXES[kind]}"
    save(animation, file, TEXTS, silent)
    lengths = []
    with Image.open(file) as picture:
        assert picture.is_animated and picture.n_frames == 7
        assert picture.info.get("loop", 0) == 0
        for number in range(7):
            picture.seek(number)
            picture.load()
            lengths.append(picture.info["duration"])
            red = picture.convert("RGB").getpixel((20, 20))
            if number % 3 == 0:  # a step, not a fade
                assert all(abs(a - b) <= 12 for a, b in zip(red, colour(0, number // 3), strict=True))
        if kind == WEBP:
            exif = picture.getexif()
            assert exif[0x0110] == 'prompt:{"1": {}}' and exif[0x010F] == 'workflow:{"nodes": []}'
    assert lengths == [500, 100, 100, 500, 100, 100, 2000]
    if kind == APNG:
        with Image.open(file) as picture:
            assert picture.text["workflow"] == TEXTS["workflow"]
            assert json.loads(picture.text["impasto"])["run"] == "gardens-12345678"


def test_a_very_long_animation_is_made_smaller_so_that_memory_holds_it(tmp_path):
    grid = grid_in(tmp_path, 1, 1, size=(512, 512))
    long = replace(grid, columns=grid.columns * 2000, cells=(grid.cells[0] * 2000,))
    still = next(Animation(long, Timing(), size=512, labelled=False).stills())
    assert 64 <= still.width < 200


def test_the_name_of_an_animation_changes_with_all_that_it_shows(tmp_path):
    grid = grid_in(tmp_path)
    animation = Animation(grid, TIMING)
    keys = {animation.key(), replace(animation, prompt=1).key(), replace(animation, labelled=False).key()}
    keys |= {replace(animation, timing=replace(TIMING, hold=1.0)).key(), replace(animation, size=100).key()}
    keys.add(replace(animation, grid=replace(grid, theme="dark")).key())
    grid.cells[0][0][0].unlink()
    keys.add(animation.key())
    assert len(keys) == 7
