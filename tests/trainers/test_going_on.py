"""Any optimiser, any stop: going on gives the weights of a run that was never interrupted; extended, continued too."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from impasto.errors import TrainingError
from impasto.trainers import objective, preflight, recipe, step, validation
from impasto.trainers.features import encoding as features
from impasto.trainers.features import index
from impasto.trainers.features.feature_set import FeatureSet
from impasto.trainers.flux import latents as flux_latents
from impasto.trainers.flux.fingerprint import fingerprint as flux_fingerprint
from impasto.trainers.lora import file_formats as lora_files
from impasto.trainers.memory import block_profile
from impasto.trainers.optimizers import OPTIMIZERS
from impasto.trainers.run import create, publish, samples
from impasto.trainers.run import folder as runs
from impasto.trainers.run.folder import Job
from impasto.trainers.run.launch import PROCESS
from impasto.worker import PACK
from PIL import Image
from safetensors.torch import load_file

from ..leftovers import of_a_killed_process
from ..weights import final_adapter, same
from .conftest import encode_image, encode_text, train

QUICK = {"sample_steps": 0, "rank": 2, "alpha": 2.0, "targets": "image attention"}  # over 8 steps, saved every 4
RATES = {name: 1.0 for name, row in OPTIMIZERS.items() if row.finds_learning_rate}


@pytest.mark.parametrize(
    "settings",
    [
        *({"optimizer": name} for name in OPTIMIZERS),
        {"ema_decay": 0.9},
        {"scheduler": "cosine", "warmup_steps": 2},
        {"lora_dropout": 0.3},
        {"dora": True},
        {"precision": "nf4"},
        {"precision": "int8", "streamed_blocks": 1},
        {"precision": "fp8", "gradient_checkpointing": False},
        {"precision": "bf16"},
    ],
    ids=lambda settings: "-".join(str(value) for value in settings.values()),
)
def test_an_interrupted_run_ends_at_the_weights_of_an_uninterrupted_one(make_run, settings):
    rate = RATES.get(settings.get("optimizer"), 1e-3)
    settings = QUICK | {"steps": 6, "checkpoint_every": 6, "learning_rate": rate} | settings
    whole, parts = make_run("whole", **settings), make_run("parts", **settings)
    assert train(whole) and train(parts, stop_at=3)
    stopped = parts.status()
    assert stopped["state"] == "stopped" and 0 < stopped["step"] < 6
    assert train(parts) and parts.finished
    assert same(final_adapter(whole), final_adapter(parts))
    assert any(value.abs().max() > 0 for key, value in final_adapter(whole).items() if "lora_B" in key)


def test_the_moving_average_is_saved_and_is_not_what_is_trained(make_run):
    plain, averaged = make_run("plain", **QUICK), make_run("averaged", **QUICK, ema_decay=0.99)
    assert train(plain) and train(averaged)
    trained = [torch.load(run.checkpoints()[8] / "state.pt", weights_only=True)["trained"] for run in (plain, averaged)]
    assert all(torch.equal(*pair) for pair in zip(*trained, strict=True))
    assert not same(final_adapter(plain), final_adapter(averaged))


def test_what_a_killed_process_left_half_written_is_cleared_away(make_run):
    run = make_run(**QUICK, steps=1)
    torso = of_a_killed_process(run.path / "checkpoints" / "step-000020")
    torso.mkdir(parents=True)
    assert train(run) and not torso.exists()


def test_only_the_latest_checkpoints_and_the_best_are_kept(make_run):
    run = make_run(**QUICK, steps=8, checkpoint_every=1, keep_checkpoints=2)
    assert train(run)
    assert set(run.checkpoints()) == {7, 8, run.best_step()}


def test_training_stops_when_the_held_out_loss_no_longer_falls_and_the_best_is_published(make_run, tmp_path):
    # Weights that are torn about do not fit the held-out pictures better and better.
    run = make_run(**QUICK, steps=60, checkpoint_every=1, learning_rate=0.3, early_stop_patience=2)
    assert train(run)
    status = run.status()
    assert status["state"] == "finished" and status["step"] < 60 and run.finished
    assert status["best_step"] == status["step"] - 2
    published = publish.publish(run, "tiny", tmp_path / "loras")
    best = run.checkpoints()[run.best_step()] / "adapter.safetensors"
    assert published.read_bytes() == best.read_bytes()


def test_checkpoints_can_be_counted_in_epochs(make_run, tiny_features):
    run = make_run(**QUICK, steps=13, checkpoint_epochs=1)
    assert train(run)
    # Ten pictures in batches of two, 3 and 7 of them in a bucket each, give six batches an epoch.
    assert list(run.checkpoints()) == [6, 12, 13]


def test_more_steps_go_on_from_the_finished_run_to_the_weights_of_one_that_was_asked_for_them_at_once(make_run):
    short = make_run("extended", **QUICK, steps=4)
    assert train(short) and short.finished
    longer = make_run("extended", **QUICK, steps=8)
    assert longer == short and not longer.finished
    assert train(longer) and longer.finished
    whole = make_run("whole", **QUICK, steps=8)
    assert train(whole)
    assert same(final_adapter(longer), final_adapter(whole))


def test_memory_settings_and_how_often_is_saved_may_change_without_starting_anew(make_run):
    first = make_run(**QUICK)
    changed = {"gradient_checkpointing": False, "streamed_blocks": 2, "checkpoint_every": 3, "keep_checkpoints": 1}
    assert make_run(**QUICK, **changed) == first
    assert make_run(**QUICK, learning_rate=2e-3) != first


def test_a_finished_run_that_is_queued_again_is_not_the_latest_until_it_is_trained_further(make_run, tmp_path):
    older, newer = (make_run(**QUICK, steps=1, seed=seed) for seed in (1, 2))
    assert train(older) and train(newer)
    # A server that was restarted, or has dropped what it kept, asks for the run once more.
    assert train(make_run(**QUICK, steps=1, seed=1))
    assert runs.find_run(tmp_path / "runs", runs.LATEST) == newer
    assert train(make_run(**QUICK, steps=2, seed=1))
    assert runs.find_run(tmp_path / "runs", runs.LATEST) == older


def test_fewer_steps_than_are_done_are_refused_with_what_to_do(make_run):
    assert train(make_run(**QUICK, steps=4))
    with pytest.raises(TrainingError, match=r"already been trained for 4 steps, more than the 2 asked for.*steps to 4"):
        make_run(**QUICK, steps=2)


def test_where_the_learning_rate_falls_another_number_of_steps_is_another_run(make_run):
    assert make_run(**QUICK, scheduler="cosine", steps=4) != make_run(**QUICK, scheduler="cosine", steps=8)


@pytest.fixture
def finished(make_run):
    run = make_run(**QUICK, steps=4, scheduler="linear")
    assert train(run)
    return run


def continued(run, weights, more_steps=4, **changes):
    root = Path(run.folder).parent
    return create.continue_run(root, run, more_steps, weights, flux_fingerprint(weights), **changes)


def test_a_finished_run_is_continued_as_another_with_a_newly_planned_learning_rate(finished, tiny_weights):
    run = continued(finished, tiny_weights, learning_rate=5e-4)
    assert run != finished and continued(finished, tiny_weights, learning_rate=5e-4) == run
    assert train(run) and run.status()["step"] == 8
    rates = {record["step"]: record["learning_rate"] for record in run.metrics() if "loss" in record}
    assert rates[5] == pytest.approx(5e-4) and rates[8] == pytest.approx(5e-4 / 4)
    assert max(finished.checkpoints()) == 4 and finished.finished


def test_the_first_step_of_a_continued_run_is_taken_at_the_new_learning_rate(finished, tiny_weights):
    run = continued(finished, tiny_weights, learning_rate=1e-8, scheduler="constant")
    before = final_adapter(finished)
    assert train(run)
    after = final_adapter(run)
    assert all(torch.allclose(before[key], after[key], atol=1e-6) for key in before)


def test_a_run_that_stopped_early_can_be_continued_and_published(make_run, tiny_weights, tmp_path):
    run = make_run(**QUICK, steps=60, checkpoint_every=1, learning_rate=0.3, early_stop_patience=2)
    assert train(run) and run.status()["step"] < 60
    longer = continued(run, tiny_weights, more_steps=4)
    assert train(longer) and longer.status()["step"] > run.status()["step"] + 1
    assert publish.publish(longer, "tiny", tmp_path / "loras").is_file()


def test_more_patience_lets_a_run_that_stopped_early_go_on(make_run):
    impatient = {"steps": 12, "checkpoint_every": 1, "learning_rate": 0.3}
    run = make_run(**QUICK, **impatient, early_stop_patience=1)
    assert train(run) and run.finished and run.status()["step"] < 12
    patient = make_run(**QUICK, **impatient, early_stop_patience=50)
    assert patient == run and not patient.finished
    assert train(patient) and patient.status()["step"] == 12


def test_fewer_more_steps_than_the_warm_up_are_refused(make_run, tiny_weights):
    run = make_run(**QUICK, steps=4, warmup_steps=3)
    assert train(run)
    with pytest.raises(TrainingError, match="over 3 steps, and only 2 more"):
        continued(run, tiny_weights, more_steps=2)


def test_another_number_of_steps_between_checkpoints_drops_none_of_the_earlier_ones(make_run):
    assert train(make_run(**QUICK, steps=6, checkpoint_every=2))
    run = make_run(**QUICK, steps=12, checkpoint_every=5)
    assert train(run)
    assert list(run.checkpoints()) == [2, 4, 6, 10, 12]
    assert [(folder / "state.pt").exists() for folder in run.checkpoints().values()] == [False] * 4 + [True]


def test_a_stop_while_a_checkpoint_is_validated_loses_neither_its_measuring_nor_its_sample(make_run):
    whole = make_run("whole", **QUICK | {"sample_steps": 1})
    assert train(whole)
    run = make_run("stopped", **QUICK | {"sample_steps": 1})
    assert train(run, stop_at=5)  # asked to while it measures step 4
    assert run.status()["step"] == 4 and not run.samples() and not run.evaluations()
    assert train(run) and run.evaluations() == whole.evaluations() and list(run.samples()) == [4, 8]
    assert list(run.checkpoints()) == list(whole.checkpoints())


def files_of(run) -> list[Path]:
    files = (path.relative_to(run.path) for path in run.path.rglob("*"))
    return sorted(file for file in files if file.parts[0] in ("checkpoints", "samples"))


def test_a_failure_while_measuring_loses_no_step_and_is_made_up_for(make_run, monkeypatch):
    settings = QUICK | {"sample_steps": 1}
    whole, parts = make_run("whole", **settings), make_run("parts", **settings)
    assert train(whole)

    draw, failures = validation.Validation.samples, [4, 4, 8]

    def failing(self):
        step = max(parts.checkpoints())  # it is saved before it is measured
        if step in failures:
            failures.remove(step)
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return draw(self)

    monkeypatch.setattr(validation.Validation, "samples", failing)
    for saved in ([4], [4], [4, 8]):
        assert not train(parts) and list(parts.checkpoints()) == saved
    assert train(parts) and parts.finished
    assert same(final_adapter(whole), final_adapter(parts))
    assert files_of(whole) == files_of(parts) and parts.evaluations() == whole.evaluations()


def on_four_pictures(run, folder: Path, dataset: str = "", subset: str = "") -> runs.Run:
    """`run` with another dataset: a fifth of each picture is opaque; further lines for the tables of its config."""
    (folder / "train").mkdir(exist_ok=True)
    for number in range(4):
        Image.new("RGBA", (64, 64), (60 * number, 100, 50, 51)).save(folder / "train" / f"{number}.png")
        (folder / "train" / f"{number}.txt").write_text(f"picture {number}")
    (folder / "dataset.toml").write_text(
        f"[[datasets]]\nresolution = 64\n{dataset}\n"
        f'[[datasets.subsets]]\nimage_dir = "train"\ncaption_extension = ".txt"\n{subset}\n'
    )
    encoders = features.Encoder("vae", encode_image), features.Encoder("clip", encode_text)
    encoded = features.encode(folder / "dataset.toml", *encoders)
    dataclasses.replace(Job.read(run), features_folder=encoded.folder, features_key=encoded.key).write(run)
    return run


def test_a_run_on_variants_of_pictures_goes_on_to_the_same_weights(make_run, tmp_path):
    varied = "color_aug = true\nflip_aug = true\ncustom_attributes = {impasto = {random_scale = 1.3}}"
    settings = QUICK | {"steps": 6, "checkpoint_every": 6}
    whole, parts = (on_four_pictures(make_run(name, **settings), tmp_path, "", varied) for name in ("whole", "parts"))
    examples = index.load(index.Features(Job.read(whole).features_folder, Job.read(whole).features_key)).examples
    assert [len(example.all_pictures) for example in examples] == [4] * 4
    assert train(whole) and train(parts, stop_at=3) and not parts.finished
    assert train(parts) and parts.finished
    assert same(final_adapter(whole), final_adapter(parts))


def test_the_held_out_loss_is_masked_as_that_of_training_is(make_run, tmp_path, monkeypatch):
    def untrained_loss(name: str) -> float:
        run = make_run(name, **QUICK, steps=1)
        assert train(on_four_pictures(run, tmp_path, "validation_split = 0.5", "alpha_mask = true"))
        return run.metrics()[0]["held_out_loss"]

    masked = untrained_loss("masked")
    monkeypatch.setattr(FeatureSet, "load_mask", lambda self, sample, *variant: torch.ones(1, 8, 8))
    assert masked == pytest.approx(untrained_loss("whole") / 5)


def test_early_stopping_with_nothing_held_out_is_refused_with_both_remedies(make_run, tmp_path):
    run = on_four_pictures(make_run(**QUICK, early_stop_patience=2), tmp_path)
    assert not train(run) and not run.metrics()
    assert re.search("early_stop_patience is 2.*validation_split.*early_stop_patience to 0", run.status()["error"])


def test_measuring_more_often_changes_no_bit_of_what_is_trained(make_run):
    for optimizer in ("adamw", "schedule_free_adamw"):
        often = make_run(f"{optimizer} often", **QUICK | {"checkpoint_every": 1}, optimizer=optimizer)
        seldom = make_run(f"{optimizer} seldom", **QUICK | {"checkpoint_every": 8}, optimizer=optimizer)
        assert train(often) and train(seldom)
        assert same(final_adapter(often), final_adapter(seldom))


def test_the_precision_of_a_launch_profile_changes_nothing(make_run, monkeypatch):
    plain = make_run("plain", **QUICK, steps=2)
    assert train(plain)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    mixed = make_run("mixed", **QUICK, steps=2)
    assert train(mixed)
    assert same(final_adapter(plain), final_adapter(mixed))


def test_a_run_goes_on_with_as_many_processes_as_it_began_with(make_run):
    run = make_run(**QUICK)
    assert train(run, stop_at=3)
    state = max(run.checkpoints().items())[1] / "state.pt"
    torch.save(torch.load(state, weights_only=True) | {"processes": 2}, state)
    assert not train(run)
    assert "trained by 2 processes and is to go on with 1" in run.status()["error"]


def test_a_tracker_that_is_not_installed_is_named(make_run):
    run = make_run(**QUICK, tracker="wandb")
    assert not train(run)
    assert "install.py wandb" in run.status()["error"]


def test_a_continued_run_stopped_half_way_ends_at_the_same_weights(finished, tiny_weights, tmp_path):
    whole = continued(finished, tiny_weights)
    shutil.copytree(whole.folder, tmp_path / "parts")
    parts = runs.Run(whole.id, str(tmp_path / "parts"))
    assert train(whole) and train(parts, stop_at=6) and parts.status()["state"] == "stopped" and train(parts)
    assert same(final_adapter(whole), final_adapter(parts))


@pytest.mark.parametrize("change", [{"rank": 8}, {"optimizer": "lion8bit"}, {"targets": "attention"}, {"dora": True}])
def test_a_change_that_the_checkpoint_cannot_go_on_with_is_refused_by_name(finished, tiny_weights, change):
    name, value = next(iter(change.items()))
    with pytest.raises(TrainingError, match=f"{name} was .* and is {value} now.*start_from"):
        continued(finished, tiny_weights, **change)


def test_a_run_cannot_be_continued_on_another_model(finished, tiny_weights, tmp_path):
    from safetensors.torch import save_file

    state = load_file(tiny_weights)
    state["img_in.bias"] += 1
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(TrainingError, match="other.safetensors holds other weights"):
        continued(finished, tmp_path / "other.safetensors")


def test_streaming_blocks_and_recomputing_them_change_no_bit_of_the_lora(make_run):
    plain = make_run("plain", **QUICK, gradient_checkpointing=False)
    streamed = make_run("streamed", **QUICK, streamed_blocks=2)
    assert train(plain) and train(streamed)
    assert same(final_adapter(plain), final_adapter(streamed))


def test_what_memory_decided_is_kept_when_a_run_goes_on(make_run, monkeypatch):
    run = make_run(**QUICK, precision="auto")
    assert train(run, stop_at=3)
    state = torch.load(max(run.checkpoints().items())[1] / "state.pt", weights_only=True)
    assert state["precision"] == "fp32"  # on the CPU, where it fits
    monkeypatch.setattr(preflight.choice, "choose", lambda settings, budget: dataclasses.replace(settings))
    assert train(run) and run.finished


def test_the_status_says_what_the_run_needs_and_what_is_free(make_run):
    run = make_run(**QUICK, steps=1)
    assert train(run)
    assert re.search(r"Training in fp32 needs .* GB .*; .* GB are free", run.status()["plan"])


def test_a_device_that_does_not_tell_its_free_memory_trains_what_was_set_by_hand(make_run, monkeypatch):
    def untold(device):
        raise NotImplementedError(f"PyTorch does not tell how much memory is free on {device}.")

    monkeypatch.setattr(preflight, "free_device_memory", untold)
    by_hand = make_run(**QUICK, steps=1, precision="bf16")
    assert train(by_hand)
    assert "how much is free is unknown" in by_hand.status()["plan"]
    left_open = make_run(**QUICK, steps=1, precision="auto")
    assert not train(left_open)
    assert re.search(r"Training Memory Settings, set precision to one of [^.]*\.$", left_open.status()["error"])


def test_the_prompts_encoded_with_the_training_data_are_drawn_at_each_checkpoint(make_run, tiny_features):
    text = next(iter(index.load(tiny_features).examples)).text_path
    listed = [{"text": "a pond", "seed": seed, "file": os.path.relpath(text, tiny_features.folder)} for seed in (1, 2)]
    (Path(tiny_features.folder) / "prompts-1.json").write_text(json.dumps(listed))
    run = make_run(**QUICK | {"sample_steps": 2})
    assert (
        create.create_run(Path(run.folder).parent, dataclasses.replace(Job.read(run), prompts="prompts-1.json")) == run
    )
    assert train(run)
    latents, steps = samples.drawn_samples(run)
    assert steps == [4, 4, 8, 8] and latents.shape[0] == 4
    assert not torch.equal(latents[0], latents[1])
    scaled = load_file(run.samples()[4])["latents"]
    assert torch.allclose(flux_latents.scale_latent(latents[:2]), scaled, atol=1e-6)


def test_a_run_without_samples_says_how_to_get_some(make_run):
    with pytest.raises(TrainingError, match="has no samples.*sample_steps above 0"):
        samples.drawn_samples(make_run(**QUICK))


def test_a_finished_run_without_samples_says_how_further_steps_get_some(make_run):
    run = make_run(**QUICK)
    assert train(run)
    with pytest.raises(TrainingError, match="finished run draws none.*Progress Grid.*sample_steps.*Continue Training"):
        samples.drawn_samples(run)
    assert make_run(**QUICK | {"sample_steps": 1}) == run and run.finished
    job = Job.read(run)
    longer = create.continue_run(Path(run.folder).parent, run, 2, Path(job.weights), job.fingerprint)
    assert train(longer) and samples.drawn_samples(longer)[1] == [10]


def test_a_run_may_start_from_a_lora_and_then_does_what_it_did(make_run, tiny_features, tiny_weights):
    first = make_run("first", **QUICK)
    assert train(first)
    lora = first.checkpoints()[8] / "adapter.safetensors"
    settings = dataclasses.replace(Job.read(first).settings, learning_rate=1e-8, steps=1)
    fingerprint = flux_fingerprint(tiny_weights)
    job = Job("tiny", settings, tiny_features.folder, tiny_features.key, str(tiny_weights), fingerprint)
    started = create.create_run(
        Path(first.folder).parent,
        dataclasses.replace(job, start_lora=str(lora), start_hash=flux_fingerprint(lora)),
    )
    assert started != create.create_run(Path(first.folder).parent, job)
    assert train(started)
    untrained = started.metrics()[0]["held_out_loss"]
    assert untrained == pytest.approx(first.evaluations()[-1][1], abs=1e-6)


@pytest.fixture
def job_here(make_run, tiny_features, tiny_weights, tmp_path):
    """A job with all that it needs in the folder `here`: features with prompts, weights, and a LoRA to start from."""
    here = tmp_path / "here"
    folder = here / "features" / tiny_features.key
    shutil.copytree(Path(tiny_features.folder).parent, folder.parent)
    text = os.path.relpath(index.load(tiny_features).examples[0].text_path, tiny_features.folder)
    (folder / "prompts-1.json").write_text(json.dumps([{"text": "a pond", "seed": 1, "file": text}]))
    first = make_run("first", **QUICK, steps=1)
    assert train(first)
    weights = shutil.copyfile(tiny_weights, here / "flux.safetensors")
    lora = shutil.copyfile(first.checkpoints()[1] / "adapter.safetensors", here / "lora.safetensors")
    return Job(
        "tiny",
        dataclasses.replace(Job.read(first).settings, steps=4, checkpoint_every=2, sample_steps=1),
        str(folder),
        tiny_features.key,
        str(weights),
        flux_fingerprint(weights),
        start_lora=str(lora),
        start_hash=flux_fingerprint(lora),
        prompts="prompts-1.json",
    )


def launched(folder, given, packages):
    """What `accelerate launch -m impasto.trainers <given> --cpu` did in `folder`, with the pack installed."""
    packages.mkdir()
    (packages / "impasto").symlink_to(PACK)
    command = [sys.executable, "-m", "accelerate.commands.launch", "-m", "impasto.trainers", given, "--cpu"]
    environment = os.environ | {"PYTHONPATH": str(packages), "HF_HOME": str(packages)}  # no accelerate config of ours
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("begun", [False, True], ids=["not begun", "half trained"])
def test_a_run_copied_to_another_machine_is_trained_there_by_accelerate_launch(job_here, tmp_path, begun):
    here, there = tmp_path / "here", tmp_path / "there"
    whole, run = (create.create_run(root, job_here) for root in (tmp_path / "runs", here / "runs"))
    assert train(whole)
    assert not begun or train(run, stop_at=3)
    shutil.copytree(here, there)
    shutil.rmtree(here)

    copied = runs.Run(run.id, str(there / "runs" / run.id))
    places = {"features_folder": Path("features") / job_here.features_key, "weights": "flux.safetensors"}
    places |= {} if begun else {"start_lora": "lora.safetensors"}
    text = (copied.path / "settings.toml").read_text()
    for key, place in places.items():
        text = re.sub(f"^{key} = .*$", f'{key} = "{(there / place).as_posix()}"', text, flags=re.MULTILINE)
    (copied.path / "settings.toml").write_text(text)
    done = launched(*(copied.path, ".") if begun else (tmp_path, copied.folder), tmp_path / "packages")

    assert done.returncode == 0, done.stderr
    assert copied.finished and same(final_adapter(whole), final_adapter(copied))
    assert list(copied.samples()) == [2, 4] and copied.evaluations() == whole.evaluations()
    assert lora_files.read_metadata(copied.checkpoints()[4] / "adapter.safetensors")["impasto_run"] == run.id
    shutil.copytree(there, here)  # and back
    assert create.create_run(here / "runs", job_here) == run and run.finished


def test_a_copied_run_is_not_trained_with_other_features_or_weights(job_here, tmp_path):
    from safetensors.torch import save_file

    other = tmp_path / "other.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(job_here.weights).items()}, other)
    for key, place in {"weights": str(other), "features_folder": str(tmp_path)}.items():
        run = create.create_run(tmp_path / key, job_here)
        dataclasses.replace(job_here, **{key: place}).write(run)
        assert not train(run)
        assert re.search(f"{place}.*[Ss]et {key} in its settings.toml", run.status()["error"])


def test_a_folder_that_is_no_runs_is_named_and_not_made(tmp_path):
    done = launched(tmp_path, "no-run", tmp_path / "packages")
    assert done.returncode == 1
    assert re.search(r"impasto: There is no .*no-run.settings\.toml\. Give the folder of a run", done.stderr)
    assert not (tmp_path / "no-run").exists()


def in_two_processes(*command: str | Path, **environment: str) -> subprocess.CompletedProcess:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    root = PACK
    return subprocess.run([*launcher, *command], capture_output=True, text=True, env=environment, cwd=root, timeout=200)


def by_two_processes(*command: str | Path, **environment: str) -> str:
    """What they printed; it is an error if they fail."""
    done = in_two_processes(*command, **environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_two_processes_train_the_weights_that_one_does_with_twice_the_accumulation(make_run, tmp_path):
    one = make_run("one", **QUICK, steps=3, gradient_accumulation=2)
    two = make_run("two", **QUICK, steps=3, streamed_blocks=1)  # which is no reason to send the base around
    assert train(one)
    by_two_processes(PROCESS, two.folder, "--cpu")
    assert two.finished
    expected, got = final_adapter(one), final_adapter(two)
    assert expected.keys() == got.keys()
    assert all(torch.allclose(expected[key], got[key], atol=1e-5) for key in expected)
    assert [r["step"] for r in two.metrics()] == [0, 1, 2, 3]


def test_two_processes_of_which_one_is_asked_to_stop_while_measuring_stop_then_and_make_up_for_it(make_run):
    run = make_run(**QUICK, steps=4)
    by_two_processes("--module", "tests.trainers.stopped_and_resumed", run.folder)
    stopped = json.loads((run.path / "stopped.json").read_text())
    assert (stopped["state"], stopped["checkpoints"], stopped["evaluations"]) == ("stopped", [4], [])
    assert run.finished and [step for step, _ in run.evaluations()] == [4]
    assert {file.name for file in run.checkpoints()[4].iterdir()} == {"adapter.safetensors", "state.pt"}


@pytest.mark.parametrize("said", ["[/x/gloo/transport/tcp/pair.cc:547] Connection closed by peer [::1]:1", "NCCL"])
def test_a_process_that_another_left_alone_leaves_it_to_that_one_to_say_why(make_run, monkeypatch, said):
    def lose_it(self):
        raise torch.distributed.DistBackendError(said) if said == "NCCL" else RuntimeError(said)

    run = make_run(**QUICK)
    monkeypatch.setattr(recipe.FluxLoraRecipe, "train", lose_it)
    assert not train(run)
    assert run.status()["state"] == "starting" and "error" not in run.status()


def test_checkpoints_that_will_not_all_fit_are_told_of_before_the_first_step(make_run, monkeypatch):
    run = make_run(**QUICK, steps=8, checkpoint_every=1)
    plenty = shutil.disk_usage(run.path)
    trained = 4 * 2 * 128 * 2 * 4  # bytes, at least: rank 2, four layers, A and B in float32
    monkeypatch.setattr(shutil, "disk_usage", lambda path: plenty._replace(free=10 * trained))
    assert train(run) and run.finished
    assert re.search(r"8 checkpoints are to be kept .* keep_checkpoints", run.status()["warning"])


def test_a_finished_continued_run_is_returned_also_when_its_training_data_is_gone(make_run, tmp_path):
    run = make_run(**QUICK, steps=1)
    assert train(run)
    job = Job.read(run)

    def continued():
        return create.continue_run(Path(run.folder).parent, run, 1, Path(job.weights), job.fingerprint)

    longer = continued()
    assert train(longer) and longer.finished
    dataclasses.replace(job, features_folder=str(tmp_path / "gone" / job.features_key)).write(run)
    assert continued() == longer and longer.finished


def test_a_step_without_memory_is_left_out_and_counted(make_run, monkeypatch):
    run = make_run(**QUICK)
    predict, calls = step.predict_velocity, []

    def sometimes_full(*arguments, **options):
        if torch.is_grad_enabled():
            calls.append(1)
            if len(calls) == 2:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            if len(calls) == 3:
                torch.empty(2**60)  # on the CPU it is a RuntimeError, as on Apple's GPUs
        return predict(*arguments, **options)

    monkeypatch.setattr(step, "predict_velocity", sometimes_full)
    assert train(run) and run.finished
    assert {r["step"]: r["skipped"] for r in run.metrics() if "skipped" in r} == {
        2: "out of memory",
        3: "out of memory",
    }


@pytest.mark.parametrize(
    ("measured", "missing"), [("held_out_loss", "held-out loss and no sample"), ("samples", "sample")]
)
def test_a_checkpoint_that_cannot_be_measured_for_want_of_memory_is_told_and_trained_past(
    make_run, monkeypatch, measured, missing
):
    run, measure = make_run(**QUICK | {"sample_steps": 1}), getattr(validation.Validation, measured)

    def full(self):
        if max(run.checkpoints(), default=0) == 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return measure(self)

    monkeypatch.setattr(validation.Validation, measured, full)
    assert train(run) and run.finished and list(run.checkpoints()) == [4, 8] and list(run.samples()) == [8]
    assert {r["step"]: r["left_out"] for r in run.metrics() if "left_out" in r} == {4: "out of memory"}
    assert [step for step, _ in run.evaluations()] == ([8] if measured == "held_out_loss" else [4, 8])
    assert re.search(rf"Out of memory at step 4: it has no {missing}, .*(Set|Switch|Choose)", run.status()["warning"])


def test_a_recomputed_block_that_had_no_memory_does_not_reach_into_the_planning_of_the_remedy(make_run, monkeypatch):
    """torch's checkpoint holds on to what is kept for a backward pass for as long as the error holds its frames."""
    run = make_run(**QUICK, steps=3)
    predict, calls = step.predict_velocity, []

    def full(block, arguments, outputs):
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def watched(transformer, *arguments, **options):
        if torch.is_grad_enabled():
            calls.append(1)
            if len(calls) == 1:
                transformer.single_transformer_blocks[0].register_forward_hook(full)
        return predict(transformer, *arguments, **options)

    monkeypatch.setattr(step, "predict_velocity", watched)
    block_profile._rehearse_frame.cache_clear()
    block_profile._rehearse_block.cache_clear()
    assert train(run) and run.finished
    assert [record["step"] for record in run.metrics() if "skipped" in record] == [2]


def test_three_steps_in_a_row_without_memory_end_the_run_with_the_remedy(make_run, monkeypatch):
    def full(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    run = make_run(**QUICK, gradient_checkpointing=False)
    monkeypatch.setattr(validation.Validation, "held_out_loss", lambda self: None)
    monkeypatch.setattr(step, "predict_velocity", full)
    assert not train(run)
    assert re.search(r"Out of memory.*(Set|Switch) .*Queue again", run.status()["error"])
    assert [record["step"] for record in run.metrics() if "skipped" in record] == [1, 2, 3]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_one_loss_that_is_not_finite_costs_its_step_and_not_the_lora(make_run, monkeypatch, optimizer):
    run = make_run(**QUICK, optimizer=optimizer, learning_rate=RATES.get(optimizer, 1e-3))
    errors, calls = objective.velocity_errors, []

    def once_broken(velocity, *arguments, **options):
        taught = velocity.requires_grad and not velocity.is_meta  # as in the planning of memory
        calls.append(taught)
        broken = taught and sum(calls) == 3
        return errors(velocity, *arguments, **options) * (float("nan") if broken else 1)

    monkeypatch.setattr(objective, "velocity_errors", once_broken)
    assert train(run) and run.finished
    assert [r["step"] for r in run.metrics() if r.get("skipped") == "not finite"] == [3]
    assert all(value.isfinite().all() for value in final_adapter(run).values())


def test_a_loss_of_exactly_zero_stops_the_run_and_says_why(make_run, monkeypatch):
    run = make_run(**QUICK)
    errors = objective.velocity_errors
    monkeypatch.setattr(objective, "velocity_errors", lambda *given, **options: errors(*given, **options) * 0)
    assert not train(run)
    assert "exactly 0 at step 1" in run.status()["error"]


def test_every_step_tells_its_sigmas_and_its_gradient_norm(make_run):
    run = make_run(**QUICK)
    assert train(run)
    steps = [record for record in run.metrics() if "loss" in record]
    assert all(record["grad_norm"] > 0 and all(0 <= sigma <= 1 for sigma in record["sigma"]) for record in steps)
    assert len({sigma for record in steps for sigma in record["sigma"]}) > len(steps)
    known = {example.id for example in preflight.preflight(Job.read(run), run).training}
    for record in steps:
        assert len(record["losses"]) == len(record["examples"]) == len(record["sigma"])
        assert set(record["examples"]) <= known
        assert sum(record["losses"]) / len(record["losses"]) == pytest.approx(record["loss"], rel=1e-3)


def test_tensorboard_gets_the_metrics_when_asked(make_run):
    run = make_run(**QUICK, steps=2, tracker="tensorboard")
    assert train(run)
    assert list(run.path.glob("logs/**/events.out.tfevents.*"))


def test_settings_that_are_not_the_runs_do_not_go_into_it(make_run):
    run = make_run(**QUICK)
    job = Job.read(run)
    assert dataclasses.replace(job, name=job.name) == job and job.settings.rank == 2
