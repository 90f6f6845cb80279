"""Pictures on a list are set aside or weigh less, and are back when the list is taken away."""

from pathlib import Path

import pytest
import tomlkit
from impasto.curation.watched import RULE, parted, set_aside
from impasto.dataset.config_writer import HEAVIER, TomlSettings, write_dataset_toml
from impasto.errors import DatasetError
from impasto.sources.folder import load_folder
from PIL import Image


@pytest.fixture
def dataset(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(5):
        Image.effect_noise((300, 280), 20 + 10 * number).convert("RGB").save(pictures / f"{number}.png")
        (pictures / f"{number}.txt").write_text(f"noise {number}")
    return load_folder(tmp_path / "datasets", tmp_path, "pictures", "noise", "input")[0]


def first_two(dataset):
    return {record.sha256[:8]: "too hard" for record in dataset.records()[:2]}


def test_listed_pictures_are_refused_with_their_reason_and_the_dataset_stays_as_it_was(dataset):
    before = dataset.records()
    kept, count = set_aside(dataset, first_two(dataset) | {"00000000": "of another set"})
    assert count == 2
    assert kept.records() == before[2:] and dataset.records() == before
    assert [(each.rule, each.reason) for each in kept.refusals()] == [(RULE, "too hard")] * 2
    assert set_aside(dataset, {}) == (dataset, 0)


def test_a_list_of_all_pictures_is_refused(dataset):
    with pytest.raises(DatasetError, match="All 5 pictures of dataset 'noise' are watched"):
        set_aside(dataset, {record.sha256: "" for record in dataset.records()})


def test_listed_pictures_come_half_as_often_as_the_others(dataset):
    settings = TomlSettings(resolution=256, num_repeats=3)
    whole = write_dataset_toml(dataset, settings)
    kept, lighter = parted(dataset, first_two(dataset))
    config = write_dataset_toml(kept, settings, lighter=lighter)
    (block,) = tomlkit.parse(Path(config.path).read_text(encoding="utf-8"))["datasets"]
    repeats = {len(list(Path(each["image_dir"]).glob("*.png"))): each["num_repeats"] for each in block["subsets"]}
    assert repeats == {3: 3 * HEAVIER, 2: 3}
    assert config.hash != whole.hash and config.path != whole.path
    assert write_dataset_toml(*parted(dataset, {})[:1], settings) == whole
