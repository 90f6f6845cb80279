"""Whether a connected dataset is the run's own, on a disk that a real training left behind."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from impasto.dataset.pictures import store_picture
from impasto.dataset.records import Dataset, write_manifest
from impasto.errors import SettingsError
from impasto.publishing.own_dataset import check_own
from impasto.trainers.features import index
from impasto.trainers.run.folder import Job, Run

from ..curation.test_exports import painted
from ..golden.record_version import VERSIONS, unpack
from ..small_sources import picture_bytes


@pytest.fixture
def run(tmp_path) -> Run:
    root = unpack(VERSIONS[0], tmp_path / "disk")
    folder = next(folder for folder in sorted((root / "runs").iterdir()) if (folder / "metrics.jsonl").is_file())
    return Run(folder.name, str(folder))


@pytest.fixture
def own(run) -> Dataset:
    """The dataset that went into the run's config, which is the folder above its training files."""
    job = Job.read(run)
    pictures = index.pictures(index.Features(job.features_folder, job.features_key))
    train = pictures[0].path.parent
    folder = train.parent.parent
    return Dataset(folder.name, str(folder), train.name.removesuffix("-alpha"))


def test_the_run_s_own_dataset_is_taken_also_with_other_captions(run, own):
    assert check_own(run, own) == ""
    first = own.records()[0]
    assert check_own(run, own.with_texts({first.sha256: "written anew"})) == ""


def test_a_picture_that_was_written_anew_for_training_is_known_by_its_name(run, own):
    """As Dataset TOML Writer does with one that is transparent or turned: its content is another then."""
    job = Job.read(run)
    features = index.Features(job.features_folder, job.features_key)
    one = next(iter(example.image for example in index.load(features).examples))
    record = next(record for record in own.records() if record.sha256 == one)
    stored = record.sha256[:16] + "f" * 48  # the stored picture, of which the training file is a version
    records = [replace(other, sha256=stored) if other == record else other for other in own.records()]
    assert check_own(run, write_manifest(own.folder, records)) == ""


def test_another_dataset_is_refused_with_how_many_pictures_are_not_in_it(run, own, tmp_path):
    other = painted(tmp_path / "other", rights="Public domain")
    count = len(own.records())
    with pytest.raises(SettingsError, match=f"{count} of the {count} pictures .* Dataset TOML Writer") as refused:
        check_own(run, other)
    assert run.id in str(refused.value) and other.revision in str(refused.value) and own.revision in str(refused.value)
    fewer = write_manifest(own.folder, own.records()[1:])
    with pytest.raises(SettingsError, match=f"1 of the {count} pictures"):
        check_own(run, fewer)


def test_a_dataset_that_has_more_is_taken_and_told_of(run, own):
    stored = store_picture(Path(own.folder), picture_bytes(99))
    more = replace(own.records()[0], file_name=stored.file_name, sha256=stored.sha256)
    count = len(own.records())
    assert f"{count} of the {count + 1} pictures" in check_own(run, write_manifest(own.folder, [*own.records(), more]))


def test_without_the_training_data_it_says_that_it_could_not_be_checked(run, own):
    shutil.rmtree(Job.read(run).features_folder)
    assert "could not be checked" in check_own(run, own)
