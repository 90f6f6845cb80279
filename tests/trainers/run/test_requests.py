"""What a person asks of a trainer at work, from the process that started it to the run's folder."""

from __future__ import annotations

import os
import subprocess
import sys
from queue import SimpleQueue

import pytest
import torch
from impasto.errors import TrainingError
from impasto.trainers.recipe import train_run
from impasto.trainers.run import launch, requests
from impasto.trainers.run.launch import PROCESS
from impasto.trainers.run.publish import publish
from impasto.worker import PACK
from safetensors.torch import load_file

QUICK = {"rank": 2, "alpha": 2.0, "targets": "image attention", "sample_steps": 1}


def train(run, *asked: tuple[int, bytes]) -> bool:
    """Train in this process; each letter is heard as soon as that many steps are done."""
    letters, waiting = SimpleQueue(), list(asked)

    def never() -> bool:
        done = len([record for record in run.metrics() if "loss" in record]) + 1  # written a step late
        while waiting and done >= waiting[0][0]:
            letters.put(waiting.pop(0)[1])
        return False

    return train_run(run, True, never, requests.Inbox(letters))


def adapter(run, step: int) -> dict[str, torch.Tensor]:
    return load_file(run.checkpoints()[step] / "adapter.safetensors")


def test_saving_and_sampling_in_between_change_nothing_of_what_is_trained(make_run):
    settings = QUICK | {"steps": 6, "checkpoint_every": 6, "keep_checkpoints": 1}
    plain, asked = make_run("plain", **settings), make_run("asked", **settings)
    assert train(plain) and train(asked, (2, b"s"), (4, b"p"))
    saved, drawn = sorted(asked.checkpoints()), sorted(asked.samples())
    assert len(saved) == 2 and saved[-1] == 6, "what a person saved stays, however few are kept"
    assert len(drawn) == 3 and saved[0] in drawn and not set(drawn[1:2]) & set(saved)
    assert [step for step, _ in asked.evaluations()] == saved
    assert all(torch.equal(value, adapter(plain, 6)[key]) for key, value in adapter(asked, 6).items())


def test_a_run_finished_early_is_finished_and_published_and_not_trained_again_unless_asked(make_run, tmp_path):
    run = make_run(**QUICK, steps=8, checkpoint_every=8)
    assert train(run, (2, b"f"))
    status = run.status()
    step = status["step"]
    assert status["state"] == "finished" and status["finished_early"] and step < 8 and run.finished
    assert [at for at, _ in run.evaluations()] == [step]
    assert publish(run, "tiny", tmp_path / "loras").name == f"{run.id}-{step:06d}.safetensors"
    assert train(run) and run.status() == status
    longer = make_run(**QUICK, steps=9, checkpoint_every=8)
    assert longer.id == run.id and not longer.finished and train(longer)
    assert longer.status()["step"] == 9 and "finished_early" not in longer.status()


def test_what_is_asked_between_does_not_use_up_the_patience(make_run):
    rising = {"learning_rate": 0.5}  # no held-out loss after the first is better
    run = make_run(**QUICK | rising, steps=8, checkpoint_every=4, early_stop_patience=2)
    assert train(run, (1, b"s"), (3, b"s"))
    assert run.status()["step"] == 8


def test_a_running_trainer_hears_what_is_asked_and_one_that_is_gone_is_named(make_run):
    run = make_run(**QUICK, steps=5000, checkpoint_every=5000)
    with pytest.raises(TrainingError, match=f"No trainer .*'{run.id}', which is new"):
        requests.ask(run, requests.SAVE)
    sent = []

    def progress(done, total, text="", preview=None):
        if done >= 2 and not sent:
            sent.append(requests.at_work()[0].about)
            requests.ask(run, requests.FINISH)

    launch.train(run, cpu=True, progress=progress, about={"node": "4"})
    assert sent == [{"node": "4"}] and run.finished and run.status()["finished_early"] and not requests.at_work()


def test_a_run_that_was_asked_to_stop_is_saved_and_goes_on(make_run):
    run = make_run(**QUICK, steps=5000, checkpoint_every=5000)

    def asking(done, total, text="", preview=None):
        if done >= 2:
            requests.ask(run, requests.STOP)

    with pytest.raises(launch.StoppedOnRequest):
        launch.train(run, cpu=True, progress=asking)
    assert run.status()["state"] == "stopped" and max(run.checkpoints()) == run.status()["step"] >= 2


def test_all_of_several_processes_do_what_one_has_heard(make_run):
    run = make_run(**QUICK, steps=200, checkpoint_every=200)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*launcher, PROCESS, run.folder, "--cpu", "--stop-at-eof"], stdin=subprocess.PIPE, cwd=PACK, env=environment
    )
    with requests.listening(run, process, {}):
        requests.ask(run, requests.FINISH)
        assert process.wait(200) == 0
    process.stdin.close()
    assert run.finished and run.status()["finished_early"] and list(run.checkpoints()) == [run.status()["step"]]
