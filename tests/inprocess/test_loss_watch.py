"""Loss Watch with ComfyUI's own model: it measures what the trainer's would, and its list is what other nodes take."""

from __future__ import annotations

import hashlib
from functools import partial

import pytest
import torch
from impasto.dataset import watch_list
from impasto.embedded import lesson
from impasto.embedded.examination import Examination
from impasto.embedded.paintings import caption, paint
from impasto.embedded.training_pictures import LEAST_STROKE, scene_of
from impasto.errors import ModelError, TrainingError
from impasto.trainers.flux.forward import predict_velocity
from PIL import Image

from .conftest import REPOSITORY

PICTURES = 14
ODD = 5  # which of them is a grey sheet

pytestmark = pytest.mark.usefixtures("without_gradients")


@pytest.fixture(scope="module")
def run(comfyui, tmp_path_factory):
    folder = tmp_path_factory.mktemp("watched")
    (folder / "pictures").mkdir()
    pictures = [paint(scene_of(number), "plain", 128, 128, LEAST_STROKE) for number in range(PICTURES)]
    pictures[ODD] = Image.new("RGB", (128, 128), (128, 128, 128))
    captions = [caption(scene_of(number)) for number in range(PICTURES)]
    features = lesson.encode(
        folder / "pictures", list(zip(pictures, captions, strict=True)), REPOSITORY / ".impasto" / "ComfyUI"
    )
    return lesson.begin(features, folder / "runs")


@pytest.fixture(scope="module")
def model(comfyui):
    from impasto.nodes.embedded import TinyFluxLoader

    return TinyFluxLoader.execute(seed=0, weights="pretrained").args[0]


def test_comfyuis_model_gives_the_velocity_that_the_trainers_gives(model):
    from impasto.nodes.host import sampling

    random = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 16, 16, 16, generator=random)
    t5, pooled = torch.randn(2, 64, 128, generator=random), torch.randn(2, 64, generator=random)
    asked = latents, torch.tensor([0.3, 0.9]), t5, pooled
    found = sampling.velocity_of(model)(*asked)
    expected = partial(predict_velocity, Examination.transformer().eval(), guidance=1.0)(*asked).float()
    assert (found - expected).abs().mean() < 0.02 * expected.abs().mean()


def test_a_picture_unlike_the_rest_is_named_listed_and_shown(run, model):
    from impasto.nodes.loss_watch import LossWatch

    watched, sheet, report = LossWatch.execute(run, model).args
    content = run.path.parents[1] / "pictures" / f"{ODD:04}.png"

    sha256 = hashlib.sha256(content.read_bytes()).hexdigest()
    assert sha256 in watch_list.reasons(watch_list.read(watched), [sha256])
    assert sheet.shape[0] == 1 and sheet.shape[3] == 3 and sheet.shape[1] > 224
    assert f"of {PICTURES} pictures to look at" in report
    kept = next((run.path / "watched").glob("*.jsonl"))
    before = kept.stat().st_mtime_ns, kept.read_bytes()
    assert LossWatch.execute(run, model).args[0] == watched
    assert (kept.stat().st_mtime_ns, kept.read_bytes()) == before


def test_a_run_without_the_losses_of_pictures_asks_for_the_model(run):
    from impasto.nodes.loss_watch import LossWatch

    with pytest.raises(TrainingError, match="Connect the base model"):
        LossWatch.execute(run)


def test_a_model_that_is_no_flux_is_refused(model):
    from impasto.nodes.host import sampling

    class Other:
        model = torch.nn.Linear(1, 1)

    with pytest.raises(ModelError, match="The model is Linear, not FLUX"):
        sampling.velocity_of(Other())
