"""Sources and datasets in more than one "datasets" folder, as extra_model_paths.yaml gives them to ComfyUI."""

from __future__ import annotations

from pathlib import Path

import pytest
from impasto.dataset.config_editor import find_toml
from impasto.errors import DatasetError, NameRefused
from impasto.sources.folder import find_folder, load_folder
from impasto.sources.opening import source_fingerprint
from impasto.sources.plan import Request
from impasto.sources.source import cache_folder
from impasto.sources.wikiart import load_paintings

from ..small_sources import picture_bytes


@pytest.fixture
def roots(tmp_path: Path, datasets_root: Path, mixed_source) -> list[Path]:
    """A new, empty root before one that has sources."""
    (tmp_path / "second disk").mkdir()
    return [tmp_path / "second disk", datasets_root]


def test_a_source_is_found_in_any_root_and_its_dataset_is_new_in_the_first(roots):
    dataset = load_paintings(roots, Request("museum", "few", count=3)).dataset
    assert Path(dataset.folder) == roots[0] / "few"
    assert source_fingerprint(roots, "museum") == source_fingerprint(roots[1], "museum")


def test_a_dataset_goes_on_where_it_lies(roots):
    before = load_paintings(roots[1], Request("museum", "few", count=3)).dataset
    after = load_paintings(roots, Request("museum", "few", count=3)).dataset
    assert after == before and not (roots[0] / "few").exists()


def test_an_error_lists_what_there_is_in_every_root(roots):
    with pytest.raises(DatasetError, match=r"under .*second disk or .* museum") as failure:
        load_paintings(roots, Request("nothing", "few"))
    assert "Choose one of these: " in str(failure.value)
    (roots[0] / "pictures").mkdir()
    with pytest.raises(DatasetError, match=r"one of these: .*museum.*pictures"):
        find_folder(roots, "nothing")


def test_no_dataset_takes_the_name_of_a_source_in_another_root(roots):
    with pytest.raises(NameRefused, match="is that of a source"):
        load_paintings(roots, Request("museum", "museum"))


def test_folders_and_configs_are_found_in_any_root(roots):
    folder = roots[1] / "by hand"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(picture_bytes(1))
    (folder / "mine.toml").touch()
    assert find_toml(roots, "by hand/mine.toml") == folder / "mine.toml"
    dataset, _ = load_folder(roots, roots, "by hand", "mine", "JPEG")
    assert Path(dataset.folder) == roots[0] / "mine" and len(dataset.records()) == 1
    with pytest.raises(NameRefused, match="into the folder that it is made from"):
        load_folder(roots, roots, "by hand", "by hand", "JPEG")


def test_what_was_fetched_before_the_first_root_came_is_not_fetched_again(roots):
    old = cache_folder(roots[1], "huggan--wikiart")
    old.mkdir(parents=True)
    assert cache_folder(roots, "huggan--wikiart") == old
    assert cache_folder(roots, "museum--other").is_relative_to(roots[0])
