"""What quickstart says was learned: only of graphs that teach the tiny FLUX that draws, in one sentence."""

import json
from pathlib import Path

import torch
from impasto.embedded.examination import Findings
from impasto.setup import learned

LOADER = {"class_type": "ImpastoTinyFluxLoader", "inputs": {"seed": 0, "weights": "pretrained"}}
CAPTIONER = {"class_type": "ImpastoMetadataCaptioner", "inputs": {"trigger_word": "impasto style"}}
[QUICKSTART] = (Path(__file__).resolve().parents[2] / "workflows").glob("01 *.json")


def findings(impressionist: list[int], right: list[int]) -> Findings:
    return Findings(torch.tensor(impressionist).bool(), torch.tensor(right).bool(), torch.zeros(len(right), 768))


def test_only_a_graph_that_teaches_the_pretrained_tiny_flux_is_judged():
    assert learned.trigger_word({"1": LOADER, "2": CAPTIONER}) == "impasto style"
    assert learned.trigger_word({"1": LOADER}) is None
    for inputs in ({"seed": 0}, {"seed": 0, "weights": "seeded"}):
        assert learned.trigger_word({"1": LOADER | {"inputs": inputs}, "2": CAPTIONER}) is None


def test_the_sentence_counts_styles_of_all_and_scenes_of_those_that_were_right_before():
    before, after = findings([0, 0, 0, 1], [1, 1, 0, 0]), findings([1, 1, 1, 0], [1, 0, 1, 1])
    assert learned.sentence(before, after) == (
        "impressionist finish: 25% of 4 samples before, 75% after; scene kept in 50%"
    )
    assert learned.sentence(findings([0], [0]), after).endswith("no scene was right before")


def test_the_shipped_graph_asks_for_scenes_as_its_captions_tell_of_them():
    nodes = {node["type"]: node["widgets_values"] for node in json.loads(QUICKSTART.read_text("utf-8"))["nodes"]}
    trigger = nodes["ImpastoMetadataCaptioner"][0]
    prompts = nodes["ImpastoPromptSet"][0].splitlines()
    assert len(prompts) == 4 and all(prompt.startswith(f"{trigger}, a") for prompt in prompts)
    assert nodes["ImpastoTinyFluxLoader"][1] == "pretrained"
