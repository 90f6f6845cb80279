"""Finding a dataset by its name."""

import os

import pytest
from impasto.dataset.records import Record, write_manifest
from impasto.dataset.stored import stored_dataset, stored_names
from impasto.errors import DatasetError, NameRefused


def written(root, name, text, at):
    record = Record("images/ab.png", "ab" * 32, 8, 8, 100, text)
    dataset = write_manifest(root / name, [record])
    os.utime(dataset.manifest, (at, at))
    return dataset


def test_the_revision_that_was_written_last_is_taken_and_an_earlier_one_by_its_name(tmp_path):
    first, second = written(tmp_path, "monets", "", 1_000), written(tmp_path, "monets", "a pond", 2_000)
    assert stored_dataset(tmp_path, "monets") == second
    assert stored_dataset(tmp_path, "monets", first.revision) == first
    os.utime(first.manifest, (3_000, 3_000))
    assert stored_dataset(tmp_path, "monets").records()[0].text == ""


def test_a_folder_that_no_loader_made_is_no_dataset(tmp_path):
    (tmp_path / "source").mkdir()
    written(tmp_path, "monets", "", 1_000)
    assert stored_names(tmp_path) == ["monets"]
    with pytest.raises(DatasetError, match="no dataset 'source'.*There are: monets"):
        stored_dataset(tmp_path, "source")


def test_a_revision_that_is_not_there_is_named_with_those_that_are(tmp_path):
    dataset = written(tmp_path, "monets", "", 1_000)
    with pytest.raises(DatasetError, match=f"no revision 'ffff'.*{dataset.revision}"):
        stored_dataset(tmp_path, "monets", "ffff")


@pytest.mark.parametrize("name", ["../monets", "", "a/b"])
def test_a_path_is_no_name(tmp_path, name):
    with pytest.raises(NameRefused):
        stored_dataset(tmp_path, name)


def test_of_several_roots_the_one_that_holds_the_dataset_counts(tmp_path):
    (tmp_path / "first" / "monets").mkdir(parents=True)
    dataset = written(tmp_path / "second", "monets", "", 1_000)
    assert stored_dataset([tmp_path / "first", tmp_path / "second"], "monets").folder == dataset.folder
