"""What a power cut or a dying disk does to the files of a run: it ends at the same weights, or says what to delete."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from impasto.errors import TrainingError
from impasto.trainers.run import checkpoints
from impasto.trainers.run import folder as runs
from impasto.trainers.run.create import continue_run
from impasto.trainers.run.publish import publish
from safetensors.torch import load_file

from .conftest import train

SMALL = {"sample_steps": 0, "rank": 2, "alpha": 2.0, "targets": "image attention"}  # over 8 steps, saved every 4


def tensors(file):
    """In memory: `load_file` maps the file, and what is done to it would show in them."""
    return {key: tensor.clone() for key, tensor in load_file(file).items()}


def lora(run, step):
    return tensors(run.checkpoints()[step] / "adapter.safetensors")


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file):
    file.write_bytes(b"")


def flip(file):
    """Change one bit in the middle, as a bad disk or bad memory does."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


@pytest.fixture
def stopped(make_run):
    """Make copies of a run that was stopped at step 6: step 4 was validated, and both can be gone on from."""
    run = make_run("stopped", **SMALL)
    train(run, stop_at=6)
    assert list(run.checkpoints()) == [4, 6]

    def copy(name):
        folder = run.path.parent.parent / name / run.id
        shutil.copytree(run.path, folder)
        return runs.Run(run.id, str(folder))

    return copy


def test_a_damaged_file_is_passed_by_and_the_run_ends_at_the_same_weights(make_run, stopped):
    whole = make_run("whole", **SMALL)
    assert train(whole)
    cases = {
        "status-cut": ("status.json", cut),
        "status-empty": ("status.json", empty),
        "state-cut": ("checkpoints/step-000006/state.pt", cut),
        "state-empty": ("checkpoints/step-000006/state.pt", empty),
        "state-flipped": ("checkpoints/step-000006/state.pt", flip),
        "adapter-cut": ("checkpoints/step-000006/adapter.safetensors", cut),
        "adapter-flipped": ("checkpoints/step-000006/adapter.safetensors", flip),
        "metrics-cut": ("metrics.jsonl", cut),
    }
    for name, (file, damage) in cases.items():
        run = stopped(name)
        damage(run.path / file)
        assert train(run), name
        status = run.status()
        assert (status["state"], status["step"]) == ("finished", 8), name
        for step in (4, 8):
            found, wanted = lora(run, step), lora(whole, step)
            assert all(torch.equal(found[key], wanted[key]) for key in wanted), (name, step)
        aside = [path.name for path in run.path.glob("checkpoints/damaged-*")]
        assert aside == (["damaged-step-000006"] if name.startswith("state") else []), name
        assert ("state.pt" in status["warning"] and "step 4" in status["warning"]) == bool(aside), name


def test_a_run_with_no_whole_state_says_what_to_delete_and_then_comes_to_the_same_weights(make_run):
    run = make_run(**SMALL, steps=4)
    assert train(run)
    wanted = lora(run, 4)
    cut(run.checkpoints()[4] / "state.pt")
    (run.path / "status.json").unlink()
    assert not train(run)
    said = run.status()["error"]
    assert "state.pt is not whole" in said and f"Delete the folder {run.path / 'checkpoints'}, and queue again" in said
    assert "weights_only" not in said and list(run.checkpoints()) == [4]
    shutil.rmtree(run.path / "checkpoints")
    assert train(run)
    assert all(torch.equal(lora(run, 4)[key], wanted[key]) for key in wanted)


def test_a_finished_runs_damaged_state_is_not_continued_and_is_named(make_run, tmp_path, tiny_weights):
    run = make_run(**SMALL, steps=4)
    assert train(run)
    flip(run.checkpoints()[4] / "state.pt")
    job = runs.Job.read(run)
    with pytest.raises(TrainingError, match=r"step-000004 is damaged: .*state\.pt.*Delete the folder .*status\.json"):
        continue_run(tmp_path / "runs", run, 4, tiny_weights, job.fingerprint)


def test_a_continued_run_without_its_first_checkpoint_does_not_begin_at_step_0(make_run, tmp_path, tiny_weights):
    run = make_run(**SMALL, steps=4)
    assert train(run)
    longer = continue_run(tmp_path / "runs", run, 4, tiny_weights, runs.Job.read(run).fingerprint)
    (longer.checkpoints()[4] / "state.pt").unlink()
    assert not train(longer)
    assert "there is no checkpoint to begin with. Delete the folder" in longer.status()["error"]


@pytest.mark.parametrize("content", ["", "[training]\n", 'name = "tiny"\n', "name = 3\n[training]\n[inputs]\n"])
def test_settings_that_lost_a_part_are_named_and_queueing_the_run_again_mends_them(make_run, content):
    run = make_run(**SMALL)
    file = run.path / "settings.toml"
    whole = file.read_bytes()
    file.write_text(content)
    with pytest.raises(TrainingError, match=r"settings\.toml is damaged.*Queue FLUX LoRA Trainer"):
        runs.Job.read(run)
    assert make_run(**SMALL) == run and file.read_bytes() == whole


@pytest.mark.parametrize("content", [b"", b"{", b'{"state": "fini', b"[]", b"null", b"\xff\xfe", b'{"state": 3}'])
def test_a_damaged_status_counts_for_nothing(make_run, content):
    run = make_run(**SMALL)
    (run.path / "status.json").write_bytes(content)
    assert run.status() == {} and not run.finished


def test_what_is_foreign_among_the_runs_does_not_hide_the_latest_and_is_told(make_run, tmp_path, caplog):
    run = make_run(**SMALL)
    (run.path / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": 0.5}) + "\n")
    root = tmp_path / "runs"
    for name, content in {"notes": b"", "other-12345678": b"\xff", "a (copy)": b"x = 1", ".hidden": b""}.items():
        (root / name).mkdir()
        (root / name / "settings.toml").write_bytes(content)
        (root / name / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    (root / "file.txt").write_text("not a run")
    (root / "odd" / "settings.toml").mkdir(parents=True)
    assert set(runs.list_runs(root)) == {run.id, "notes", "other-12345678", "a (copy)"}
    assert runs.find_run(root, runs.LATEST) == run
    assert {"'notes' is passed over", "'other-12345678' is passed over"} <= {
        line.removeprefix("The run ").split(":")[0] for line in caplog.messages
    }
    (run.path / "settings.toml").unlink()
    with pytest.raises(TrainingError, match=r"None of the runs.*'notes' is passed over: .*settings\.toml"):
        runs.find_run(root, runs.LATEST)


def test_a_folder_or_file_that_only_looks_like_a_checkpoint_is_none(tmp_path):
    (tmp_path / "step-000007").write_text("a file")
    assert checkpoints.found(tmp_path) == {} and checkpoints.set_aside_damaged(tmp_path) == ""


def test_a_finished_runs_flipped_lora_is_not_published_but_written_anew_from_its_state(make_run, tmp_path):
    run = make_run(**SMALL)
    assert train(run)
    wanted = lora(run, 8)
    flip(run.checkpoints()[8] / "adapter.safetensors")
    with pytest.raises(TrainingError, match=r"step-000008.*damaged.*Delete .*status\.json, and queue.*whole: 4"):
        publish(run, "tiny", tmp_path / "loras")
    (run.path / "status.json").unlink()
    assert train(run)
    final = publish(run, "tiny", tmp_path / "loras")
    assert all(torch.equal(load_file(final)[key], wanted[key]) for key in wanted)


def test_a_flipped_published_lora_is_published_anew_and_a_flipped_earlier_step_is_told(make_run, tmp_path, caplog):
    run = make_run(**SMALL)
    assert train(run)
    final = publish(run, "tiny", tmp_path / "loras", "kohya")
    whole = tensors(final)
    flip(final)
    flip(run.checkpoints()[4] / "adapter.safetensors")
    assert publish(run, "tiny", tmp_path / "loras", "kohya") == final
    assert all(torch.equal(load_file(final)[key], whole[key]) for key in whole)
    assert f"{final} has other content than was written. It is published anew" in caplog.text
    assert "The LoRA of step 4 is damaged and is not published" in caplog.text


def test_training_does_not_start_from_a_flipped_lora(make_run, tmp_path):
    from impasto.trainers.lora import file_formats

    run = make_run(**SMALL, steps=4)
    assert train(run)
    file = run.checkpoints()[4] / "adapter.safetensors"
    assert file_formats.read(file)
    flip(file)
    with pytest.raises(TrainingError, match=r"adapter\.safetensors has other content than was written.*choose another"):
        file_formats.read(file)
