"""Launch profiles: built in, or a file that the server's owner has put where a graph can only name it."""

import pytest
import torch
from impasto.errors import NameRefused, TrainingError
from impasto.trainers.profiles import ALL, ONE, SINGLE_PROCESS, launch_arguments, names

SINGLE = ["--config_file", str(SINGLE_PROCESS)]


def test_the_files_in_the_folder_are_offered_after_the_built_in_ones(tmp_path):
    (tmp_path / "two-cards.yaml").touch()
    (tmp_path / "notes.txt").touch()
    assert names(tmp_path) == [ONE, ALL, "two-cards.yaml"]
    assert names(tmp_path / "missing") == [ONE, ALL]


def test_all_gpus_are_as_many_processes_as_there_are_cards(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert launch_arguments(ALL, tmp_path) == [*SINGLE, "--multi_gpu", "--num_processes", "4"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert launch_arguments(ALL, tmp_path) == launch_arguments(ONE, tmp_path) == SINGLE


def test_a_file_is_chosen_by_its_name(tmp_path):
    (tmp_path / "two-cards.yaml").touch()
    assert launch_arguments("two-cards.yaml", tmp_path) == ["--config_file", str(tmp_path / "two-cards.yaml")]


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/b.yaml", ".."])
def test_a_name_that_leaves_the_folder_is_refused(tmp_path, name):
    with pytest.raises(NameRefused):
        launch_arguments(name, tmp_path)


def test_a_missing_profile_is_answered_with_those_there_are_and_how_to_make_it(tmp_path):
    with pytest.raises(TrainingError, match=r"no launch profile 'four.yaml'.*this GPU.*accelerate config"):
        launch_arguments("four.yaml", tmp_path)
