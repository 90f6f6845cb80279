"""The painter here draws colours at once; what it is asked for is what a real one would sample."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from impasto.errors import ModelError, SettingsError, TrainingError
from impasto.progress import silent
from impasto.rendering import cells as module
from impasto.rendering.cells import Column, Grid, Sampling, columns_of, steps_wanted
from impasto.rendering.picture_grid import read
from PIL import Image, ImageFile

from ..leftovers import of_a_killed_process


@dataclass(frozen=True)
class Prompt:
    text: str
    seed: int


def render(grid, painter, progress):
    """The pictures of the grid by (row, column), those that are there."""
    whole = module.render(grid, painter, progress)
    places = {(row, column): files for row, cells in enumerate(whole.cells) for column, files in enumerate(cells)}
    return {place: read(file) for place, (file,) in places.items() if file.is_file()}


class ColourPainter:
    def __init__(self, not_finite=()):
        self.asked, self.encoded, self.used, self.not_finite = [], [], [], not_finite
        self.adapter = None

    def encode(self, texts):
        self.encoded += texts

    def use(self, adapter, strength):
        self.adapter = adapter
        self.used.append(adapter)

    def paint(self, text, seed, on_step):
        assert text in self.encoded
        for step in range(1, 3):
            on_step(step)
        step = int(self.adapter.parent.name[-6:]) if self.adapter else 0
        self.asked.append((step, text, seed))
        return None if step in self.not_finite else Image.new("RGB", (64, 48), (step % 256, seed % 256, len(text)))


@pytest.fixture
def run_folder(tmp_path):
    def save(step):
        adapter = tmp_path / "checkpoints" / f"step-{step:06d}" / "adapter.safetensors"
        adapter.parent.mkdir(parents=True)
        adapter.write_bytes(b"weights of step %d" % step)
        return adapter

    return {step: save(step) for step in (10, 20, 30)}


def grid_of(adapters, folder, **changes) -> Grid:
    grid = Grid(
        name="gardens",
        folder=Path(folder) / "grid",
        columns=columns_of("gardens", adapters, 6, {}),
        prompts=(Prompt("a harbour", 1), Prompt("a garden", 2)),
        sampling=Sampling(width=64, height=48, steps=2),
        strength=1.0,
        models="tiny",
    )
    return replace(grid, **changes)


def test_every_prompt_is_sampled_with_every_checkpoint_base_model_first(run_folder, tmp_path):
    painter = ColourPainter()
    cells = render(grid_of(run_folder, tmp_path), painter, silent)
    assert painter.asked == [
        (step, *prompt) for step in (0, 10, 20, 30) for prompt in (("a harbour", 1), ("a garden", 2))
    ]
    assert {place: picture.getpixel((0, 0)) for place, picture in cells.items()} == {
        (row, column): (10 * column, row + 1, len(text))
        for row, text in enumerate(("a harbour", "a garden"))
        for column in range(4)
    }
    assert painter.used[1:] == [None, *run_folder.values()]  # each LoRA is applied once, after a first trial


def test_a_finished_grid_is_read_back_without_sampling_or_encoding(run_folder, tmp_path):
    first = render(grid_of(run_folder, tmp_path), ColourPainter(), silent)
    painter = ColourPainter()
    again = render(grid_of(run_folder, tmp_path), painter, silent)
    assert not painter.asked and not painter.encoded and not painter.used
    assert {place: picture.tobytes() for place, picture in again.items()} == {
        place: picture.tobytes() for place, picture in first.items()
    }


def test_a_stop_loses_only_the_picture_being_made(run_folder, tmp_path):
    class Stopped(BaseException):
        pass

    class StoppingPainter(ColourPainter):
        def paint(self, text, seed, on_step):
            if len(self.asked) == 3:
                raise Stopped
            return super().paint(text, seed, on_step)

    with pytest.raises(Stopped):
        render(grid_of(run_folder, tmp_path), StoppingPainter(), silent)
    of_a_killed_process(tmp_path / "grid" / "step-000010.png").write_bytes(b"half a picture")
    painter = ColourPainter()
    cells = render(grid_of(run_folder, tmp_path), painter, silent)
    assert len(cells) == 8 and len(painter.asked) == 5
    assert len(list((tmp_path / "grid").iterdir())) == 8


def test_a_lora_of_another_model_is_refused_before_anything_is_sampled(run_folder, tmp_path):
    class OtherModelsPainter(ColourPainter):
        def use(self, adapter, strength):
            if adapter:
                raise ModelError("does not fit")

    painter = OtherModelsPainter()
    with pytest.raises(ModelError):
        render(grid_of(run_folder, tmp_path), painter, silent)
    assert not painter.asked and not painter.encoded


def test_a_new_checkpoint_and_a_new_prompt_sample_only_what_is_new(run_folder, tmp_path):
    newest = run_folder.pop(30)
    render(grid_of(run_folder, tmp_path), ColourPainter(), silent)
    painter = ColourPainter()
    render(grid_of(run_folder | {30: newest}, tmp_path), painter, silent)
    assert painter.asked == [(30, "a harbour", 1), (30, "a garden", 2)]
    painter = ColourPainter()
    prompts = (Prompt("a harbour", 1), Prompt("new", 5), Prompt("a garden", 2))
    render(grid_of(run_folder | {30: newest}, tmp_path, prompts=prompts), painter, silent)
    assert painter.asked == [(step, "new", 5) for step in (0, 10, 20, 30)]


@pytest.mark.parametrize(
    "changes",
    [
        {"sampling": Sampling(width=64, height=48, steps=3)},
        {"sampling": Sampling(width=64, height=48, steps=2, guidance=1.0)},
        {"sampling": Sampling(width=64, height=48, steps=2, sampler_name="heun")},
        {"sampling": Sampling(width=64, height=48, steps=2, scheduler="beta")},
        {"models": "another"},
        {"prompts": (Prompt("a harbour", 3), Prompt("a garden", 4))},
    ],
)
def test_whatever_changes_a_picture_makes_it_anew(run_folder, tmp_path, changes):
    render(grid_of(run_folder, tmp_path), ColourPainter(), silent)
    painter = ColourPainter()
    render(grid_of(run_folder, tmp_path, **changes), painter, silent)
    assert len(painter.asked) == 8


def test_another_strength_keeps_the_base_models_pictures(run_folder, tmp_path):
    render(grid_of(run_folder, tmp_path), ColourPainter(), silent)
    painter = ColourPainter()
    render(grid_of(run_folder, tmp_path, strength=0.5), painter, silent)
    assert {step for step, _, _ in painter.asked} == {10, 20, 30}


def test_a_checkpoint_written_anew_is_sampled_anew(run_folder, tmp_path):
    render(grid_of(run_folder, tmp_path), ColourPainter(), silent)
    run_folder[20].write_bytes(b"other weights")
    painter = ColourPainter()
    render(grid_of(run_folder, tmp_path), painter, silent)
    assert {step for step, _, _ in painter.asked} == {20}


@pytest.mark.parametrize("filled_in", [False, True])  # as other packs have Pillow do it
def test_a_damaged_picture_is_made_again(run_folder, tmp_path, monkeypatch, filled_in):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", filled_in)
    grid = grid_of(run_folder, tmp_path)
    render(grid, ColourPainter(), silent)
    damaged = sorted(grid.folder.iterdir())[0]
    damaged.write_bytes(damaged.read_bytes()[:-30])
    painter = ColourPainter()
    assert len(render(grid, painter, silent)) == 8
    assert len(painter.asked) == 1


def test_a_diverged_checkpoint_leaves_its_column_empty_and_the_log_says_so(run_folder, tmp_path, caplog):
    cells = render(grid_of(run_folder, tmp_path), ColourPainter(not_finite={20}), silent)
    assert {column for _, column in cells} == {0, 1, 3}
    assert "step 20" in caplog.text and "a harbour" in caplog.text


def test_models_that_give_no_finite_picture_at_all_are_named(run_folder, tmp_path):
    with pytest.raises(ModelError, match="MODEL, CLIP and VAE belong together"):
        render(grid_of(run_folder, tmp_path), ColourPainter(not_finite={0, 10, 20, 30}), silent)


def test_a_checkpoint_whose_file_is_gone_leaves_its_column_empty(run_folder, tmp_path, caplog):
    run_folder[20].unlink()
    cells = render(grid_of(run_folder, tmp_path), ColourPainter(), silent)
    assert {column for _, column in cells} == {0, 1, 3}
    assert str(run_folder[20]) in caplog.text


def test_the_same_prompt_and_seed_twice_is_sampled_once(run_folder, tmp_path):
    painter = ColourPainter()
    cells = render(grid_of(run_folder, tmp_path, prompts=(Prompt("a", 1), Prompt("a", 1))), painter, silent)
    assert len(cells) == 8 and len(painter.asked) == 4


def test_progress_never_goes_back_ends_full_and_shows_the_grid_so_far(run_folder, tmp_path):
    heard = []

    def hear(done, total, text="", preview=None):
        heard.append((done, total, text, preview))

    render(grid_of(run_folder, tmp_path), ColourPainter(), hear)
    done = [report[0] for report in heard]
    assert done == sorted(done) and heard[-1][0] == heard[-1][1] == 16  # 8 pictures of 2 steps
    assert sum(report[3] is not None for report in heard) == 8
    assert heard[0][2] == "Encoding the prompts" and heard[1][2].startswith("base model, prompt 1 of 2")


def test_a_kept_picture_says_how_it_was_made(run_folder, tmp_path):
    grid = grid_of(run_folder, tmp_path)
    render(grid, ColourPainter(), silent)
    with Image.open(sorted(grid.folder.glob("step-000020-*.png"))[0]) as picture:
        about = picture.text["impasto"]
    assert '"step": 20' in about and '"guidance": 3.5' in about


def test_columns_are_the_base_model_and_evenly_spread_checkpoints_up_to_the_last():
    adapters = {step: Path(f"{step}") for step in range(100, 2001, 100)}
    assert [column.step for column in columns_of("run", adapters, 6, {})] == [0, 400, 800, 1200, 1600, 2000]
    assert [column.step for column in columns_of("run", adapters, 2, {})] == [0, 2000]
    assert len(columns_of("run", adapters, 50, {})) == 21


def test_held_out_loss_is_written_below_its_step():
    columns = columns_of("run", {10: Path("a"), 20: Path("b")}, 6, {0: 1.0, 20: 0.51234})
    assert [column.label.note for column in columns] == ["held-out 1.0000", "", "held-out 0.5123"]
    assert columns[0] == Column(0, None, "held-out 1.0000")


def test_a_run_without_checkpoints_says_what_to_do():
    with pytest.raises(TrainingError, match=r"'gardens' has no checkpoint.*Let it train"):
        columns_of("gardens", {}, 6, {})


def test_the_steps_that_were_asked_for_are_the_columns_in_order():
    adapters = {step: Path(f"run/step-{step:06d}/adapter.safetensors") for step in (10, 20, 30)}
    columns = columns_of("run", adapters, 2, {10: 0.5, 20: 0.3, 30: 0.4}, "last; 0, best 10,10")
    assert [(column.step, column.adapter) for column in columns] == [(0, None), *adapters.items()]
    assert [column.step for column in columns_of("run", adapters, 2, {}, "20")] == [20]


def test_a_step_without_a_checkpoint_is_a_column_that_stays_empty(run_folder, tmp_path, caplog):
    columns = columns_of("gardens", run_folder, 6, {}, "0, 10, 15, 30")
    cells = render(grid_of(run_folder, tmp_path, columns=columns), ColourPainter(), silent)
    assert {column for _, column in cells} == {0, 1, 3}
    assert columns[2].label.text == "step 15" and "step 15 has no LoRA file" in caplog.text


def test_what_is_no_step_is_named_with_an_example():
    with pytest.raises(SettingsError, match="'soon' is no step.*'0, 250, best, last'"):
        steps_wanted("0, soon", {10: Path("a")}, None)
    with pytest.raises(SettingsError, match="at most 1000"):
        steps_wanted(" ".join(map(str, range(1001))), {10: Path("a")}, None)


def test_the_best_column_is_marked_where_at_least_two_were_measured():
    adapters = {10: Path("a"), 20: Path("b"), 30: Path("c")}
    columns = columns_of("run", adapters, 6, {0: 0.1, 10: 0.5, 20: 0.3, 30: float("nan")})
    assert [column.label.marked for column in columns] == [False, False, True, False]
    assert columns[2].label.note == "best, held-out 0.3000"
    assert not any(column.best for column in columns_of("run", adapters, 6, {0: 0.9, 10: 0.5}))


def test_several_seeds_share_a_cell_and_one_more_paints_only_its_pictures(run_folder, tmp_path):
    grid = grid_of(run_folder, tmp_path, seeds=(1, 2, 3))
    whole = module.render(grid, ColourPainter(), silent)
    assert [len(files) for cells in whole.cells for files in cells] == [3] * 8
    assert whole.cell_size == (2 * 64 + 2, 2 * 48 + 2) and whole.rows[0].note == "seeds 1, 2, 3"
    painter = ColourPainter()
    module.render(replace(grid, seeds=(1, 2, 3, 4)), painter, silent)
    assert {seed for _, _, seed in painter.asked} == {4} and len(painter.asked) == 8


def test_a_checkpoint_deleted_while_the_grid_is_painted_leaves_its_column_empty(run_folder, tmp_path, caplog):
    class DeletedUnderneath(ColourPainter):
        def use(self, adapter, strength):
            if adapter == run_folder[20]:
                raise FileNotFoundError(adapter)
            super().use(adapter, strength)

    cells = render(grid_of(run_folder, tmp_path), DeletedUnderneath(), silent)
    assert {column for _, column in cells} == {0, 1, 3} and "step 20 is gone" in caplog.text
