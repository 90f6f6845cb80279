"""Grids of what was drawn during a training: by ours, and by other trainers into folders."""

import json

import pytest
from impasto.errors import DatasetError, ModelError, TrainingError
from impasto.progress import silent
from impasto.rendering.sample_folders import read_folder, sample_of
from impasto.rendering.samples import grid_of_folder, grid_of_run
from impasto.trainers.run.folder import Run
from PIL import Image

from .test_cells import Prompt

KOHYA = [
    f"monet_{step:06d}_{prompt:02d}_2026013112{prompt:02d}00_{42 + prompt}.png"
    for step in (0, 250, 500)
    for prompt in (0, 1)
]
AI_TOOLKIT = [f"17698608{step:05d}__{step:09d}_{prompt}.jpg" for step in (0, 250, 500) for prompt in (0, 1)]
SIMPLETUNER = [f"step_{step}_a_red_{noun}_0_1024x1024.png" for step in (250, 500) for noun in ("barn", "boat")]


def fill(folder, names, size=(40, 30)):
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.new("RGB", size, (number, 0, 0)).save(folder / name)
    return folder


@pytest.mark.parametrize(
    ("name", "trainer", "unit", "at", "prompt", "seed"),
    [
        ("monet_style_000250_01_20260131120000_42.png", "sd-scripts or FluxTrainer", "step", 250, ("", 1), "42"),
        ("000250_00_20260131120000.png", "sd-scripts or FluxTrainer", "step", 250, ("", 0), ""),
        ("x_e000003_11_20260131120000_7.png", "sd-scripts or FluxTrainer", "epoch", 3, ("", 11), "7"),
        ("1769860800000__000000250_12.jpg", "ai-toolkit", "step", 250, ("", 12), ""),
        ("1769860800000__000000250_1.webp", "ai-toolkit", "step", 250, ("", 1), ""),
        ("step_1500_ethnographic_teddy_2_1024x768.png", "SimpleTuner", "step", 1500, ("ethnographic_teddy", 2), ""),
        ("step_1500_validation_1024x1024.webp", "SimpleTuner", "step", 1500, ("validation", 0), ""),
    ],
)
def test_names_of_the_trainers_are_understood(tmp_path, name, trainer, unit, at, prompt, seed):
    (tmp_path / name).touch()
    found = sample_of(tmp_path / name)
    assert (found.trainer, found.unit, found.at, found.prompt, found.seed) == (trainer, unit, at, prompt, seed)


@pytest.mark.parametrize(
    "name", ["monet.png", "step-000250-1ef7ed164bd3da37.png", "grid.jpg", "000250.png", "step_1_x.txt"]
)
def test_other_names_are_no_samples(tmp_path, name):
    assert sample_of(tmp_path / name) is None


@pytest.mark.parametrize("names", [KOHYA, AI_TOOLKIT, SIMPLETUNER])
def test_a_folder_becomes_a_grid_with_a_row_for_each_prompt(tmp_path, names):
    grid = grid_of_folder(fill(tmp_path / "monet" / "samples", [*names, "notes.png"]), (), 6, "")
    assert len(grid.rows) == 2 and grid.title.text == "monet" and grid.cell_size == (40, 30)
    assert {file.name for file in grid.files()} == set(names)
    assert grid.columns[-1].text == "step 500"
    assert (grid.columns[0].text == "base model") == (names is not SIMPLETUNER)


def test_prompts_that_are_connected_name_the_rows_of_a_folder(tmp_path):
    grid = grid_of_folder(fill(tmp_path / "monet", KOHYA), (Prompt("a harbour", 1), Prompt("a garden", 2)), 6, "")
    assert [(label.text, label.note) for label in grid.rows] == [("a harbour", "seed 42"), ("a garden", "seed 43")]


def test_a_sample_that_is_missing_leaves_its_place_empty_and_shifts_none(tmp_path):
    folder = fill(tmp_path / "monet", KOHYA)
    (folder / KOHYA[2]).unlink()  # step 250, prompt 0
    grid = grid_of_folder(folder, (), 6, "0, 250, 300, 500")
    there = [[file.is_file() for (file,) in row] for row in grid.cells]
    assert there == [[True, False, False, True], [True, True, False, True]]


def test_a_picture_drawn_again_takes_the_place_of_the_earlier(tmp_path):
    names = ["x_000250_00_20260131120000_1.png", "x_000250_00_20260131130000_1.png"]
    assert [sample.file.name for sample in read_folder(fill(tmp_path, names))] == names[1:]


def test_epochs_and_steps_do_not_share_an_axis(tmp_path):
    names = [f"x_e{epoch:06d}_00_20260131120000_1.png" for epoch in (1, 2)] + ["x_000250_00_20260131120000_1.png"]
    assert [column.text for column in grid_of_folder(fill(tmp_path, names), (), 6, "").columns] == [
        "epoch 1",
        "epoch 2",
    ]


def test_columns_are_spread_evenly_with_the_base_model_first(tmp_path):
    names = [f"1769860800000__{step:09d}_0.jpg" for step in range(0, 2001, 100)]
    grid = grid_of_folder(fill(tmp_path, names), (), 5, "")
    assert [column.text for column in grid.columns] == ["base model", "step 500", "step 1000", "step 1500", "step 2000"]


def test_a_folder_without_samples_tells_the_names_that_are_known(tmp_path):
    with pytest.raises(DatasetError, match=r"sd-scripts.*ai-toolkit.*SimpleTuner.*Give the folder"):
        grid_of_folder(fill(tmp_path, ["a.png"]), (), 6, "")
    with pytest.raises(DatasetError, match="There is no folder"):
        grid_of_folder(tmp_path / "nowhere", (), 6, "")


def run_with(tmp_path, steps=(10, 20)):
    for step in steps:
        file = tmp_path / "samples" / f"step-{step:06d}" / "latents.safetensors"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"latents of step %d" % step)
    (tmp_path / "metrics.jsonl").write_text('{"step": 10, "held_out_loss": 0.5}\n{"step": 20, "held_out_loss": 0.4}\n')
    return Run("harbours-12345678", str(tmp_path))


class Decoder:
    def __init__(self, not_finite=()):
        self.asked, self.not_finite = [], not_finite

    def __call__(self, file):
        step = int(file.parent.name[-6:])
        self.asked.append(step)
        return [None if step in self.not_finite else Image.new("RGB", (32, 32), (step, row, 0)) for row in range(2)]


def test_what_the_trainer_drew_is_decoded_once_and_a_new_step_alone(tmp_path):
    run, decode = run_with(tmp_path), Decoder()
    grid = grid_of_run(run, decode, "vae", 6, "", silent)
    assert [column.text for column in grid.columns] == ["step 10", "step 20"] and grid.columns[1].marked
    assert grid.title.text == "harbours" and json.loads(json.dumps(grid.about)) == {"run": run.id, "steps": [10, 20]}
    assert [Image.open(file).getpixel((0, 0)) for file in grid.files()] == [
        (10, 0, 0),
        (20, 0, 0),
        (10, 1, 0),
        (20, 1, 0),
    ]
    run_with(tmp_path, (30,))
    grid_of_run(run, decode, "vae", 6, "", silent)
    assert decode.asked == [10, 20, 30]
    grid_of_run(run, decode, "another vae", 6, "30", silent)
    assert decode.asked == [10, 20, 30, 30]


def test_samples_that_are_not_finite_leave_their_places_empty(tmp_path):
    grid = grid_of_run(run_with(tmp_path), Decoder(not_finite={10}), "vae", 6, "", silent)
    assert [file.is_file() for file in grid.files()] == [False, True, False, True]
    with pytest.raises(ModelError, match="Not one sample"):
        grid_of_run(Run("x", str(tmp_path)), Decoder(not_finite={10, 20}), "other", 6, "", silent)


def test_a_run_that_drew_nothing_or_is_gone_says_what_to_do(tmp_path):
    with pytest.raises(TrainingError, match="no samples.*sample_steps above 0.*Progress Grid"):
        grid_of_run(Run("x-12345678", str(tmp_path / "gone")), Decoder(), "vae", 6, "", silent)
