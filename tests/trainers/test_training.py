"""Training in its own process: it learns, stops when asked, and goes on to the same weights after any interruption."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from impasto import worker
from impasto.errors import TrainingError
from impasto.progress import silent
from impasto.trainers.recipe import train_run
from impasto.trainers.run import launch
from PIL import Image
from safetensors.torch import load_file, save_file

from ..weights import final_adapter, same


def train_here(run) -> bool:
    """Train in this process: what does not concern the process is tested without the seconds that its start takes."""
    return train_run(run, cpu=True, stop_requested=lambda: False)


class Cancelled(BaseException):
    """As ComfyUI's interrupt, not an Exception."""


def cancel_at(step: int, told: list[str]):
    """Cancel pressed at a step; what is said afterwards goes into `told`."""
    pressed = []

    def progress(done, total, text="", preview=None):
        if pressed:
            told.append(text)
        elif done >= step:
            pressed.append(True)
            raise Cancelled

    return progress


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, tiny_features, tiny_weights):
    """The run that others are compared with: 24 steps in one go."""
    from impasto.trainers.flux.fingerprint import fingerprint as flux_fingerprint
    from impasto.trainers.run import create
    from impasto.trainers.run import folder as runs
    from impasto.trainers.settings import Settings

    settings = Settings(steps=24, checkpoint_every=8, rank=4, alpha=4.0, learning_rate=1e-3, sample_steps=2)
    root = tmp_path_factory.mktemp("runs")
    fingerprint = flux_fingerprint(tiny_weights)
    job = runs.Job("tiny", settings, tiny_features.folder, tiny_features.key, str(tiny_weights), fingerprint)
    run = create.create_run(root, job)
    launch.train(run, cpu=True, progress=silent)
    return run


LONG = {"steps": 24, "checkpoint_every": 8}


def test_a_run_leaves_checkpoints_samples_metrics_and_its_peak_memory(uninterrupted):
    assert list(uninterrupted.checkpoints()) == [8, 16, 24]
    assert len(list(uninterrupted.path.glob("samples/*/latents.safetensors"))) == 3
    status = uninterrupted.status()
    assert status["state"] == "finished" and status["step"] == 24 and status["peak_memory"] > 50e6
    steps = [record["step"] for record in uninterrupted.metrics()]
    assert steps == list(range(25))


def test_the_log_counts_the_sigmas_that_were_trained(uninterrupted):
    log = (uninterrupted.path / "train.log").read_text()
    counted = re.findall(r"Step (\d+); sigmas so far, by tenths of 0…1: \[(.*)\]", log)
    totals = {int(step): sum(int(count) for count in counts.split(",")) for step, counts in counted}
    trained = [len(record.get("sigma", ())) for record in uninterrupted.metrics()]
    assert totals == {8: sum(trained[:9]), 16: sum(trained[:17]), 24: sum(trained)}


def test_the_progress_names_the_best_step(make_run):
    told = []
    run = make_run(steps=8, checkpoint_every=4, sample_steps=0)
    launch.train(run, cpu=True, progress=lambda done, total, text="", preview=None: told.append(text))
    measured = {record["step"]: record["held_out_loss"] for record in run.metrics() if "held_out_loss" in record}
    best = min(measured, key=measured.get)  # step 0 is the base model alone
    assert f"best {measured[best]:.3f} at step {best}" in told[-1] and "needs" in " ".join(told)


def test_the_held_out_loss_falls(uninterrupted):
    held_out = [record["held_out_loss"] for record in uninterrupted.metrics() if "held_out_loss" in record]
    assert len(held_out) == 4 and held_out[-1] < held_out[0]


def test_the_held_out_loss_is_the_mean_of_that_at_each_sigma(uninterrupted):
    measured = [record for record in uninterrupted.metrics() if "held_out_loss" in record]
    for record in measured:
        by_sigma = record["held_out_by_sigma"]
        assert list(by_sigma) == ["0.25", "0.5", "0.75", "1"] and len(set(by_sigma.values())) == 4
        assert sum(by_sigma.values()) / 4 == pytest.approx(record["held_out_loss"], rel=1e-5)


def test_every_lora_b_has_moved(uninterrupted):
    moved = {key: value.abs().max() > 0 for key, value in final_adapter(uninterrupted).items() if "lora_B" in key}
    assert moved and all(moved.values())


def test_lora_b_is_nonzero_after_the_first_step(make_run):
    run = make_run(steps=1, sample_steps=0)
    assert train_here(run)
    assert all(value.abs().max() > 0 for key, value in final_adapter(run).items() if "lora_B" in key)


def test_the_learning_rate_is_what_was_asked_for(uninterrupted):
    assert {record["learning_rate"] for record in uninterrupted.metrics() if "loss" in record} == {1e-3}


def test_the_learning_rate_warms_up_and_falls(make_run):
    run = make_run(steps=8, warmup_steps=2, scheduler="linear", sample_steps=0)
    assert train_here(run)
    rates = [record["learning_rate"] for record in run.metrics() if "loss" in record]
    assert rates[:3] == pytest.approx([0, 5e-4, 1e-3]) and rates[2:] == sorted(rates[2:], reverse=True)


def test_a_seed_gives_the_same_weights_in_another_process_and_another_seed_others(make_run, uninterrupted):
    again, other = make_run("again", **LONG), make_run("other", seed=1)
    launch.train(again, cpu=True, progress=silent)
    assert same(final_adapter(again), final_adapter(uninterrupted))
    assert train_here(other)
    before = load_file(uninterrupted.checkpoints()[8] / "adapter.safetensors")
    trained = {key: value for key, value in final_adapter(other).items() if not key.endswith(".alpha")}
    assert trained and not any(torch.equal(value, before[key]) for key, value in trained.items())


def test_a_finished_run_is_returned_without_starting_a_process(uninterrupted, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    launch.train(uninterrupted, cpu=True, progress=silent)


def test_cancel_saves_the_step_it_is_in_and_queueing_again_ends_at_the_same_weights(make_run, uninterrupted):
    run = make_run(**LONG)
    last_words = []
    with pytest.raises(Cancelled):
        launch.train(run, cpu=True, progress=cancel_at(3, last_words))
    status, saved = run.status(), list(run.checkpoints())
    assert last_words[0] == "Stopping after this step, then saving"
    assert last_words[1:] == [f"Stopped at step {status['step']}, saved\nQueue again to go on"]
    assert status["state"] == "stopped" and saved == [status["step"]] and 3 <= status["step"] < 24
    told = []
    launch.train(run, cpu=True, progress=lambda done, total, text="", preview=None: told.append(text))
    assert told[1] == "Starting the trainer"  # not how far the one before it came
    assert same(final_adapter(run), final_adapter(uninterrupted))
    assert list(run.checkpoints()) == [8, 16, 24]
    losses = [{record["step"]: record.get("loss") for record in r.metrics()} for r in (run, uninterrupted)]
    assert losses[0] == losses[1]


def test_cancel_pressed_again_while_the_last_words_are_said_changes_nothing(make_run):
    def progress(done, total, text="", preview=None):
        raise Cancelled(text)

    launch._Follower(make_run(), 8, progress, None).say_stopped()


def test_a_run_cancelled_while_it_loads_is_told_to_have_nothing_saved(make_run):
    told = []
    launch._Follower(make_run(), 8, lambda done, total, text: told.append((done, text)), None).say_stopped()
    assert told == [(0, "Stopped, with no step saved yet\nQueue again to go on")]


def test_while_a_resumed_run_loads_it_is_told_what_is_done_and_what_is_needed(make_run):
    run = make_run()
    records = [{"step": step, "loss": 0.3, "seconds": 2.0, "held_out_loss": 0.2} for step in range(5)]
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    loading = {"state": "starting", "doing": "Loading the base model: 40 %", "plan": "Training in nf4 needs 14.2 GB"}
    (run.path / "status.json").write_text(json.dumps(loading))
    told = []
    follower = launch._Follower(run, 8, lambda done, total, text="", preview=None: told.append((done, text)), None)
    follower.look()
    (run.path / "status.json").write_text(json.dumps(loading | {"state": "training", "doing": ""}))
    follower.look()
    assert told[0] == (4, "Loading the base model: 40 %\nTraining in nf4 needs 14.2 GB")
    assert told[1][1].startswith("Step 4 of 8\nLoss 0.300\nHeld-out 0.200, best 0.200 at step 0\n8 s left")


def test_what_went_wrong_beside_the_training_stands_below_how_far_it_is(make_run):
    run = make_run()
    (run.path / "metrics.jsonl").write_text(json.dumps({"step": 2, "loss": 0.5, "seconds": 1.0}) + "\n")
    (run.path / "status.json").write_text(json.dumps({"state": "training", "warning": "No memory for the samples."}))
    told = []
    launch._Follower(run, 8, lambda done, total, text="", preview=None: told.append(text), None).look()
    assert told == ["Step 2 of 8\nLoss 0.500\n6 s left\nNo memory for the samples."]


def test_the_trend_of_the_loss_is_told_where_it_is_more_than_noise():
    noise = [0.1 * (-1) ** step for step in range(40)]
    assert launch.trend([0.5]) == "0.500" and launch.trend([0.4, 0.5, 0.6]) == "0.600"
    assert launch.trend([1 + each for each in noise]) == "1.000, level"
    assert launch.trend([1 + each - step / 40 for step, each in enumerate(noise)]).endswith(", falling")
    assert launch.trend([1 + each + step / 40 for step, each in enumerate(noise)]).endswith(", rising")


def test_a_clock_runs_beside_what_takes_long(make_run, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(launch.time, "monotonic", lambda: now[0])
    follower = launch._Follower(make_run(), 8, silent, None)
    told = []
    for seconds, doing in [(0, "Loading: 3 %"), (2, "Loading: 3 %"), (22, "Loading: 3 %"), (1, "Loading: 4 %")]:
        now[0] += seconds
        told.append(follower.clocked(doing))
    assert told == ["Loading: 3 %", "Loading: 3 %", "Loading: 3 %, 24 s", "Loading: 4 %"]


def test_the_preview_of_every_sample_is_shown_once_and_kept_beside_it(make_run):
    run = make_run(steps=2, checkpoint_every=1)
    assert train_here(run)
    shown = []

    def preview(sample):
        return Image.new("RGB", (4, 4), (int(sample.parent.name[-1]), 0, 0))

    follower = launch._Follower(run, 2, lambda done, total, text="", preview=None: shown.append(preview), preview)
    follower.look()
    follower.look()
    assert shown[0].getpixel((0, 0)) == (2, 0, 0) and shown[1] is None
    for step, sample in run.samples().items():
        with Image.open(sample.with_name("preview.png")) as kept:
            assert kept.getpixel((0, 0)) == (step, 0, 0)


def test_a_damaged_sample_costs_its_preview_and_nothing_else(make_run):
    run = make_run(steps=1, sample_steps=1)
    assert train_here(run)

    def preview(sample):
        raise ValueError("not a safetensors file")

    shown = []
    launch._Follower(run, 1, lambda done, total, text="", preview=None: shown.append(preview), preview).look()
    assert shown == [None] and not list(run.path.glob("samples/*/preview.png"))


def trainer_pid(run) -> int:
    """The process that trains (not accelerate's launcher), by its command line."""
    found = subprocess.run(["pgrep", "-f", f"process.py {run.folder}"], capture_output=True, text=True).stdout.split()
    return max(int(pid) for pid in found)


def test_a_killed_trainer_is_explained_and_the_next_one_ends_at_the_same_weights(make_run, uninterrupted):
    run = make_run(**LONG)

    killed = []

    def kill_at_ten(done, total, text="", preview=None):
        if done >= 10 and not killed:
            killed.append(trainer_pid(run))
            os.kill(killed[0], signal.SIGKILL)

    with pytest.raises(TrainingError, match=r"(?s)killed from outside.*memory.*Queue again"):
        launch.train(run, cpu=True, progress=kill_at_ten)
    assert 8 in run.checkpoints()
    launch.train(run, cpu=True, progress=silent)
    assert same(final_adapter(run), final_adapter(uninterrupted))


def test_the_trainer_saves_and_stops_when_its_parent_is_killed(make_run, uninterrupted):
    run = make_run(**LONG)
    read_end, write_end = os.pipe()
    command = [sys.executable, "-m", launch.LAUNCHER, *launch.arguments(run, True, launch.DEFAULT_LAUNCHER)]
    process = subprocess.Popen(command, stdin=read_end, stderr=subprocess.DEVNULL)
    os.close(read_end)
    deadline = time.monotonic() + 120
    while not any(record["step"] >= 2 for record in run.metrics()) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.close(write_end)  # what the kernel does when the parent dies
    assert process.wait(60) == 0
    assert run.status()["state"] == "stopped" and list(run.checkpoints())[-1] == run.status()["step"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM for others")
def test_the_trainer_saves_and_stops_at_a_polite_signal(make_run):
    run = make_run(**LONG)
    arguments = launch.arguments(run, cpu=True, launcher=launch.DEFAULT_LAUNCHER)
    with worker.start(launch.LAUNCHER, *arguments, errors=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not any(record["step"] >= 2 for record in run.metrics()) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(trainer_pid(run), signal.SIGTERM)
        assert process.wait(60) == 0
    assert run.status()["state"] == "stopped" and list(run.checkpoints())[-1] == run.status()["step"]


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_learning_rate(make_run):
    run = make_run(steps=60, checkpoint_every=60, learning_rate=1.0, targets="all linear", rank=1, alpha=4096.0)
    assert not train_here(run)
    assert run.status()["state"] == "failed"
    assert re.search(r"became (nan|inf).*learning_rate \(now 1\)", run.status()["error"])


def test_a_base_model_with_broken_values_is_named_before_the_first_step(make_run, tiny_weights, tmp_path):
    state = load_file(tiny_weights)
    state["txt_in.bias"][0] = float("nan")
    save_file(state, tmp_path / "broken.safetensors")
    run = make_run(weights=tmp_path / "broken.safetensors")
    assert not train_here(run)
    assert re.search(r"nan before anything was learned.*broken\.safetensors", run.status()["error"])
    assert not run.checkpoints()


def test_text_features_of_another_model_are_refused_before_training(make_run, tmp_path):
    from impasto.embedded.transformer_weights import transformer_weights

    other = tmp_path / "other.safetensors"
    sizes = {"hidden_size": 128, "double_blocks": 1, "single_blocks": 1, "context_width": 96, "pooled_width": 32}
    save_file(transformer_weights(**sizes, seed=0), other)
    run = make_run(weights=other)
    assert not train_here(run)
    error = run.status()["error"]
    assert re.search("64 and 32 wide.*takes 96 and 32.*CLIP that belongs to this model", error)
    with pytest.raises(TrainingError, match="CLIP that belongs to this model"):  # and the process hands it on
        launch.train(run, cpu=True, progress=silent)


def test_gradient_accumulation_takes_more_batches_per_step(make_run):
    run = make_run(steps=2, gradient_accumulation=3, sample_steps=0)
    assert train_here(run)
    assert run.status()["state"] == "finished" and [record["step"] for record in run.metrics()] == [0, 1, 2]


def test_the_lora_file_says_what_made_it(uninterrupted):
    from impasto.trainers.lora.file_formats import read_metadata as lora_metadata

    metadata = lora_metadata(uninterrupted.checkpoints()[24] / "adapter.safetensors")
    assert metadata["impasto_run"] == uninterrupted.id and metadata["impasto_step"] == "24"
    assert metadata["ss_network_dim"] == "4" and json.loads(metadata["ss_network_alpha"]) == 4.0


def test_the_alpha_that_the_lora_file_names_is_that_of_its_tensors(make_run):
    from impasto.trainers.lora.file_formats import read_metadata as lora_metadata

    run = make_run(steps=1, sample_steps=0, alpha=2.0, rslora=True)
    assert train_here(run)
    named = lora_metadata(run.checkpoints()[1] / "adapter.safetensors")["ss_network_alpha"]
    assert {float(named)} == {value.item() for key, value in final_adapter(run).items() if key.endswith(".alpha")}


def test_a_process_that_is_not_the_first_leaves_the_status_alone_even_before_it_meets_the_others(
    make_run, monkeypatch, capfd
):
    run = make_run(tracker="wandb")  # which is missed before
    monkeypatch.setenv("RANK", "1")
    assert not train_here(run)
    assert not run.status() and "impasto: The tracker wandb needs wandb" in capfd.readouterr().err


def train_on_small_disk(run, folder, size) -> list[str]:
    """Train where `folder` is a file system of its own, with room for `size` bytes; what is left in it."""
    folder.mkdir()
    child = " ".join(f"'{part}'" for part in [sys.executable, str(launch.PROCESS), run.folder, "--cpu"])
    # A mount of the test's own, which ends with its process. What is left on it is listed before.
    script = f"mount -t tmpfs -o size={size} tmpfs '{folder}' && {{ {child}; ls '{folder}' > '{run.folder}/left'; }}"
    done = subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script], capture_output=True)
    assert (run.path / "left").is_file(), f"no file system of one's own can be mounted here: {done.stderr.decode()}"
    return (run.path / "left").read_text().split()


def test_a_full_disk_is_explained_and_costs_no_earlier_checkpoint(make_run, uninterrupted):
    run = make_run(**LONG)
    newest = uninterrupted.checkpoints()[24]  # those before it keep their LoRA alone
    room = sum(file.stat().st_size for file in newest.iterdir()) * 3 // 2  # for one, but not for two
    assert train_on_small_disk(run, run.path / "checkpoints", room) == ["step-000008"]
    assert re.search(r"step-000016 .* could not be written: the disk is full.*queue again", run.status()["error"])


def test_a_disk_too_full_for_a_sample_is_explained_and_the_step_it_was_drawn_at_is_saved(make_run):
    run = make_run(steps=1)
    train_on_small_disk(run, run.path / "samples", 4096)
    assert re.search(
        r"latents\.safetensors .*disk is full.*Free some space there, and queue again", run.status()["error"]
    )
    assert list(run.checkpoints()) == [1] and train_here(run) and list(run.samples()) == [1]
