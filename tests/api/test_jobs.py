"""Requests become jobs with graphs that a person could have made, and jobs are told of as they stand."""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from impasto.api import graphs, jobs
from impasto.api.models import CreateDatasetConfig, DownloadImages, RunAll, Train
from impasto.api.routing import JobState, Refused
from impasto.dataset.records import Record, write_manifest
from impasto.trainers.features.index import Features
from impasto.trainers.run import create
from impasto.trainers.run import folder as runs
from impasto.trainers.run.folder import Job
from impasto.trainers.settings import Settings

TINY = {"pretrained_model": "tiny-flux"}


@pytest.fixture
def dataset(places):
    return write_manifest(
        places.datasets_roots[0] / "monets", [Record("images/ab.png", "ab" * 32, 8, 8, 100, "a pond")]
    )


@pytest.fixture
def config(dataset, places):
    """A config of three pictures, two of them shown ten times."""
    from PIL import Image

    folder = places.datasets_roots[0] / "monets" / "train"
    folder.mkdir()
    for name in ("a", "b", "c"):
        Image.new("RGB", (64, 64)).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text("a pond")
    text = "[[datasets]]\nresolution = 512\nenable_bucket = true\nbatch_size = 2\n"
    text += f'[[datasets.subsets]]\nimage_dir = "{folder}"\ncaption_extension = ".txt"\nnum_repeats = 10\n'
    (places.datasets_roots[0] / "monets" / "my.toml").write_text(text)
    return "monets/my.toml"


@pytest.fixture
def run(places):
    features = Features(str(places.user_root / "features"), "abc")
    (places.user_root / "features").mkdir()
    job = runs.Job("monet", Settings(steps=40), features.folder, features.key, "/models/flux.safetensors", "f1")
    return create.create_run(places.runs_root, job)


def the_graph(host):
    (graph,) = host.posted.values()
    return {name: (each["class_type"], each["inputs"]) for name, each in graph.items()}


def test_field_names_and_defaults_are_those_of_the_service_that_is_replaced():
    fields = {model: {name: field.default for name, field in model.model_fields.items()} for model in MODELS}
    for model, known in MODELS.items():
        assert known.items() <= fields[model].items(), model


_MODEL_FILES = {
    "pretrained_model": "flux1-dev-fp8.sft",
    "clip_l": "clip_l.safetensors",
    "t5xxl": "t5xxl_fp16.safetensors",
    "ae": "ae.sft",
}
_LEARNING = _MODEL_FILES | {"learning_rate": 8e-4, "network_dim": 4, "enable_bucket": True}
MODELS = {
    DownloadImages: {"captions": []},
    CreateDatasetConfig: {
        "num_repeats": 10,
        "resolution": 1024,
        "batch_size": 1,
        "shuffle_caption": False,
        "caption_extension": ".txt",
        "keep_tokens": 1,
    },
    Train: _LEARNING | {"max_train_epochs": 10, "save_every_n_epochs": 0, "full_bf16": False},
    RunAll: _LEARNING | {"image_urls": [], "captions": [], "auto_captioning": False, "steps": 500, "resolution": 1024},
}


def test_urls_and_their_captions_become_a_dataset(ask, host):
    body = {"urls": ["https://a.example/1.jpg", "https://a.example/2.jpg"], "output_name": "monets"}
    reply = ask("POST", "download-images", body | {"captions": ["a pond", 'a "boat"'], "wait": 0})
    kind, inputs = the_graph(host)["load"]
    assert kind == "ImpastoImageURLLoader" and inputs["name"] == "monets"
    lines = [json.loads(line) for line in inputs["urls"].splitlines()]
    assert [line["text"] for line in lines] == ["a pond", 'a "boat"']
    assert reply.follow in host.posted and reply.then(JobState("pending")).status == 202


def test_the_answer_has_each_file_by_its_url_and_why_each_other_url_gave_none(ask, places):
    from impasto.dataset.records import Refusal

    body = {"urls": ["https://a.example/1.jpg", "https://a.example/2.jpg"], "output_name": "monets"}
    reply = ask("POST", "download-images", body)
    record = Record("images/ab.jpg", "ab" * 32, 8, 8, 100, source=body["urls"][0])
    refusal = Refusal(body["urls"][1], "status", "the server answers 404")
    dataset = write_manifest(places.datasets_roots[0] / "monets", [record], [refusal])
    made = ({"dataset": "monets", "revision": dataset.revision},)
    answer = reply.then(JobState("done", made=made)).value
    picture = str(places.datasets_roots[0] / "monets" / "images" / "ab.jpg")
    assert answer["message"] == "Download complete"
    assert answer["files"] == {body["urls"][0]: picture, body["urls"][1]: "Error: the server answers 404"}


def test_a_job_that_failed_is_answered_with_why(ask):
    reply = ask("POST", "download-images", {"urls": ["https://a.example/1.jpg"], "output_name": "monets"})
    with pytest.raises(Refused, match="no picture") as refused:
        reply.then(JobState("failed", error="None of the 1 URLs gave a picture: no picture."))
    assert refused.value.status == 409


def test_an_epoch_shows_each_picture_as_often_as_the_config_says(ask, host, config):
    ask("POST", "train", {"output_name": "monets", "max_train_epochs": 3, "save_every_n_epochs": 1, **TINY})
    graph = the_graph(host)
    assert graph["config"][1]["file"] == config
    settings = graph["settings"][1]
    assert (settings["steps"], settings["checkpoint_every"]) == (45, 15)  # 30 pictures, two at a time
    assert (settings["rank"], settings["alpha"], settings["learning_rate"]) == (4, 4.0, 8e-4)
    assert graph["train"][1]["name"] == "monets" and graph["tiny_flux"][0] == "ImpastoTinyFluxLoader"


def test_settings_by_name_go_before_the_fields(ask, host, config):
    settings = {"optimizer": "prodigy", "learning_rate": 1.0}
    ask("POST", "train", {"output_name": "monets", "settings": settings, **TINY})
    assert the_graph(host)["settings"][1].items() >= settings.items()


@pytest.mark.parametrize("listed", ["flux1-dev.safetensors", "flux/flux1-dev.sft"])
def test_a_model_is_found_by_its_files_name_whatever_its_ending_or_folder(ask, host, config, listed):
    host.lists = {"diffusion_models": ["other.sft", listed], "text_encoders": ["clip_l.safetensors"], "vae": ["ae.sft"]}
    host.lists["text_encoders"].append("t5xxl_fp16.safetensors")
    ask("POST", "train", {"output_name": "monets", "pretrained_model": "flux1-dev.sft"})
    assert the_graph(host)["transformer"][1]["unet_name"] == listed


def test_a_model_that_is_not_there_is_refused_with_those_that_are(ask, host, config):
    host.lists = {"diffusion_models": ["other.sft"]}
    with pytest.raises(Refused, match="flux1-dev-fp8.sft.*It lists: other.sft, or tiny-flux") as refused:
        ask("POST", "train", {"output_name": "monets"})
    assert (refused.value.name, refused.value.status) == ("pretrained_model", 404)
    assert not host.posted


def test_one_call_is_one_graph_from_a_folder_to_a_lora(ask, host):
    body = {"output_name": "mine", "folder": "pictures", "auto_captioning": True, "captioner": "metadata"}
    reply = ask("POST", "run", body | {"trigger_word": "mntgrdn", "resolution": 128, "steps": 4, **TINY})
    graph = the_graph(host)
    kinds = [kind for kind, _ in graph.values()]
    assert kinds[0] == "ImpastoImageFolderLoader" and kinds[-1] == "ImpastoFluxLoraTrainer"
    assert graph["config"][1]["dataset"] == ["caption", 0]
    assert graph["config"][1]["more_keys"] == 'class_tokens = "mntgrdn"'
    assert reply.value["run_id"] in host.posted


@pytest.mark.parametrize(
    ("path", "body", "field", "said"),
    [
        ("train", {"output_name": "monets", "learning_rate": 2}, "learning_rate", "less than or equal to 1"),
        ("train", {"output_name": "monets", "learning_rte": 1e-4}, "learning_rte", "is no field .* learning_rate"),
        ("train", {}, "output_name", "output_name is missing"),
        ("train", {"output_name": "monets", "steps": "5"}, "steps", "steps is '5'. .*valid integer"),
        ("download-images", {"output_name": "m", "urls": []}, "urls", "at least 1"),
        ("download-images", {"output_name": "m", "urls": ["x"], "captions": ["a", "b"]}, "body", "one for each"),
        ("run", {"output_name": "m", "folder": "f", "image_urls": ["x"]}, "body", "image_urls and folder"),
        ("caption-images", {"output_name": "monets", "trigger_word": "", "prompt": "Why?"}, "prompt", "florence2"),
        ("caption-images", ["x"], "body", "object"),
        ("caption-images", None, "body", "send a JSON object"),
    ],
)
def test_a_request_that_does_not_fit_is_refused_by_field_value_and_remedy(ask, host, dataset, path, body, field, said):
    with pytest.raises(Refused, match=said) as refused:
        ask("POST", path, body)
    assert (refused.value.name, refused.value.status) == (field, 400)
    assert not host.posted


def test_a_dataset_that_is_not_there_is_named_with_those_that_are(ask, dataset):
    with pytest.raises(Refused, match="no dataset 'manets'.*There are: monets") as refused:
        ask("POST", "caption-images", {"output_name": "manets", "trigger_word": ""})
    assert (refused.value.name, refused.value.status) == ("output_name", 404)


def test_the_same_request_at_once_and_again_is_one_job(ask, host):
    body = {"output_name": "mine", "folder": "pictures", "job_id": str(uuid.uuid4()), **TINY}
    with ThreadPoolExecutor(8) as threads:
        ids = {reply.value["job_id"] for reply in threads.map(lambda _: ask("POST", "run", body), range(20))}
    assert ids == {body["job_id"]} == set(host.posted)


def test_a_job_that_comfyui_does_not_take_leaves_nothing(ask, host, places):
    def refuse(job_id, graph):
        raise Refused("The folder is not there.")

    host.post = refuse
    with pytest.raises(Refused):
        ask("POST", "run", {"output_name": "mine", "folder": "pictures", **TINY})
    assert not list((places.user_root / "jobs").iterdir())


def started(ask) -> str:
    return ask("POST", "run", {"output_name": "monet", "folder": "pictures", **TINY}).value["job_id"]


def status(ask, asked: str) -> dict:
    return ask("GET", "status/{run_id}", run_id=asked).value


def test_a_job_is_told_of_from_the_queue_to_the_run_by_either_id(ask, host, places, run):
    job_id = started(ask)
    host.states[job_id] = JobState("pending", ahead=3)
    told = status(ask, job_id)
    assert (told["state"], told["status"], told["ahead"], told["run"]) == ("queued", "processing", 3, None)
    jobs.note_run(places.user_root, job_id, run.id, {})
    host.states[job_id] = JobState("running", doing="Train")
    (run.path / "status.json").write_text(json.dumps({"state": "training", "step": 10, "total": 40}))
    (run.path / "train.log").write_text("".join(f"line {number}\n" for number in range(30)))
    for asked in (job_id, run.id):
        told = status(ask, asked)
        assert (told["run"], told["job_id"], told["percent"]) == (run.id, job_id, 25.0)
        assert told["data"] == {"progress": 25, "error": None} and told["logs"][0] == "line 20"
    assert ask("GET", "runs/{run_id}", run_id=job_id).value["id"] == run.id
    made = ({"run_id": run.id, "lora": "monet/monet-x.safetensors"},)
    host.states[job_id] = JobState("done", made=made)
    told = status(ask, job_id)
    assert (told["status"], told["state"], told["lora"]) == ("completed", "finished", "monet/monet-x.safetensors")


def test_what_a_restart_took_is_lost_and_goes_on_by_its_graph(ask, host, places, run):
    job_id = started(ask)
    jobs.note_run(places.user_root, job_id, run.id, {})
    graph = host.posted[job_id]
    host.states.clear()  # another server, whose queue begins empty
    (run.path / "status.json").write_text(json.dumps({"state": "stopped", "step": 10, "total": 40}))
    told = status(ask, run.id)
    assert (told["state"], told["status"], told["resumable"]) == ("stopped", "failed", True)
    assert f"runs/{run.id}/continue" in told["remedy"]
    again = ask("POST", "runs/{run_id}/continue", {}, run_id=run.id).value["job_id"]
    assert host.posted[again] == graph and again != job_id
    with pytest.raises(Refused, match="Wait until it has ended"):
        ask("POST", "runs/{run_id}/continue", None, run_id=again)


def test_a_job_that_had_no_run_yet_is_lost_too(ask, host):
    job_id = started(ask)
    host.states.clear()
    assert (status(ask, job_id)["state"], status(ask, job_id)["resumable"]) == ("lost", True)


def test_a_trainer_that_ends_without_its_server_is_still_running_for_a_minute(ask, host, places, run):
    job_id = started(ask)
    jobs.note_run(places.user_root, job_id, run.id, {})
    host.states.clear()
    file = run.path / "status.json"
    file.write_text(json.dumps({"state": "training", "step": 10, "total": 40}))
    assert status(ask, run.id)["state"] == "running"
    os.utime(file, (time.time() - 100,) * 2)
    assert status(ask, run.id)["state"] == "lost"


def test_a_finished_run_trains_for_longer_on_the_model_that_it_was_trained_on(ask, host, places, run):
    job_id = started(ask)
    jobs.note_run(places.user_root, job_id, run.id, {})
    (run.path / "status.json").write_text(json.dumps({"state": "finished", "step": 40, "total": 40}))
    host.states.clear()
    with pytest.raises(Refused, match="more_steps"):
        ask("POST", "runs/{run_id}/continue", {}, run_id=run.id)
    longer = ask("POST", "runs/{run_id}/continue", {"more_steps": 20}, run_id=run.id).value["job_id"]
    graph = host.posted[longer]
    assert {each["class_type"] for each in graph.values()} == {
        "ImpastoTinyFluxLoader",
        "ImpastoTrainingRunLoader",
        "ImpastoContinueTraining",
    }
    assert graph["earlier"]["inputs"]["run_id"] == run.id and graph["train"]["inputs"]["more_steps"] == 20


def trained(run, state: str, step: int) -> None:
    """As a trainer leaves a run of forty steps whose last checkpoint is of this one."""
    (run.path / "status.json").write_text(json.dumps({"state": state, "step": step, "total": 40}))
    if step:
        checkpoint = run.path / "checkpoints" / f"step-{step:06d}"
        checkpoint.mkdir(parents=True)
        with zipfile.ZipFile(checkpoint / "state.pt", "w") as state:  # as torch.save writes it
            state.writestr("state/data.pkl", b"")


@pytest.fixture
def loader(host):
    found = graphs.node("UNETLoader", "Load", unet_name="flux.safetensors", weight_dtype="default")
    host.loaders["/models/flux.safetensors", "f1"] = found
    return found


def go_on(ask, run, **body) -> str:
    return ask("POST", "runs/{run_id}/continue", body, run_id=run.id).value["job_id"]


def test_a_run_that_a_page_began_goes_on_by_what_led_to_its_trainer(ask, host, places, run):
    job_id = str(uuid.uuid4())
    prompt = {
        "1": {"class_type": "Load", "inputs": {}, "is_changed": [1.0]},
        "2": {"class_type": "ImpastoFluxLoraTrainer", "inputs": {"model": ["1", 0]}, "_meta": {"title": "Train"}},
        "3": {"class_type": "Grid", "inputs": {"run": ["2", 0]}},
    }
    jobs.note_run(places.user_root, job_id, run.id, graphs.of_prompt(prompt, "2"))
    trained(run, "stopped", 10)
    assert status(ask, run.id)["resumable"] and status(ask, run.id)["kind"] == "prompt"
    again = host.posted[go_on(ask, run)]
    assert again == {"1": {"class_type": "Load", "inputs": {}}, "2": prompt["2"]}


@pytest.mark.parametrize("state", ["stopped", "failed", "training"])
def test_a_run_of_which_only_the_folder_is_known_goes_on_by_continue_training(ask, host, run, loader, state):
    trained(run, state, 10)
    if state == "training":  # its trainer was lost without a word
        os.utime(run.path / "status.json", (time.time() - 100,) * 2)
    assert status(ask, run.id)["resumable"]
    graph = host.posted[go_on(ask, run)]
    longer = graph["train"]["inputs"]
    assert graph[longer["model"][0]] == loader and graph["earlier"]["inputs"]["run_id"] == run.id
    assert longer["more_steps"] == 30


def test_a_run_that_has_too_few_steps_left_for_its_warm_up_goes_on_for_more(ask, host, run, loader):
    trained(run, "stopped", 10)
    with_a_long_warm_up(run, host)
    with pytest.raises(Refused, match="Ask for more steps"):
        go_on(ask, run)
    assert host.posted[go_on(ask, run, more_steps=50)]["train"]["inputs"]["more_steps"] == 50


def test_a_finished_run_of_which_only_the_folder_is_known_trains_for_longer(ask, host, run, loader):
    trained(run, "finished", 40)
    with pytest.raises(Refused, match="more_steps"):
        go_on(ask, run)
    assert host.posted[go_on(ask, run, more_steps=7)]["train"]["inputs"]["more_steps"] == 7


def without_features(run, host):
    Path(Job.read(run).features_folder).rmdir()


def without_model(run, host):
    host.loaders.clear()


def damaged(run, host):
    (run.path / "checkpoints" / "step-000010" / "state.pt").write_bytes(b"PK\x03\x04 and no more")


def without_checkpoint(run, host):
    shutil.rmtree(run.path / "checkpoints")


def with_a_long_warm_up(run, host):
    job = Job.read(run)
    replace(job, settings=replace(job.settings, warmup_steps=35)).write(run)


def at_its_end(run, host):
    trained(run, "stopped", 40)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (without_features, "encoded pictures .* are gone .* Queue the graph"),
        (without_model, "/models/flux.safetensors, which no loader"),
        (damaged, "step-000010 is damaged"),
        (without_checkpoint, "has no checkpoint to go on from"),
        (with_a_long_warm_up, "warms its learning rate up over 35 steps, and only 30"),
        (at_its_end, "has come to step 40, its last"),
    ],
)
def test_a_run_that_cannot_go_on_is_refused_with_why_and_what_to_do(ask, host, run, loader, spoil, said):
    trained(run, "stopped", 10)
    spoil(run, host)
    with pytest.raises(Refused, match=said) as refused:
        go_on(ask, run)
    assert (refused.value.status, refused.value.name) == (409, "run_id") and not host.posted


def test_a_run_that_was_stopped_before_its_first_checkpoint_is_not_said_to_be_resumable(ask, run):
    trained(run, "stopped", 0)
    assert status(ask, run.id)["resumable"] is False


@pytest.mark.parametrize("asked", ["e21bb719-dde6-4aaa-8afb-461a720b340e", "nothing-00000000", "../x"])
def test_what_is_not_there_is_not_found(ask, asked):
    with pytest.raises(Refused) as refused:
        status(ask, asked)
    assert refused.value.status == 404


def test_a_job_is_taken_back(ask, host):
    job_id = started(ask)
    assert ask("POST", "jobs/{job_id}/cancel", job_id=job_id).value == {"job_id": job_id, "cancelled": True}
    assert ask("POST", "jobs/{job_id}/cancel", job_id=job_id).value["cancelled"] is False


def test_the_oldest_records_go(ask, places, monkeypatch):
    monkeypatch.setattr(jobs, "MOST_RECORDS", 3)
    monkeypatch.setattr(jobs, "SPARE_RECORDS", 2)
    ids = [started(ask) for _ in range(6)]
    kept = {file.stem for file in (places.user_root / "jobs").glob("*.json")}
    assert kept == set(ids[-3:])
