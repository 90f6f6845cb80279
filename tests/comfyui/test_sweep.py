"""Training Sweep on a real server: two rungs of real trainings on the tiny FLUX, gone on with after Cancel.

That the better ones alone go on is shown on real trainings by tests/benchmarks/test_sweep.py; here each trial costs the
start of a trainer's process.
"""

from __future__ import annotations

import io
import json
import os
import threading
import time
from pathlib import Path

import pytest
from impasto.embedded.paintings import caption, paint
from impasto.embedded.training_pictures import LEAST_STROKE, scene_of
from impasto.setup.serving import ComfyServer, Interrupted, NodeFailed, PromptRefused

from ..small_sources import Painting, write_shard
from .test_api import ask
from .test_encoding_node import encoding, make_source

pytest.importorskip("optuna", reason="Optuna is not installed: pip install optuna")

SIDE = 128  # pixels, as the tiny FLUX paints
LORAS = "output/impasto/runs/swept-sweep-*/checkpoints/*/adapter.safetensors"
PICTURES = "user/impasto/sweeps/pictures/*.png"


def make_paintings(server: ComfyServer, name: str) -> None:
    """A source of eight paintings in a finish that the tiny FLUX does not paint."""
    paintings = []
    for index in range(1000, 1008):
        buffer = io.BytesIO()
        paint(scene_of(index), "impressionist", SIDE, SIDE, LEAST_STROKE).save(buffer, "PNG")
        paintings.append(Painting(buffer.getvalue(), genre="landscape"))
    write_shard(server.base / "datasets" / f"{name}-source" / "data" / "train-00000-of-00001.parquet", paintings)


def graph(name: str, split: float = 0.4, **settings: object) -> dict:
    """Two trials, compared after 4 steps and 8, of which the second cannot learn anything."""
    prompt = {node: each for node, each in encoding(name).items() if each["class_type"] != "PreviewAny"}
    prompt["flux"]["inputs"]["weights"] = "pretrained"
    by_kind = {each["class_type"]: node for node, each in prompt.items()}
    prompt[by_kind["ImpastoDatasetTOMLWriter"]]["inputs"] |= {"validation_split": split, "resolution": 128}
    training = {"steps": 8, "scheduler": "constant", "precision": "fp32", "warmup_steps": 0} | settings
    sweep = {"model": ["tiny", 0], "features": [by_kind["ImpastoEncodeTrainingData"], 0], "training": ["settings", 0]}
    sweep |= {"space": "rank: 8\nalpha: rank\nlearning_rate: 4e-3, 1e-8", "kept": 2, "name": f"{name}-sweep"}
    return prompt | {
        "tiny": {"class_type": "ImpastoTinyFluxLoader", "inputs": {"seed": 0, "weights": "pretrained"}},
        "settings": {"class_type": "ImpastoTrainingSettings", "inputs": training},
        "sweep": {"class_type": "ImpastoTrainingSweep", "inputs": sweep},
        "shown": {"class_type": "PreviewAny", "inputs": {"source": ["sweep", 3]}},
    }


def by_style(prompt: dict, **inputs: object) -> dict:
    """The same sweep, judged by four small pictures of each trial."""
    text = "\n".join(caption(scene_of(index)) for index in range(4))
    sweep = prompt["sweep"]["inputs"] | {"judge": "style", "prompts": ["prompts", 0], "dataset": ["load", 0]}
    sweep |= {"clip": ["tiny", 1], "vae": ["tiny", 2], "width": SIDE, "height": SIDE, "sampling_steps": 4} | inputs
    return prompt | {
        "sweep": {"class_type": "ImpastoTrainingSweep", "inputs": sweep},
        "prompts": {"class_type": "ImpastoPromptSet", "inputs": {"text": text, "seed": 1}},
    }


def cancelled_at(server: ComfyServer, prompt: dict, words: str) -> None:
    """Queue it, and cancel as soon as the progress says so."""
    said = threading.Event()

    def listen(kind: str, data: dict) -> None:
        if kind == "progress_text" and words in data["text"]:
            said.set()

    execution = server.submit(prompt, listener=listen)
    deadline = time.monotonic() + 600
    while not said.wait(0.2) and time.monotonic() < deadline:
        if execution.ended:
            execution.wait()  # says what it failed by
    assert said.is_set()
    server.interrupt()
    with pytest.raises(Interrupted):
        execution.wait(300)


def rows_of(report: str) -> list[dict[str, str]]:
    head, _, *rows = [line.strip("|").split("|") for line in report.splitlines() if line.startswith("|")]
    return [dict(zip(map(str.strip, head), map(str.strip, row), strict=True)) for row in rows]


def written(server: ComfyServer, pattern: str) -> dict[Path, int]:
    """When each of these files was written."""
    return {file: file.stat().st_mtime_ns for file in server.base.glob(pattern)}


def test_a_cancelled_sweep_goes_on_by_either_judge_and_trains_and_paints_nothing_twice(server: ComfyServer):
    make_paintings(server, "swept")
    by_loss = graph("swept")
    cancelled_at(server, by_loss, "trial 2 of 2")
    trained = written(server, LORAS)
    assert len(trained) == 1
    cancelled_at(server, by_style(by_loss), "Rung 1 of 2, trial 2 of 2\nstep 4, prompt 2 of 4")
    painted = written(server, PICTURES)
    assert len(painted) >= 4 + 4 + 1  # the base model's, those of the first trial, and one of the second
    (styled,) = server.queue(by_style(by_loss), timeout=900).outputs["shown"]["text"]
    best, control = rows_of(styled)
    (judge,) = (name for name in best if name.startswith("style by "))
    assert (best["learning_rate"], best["steps"], control["steps"]) == ("0.004", "8", "8")
    assert float(best[judge]) > 0.05 and float(control[judge]) == pytest.approx(0, abs=0.02)
    assert control["content kept"].startswith("100 %")
    assert styled.startswith(f"Best of 2: rank 8, alpha rank, learning_rate 0.004, {judge} {best[judge]}\n")
    loras, pictures = written(server, LORAS), written(server, PICTURES)
    assert trained.items() <= loras.items() and len(loras) == 2 * 2
    assert painted.items() <= pictures.items() and len(pictures) == 4 * (1 + 2 * 2)

    (lost,) = server.queue(by_loss, timeout=300).outputs["shown"]["text"]
    assert [(row["learning_rate"], row["steps"]) for row in rows_of(lost)] == [("0.004", "8"), ("1e-08", "8")]
    assert " above it" in lost and "train both with another seed" in lost
    again = server.queue(by_style(by_loss, theme="dark"), timeout=300)  # another theme, so that it runs again
    assert again.outputs["shown"]["text"] == [styled]
    assert (written(server, LORAS), written(server, PICTURES)) == (loras, pictures)
    for file in server.base.glob("output/impasto/runs/swept-sweep-*/metrics.jsonl"):
        steps = [record["step"] for record in map(json.loads, file.read_text().splitlines()) if "loss" in record]
        assert steps == [*range(1, 9)]  # none was trained twice


def test_style_is_refused_before_training_where_something_is_not_connected_or_prompts_are_too_few(
    server: ComfyServer,
):
    make_source(server, "styled")
    prompt = by_style(graph("styled", split=0.0))
    del prompt["sweep"]["inputs"]["prompts"], prompt["sweep"]["inputs"]["vae"]
    with pytest.raises(NodeFailed, match="nothing is connected to prompts and vae. Connect what Evaluate LoRA takes"):
        server.queue(prompt, timeout=600)
    few = by_style(graph("styled", split=0.0))
    few["prompts"]["inputs"]["text"] = "a harbour"
    with pytest.raises(NodeFailed, match="at least 4 different prompts"):
        server.queue(few, timeout=600)
    assert not [run for run in ask(server, "GET", "runs")[1]["runs"] if run["id"].startswith("styled-sweep-")]


def asked_for(server: ComfyServer, kind: str, before: set[str]) -> str:
    """Ask the next run that trains for `kind`, and give its id."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        runs = {run["id"] for run in ask(server, "GET", "runs")[1]["runs"] if run["active"]} - before
        for run_id in sorted(each for each in runs if each.startswith("asked-sweep-")):
            if ask(server, "POST", f"runs/{run_id}/{kind}")[0] == 202:
                return run_id
        time.sleep(0.2)
    raise AssertionError(f"Nothing was trained that could be asked to {kind}: {server.log_tail()}")


@pytest.mark.skipif(not os.environ.get("IMPASTO_LONG"), reason="a long test; ./test.sh --long runs it")
def test_a_stopped_trial_is_gone_on_with_and_those_finished_early_stand_where_they_are(server: ComfyServer):
    make_source(server, "asked")
    prompt = graph("asked", steps=9_000)
    prompt["sweep"]["inputs"]["space"] = "rank: 2, 4"
    execution = server.submit(prompt)
    stopped = asked_for(server, "stop", set())
    with pytest.raises(Interrupted):
        execution.wait(300)
    execution = server.submit(prompt)
    first = asked_for(server, "finish", set())
    second = asked_for(server, "finish", {first})
    (report,) = execution.wait(600).outputs["shown"]["text"]
    assert first == stopped and second != first
    assert report.startswith("Best of 2: rank ") and "failed" not in report
    steps = {run["id"]: run["step"] for run in ask(server, "GET", "runs")[1]["runs"]}
    rows = [
        [cell.strip() for cell in line.split("|")] for line in report.splitlines() if line.startswith(("| 2", "| 4"))
    ]
    assert sorted(int(row[2]) for row in rows) == sorted([steps[first], steps[second]])
    assert server.queue(prompt, timeout=300).outputs["shown"]["text"] == [report]


def test_without_held_out_pictures_or_with_a_falling_rate_nothing_is_compared(server: ComfyServer):
    make_source(server, "not-held-out")
    with pytest.raises(NodeFailed, match="none are held out"):
        server.queue(graph("not-held-out", split=0.0), timeout=600)
    with pytest.raises(NodeFailed, match="Set it to constant"):
        server.queue(graph("not-held-out", split=0.0, scheduler="cosine"), timeout=600)
    refused = graph("not-held-out")
    refused["sweep"]["inputs"]["space"] = "ranks: 2"
    with pytest.raises(PromptRefused, match="cannot be swept"):
        server.queue(refused)
