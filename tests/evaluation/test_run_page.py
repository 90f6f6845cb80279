"""The page of a run's folder: made without ComfyUI or a model, of whatever is there, and showing words as words."""

import json
import re
import sys

import pytest
from impasto.errors import TrainingError
from impasto.evaluation import run_page
from impasto.evaluation.run_page import write_page
from impasto.files import file_hash
from impasto.trainers.features import index
from impasto.trainers.run.folder import Job, Run
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..golden.record_version import VERSIONS, unpack

SAMPLING = {"width": 64, "height": 48, "steps": 4, "guidance": 3.5, "sampler_name": "euler", "scheduler": "simple"}


@pytest.fixture
def run(tmp_path):
    """A run as an earlier version left it, with its dataset and features."""
    root = unpack(VERSIONS[0], tmp_path / "disk")
    folder = next(folder for folder in sorted((root / "runs").iterdir()) if (folder / "metrics.jsonl").is_file())
    return Run(folder.name, str(folder))


def paint(run, step, prompt, seed, strength=1.0, **changes):
    texts = PngInfo()
    about = {"run": run.id, "step": step, "prompt": prompt, "seed": seed, **SAMPLING, "strength": strength, **changes}
    texts.add_itxt("impasto", json.dumps(about))
    (run.path / "grid").mkdir(exist_ok=True)
    name = f"step-{step:06d}-{len(list((run.path / 'grid').iterdir())):016x}.png"
    Image.new("RGB", (64, 48), (step % 255, 80, 120)).save(run.path / "grid" / name, pnginfo=texts)


def features_of(run):
    job = Job.read(run)
    return index.Features(job.features_folder, job.features_key)


def watch(run, title, *images, **more):
    """What Loss Watch leaves in a run's folder, where these pictures were found."""
    about = {"caption": "<i>a hill", "reason": "too hard"} | more
    pictures = [about | {"image": image, "digits": image[:12]} for image in images]
    (run.path / "watched").mkdir(exist_ok=True)
    (run.path / "watched" / "pictures.json").write_text(json.dumps({"title": title, "pictures": pictures}))


def headings(text):
    return re.findall(r"<h2>(.*?)</h2>", text)


def test_the_page_of_a_folder_that_was_only_trained_tells_what_is_there(run):
    text = write_page(run).read_text(encoding="utf-8")
    assert headings(text) == ["Curves", "Dataset", "Settings of the training"]
    assert f"Run {run.id}" in text and "queue Evaluate LoRA" in text
    assert "Rights, as the sources state them" in text and "per epoch with repeats" in text
    assert f"<td>{Job.read(run).settings.learning_rate}</td>" in text
    assert "<script" not in text and str(run.path.parents[1]) not in text


def test_kept_pictures_verdict_and_watched_pictures_are_on_it(run, tmp_path):
    for prompt in ("a harbour", "<b>a barn"):
        for step, strength in ((0, 1.0), (4, 0.8)):
            paint(run, step, prompt, 7, strength)
    paint(run, 4, "of another size", 7, width=32)
    (run.path / "grid" / "step-000004-damaged.png").write_bytes(b"no picture")
    found = index.load(features_of(run)).examples[0].image
    watch(run, "2 of 9 pictures to look at", found, "0" * 64)
    place = {"mean": 0.83, "low": 0.71, "high": 0.94}
    step = {"step": 4, "style": {"strokes": place}, "content": place, "copies": [{}]}
    figures = {
        "verdict": {"why": ["Keep step 4: <u>surely."]},
        "measures": [{"name": "strokes", "auc": 0.96, "trusted": True}],
        "steps": [step | {"step": 0}, step],
    }
    (run.path / "evaluation").mkdir()
    (run.path / "evaluation" / "0123.json").write_text(json.dumps(figures))
    text = write_page(run, tmp_path / "sent" / "page.html").read_text(encoding="utf-8")
    expected = ["Verdict", "Scores", "Prompts and checkpoints", "Curves", "Watched: 2 of 9 pictures to look at"]
    assert headings(text)[:5] == expected
    assert "83 % (71 to 94)" in text and "strokes 0.96" in text
    assert f"{found[:8]} too hard" in text and "(not found where it was" in text
    assert text.count(f'alt="{found[:8]} too hard"') == 1
    assert not re.search(r"<(b|i|u)>", text)
    assert text.count('alt="prompts by checkpoints"') == 1


def test_no_picture_is_shown_that_the_run_did_not_learn_whatever_its_folder_names(run, tmp_path):
    """Uploads may write into a run's folder: a page must not show what else lies on the disk."""
    secret = tmp_path / "secret.png"
    Image.new("RGB", (300, 200), "red").save(secret)
    watch(run, "planted", file_hash(secret), file=str(secret))
    assert "(not found where it was" in run_page._watched(run, Job.read(run))[0]
    learned = run_page.files_of(features_of(run), {example.image for example in index.load(features_of(run)).examples})
    image, file = learned.popitem()
    watch(run, "changed since", image)
    assert "<img" in run_page._watched(run, Job.read(run))[0]
    file.write_bytes(secret.read_bytes())
    assert "(not found where it was" in run_page._watched(run, Job.read(run))[0]


def test_of_several_grids_the_one_with_the_most_pictures_is_shown(run):
    for prompt in ("a harbour", "a barn"):
        for step in (0, 4):
            paint(run, step, prompt, 7)
    paint(run, 4, "alone", 7, width=32)
    heading, page = run_page._grid(run)
    assert heading == "<h2>Prompts and checkpoints</h2>" and page.startswith('<img src="data:image/jpeg')


@pytest.mark.parametrize("content", ["", "[]", '{"verdict": 3}', '{"verdict": {"why": []}, "measures": 1}'])
def test_a_damaged_evaluation_is_told_and_the_rest_is_shown(run, content):
    (run.path / "evaluation").mkdir()
    (run.path / "evaluation" / "0123.json").write_text(content)
    text = write_page(run).read_text(encoding="utf-8")
    assert "0123.json in its evaluation folder is damaged" in text and "Curves" in headings(text)


def test_the_command_writes_the_page_and_says_where(run, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["evaluation", str(run.path)])
    assert run_page.main() == 0
    assert capsys.readouterr().out.strip() == str(run.path / "evaluation" / "page.html")


def test_a_folder_that_is_no_runs_is_refused_with_what_to_give(tmp_path, monkeypatch, capsys):
    with pytest.raises(TrainingError, match="Give the folder of a run"):
        write_page(Run("x", str(tmp_path)))
    monkeypatch.setattr(sys, "argv", ["evaluation", str(tmp_path)])
    assert run_page.main() == 1 and "settings.toml" in capsys.readouterr().err
