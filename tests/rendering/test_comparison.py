"""The base model beside LoRAs; the painter draws colours at once."""

import pytest
from impasto.errors import SettingsError
from impasto.progress import silent
from impasto.rendering.comparison import Comparison, NamedLora, compare, labelled, pairs, strengths_of
from impasto.rendering.painting import Sampling
from impasto.rendering.picture_grid import read
from PIL import Image

from .test_cells import Prompt


class StrengthPainter:
    """A picture is as red as the LoRA is strong, and as green as its file is long."""

    def __init__(self):
        self.used, self.asked, self.now = [], [], (None, 0.0)

    def encode(self, texts):
        self.encoded = list(texts)

    def use(self, adapter, strength):
        adapter and adapter.stat()  # raises where it is gone
        self.now = (adapter, strength)
        self.used.append(self.now)

    def paint(self, text, seed, on_step):
        adapter, strength = self.now
        self.asked.append((adapter and adapter.name, strength, text, seed))
        red = round(100 + 50 * strength) if adapter else 0
        return Image.new("RGB", (64, 48), (red, len(adapter.read_bytes()) if adapter else 0, seed % 256))


def comparison(tmp_path, **changes):
    files = []
    for name, size in (("soft", 11), ("hard", 22)):
        file = tmp_path / f"{name}.safetensors"
        file.write_bytes(b"x" * size)
        files.append(NamedLora(name, file))
    given = {
        "folder": tmp_path / "cells",
        "loras": tuple(files[:1]),
        "strengths": (1.0,),
        "prompts": (Prompt("a harbour", 1), Prompt("a garden", 2)),
        "sampling": Sampling(64, 48, 2),
        "models": "tiny",
    }
    return Comparison(**given | changes), files


def colours(grid):
    return [[read(file).getpixel((0, 0)) if file.is_file() else None for (file,) in row] for row in grid.cells]


def test_the_base_model_stands_first_and_the_lora_beside_it_with_the_same_seed(tmp_path):
    asked, _ = comparison(tmp_path)
    painter = StrengthPainter()
    grid = compare(asked, painter, silent)
    assert [column.text for column in grid.columns] == ["base model", "strength 1"]
    assert colours(grid) == [[(0, 0, 1), (150, 11, 1)], [(0, 0, 2), (150, 11, 2)]]
    assert painter.asked[:2] == [(None, 0.0, "a harbour", 1), (None, 0.0, "a garden", 2)]


def test_a_sweep_is_a_row_with_the_base_model_where_zero_stands(tmp_path):
    asked, files = comparison(tmp_path, strengths=strengths_of("-0.5, 0, 0.5, 1, 1.5"), prompts=(Prompt("a", 3),))
    painter = StrengthPainter()
    grid = compare(asked, painter, silent)
    assert [column.text for column in grid.columns] == [
        "strength −0.5",
        "base model",
        *(f"strength {each}" for each in (0.5, 1, 1.5)),
    ]
    assert [red for red, _, _ in colours(grid)[0]] == [75, 0, 125, 150, 175]
    put_on = [strength for adapter, strength in painter.used if adapter]
    assert put_on[1:] == [-0.5, 0.5, 1.0, 1.5]  # each once, after the trial of the first


def test_several_loras_are_rows_and_the_base_model_is_painted_once_for_all(tmp_path):
    _, files = comparison(tmp_path)
    asked, _ = comparison(tmp_path, loras=tuple(files), prompts=(Prompt("a", 3),))
    painter = StrengthPainter()
    grid = compare(asked, painter, silent)
    assert [row.text for row in grid.rows] == ["soft", "hard"] and len(painter.asked) == 3
    assert colours(grid) == [[(0, 0, 3), (150, 11, 3)], [(0, 0, 3), (150, 22, 3)]]
    assert grid.title.text == "Base and 2 LoRAs" and grid.title.note.startswith("a,")


def test_queueing_again_paints_nothing_and_another_strength_only_its_own(tmp_path):
    asked, _ = comparison(tmp_path)
    compare(asked, StrengthPainter(), silent)
    painter = StrengthPainter()
    compare(asked, painter, silent)
    assert not painter.asked and not painter.used
    compare(comparison(tmp_path, strengths=(0.5, 1.0))[0], painter, silent)
    assert {strength for _, strength, _, _ in painter.asked} == {0.5}


def test_a_lora_that_is_gone_leaves_its_row_empty_but_for_the_base_model(tmp_path, caplog):
    _, files = comparison(tmp_path)
    asked, _ = comparison(tmp_path, loras=tuple(files), prompts=(Prompt("a", 3),))
    files[1].file.unlink()
    grid = compare(asked, StrengthPainter(), silent)
    assert colours(grid) == [[(0, 0, 3), (150, 11, 3)], [(0, 0, 3), None]] and "hard is gone" in caplog.text


def test_pairs_are_the_base_models_picture_and_each_of_a_lora(tmp_path):
    asked, _ = comparison(tmp_path, strengths=(-1.0, 0.0, 1.0), seeds=(5, 6))
    grid = compare(asked, StrengthPainter(), silent)
    found = [(base.getpixel((0, 0)), tuned.getpixel((0, 0))) for base, tuned in pairs(asked, grid)]
    row = [((0, 0, seed), (red, 11, seed)) for red in (50, 150) for seed in (5, 6)]
    assert found == row * 2


def test_loras_bear_their_names_without_the_ending_and_each_file_is_one_row(tmp_path):
    names = ["styles/monet.safetensors", "hard.safetensors", "styles/monet.safetensors"]
    files = [tmp_path / name for name in names]
    assert [lora.label for lora in labelled(names, files)] == ["styles/monet", "hard"]


def test_strengths_are_read_in_their_order_each_once():
    assert strengths_of(" 1, \u22120.5; 1.0 .25 -0 ") == (1.0, -0.5, 0.25, 0.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("strong", "'strong' is no strength.*'-0.5, 0.5, 1, 1.5'"),
        ("11", "'11' is no strength. Write numbers from -10 to 10"),
        ("nan", "'nan' is no strength"),
        ("1e3", "'1e3' is no strength"),
        ("0", "no strength to compare"),
        ("", "no strength to compare"),
        (" ".join(f"0.{number:03d}" for number in range(1, 60)), "59 strengths.*at most 50"),
    ],
)
def test_what_is_no_strength_is_named(text, said):
    with pytest.raises(SettingsError, match=said):
        strengths_of(text)
