"""FLUX LoRA Trainer in the test's own process: what it refuses before it gives up memory, and how a training ends.

What a whole training gives is seen on a real server: see tests/comfyui/test_main_job.py.
"""

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from impasto.errors import ImpastoError, SettingsError, TrainingError
from impasto.trainers.features.encoding import Encoder, encode
from impasto.trainers.features.index import Features
from impasto.trainers.run import checkpoints
from impasto.trainers.run.launch_profiles import SHARDED
from impasto.trainers.settings import Settings
from safetensors.torch import save_file

from ..leftovers import of_another_machine
from ..trainers.small_datasets import make_dataset, raw_latent

DORA = {"dora": True, "targets": "image attention"}


@pytest.fixture
def node(comfyui):
    """The node's class with the hidden inputs that ComfyUI gives it."""
    from impasto.nodes.training import FluxLoraTrainer

    class Node(FluxLoraTrainer):
        hidden = SimpleNamespace(extra_pnginfo=None, prompt=None)

    return Node


@pytest.fixture
def model(comfyui):
    from impasto.nodes.embedded import TinyFluxLoader

    return TinyFluxLoader.execute(seed=0).args[0]


@pytest.fixture
def held(monkeypatch):
    """What was asked to unload and to train; neither is done."""
    from impasto.nodes import training
    from impasto.nodes.host import memory

    asked = []
    monkeypatch.setattr(memory, "unload_models", lambda: asked.append("unload"))
    monkeypatch.setattr(training.launch, "train", lambda *_: asked.append("train"))
    return asked


def train(node, model, name, folder, lora_format="diffusers", **settings):
    return node.execute(model, encoded(model, folder), Settings(**settings), name, lora_format=lora_format)


def encoded(model, folder, narrower=0):
    """Features of two pictures, none held out; their texts are as wide as the model takes them, or narrower."""
    flux = model.model.diffusion_model
    text = torch.zeros(16, flux.params.context_in_dim - narrower), torch.zeros(flux.params.vec_in_dim)
    clip = Encoder("clip", lambda _: text)
    config = make_dataset(folder, sizes=[(128, 128)] * 2)
    return encode(config, Encoder("vae", raw_latent), clip)


@pytest.mark.parametrize(
    ("lora_format", "named"),
    [("kohya", "sd-scripts has no DoRA"), ("comfyui", "only a part of"), ("pt", "Choose one of: diff")],
)
def test_a_format_that_cannot_hold_the_lora_is_refused_before_anything_is_unloaded(
    node, model, held, tmp_path, lora_format, named
):

    from impasto.nodes.host import folders

    with pytest.raises(SettingsError, match=named):
        train(node, model, "refused", tmp_path, lora_format, **DORA)
    assert not held and not list(folders.runs_root().glob("refused-*"))


def test_what_goes_wrong_with_the_files_does_not_replace_cancel(node, model, held, tmp_path, monkeypatch, caplog):
    from comfy.model_management import InterruptProcessingException
    from impasto.nodes import training

    def cancelled(run, *_):
        lora = {"transformer.x.lora_A.weight": torch.zeros(2, 2)}
        checkpoints.save(run.path / "checkpoints", 10, lora, {}, {})
        raise InterruptProcessingException

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(training.launch, "train", cancelled)
    monkeypatch.setattr(training.publish, "publish", full)
    with pytest.raises(InterruptProcessingException):
        train(node, model, "cancelled", tmp_path)
    assert held == ["unload"] and "No space left on device" in caplog.text and "checkpoints" in caplog.text


def test_another_lora_under_the_name_of_the_one_to_start_from_is_another_input(node):
    import folder_paths
    from impasto.nodes.training import NEW_LORA

    file = Path(folder_paths.get_folder_paths("loras")[0]) / "start.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    seen = {node.fingerprint_inputs(start_from="start.safetensors", name="a")}  # no such file yet
    for value in (0.0, 1.0, 1.0):
        save_file({"transformer.x.lora_A.weight": torch.full((2, 2), value)}, file)
        seen.add(node.fingerprint_inputs(start_from=file.name, name="a"))
    assert len(seen) == 3
    assert node.fingerprint_inputs(name="a") == node.fingerprint_inputs(start_from=NEW_LORA, name="b") == ""


def test_a_model_left_half_written_is_cleared_away_once_nobody_can_be_writing_it(model, monkeypatch):

    from impasto.nodes.host import folders, models

    patched = model.clone()
    patched.cached_patcher_init = None  # no file behind it
    torso = of_another_machine(folders.pack_models_root() / "baked" / "model.safetensors")
    torso.parent.mkdir(parents=True, exist_ok=True)
    torso.write_bytes(b"half")
    baked = models.flux_weights_file(patched)
    assert torso.exists()  # as far as can be seen, another server is writing it
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3600)
    assert models.flux_weights_file(patched) == baked
    assert not torso.exists() and baked.exists()


UNUSABLE = {
    "name": ["", "a/b", "../loras"],
    "start_from": ["gone.safetensors", "../../secret.safetensors"],
    "launch_profile": ["gone.yaml", "../gone.yaml"],
}


@pytest.mark.parametrize(("widget", "value"), [(key, value) for key, values in UNUSABLE.items() for value in values])
def test_a_mistake_in_a_widget_is_told_before_the_graph_runs_as_it_would_be_when_it_has_run(
    node, model, held, tmp_path, widget, value
):
    widgets = {"name": "checked", widget: value}
    assert isinstance(node.validate_inputs(**widgets), str)
    (tmp_path / "index.json").write_text('{"samples": []}')
    with pytest.raises(ImpastoError) as raised:
        node.execute(model, Features(str(tmp_path), "abc"), Settings(), **widgets)
    assert node.validate_inputs(**widgets) == f"{widget}: {raised.value}" and not held


def test_what_comes_over_a_link_is_not_judged_before_it_is_there(node):
    from impasto.nodes.training import NEW_LORA, ContinueTraining

    assert node.validate_inputs(name=None, start_from=None, launch_profile=None) is True
    assert node.validate_inputs(name="checked", start_from=NEW_LORA, launch_profile="this GPU") is True
    assert ContinueTraining.validate_inputs(launch_profile=None) is True
    assert isinstance(node.validate_inputs(name="checked", start_from=["a"]), str)  # a widget may hold anything


def test_continuing_and_finding_a_run_refuse_their_widgets_before_the_graph_runs_too(comfyui):
    from impasto.nodes.training import ContinueTraining, TrainingRunLoader

    assert "no launch profile 'gone.yaml'" in ContinueTraining.validate_inputs(launch_profile="gone.yaml")
    assert "no training run 'gone-00000000'" in TrainingRunLoader.validate_inputs(run_id="gone-00000000")
    assert TrainingRunLoader.validate_inputs(run_id="latest") is True  # this graph may be about to train it


def test_a_lora_that_would_be_written_over_is_refused_before_the_graph_runs(node, monkeypatch):
    import folder_paths
    from impasto.nodes.host import folders

    listed = ([str(folders.loras_root())], {".safetensors"})  # as main.py has it
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", listed)
    file = folders.loras_root() / "own" / "own.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({"transformer.x.lora_A.weight": torch.zeros(2, 2)}, file)
    chosen = str(file.relative_to(file.parent.parent))
    assert "would write over" in node.validate_inputs(name="own", start_from=chosen)
    assert node.validate_inputs(name="other", start_from=chosen) is True


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"block_ranks": "double 90: 4"}, "there is no double block 90"),
        ({"block_ranks": "rest: 0"}, "gives rank 0 to every layer"),
        ({"rank": 2, "targets": "all linear"}, "Set the rank to 4 or more"),
        ({"rank": 4, "targets": "single blocks"}, "changes 1 layers that this run does not train"),
        ({"rank": 4, "targets": "all linear"}, "is for another model"),
    ],
)
def test_what_the_model_or_the_lora_to_start_from_cannot_hold_is_refused_before_anything_is_unloaded(
    node, model, held, tmp_path, settings, named
):
    import folder_paths
    from impasto.nodes.host import folders

    width = model.model.diffusion_model.hidden_size + (64 if "another model" in named else 0)
    layer = "transformer.transformer_blocks.0.attn.to_q"
    lora = {f"{layer}.lora_A.weight": torch.ones(4, width), f"{layer}.lora_B.weight": torch.ones(width, 4)}
    file = Path(folder_paths.get_folder_paths("loras")[0]) / f"rank-4-{width}.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(lora, file)
    (tmp_path / "index.json").write_text('{"samples": []}')
    with pytest.raises(ImpastoError, match=named):
        node.execute(model, Features(str(tmp_path), "abc"), Settings(**settings), "unfit", start_from=file.name)
    assert not held and not list(folders.runs_root().glob("unfit-*"))


def test_training_data_that_cannot_be_trained_on_is_refused_before_anything_is_unloaded(node, model, held, tmp_path):
    with pytest.raises(TrainingError, match="early_stop_patience is 2, but no picture is held out"):
        train(node, model, "never stops", tmp_path / "whole", early_stop_patience=2)
    with pytest.raises(TrainingError, match="Encode the training data with the CLIP that belongs to this model"):
        node.execute(model, encoded(model, tmp_path / "narrow", narrower=8), Settings(), "narrow")
    assert not held


def test_blocks_to_be_streamed_are_refused_with_a_sharded_base_before_anything_is_unloaded(
    node, model, held, tmp_path, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    data, settings = encoded(model, tmp_path), Settings(streamed_blocks=1)
    with pytest.raises(TrainingError, match=r"streamed_blocks is 1, but the launch profile shards the base"):
        node.execute(model, data, settings, "sharded", launch_profile=SHARDED)
    assert not held and not list(folders_of_runs().glob("sharded-*"))


def folders_of_runs() -> Path:
    from impasto.nodes.host import folders

    return folders.runs_root()


def test_the_preview_of_a_sample_has_its_prompts_side_by_side(comfyui, tmp_path):
    import torch
    from impasto.nodes.host import sampling
    from safetensors.torch import save_file

    latents = torch.stack([torch.full((16, 8, 6), 2.0), torch.full((16, 8, 6), -2.0)])
    save_file({"latents": latents}, tmp_path / "latents.safetensors")
    picture = sampling.latents_preview(tmp_path / "latents.safetensors")
    assert picture.size == (2 * 6 * 4, 8 * 4)
    assert picture.getpixel((4, 4)) != picture.getpixel((30, 4))


def test_the_preview_of_the_tiny_flux_is_what_its_decoder_shows(comfyui, tmp_path):
    """Scaled latents of a painting come back as the painting, at its own size."""
    import numpy
    import torch
    from impasto.embedded import tiny_flux
    from impasto.embedded.paintings import FINISHES, paint
    from impasto.embedded.taesd import worked_out
    from impasto.embedded.training_pictures import scene_of
    from impasto.nodes.host import sampling
    from safetensors.torch import save_file

    family = tiny_flux.pretrained_tiny_flux(tmp_path)
    decoder = tiny_flux.decoder_of(family.transformer, tmp_path)
    assert decoder and tiny_flux.decoder_of(tmp_path / "flux.safetensors", tmp_path) is None
    painting = paint(scene_of(0), FINISHES[0], 128, 128, 4)
    pixels = torch.from_numpy(numpy.asarray(painting).copy()).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        save_file({"latents": worked_out().encode(pixels)}, tmp_path / "latents.safetensors")
    shown = sampling.latents_preview(tmp_path / "latents.safetensors", decoder)
    rough = sampling.latents_preview(tmp_path / "latents.safetensors").resize((128, 128))
    near, far = (
        numpy.abs(numpy.asarray(picture, float) - numpy.asarray(painting, float)).mean() for picture in (shown, rough)
    )
    assert shown.size == (128, 128)
    assert near < 12 and near < 0.75 * far


def finished(tmp_path, name: str, seed: int):
    """A run of the trainer's as it lies on disk once it is finished, made without training."""
    from impasto.nodes.host import folders
    from impasto.trainers.run import create, folder

    settings = Settings(steps=20, seed=seed)
    job = folder.Job(name, settings, str(tmp_path), "abc", str(tmp_path / "flux.safetensors"), "f1")
    run = create.create_run(folders.runs_root(), job)
    lora = {"transformer.x.lora_A.weight": torch.full((2, 2), float(seed))}
    checkpoints.save(run.path / "checkpoints", 20, lora, {"impasto_run": run.id, "impasto_step": "20"}, {})
    steps = [{"step": step, "loss": 1.0, "seconds": 6.0} for step in range(1, 21)]
    measured = [{"step": 10, "held_out_loss": 1.375}, {"step": 20, "held_out_loss": 1.5}]
    lines = "".join(json.dumps(record) + "\n" for record in (*steps, *measured))
    (run.path / "metrics.jsonl").write_text(lines, encoding="utf-8")
    (run.path / "status.json").write_text(json.dumps({"state": "finished", "step": 20, "total": 20}))
    return run, job


def test_what_became_of_a_run_is_told_and_under_which_name_an_earlier_lora_is_kept(comfyui, tmp_path):
    from impasto.nodes import trained
    from impasto.nodes.host import folders
    from impasto.trainers.run import publish

    first, job = finished(tmp_path, "told", 1)
    assert publish.displaced(first, "told", folders.loras_root()) is None
    file = publish.publish(first, "told", folders.loras_root())
    assert trained.told(first, job, f"told/{file.name}", None, False).splitlines() == [
        "Finished: 20 steps in 2 min",
        "Best held-out loss 1.375 at step 10",
        "→ loras/told/told.safetensors",
        f"as told/{file.name}, which stays this one's",
    ]
    second, job = finished(tmp_path, "told", 2)
    earlier = publish.displaced(second, "told", folders.loras_root())
    publish.publish(second, "told", folders.loras_root())
    assert earlier == file and earlier.is_file()
    assert publish.displaced(second, "told", folders.loras_root()) is None
    told = trained.told(second, job, "told/other.safetensors", earlier, True).splitlines()
    assert told[0] == "Trained before: 20 steps in 2 min"
    assert told[-1] == f"The LoRA that had this name is now told/{file.name}"
