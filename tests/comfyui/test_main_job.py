"""The shipped main job on a real server: from paintings to a LoRA and its grid, through every interruption."""

from __future__ import annotations

import copy
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from impasto.embedded.paintings import write_wikiart_shards
from impasto.setup import comfy_cli
from impasto.setup.environment import HOME
from impasto.setup.serving import ComfyServer, Execution, Interrupted, NodeFailed, PromptRefused, Result, ServerFailed
from PIL import Image
from safetensors.torch import load_file, save_file

from ..weights import same
from .workflows import shipped

WORKFLOW = shipped(1)
KILLS = 20 if os.environ.get("IMPASTO_LONG") else 3
STEPS, EVERY = 24, 8
SMALLER = {  # of the shipped graph, so that a run takes seconds
    "ImpastoWikiArtLoader": {"count": 10},
    "ImpastoDatasetTOMLWriter": {"resolution": 128, "min_bucket_reso": 64, "max_bucket_reso": 192},
    "ImpastoTrainingSettings": {"steps": STEPS, "checkpoint_every": EVERY, "sample_steps": 2},
    "ImpastoProgressGrid": {"width": 64, "height": 64, "steps": 2},
    "EmptySD3LatentImage": {"width": 64, "height": 64},
    "KSampler": {"steps": 2},
}


@pytest.fixture(scope="session")
def shipped(server: ComfyServer) -> dict:
    """The shipped workflow in API form, made smaller."""
    write_paintings(server)
    prompt = comfy_cli.to_api(HOME, WORKFLOW, server.port)
    for node in prompt.values():
        node["inputs"] |= SMALLER.get(node["class_type"], {})
    return prompt


def write_paintings(server: ComfyServer) -> None:
    write_wikiart_shards(server.base / "datasets" / "embedded-brushwork", 12, 0, shards=1, defects=True)


def node_of(prompt: dict, kind: str) -> str:
    return next(node for node, content in prompt.items() if content["class_type"] == kind)


def only_training(prompt: dict, name: str) -> dict:
    """The graph up to the trainer, under another LoRA name: another run, which must end at the same weights."""
    prompt = copy.deepcopy(prompt)
    trainer = node_of(prompt, "ImpastoFluxLoraTrainer")
    prompt[trainer]["inputs"]["name"] = name
    wanted, queue = set(), [trainer]
    while queue:
        node = queue.pop()
        wanted.add(node)
        queue += [value[0] for value in prompt[node]["inputs"].values() if isinstance(value, list)]
    kept = {node: prompt[node] for node in wanted}
    # A node with an output of its own, so that ComfyUI runs the graph.
    kept["show"] = {"class_type": "PreviewAny", "inputs": {"source": [trainer, 3]}}
    return kept


def lora_folder(server: ComfyServer, name: str) -> Path:
    return server.base / "output" / "loras" / name


def weights(server: ComfyServer, name: str) -> dict[str, torch.Tensor]:
    return load_file(lora_folder(server, name) / f"{name}.safetensors")


def run_folder(server: ComfyServer, name: str) -> Path:
    return next((server.base / "output" / "impasto" / "runs").glob(f"{name}-????????"))


def checkpoints(server: ComfyServer, name: str) -> list[str]:
    return sorted(path.name for path in run_folder(server, name).glob("checkpoints/step-*"))


def status(server: ComfyServer, name: str) -> dict:
    return json.loads((run_folder(server, name) / "status.json").read_text())


def trainer_processes(name: str) -> list[int]:
    """The trainer's own process, not accelerate's launcher, whose command line holds its own module too."""
    found = subprocess.run(["pgrep", "-af", f"process.py .*/{name}-"], capture_output=True, text=True).stdout
    return [int(line.split()[0]) for line in found.splitlines() if "accelerate" not in line]


def wait_for_step(server: ComfyServer, name: str, step: int, execution: Execution, seconds: float = 240) -> None:
    """Wait until the run's metrics hold `step`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for file in (server.base / "output" / "impasto" / "runs").glob(f"{name}-????????/metrics.jsonl"):
            lines = file.read_text().splitlines()
            if lines and lines[-1].endswith("}") and json.loads(lines[-1])["step"] >= step:
                return
        assert execution._thread.is_alive(), "the prompt ended before the step was reached"
        time.sleep(0.02)
    raise TimeoutError(f"step {step} of {name} was not reached in {seconds} s")


@pytest.fixture(scope="session")
def finished(server: ComfyServer, shipped: dict) -> Result:
    """The whole graph, run once without interruption."""
    return server.queue(shipped, timeout=400)


def shown(server: ComfyServer, prompt: dict, result: Result, title: str) -> Image.Image:
    node = next(node for node, content in prompt.items() if content.get("_meta", {}).get("title") == title)
    (file,) = server.output_files(result, node)
    return Image.open(file)


def test_the_job_ends_in_a_lora_with_its_checkpoints(server: ComfyServer, finished: Result):
    files = sorted(path.name for path in lora_folder(server, "quickstart").iterdir())
    steps = [f"quickstart-{step:06d}.safetensors" for step in range(EVERY, STEPS + 1, EVERY)]
    beside = [f"quickstart.{file}" for file in ("dataset.toml", "settings.toml", "workflow.json")]
    own = f"{run_folder(server, 'quickstart').name}-{STEPS:06d}.safetensors"
    assert files == sorted([*steps, "quickstart.safetensors", own, *beside])
    assert all(value.abs().max() > 0 for key, value in weights(server, "quickstart").items() if "lora_B" in key)


def test_the_job_shows_its_grid_its_loss_and_a_picture(server: ComfyServer, shipped: dict, finished: Result):
    grid = shown(server, shipped, finished, "Save the progress grid")
    assert grid.width > 4 * 64 and grid.height > 3 * 64
    for title in ("Save the loss plot", "Save a picture made with the LoRA"):
        low, high = shown(server, shipped, finished, title).convert("L").getextrema()
        assert high > low, f"{title} is a blank picture"


def test_the_filter_refused_what_was_painted_to_be_refused(server: ComfyServer, finished: Result):
    refusals = [
        json.loads(line)
        for file in (server.base / "datasets" / "quickstart" / "rejected").glob("*.jsonl")
        for line in file.read_text().splitlines()
    ]
    assert {refusal["rule"] for refusal in refusals} >= {"min_side", "max_aspect"}
    assert all(refusal["reason"] for refusal in refusals)


def test_the_held_out_loss_falls(server: ComfyServer, finished: Result):
    lines = (run_folder(server, "quickstart") / "metrics.jsonl").read_text().splitlines()
    held_out = [record["held_out_loss"] for record in map(json.loads, lines) if "held_out_loss" in record]
    assert len(held_out) == 1 + STEPS // EVERY
    assert held_out[-1] < held_out[0]


def test_comfyui_loads_the_lora_without_a_key_left_over(server: ComfyServer, finished: Result):
    assert "lora key not loaded" not in server.log_text() and "NOT LOADED" not in server.log_text()


def test_the_lora_changes_the_picture(server: ComfyServer, shipped: dict, finished: Result):
    prompt = copy.deepcopy(shipped)
    lora = prompt[node_of(prompt, "LoraLoaderModelOnly")]
    lora["inputs"] |= {"strength_model": 0.0}
    result = server.queue(prompt)
    title = "Save a picture made with the LoRA"
    without, with_lora = (shown(server, shipped, run, title) for run in (result, finished))
    assert without.size == with_lora.size and without.tobytes() != with_lora.tobytes()


def test_queueing_again_returns_within_two_seconds(server: ComfyServer, shipped: dict, finished: Result):
    log = run_folder(server, "quickstart") / "train.log"
    before = log.stat().st_mtime_ns
    seconds = []
    for _ in range(3):  # the best of them: other work on the machine is not what is tested
        began = time.monotonic()
        server.queue(shipped)
        seconds.append(time.monotonic() - began)
    assert min(seconds) < 2
    assert log.stat().st_mtime_ns == before


def test_a_finished_run_is_not_trained_again_when_its_node_runs_again(
    server: ComfyServer, shipped: dict, finished: Result
):
    log = run_folder(server, "quickstart") / "train.log"
    before = log.stat().st_mtime_ns
    prompt = copy.deepcopy(shipped)
    # Captions with the artist's name are the same where no artist is known, but ComfyUI can't know that.
    prompt[node_of(prompt, "ImpastoMetadataCaptioner")]["inputs"] |= {"name_artist": True}
    assert node_of(prompt, "ImpastoFluxLoraTrainer") in server.queue(prompt).seconds
    assert log.stat().st_mtime_ns == before


def test_the_run_keeps_the_graph_and_the_dataset_config_that_made_it(server: ComfyServer, finished: Result):
    folder = run_folder(server, "quickstart")
    configs = [file.read_text() for file in (server.base / "datasets" / "quickstart").glob("*.toml")]
    assert (folder / "dataset.toml").read_text() in configs
    graph = json.loads((folder / "workflow.json").read_text())
    assert any(node["class_type"] == "ImpastoFluxLoraTrainer" for node in graph.values())


def test_cancel_saves_the_step_it_is_in_and_queueing_again_goes_on(
    server: ComfyServer, shipped: dict, finished: Result
):
    prompt = only_training(shipped, "cancelled")
    execution = server.submit(prompt)
    wait_for_step(server, "cancelled", 2, execution)
    server.interrupt()
    with pytest.raises(Interrupted):
        execution.wait(120)
    stopped = status(server, "cancelled")
    assert stopped["state"] == "stopped" and checkpoints(server, "cancelled")[-1] == f"step-{stopped['step']:06d}"
    assert (lora_folder(server, "cancelled") / f"cancelled-{stopped['step']:06d}.safetensors").is_file()
    assert not trainer_processes("cancelled")

    server.queue(prompt)
    assert same(weights(server, "cancelled"), weights(server, "quickstart"))


SLOWLY, FAST = 1e-3, 1e-2  # learning rates


@pytest.fixture(scope="session")
def retrained(server: ComfyServer, shipped: dict) -> dict[float, Result]:
    """By learning rate: what one graph gave, queued with the first, then with the second."""
    return {
        rate: server.queue(trained_and_applied(shipped, rate, f"at {rate}"), timeout=240) for rate in (SLOWLY, FAST)
    }


def trained_and_applied(shipped: dict, rate: float, saved: str) -> dict:
    """Training, then core's own loader, and the model saved with the LoRA on it."""
    prompt = only_training(shipped, "retrained")
    prompt[node_of(prompt, "ImpastoTrainingSettings")]["inputs"] |= {"steps": 2, "learning_rate": rate}
    trainer = node_of(prompt, "ImpastoFluxLoraTrainer")
    applied = {"model": prompt[trainer]["inputs"]["model"], "lora_name": [trainer, 3], "strength_model": 1.0}
    prompt["apply"] = {"class_type": "LoraLoaderModelOnly", "inputs": applied}
    saving = {"model": ["apply", 0], "filename_prefix": f"retrained/{saved}"}
    prompt["save"] = {"class_type": "ModelSave", "inputs": saving}
    return prompt


def difference(server: ComfyServer, *saved: str) -> float:
    """Mean difference of the weights of two saved models."""
    files = [next((server.base / "output" / "retrained").glob(f"{name}_*.safetensors")) for name in saved]
    one, other = map(load_file, files)
    return sum((one[key] - other[key]).abs().mean().item() for key in one)


def test_after_another_setting_core_s_loader_applies_the_lora_that_was_trained_with_it(
    server: ComfyServer, shipped: dict, retrained: dict[float, Result]
):
    names = {result.outputs["show"]["text"][0] for result in retrained.values()}
    runs = [path.name for path in (server.base / "output" / "impasto" / "runs").glob("retrained-*")]
    assert len(runs) == 2 and names == {f"retrained/{run}-000002.safetensors" for run in runs}
    server.queue(trained_and_applied(shipped, SLOWLY, "back"))
    for rate in (SLOWLY, FAST):  # by a loader that has read nothing before
        forget_outputs(server)
        server.queue(trained_and_applied(shipped, rate, f"fresh at {rate}"))
    apart = difference(server, f"fresh at {SLOWLY}", f"fresh at {FAST}")
    assert difference(server, f"at {FAST}", f"fresh at {FAST}") < apart / 1000
    assert difference(server, "back", f"fresh at {SLOWLY}") < apart / 1000


def forget_outputs(server: ComfyServer) -> None:
    """Have the server keep no outputs and no nodes, as after a restart."""
    actions = {"unload_models": False, "empty_caches": False, "collect_garbage": False, "return_heap": False}
    values = {"value": ["some", 0], "drop_outputs": True, "only_above": 0} | actions
    some = {"class_type": "ImpastoTrainingRunLoader", "inputs": {"run_id": "latest"}}
    shown = {"class_type": "PreviewAny", "inputs": {"source": ["clean", 1]}}
    server.queue({"some": some, "clean": {"class_type": "ImpastoMemoryCleanup", "inputs": values}, "show": shown})


def test_the_latest_run_is_that_trained_last_whether_an_earlier_graph_is_kept_or_run_again(
    server: ComfyServer, shipped: dict, retrained: dict[float, Result]
):
    latest = {"class_type": "ImpastoTrainingRunLoader", "inputs": {"run_id": "latest"}}
    graph = trained_and_applied(shipped, SLOWLY, "once more") | {"latest": latest}
    graph["show latest"] = {"class_type": "PreviewAny", "inputs": {"source": ["latest", 0]}}
    trainer = node_of(graph, "ImpastoFluxLoraTrainer")
    server.queue(graph)
    kept = server.queue(graph)
    forget_outputs(server)
    again = server.queue(graph)
    assert trainer in kept.cached and trainer not in again.cached
    newest = retrained[FAST].outputs["show"]["text"][0].removeprefix("retrained/").removesuffix("-000002.safetensors")
    assert all(f"'{newest}'" in result.outputs["show latest"]["text"][0] for result in (kept, again))


def test_the_trainer_killed_at_any_moment_is_explained_and_ends_at_the_same_weights(
    server: ComfyServer, shipped: dict, finished: Result
):
    prompt = only_training(shipped, "killed")
    choose = random.Random(1)
    for _ in range(KILLS):
        execution = server.submit(prompt)
        kill_trainer(choose, server, "killed", execution)
        with pytest.raises(NodeFailed, match=r"(?s)killed from outside.*memory.*Queue again"):
            execution.wait(120)
    server.queue(prompt)
    assert same(weights(server, "killed"), weights(server, "quickstart"))


def kill_trainer(choose: random.Random, server: ComfyServer, name: str, execution: Execution) -> None:
    """SIGKILL the trainer: while it starts, or at one of its steps but the last few."""
    while not trainer_processes(name):
        assert execution._thread.is_alive(), "the prompt ended before the trainer started"
        time.sleep(0.02)
    if choose.random() < 0.3:
        time.sleep(choose.uniform(0, 3))
    else:
        wait_for_step(server, name, choose.randrange(1, STEPS - EVERY), execution)
    for process in trainer_processes(name):
        os.kill(process, signal.SIGKILL)


def test_a_server_killed_at_any_moment_goes_on_to_the_same_weights(
    own_server: ComfyServer, server: ComfyServer, shipped: dict, finished: Result
):
    write_paintings(own_server)
    prompt = only_training(shipped, "crashed")
    choose = random.Random(2)
    for _ in range(KILLS):
        execution = own_server.submit(prompt)
        if choose.random() < 0.3:
            time.sleep(choose.uniform(0, 5))
        else:
            wait_for_step(own_server, "crashed", choose.randrange(1, STEPS - EVERY), execution)
        own_server.kill()
        with pytest.raises(ServerFailed):
            execution.wait(60)
        own_server.restart()
    own_server.queue(prompt, timeout=400)
    assert same(weights(own_server, "crashed"), weights(server, "quickstart"))


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped", "a/b", ""])
def test_a_lora_name_that_leaves_its_folder_is_refused(server: ComfyServer, shipped: dict, finished: Result, name: str):
    prompt = only_training(shipped, name)
    assert "LoRA name" in refused_trainer(server, prompt)
    assert not list(server.base.rglob("escaped*"))


def refused_trainer(server: ComfyServer, prompt: dict) -> str:
    """What ComfyUI shows at the trainer's node when the prompt is queued; nothing has run then."""
    with pytest.raises(PromptRefused) as refusal:
        server.queue(prompt)
    return json.dumps(refusal.value.node_errors[node_of(prompt, "ImpastoFluxLoraTrainer")])


def test_a_launch_profile_or_a_lora_to_start_from_that_is_not_there_is_told_at_the_trainer_before_anything_runs(
    server: ComfyServer, shipped: dict, finished: Result
):
    prompt = only_training(shipped, "not there")
    prompt[node_of(prompt, "ImpastoFluxLoraTrainer")]["inputs"] |= {"launch_profile": "gone.yaml", "start_from": "gone"}
    said = refused_trainer(server, prompt)
    assert "no launch profile 'gone.yaml'" in said and "knows no LoRA 'gone'" in said


def test_a_model_that_is_not_flux_1_is_named(server: ComfyServer, shipped: dict, finished: Result):
    """A FLUX.2 by its keys and shapes, which is how ComfyUI recognises models."""
    (tiny,) = (server.base / "models" / "impasto").glob("tiny-flux-*-pretrained-*/transformer.safetensors")
    state = load_file(tiny)
    shapes = {"mlp.0": (1536, 256), "mlp.2": (256, 768), "linear1": (2304, 256), "linear2": (256, 1024)}
    shapes |= {"final_layer.linear": (128, 256)}
    for key in state:
        for part, shape in shapes.items():
            if key.endswith(f"{part}.weight"):
                state[key] = torch.zeros(shape)
    state["double_stream_modulation_img.lin.weight"] = torch.zeros(6 * 256, 256)
    folder = server.base / "models" / "diffusion_models"
    folder.mkdir(exist_ok=True)
    save_file(state, folder / "other.safetensors")
    prompt = only_training(shipped, "other")
    prompt["load"] = {
        "class_type": "UNETLoader",
        "inputs": {"unet_name": "other.safetensors", "weight_dtype": "default"},
    }
    prompt[node_of(prompt, "ImpastoFluxLoraTrainer")]["inputs"]["model"] = ["load", 0]
    with pytest.raises(NodeFailed, match="Flux2, not FLUX.1. Load a FLUX.1 model"):
        server.queue(prompt)


def test_the_trainer_takes_what_core_loads_with_a_lora_on_it(server: ComfyServer, shipped: dict, finished: Result):
    """The patched weights are written out, and training on them is another run than on the bare model."""
    prompt = only_training(shipped, "stacked")
    trainer = prompt[node_of(prompt, "ImpastoFluxLoraTrainer")]["inputs"]
    lora = {"model": trainer["model"], "lora_name": "quickstart/quickstart.safetensors", "strength_model": 1.0}
    prompt["patch"] = {"class_type": "LoraLoaderModelOnly", "inputs": lora}
    trainer["model"] = ["patch", 0]
    prompt[node_of(prompt, "ImpastoTrainingSettings")]["inputs"] |= {"steps": 2}
    server.queue(prompt)
    assert len(list((server.base / "models" / "impasto" / "baked").glob("*.safetensors"))) == 1
    assert status(server, "stacked")["state"] == "finished"


def test_settings_out_of_range_are_refused_before_anything_runs(server: ComfyServer, shipped: dict, finished: Result):
    prompt = only_training(shipped, "settings")
    settings = node_of(prompt, "ImpastoTrainingSettings")
    prompt[settings]["inputs"] |= {"rank": 0}
    with pytest.raises(PromptRefused) as refusal:
        server.queue(prompt)
    assert "rank" in json.dumps(refusal.value.node_errors[settings])

    prompt[settings]["inputs"] |= {"rank": 4, "warmup_steps": STEPS + 1}
    with pytest.raises(NodeFailed, match=f"warmup_steps is {STEPS + 1}, but the run has only {STEPS} steps"):
        server.queue(prompt)
