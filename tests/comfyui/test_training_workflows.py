"""The shipped training workflows on a real server, on the tiny FLUX under FLUX.1-dev's names and with few steps.

`test_quickstart.py` validates them as they are shipped.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from impasto.embedded.paintings import paint, scene, write_wikiart_shards
from impasto.setup.serving import ComfyServer, Result
from impasto.trainers.run.folder import Job, Run
from PIL import Image
from safetensors.torch import load_file

from .workflows import on_tiny_flux, shipped

STEPS, MORE = 2, 3
CAPTIONS = ("a woman in a blue coat", "a man with a hat", "a girl by a window", "an old man, seen from the side")
QUOTAS = "landscape: 2\nportrait: 2\ncityscape: 1\nstill_life: 1"
TINY_BUCKETS = {"min_bucket_reso": 64, "max_bucket_reso": 192, "bucket_reso_steps": 32}
SMALLER = {  # of every graph, so that a run takes seconds
    "ImpastoTrainingPreset": {"steps": STEPS},
    "ImpastoContinueTraining": {"more_steps": MORE},
    "ImpastoProgressGrid": {"width": 64, "height": 64, "steps": 2},
    "ImpastoEvaluateLora": {"width": 64, "height": 64, "steps": 2},
    "EmptySD3LatentImage": {"width": 64, "height": 64},
    "KSampler": {"steps": 2},
}


@dataclass(frozen=True)
class Ran:
    """A shipped graph, in UI format, and what it gave."""

    graph: dict
    result: Result
    run: Run

    def text(self, title: str) -> str:
        (text,) = self.result.outputs[self._titled(title)]["text"]
        return text

    def picture(self, server: ComfyServer, title: str) -> Image.Image:
        (file,) = server.output_files(self.result, self._titled(title))
        return Image.open(file)

    def job(self) -> Job:
        return Job.read(self.run)

    def _titled(self, title: str) -> str:
        return next(str(node["id"]) for node in self.graph["nodes"] if node.get("title") == title)


def run_shipped(server: ComfyServer, number: int, changes: dict[str, dict], known: Run | None = None) -> Ran:
    """Queue a shipped workflow on the tiny FLUX, with changed inputs by node type.

    Args:
        known: the run that the graph is about, where it trains none.
    """
    workflow = shipped(number)
    prompt = on_tiny_flux(server, workflow)
    for node in prompt.values():
        node["inputs"] |= SMALLER.get(node["class_type"], {}) | changes.get(node["class_type"], {})
    before = set(runs_of(server))
    result = server.queue(prompt, timeout=240)
    made = [Run(folder.name, str(folder)) for folder in set(runs_of(server)) - before]
    (run,) = [known, *made] if known else made
    return Ran(json.loads(workflow.read_text(encoding="utf-8")), result, run)


def runs_of(server: ComfyServer) -> list[Path]:
    return list((server.base / "output" / "impasto" / "runs").glob("*-????????"))


def lora(server: ComfyServer, name: str) -> dict[str, torch.Tensor]:
    return load_file(server.base / "output" / "loras" / name / f"{name}.safetensors")


@pytest.fixture(scope="module")
def wikiart(server: ComfyServer) -> Ran:
    write_wikiart_shards(server.base / "datasets" / "painted-wikiart", 8, shards=1)
    loader = {"source": "painted-wikiart", "plan_only": False, "quotas": QUOTAS}
    changes = {
        "ImpastoWikiArtLoader": loader,
        "ImpastoQualityFilter": {"min_side": 512},
        "ImpastoDatasetComposition": {"quotas": QUOTAS},
        "ImpastoDatasetTOMLWriter": {"resolution": 128} | TINY_BUCKETS,
    }
    return run_shipped(server, 3, changes)


@pytest.fixture(scope="module")
def continued(server: ComfyServer, wikiart: Ran) -> Ran:
    return run_shipped(server, 4, {})


@pytest.fixture(scope="module")
def mucha(server: ComfyServer, continued: Ran) -> Ran:
    """After `continued`, whose graph takes the latest run."""
    folder = server.base / "input" / "mucha"
    folder.mkdir()
    for seed, caption in enumerate(CAPTIONS):
        paint(scene("portrait", seed), "plain", 512, 768).save(folder / f"{seed}.png")
        (folder / f"{seed}.txt").write_text(caption)
    small = {"resolution": 64, "resolution_height": 96} | TINY_BUCKETS
    return run_shipped(server, 2, {"ImpastoDatasetTOMLWriter": small})


@pytest.fixture(scope="module", autouse=True)
def log_of_these(server: ComfyServer) -> Iterator[None]:
    """What ComfyUI says of LoRAs while these graphs run: nothing that it could not place."""
    before = len(server.log_text())
    yield
    assert "lora key not loaded" not in server.log_text()[before:]


def test_wikiart_style_lora_takes_the_kinds_it_asks_for_and_captions_them(server: ComfyServer, wikiart: Ran):
    assert "6 of 6" in wikiart.text("Asked for and taken")
    captions = [json.loads(line)["text"] for line in manifest(server, "wikiart-impressionism")]
    assert len(captions) == 6 and all(caption.startswith("impasto style, a") for caption in captions)


def manifest(server: ComfyServer, dataset: str) -> list[str]:
    """The lines of the manifest that was written last."""
    files = (server.base / "datasets" / dataset / "manifests").glob("*.jsonl")
    return max(files, key=lambda file: file.stat().st_mtime).read_text(encoding="utf-8").splitlines()


def test_wikiart_style_lora_trains_by_its_preset_and_its_memory_settings(server: ComfyServer, wikiart: Ran):
    settings = wikiart.job().settings
    assert (settings.rank, settings.learning_rate, settings.optimizer) == (16, 1e-4, "adamw8bit")
    assert settings.streamed_blocks == -1
    assert wikiart.run.status()["state"] == "finished"
    assert any(value.abs().max() > 0 for key, value in lora(server, wikiart.job().name).items() if "lora_B" in key)
    assert "resolution 1024 x 1024" in wikiart.text("What goes with the preset")


def test_wikiart_style_lora_shows_its_grid_and_paints_with_the_lora(server: ComfyServer, wikiart: Ran):
    grid = wikiart.picture(server, "Save the progress grid")
    assert grid.width > 2 * 64 and grid.height > 4 * 64  # the base and the LoRA, four prompts
    assert wikiart.picture(server, "Save a picture made with the LoRA").size == (64, 64)


def test_judge_a_lora_shows_the_run_of_the_wikiart_graph_and_says_what_to_keep(server: ComfyServer, wikiart: Ran):
    judged = run_shipped(server, 10, {"ImpastoTrainingRunLoader": {"run_id": wikiart.run.id}}, wikiart.run)
    verdict, page = judged.text("The verdict"), Path(judged.text("The page to send lies here"))
    assert verdict.splitlines()[0] in html.unescape(page.read_text(encoding="utf-8"))
    kept = int(judged.text("The step to keep"))
    assert kept in (0, STEPS) and (f"Keep step {kept}" in verdict) == bool(kept)
    assert page.parent == wikiart.run.path / "evaluation"
    grid = judged.picture(server, "Save the grid")
    assert grid.height > 8 * 64 and grid.width > 2 * 2 * 64  # eight prompts; base and last step, two seeds each
    assert judged.picture(server, "Save the chart").width > 256
    (animation,) = (server.base / "output" / "impasto" / "animations").glob("wikiart-impressionism-*.webp")
    assert Image.open(animation).n_frames > 1
    painted = [json.loads(Image.open(file).text["impasto"]) for file in (wikiart.run.path / "grid").glob("*.png")]
    by_both = [about for about in painted if about["seed"] in (42, 43) and "lighthouse on a cliff" in about["prompt"]]
    assert len(by_both) == 2 * 2  # shared by grid and verdict


def test_wikiart_style_lora_as_shipped_plans_and_trains_nothing(server: ComfyServer, wikiart: Ran):
    prompt = on_tiny_flux(server, shipped(3))
    (loader,) = [node for node in prompt.values() if node["class_type"] == "ImpastoWikiArtLoader"]
    assert loader["inputs"]["source"] == "huggan/wikiart"
    loader["inputs"] |= {"source": "painted-wikiart", "name": "planned"}
    before = set(runs_of(server))
    planned = Ran(wikiart.graph, server.queue(prompt), wikiart.run)
    assert "plan_only is on" in planned.text("The plan, then what was loaded")
    assert set(runs_of(server)) == before and not (server.base / "datasets" / "planned").exists()


@pytest.mark.parametrize("node_type", ["ImpastoTrainingSettings", "ImpastoTrainingPreset"])
def test_a_graph_queued_again_asks_for_the_same_run(server: ComfyServer, node_type: str):
    inputs = server.object_info(node_type)[node_type]["input"]
    seed = (inputs["required"] | inputs.get("optional", {}))["seed"][1]
    assert seed["control_after_generate"] == "fixed"


def test_continue_run_trains_the_latest_run_for_longer_and_shows_the_whole_way(
    server: ComfyServer, wikiart: Ran, continued: Ran
):
    job = continued.job()
    assert (job.continued_from, job.first_step, job.settings.steps) == (wikiart.run.id, STEPS, STEPS + MORE)
    assert [record["step"] for record in continued.run.metrics() if "loss" in record] == [*range(1, STEPS + MORE + 1)]
    assert wikiart.run.status()["total"] == STEPS
    assert continued.text("The LoRA") == f"wikiart-impressionism/{continued.run.id}-{STEPS + MORE:06d}.safetensors"
    grid = continued.picture(server, "Save the progress grid")
    assert grid.width > 3 * 64  # the base, the last step of the earlier run, the last of this one


def test_mucha_qlora_trains_on_a_base_in_four_bits(server: ComfyServer, mucha: Ran):
    settings = mucha.job().settings
    assert (settings.precision, settings.rank, settings.gradient_accumulation) == ("nf4", 4, 4)
    assert mucha.run.status()["state"] == "finished"
    targets = {key.split(".lora_")[0].split(".", 3)[-1] for key in lora(server, "mucha-qlora") if ".lora_" in key}
    assert targets == {"attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"}


def test_mucha_qlora_keeps_the_captions_beside_the_pictures_and_their_upright_shape(server: ComfyServer, mucha: Ran):
    captions = {json.loads(line)["text"] for line in manifest(server, "mucha")}
    assert captions == {f"alphonse mucha style, {caption}" for caption in CAPTIONS}
    assert "64 x 96" in mucha.text("What was encoded")
    grid = mucha.picture(server, "Save the progress grid")
    assert grid.width > 2 * 64 and grid.height > 3 * 64
