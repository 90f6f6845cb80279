"""Launch profiles: built in, or a file that the server's owner has put where a graph can only name it."""

import shlex

import pytest
import torch
from impasto.errors import NameRefused, TrainingError
from impasto.trainers.flux import sharding
from impasto.trainers.run.launch_profiles import ALL, ONE, SHARDED, SINGLE_PROCESS, launch_arguments, names

SINGLE = ["--config_file", str(SINGLE_PROCESS)]


def test_the_files_in_the_folder_are_offered_after_the_built_in_ones(tmp_path):
    (tmp_path / "two-cards.yaml").touch()
    (tmp_path / "notes.txt").touch()
    assert names(tmp_path) == [ONE, ALL, SHARDED, "two-cards.yaml"]
    assert names(tmp_path / "missing") == [ONE, ALL, SHARDED]


def test_all_gpus_are_as_many_processes_as_there_are_cards(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert launch_arguments(ALL, tmp_path) == [*SINGLE, "--multi_gpu", "--num_processes", "4"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert {*map(tuple, (launch_arguments(name, tmp_path) for name in (ONE, ALL, SHARDED)))} == {tuple(SINGLE)}


PROFILE = """
compute_environment: LOCAL_MACHINE
distributed_type: FSDP
fsdp_config:
  fsdp_version: 2
  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP
  fsdp_reshard_after_forward: true
  fsdp_offload_params: false
machine_rank: 0
num_machines: 1
num_processes: 2
mixed_precision: bf16
use_cpu: false
"""


@pytest.mark.parametrize("profile", [SHARDED, "sharded.yaml"])
def test_a_profile_that_shards_reaches_the_trainer_through_accelerates_own_launcher(tmp_path, monkeypatch, profile):
    """Up to the environment of the processes: accelerate starts those of FSDP on GPUs only."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    (tmp_path / "sharded.yaml").write_text(PROFILE)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    arguments = launch_command_parser().parse_args([*launch_arguments(profile, tmp_path), "process.py"])
    arguments, *_ = _validate_launch_command(arguments)
    environment = prepare_multi_gpu_env(arguments)
    assert arguments.use_fsdp and arguments.num_processes == 2
    for name in ("ACCELERATE_USE_FSDP", "FSDP_OFFLOAD_PARAMS"):
        monkeypatch.setenv(name, environment[name])
    assert sharding.asked_for() and not sharding.asked_for()


def test_a_file_is_chosen_by_its_name(tmp_path):
    (tmp_path / "two-cards.yaml").touch()
    assert launch_arguments("two-cards.yaml", tmp_path) == ["--config_file", str(tmp_path / "two-cards.yaml")]


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/b.yaml", ".."])
def test_a_name_that_leaves_the_folder_is_refused(tmp_path, name):
    with pytest.raises(NameRefused):
        launch_arguments(name, tmp_path)


def test_a_missing_profile_is_answered_with_those_there_are_and_how_to_make_it(tmp_path):
    folder = tmp_path / "my profiles"
    with pytest.raises(TrainingError, match=r"no launch profile 'four.yaml'") as raised:
        launch_arguments("four.yaml", folder)
    listed, _, command = str(raised.value).partition(" or make it with: ")
    assert f"'{ONE}', '{ALL}', '{SHARDED}';" in listed
    assert shlex.split(command) == ["accelerate", "config", "--config_file", str(folder / "four.yaml")]
