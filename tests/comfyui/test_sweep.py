"""Training Sweep on a real server: two rungs of real trainings on the tiny FLUX, gone on with after Cancel."""

from __future__ import annotations

import os
import threading
import time

import pytest
from impasto.setup.serving import ComfyServer, Interrupted, NodeFailed, PromptRefused

from .test_api import ask
from .test_encoding_node import encoding, make_source

pytest.importorskip("optuna", reason="Optuna is not installed: pip install optuna")


def graph(name: str, split: float = 0.4, **settings: object) -> dict:
    """Four trials: all of them for 4 steps, two for 8."""
    prompt = {node: each for node, each in encoding(name).items() if each["class_type"] != "PreviewAny"}
    by_kind = {each["class_type"]: node for node, each in prompt.items()}
    prompt[by_kind["ImpastoDatasetTOMLWriter"]]["inputs"]["validation_split"] = split
    training = {"steps": 8, "scheduler": "constant", "precision": "fp32", "warmup_steps": 0} | settings
    space = "rank: 2, 4\nlearning_rate: 1e-3, 1e-8"
    sweep = {"model": ["tiny", 0], "features": [by_kind["ImpastoEncodeTrainingData"], 0], "training": ["settings", 0]}
    sweep |= {"space": space, "kept": 2, "name": f"{name}-sweep"}
    return prompt | {
        "tiny": {"class_type": "ImpastoTinyFluxLoader", "inputs": {"seed": 0}},
        "settings": {"class_type": "ImpastoTrainingSettings", "inputs": training},
        "sweep": {"class_type": "ImpastoTrainingSweep", "inputs": sweep},
        "shown": {"class_type": "PreviewAny", "inputs": {"source": ["sweep", 3]}},
    }


def test_the_better_trials_are_trained_longer_and_a_cancelled_sweep_goes_on(server: ComfyServer):
    make_source(server, "swept")
    second = threading.Event()

    def listen(kind: str, data: dict) -> None:
        if kind == "progress_text" and "trial 2 of 4" in data["text"]:
            second.set()

    execution = server.submit(graph("swept"), listener=listen)
    deadline = time.monotonic() + 600
    while not second.wait(0.2) and time.monotonic() < deadline:
        if execution.ended:
            execution.wait()  # says what it failed by
    assert second.is_set()
    server.interrupt()
    with pytest.raises(Interrupted):
        execution.wait(300)
    result = server.queue(graph("swept"), timeout=900)
    (report,) = result.outputs["shown"]["text"]
    rows = [line for line in report.splitlines() if line.startswith(("| 2 |", "| 4 |"))]
    assert [line.split("|")[3].strip() for line in rows] == ["8", "8", "4", "4"]
    assert "0.001" in rows[0]  # a rate of 1e-8 teaches nothing
    again = server.queue(graph("swept"), timeout=300)
    assert again.outputs["shown"]["text"] == [report]


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
