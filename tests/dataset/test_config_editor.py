"""TOMLs that people wrote for sd-scripts: read by our trainer too, and rewritten with what they noted."""

from __future__ import annotations

from pathlib import Path

import pytest
import tomlkit
from impasto.dataset import config_reader as dataset_config
from impasto.dataset.config_editor import Changes, find_toml, rewrite_dataset_toml, written_toml_fingerprint
from impasto.errors import DatasetError, NameRefused, SettingsError

from ..small_sources import picture_bytes

BY_HAND = """# my gardens
[general]
enable_bucket = true # always
caption_extension = ".txt"

[[datasets]]
resolution = 512 # enough for now
batch_size = 2

  # the good ones
  [[datasets.subsets]]
  image_dir = "l'été" # in the sun
  num_repeats = 3

[[datasets]]
# larger
resolution = [768, 512]
batch_size = 2
  [[datasets.subsets]]
  image_dir = '山 "2"'
"""


@pytest.fixture
def by_hand(tmp_path: Path) -> Path:
    for number, name in enumerate(("l'été", '山 "2"')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jpg").write_bytes(picture_bytes(number))
        (tmp_path / name / "a.txt").write_text(f'caption "{number}" ü\n', encoding="utf-8")
    path = tmp_path / "mine.toml"
    path.write_text(BY_HAND, encoding="utf-8")
    return path


def comments(path: str | Path) -> list[str]:
    return [line.partition("#")[2] for line in Path(path).read_text(encoding="utf-8").splitlines() if "#" in line]


def test_a_copy_with_nothing_changed_names_the_same_pictures_and_keeps_every_comment(by_hand):
    config = rewrite_dataset_toml(by_hand, Changes())
    read, copied = (dataset_config.read(path) for path in (by_hand, config.path))

    assert copied.datasets == read.datasets
    assert [picture.caption for picture in dataset_config.pictures(copied)] == ['caption "0" ü', 'caption "1" ü']
    assert comments(config.path) == comments(by_hand)
    assert by_hand.read_text(encoding="utf-8") == BY_HAND


def test_what_is_changed_is_changed_everywhere_and_comments_stay(by_hand):
    config = rewrite_dataset_toml(by_hand, Changes(resolution=640, batch_size=4, num_repeats=5))
    group = dataset_config.read(config.path)

    assert [dataset.buckets.resolution for dataset in group.datasets] == [(640, 640)] * 2
    assert [dataset.batch_size for dataset in group.datasets] == [4, 4]
    assert [subset.num_repeats for dataset in group.datasets for subset in dataset.subsets] == [5, 5]
    assert comments(config.path) == comments(by_hand)


def test_flux_trainer_finds_the_resolution_of_each_dataset_as_a_list(by_hand):
    inherited = BY_HAND.replace("resolution = 512 # enough for now\n", "")
    by_hand.write_text(inherited.replace("[general]", "[general]\nresolution = 512"), encoding="utf-8")
    text = Path(rewrite_dataset_toml(by_hand, Changes(target="FluxTrainer")).path).read_text(encoding="utf-8")
    assert [table["resolution"] for table in tomlkit.parse(text)["datasets"]] == [[512, 512], [768, 512]]


@pytest.mark.parametrize(
    "key",
    ["validation_split = 0.1", "validation_seed = 1", 'resize_interpolation = "lanczos"', "skip_image_resolution = 0"],
)
def test_a_key_that_flux_trainer_does_not_know_is_refused_by_name(by_hand, key):
    by_hand.write_text(BY_HAND.replace("# larger", key), encoding="utf-8")
    with pytest.raises(DatasetError, match=key.split()[0]):
        rewrite_dataset_toml(by_hand, Changes(target="FluxTrainer"))
    rewrite_dataset_toml(by_hand, Changes())


def test_a_copy_of_a_copy_is_the_copy(by_hand):
    config = rewrite_dataset_toml(by_hand, Changes(resolution=640))
    assert rewrite_dataset_toml(Path(config.path), Changes(resolution=640)) == config


@pytest.mark.parametrize("text", ["[datasets", "", "datasets = 1\n", "\ufeff[general]\n"])
def test_a_file_that_is_no_dataset_config_is_named(by_hand, text):
    by_hand.write_text(text, encoding="utf-8")
    with pytest.raises(DatasetError, match=r"mine\.toml"):
        rewrite_dataset_toml(by_hand, Changes())


@pytest.mark.parametrize("file", ["../mine.toml", "/etc/x.toml", "", "a/../mine.toml"])
def test_a_file_outside_the_root_is_refused(by_hand, file):
    with pytest.raises(NameRefused):
        find_toml(by_hand.parent, file)


def test_a_file_under_the_root_is_found_by_its_name(by_hand):
    assert find_toml(by_hand.parent, " mine.toml ") == by_hand
    with pytest.raises(DatasetError, match="no TOML file 'other.toml'"):
        find_toml(by_hand.parent, "other.toml")


def test_changes_out_of_range_are_named():
    with pytest.raises(SettingsError, match="batch_size is -1"):
        Changes(batch_size=-1)


def test_a_metadata_file_is_found_from_anywhere_too(tmp_path):
    (tmp_path / "a.jpg").write_bytes(picture_bytes(1))
    (tmp_path / "mine.json").write_text('{"a.jpg": {"caption": "a barn"}}', encoding="utf-8")
    path = tmp_path / "mine.toml"
    path.write_text(
        '[[datasets]]\nresolution = 512\nenable_bucket = true\n[[datasets.subsets]]\nmetadata_file = "mine.json"\n'
        'image_dir = "."\n',
        encoding="utf-8",
    )
    copy = rewrite_dataset_toml(path, Changes()).path
    [subset] = tomlkit.parse(Path(copy).read_text(encoding="utf-8"))["datasets"][0]["subsets"]
    assert Path(subset["metadata_file"]) == tmp_path / "mine.json"
    assert [picture.caption for picture in dataset_config.pictures(dataset_config.read(copy))] == ["a barn"]


@pytest.mark.parametrize("change", ["rewritten", "added", "removed"])
def test_a_picture_or_caption_that_changes_makes_it_another_config(by_hand, change):
    def found() -> tuple[str, str]:
        return written_toml_fingerprint(by_hand), rewrite_dataset_toml(by_hand, Changes()).hash

    before = found()
    (by_hand.parent / "l'été" / "a_flux.npz").write_bytes(b"what a trainer caches")
    assert found() == before
    folder = by_hand.parent / "l'été"
    if change == "rewritten":
        (folder / "a.txt").write_text("another caption", encoding="utf-8")
    elif change == "added":
        (folder / "b.jpg").write_bytes(picture_bytes(2))
    else:
        (folder / "a.jpg").unlink()
    assert all(now != then for now, then in zip(found(), before, strict=True))


def test_a_metadata_file_and_the_config_itself_are_looked_at_too(tmp_path):
    path, metadata = tmp_path / "mine.toml", tmp_path / "mine.json"
    metadata.write_text("{}")
    path.write_text('[[datasets]]\n[[datasets.subsets]]\nmetadata_file = "mine.json"\nimage_dir = "not there"\n')
    seen = [written_toml_fingerprint(path)]
    metadata.write_text('{"a.jpg": {"caption": "a barn"}}')
    seen.append(written_toml_fingerprint(path))
    path.write_text(path.read_text() + "num_repeats = 2\n")
    seen.append(written_toml_fingerprint(path))
    assert len(set(seen)) == 3


def test_copies_beside_the_pictures_are_no_change(by_hand):
    by_hand.write_text(BY_HAND.replace("l'été", "."), encoding="utf-8")
    before = written_toml_fingerprint(by_hand), rewrite_dataset_toml(by_hand, Changes()).hash
    rewrite_dataset_toml(by_hand, Changes(batch_size=4))
    assert (written_toml_fingerprint(by_hand), rewrite_dataset_toml(by_hand, Changes()).hash) == before
