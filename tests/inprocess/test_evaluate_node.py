"""Evaluate LoRA with ComfyUI's own sampler, on the tiny FLUX and a run folder as the trainer leaves it."""

import json
from pathlib import Path

import pytest
from impasto.errors import TrainingError
from impasto.prompting.prompt_set import crossed, prompt_set
from impasto.sources.folder import load_folder
from impasto.trainers.run.folder import Run
from PIL import Image

from .test_image_networks import NETWORKS, seeded
from .test_progress_grid import save_checkpoint

PROMPTS = crossed(prompt_set("a harbour\na barn\na hill\na garden", seed=0), "1, 2")


pytestmark = pytest.mark.usefixtures("without_gradients")


@pytest.fixture
def dataset(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(6):
        Image.effect_noise((80, 64), 20 + 10 * number).convert("RGB").save(pictures / f"{number}.png")
    return load_folder(tmp_path / "datasets", tmp_path, "pictures", "noise", "input")[0]


def judged(run, dataset, tiny, prompts=PROMPTS, **further):
    from impasto.nodes.evaluation import EvaluateLora

    model, clip, vae = tiny
    settings = {"width": 64, "height": 64, "steps": 1, "run": run, "dataset": dataset, "prompts": prompts}
    return EvaluateLora.execute(model=model, clip=clip, vae=vae, **settings, **further).args


def test_a_run_is_judged_and_its_page_lies_with_it(tmp_path, dataset, tiny):
    save_checkpoint(tmp_path / "run", 10, 0.0, tiny[0])  # changes nothing
    run = Run("noise-12345678", str(tmp_path / "run"))
    said, keep, chart, page = judged(run, dataset, tiny)
    assert keep == 0 and said
    assert chart.shape[0] == 1 and chart.shape[3] == 3
    assert Path(page).parent == run.path / "evaluation"
    assert said.splitlines()[0][:24] in Path(page).read_text(encoding="utf-8")
    figures = json.loads(Path(page).with_suffix(".json").read_text(encoding="utf-8"))
    assert [step["step"] for step in figures["steps"]] == [0, 10]
    assert figures["steps"][1]["content"]["mean"] == pytest.approx(1, abs=1e-3)
    painted = {file.name: file.stat().st_mtime_ns for file in (run.path / "grid").iterdir()}
    assert judged(run, dataset, tiny)[3] == page
    assert {file.name: file.stat().st_mtime_ns for file in (run.path / "grid").iterdir()} == painted


def test_too_few_prompts_are_refused_with_what_to_do(tmp_path, dataset, tiny):
    save_checkpoint(tmp_path / "run", 10, 0.0, tiny[0])
    with pytest.raises(TrainingError, match="at least 4 different prompts"):
        judged(Run("noise-12345678", str(tmp_path / "run")), dataset, tiny, PROMPTS[:4])


def test_with_both_halves_of_a_clip_the_page_tells_how_well_prompts_are_followed(tmp_path, dataset, tiny):
    """FLUX's own text encoder may be the one half, where its file has the projection, as the tiny one's has."""
    save_checkpoint(tmp_path / "run", 10, 0.0, tiny[0])
    vision = seeded(NETWORKS["CLIP vision"] | {"projection_dim": 64})
    page = judged(Run("noise-12345678", str(tmp_path / "run")), dataset, tiny, clip_vision=vision, clip_text=tiny[1])[3]
    figures = json.loads(Path(page).with_suffix(".json").read_text(encoding="utf-8"))
    assert {"CLIP vision", "CLIP vision, CSLS"} <= {one["name"] for one in figures["measures"]}
    assert 0 <= figures["adherence"]["auc"] <= 1
    base, step = (one["adherence"] for one in figures["steps"])
    assert -1 <= base["mean"] <= 1 and step["mean"] == pytest.approx(base["mean"], abs=1e-3)  # changes nothing
    text = Path(page).read_text(encoding="utf-8")
    assert "fits its prompt" in text and "KID and CMMD are not told" in text
